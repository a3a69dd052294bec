//! Owners with tables of their own: folios of any order by tokens, moved by runs, for the purposes and within the bound that the
//! owner allows.
mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use common::*;
use pagemove::{
    folio::FrozenFolio,
    frame::{Key, Kind},
    migrate::{AnyFree, Destination, Mode, Mover, Options, Outcome, Purpose},
    movable::{
        FolioToken, IsolatedFolio, IsolationRun, MigrationRun, MovableOps, PageIndex, Purposes, PutbackRun, Refusal,
        Registration, TokenError,
    },
    report::Reason,
    units::{MAX_ORDER, Order, Pfn},
    zone::Request,
};

/// A driver that keeps the tokens of its folios by number, and logs the numbers of each run.
struct Table {
    purposes: Purposes,
    below: Option<Pfn>,
    splits: bool,
    tokens: Mutex<BTreeMap<u32, FolioToken>>,
    refuses: Mutex<Vec<(Stage, u32)>>,
    exchanges: AtomicBool,
    runs: Mutex<Vec<(Stage, Vec<u32>)>>,
}

impl Table {
    fn new(purposes: Purposes, below: Option<Pfn>) -> Arc<Self> {
        Self::with(purposes, below, false)
    }

    fn with(purposes: Purposes, below: Option<Pfn>, splits: bool) -> Arc<Self> {
        let (tokens, refuses, runs) = Default::default();
        Arc::new(Self { purposes, below, splits, tokens, refuses, exchanges: AtomicBool::new(true), runs })
    }

    fn log(&self, stage: Stage, run: Vec<u32>) {
        self.runs.lock().unwrap().push((stage, run));
    }

    fn take_runs(&self, of: Stage) -> Vec<Vec<u32>> {
        let runs = std::mem::take(&mut *self.runs.lock().unwrap());
        runs.into_iter().filter(|(stage, _)| *stage == of).map(|(_, run)| run).collect()
    }

    fn answer(&self, stage: Stage, number: u32) -> Result<(), Refusal> {
        let refuses = self.refuses.lock().unwrap().contains(&(stage, number));
        if refuses { Err(Refusal::No) } else { Ok(()) }
    }

    fn pfn(&self, number: u32) -> Pfn {
        self.tokens.lock().unwrap()[&number].pfn()
    }

    fn pfns(&self) -> Vec<Pfn> {
        self.tokens.lock().unwrap().values().map(FolioToken::pfn).collect()
    }
}

impl MovableOps for Table {
    fn name(&self) -> &str {
        "table"
    }

    fn purposes(&self) -> Purposes {
        self.purposes
    }

    fn below(&self) -> Option<Pfn> {
        self.below
    }

    fn splits(&self) -> bool {
        self.splits
    }

    fn split(&self, folio: IsolatedFolio, tails: &mut dyn Iterator<Item = FolioToken>) {
        let mut tokens = self.tokens.lock().unwrap();
        assert_eq!(tokens[&folio.index].pfn(), folio.pfn);
        let before = tokens.len() as u32;
        tokens.extend((folio.index + 1..).zip(tails));
        assert_eq!(tokens.len() as u32, before + folio.order.frames() - 1);
    }

    fn isolate(&self, run: &mut IsolationRun<'_>) {
        let mut numbers = Vec::new();
        run.decide(|folio| {
            numbers.push(folio.index);
            self.answer(Stage::Isolate, folio.index)
        });
        self.log(Stage::Isolate, numbers);
    }

    fn copy(&self, run: &mut MigrationRun<'_>) {
        let mut numbers = Vec::new();
        run.for_each(|folio| {
            numbers.push(folio.index());
            self.answer(Stage::Copy, folio.index())
        });
        self.log(Stage::Copy, numbers);
        run.copy_contents();
    }

    fn migrate(&self, run: &mut MigrationRun<'_>) {
        let mut numbers = Vec::new();
        run.for_each(|folio| {
            numbers.push(folio.index());
            self.answer(Stage::Migrate, folio.index())?;
            if self.exchanges.load(Ordering::Relaxed) {
                folio.exchange(self.tokens.lock().unwrap().get_mut(&folio.index()).unwrap())?;
            }
            Ok(())
        });
        self.log(Stage::Migrate, numbers);
    }

