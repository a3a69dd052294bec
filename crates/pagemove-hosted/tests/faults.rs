//! Fault injection: every step of a move that can fail, for each kind of page, in each mode, on both TLBs. What can be seen
//! of the machine is compared before and after: entries with all bits, contents, counts, marks, free blocks, pins, the
//! driver's and the device's tables; then the fault is taken away, and the page moves.
//!
//! A cell is (step, page, mode). [`expected`] says what comes of each, or why there is no such case; every test counts its
//! cells, so that none is left out unseen. The page moves in a batch with another one, a driver's (the companion), whose
//! callbacks and flush are the points from which the test reaches into the move of a page that has neither.
mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use common::*;
use pagemove::{
    folio::{FrozenFolio, PinnedPage},
    frame::Kind,
    migrate::{AnyFree, Destination, Mode, Mover, Options, Outcome},
    movable::Refusal,
    report::Reason,
    space::{Map, Orders, Protection, Source},
    units::{HUGE_ORDER, Order, PAGE_SIZE, Pfn, VirtAddr, VirtRange},
};
use pagemove_drivers::zsmalloc::{self, ObjectToken, Pool};
use pagemove_hosted::{Process, TlbKind};

/// Kinds of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    Anonymous,
    /// Anonymous, shared by three generations.
    Family,
    /// A file's, mapped by two processes, one of which may only load.
    SharedFile,
    /// A file's that nothing maps.
    Cache,
    /// The process's own copy of a file's.
    PrivateCopy,
    /// A file's that a private mapping has not copied yet.
    PrivateUncopied,
    DriverMapped,
    DriverUnmapped,
    /// Mapped by a device with its own page table.
    OfDevice,
    OfDeviceAndProcess,
    /// 2 MiB.
    Huge,
    /// Anonymous, of order 2, mapped by base entries.
    Large,
    /// A driver's, of order 2, mapped by four processes.
    LargeDriver,
    /// A driver's, of 2 MiB, mapped by three processes as such, and in part by base entries.
    HugeDriver,
    /// One of a zspage, with a part of an object that goes on in the next one. Copied and replaced in one step, by an owner that has no other.
    OfZspage,
}

use Page::*;

const PAGES: [Page; 15] = [
    Anonymous,
    Family,
    SharedFile,
    Cache,
    PrivateCopy,
    PrivateUncopied,
    DriverMapped,
    DriverUnmapped,
    OfDevice,
    OfDeviceAndProcess,
    Huge,
    Large,
    LargeDriver,
    HugeDriver,
    OfZspage,
];

impl Page {
    /// Somebody owns the contents, and is asked; here in the test.
    fn is_owned(self) -> bool {
        !matches!(self, Anonymous | Family | PrivateCopy | Huge | Large | OfZspage)
    }

    fn order(self) -> Order {
        order(match self {
            Huge | HugeDriver => 9,
            Large | LargeDriver => 2,
            _ => 0,
        })
    }

    /// A driver's, in a family of three and a process that may only load.
    fn is_mapped_by_many(self) -> bool {
        matches!(self, DriverMapped | LargeDriver | HugeDriver)
    }

    /// How many pageblocks each of two zones needs.
    fn blocks(self) -> u32 {
        if self.order() == HUGE_ORDER { 3 } else { 1 }
    }
}

/// Between which steps of the move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    Before,
    /// Referenced and locked, but neither isolated nor given a destination.
    Claimed,
    Isolated,
    /// Entries are migration entries, but nothing is flushed.
    Blocked,
    Frozen,
    Copied,
    Rebound,
}

const POINTS: [Point; 7] =
    [Point::Before, Point::Claimed, Point::Isolated, Point::Blocked, Point::Frozen, Point::Copied, Point::Rebound];

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    NoDestination,
    /// Somebody else holds the frame's lock; waits for it may end early.
    Locked {
        interrupted: bool,
    },
    /// The page is being written to its store; waits for the end of it may end early.
    Writeback {
        interrupted: bool,
    },
    /// Somebody holds the reverse map exclusively.
    MapLocked,
    Pin(Point),
    Reference(Point),
    /// A mapping appears behind the blocked ones.
    Mapping,
    Refusal(Stage, Refusal),
    /// The driver gives its copy up half-way.
    CopyBreaksOff(Refusal),
    OwnerGone(Point),
}

