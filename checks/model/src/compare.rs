//! Compares all that is visible without a change: mappings, pages' marks, shared contents, pins.

use alloc::{
    borrow::ToOwned,
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    vec::Vec,
};
use core::sync::atomic::Ordering;

use pagemove::{
    frame::Marks,
    paging::{Entry, Flags, Format},
    space::Protection,
    units::{HUGE_ORDER, Pfn},
};

use crate::{
    call::{Backing, WORDS},
    engine::{Engine, NAMES},
    model::Model,
    space::{Mapping, Touched, address},
    world::{Process, World},
};

/// Reports a difference. With `contents_only` only contents and mappings are compared: a call that ran out of memory may
/// have brought in pages that the model doesn't know.
pub(crate) fn compare<W: World>(model: &Model, engine: &Engine<'_, W>, contents_only: bool) -> Result<(), String> {
    if model.processes.len() != engine.processes.len() || model.pins.len() != engine.pins.len() {
        return Err("the numbers of processes or pins differ".into());
    }
    if model.balloon as usize != engine.balloon.pages() {
        return Err(format!("{} pages in the balloon, {} expected", engine.balloon.pages(), model.balloon));
    }
    for process in 0..model.processes.len() {
        mappings(model, engine, process).map_err(|what| format!("process {process}: {what}"))?;
    }
    let mut seen = Seen { dirty: dirty_frames(engine), ..Seen::default() };
    for process in 0..model.processes.len() {
        pages(model, engine, process, contents_only, &mut seen).map_err(|what| format!("process {process}, {what}"))?;
    }
    pins(model, engine, &seen)
}

/// The frame in which each cell was found.
#[derive(Default)]
struct Seen {
    dirty: BTreeSet<Pfn>,
    frame_of: BTreeMap<usize, Pfn>,
    cell_of: BTreeMap<Pfn, usize>,
}

fn mappings<W: World>(model: &Model, engine: &Engine<'_, W>, process: usize) -> Result<(), String> {
    let vmas = engine.processes[process].space().vmas();
    let found = vmas.iter().map(|vma| {
        let name = vma.file_name().map(str::to_owned);
        (engine.bounds().offset_of(vma.range.start()), vma.range.pages(), vma.protection, vma.is_shared(), name)
    });
    let expected = model.processes[process].mappings.iter().map(|(&page, mapping)| {
        let name = match mapping.backing {
            Backing::Anonymous { .. } => None,
            Backing::Shared { file, .. } | Backing::Private { file, .. } => Some(NAMES[file].to_owned()),
        };
        (page, mapping.pages, mapping.rights, mapping.is_shared(), name)
    });
    let (found, expected): (Vec<_>, Vec<_>) = (found.collect(), expected.collect());
    if found == expected { Ok(()) } else { Err(format!("mappings are {found:?}, expected {expected:?}")) }
}

/// Finds the frames that are dirty by an entry, or by their own mark.
fn dirty_frames<W: World>(engine: &Engine<'_, W>) -> BTreeSet<Pfn> {
    let physical = engine.core().physical();
    let mut dirty = BTreeSet::new();
    for process in &engine.processes {
        process.space().for_each_entry(|_, entry| {
            let head = physical.get(entry.pfn()).map_or(entry.pfn(), |folio| folio.pfn());
            if entry.has(Flags::DIRTY) || physical.frame(head).state().marks().contains(Marks::DIRTY) {
                let frames = if entry.has(Flags::HUGE) { HUGE_ORDER.frames() } else { 1 };
                dirty.extend((0..frames).map(|number| entry.pfn().up(number)));
            }
        });
    }
    dirty
}