    fn putback(&self, run: &PutbackRun<'_>) {
        for folio in run.folios() {
            assert_eq!(folio.pfn, self.pfn(folio.index), "a folio comes back where it isn't");
        }
        self.log(Stage::Putback, run.folios().map(|folio| folio.index).collect());
    }
}

/// The driver with its registration, which ends after its folios are released.
struct Owner<'a> {
    lab: &'a Lab,
    table: Arc<Table>,
    registration: Registration,
}

impl<'a> Owner<'a> {
    fn new(lab: &'a Lab) -> Self {
        Self::with(lab, Purposes::all(), None)
    }

    fn with(lab: &'a Lab, purposes: Purposes, below: Option<Pfn>) -> Self {
        Self::of(lab, Table::new(purposes, below))
    }

    /// One whose folios may be split.
    fn splitting(lab: &'a Lab) -> Self {
        Self::of(lab, Table::with(Purposes::all(), None, true))
    }

    fn of(lab: &'a Lab, table: Arc<Table>) -> Self {
        let registration = lab.engine.owners().register(table.clone());
        Self { lab, table, registration }
    }

    /// Owns a folio as number `number`; each frame's first and last words name it.
    fn add(&self, number: u32, folio: FrozenFolio<'_>) {
        for frame in 0..folio.order().frames() {
            let words = folio.words(frame);
            [0, 511].into_iter().for_each(|word| words[word].store(mark(number, frame), Ordering::Relaxed));
        }
        let (token, _locked) = self.registration.own(folio, Key { rmap: 0, index: number });
        assert!(self.table.tokens.lock().unwrap().insert(number, token).is_none());
    }

    fn add_new(&self, number: u32, order: Order) {
        self.add(number, self.lab.engine.physical().alloc(order, Kind::Driver).unwrap());
    }

    /// Checks that each folio is the one that it was, and that nobody has more references than its owner.
    fn check(&self) {
        for (&number, token) in &*self.table.tokens.lock().unwrap() {
            let folio = self.registration.get(token).unwrap();
            for frame in 0..folio.order().frames() {
                let words = [0, 511].map(|word| folio.words(frame)[word].load(Ordering::Relaxed));
                assert_eq!(words, [mark(number, frame); 2], "folio {number}, frame {frame}");
            }
            assert_eq!(self.lab.engine.physical().frame(folio.pfn()).refs(), 2, "its owner's and ours");
        }
        self.lab.validate();
    }

    fn migrate(&self, options: Options) -> Outcome {
        self.lab.migrate_all(&self.table.pfns(), options)
    }
}

impl Drop for Owner<'_> {
    fn drop(&mut self) {
        let tokens = std::mem::take(&mut *self.table.tokens.lock().unwrap());
        for (_, token) in tokens {
            let folio = self.registration.get(&token).unwrap().lock();
            self.registration.release(token, &folio);
        }
    }
}

fn mark(number: u32, frame: u32) -> u64 {
    u64::from(number) << 32 | u64::from(frame) << 1 | 1
}

#[test]
fn folios_of_any_order_move_with_their_tokens() {
    on_both(8, |lab| {
        for (at, mode) in MODES.into_iter().enumerate() {
            let owner = Owner::new(lab);
            let orders = || MAX_ORDER.up_to().filter(|order| order.get() < 10);
            orders().for_each(|order| owner.add_new(u32::from(order.get()), order));
            for _ in 0..=at {
                let before = owner.table.pfns();
                let outcome = owner.migrate(Options::new(mode));
                let frames: u32 = orders().map(Order::frames).sum();
                assert_eq!((outcome.moved, outcome.stayed), (u64::from(frames), vec![]));
                assert!(owner.table.pfns().iter().zip(&before).all(|(now, before)| now != before));
                owner.check();
            }
        }
        lab.assert_all_free(8 * 512);
    });
}

