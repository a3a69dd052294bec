//! What goes on beside the writers: each deed is done again and again by a thread of its own, checks what it sees, and leaves
//! nothing behind.
//!
//! Writers must never lose a right or a word: a deed may do to their pages only what a program wouldn't notice.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use pagemove::{
    compact::{Compaction, Goal, Observation, Plan, alloc_compacting},
    frame::Kind,
    migrate::{AnyFree, Batch, Mode, Mover, Options, Policy},
    space::{Map, Mappable, Orders, PageCache, Protection, Source},
    units::{HUGE_ORDER, Order, Pfn, VirtAddr, VirtRange},
    zone::Request,
};
use pagemove_drivers::{CharDevice, balloon::InflateError};
use pagemove_hosted::{ForkError, Process};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::run::{
    error::EngineError,
    host::View,
    region::{Backing, Region},
    words,
    world::World,
    writers::Shared,
};

/// A deed's name, and what it does once.
pub(super) struct Deed {
    /// As the summary prints it.
    pub(super) name: &'static str,
    /// Does it.
    pub(super) act: fn(&Stage<'_>, &mut ChaCha8Rng) -> Result<(), EngineError>,
}

/// All of them. Two move pages, beside compaction.
pub(super) const DEEDS: [Deed; 13] = [
    Deed { name: "forks", act: fork },
    Deed { name: "remaps", act: remap },
    Deed { name: "protects", act: protect },
    Deed { name: "pins", act: pin },
    Deed { name: "driver pages", act: driver_pages },
    Deed { name: "file pages", act: file_pages },
    Deed { name: "compressed pages", act: compressed },
    Deed { name: "balloon", act: balloon },
    Deed { name: "2 MiB", act: huge },
    Deed { name: "collapses", act: collapse_file },
    Deed { name: "moves by process", act: move_process },
    Deed { name: "moves of all", act: move_all },
    Deed { name: "compactions", act: compact },
];

/// What deeds work on.
pub(super) struct Stage<'w> {
    /// All there is.
    pub(super) world: &'w World<'w>,
    /// Tells when the round is over.
    pub(super) shared: &'w Shared,
    /// The next value to store: each its own.
    pub(super) next: &'w AtomicU64,
    /// 2 MiB that the kernel got.
    pub(super) huge: &'w AtomicU64,
}

const READ_WRITE: Protection = Protection::READ.union(Protection::WRITE);
/// Pages of what a deed maps for itself.
const PAGES: u32 = 12;
/// One of so many pages may have its rights changed, since that makes it a mapping of its own, and there shall not be as many
/// of them as pages in the end.
const CUT: u32 = 16;
/// Far above what the world has mapped.
const FAR: u32 = 8 << 20;

impl Stage<'_> {
    fn process(&self, rng: &mut ChaCha8Rng) -> &Process {
        &self.world.host.processes[rng.random_range(0..self.world.host.processes.len())]
    }

    fn value(&self) -> u64 {
        // Relaxed: it only has to be unique. Never 0.
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Finds a page that is there, in a region of which `which` holds, and its first view.
    fn page(&self, rng: &mut ChaCha8Rng, which: fn(&Region) -> bool) -> Option<(&Region, View, u32)> {
        let regions = &self.world.regions;
        for _ in 0..64 {
            let region = &regions[rng.random_range(0..regions.len())];
            let page = rng.random_range(0..region.live.len());
            if let Some(view) = region.views.first().filter(|_| which(region) && region.live[page]) {
                return Some((region, *view, page as u32));
            }
        }
        None
    }

    fn map<'p>(&self, process: &'p Process, pages: u32, source: Source) -> Result<Mapped<'p>, EngineError> {
        let range = process.space().mmap(&Map { at: None, pages, protection: READ_WRITE, source })?;
        Ok(Mapped { process, range, mapped: true })
    }

    /// Stores a value of its own to each page of a range; gives them.
    fn fill(&self, process: &Process, range: VirtRange) -> Result<Vec<u64>, EngineError> {
        let fill = |page| {
            let value = self.value();
            process.store(page, value)?;
            Ok(value)
        };
        range.iter().map(fill).collect()
    }
}

