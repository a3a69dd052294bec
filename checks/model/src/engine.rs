//! The engine of a [`World`]: makes calls, and gives their answers.

use alloc::{
    boxed::Box,
    collections::BTreeMap,
    format,
    string::{String, ToString},
    sync::Arc,
    vec,
    vec::Vec,
};
use core::sync::atomic::{AtomicU64, Ordering};

use pagemove::{
    Engine as Core,
    compact::{Goal, alloc_compacting, compact},
    folio::{FolioRef, FrozenFolio, PinnedPage},
    frame::Kind,
    migrate::{AnyFree, Mover, Options},
    paging::Entry,
    report::{Counter, Reason},
    space::{Access, Map, Mappable, PageCache, Source, SpaceError},
    units::{FrameRange, HUGE_ORDER, Order, Pfn, VirtAddr, VirtRange},
    zone::Request,
};
use pagemove_drivers::{
    Balloon, CharDevice, DeviceFile,
    balloon::{BalloonHost, BalloonPages, HostRefused},
};

use crate::{
    call::{Address, Answer, Backing, Call, Pages, WORDS, answer},
    model::{FILE_PAGES, MOODY, stored},
    moody::Moody,
    sabotage::Sabotage,
    space::address,
    store::{self, Store},
    world::{Failed, Process, World},
};

/// A file of either kind.
enum File {
    Cache(Arc<PageCache>),
    Device(Arc<DeviceFile>),
    Moody(Arc<Moody>),
}

/// A folio that the kernel has allocated.
enum Folio<'b> {
    Frozen(FrozenFolio<'b>),
    Counted(FolioRef<'b>),
}

/// An allocated folio, filled so that a stray store shows.
struct Taken<'b> {
    folio: Folio<'b>,
    fill: u64,
}

/// Everything on the machine. Fields are dropped in order: users of the engine before it.
pub(crate) struct Engine<'b, W: World> {
    pub(crate) pins: Vec<PinnedPage>,
    pub(crate) processes: Vec<W::Process>,
    files: Vec<File>,
    pub(crate) balloon: Balloon,
    zram: Store,
    taken: Vec<Taken<'b>>,
    sabotage: Option<Sabotage>,
    free: u32,
    bounds: VirtRange,
    core: &'b Arc<Core>,
    world: &'b W,
}

fn to_text(error: impl core::fmt::Display) -> String {
    error.to_string()
}

impl<'b, W: World> Engine<'b, W> {
    /// Starts a process on a machine without one. Each move applies `sabotage`.
    pub(crate) fn new(world: &'b W, sabotage: Option<Sabotage>) -> Result<Self, String> {
        let core = world.engine();
        core.physical().drain_cpu_lists();
        let free = core.physical().free_frames();
        let read = |page, words: &[AtomicU64; 512]| {
            WORDS.iter().for_each(|&word| words[word].store(stored(page, word), Ordering::Release));
        };
        let files = vec![
            File::Cache(PageCache::new(core, NAMES[0], FILE_PAGES)),
            File::Cache(PageCache::with_store(core, NAMES[1], FILE_PAGES, Some(Box::new(read)))),
            File::Device(CharDevice::new(core, NAMES[2]).open(FILE_PAGES)),
            File::Moody(Moody::open(core, FILE_PAGES)),
        ];
        let process = world.start().map_err(|_| "no memory for the first process")?;
        Ok(Self {
            bounds: process.space().bounds(),
            pins: Vec::new(),
            processes: vec![process],
            files,
            balloon: Balloon::with_host(core, Arc::new(Host)),
            zram: Store::new(core)?,
            taken: Vec::new(),
            sabotage,
            free,
            core,
            world,
        })
    }