/// What becomes of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Stays(Reason),
    Moves,
    /// When it is let go; until then all is as before.
    WaitsThenMoves,
}

use Expect::*;

/// What must come of a fault, or why there is no such case.
fn expected(fault: Fault, page: Page, mode: Mode) -> Result<Expect, &'static str> {
    let waits = |least: Mode, reason| if mode >= least { WaitsThenMoves } else { Stays(reason) };
    Ok(match fault {
        Fault::NoDestination if page == Large && mode > Mode::Async => return Err("it's split"),
        Fault::NoDestination if page.order() > Order::ZERO => Stays(Reason::Order),
        Fault::NoDestination => Stays(Reason::NoDestination),
        Fault::Locked { interrupted: true } if mode == Mode::Async => return Err("ASYNC never waits"),
        Fault::Locked { .. } => waits(Mode::SyncLight, Reason::Locked),
        Fault::Writeback { interrupted: true } if mode < Mode::Sync => return Err("only SYNC waits for it"),
        Fault::Writeback { .. } => waits(Mode::Sync, Reason::Writeback),
        Fault::MapLocked if mode == Mode::Async && page != OfZspage => Stays(Reason::Locked),
        Fault::MapLocked => Moves,
        Fault::Pin(_) if matches!(page, Cache | DriverUnmapped | OfDevice | OfZspage) => {
            return Err("pins go through mappings");
        }
        Fault::Pin(_) if matches!(page, Family | PrivateUncopied) => return Err("the pin gets another page"),
        Fault::Pin(Point::Before | Point::Claimed | Point::Isolated) => Stays(Reason::Pinned),
        Fault::Pin(_) => Moves,
        Fault::Reference(Point::Before | Point::Claimed | Point::Isolated | Point::Blocked) => {
            Stays(Reason::Referenced)
        }
        Fault::Reference(_) => Moves,
        Fault::Mapping => Stays(Reason::Raced),
        Fault::Refusal(..) | Fault::CopyBreaksOff(_) | Fault::OwnerGone(_) if !page.is_owned() => {
            return Err("nobody owns it, or not the test");
        }
        Fault::Refusal(_, refusal) | Fault::CopyBreaksOff(refusal) => Stays(match refusal {
            Refusal::No => Reason::Refused,
            Refusal::Retry => Reason::Retry,
        }),
        Fault::OwnerGone(_) => Stays(Reason::OwnerGone),
    })
}

/// The machine of a cell: the page under test, who sees it, and the companion.
struct Scene {
    lab: Lab,
    hooked: Arc<Hooked>,
    page: Page,
    processes: Vec<Process>,
    /// Which process sees the page at which address; the first one may store, if there is any.
    views: Vec<(usize, VirtAddr)>,
    owner: Option<Arc<Device>>,
    accelerator: Option<Arc<Accelerator>>,
    zspages: Option<Zspages>,
    companion: Arc<Device>,
    /// A process that maps other pages of the same object, and where, and the companion.
    neighbour: Process,
    beside: VirtRange,
}

/// What a failed move must leave as it was.
struct Seen {
    machine: Snapshot,
    /// Pages not put back, and places in the index, of the owner and of the companion.
    isolated: [usize; 2],
    places: [Option<Pfn>; 2],
    of_device: Option<DeviceEntry>,
}

impl Seen {
    fn assert_same(&self, before: &Self, what: &str) {
        self.machine.assert_same(&before.machine, what);
        assert_eq!((self.isolated, self.places), (before.isolated, before.places), "{what}: of the drivers");
        assert_eq!(self.of_device, before.of_device, "{what}: of the device's table");
    }
}

const VALUE: u64 = 77;

/// A pool with objects of three quarters of a page, and what they hold.
struct Zspages {
    pool: Pool,
    objects: Vec<ObjectToken>,
    contents: Vec<Vec<u8>>,
}

impl Zspages {
    const LENGTH: usize = PAGE_SIZE / 4 * 3;

    fn new(lab: &Lab) -> Self {
        let pool = Pool::new(&lab.engine, zsmalloc::Options::new("zspages"));
        let objects = (0..4).map(|_| pool.store(&[0xee; Self::LENGTH]).unwrap().into_token()).collect();
        Self { pool, objects, contents: Vec::new() }
    }

