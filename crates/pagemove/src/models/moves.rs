//! Whole moves of an unmapped driver's page, against what its driver and others do with it.

use alloc::{boxed::Box, string::ToString, sync::Arc};

use loom::thread;

use super::{
    machine::{FRAMES, Guarded, Model},
    within,
};
use crate::{
    Engine,
    frame::Kind,
    migrate::{AnyFree, Mode, Mover, Options},
    movable::{IsolationRun, MigrationRun, MovableOps, PageIndex, PutbackRun, Registration},
    units::Pfn,
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