/// What a deed mapped for itself: unmapped when it's dropped, so that nothing is left where the deed ends early.
struct Mapped<'p> {
    process: &'p Process,
    range: VirtRange,
    mapped: bool,
}

impl Mapped<'_> {
    /// Moves it or makes it shorter, as `mremap` does.
    fn remap(&mut self, pages: u32, to: Option<VirtAddr>) -> Result<(), EngineError> {
        self.range = self.process.space().mremap(self.range, pages, to)?;
        Ok(())
    }

    /// Unmaps the first pages. Others may map something there from now on, so the rest alone is this one's.
    fn cut(&mut self, pages: u32) -> Result<(), EngineError> {
        let rest = part(self.range, pages, self.range.pages() - pages)?;
        self.process.space().munmap(part(self.range, 0, pages)?)?;
        self.range = rest;
        Ok(())
    }

    /// Unmaps it all.
    fn unmap(mut self) -> Result<(), EngineError> {
        self.process.space().munmap(self.range)?;
        self.mapped = false;
        Ok(())
    }
}

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        if self.mapped {
            // The deed has failed already; what stays mapped is found when all stand still.
            let _ = self.process.space().munmap(self.range);
        }
    }
}

fn differs(what: &str, found: u64, expected: u64) -> Result<(), EngineError> {
    if found == expected {
        return Ok(());
    }
    Err(EngineError::Lost(format!("{what}: found {found:#x}, expected {expected:#x}")))
}

/// Compares the first pages of a range, each with its own value.
fn holds(what: &str, process: &Process, range: VirtRange, values: &[u64]) -> Result<(), EngineError> {
    range.iter().zip(values).try_for_each(|(page, &value)| differs(what, process.load(page)?, value))
}

fn part(range: VirtRange, first: u32, pages: u32) -> Result<VirtRange, EngineError> {
    let part = VirtRange::new(range.start().up(first), pages).filter(|&part| range.covers(part));
    part.ok_or_else(|| EngineError::Lost("a part outside its range".into()))
}

fn child_of(process: &Process) -> Result<Process, EngineError> {
    match process.fork() {
        Ok(child) => Ok(child),
        Err(ForkError::Space(error)) => Err(error.into()),
        Err(ForkError::Host(error)) => Err(EngineError::Lost(error.to_string())),
    }
}

/// Reads a compressed page and writes it anew, as it was; now and then moves objects together.
fn compressed(stage: &Stage<'_>, rng: &mut ChaCha8Rng) -> Result<(), EngineError> {
    let (regions, store, tags) = (&stage.world.regions, &stage.world.compressed, stage.world.host.words);
    let from_any = regions.iter().cycle().skip(rng.random_range(0..regions.len())).take(regions.len());
    let is_compressed = |region: &&Region| matches!(region.backing, Backing::Compressed(..));
    for page in from_any.filter(is_compressed).take(1).flat_map(|region| region.compressed(tags)) {
        differs("a compressed page", store.word(page.slot, page.tag)?, words::word(page.tag, words::FIRST))?;
        store.write(page.slot, page.tag)?;
    }
    if rng.random_bool(0.1) {
        store.compact(8);
    }
    Ok(())
}

/// Gives some pages to the host, and takes as many back; or tells it of free blocks.
fn balloon(stage: &Stage<'_>, rng: &mut ChaCha8Rng) -> Result<(), EngineError> {
    if rng.random_bool(0.1) {
        stage.world.balloon.report_free(HUGE_ORDER).map_err(InflateError::from)?;
    }
    let pages = rng.random_range(1..200);
    stage.world.balloon.inflate(pages)?;
    let back = stage.world.balloon.deflate(pages);
    differs("pages that came back from the balloon", back.into(), pages.into())
}

/// Forks a process under its writers' hands: what the child sees stays, and what it stores is its own.
fn fork(stage: &Stage<'_>, rng: &mut ChaCha8Rng) -> Result<(), EngineError> {
    let Some((region, view, page)) = stage.page(rng, |region| matches!(region.backing, Backing::Anonymous)) else {
        return Ok(());
    };
    let tag = stage.world.host.words.tag(region.number, page);
    let at = view.word(page, words::place(tag))?;
    let other = view.word(page, (words::place(tag) + 1) % 512)?;
    let child = child_of(&stage.world.host.processes[view.process])?;
    let seen = child.load(at)?;
    differs("a child's page has another's word", seen >> 32, u64::from(tag))?;
    let value = stage.value();
    child.store(other, value)?;
    let grandchild = child_of(&child)?;
    differs("a child's word changed", child.load(at)?, seen)?;
    child.store(other, 0)?;
    drop(child);
    differs("a grandchild's word changed", grandchild.load(at)?, seen)?;
    differs("a grandchild lost its parent's store", grandchild.load(other)?, value)
}

