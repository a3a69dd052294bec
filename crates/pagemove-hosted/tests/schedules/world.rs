//! A small machine with two pages of one kind, mapped by one process or two; and what must hold of it in the end.
//!
//! Each thread stores to a word of its own in each page, so that a value that is lost, or seen where it should not be, is
//! known whatever the order was.

use std::sync::{Arc, Mutex};

use crate::accelerator::Accelerator;
use pagemove::{
    Engine,
    port::Contents,
    space::{FaultError, Map, Mappable, Orders, PageCache, Protection, Source},
    units::{HUGE_ORDER, Order, Pfn, VirtAddr, VirtRange},
    zone,
};
use pagemove_drivers::{CharDevice, DeviceFile};
use pagemove_hosted::{Config, Hosted, Process, TlbKind};

pub const PAGES: u32 = 2;
pub const RW: Protection = Protection::READ.union(Protection::WRITE);
/// Words of each page that threads store to.
const WORDS: usize = 8;
const FRAMES: u32 = 256;
/// Where there are 2 MiB pages: room for four of them.
const HUGE_FRAMES: u32 = 2048;

/// What kind of pages are moved, and who maps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anonymous, one process.
    Anonymous,
    /// Anonymous, of which the two pages are the first of one 2 MiB page; many deeds split its entry.
    Huge,
    /// Anonymous, one folio of the two pages.
    Large,
    /// The same, shared with a forked child until one of them stores.
    LargeForked,
    /// Anonymous, shared with a forked child until one of them stores.
    CopyOnWrite,
    /// Page cache, mapped shared by two processes.
    SharedFile,
    /// A process's own copies of a file's pages.
    PrivateFile,
    /// A driver's, one process.
    Driver,
    /// A driver's, in two processes at different addresses.
    DriverTwice,
    /// Page cache, mapped by a process, and by a device with a page table of its own.
    Device,
}

impl Kind {
    pub const ALL: [Self; 10] = [
        Self::Device,
        Self::Anonymous,
        Self::Huge,
        Self::Large,
        Self::LargeForked,
        Self::CopyOnWrite,
        Self::SharedFile,
        Self::PrivateFile,
        Self::Driver,
        Self::DriverTwice,
    ];

    /// Tells whether a folio has several pages.
    pub fn is_large(self) -> bool {
        matches!(self, Self::Huge | Self::Large | Self::LargeForked)
    }

    /// Tells whether the second process is a child of the first.
    pub fn is_forked(self) -> bool {
        matches!(self, Self::CopyOnWrite | Self::LargeForked)
    }

    fn orders(self) -> Orders {
        match self {
            Self::Huge => Orders::HUGE,
            _ if self.is_large() => Orders::only(Order::new(1).expect("an order")),
            _ => Orders::BASE,
        }
    }

    /// Tells whether stores of one process are seen by the other, and by who opens the file.
    pub fn is_shared(self) -> bool {
        matches!(self, Self::SharedFile | Self::Driver | Self::DriverTwice | Self::Device)
    }
}

/// What a page of the first process holds when a deed is done, as far as that deed knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// What it held; and in the word of that number this value.
    Kept(Option<(usize, u64)>),
    /// Nothing is mapped there.
    Unmapped,
    /// Taken out of its file: a new page, without what was stored at any time before.
    Freed,
}

/// What a deed leaves.
pub struct End {
    pub fates: [Fate; PAGES as usize],
    /// Where the pages are mapped now, if that changed.
    pub moved_to: Option<VirtAddr>,
    /// The second process is gone.
    pub exited: bool,
}

impl End {
    pub const NOTHING: Self = Self { fates: [Fate::Kept(None); PAGES as usize], moved_to: None, exited: false };

    pub fn fate(page: usize, fate: Fate) -> Self {
        let mut end = Self::NOTHING;
        end.fates[page] = fate;
        end
    }
}

pub struct World {
    pub kind: Kind,
    pub engine: Arc<Engine>,
    pub first: Process,
    pub second: Option<Process>,
    pub at: VirtRange,
    pub device: Option<Arc<DeviceFile>>,
    pub cache: Option<Arc<PageCache>>,
    pub accelerator: Option<Arc<Accelerator>>,
    /// Children that deeds have made; they end last.
    pub children: Mutex<Vec<Process>>,
    free: u32,
    _machine: Arc<Hosted>,
}

/// The value that page `page` has in word 0 from the start.
pub fn first_value(page: u32) -> u64 {
    100 + u64::from(page)
}

/// A machine for pages of 4 KiB.
pub fn small_machine() -> (Arc<Hosted>, Arc<Engine>) {
    machine(FRAMES, 3)
}

fn machine(frames: u32, pageblock_order: u8) -> (Arc<Hosted>, Arc<Engine>) {
    let config = Config { frames, cpus: 4, tlb: TlbKind::Soft, contents: Contents::All };
    let machine = Hosted::new(config).expect("a machine");
    let zones = vec![machine.frames()];
    let pageblock_order = Order::new(pageblock_order).expect("an order");
    let engine = Engine::boot(machine.clone(), &zone::Config::new(zones, pageblock_order)).expect("an engine");
    (machine, engine)
}