    fn read(&self) -> Vec<Vec<u8>> {
        let bytes = |object| {
            let mut bytes = vec![0; Self::LENGTH];
            self.pool.read(object).copy_to(0, &mut bytes);
            bytes
        };
        self.objects.iter().map(bytes).collect()
    }

    /// The page whose first two words are 'VALUE' and 1; before, any.
    fn pfn(&self, lab: &Lab) -> Pfn {
        let own = self.pool.registration().number();
        let pages: Vec<Pfn> =
            lab.frames_of(Kind::Driver).into_iter().filter(|&pfn| lab.physical().frame(pfn).owner() == own).collect();
        let words = |pfn| raw::words(lab.physical(), pfn);
        let is_under_test = |&pfn: &Pfn| [0, 1].map(|word| words(pfn)[word].load(Ordering::SeqCst)) == [VALUE, 1];
        pages.iter().copied().find(is_under_test).unwrap_or(pages[1])
    }
}

impl Drop for Zspages {
    fn drop(&mut self) {
        self.objects.drain(..).for_each(|token| drop(self.pool.object(token)));
    }
}

impl Scene {
    fn new(tlb: TlbKind, page: Page) -> Self {
        let (lab, hooked) = Hooked::lab_of(tlb, &Nodes::zones(page.blocks()));
        let one = lab.process();
        let owner = page.is_owned() || page == PrivateCopy;
        let kind =
            if matches!(page, SharedFile | Cache | PrivateCopy | PrivateUncopied) { Kind::File } else { Kind::Driver };
        let owner = owner.then(|| Device::open_as(&lab, kind));
        let file = || owner.clone().unwrap();
        let accelerator = matches!(page, OfDevice | OfDeviceAndProcess)
            .then(|| Accelerator::attach(&lab.engine, &file().driver.index));
        // Two folios.
        let pages = 2 * page.order().frames().max(2);
        if let Some(owner) = &owner {
            owner.driver.index.set_orders(Orders::only(page.order()), pages);
            owner.fill(0, VALUE);
            // Of two kinds dirty on the frame alone; of those that are mapped entries say it, or nothing does.
            if matches!(page, Cache | DriverUnmapped) {
                owner.driver.index.lock_page(0).unwrap().mark_dirty();
            }
        }
        if let Some(accelerator) = &accelerator {
            accelerator.map(0);
        }
        // Forked while nothing is mapped: so the neighbour has the same reverse map, and no page of it.
        let at = match page {
            Anonymous | Family | OfZspage => anonymous(&one, 4),
            PrivateCopy | PrivateUncopied => private(&one, file(), 4),
            Huge => huge(&one, 1024),
            Large => {
                let source = Source::Anonymous { orders: Orders::only(page.order()) };
                one.space().mmap(&Map { at: None, pages, protection: RW, source }).unwrap()
            }
            _ => shared(&one, file(), pages, RW),
        };
        let neighbour = one.fork().unwrap();
        let beside = match page.order() {
            Order::ZERO => part(at, 2, 1),
            size => part(at, size.frames(), size.frames()),
        };
        neighbour.store(beside.start(), 5).unwrap();
        let mut processes = vec![one];
        let mut views = Vec::new();
        match page {
            Cache | DriverUnmapped | OfDevice | OfZspage => {}
            PrivateUncopied => views.push((0, at.start())),
            _ => {
                processes[0].store(at.start(), VALUE).unwrap();
                views.push((0, at.start()));
            }
        }
        if page == Family || page.is_mapped_by_many() {
            for generation in 0..2 {
                processes.push(processes[generation].fork().unwrap());
                views.push((generation + 1, at.start()));
            }
        }
        if page == SharedFile || page.is_mapped_by_many() {
            let reader = lab.process();
            anonymous(&reader, 7);
            views.push((processes.len(), shared(&reader, file(), 4, Protection::READ).start()));
            processes.push(reader);
        }
        let companion = Device::open(&lab);
        neighbour.store(shared(&neighbour, companion.clone(), 1, RW).start(), VALUE).unwrap();
        // On the frame as well, so that it shows without a look at the neighbour's entry.
        companion.driver.index.lock_page(0).unwrap().mark_dirty();
        let zspages = (page == OfZspage).then(|| Zspages::new(&lab));
        let mut scene =
            Self { lab, hooked, page, processes, views, owner, accelerator, zspages, companion, neighbour, beside };
        // Every word, so that a copy of a part shows.
        let folio = scene.lab.get(scene.pfn());
        for number in 0..folio.order().frames() {
            for (word, of) in folio.words(number).iter().enumerate().skip(1) {
                of.store((u64::from(number) << 32) + word as u64, Ordering::SeqCst);
            }
        }
        if page == OfZspage {
            folio.words(0)[0].store(VALUE, Ordering::SeqCst);
        }
        drop(folio);
        if let Some(zspages) = &mut scene.zspages {
            zspages.contents = zspages.read();
        }
        scene.assert_seen();
        scene
    }

