//! What a reading by somebody else found in the handles, the runs and the budget: safe code that mixed two memories up or used a mover
//! again after a panic; a look-up by a tail during a split; pins of large pages; bounds; what folios cost.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use crate::common::*;
use pagemove::{
    folio::{FrozenFolio, LockedFolio},
    frame::{Key, Kind},
    migrate::{AnyFree, Batch, Destination, Mode, Mover, Options, TheseFrames, split},
    movable::{MigrationRun, MovableOps, NotCollapsed, PageIndex, Refusal, Registration},
    paging::FlushDebt,
    report::{Counter, Reason},
    rmap::{RangeMap, ReverseMap},
    space::{FaultError, FileError, Map, Mappable, PageCache, Protection, Source, SpaceError},
    units::{Order, Pfn},
    zone::{BootError, Request},
};
use pagemove_hosted::TlbKind;

/// Its frames have numbers that mean others here.
#[test]
fn a_file_of_another_engine_is_not_mapped() {
    let (ours, theirs) = (Lab::new(TlbKind::Soft, 2), Lab::new(TlbKind::Soft, 2));
    let file = PageCache::new(&theirs.engine, "theirs", 4);
    let process = ours.process();
    let map = Map { at: None, pages: 1, protection: RW, source: Source::Shared { file, first: 0 } };
    assert_eq!(process.space().mmap(&map), Err(SpaceError::OtherEngine { stage: "mmap" }));
    // Nor is what a file gives, though it has a reverse map of ours.
    let mixed = Arc::new(Mixed {
        ours: PageCache::new(&ours.engine, "ours", 4),
        theirs: PageCache::new(&theirs.engine, "theirs", 4),
    });
    let at = shared(&process, mixed, 1, RW).start();
    assert_eq!(process.load(at), Err(FaultError::BadFolio(at)));
}

/// A file with a reverse map of one engine and pages of another.
pub(crate) struct Mixed {
    pub(crate) ours: Arc<PageCache>,
    pub(crate) theirs: Arc<PageCache>,
}

impl Mappable for Mixed {
    fn name(&self) -> &str {
        "mixed"
    }
    fn reverse_map(&self) -> &Arc<RangeMap> {
        self.ours.reverse_map()
    }
    fn fault(&self, index: u32) -> Result<LockedFolio<'_>, FileError> {
        self.theirs.fault(index)
    }
    fn bring(&self, index: u32) -> Result<(), FileError> {
        self.theirs.bring(index)
    }
    fn collapse(&self, index: u32) -> Result<(), NotCollapsed> {
        self.theirs.collapse(index)
    }
}

#[test]
fn a_debt_of_another_memory_is_refused() {
    let (ours, theirs) = (Lab::leaked(2), Lab::leaked(2));
    let file = PageCache::new(&ours.engine, "ours", 4);
    let process = ours.process();
    let at = shared(&process, file.clone(), 1, RW).start();
    process.store(at, 1).unwrap();
    let pfn = pfn_at(&process, at);
    let device = Device::open(theirs);
    let victim = theirs.physical().alloc_exactly(pfn, Kind::Driver).unwrap();
    drop(device.driver.index.insert(0, victim).unwrap());
    let page = file.index().lock_page(0).unwrap();
    let mut debt = FlushDebt::new(theirs.physical());
    let unmapped = catch_unwind(AssertUnwindSafe(|| file.index().reverse_map().unmap(&page, &mut debt)));
    // The page stays locked.
    keep((debt, page, process));
    assert!(unmapped.is_err());
    assert_eq!(theirs.physical().frame(pfn).refs(), 1, "a page in another engine's index was freed");
}

/// Gives any free frame; panics once when one comes back, and then keeps what comes.
struct Keeps<'p> {
    physical: &'p Arc<pagemove::zone::Physical>,
    panics: bool,
    kept: Vec<FrozenFolio<'p>>,
}