/// Moves mappings about, makes them longer and shorter; contents go along.
fn remap(stage: &Stage<'_>, rng: &mut ChaCha8Rng) -> Result<(), EngineError> {
    let process = stage.process(rng);
    let orders = orders(rng);
    let device = CharDevice::new(&stage.world.host.engine, "remapped").open_with(PAGES, orders);
    for source in [Source::Anonymous { orders }, Source::Shared { file: device, first: 0 }] {
        let mut mapped = stage.map(process, PAGES, source)?;
        let values = stage.fill(process, mapped.range)?;
        for _ in 0..4 {
            // Places of this thread's own: no other deed goes there.
            let to = process.space().bounds().start().up(FAR + 1024 * rng.random_range(0..64));
            if to != mapped.range.start() {
                mapped.remap(PAGES, Some(to))?;
            }
            holds("a page lost its contents on the way to another address", process, mapped.range, &values)?;
        }
        mapped.remap(PAGES / 2, None)?;
        holds("a page lost its contents when its mapping shrank", process, mapped.range, &values)?;
        mapped.unmap()?;
    }
    Ok(())
}

/// Gives and takes rights: that to fetch instructions on pages that are written, all of them on its own.
fn protect(stage: &Stage<'_>, rng: &mut ChaCha8Rng) -> Result<(), EngineError> {
    if let Some((_, view, page)) = stage.page(rng, |_| true)
        && page.is_multiple_of(CUT)
        && let Some(range) = VirtRange::new(view.start.up(page), 1)
    {
        let space = stage.world.host.processes[view.process].space();
        let rights = if view.writable { READ_WRITE } else { Protection::READ };
        space.mprotect(range, rights | Protection::EXECUTE)?;
        space.mprotect(range, rights)?;
        if rng.random_bool(0.05) {
            space.clear_soft_dirty();
        }
    }
    let process = stage.process(rng);
    let mapped = stage.map(process, PAGES, Source::Anonymous { orders: orders(rng) })?;
    let range = mapped.range;
    let mut values = stage.fill(process, range)?;
    process.space().mprotect(part(range, 2, 4)?, Protection::empty())?;
    process.space().mprotect(range, Protection::READ)?;
    holds("a page lost its contents with its rights", process, range, &values)?;
    process.space().mprotect(range, READ_WRITE)?;
    values[0] = stage.value();
    process.store(range.start(), values[0])?;
    holds("a page lost a store after it got its rights back", process, range, &values)?;
    mapped.unmap()
}

/// A device pins a page that is written, and writes into it as well: it stays, and both see the same.
fn pin(stage: &Stage<'_>, rng: &mut ChaCha8Rng) -> Result<(), EngineError> {
    let Some((region, view, page)) = stage.page(rng, |_| true).filter(|(_, view, _)| view.writable) else {
        return Ok(());
    };
    let process = &stage.world.host.processes[view.process];
    let Some(range) = VirtRange::new(view.start.up(page), 1) else { return Ok(()) };
    // Away from the writers' word, and from a child's.
    let place = (words::place(stage.world.host.words.tag(region.number, page)) + 2) % 512;
    let at = view.word(page, place)?;
    let pins = process.space().pin(range, true, "soak")?;
    for pin in &pins {
        for _ in 0..8 {
            let (devices, processes) = (stage.value(), stage.value());
            pin.words(0)[place].store(devices, Ordering::Release);
            differs("a process doesn't see what a device wrote", process.load(at)?, devices)?;
            process.store(at, processes)?;
            let found = pin.words(0)[place].load(Ordering::Acquire);
            differs("a device doesn't see what a process wrote", found, processes)?;
            let now = process.space().entry(range.start()).pfn();
            if now != pin.pfn() {
                return Err(EngineError::Lost(format!("a pinned page went from frame {} to {now}", pin.pfn())));
            }
        }
    }
    Ok(())
}