    fn pfn(&self) -> Pfn {
        if let Some(zspages) = &self.zspages {
            return zspages.pfn(&self.lab);
        }
        match (&self.owner, self.page) {
            (Some(owner), page) if page != PrivateCopy => owner.peek(0),
            _ => pfn_at(&self.processes[0], self.views[0].1),
        }
    }

    /// Of the page under test; the companion never moves.
    fn frames(&self) -> u64 {
        self.page.order().frames().into()
    }

    fn assert_seen(&self) {
        for &(process, address) in &self.views {
            assert_eq!(self.processes[process].load(address).unwrap(), VALUE);
        }
        if let Some(accelerator) = &self.accelerator {
            assert_eq!(accelerator.entry(0), Some(DeviceEntry::Runs(self.pfn())));
            assert_eq!(accelerator.load(0, 0), Some(VALUE));
        }
        if let Some(zspages) = &self.zspages {
            assert_eq!(zspages.read(), zspages.contents);
        }
        let first = self.lab.get(self.pfn()).words(0)[0].load(Ordering::SeqCst);
        assert_eq!(first, VALUE);
    }

    /// All that can be seen, of the neighbour as well if `of_all`.
    fn snapshot(&self, of_all: bool) -> Seen {
        let neighbour = of_all.then_some(&self.neighbour);
        let devices = [self.owner.as_ref(), Some(&self.companion)];
        Seen {
            machine: Snapshot::of(&self.lab, self.processes.iter().chain(neighbour)),
            isolated: devices.map(|device| device.map_or(0, |device| device.driver.isolated())),
            places: devices.map(|device| device.and_then(|device| device.driver.index.peek(0))),
            of_device: self.accelerator.as_ref().and_then(|accelerator| accelerator.entry(0)),
        }
    }