impl<'p> Destination<'p> for Keeps<'p> {
    fn take(&mut self, order: Order, _: Option<Pfn>) -> Option<FrozenFolio<'p>> {
        self.physical.alloc(order, Kind::Anon).ok()
    }

    fn give_back(&mut self, folio: FrozenFolio<'p>) {
        if mem::take(&mut self.panics) {
            let _ = folio.into_raw();
            panic!("the destination's own");
        }
        self.kept.push(folio);
    }
}

/// A destination's panic is caught, and the mover used again: it refuses, since its batch is half done.
#[test]
fn no_exclusive_handle_of_a_page_in_use() {
    let lab = Lab::leaked(2);
    let process = lab.process();
    let device = Device::open(lab);
    device.driver.refuse(Stage::Copy, Refusal::No);
    let refused = device.fill(0, 1);
    let at = anonymous(&process, 1).start();
    process.store(at, 7).unwrap();
    let source = pfn_at(&process, at);
    let mut mover = Mover::new(&lab.engine);
    let mut to = Keeps { physical: lab.physical(), panics: true, kept: Vec::new() };
    let options = Options::new(Mode::Async);
    let first = catch_unwind(AssertUnwindSafe(|| mover.migrate(&[refused, source], &mut to, options)));
    assert!(first.is_err());
    let here = pfn_at(&process, at);
    assert_ne!(here, source, "it has moved");
    let second = catch_unwind(AssertUnwindSafe(|| mover.migrate(&[pfn(1000)], &mut to, options)));
    let kept = to.kept.len();
    // The batch's pages stay locked.
    keep((mover, to, process, device));
    assert!(second.is_err() && kept == 0, "an exclusive handle of a page that a process maps");
}

/// The same after a driver's panic.
#[test]
fn no_page_is_freed_while_mapped() {
    let lab = Lab::leaked(2);
    let process = lab.process();
    let device = Device::open(lab);
    let of_device = device.fill(0, 1);
    device.driver.during_next(Stage::Copy, || panic!("the driver's own"));
    let at = anonymous(&process, 1).start();
    process.store(at, 7).unwrap();
    let source = pfn_at(&process, at);
    let mut mover = Mover::new(&lab.engine);
    let mut to = AnyFree::new(lab.physical(), 8);
    let options = Options::new(Mode::Async);
    let first = catch_unwind(AssertUnwindSafe(|| mover.migrate(&[source, of_device], &mut to, options)));
    assert!(first.is_err());
    let second = catch_unwind(AssertUnwindSafe(|| mover.migrate(&[pfn(1000)], &mut to, options)));
    let entry = process.space().entry(at);
    let kind = lab.physical().frame(source).state().kind();
    // The batch's pages stay locked.
    keep((mover, to, process, device));
    assert!(second.is_err() && entry.pfn() == source && kind == Kind::Anon, "freed while mapped: {kind:?}");
}

#[test]
fn a_destination_is_not_published() {
    let lab = Lab::new(TlbKind::Soft, 1);
    {
        let mut any = AnyFree::new(lab.physical(), 1);
        let folio = any.take(Order::ZERO, None).unwrap();
        assert!(catch_unwind(AssertUnwindSafe(|| folio.publish())).is_err());
    }
    lab.assert_all_free(512);
}

/// A 2 MiB page that a device has pinned by its frame's number: calls that need a part of it split its entry only.
#[test]
fn unmapping_a_part_of_a_pinned_huge_page_ends() {
    let lab = Lab::new(TlbKind::Soft, 6);
    let process = lab.process();
    let at = huge(&process, 512);
    process.store(at.start(), 1).unwrap();
    let pin = lab.get(pfn_at(&process, at.start())).pin(true, "nic");
    let head = pin.pfn();
    let space = process.space();
    space.munmap(part(at, 7, 1)).unwrap();
    space.mprotect(part(at, 9, 1), Protection::READ).unwrap();
    space.mremap(part(at, 11, 1), 1, Some(at.end().up(9))).unwrap();
    let child = process.fork().unwrap();
    let own = space.pin(part(at, 13, 1), true, "gpu").unwrap();
    assert_eq!((own[0].pfn(), pfn_at(&process, at.end().up(9))), (head.up(13), head.up(11)));
    assert_eq!(lab.migrate(head.up(13), Mode::Sync), Err(Reason::Pinned));
    process.store(at.start(), 2).unwrap();
    assert_eq!((pin.words(0)[0].load(Ordering::Relaxed), child.load(at.start()).unwrap()), (2, 1), "the device's copy");
    drop((pin, own));
    lab.migrate(head, Mode::Sync).unwrap();
    assert_eq!(process.load(at.start()).unwrap(), 2);
    drop((process, child));
    lab.assert_all_free(6 * 512);
}