/// One call for all folios of an owner that follow each other; what one refuses holds up no other.
#[test]
fn a_run_is_one_call_and_each_folio_has_its_own_answer() {
    on_both(2, |lab| {
        let owner = Owner::new(lab);
        (0..16).for_each(|number| owner.add_new(number, order(u8::from(number % 5 == 0))));
        *owner.table.refuses.lock().unwrap() = vec![(Stage::Isolate, 3), (Stage::Copy, 4), (Stage::Migrate, 5)];
        let before = owner.table.pfns();
        let outcome = owner.migrate(Options::new(Mode::Async));
        let stayed: Vec<_> = [3, 4, 5].map(|number: usize| (before[number], Reason::Refused)).into();
        assert_eq!(outcome.stayed, stayed);
        let all: Vec<u32> = (0..16).collect();
        let but =
            |without: &[u32]| vec![all.iter().copied().filter(|number| !without.contains(number)).collect::<Vec<_>>()];
        let runs = owner.table.runs.lock().unwrap().clone();
        for (stage, without) in
            [(Stage::Isolate, &[][..]), (Stage::Copy, &[3]), (Stage::Migrate, &[3, 4]), (Stage::Putback, &[3])]
        {
            let of: Vec<Vec<u32>> = runs.iter().filter(|(at, _)| *at == stage).map(|(_, run)| run.clone()).collect();
            assert_eq!(of, but(without), "{stage:?}");
        }
        owner.check();
        let now = owner.table.pfns();
        assert!((0..16).all(|number| (now[number] == before[number]) == (3..6).contains(&number)));
    });
}

#[test]
fn owners_that_take_turns_get_runs_of_their_own() {
    on_both(2, |lab| {
        let (one, two) = (Owner::new(lab), Owner::new(lab));
        for number in 0..6 {
            let owner = if number % 3 == 0 { &two } else { &one };
            owner.add_new(number, order(0));
        }
        let mut sources: Vec<(u32, Pfn)> = [&one, &two]
            .into_iter()
            .flat_map(|owner| {
                owner.table.tokens.lock().unwrap().iter().map(|(&at, token)| (at, token.pfn())).collect::<Vec<_>>()
            })
            .collect();
        sources.sort_unstable();
        let sources: Vec<Pfn> = sources.into_iter().map(|(_, pfn)| pfn).collect();
        assert_eq!(lab.migrate_all(&sources, Options::new(Mode::Async)).moved, 6);
        assert_eq!(one.table.take_runs(Stage::Migrate), [vec![1, 2], vec![4, 5]]);
        assert_eq!(two.table.take_runs(Stage::Migrate), [vec![0], vec![3]]);
        [one, two].iter().for_each(Owner::check);
    });
}

/// A driver that says nothing, or exchanges the token of another folio, has refused.
#[test]
fn a_folio_whose_token_is_not_exchanged_stays() {
    on_both(2, |lab| {
        let owner = Owner::new(lab);
        (0..4).for_each(|number| owner.add_new(number, order(0)));
        let before = owner.table.pfns();
        owner.table.exchanges.store(false, Ordering::Relaxed);
        let outcome = owner.migrate(Options::new(Mode::Sync));
        assert!(outcome.stayed.iter().all(|&(_, reason)| reason == Reason::Refused) && outcome.stayed.len() == 4);
        assert_eq!(owner.table.pfns(), before);
        owner.check();
        assert_eq!(moved_by_swapped_tokens(lab), 0, "a token of another folio was exchanged");
    });
}

/// Owns two folios whose tokens it has mixed up, and gives how many of them move.
fn moved_by_swapped_tokens(lab: &Lab) -> u64 {
    struct Swapped(Arc<Table>);
    impl MovableOps for Swapped {
        fn name(&self) -> &str {
            "swapped"
        }
        // Without the table's putback, which checks places.
        fn migrate(&self, run: &mut MigrationRun<'_>) {
            self.0.migrate(run);
        }
    }
    let table = Table::new(Purposes::all(), None);
    let registration = lab.engine.owners().register(Arc::new(Swapped(table.clone())));
    let mut sources = Vec::new();
    for number in [0, 1] {
        let folio = lab.physical().alloc(order(0), Kind::Driver).unwrap();
        let (token, _locked) = registration.own(folio, Key { rmap: 0, index: number });
        sources.push(token.pfn());
        table.tokens.lock().unwrap().insert(1 - number, token);
    }
    let moved = lab.migrate_all(&sources, Options::new(Mode::Sync)).moved;
    for (_, token) in std::mem::take(&mut *table.tokens.lock().unwrap()) {
        let folio = registration.get(&token).unwrap().lock();
        registration.release(token, &folio);
    }
    moved
}