/// Driver pages, mapped in two processes, written by all, freed by the driver, and unmapped.
fn driver_pages(stage: &Stage<'_>, rng: &mut ChaCha8Rng) -> Result<(), EngineError> {
    let device = CharDevice::new(&stage.world.host.engine, "churned").open_with(PAGES, orders(rng));
    owned_pages(stage, rng, device.clone(), |page| {
        device.free(page);
    })
}

/// The same with page cache.
fn file_pages(stage: &Stage<'_>, rng: &mut ChaCha8Rng) -> Result<(), EngineError> {
    let file = PageCache::new(&stage.world.host.engine, "churned", PAGES);
    file.index().set_orders(orders(rng), PAGES);
    owned_pages(stage, rng, file.clone(), |page| {
        // What is dirty or mapped must stay; all of it is one or the other.
        file.index().drop_clean(0..PAGES);
        file.index().truncate(page..page + 1);
    })
}

fn owned_pages(
    stage: &Stage<'_>,
    rng: &mut ChaCha8Rng,
    file: Arc<dyn Mappable>,
    free: impl Fn(u32),
) -> Result<(), EngineError> {
    let (one, two) = (stage.process(rng), stage.process(rng));
    let source = || Source::Shared { file: file.clone(), first: 0 };
    let (at, mut seen) = (stage.map(one, PAGES, source())?, stage.map(two, PAGES, source())?);
    let mut values = [0; PAGES as usize];
    for _ in 0..32 {
        let page = rng.random_range(0..PAGES);
        let (value, written, read) = (stage.value(), at.range.start().up(page), seen.range.start().up(page));
        one.store(written, value)?;
        differs("a shared page isn't shared", two.load(read)?, value)?;
        values[page as usize] = value;
        if rng.random_bool(0.2) {
            free(page);
            differs("a page that was freed is still seen", two.load(read)?, 0)?;
            differs("a page that was freed is still seen", one.load(written)?, 0)?;
            values[page as usize] = 0;
        }
    }
    holds("a shared page lost its contents", one, at.range, &values)?;
    holds("a shared page lost its contents in another process", two, seen.range, &values)?;
    seen.cut(PAGES / 2)?;
    holds("a shared page lost its contents with its neighbours", two, seen.range, &values[PAGES as usize / 2..])?;
    seen.unmap()?;
    at.unmap()
}

/// 2 MiB for a process, cut up at times; and 2 MiB for the kernel, for which memory is compacted.
fn huge(stage: &Stage<'_>, rng: &mut ChaCha8Rng) -> Result<(), EngineError> {
    let process = stage.process(rng);
    let source = Source::Anonymous { orders: orders(rng).with(HUGE_ORDER) };
    let mut mapped = stage.map(process, HUGE_ORDER.frames(), source)?;
    let value = stage.value();
    let page = mapped.range.start().up(rng.random_range(1..HUGE_ORDER.frames()));
    process.store(page, value)?;
    if rng.random_bool(0.3) {
        mapped.cut(1)?;
    } else if rng.random_bool(0.3) {
        // Small pages for the child's stores; then one large page again, if memory allows.
        let child = child_of(process)?;
        process.store(page, value)?;
        drop(child);
        let _ = process.space().collapse(mapped.range);
    }
    let engine = &stage.world.host.engine;
    let options = Options::new(Mode::SyncLight);
    if let Ok(block) = alloc_compacting(engine, &Request::new(HUGE_ORDER, Kind::Kernel), options) {
        let words = |page: u32| &block.words(page)[7];
        let values: Vec<u64> = (0..HUGE_ORDER.frames()).map(|_| stage.value()).collect();
        (0..).zip(&values).for_each(|(page, &value)| words(page).store(value, Ordering::Release));
        differs("a 2 MiB page lost a store", process.load(page)?, value)?;
        for (page, &value) in (0..).zip(&values) {
            differs("somebody stored to the kernel's frames", words(page).load(Ordering::Acquire), value)?;
        }
        drop(block);
        stage.huge.fetch_add(1, Ordering::Relaxed);
    }
    differs("a 2 MiB page lost a store", process.load(page)?, value)?;
    mapped.unmap()
}