/// A look-up by the number of a tail, while the 2 MiB page is split.
#[test]
fn a_tail_gives_the_folio_that_it_belongs_to_while_it_is_split() {
    let lab = Lab::new(TlbKind::Soft, 8);
    let (head_of, over, wrong, looks) =
        (AtomicU32::new(u32::MAX), AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let head = head_of.load(Ordering::Relaxed);
                    if head == u32::MAX {
                        continue;
                    }
                    let tail = pfn(head + 511);
                    if let Some(folio) = lab.physical().get(tail) {
                        looks.fetch_add(1, Ordering::Relaxed);
                        // With the reference it stays what it is.
                        let (first, order) = (folio.pfn(), folio.order());
                        if tail.align_down(order) != first {
                            wrong.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        let _end = SetAtEnd(&over);
        let process = lab.process();
        for _ in 0..1000 {
            let at = huge(&process, 512);
            process.store(at.start(), 1).unwrap();
            let mut head = pfn_at(&process, at.start());
            head_of.store(number(head), Ordering::Relaxed);
            // A look-up's reference is in the way of a split.
            for _ in 0..100 {
                match split(&lab.engine, lab.get(head).lock()) {
                    Ok(_) => break,
                    Err((folio, _)) => {
                        head = folio.pfn();
                        thread::yield_now();
                    }
                }
            }
            head_of.store(u32::MAX, Ordering::Relaxed);
            process.space().munmap(at).unwrap();
        }
    });
    let splits = lab.physical().counters().get(Counter::ThpSplitPage);
    assert!(splits > 100, "{splits} splits");
    let wrong = wrong.load(Ordering::Relaxed);
    assert_eq!(wrong, 0, "of {} look-ups gave a folio that hasn't the frame", looks.load(Ordering::Relaxed));
}

/// A driver with a bound.
struct Bounded {
    index: Arc<PageIndex>,
    below: Option<Pfn>,
}

impl MovableOps for Bounded {
    fn name(&self) -> &str {
        "bounded"
    }
    fn below(&self) -> Option<Pfn> {
        self.below
    }
    fn migrate(&self, run: &mut MigrationRun<'_>) {
        self.index.repoint(run);
    }
}

fn bounded(lab: &Lab, below: u32) -> (Arc<Bounded>, Registration) {
    let index = lab.engine.new_index(Kind::Driver, "bounded");
    let driver = Arc::new(Bounded { index, below: Some(pfn(below)) });
    let registration = lab.engine.owners().register(driver.clone());
    driver.index.set_owner(&registration);
    (driver, registration)
}

/// The bound holds for what an owner takes over.
#[test]
fn a_folio_above_the_owners_bound_is_refused() {
    let lab = Lab::new(TlbKind::Soft, 2);
    let (driver, registration) = bounded(&lab, 512);
    let high = || lab.physical().alloc_exactly(pfn(700), Kind::Driver).unwrap();
    let inserted = catch_unwind(AssertUnwindSafe(|| driver.index.insert(0, high()).is_ok())).unwrap_or(false);
    driver.index.remove(0);
    let owned = catch_unwind(AssertUnwindSafe(|| {
        let (token, folio) = registration.own(high(), Key::default());
        registration.release(token, &folio);
    }));
    assert_eq!((inserted, owned.is_ok()), (false, false), "(inserted, owned) above the bound");
}

/// The registration of another engine.
#[test]
fn an_index_refuses_an_owner_of_another_engine() {
    let (ours, theirs) = (Lab::new(TlbKind::Soft, 1), Lab::new(TlbKind::Soft, 1));
    let (foreign, foreign_registration) = bounded(&theirs, 512);
    // A driver of ours with the same number.
    let victim = Device::open(&ours);
    assert_eq!(victim.registration.number(), foreign_registration.number());
    let index = ours.engine.new_index(Kind::Driver, "ours");
    let set = catch_unwind(AssertUnwindSafe(|| index.set_owner(&foreign_registration)));
    let pfn = index.lock_or_insert(0).unwrap().pfn();
    let moved = ours.migrate(pfn, Mode::Sync);
    let calls = victim.driver.take_calls();
    eprintln!("{moved:?}, the victim was called: {calls:?}");
    drop(index);
    drop(foreign);
    assert!(set.is_err() && calls.is_empty(), "a driver was asked for a page that isn't its own");
}

/// Compaction's destination with a bound.
#[test]
fn a_bounded_folio_finds_room_in_a_later_block_of_the_plan() {
    let lab = Lab::new(TlbKind::Soft, 4);
    let (driver, _registration) = bounded(&lab, 1024);
    let [one, two] = [600, 601].map(pfn);
    let folio = lab.physical().alloc_exactly(one, Kind::Driver).unwrap();
    drop(driver.index.insert(0, folio).unwrap());
    let other = lab.physical().alloc_exactly(two, Kind::Driver).unwrap();
    let device = Device::open(&lab);
    drop(device.driver.index.insert(0, other).unwrap());
    let mut to = TheseFrames::new(lab.physical(), [3, 0]);
    let outcome = Mover::new(&lab.engine).migrate(&[two, one], &mut to, Options::new(Mode::Sync));
    assert_eq!((outcome.moved, outcome.stayed), (2, vec![]), "block 0 of the plan is free and below the bound");
}

/// An index of a kind that isn't movable, or that its mappings take for anonymous.
#[test]
fn an_index_has_pages_of_a_drivers_or_a_files() {
    let lab = Lab::new(TlbKind::Soft, 1);
    for kind in [Kind::Anon, Kind::Kernel, Kind::PageTable, Kind::Free] {
        assert!(catch_unwind(AssertUnwindSafe(|| drop(lab.engine.new_index(kind, "wrong")))).is_err(), "{kind:?}");
    }
}

/// A mover by a mappable whose reverse map isn't the same at every call (debug: panics; release: stays linked).
struct Two {
    maps: [Arc<RangeMap>; 2],
    inner: Arc<PageCache>,
    turn: AtomicU32,
}

impl Mappable for Two {
    fn name(&self) -> &str {
        "two"
    }
    fn reverse_map(&self) -> &Arc<RangeMap> {
        &self.maps[self.turn.fetch_add(1, Ordering::Relaxed) as usize % 2]
    }
    fn fault(&self, index: u32) -> Result<LockedFolio<'_>, FileError> {
        self.inner.fault(index)
    }
    fn bring(&self, index: u32) -> Result<(), FileError> {
        self.inner.bring(index)
    }
}