fn pages<W: World>(
    model: &Model,
    engine: &Engine<'_, W>,
    process: usize,
    contents_only: bool,
    seen: &mut Seen,
) -> Result<(), String> {
    let space = &model.processes[process];
    let mut result = Ok(());
    engine.processes[process].space().for_each_entry(|at, entry| {
        let page = engine.bounds().offset_of(at);
        let checked = match (space.find(page), space.touched.get(&page)) {
            _ if entry.is_migration() => Err("is still blocked, but nothing moves".into()),
            (None, _) => Err("is there, but nothing is mapped".into()),
            // The engine brings in whole folios, the model only used pages.
            (Some((_, mapping)), _) if mapping.has_large_folios() => rights(entry, mapping),
            (Some((_, mapping)), None) if contents_only => rights(entry, mapping),
            (Some(_), None) => Err("is there, but nobody used it".into()),
            (Some((_, mapping)), Some(touched)) => {
                let marks = if contents_only {
                    Ok(())
                } else {
                    marks::<W::Format>(entry, touched, &model.cells[touched.cell], seen)
                };
                // A call that failed half-way, for want of memory, may have copied pages.
                let may_be_copied = contents_only && !mapping.is_shared();
                let known = rights(entry, mapping).and(marks);
                if may_be_copied { known } else { known.and_then(|()| same(entry, touched.cell, seen)) }
            }
        };
        if let (Err(what), Ok(())) = (checked, &result) {
            result = Err(format!("page {page}: {what} ({:?})", entry.flags()));
        }
    });
    result?;
    for (&page, touched) in &space.touched {
        let entry = engine.processes[process].space().entry(address(engine.bounds(), page, 0));
        let Some(pfn) = engine.processes[process].space().frame(address(engine.bounds(), page, 0)) else {
            return Err(format!("page {page}: was there, and is gone"));
        };
        // A large folio is dirty as a whole, so the engine may have more dirty pages than the model, never fewer.
        let (cell, is_dirty) = (&model.cells[touched.cell], seen.dirty.contains(&pfn));
        if (touched.is_stored_to && !entry.has(Flags::SOFT_DIRTY)) || (cell.is_stored_to && !is_dirty) {
            return Err(format!("page {page}: a mark is lost ({:?}, dirty: {is_dirty})", entry.flags()));
        }
        contents(engine, pfn, &cell.words).map_err(|what| format!("page {page}: {what}"))?;
    }
    Ok(())
}

/// The entry has no right beyond the mapping's, and all those that are set at once.
fn rights(entry: Entry, mapping: &Mapping) -> Result<(), String> {
    let can = |right| mapping.rights.contains(right);
    let wrong = (entry.has(Flags::WRITE) && !can(Protection::WRITE))
        || entry.has(Flags::USER) == mapping.rights.is_empty()
        || entry.has(Flags::NO_EXECUTE) == can(Protection::EXECUTE);
    if wrong { Err(format!("rights are wrong for {:?}", mapping.rights)) } else { Ok(()) }
}

/// The marks are as expected, and a store through a writable entry would be marked.
fn marks<F: Format>(entry: Entry, touched: &Touched, cell: &crate::model::Cell, seen: &Seen) -> Result<(), String> {
    let found = (entry.has(Flags::SOFT_DIRTY), entry.has(Flags::EXCLUSIVE), seen.dirty.contains(&entry.pfn()));
    // Where a fault sets the marks, a page is dirty once a store is allowed, as to a pin for writing.
    let is_early = found.2 && !F::CPU_SETS_MARKS;
    let expected = (touched.soft_dirty, touched.exclusive, cell.dirty || is_early);
    if found != expected {
        return Err(format!("(soft-dirty, exclusive, dirty) are {found:?}, expected {expected:?}"));
    }
    if entry.has(Flags::WRITE) && !entry.has(Flags::SOFT_DIRTY) {
        return Err("the next store would not be marked".into());
    }
    Ok(())
}

/// Each cell is in one frame, and different cells are in different frames.
fn same(entry: Entry, cell: usize, seen: &mut Seen) -> Result<(), String> {
    let pfn = entry.pfn();
    let frame = *seen.frame_of.entry(cell).or_insert(pfn);
    let other = *seen.cell_of.entry(pfn).or_insert(cell);
    if frame != pfn {
        return Err(format!("is in frame {pfn}, but others that share it have frame {frame}"));
    }
    if other != cell { Err(format!("frame {pfn} is another page's as well")) } else { Ok(()) }
}

fn contents<W: World>(engine: &Engine<'_, W>, pfn: Pfn, expected: &[u64; WORDS.len()]) -> Result<(), String> {
    let folio = engine.core().physical().get(pfn).ok_or_else(|| format!("frame {pfn} is free"))?;
    let words = folio.words(pfn.offset_from(folio.pfn()));
    let found = WORDS.map(|word| words[word].load(Ordering::Acquire));
    if found == *expected { Ok(()) } else { Err(format!("frame {pfn} holds {found:x?}, expected {expected:x?}")) }
}

/// Devices see the same contents as processes.
fn pins<W: World>(model: &Model, engine: &Engine<'_, W>, seen: &Seen) -> Result<(), String> {
    for (number, (expected, pin)) in model.pins.iter().zip(&engine.pins).enumerate() {
        let told = |what| format!("pin {number}: {what}");
        contents(engine, pin.pfn(), &model.cells[expected.cell].words).map_err(told)?;
        if let Some(frame) = seen.frame_of.get(&expected.cell).filter(|&&frame| frame != pin.pfn()) {
            return Err(told(format!("is of frame {}, but the page is in frame {frame}", pin.pfn())));
        }
    }
    Ok(())
}