impl World {
    pub fn new(kind: Kind) -> Self {
        let (machine, engine) = if kind == Kind::Huge { machine(HUGE_FRAMES, 9) } else { small_machine() };
        engine.physical().drain_cpu_lists();
        let free = engine.physical().free_frames();
        let first = Process::new(&machine, &engine).expect("a process");
        let (mut device, mut cache, mut accelerator) = (None, None, None);
        let file: Option<Arc<dyn Mappable>> = match kind {
            Kind::Anonymous | Kind::Huge | Kind::Large | Kind::LargeForked | Kind::CopyOnWrite => None,
            Kind::SharedFile | Kind::PrivateFile | Kind::Device => {
                let file = PageCache::new(&engine, "a file", PAGES);
                cache = Some(file.clone());
                if kind == Kind::Device {
                    let device = Accelerator::attach(&engine, file.index());
                    (0..PAGES).for_each(|page| device.map(page));
                    accelerator = Some(device);
                }
                Some(file)
            }
            Kind::Driver | Kind::DriverTwice => {
                let file = CharDevice::new(&engine, "a device").open(PAGES);
                device = Some(file.clone());
                Some(file)
            }
        };
        let source = || match &file {
            None => Source::Anonymous { orders: kind.orders() },
            Some(file) if kind.is_shared() => Source::Shared { file: file.clone(), first: 0 },
            Some(file) => Source::Private { file: file.clone(), first: 0 },
        };
        let pages = if kind == Kind::Huge { HUGE_ORDER.frames() } else { PAGES };
        let map = |at| Map { at, pages, protection: RW, source: source() };
        let all = first.space().mmap(&map(None)).expect("room");
        let at = VirtRange::new(all.start(), PAGES).expect("two pages");
        for (page, address) in (0..).zip(at.iter()) {
            first.store(address, first_value(page)).expect("a store");
        }
        let second = match kind {
            _ if kind.is_forked() => Some(first.fork().expect("a child")),
            Kind::SharedFile | Kind::DriverTwice => {
                let second = Process::new(&machine, &engine).expect("a process");
                let there = second.space().mmap(&map(Some(at.start().up(7)))).expect("room");
                for (page, address) in (0..).zip(there.iter()) {
                    assert_eq!(second.load(address), Ok(first_value(page)));
                }
                Some(second)
            }
            _ => None,
        };
        Self {
            kind,
            engine,
            first,
            second,
            at,
            device,
            cache,
            accelerator,
            children: Mutex::default(),
            free,
            _machine: machine,
        }
    }

    /// Gives the address of a word of a page in the first process, as it was at the start.
    pub fn word(&self, page: u32, word: usize) -> VirtAddr {
        address(self.at.start(), page, word)
    }

    /// Gives the address at which the second process maps the page's word.
    pub fn second_word(&self, page: u32, word: usize) -> VirtAddr {
        let start = if self.kind.is_forked() { self.at.start() } else { self.at.start().up(7) };
        address(start, page, word)
    }

    /// Gives the frames that the first process maps now.
    pub fn frames(&self) -> Vec<Pfn> {
        let entries = self.at.iter().map(|at| self.first.space().entry(at));
        let mut frames: Vec<Pfn> = entries.filter(|entry| !entry.is_none()).map(|entry| entry.pfn()).collect();
        frames.dedup();
        frames
    }

    /// Checks what all deeds agree on, word by word, in both processes.
    pub fn check(&self, ends: &[End]) {
        self.engine.physical().validate().expect("invariants 3 and 8");
        let start = ends.iter().find_map(|end| end.moved_to).unwrap_or(self.at.start());
        for page in 0..PAGES {
            let fates: Vec<Fate> = ends.iter().map(|end| end.fates[page as usize]).collect();
            let freed = fates.contains(&Fate::Freed);
            // What a word must hold: what the one who stores to it has stored last. A store before the page was freed is gone
            // with it; and who may have stored there besides is not known here.
            let expected = |word: usize| match word {
                0 => Some(if freed { 0 } else { first_value(page) }),
                _ => fates.iter().find_map(|fate| match fate {
                    Fate::Kept(Some((stored, value))) if *stored == word => Some(*value),
                    _ => None,
                }),
            };
            let first = |word| self.first.load(address(start, page, word));
            let unmapped = fates.contains(&Fate::Unmapped);
            if unmapped {
                assert!(
                    matches!(first(0), Err(FaultError::NotMapped(_))),
                    "page {page} is still mapped: {:?}",
                    first(0)
                );
            }
            let second = self.second.as_ref().filter(|_| !ends.iter().any(|end| end.exited));
            for word in 0..WORDS {
                if !unmapped {
                    let found = first(word).expect("the page is mapped");
                    let right = expected(word).is_none_or(|value| found == value || freed && found == 0);
                    assert!(right, "page {page}, word {word}: {found}, not {:?}; {fates:?}", expected(word));
                }
                let Some(second) = second else { continue };
                let found = second.load(self.second_word(page, word)).expect("the page is mapped");
                if self.kind.is_shared() {
                    let right = expected(word).is_none_or(|value| found == value || freed && found == 0);
                    assert!(right, "page {page}, word {word} of the second process: {found}; {fates:?}");
                    assert!(unmapped || first(word) == Ok(found), "two processes see two pages {page}, word {word}");
                } else {
                    // A child's own: nothing that the parent has stored since may show.
                    let own = if word == 0 { first_value(page) } else { 0 };
                    assert_eq!(found, own, "page {page}, word {word} of the child: the parent's store shows");
                }
            }
        }
    }

    /// Ends everything; nothing may be left.
    pub fn end(self) {
        let Self { engine, first, second, device, cache, accelerator, children, free, .. } = self;
        drop((accelerator, children, second, first, device, cache));
        engine.physical().drain_cpu_lists();
        engine.physical().validate().expect("invariants 3 and 8");
        engine.physical().drain_cpu_lists();
        assert_eq!(engine.physical().free_frames(), free, "frames were lost or found");
    }
}

fn address(start: VirtAddr, page: u32, word: usize) -> VirtAddr {
    VirtAddr::new(start.up(page).get() + 8 * word as u64).expect("an address")
}