#[test]
fn a_mapping_leaves_the_reverse_map_that_it_was_put_into() {
    let lab = Lab::new(TlbKind::Soft, 1);
    let inner = PageCache::new(&lab.engine, "inner", 4);
    let maps = [(); 2].map(|()| RangeMap::new(lab.engine.reverse_maps()));
    let two = Arc::new(Two { maps, inner, turn: AtomicU32::new(0) });
    let process = lab.process();
    let at = shared(&process, two.clone(), 1, Protection::READ);
    let unmapped = catch_unwind(AssertUnwindSafe(|| process.space().munmap(at).unwrap()));
    let left: Vec<_> = two.maps.iter().map(|map| map.mappings()).collect();
    assert_eq!((unmapped.is_ok(), left), (true, vec![0, 0]));
}

/// Destinations that aren't there interrupt all processors once for each folio.
#[test]
fn a_batch_without_destinations_drains_once() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 2);
    let (driver, _registration) = bounded(&lab, 512);
    let pages: Vec<Pfn> = (0..64).map(|page| driver.index.lock_or_insert(page).unwrap().pfn()).collect();
    let filled: Vec<_> =
        std::iter::from_fn(|| lab.physical().alloc_with(&Request::new(Order::ZERO, Kind::Kernel).below(pfn(512))).ok())
            .collect();
    let count = Arc::new(AtomicU32::new(0));
    fn again(hooked: &Arc<Hooked>, count: &Arc<AtomicU32>) {
        let (next, counter) = (Arc::downgrade(hooked), count.clone());
        hooked.at_next_barrier(move || {
            counter.fetch_add(1, Ordering::Relaxed);
            if let Some(hooked) = next.upgrade() {
                again(&hooked, &counter);
            }
        });
    }
    again(&hooked, &count);
    let outcome = lab.migrate_all(&pages, Options::new(Mode::Async).in_full_batches());
    let barriers = count.load(Ordering::Relaxed);
    hooked.at_next_barrier(|| ());
    assert_eq!(outcome.stayed.len(), 64);
    drop(filled);
    assert!(barriers <= 2, "{barriers} barriers of all processors for one batch, with 64 sources locked");
}