/// 2 MiB of a file in two processes, which become one folio between stores, and maybe small ones again.
fn collapse_file(stage: &Stage<'_>, rng: &mut ChaCha8Rng) -> Result<(), EngineError> {
    let pages = HUGE_ORDER.frames();
    let file = PageCache::new(&stage.world.host.engine, "collapsed", pages);
    let (one, two) = (stage.process(rng), stage.process(rng));
    let source = || Source::Shared { file: file.clone(), first: 0 };
    let (at, seen) = (stage.map(one, pages, source())?, stage.map(two, pages, source())?);
    let mut values = vec![0; pages as usize];
    for _ in 0..4 {
        for _ in 0..32 {
            let (page, value) = (rng.random_range(0..pages), stage.value());
            let (process, range) = if rng.random_bool(0.5) { (one, at.range) } else { (two, seen.range) };
            process.store(range.start().up(page), value)?;
            values[page as usize] = value;
        }
        // Held pages and a lack of memory are no faults: movers are at work.
        let (process, range) = if rng.random_bool(0.5) { (one, at.range) } else { (two, seen.range) };
        let _ = process.space().collapse(range);
        if rng.random_bool(0.3) {
            let first = rng.random_range(1..pages);
            file.index().truncate(first..pages);
            values[first as usize..].fill(0);
        }
        holds("a file lost a store when its pages became one", one, at.range, &values)?;
        holds("a file lost a store when its pages became one", two, seen.range, &values)?;
    }
    seen.unmap()?;
    at.unmap()
}

/// Base pages, small folios, or all that fit.
fn orders(rng: &mut ChaCha8Rng) -> Orders {
    let small = Order::new(2).map_or(Orders::BASE, Orders::up_to);
    [Orders::BASE, small, Orders::up_to(HUGE_ORDER)][rng.random_range(0..3)]
}

fn options(rng: &mut ChaCha8Rng) -> Options {
    let mode = [Mode::Async, Mode::SyncLight, Mode::Sync][rng.random_range(0..3)];
    let batch = [Batch::Folios(1), Batch::Folios(7), Batch::Folios(32), Batch::Micros(50)][rng.random_range(0..4)];
    Options { batch, ..Options::new(mode) }
}

fn migrate(stage: &Stage<'_>, pages: &[Pfn], options: Options) {
    let engine = &stage.world.host.engine;
    let mut destination = AnyFree::new(engine.physical(), 32);
    let mut mover = Mover::new(engine);
    for some in pages.chunks(256) {
        if stage.shared.is_over() {
            break;
        }
        mover.migrate(some, &mut destination, options);
    }
}

/// Moves all pages of a process.
fn move_process(stage: &Stage<'_>, rng: &mut ChaCha8Rng) -> Result<(), EngineError> {
    let mut pages: Vec<Pfn> = Vec::new();
    stage.process(rng).space().for_each_entry(|_: VirtAddr, entry| {
        if entry.is_present() {
            pages.push(entry.pfn());
        }
    });
    migrate(stage, &pages, options(rng));
    Ok(())
}

/// Moves everything that is movable in a range of blocks, mapped or not.
fn move_all(stage: &Stage<'_>, rng: &mut ChaCha8Rng) -> Result<(), EngineError> {
    let physical = stage.world.host.engine.physical();
    let block = rng.random_range(0..physical.blocks().count());
    let movable = |&pfn: &Pfn| physical.frame(pfn).state().kind().is_movable();
    let pages: Vec<Pfn> = physical.blocks().range(block).iter().filter(movable).collect();
    migrate(stage, &pages, options(rng));
    Ok(())
}

/// Compacts a zone.
fn compact(stage: &Stage<'_>, rng: &mut ChaCha8Rng) -> Result<(), EngineError> {
    let engine = &stage.world.host.engine;
    for zone in engine.physical().zones() {
        let goal = Goal::Blocks(rng.random_range(1..8));
        let plan = Plan::new(&Observation::of(engine.physical(), zone, Policy::Any), goal);
        Compaction::new(engine, &plan, options(rng)).take_while(|_| !stage.shared.is_over()).for_each(drop);
    }
    Ok(())
}