#[test]
fn an_owner_may_allow_some_purposes_only() {
    on_both(2, |lab| {
        for allowed in Purpose::ALL {
            let owner = Owner::with(lab, Purposes::from_bits_retain(allowed as u8), None);
            owner.add_new(0, order(0));
            for purpose in Purpose::ALL {
                let outcome = owner.migrate(Options { purpose, ..Options::new(Mode::Sync) });
                let asked = owner.table.take_runs(Stage::Isolate).len();
                if purpose == allowed {
                    assert_eq!((outcome.moved, asked), (1, 1));
                } else {
                    assert_eq!(outcome.stayed, [(owner.table.pfn(0), Reason::Purpose)]);
                    assert_eq!(asked, 0, "the owner was asked for {purpose:?}");
                }
            }
            owner.check();
        }
    });
}

/// All destinations of an owner with a bound lie below it, of every order; without one the folio stays, though there is memory above.
#[test]
fn destinations_obey_the_owners_bound() {
    let below = pfn(512);
    on_both(4, |lab| {
        let physical = lab.engine.physical();
        for of in [0, 3, 8].map(order) {
            let owner = Owner::with(lab, Purposes::all(), Some(below));
            let low = Request::new(of, Kind::Driver).below(below);
            owner.add(0, physical.alloc_with(&low).unwrap());
            for batch in BATCHES {
                for _ in 0..20 {
                    let before = owner.table.pfn(0);
                    let outcome = owner.migrate(Options { batch, ..Options::new(Mode::SyncLight) });
                    assert_eq!(outcome.moved, u64::from(of.frames()));
                    assert!(owner.table.pfn(0) < below && owner.table.pfn(0) != before);
                }
            }
            let filled: Vec<_> =
                std::iter::from_fn(|| physical.alloc_with(&Request::new(order(0), Kind::Kernel).below(below)).ok())
                    .collect();
            assert!(lab.free_frames() > 1000);
            let reason = if of == order(0) { Reason::NoDestination } else { Reason::Order };
            assert_eq!(owner.migrate(Options::new(Mode::Sync)).stayed, [(owner.table.pfn(0), reason)]);
            owner.check();
            drop(filled);
        }
        // An index allocates within the bound of its owner.
        let index = lab.engine.new_index(Kind::Driver, "low");
        let bounded = Arc::new(Bounded { index, below });
        let registration = lab.engine.owners().register(bounded.clone());
        bounded.index.set_owner(&registration);
        (0..100).for_each(|page| assert!(bounded.index.lock_or_insert(page).unwrap().pfn() < below));
    });
}

struct Bounded {
    index: Arc<PageIndex>,
    below: Pfn,
}

impl MovableOps for Bounded {
    fn name(&self) -> &str {
        "bounded"
    }

    fn below(&self) -> Option<Pfn> {
        Some(self.below)
    }

    fn migrate(&self, run: &mut MigrationRun<'_>) {
        self.index.repoint(run);
    }
}

/// Gives what it has, in its order.
struct Chosen<'p>(Vec<FrozenFolio<'p>>);

impl<'p> Destination<'p> for Chosen<'p> {
    fn take(&mut self, _: Order, _: Option<Pfn>) -> Option<FrozenFolio<'p>> {
        self.0.pop()
    }
}

