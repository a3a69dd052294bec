//! Rebuilds a layout in an engine, frame by frame: each frame that is in use in the layout is in use here, at the same
//! place and of the same kind.
//!
//! | in the layout | here |
//! | --- | --- |
//! | reserved, absent | reserved |
//! | slab, page table, kernel | a frame of that kind, which nobody frees |
//! | file | page cache, a part of it mapped |
//! | anonymous | page cache, most of it mapped: as shared memory, which Linux keeps on the same LRU lists; the engine can't be told which frame a process's own page gets |
//! | balloon | the balloon's |
//! | driver, mapped or not | a device file's, mapped by two processes or by none |

use std::{iter, mem, sync::Arc};

use pagemove::{
    folio::FrozenFolio,
    frame::Kind,
    space::{Mappable, PageCache, Source},
    units::Pfn,
};
use pagemove_hosted::FIRST_FRAME;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{
    error::{EngineError, RunError},
    region::{Backing, Region},
    world::World,
};
use crate::{
    cancel::Stop,
    layout::{FrameClass, Layout},
};

/// Pages of a file that the rebuilding makes.
const FILE_PAGES: u32 = 256;
/// Pages of a device file.
const DEVICE_PAGES: u32 = 64;

/// What frames of a class are collected into.
#[derive(Default)]
struct Collected<'e> {
    file: Vec<FrozenFolio<'e>>,
    anonymous: Vec<FrozenFolio<'e>>,
    mapped: Vec<FrozenFolio<'e>>,
    unmapped: Vec<FrozenFolio<'e>>,
}

/// Places every frame of the layout, whose frame numbers run from 0 without holes; starts the processes.
pub(crate) fn rebuild(
    world: &mut World<'_>,
    layout: &Layout,
    rng: &mut ChaCha8Rng,
    stop: &Stop,
    seed: u64,
) -> Result<(), RunError> {
    // First all frames, then whatever allocates by itself: files keep their indices outside RAM, processes have tables.
    let mut collected = Collected::default();
    let mut at = 0;
    for run in layout.runs() {
        stop.check()?;
        for frame in at..at + run.frames {
            place(world, FIRST_FRAME.up(frame as u32), run.class, &mut collected)
                .map_err(|error| error.with_seed(seed))?;
        }
        at += run.frames;
    }
    world.host.engine.physical().drain_cpu_lists();
    let free = world.host.engine.physical().free_frames();
    if free < LEAST_FREE {
        return Err(RunError::NoRoom { free, frames: at as u32 });
    }
    world.start_processes()?;
    let Collected { file, anonymous, mapped, unmapped } = collected;
    // A process maps most of what is its own, and little of what was read once.
    for (frames, share) in [(file, 0.3), (anonymous, 0.9)] {
        for part in parts(frames, FILE_PAGES) {
            stop.check()?;
            let views = if rng.random_bool(share) { 1 } else { 0 };
            cache(world, part, views, rng).map_err(|error| error.with_seed(seed))?;
        }
    }
    for (frames, views) in [(mapped, 2), (unmapped, 0)] {
        for part in parts(frames, DEVICE_PAGES) {
            stop.check()?;
            device(world, part, views, rng).map_err(|error| error.with_seed(seed))?;
        }
    }
    Ok(())
}

/// Free frames without which no process can start: tables, and a page or two.
const LEAST_FREE: u32 = 1024;

/// Cuts a list into parts of so many frames.
fn parts(mut frames: Vec<FrozenFolio<'_>>, each: u32) -> impl Iterator<Item = Vec<FrozenFolio<'_>>> {
    iter::from_fn(move || {
        let rest = frames.split_off(frames.len().min(each as usize));
        Some(mem::replace(&mut frames, rest)).filter(|part| !part.is_empty())
    })
}

fn place<'e>(
    world: &mut World<'e>,
    pfn: Pfn,
    class: FrameClass,
    collected: &mut Collected<'e>,
) -> Result<(), EngineError> {
    let kind = match class {
        FrameClass::Free => return Ok(()),
        FrameClass::Reserved | FrameClass::Absent => Kind::Reserved,
        FrameClass::Slab => Kind::Slab,
        FrameClass::PageTable => Kind::PageTable,
        FrameClass::Kernel | FrameClass::Hugetlb => Kind::Kernel,
        FrameClass::File | FrameClass::Anon => Kind::File,
        FrameClass::Balloon | FrameClass::DriverMapped | FrameClass::DriverUnmapped => Kind::Driver,
    };
    let lost = || EngineError::Lost(format!("frame {pfn} of the layout can't be placed"));
    let page = world.engine.physical().alloc_exactly(pfn, kind).ok_or_else(lost)?;
    match class {
        FrameClass::File => collected.file.push(page),
        FrameClass::Anon => collected.anonymous.push(page),
        FrameClass::DriverMapped => collected.mapped.push(page),
        FrameClass::DriverUnmapped => collected.unmapped.push(page),
        FrameClass::Balloon => return if world.balloon.adopt(page) { Ok(()) } else { Err(lost()) },
        _ => world.kernel.push(page),
    }
    Ok(())
}

fn cache(
    world: &mut World<'_>,
    frames: Vec<FrozenFolio<'_>>,
    views: usize,
    rng: &mut ChaCha8Rng,
) -> Result<(), EngineError> {
    let pages = frames.len() as u32;
    let file = PageCache::new(&world.host.engine, "file", pages);
    for (page, folio) in (0..).zip(frames) {
        if let Err(folio) = file.index().insert(page, folio) {
            let pfn = folio.pfn();
            return Err(EngineError::Lost(format!("frame {pfn} of the layout has no place in its file")));
        }
    }
    region(world, Backing::Cache(file.clone()), file, pages, views, rng)
}

fn device(
    world: &mut World<'_>,
    frames: Vec<FrozenFolio<'_>>,
    views: usize,
    rng: &mut ChaCha8Rng,
) -> Result<(), EngineError> {
    let pages = frames.len() as u32;
    let devices = if views > 0 { &world.mapped } else { &world.unmapped };
    let file = devices[rng.random_range(0..devices.len())].open(pages);
    for (page, folio) in (0..).zip(frames) {
        let pfn = folio.pfn();
        if !file.adopt(page, folio) {
            return Err(EngineError::Lost(format!("frame {pfn} of the layout has no place in its device")));
        }
    }
    region(world, Backing::Device(file.clone()), file, pages, views, rng)
}

/// Maps a file as often as asked for, and writes its pages' words.
fn region(
    world: &mut World<'_>,
    backing: Backing,
    file: Arc<dyn Mappable>,
    pages: u32,
    views: usize,
    rng: &mut ChaCha8Rng,
) -> Result<(), EngineError> {
    let mut mapped = Vec::with_capacity(views);
    for view in 0..views {
        let process = rng.random_range(0..world.host.processes.len());
        let source = Source::Shared { file: file.clone(), first: 0 };
        mapped.push(world.host.map(process, pages, view == 0, source)?);
    }
    let number = world.add(|number| Region::new(number, backing, mapped, pages));
    let World { regions, host, .. } = world;
    (0..pages).try_for_each(|page| regions[number].populate(host, page))
}