/// Folios that stay in some parts of a batch, for different reasons, of both kinds and of several orders.
#[test]
fn folios_that_stay_in_some_parts() {
    for seed in 0..40 {
        on_both(6, |lab| {
            use rand::RngExt;
            let mut rng = rng(seed);
            let device = Device::open(lab);
            let process = lab.process();
            let own = anonymous(&process, 60);
            let at = shared(&process, device.clone(), 60, RW);
            let mut sources = Vec::new();
            for page in 0..60 {
                for range in [own, at] {
                    process.store(range.start().up(page), u64::from(page) + 1).unwrap();
                    sources.push(pfn_at(&process, range.start().up(page)));
                }
            }
            let held: Vec<_> =
                sources.iter().filter(|_| rng.random_range(0..5) == 0).map(|&pfn| lab.get(pfn)).collect();
            let stays = held.len() as u64;
            if seed % 3 == 1 {
                device.driver.refuse(Stage::ALL[rng.random_range(0..3)], Refusal::No);
            }
            let mut mover = Mover::new(&lab.engine);
            let mut to = AnyFree::new(lab.physical(), 64);
            for batch in [Batch::Micros(120), Batch::Micros(50), Batch::Folios(512)] {
                let outcome = mover.migrate(&sources, &mut to, Options { batch, ..Options::new(Mode::Async) });
                assert_eq!(outcome.moved + outcome.stayed.len() as u64, 120);
                assert!(outcome.stayed.len() as u64 >= stays);
                sources.clear();
                for page in 0..60 {
                    for range in [own, at] {
                        assert_eq!(process.load(range.start().up(page)).unwrap(), u64::from(page) + 1);
                        sources.push(pfn_at(&process, range.start().up(page)));
                    }
                }
                assert_eq!(device.driver.isolated(), 0);
            }
            drop((held, to));
            lab.validate();
        });
    }
}

/// The same source twice.
#[test]
fn a_source_that_is_named_twice() {
    on_both(2, |lab| {
        let device = Device::open(lab);
        device.fill(0, 7);
        for mode in MODES {
            for batch in BATCHES {
                let pfn = device.peek(0);
                let outcome = lab.migrate_all(&[pfn, pfn, pfn], Options { batch, ..Options::new(mode) });
                assert!(outcome.moved >= 1, "{outcome:?}");
                assert_eq!(device.driver.isolated(), 0);
                lab.validate();
            }
        }
    });
}