    /// Moves page and companion, in this order but for what is done when all are rebound; the companion always refuses.
    fn migrate<'s>(&'s self, mode: Mode, gate: &mut Gate<'s>, last: bool) -> Outcome {
        self.companion.driver.refuse(Stage::Migrate, Refusal::No);
        let mut pages = [self.pfn(), self.companion.peek(0)];
        if last {
            pages.reverse();
        }
        Mover::new(&self.lab.engine).migrate(&pages, gate, Options::new(mode).in_full_batches())
    }

    fn gate(&self) -> Gate<'_> {
        Gate { free: AnyFree::new(self.lab.engine.physical(), 1), hook: None, shut: false, out: 0 }
    }

    /// Moves the page, and does `deed` when the move has come to `point`; the move waits for its end.
    fn move_and<R>(&self, mode: Mode, point: Point, deed: impl FnOnce() -> R) -> (Outcome, R) {
        if point == Point::Before {
            let result = deed();
            return (self.migrate(mode, &mut self.gate(), false), result);
        }
        let (arrived, has_arrived) = channel();
        let (go_on, may_go_on): (Sender<()>, _) = channel();
        let hook = move || {
            let _ = arrived.send(());
            // An error once the other end is dropped: then it may.
            let _ = may_go_on.recv();
        };
        let mut gate = self.gate();
        let driver = &self.companion.driver;
        match point {
            Point::Before => {}
            Point::Claimed => gate.hook = Some(Box::new(hook)),
            Point::Isolated => driver.during_next(Stage::Isolate, hook),
            Point::Blocked => self.hooked.before_next_flush(move |_| hook()),
            Point::Frozen => driver.during_next(Stage::Copy, hook),
            Point::Copied => driver.during_next(Stage::Migrate, hook),
            Point::Rebound => driver.during_next(Stage::Putback, hook),
        }
        thread::scope(|scope| {
            let mover = scope.spawn(move || {
                let outcome = self.migrate(mode, &mut gate, point == Point::Rebound);
                assert_eq!(u64::from(gate.out) * self.frames(), outcome.moved, "destinations were lost");
                outcome
            });
            has_arrived.recv_timeout(Duration::from_secs(30)).expect("the move did not come to the point");
            let result = deed();
            drop(go_on);
            (mover.join().unwrap(), result)
        })
    }

    /// Pins the page for the first process; once the page can't be had, on a thread of its own, which has begun to wait.
    fn pin(&self, point: Point) -> JoinHandle<Vec<PinnedPage>> {
        let (process, address) = self.views[0];
        let (space, at) = (self.processes[process].space().clone(), VirtRange::new(address, 1).unwrap());
        let waits = self.hooked.waits();
        let pinning = thread::spawn(move || space.pin(at, false, "nic").unwrap());
        let blocked = (Point::Blocked..Point::Rebound).contains(&point);
        while !(pinning.is_finished() || blocked && self.hooked.waits() > waits) {
            thread::yield_now();
        }
        assert_eq!(pinning.is_finished(), !blocked);
        pinning
    }

    /// Holds something, which a move waits for, until the move has waited.
    fn held<H>(&self, mode: Mode, interrupted: bool, expect: Expect, hold: H, let_go: impl FnOnce(H)) -> Outcome {
        if let Stays(_) = expect {
            let outcome = self.migrate(mode, &mut self.gate(), false);
            let_go(hold);
            return outcome;
        }
        self.hooked.interrupt_waits(interrupted);
        let waits = self.hooked.waits() + if interrupted { 50 } else { 1 };
        let entries = || -> Vec<u64> {
            let of = |&(process, at): &(usize, VirtAddr)| self.processes[process].space().entry(at).bits();
            self.views.iter().map(of).collect()
        };
        let before = entries();
        thread::scope(|scope| {
            let mover = scope.spawn(|| self.migrate(mode, &mut self.gate(), false));
            while self.hooked.waits() < waits {
                assert!(!mover.is_finished(), "the move did not wait");
                thread::yield_now();
            }
            assert_eq!(entries(), before, "the move went on before it was let");
            let_go(hold);
            let outcome = mover.join().unwrap();
            self.hooked.interrupt_waits(false);
            outcome
        })
    }

    /// Moves the page while the neighbour is in the midst of `mremap`, which holds the reverse map.
    fn while_map_is_locked(&self, mode: Mode, expect: Expect) -> Outcome {
        let (arrived, has_arrived) = channel();
        let (go_on, may_go_on): (Sender<()>, _) = channel();
        self.hooked.before_next_flush(move |_| {
            let _ = arrived.send(());
            let _ = may_go_on.recv();
        });
        thread::scope(|scope| {
            let to = self.beside.start().up(8192);
            let remapping = scope.spawn(move || {
                self.neighbour.space().mremap(self.beside, self.beside.pages(), Some(to)).unwrap();
            });
            has_arrived.recv_timeout(Duration::from_secs(30)).expect("mremap did not flush");
            let outcome = if expect == Moves {
                // It waits for the map, and comes after.
                let mover = scope.spawn(|| self.migrate(mode, &mut self.gate(), false));
                drop(go_on);
                mover.join().unwrap()
            } else {
                let before = self.snapshot(false);
                let outcome = self.migrate(mode, &mut self.gate(), false);
                self.snapshot(false).assert_same(&before, "while the map was locked");
                drop(go_on);
                outcome
            };
            remapping.join().unwrap();
            outcome
        })
    }

    /// Injects the fault into a move, and takes it away afterwards.
    fn inject(&self, fault: Fault, mode: Mode, expect: Expect) -> Outcome {
        let physical = self.lab.engine.physical();
        let pfn = self.pfn();
        let owner = || self.owner.as_ref().unwrap();
        match fault {
            Fault::NoDestination => {
                let mut gate = Gate { shut: true, ..self.gate() };
                // The companion finds none either.
                let mut outcome = self.migrate(mode, &mut gate, false);
                outcome
                    .stayed
                    .iter_mut()
                    .filter(|(of, _)| *of != pfn)
                    .for_each(|(_, reason)| *reason = Reason::Refused);
                outcome
            }
            Fault::Locked { interrupted } => self.held(mode, interrupted, expect, self.lab.get(pfn).lock(), drop),
            Fault::Writeback { interrupted } => {
                self.held(mode, interrupted, expect, self.lab.get(pfn).start_writeback(), drop)
            }
            Fault::MapLocked => self.while_map_is_locked(mode, expect),
            Fault::Pin(point) => {
                let (outcome, pinning) = self.move_and(mode, point, || self.pin(point));
                let pins = pinning.join().unwrap();
                assert_eq!(pins[0].pfn(), self.pfn(), "the pin holds another page than the process has");
                assert_eq!(physical.frame(pins[0].pfn()).pins(), 1);
                outcome
            }
            Fault::Reference(point) => {
                let (outcome, had) = self.move_and(mode, point, || physical.get(pfn));
                assert_eq!(
                    had.is_some(),
                    point < Point::Frozen,
                    "at {point:?} of {:?} in {mode:?}: a frozen frame gives no reference, any other does",
                    self.page
                );
                outcome
            }
            Fault::Mapping => {
                let (outcome, ()) = self.move_and(mode, Point::Blocked, || raw::map_without_lock(physical, pfn));
                raw::unmap(physical, pfn);
                outcome
            }
            Fault::Refusal(..) | Fault::CopyBreaksOff(_) => {
                match fault {
                    Fault::Refusal(stage, refusal) => owner().driver.refuse(stage, refusal),
                    Fault::CopyBreaksOff(refusal) => owner().driver.refuse_midway(refusal),
                    _ => unreachable!("no other fault comes here"),
                }
                owner().driver.take_calls();
                let outcome = self.migrate(mode, &mut self.gate(), false);
                let asked = owner().driver.take_calls().iter().filter(|call| matches!(call, Call::Isolate(..))).count();
                let tries = if expect == Stays(Reason::Refused) {
                    1
                } else if mode == Mode::Async {
                    3
                } else {
                    10
                };
                assert_eq!(asked, tries, "a driver that asks to retry is asked a bounded number of times");
                owner().driver.refuse_nothing();
                outcome
            }
            Fault::OwnerGone(point) => {
                let goes = || owner().registration.try_unregister();
                let (outcome, gone) = self.move_and(mode, point, goes);
                assert_eq!(gone, Ok(()), "no page of the owner was isolated");
                outcome
            }
        }
    }

    fn run(&self, fault: Fault, mode: Mode, expect: Expect) {
        let counters = self.lab.engine.physical().counters();
        let pfn = self.pfn();
        // The neighbour's mapping goes elsewhere in one of the cases.
        let of_all = fault != Fault::MapLocked;
        let before = self.snapshot(of_all);
        let outcome = self.inject(fault, mode, expect);
        let stayed: BTreeMap<Pfn, Reason> = outcome.stayed.iter().copied().collect();
        assert_eq!(stayed.len(), outcome.stayed.len(), "a page is told of twice");
        assert_eq!(stayed.get(&self.companion.peek(0)), Some(&Reason::Refused), "of the companion");
        let frames = self.frames();
        match expect {
            Stays(reason) => {
                assert_eq!((stayed.get(&pfn), outcome.moved), (Some(&reason), 0));
                if of_all {
                    self.snapshot(true).assert_same(&before, "the failed move left something behind");
                }
                if reason != Reason::Refused && fault != Fault::NoDestination {
                    assert_eq!(counters.stayed_for(reason), 1);
                }
            }
            Moves | WaitsThenMoves => {
                assert_eq!((stayed.get(&pfn), outcome.moved), (None, frames));
                assert_ne!(self.pfn(), pfn);
                if of_all {
                    let after = self.snapshot(true).machine.without_places();
                    after.assert_same(&before.machine.without_places(), "the move changed more than places");
                }
            }
        }
        self.lab.validate();
        self.assert_seen();
        // And with nothing in the way it moves.
        if !matches!(fault, Fault::OwnerGone(_)) {
            let before = self.pfn();
            let is_awaited = |outcome: &Outcome| outcome.stayed.iter().any(|&(_, reason)| reason == Reason::Awaited);
            let mut outcome = self.migrate(mode, &mut self.gate(), false);
            // Whoever waited during the move goes first.
            while is_awaited(&outcome) {
                std::thread::yield_now();
                outcome = self.migrate(mode, &mut self.gate(), false);
            }
            assert_eq!(outcome.moved, frames, "with nothing in the way");
            assert_ne!(self.pfn(), before);
        }
        self.assert_seen();
        if let Some(&(process, address)) = self.views.first() {
            self.processes[process].store(address, VALUE + 1).unwrap();
            assert_eq!(self.processes[process].load(address).unwrap(), VALUE + 1);
        }
        self.lab.validate();
    }
}