    /// Gives the core.
    pub(crate) fn core(&self) -> &'b Arc<Core> {
        self.core
    }

    /// Gives the bounds of all processes' mappings.
    pub(crate) fn bounds(&self) -> VirtRange {
        self.bounds
    }

    /// Gives the number of pages moved so far.
    pub(crate) fn moved(&self) -> u64 {
        self.core.physical().counters().get(Counter::PgmigrateSuccess)
    }

    /// Makes a call. An error is wrong whatever the model expects.
    pub(crate) fn apply(&mut self, call: &Call) -> Result<Answer, String> {
        Ok(match *call {
            Call::Load { at, cpu } => answer(self.processes[at.process].load(cpu, self.address(at)).map(Answer::Word)),
            Call::Store { at, cpu, value } => {
                answer(self.processes[at.process].store(cpu, self.address(at), value).map(|()| Answer::Done))
            }
            Call::Fetch { at } => {
                let space = self.processes[at.process].space();
                answer(space.fault(self.address(at), Access::Execute).map(|()| Answer::Done))
            }
            Call::Map { process, at, pages, rights, backing } => {
                let at = at.map(|page| self.place(page));
                let map = Map { at, pages, protection: rights, source: self.source(backing) };
                self.mapped(self.processes[process].space().mmap(&map))
            }
            Call::Unmap(range) => {
                let outcome = self.processes[range.process].space().munmap(self.range(range)?);
                answer(outcome.map(|()| Answer::Done))
            }
            Call::Protect { range, rights } => {
                let outcome = self.processes[range.process].space().mprotect(self.range(range)?, rights);
                answer(outcome.map(|()| Answer::Done))
            }
            Call::Remap { range, pages, to } => {
                let to = to.map(|page| self.place(page));
                self.mapped(self.processes[range.process].space().mremap(self.range(range)?, pages, to))
            }
            Call::Collapse(range) => {
                // Whether it succeeds depends on frames and references, of which the model knows nothing.
                let _ = self.processes[range.process].space().collapse(self.range(range)?);
                Answer::Done
            }
            Call::ClearSoftDirty { process } => {
                self.processes[process].space().clear_soft_dirty();
                Answer::Done
            }
            Call::Start => match self.world.start() {
                Ok(process) => {
                    self.processes.push(process);
                    Answer::Done
                }
                // There is no other reason.
                Err(_) => Answer::OutOfMemory,
            },
            Call::Fork { process } => match self.processes[process].fork() {
                Ok(child) => {
                    self.processes.push(child);
                    Answer::Done
                }
                Err(Failed::Space(error)) => error.into(),
                Err(Failed::Other(error)) => return Err(error),
            },
            Call::Exit { process } => {
                drop(self.processes.remove(process));
                Answer::Done
            }
            Call::Pin { range, write } => {
                let pins = self.processes[range.process].space().pin(self.range(range)?, write, "device");
                answer(pins.map(|pins| {
                    self.pins.extend(pins);
                    Answer::Done
                }))
            }
            Call::Unpin { pin } => {
                drop(self.pins.remove(pin));
                Answer::Done
            }
            Call::PinStore { pin, word, value } => {
                self.pins[pin].words(0)[WORDS[word]].store(value, Ordering::Release);
                Answer::Done
            }
            Call::FileLoad { file, page, word } => {
                let file = self.files[file].mappable();
                answer(
                    file.lock_page(page).map(|page| Answer::Word(page.words(0)[WORDS[word]].load(Ordering::Acquire))),
                )
            }
            Call::FileStore { file, page, word, value } => {
                answer(self.files[file].mappable().lock_page(page).map(|page| {
                    page.words(0)[WORDS[word]].store(value, Ordering::Release);
                    page.mark_dirty();
                    Answer::Done
                }))
            }
            Call::Truncate { file, page, pages } => {
                match &self.files[file] {
                    File::Cache(cache) => cache.index().truncate(page..page + pages),
                    File::Device(device) => (page..page + pages).for_each(|page| {
                        device.free(page);
                    }),
                    File::Moody(moody) => moody.index().truncate(page..page + pages),
                }
                Answer::Done
            }
            Call::DropClean { file } => match &self.files[file] {
                File::Cache(cache) => Answer::Count(cache.index().drop_clean(0..FILE_PAGES)),
                File::Device(_) | File::Moody(_) => return Err("only a file's pages can be clean".into()),
            },
            Call::Mood(mood) => {
                if let File::Moody(moody) = &self.files[MOODY] {
                    moody.set(mood);
                }
                Answer::Done
            }
            Call::Move { process, ref pages, options } => self.move_pages(process, pages, options)?,
            Call::MoveAll(options) => {
                let state = |pfn| self.core.physical().frame(pfn).state();
                let zones = self.core.physical().zones().flat_map(|zone| zone.iter().collect::<Vec<_>>());
                let all: Vec<Pfn> = zones.filter(|&pfn| state(pfn).is_movable()).collect();
                self.moving(|engine| drop(engine.migrate(&all, options)))?;
                Answer::Done
            }
            Call::Compact(options) => {
                let zones: Vec<FrameRange> = self.core.physical().zones().collect();
                self.moving(|engine| {
                    zones.into_iter().for_each(|zone| drop(compact(engine.core, zone, Goal::All, options)))
                })?;
                Answer::Done
            }
            Call::Take { order, frozen } => {
                let folio = self.core.physical().alloc(order, Kind::Kernel).ok();
                self.take(folio, frozen)
            }
            Call::TakeHuge(options) => {
                let request = Request::new(HUGE_ORDER, Kind::Kernel);
                let taken = self.moving(|engine| alloc_compacting(engine.core, &request, options).ok())?;
                self.take(taken, false)
            }
            Call::Give { taken } => self.give(taken)?,
            Call::Inflate { pages } => self.balloon.inflate(pages).map_or(Answer::OutOfMemory, |()| Answer::Done),
            Call::Deflate { pages } => Answer::Count(self.balloon.deflate(pages)),
            Call::Drain => {
                self.core.physical().drain_cpu_lists();
                Answer::Done
            }
            Call::ZramWrite { page, pages, value } => self.zram.write(page, pages, value)?,
            Call::ZramRead { page } => self.zram.read(page)?,
            Call::ZramDiscard { page, pages } => {
                self.zram.discard(page, pages);
                Answer::Done
            }
            Call::ZramCompact { pages } => {
                self.zram.compact(pages);
                Answer::Done
            }
            Call::Report { order } => self.report(order)?,
        })
    }

    /// Reports free blocks; each once.
    fn report(&self, order: Order) -> Result<Answer, String> {
        let physical = self.core.physical();
        let before = u64::from(physical.reported_frames());
        let reported = self.balloon.report_free(order).map_err(|_| "a reported block is in use")?;
        let after = u64::from(physical.reported_frames());
        let again = self.balloon.report_free(order).map_err(to_text)?;
        if before + reported == after && again == 0 {
            Ok(Answer::Done)
        } else {
            Err(format!("{reported} frames were reported, then {again}; {after} count as reported, of {before} before"))
        }
    }

    fn place(&self, page: u32) -> VirtAddr {
        address(self.bounds, page, 0)
    }

    fn address(&self, at: Address) -> VirtAddr {
        address(self.bounds, at.page, WORDS[at.word])
    }

    fn range(&self, range: Pages) -> Result<VirtRange, String> {
        VirtRange::new(self.place(range.page), range.pages).ok_or("a range without pages".into())
    }

    fn mapped(&self, outcome: Result<VirtRange, SpaceError>) -> Answer {
        let page = |range: VirtRange| self.bounds.offset_of(range.start());
        answer(outcome.map(|range| Answer::Mapped { page: page(range), pages: range.pages() }))
    }

    fn source(&self, backing: Backing) -> Source {
        match backing {
            Backing::Anonymous { orders } => Source::Anonymous { orders },
            Backing::Shared { file, first } => Source::Shared { file: self.files[file].mappable(), first },
            Backing::Private { file, first } => Source::Private { file: self.files[file].mappable(), first },
        }
    }

    fn migrate(&self, pfns: &[Pfn], options: Options) -> Vec<(Pfn, Reason)> {
        let mut destination = AnyFree::new(self.core.physical(), pfns.len().clamp(1, Options::MOST));
        Mover::new(self.core).migrate(pfns, &mut destination, options).stayed
    }

    /// Moves pages of a process; gives those that stayed, and why.
    fn move_pages(&mut self, process: usize, pages: &[u32], options: Options) -> Result<Answer, String> {
        let mut frames = BTreeMap::new();
        for &page in pages {
            let Some(pfn) = self.processes[process].space().frame(self.place(page)) else {
                return Err(format!("page {page} of process {process} was there, and is gone"));
            };
            frames.insert(page, pfn);
        }
        // Each frame once: the second of two pages that share one would find it moving.
        let mut pfns: Vec<Pfn> = frames.values().copied().collect();
        pfns.sort();
        pfns.dedup();
        let stayed: BTreeMap<Pfn, Reason> =
            self.moving(|engine| engine.migrate(&pfns, options).into_iter().collect())?;
        // A folio stays whole, and the model knows of no folios: only the page that is pinned is told.
        let is_told = |pfn: Pfn, reason| reason != Reason::Pinned || !self.core.physical().pins().of(pfn).is_empty();
        let told = frames.into_iter().filter_map(|(page, pfn)| {
            let reason = *stayed.get(&pfn)?;
            is_told(pfn, reason).then_some((page, reason))
        });
        Ok(Answer::Stayed(told.collect()))
    }

    /// Calls `f`, which moves pages. Entries may change only their frame; none may be added or removed.
    fn moving<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> Result<R, String> {
        let before = self.entries();
        self.world.skip_flushes(self.sabotage == Some(Sabotage::SkipFlushes));
        let result = f(self);
        self.world.skip_flushes(false);
        self.apply_sabotage(&before);
        let after = self.entries();
        let flags = |entry: Entry| entry.flags();
        for (at, &entry) in &before {
            match after.get(at) {
                Some(&now) if flags(now) == flags(entry) => {}
                now => {
                    let (now, entry) = (now.map(|&now| flags(now)), flags(entry));
                    return Err(format!(
                        "a move changed an entry (process, address) {at:x?} from {entry:?} to {now:?}"
                    ));
                }
            }
        }
        match after.keys().find(|at| !before.contains_key(at)) {
            Some(at) => Err(format!("a move made an entry (process, address) {at:x?}")),
            None => Ok(result),
        }
    }

    /// Gives all entries by process and address.
    fn entries(&self) -> BTreeMap<(usize, u64), Entry> {
        let mut entries = BTreeMap::new();
        for (number, process) in self.processes.iter().enumerate() {
            process.space().for_each_entry(|at, entry| entries.extend([((number, at.get()), entry)]));
        }
        entries
    }

    /// Damages the moved pages as a broken engine would.
    fn apply_sabotage(&self, before: &BTreeMap<(usize, u64), Entry>) {
        for ((process, at), now) in self.entries() {
            if before.get(&(process, at)).is_none_or(|before| before.pfn() == now.pfn()) {
                continue;
            }
            match self.sabotage {
                Some(Sabotage::LoseContents) => {
                    let folio = self.core.physical().get(now.pfn());
                    let _ = folio.map(|folio| folio.words(0)[WORDS[3]].store(0, Ordering::Release));
                }
                Some(Sabotage::LoseWrite) => self.processes[process].space().clear_soft_dirty(),
                Some(Sabotage::SkipFlushes) | None => {}
            }
        }
    }

    fn take(&mut self, folio: Option<FrozenFolio<'b>>, frozen: bool) -> Answer {
        if let Some(folio) = folio {
            let fill = folio.pfn().get() << 32 | 0xf111_f111;
            let folio = if frozen { Folio::Frozen(folio) } else { Folio::Counted(folio.publish()) };
            folio.for_each_word(|word| word.store(fill, Ordering::Release));
            self.taken.push(Taken { folio, fill });
        }
        Answer::Done
    }

    fn give(&mut self, number: usize) -> Result<Answer, String> {
        if let Some(number) = number.checked_rem(self.taken.len()) {
            self.taken.swap_remove(number).free()?;
        }
        Ok(Answer::Done)
    }

    /// Ends everything; then all frames must be free.
    pub(crate) fn finish(mut self) -> Result<(), String> {
        self.core.physical().validate().map_err(to_text)?;
        self.pins.clear();
        self.processes.clear();
        self.files.clear();
        self.balloon.deflate(u32::MAX);
        self.zram.discard(0, store::PAGES);
        self.zram.compact(u32::MAX);
        for taken in core::mem::take(&mut self.taken) {
            taken.free()?;
        }
        let physical = self.core.physical();
        physical.drain_cpu_lists();
        physical.validate().map_err(to_text)?;
        if !physical.pins().all().is_empty() {
            return Err("a pin is left that nobody has".into());
        }
        physical.drain_cpu_lists();
        let free = physical.free_frames();
        if free == self.free { Ok(()) } else { Err(format!("{free} frames are free in the end, of {}", self.free)) }
    }
}