/// Folios that follow each other in memory, to destinations that do, that do so backwards, and that don't.
#[test]
fn neighbours_are_copied_right_wherever_they_go() {
    on_both(2, |lab| {
        let physical = lab.engine.physical();
        for seed in 0..20 {
            let mut rng = rng(seed);
            let owner = Owner::new(lab);
            for number in 0..64 {
                owner.add(number, physical.alloc_exactly(pfn(number), Kind::Driver).unwrap());
            }
            let mut places: Vec<u32> = (512..576).collect();
            // Parts of it are turned around or moved.
            for _ in 0..seed % 7 {
                use rand::RngExt;
                let at = rng.random_range(0..60);
                let length = rng.random_range(1..=64 - at);
                places[at..at + length].reverse();
            }
            let chosen = places.iter().map(|&at| physical.alloc_exactly(pfn(at), Kind::Anon).unwrap());
            let mut chosen = Chosen(chosen.collect());
            let outcome = Mover::new(&lab.engine).migrate(&owner.table.pfns(), &mut chosen, Options::new(Mode::Async));
            assert_eq!((outcome.moved, chosen.0.len()), (64, 0), "seed {seed}");
            owner.check();
        }
    });
}

fn move_to<'a>(lab: &'a Lab, pfn: Pfn, destination: &mut Chosen<'a>) -> Outcome {
    Mover::new(&lab.engine).migrate(&[pfn], destination, Options::new(Mode::Async))
}

/// A destination that doesn't fit, by its order, bound or memory, is none; it goes back to where it's from.
#[test]
fn a_destination_that_does_not_fit_is_none() {
    on_both(2, |lab| {
        let other = Lab::new(BOTH[0], 1);
        let physical = lab.engine.physical();
        let owner = Owner::with(lab, Purposes::all(), Some(pfn(512)));
        owner.add_new(0, order(0));
        let free = lab.free_frames();
        let source = owner.table.pfn(0);
        for wrong in 0..3 {
            let mut destination = Chosen(vec![match wrong {
                0 => physical.alloc(order(1), Kind::Anon).unwrap(),
                1 => physical.alloc_exactly(pfn(700), Kind::Anon).unwrap(),
                _ => other.engine.physical().alloc(order(0), Kind::Anon).unwrap(),
            }]);
            let outcome = move_to(lab, source, &mut destination);
            assert_eq!(outcome.stayed, [(source, Reason::NoDestination)]);
            assert_eq!(lab.free_frames(), free);
        }
        other.assert_all_free(512);
        owner.check();
    });
}

#[test]
fn a_token_is_its_owners_only() {
    on_both(2, |lab| {
        let (owner, stranger) = (Owner::new(lab), Owner::new(lab));
        let other = Lab::new(BOTH[0], 1);
        let elsewhere = Owner::new(&other);
        owner.add_new(0, order(2));
        elsewhere.add(0, other.engine.physical().alloc_exactly(owner.table.pfn(0), Kind::Driver).unwrap());
        let pfn = owner.table.pfn(0);
        let tokens = owner.table.tokens.lock().unwrap();
        assert_eq!(stranger.registration.get(&tokens[&0]).err(), Some(TokenError::NotOwned(pfn)));
        assert_eq!(elsewhere.registration.get(&tokens[&0]).err(), Some(TokenError::NotOwned(pfn)));
        assert_eq!(owner.registration.get(&tokens[&0]).unwrap().order(), order(2));
    });
}

/// A look-up in mid-move is told so, and finds the folio in its new place after waiting.
#[test]
fn a_token_tells_that_its_folio_is_being_moved() {
    struct Looks {
        inner: Arc<Table>,
        registration: Mutex<Option<Arc<Registration>>>,
        seen: Mutex<Vec<Option<TokenError>>>,
    }
    impl MovableOps for Looks {
        fn name(&self) -> &str {
            "looks"
        }
        fn migrate(&self, run: &mut MigrationRun<'_>) {
            let registration = self.registration.lock().unwrap().clone().unwrap();
            let error = registration.get(&self.inner.tokens.lock().unwrap()[&0]).err();
            self.seen.lock().unwrap().push(error);
            self.inner.migrate(run);
            let error = registration.get(&self.inner.tokens.lock().unwrap()[&0]).err();
            self.seen.lock().unwrap().push(error);
        }
    }
    on_both(2, |lab| {
        let physical = lab.engine.physical();
        let inner = Table::new(Purposes::all(), None);
        let looks = Arc::new(Looks { inner: inner.clone(), registration: Mutex::default(), seen: Mutex::default() });
        let registration = Arc::new(lab.engine.owners().register(looks.clone()));
        *looks.registration.lock().unwrap() = Some(registration.clone());
        let (token, locked) =
            registration.own(physical.alloc(order(0), Kind::Driver).unwrap(), Key { rmap: 0, index: 0 });
        let before = locked.pfn();
        drop(locked);
        inner.tokens.lock().unwrap().insert(0, token);
        lab.migrate(before, Mode::Sync).unwrap();
        let after = inner.pfn(0);
        assert_eq!(*looks.seen.lock().unwrap(), [before, after].map(|pfn| Some(TokenError::Moving(pfn))));
        registration.wait_for_move(after);
        let token = inner.tokens.lock().unwrap().remove(&0).unwrap();
        let folio = registration.get(&token).unwrap().lock();
        registration.release(token, &folio);
        drop(folio);
        // The registration holds the driver, which holds it.
        *looks.registration.lock().unwrap() = None;
        lab.assert_all_free(1024);
    });
}