/// Any free frame; with something to do when the first one is asked for, and shut or not.
struct Gate<'p> {
    free: AnyFree<'p>,
    hook: Option<Box<dyn FnOnce() + Send>>,
    shut: bool,
    /// Folios given and not taken back.
    out: u32,
}

impl<'p> Destination<'p> for Gate<'p> {
    fn take(&mut self, order: Order, below: Option<Pfn>) -> Option<FrozenFolio<'p>> {
        if let Some(hook) = self.hook.take() {
            hook();
        }
        if self.shut {
            return None;
        }
        let folio = self.free.take(order, below)?;
        self.out += 1;
        Some(folio)
    }

    fn give_back(&mut self, folio: FrozenFolio<'p>) {
        self.out -= 1;
        self.free.give_back(folio);
    }
}

/// Runs the cells of `faults` on both TLBs; gives how many there are on each, and how many cases don't exist.
fn run_all(faults: &[Fault]) -> (usize, usize) {
    let (mut run, mut none) = (0, 0);
    for &fault in faults {
        for page in PAGES {
            for mode in MODES {
                let Ok(expect) = expected(fault, page, mode) else {
                    none += 1;
                    continue;
                };
                run += 1;
                for tlb in BOTH {
                    let _cell = Doing::new(format!("{fault:?}, {page:?}, {mode:?}, {tlb:?} TLB: {expect:?}"));
                    let scene = Scene::new(tlb, page);
                    scene.run(fault, mode, expect);
                    let (lab, frames) = (scene.lab, 2 * page.blocks() * 512);
                    let (owner, zspages) = (scene.owner, scene.zspages);
                    drop((scene.processes, scene.neighbour, owner, scene.accelerator, zspages, scene.companion));
                    lab.assert_all_free(frames);
                }
            }
        }
    }
    (run, none)
}