impl Folio<'_> {
    fn for_each_word(&self, mut see: impl FnMut(&AtomicU64)) {
        let order = match self {
            Folio::Frozen(folio) => folio.order(),
            Folio::Counted(folio) => folio.order(),
        };
        for frame in 0..order.frames() {
            let words = match self {
                Folio::Frozen(folio) => folio.words(frame),
                Folio::Counted(folio) => folio.words(frame),
            };
            WORDS.iter().for_each(|&word| see(&words[word]));
        }
    }

    fn pfn(&self) -> Pfn {
        match self {
            Folio::Frozen(folio) => folio.pfn(),
            Folio::Counted(folio) => folio.pfn(),
        }
    }
}

impl Taken<'_> {
    /// Frees it. A stray store to it is an error.
    fn free(self) -> Result<(), String> {
        let mut stray = false;
        self.folio.for_each_word(|word| stray |= word.load(Ordering::Acquire) != self.fill);
        if stray {
            return Err(format!("somebody stored to frame {}, which is the kernel's", self.folio.pfn()));
        }
        Ok(())
    }
}

/// The files' names.
pub(crate) const NAMES: [&str; 4] = ["memory file", "stored file", "character device", crate::moody::NAME];

/// A host that takes all it is told of, but no block that is in use.
struct Host;

impl BalloonHost for Host {
    fn inflate(&self, _: BalloonPages<'_>) -> Result<(), HostRefused> {
        Ok(())
    }

    fn deflate(&self, _: BalloonPages<'_>) {}

    fn report(&self, pages: BalloonPages<'_>) -> Result<(), HostRefused> {
        let is_unused = |&block: &Pfn| {
            let frame = pages.physical().frame(block);
            frame.state().kind() == Kind::Kernel && frame.state().order() == pages.order() && frame.refs() == 0
        };
        if pages.frames().iter().all(is_unused) { Ok(()) } else { Err(HostRefused) }
    }
}

impl File {
    fn mappable(&self) -> Arc<dyn Mappable> {
        match self {
            File::Cache(cache) => cache.clone(),
            File::Device(device) => device.clone(),
            File::Moody(moody) => moody.clone(),
        }
    }
}