/// Others' threads look folios up by their tokens while they move, and never find another one.
#[test]
fn look_ups_race_with_moves() {
    const FOLIOS: u32 = 32;
    on_both(2, |lab| {
        let owner = Owner::new(lab);
        (0..FOLIOS).for_each(|number| owner.add_new(number, order((number % 3) as u8)));
        std::thread::scope(|scope| {
            for reader in 0..2 {
                let owner = &owner;
                scope.spawn(move || {
                    for round in 0..4000 {
                        let number = (round * 7 + reader * 13) % FOLIOS;
                        let moving = {
                            let tokens = owner.table.tokens.lock().unwrap();
                            match owner.registration.get(&tokens[&number]) {
                                Ok(folio) => {
                                    assert_eq!(folio.words(0)[0].load(Ordering::Relaxed), mark(number, 0));
                                    continue;
                                }
                                Err(TokenError::Moving(pfn)) => pfn,
                                Err(error) => panic!("{error}"),
                            }
                        };
                        owner.registration.wait_for_move(moving);
                    }
                });
            }
            for round in 0..300 {
                owner.migrate(Options { batch: BATCHES[round % 5], ..Options::new(MODES[round % 3]) });
            }
        });
        owner.check();
    });
}

/// A folio is split where no destination of its order is free, or on request. The owner gets the tokens of the pages, which move
/// and are released like any others.
#[test]
fn the_pages_of_a_split_have_tokens() {
    // Compaction doesn't break up a folio of a pageblock's size.
    for (of, on_request) in [(1, true), (2, true), (9, true), (1, false), (2, false)] {
        on_both(4, |lab| {
            let owner = Owner::splitting(lab);
            owner.add_new(100, order(of));
            let head = owner.table.pfn(100);
            if on_request {
                let folio = owner.registration.get(&owner.table.tokens.lock().unwrap()[&100]).unwrap().lock();
                let parts = pagemove::migrate::split(&lab.engine, folio).map_err(|(_, reason)| reason).unwrap();
                assert_eq!(parts.len() as u32, order(of).frames());
            } else {
                let held = lab.take_all(Kind::Kernel);
                let outcome = lab.migrate_all(&[head], Options::new(Mode::Sync));
                assert_eq!((outcome.moved, outcome.stayed.len() as u32), (0, order(of).frames()));
                drop(held);
            }
            let pages = range(number(head), order(of).frames());
            assert_eq!(owner.table.pfns(), pages.iter().collect::<Vec<_>>());
            for mode in MODES {
                let before = owner.table.pfns();
                assert_eq!(owner.migrate(Options::new(mode)).moved, u64::from(order(of).frames()));
                assert!(owner.table.pfns().iter().all(|pfn| !before.contains(pfn)));
            }
            for (number, token) in (0..).zip(owner.table.tokens.lock().unwrap().values()) {
                let page = owner.registration.get(token).unwrap();
                let words = [0, 511].map(|word| page.words(0)[word].load(Ordering::Relaxed));
                assert_eq!((page.order(), words), (order(0), [mark(100, number); 2]));
                assert_eq!(page.key(), Key { rmap: 0, index: 100 + number });
            }
            lab.validate();
        });
    }
}