/// Of each fault 45 cells: 15 kinds of pages in 3 modes.
#[test]
fn destinations() {
    assert_eq!(run_all(&[Fault::NoDestination]), (43, 2));
}

#[test]
fn locks_and_interrupted_waits() {
    let [locked, interrupted] = [false, true].map(|interrupted| Fault::Locked { interrupted });
    assert_eq!(run_all(&[locked, interrupted, Fault::MapLocked]), (45 + 30 + 45, 15));
}

#[test]
fn writeback() {
    let faults = [false, true].map(|interrupted| Fault::Writeback { interrupted });
    assert_eq!(run_all(&faults), (45 + 15, 30));
}

/// 9 kinds of pages can be pinned where they are.
#[test]
fn pins() {
    assert_eq!(run_all(&POINTS.map(Fault::Pin)), (7 * 9 * 3, 7 * 6 * 3));
}

#[test]
fn references_and_mappings() {
    assert_eq!(run_all(&POINTS.map(Fault::Reference)), (7 * 45, 0));
    assert_eq!(run_all(&[Fault::Mapping]), (45, 0));
}

/// 9 kinds of pages have an owner.
#[test]
fn owners() {
    let refusals = [Refusal::No, Refusal::Retry];
    let stages = [Stage::Isolate, Stage::Copy, Stage::Migrate];
    let mut faults: Vec<Fault> =
        stages.into_iter().flat_map(|stage| refusals.map(|refusal| Fault::Refusal(stage, refusal))).collect();
    faults.extend(refusals.map(Fault::CopyBreaksOff));
    faults.extend([Point::Before, Point::Claimed].map(Fault::OwnerGone));
    assert_eq!(run_all(&faults), (10 * 9 * 3, 10 * 6 * 3));
}