/// One registration, two indexes: a file each, say.
#[test]
fn one_registration_may_have_two_indexes() {
    struct Both([Arc<PageIndex>; 2]);
    impl MovableOps for Both {
        fn name(&self) -> &str {
            "both"
        }
        fn migrate(&self, run: &mut MigrationRun<'_>) {
            self.0.iter().for_each(|index| index.repoint(run));
        }
    }
    let lab = Lab::new(TlbKind::Soft, 1);
    let both = Arc::new(Both([(); 2].map(|()| lab.engine.new_index(Kind::Driver, "one of two"))));
    let registration = lab.engine.owners().register(both.clone());
    both.0.iter().for_each(|index| index.set_owner(&registration));
    let pages = [0, 1].map(|at: usize| both.0[at].lock_or_insert(at as u32).unwrap().pfn());
    let outcome = lab.migrate_all(&pages, Options::new(Mode::Sync));
    assert_eq!((outcome.moved, outcome.stayed), (2, vec![]));
}

/// A driver whose table of tokens is mapped by processes.
struct Mapped {
    tokens: Mutex<std::collections::BTreeMap<u32, pagemove::movable::FolioToken>>,
}

impl MovableOps for Mapped {
    fn name(&self) -> &str {
        "mapped"
    }
    fn migrate(&self, run: &mut MigrationRun<'_>) {
        run.for_each(|folio| folio.exchange(self.tokens.lock().unwrap().get_mut(&folio.index()).ok_or(Refusal::No)?));
    }
}

struct MappedFile {
    driver: Arc<Mapped>,
    registration: Registration,
    map: Arc<RangeMap>,
    order: Order,
    physical: Arc<pagemove::zone::Physical>,
}

impl MappedFile {
    fn new(lab: &Lab, order: Order) -> Arc<Self> {
        let driver = Arc::new(Mapped { tokens: Mutex::default() });
        let registration = lab.engine.owners().register(driver.clone());
        let map = RangeMap::new(lab.engine.reverse_maps());
        Arc::new(Self { driver, registration, map, order, physical: lab.physical().clone() })
    }

    fn release(&self, index: u32) {
        let token = self.driver.tokens.lock().unwrap().remove(&index).unwrap();
        let folio = self.registration.get(&token).unwrap().lock();
        let mut debt = FlushDebt::new(&self.physical);
        self.map.unmap(&folio, &mut debt);
        debt.pay();
        self.registration.release(token, &folio);
    }
}

impl MappedFile {
    fn page(&self, index: u32) -> Result<LockedFolio<'_>, FileError> {
        loop {
            let moving = {
                let mut tokens = self.driver.tokens.lock().unwrap();
                match tokens.get(&index) {
                    None => {
                        let mut folio = self.physical.alloc(self.order, Kind::Driver)?;
                        folio.zero();
                        let (token, locked) = self.registration.own(folio, Key { rmap: self.map.id(), index });
                        tokens.insert(index, token);
                        return Ok(locked);
                    }
                    Some(token) => match self.registration.get(token) {
                        Ok(folio) => {
                            drop(tokens);
                            let folio = folio.lock();
                            if self.driver.tokens.lock().unwrap().get(&index).map(|token| token.pfn())
                                == Some(folio.pfn())
                            {
                                return Ok(folio);
                            }
                            continue;
                        }
                        Err(pagemove::movable::TokenError::Moving(pfn)) => pfn,
                        Err(error) => panic!("{error}"),
                    },
                }
            };
            self.registration.wait_for_move(moving);
        }
    }
}

