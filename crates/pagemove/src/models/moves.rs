//! Whole moves of an unmapped driver's page, against what its driver and others do with it.

use alloc::{boxed::Box, string::ToString, sync::Arc};

use loom::thread;

use super::{
    machine::{FRAMES, Guarded, Model},
    within,
};
use crate::{
    Engine,
    folio::FolioRef,
    frame::{Key, Kind},
    migrate::{AnyFree, Mode, Mover, Options},
    movable::{IsolationRun, MigrationRun, MovableOps, PageIndex, PutbackRun, Registration, TokenCell, TokenError},
    sync::Ordering,
    units::{Order, Pfn},
};

/// A driver that counts its isolated pages, and refuses moves if `refuses`.
struct Driver {
    index: Arc<PageIndex>,
    isolated: Guarded,
    refuses: bool,
}

impl MovableOps for Driver {
    fn name(&self) -> &str {
        "a driver"
    }

    fn isolate(&self, run: &mut IsolationRun<'_>) {
        run.decide(|_| {
            assert_eq!(self.isolated.read(), 0, "isolated twice");
            self.isolated.write(1);
            Ok(())
        });
    }

    fn migrate(&self, run: &mut MigrationRun<'_>) {
        if !self.refuses {
            self.index.repoint(run);
        }
    }

    fn putback(&self, run: &PutbackRun<'_>) {
        for _ in run.folios() {
            assert_eq!(self.isolated.read(), 1, "put back without having been isolated");
            self.isolated.write(0);
        }
    }
}

struct Scene {
    engine: Arc<Engine>,
    driver: Arc<Driver>,
    registration: Box<Registration>,
    pfn: Pfn,
}

impl Scene {
    fn new(refuses: bool) -> Self {
        let engine = Model::sleeping().boot();
        let index = engine.new_index(Kind::Driver, "a driver's".to_string());
        let driver = Arc::new(Driver { index, isolated: Guarded::new(), refuses });
        let registration = Box::new(engine.owners().register(driver.clone()));
        driver.index.set_owner(&registration);
        let pfn = driver.index.lock_or_insert(0).expect("a frame").pfn();
        Self { engine, driver, registration, pfn }
    }

    /// Moves the page; tells whether it moved.
    fn migrate(engine: &Engine, pfn: Pfn) -> bool {
        let mut destination = AnyFree::new(engine.physical(), 1);
        Mover::new(engine).migrate(&[pfn], &mut destination, Options::new(Mode::Async)).moved == 1
    }

    fn end(self, pages: u32) {
        let Self { engine, driver, registration, .. } = self;
        assert_eq!(driver.isolated.read(), 0, "a page was not put back");
        engine.physical().drain_cpu_lists();
        engine.physical().validate().expect("invariants 3 and 8");
        assert_eq!(engine.physical().free_frames(), FRAMES - pages);
        drop((driver, registration));
    }
}

#[test]
fn isolate_against_free_by_the_driver() {
    within(5, "a move against its driver's freeing", || {
        let scene = Scene::new(false);
        let (engine, pfn) = (scene.engine.clone(), scene.pfn);
        let mover = thread::spawn(move || Scene::migrate(&engine, pfn));
        assert!(scene.driver.index.remove(0), "the page was there");
        mover.join().expect("no panic");
        scene.end(0);
    });
}

#[test]
fn putback_against_free() {
    within(5, "a refused move against its driver's freeing", || {
        let scene = Scene::new(true);
        let (engine, pfn) = (scene.engine.clone(), scene.pfn);
        let mover = thread::spawn(move || Scene::migrate(&engine, pfn));
        assert!(scene.driver.index.remove(0), "the page was there");
        assert!(!mover.join().expect("no panic"));
        scene.end(0);
    });
}

#[test]
fn isolate_against_isolate() {
    within(3, "a move against a move of the same page", || {
        let scene = Scene::new(false);
        let (engine, pfn) = (scene.engine.clone(), scene.pfn);
        let other = thread::spawn(move || Scene::migrate(&engine, pfn));
        let moved = Scene::migrate(&scene.engine, pfn);
        let other = other.join().expect("no panic");
        assert!(!(moved && other), "one page was moved from one frame twice");
        scene.end(1);
    });
}

#[test]
fn a_move_against_a_lookup() {
    within(5, "a move against its driver's look-up of the page", || {
        let scene = Scene::new(false);
        let (engine, pfn) = (scene.engine.clone(), scene.pfn);
        let mover = thread::spawn(move || Scene::migrate(&engine, pfn));
        {
            let page = scene.driver.index.lock_page(0).expect("the page is there all along");
            assert_eq!(scene.driver.index.peek(0), Some(page.pfn()), "moved under a lock");
        }
        mover.join().expect("no panic");
        scene.end(1);
    });
}

/// A driver without a lock: its table is a cell. Its folio's first word says what the driver has there.
struct Cell {
    cell: TokenCell,
    other: TokenCell,
}

const WORD: u64 = 42;

impl MovableOps for Cell {
    fn name(&self) -> &str {
        "a driver with a cell"
    }

    fn copy(&self, run: &mut MigrationRun<'_>) {
        run.for_each(|folio| {
            folio.dst_words(0)[0].store(folio.src_words(0)[0].load(Ordering::Relaxed), Ordering::Relaxed);
            Ok(())
        });
    }