/// Look-ups by token race with a split: each finds the page that it looked for, whole or alone, or is told to wait.
#[test]
fn look_ups_race_with_splits() {
    const FOLIOS: u32 = 24;
    on_both(2, |lab| {
        let owner = Owner::splitting(lab);
        (0..FOLIOS).for_each(|number| owner.add_new(number * 8, order(3)));
        let split = |number: u32| -> bool {
            let found = owner.registration.get(&owner.table.tokens.lock().unwrap()[&(number * 8)]);
            let Ok(folio) = found else { return false };
            // A reader may have a reference.
            pagemove::migrate::split(&lab.engine, folio.lock()).is_ok()
        };
        std::thread::scope(|scope| {
            for reader in 0..2 {
                let owner = &owner;
                scope.spawn(move || {
                    for round in 0..4000u32 {
                        let (number, page) = ((round * 7 + reader * 13) % FOLIOS, round % 8);
                        let moving = {
                            let tokens = owner.table.tokens.lock().unwrap();
                            let (token, frame) = match tokens.get(&(number * 8 + page)) {
                                Some(token) => (token, 0),
                                None => (&tokens[&(number * 8)], page),
                            };
                            match owner.registration.get(token) {
                                Ok(folio) => {
                                    let word = folio.words(frame)[0].load(Ordering::Relaxed);
                                    assert_eq!(word, mark(number * 8, page));
                                    continue;
                                }
                                Err(TokenError::Moving(pfn)) => pfn,
                                Err(error) => panic!("{error}"),
                            }
                        };
                        owner.registration.wait_for_move(moving);
                    }
                });
            }
            (0..FOLIOS).for_each(|number| while !split(number) {});
        });
        assert_eq!(owner.table.pfns().len() as u32, FOLIOS * 8);
        lab.validate();
    });
}

#[test]
#[should_panic(expected = "can't be owned")]
fn a_folio_of_the_kernels_is_not_owned() {
    let lab = Lab::new(BOTH[0], 1);
    let owner = Owner::new(&lab);
    owner.add_new(0, order(0));
    let kernel = lab.engine.physical().alloc(order(0), Kind::Kernel).unwrap();
    let _ = owner.registration.own(kernel, Key::default());
}

/// What a driver gives up while a device has it pinned is freed when the pin goes.
#[test]
fn a_released_folio_that_is_pinned_stays_until_then() {
    on_both(1, |lab| {
        let owner = Owner::new(lab);
        owner.add_new(0, order(3));
        let token = owner.table.tokens.lock().unwrap().remove(&0).unwrap();
        let folio = owner.registration.get(&token).unwrap().lock();
        let pin = folio.pin("nic");
        owner.registration.release(token, &folio);
        drop(folio);
        lab.validate();
        assert_eq!(lab.migrate(pin.pfn(), Mode::Sync), Err(Reason::Pinned));
        assert_eq!(lab.free_frames(), 512 - 8);
        drop(pin);
        drop(owner);
        lab.assert_all_free(512);
    });
}

/// Keeps the largest batch's worth of folios, so that one batch has runs of several owners and none.
#[test]
fn anonymous_pages_between_owners_move_in_the_same_batch() {
    on_both(2, |lab| {
        let owner = Owner::new(lab);
        let process = lab.process();
        let at = anonymous(&process, 8);
        let mut sources = Vec::new();
        for (number, address) in at.iter().enumerate() {
            process.store(address, number as u64 + 100).unwrap();
            sources.push(pfn_at(&process, address));
            if number % 3 != 2 {
                owner.add_new(number as u32, order(0));
                sources.push(owner.table.pfn(number as u32));
            }
        }
        let mut destination = AnyFree::new(lab.engine.physical(), 32);
        let outcome = Mover::new(&lab.engine).migrate(&sources, &mut destination, Options::new(Mode::Async));
        drop(destination);
        assert_eq!((outcome.moved, outcome.stayed), (sources.len() as u64, vec![]));
        for (number, address) in at.iter().enumerate() {
            assert_eq!(process.load(address).unwrap(), number as u64 + 100);
        }
        owner.check();
    });
}