impl Mappable for MappedFile {
    fn name(&self) -> &str {
        "mapped"
    }
    fn reverse_map(&self) -> &Arc<RangeMap> {
        &self.map
    }
    fn fault(&self, index: u32) -> Result<LockedFolio<'_>, FileError> {
        let token = {
            let tokens = self.driver.tokens.lock().unwrap();
            tokens.get(&index).map(|token| self.registration.get(token))
        };
        match token {
            None => self.page(index),
            Some(Ok(folio)) => {
                let folio = folio.try_lock().map_err(|_| FileError::NotReady)?;
                let now = self.driver.tokens.lock().unwrap().get(&index).map(|token| token.pfn());
                if now == Some(folio.pfn()) { Ok(folio) } else { Err(FileError::NotReady) }
            }
            Some(Err(_)) => Err(FileError::NotReady),
        }
    }
    fn bring(&self, index: u32) -> Result<(), FileError> {
        self.page(index).map(drop)
    }
}

/// Folios by tokens, mapped by processes, forked, and released: a dimension that no test has.
#[test]
fn folios_by_tokens_move_while_they_are_mapped() {
    on_both(4, |lab| {
        let file = MappedFile::new(lab, Order::ZERO);
        {
            let process = lab.process();
            let at = shared(&process, file.clone(), 40, RW);
            at.iter().for_each(|page| process.store(page, page.get()).unwrap());
            let child = process.fork().unwrap();
            at.iter().for_each(|page| assert_eq!(child.load(page).unwrap(), page.get()));
            for mode in MODES {
                for batch in BATCHES {
                    let sources: Vec<Pfn> = at.iter().map(|page| pfn_at(&process, page)).collect();
                    let outcome = lab.migrate_all(&sources, Options { batch, ..Options::new(mode) });
                    assert_eq!((outcome.moved, outcome.stayed), (40, vec![]));
                    at.iter().for_each(|page| {
                        assert_eq!(child.load(page).unwrap(), page.get());
                        assert_eq!(process.load(page).unwrap(), page.get());
                    });
                    lab.validate();
                }
            }
            // Threads fault while they move.
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let process = lab.process();
                        let mine = shared(&process, file.clone(), 40, RW);
                        for (mine, page) in mine.iter().zip(at.iter()) {
                            assert_eq!(process.load(mine).unwrap(), page.get());
                        }
                    }
                });
                let _end = SetAtEnd(&over);
                for round in 0..200 {
                    let sources: Vec<Pfn> = at.iter().map(|page| process.space().entry(page).pfn()).collect();
                    lab.migrate_all(&sources, Options { batch: BATCHES[round % 5], ..Options::new(MODES[round % 3]) });
                }
            });
            file.release(3);
            assert!(!process.space().entry(at.start().up(3)).is_present());
            assert_eq!(process.load(at.start().up(3)).unwrap(), 0, "a new one");
        }
        let numbers: Vec<u32> = file.driver.tokens.lock().unwrap().keys().copied().collect();
        numbers.into_iter().for_each(|number| file.release(number));
    });
}

/// Pages are found by the place that the folio's key names.
#[test]
fn a_large_folio_is_mapped_where_its_key_says() {
    let lab = Lab::new(TlbKind::Soft, 2);
    let file = MappedFile::new(&lab, order(2));
    let process = lab.process();
    let at = shared(&process, file.clone(), 8, RW).start();
    process.store(at.up(1), 7).unwrap();
    let head = file.driver.tokens.lock().unwrap()[&1].pfn();
    assert_eq!(pfn_at(&process, at.up(1)), head, "the folio begins with page 1");
    assert_eq!(lab.migrate(head, Mode::Sync), Ok(()));
    assert_eq!(process.load(at.up(1)).unwrap(), 7);
    drop(process);
    file.release(1);
}

/// Two engines on one machine would hand out the same frames.
#[test]
fn a_machine_is_taken_over_by_one_engine_at_a_time() {
    let machine = hosted(TlbKind::Soft, 512, 4);
    let boot = |frames| pagemove::Engine::boot(machine.clone(), &one_zone(frames, 9));
    assert!(matches!(boot(1024), Err(BootError::BeyondRam(0))));
    let one = boot(512).expect("one that was refused has let go of the machine");
    assert_eq!(boot(512).err(), Some(BootError::TakenOver));
    drop(one);
    boot(512).expect("the first has ended");
}