    fn migrate(&self, run: &mut MigrationRun<'_>) {
        run.for_each(|folio| folio.exchange_in(&self.cell));
    }
}

struct CellScene {
    engine: Arc<Engine>,
    driver: Arc<Cell>,
    registration: Registration,
    pfn: Pfn,
}

impl CellScene {
    fn new() -> Self {
        let mut scene = Self::empty();
        scene.pfn = scene.fill();
        scene
    }

    /// One whose cell is empty.
    fn empty() -> Self {
        let engine = Model::sleeping().boot();
        let driver = Arc::new(Cell { cell: TokenCell::new(), other: TokenCell::new() });
        let registration = engine.owners().register(driver.clone());
        Self { engine, driver, registration, pfn: Pfn::new(0) }
    }

    /// Puts a folio into the cell.
    fn fill(&self) -> Pfn {
        self.put(&self.driver.cell, WORD)
    }

    fn put(&self, cell: &TokenCell, word: u64) -> Pfn {
        let folio = self.engine.physical().alloc(Order::ZERO, Kind::Driver).expect("a frame");
        folio.words(0)[0].store(word, Ordering::Relaxed);
        let pfn = folio.pfn();
        let (token, folio) = self.registration.own(folio, Key::default());
        cell.put(token);
        drop(folio);
        pfn
    }

    /// Looks the folio up, waiting for moves.
    fn folio(&self) -> FolioRef<'_> {
        loop {
            match self.registration.get_in(&self.driver.cell) {
                Ok(folio) => return folio,
                Err(TokenError::Moving(pfn)) => self.registration.wait_for_move(pfn),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn end(self) {
        let Self { engine, driver, registration, .. } = self;
        engine.physical().drain_cpu_lists();
        engine.physical().validate().expect("invariants 3 and 8");
        drop((driver, registration));
    }
}

#[test]
fn a_move_against_a_lookup_in_a_cell() {
    within(5, "a move against a look-up in a cell", || {
        let scene = CellScene::new();
        let (engine, pfn) = (scene.engine.clone(), scene.pfn);
        let mover = thread::spawn(move || Scene::migrate(&engine, pfn));
        {
            let folio = scene.folio();
            assert_eq!(
                folio.words(0)[0].load(Ordering::Relaxed),
                WORD,
                "a look-up found another frame, or one not copied yet"
            );
        }
        mover.join().expect("no panic");
        scene.end();
    });
}

/// The frame that the folio had is soon another one's of the same owner.
#[test]
fn a_move_and_its_old_frame_against_a_lookup_in_a_cell() {
    within(3, "a move, and the reuse of its source, against a look-up in a cell", || {
        let scene = Arc::new(CellScene::new());
        let mover = {
            let scene = scene.clone();
            thread::spawn(move || {
                Scene::migrate(&scene.engine, scene.pfn);
                scene.put(&scene.driver.other, 0);
            })
        };
        assert_eq!(scene.folio().words(0)[0].load(Ordering::Relaxed), WORD, "a look-up found another cell's folio");
        mover.join().expect("no panic");
        Arc::into_inner(scene).expect("the only one").end();
    });
}

#[test]
fn a_new_folio_against_a_lookup_in_a_cell() {
    within(5, "a new folio against a look-up in its cell", || {
        let scene = Arc::new(CellScene::empty());
        let owner = scene.clone();
        let fill = thread::spawn(move || owner.fill());
        if !matches!(scene.registration.get_in(&scene.driver.cell), Err(TokenError::Empty)) {
            let word = scene.folio().words(0)[0].load(Ordering::Relaxed);
            assert_eq!(word, WORD, "a look-up found a folio that wasn't published");
        }
        fill.join().expect("no panic");
        Arc::into_inner(scene).expect("the only one").end();
    });
}

/// What is in the folio changes only while nobody has a reference.
#[test]
fn a_freeze_against_a_lookup_in_a_cell() {
    within(5, "an owner's freeze against a look-up", || {
        let scene = Arc::new(CellScene::new());
        let owner = scene.clone();
        let change = thread::spawn(move || {
            let Ok(mut folio) = owner.folio().try_lock() else { panic!("nobody else locks it") };
            if let Some(folio) = folio.try_freeze() {
                let word = &folio.words(0)[0];
                word.store(0, Ordering::Relaxed);
                word.store(WORD, Ordering::Relaxed);
            }
        });
        assert_eq!(scene.folio().words(0)[0].load(Ordering::Relaxed), WORD, "a look-up during a freeze");
        change.join().expect("no panic");
        Arc::into_inner(scene).expect("the only one").end();
    });
}

#[test]
fn a_move_against_its_owners_release() {
    within(5, "a move against the release of a cell's folio", || {
        let scene = CellScene::new();
        let (engine, pfn) = (scene.engine.clone(), scene.pfn);
        let mover = thread::spawn(move || Scene::migrate(&engine, pfn));
        {
            let folio = scene.registration.lock_in(&scene.driver.cell).expect("the folio");
            scene.registration.release_in(&scene.driver.cell, &folio);
        }
        mover.join().expect("no panic");
        scene.engine.physical().drain_cpu_lists();
        assert_eq!(scene.engine.physical().free_frames(), FRAMES);
        scene.end();
    });
}
