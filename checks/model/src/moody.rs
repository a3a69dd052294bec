//! A driver that can be set to refuse moves, at any of its callbacks.

use alloc::sync::Arc;

use pagemove::{
    Engine,
    folio::LockedFolio,
    frame::Kind,
    movable::{IsolationRun, MigrationRun, MovableOps, PageIndex, Refusal, Registration},
    rmap::RangeMap,
    space::{FileError, Mappable},
    sync::Mutex,
};

/// The driver's answer to moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mood {
    /// Lets its pages move.
    #[default]
    Moves,
    /// Refuses in this callback.
    Refuses(Step, Refusal),
    /// Has unregistered, for good.
    Gone,
}

/// A callback that can refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the callbacks")]
pub enum Step {
    Isolate,
    Copy,
    Migrate,
}

struct Driver {
    index: Arc<PageIndex>,
    mood: Mutex<Mood>,
}

/// An open file of the driver.
pub(crate) struct Moody {
    driver: Arc<Driver>,
    registration: Registration,
    pages: u32,
}

pub(crate) const NAME: &str = "moody";

impl Moody {
    /// Opens the driver's file of `pages` pages.
    pub(crate) fn open(engine: &Engine, pages: u32) -> Arc<Self> {
        let index = engine.new_index(Kind::Driver, NAME);
        let driver = Arc::new(Driver { index, mood: Mutex::new(Mood::default()) });
        let registration = engine.owners().register(driver.clone());
        driver.index.set_owner(&registration);
        Arc::new(Self { driver, registration, pages })
    }

    /// Gives the pages.
    pub(crate) fn index(&self) -> &PageIndex {
        &self.driver.index
    }

    /// Sets the answer from now on.
    pub(crate) fn set(&self, mood: Mood) {
        *self.driver.mood.lock() = mood;
        if mood == Mood::Gone {
            self.registration.unregister();
        }
    }
}

impl Driver {
    fn at(&self, step: Step) -> Result<(), Refusal> {
        match *self.mood.lock() {
            Mood::Refuses(at, refusal) if at == step => Err(refusal),
            _ => Ok(()),
        }
    }
}

impl MovableOps for Driver {
    fn name(&self) -> &str {
        NAME
    }

    fn isolate(&self, run: &mut IsolationRun<'_>) {
        run.decide(|_| self.at(Step::Isolate));
    }

    fn copy(&self, run: &mut MigrationRun<'_>) {
        run.for_each(|_| self.at(Step::Copy));
        run.copy_contents();
    }

    fn migrate(&self, run: &mut MigrationRun<'_>) {
        run.for_each(|_| self.at(Step::Migrate));
        self.index.repoint(run);
    }
}

impl Mappable for Moody {
    fn name(&self) -> &str {
        NAME
    }

    fn reverse_map(&self) -> &Arc<RangeMap> {
        self.driver.index.reverse_map()
    }

    fn fault(&self, index: u32) -> Result<LockedFolio<'_>, FileError> {
        if index >= self.pages {
            return Err(FileError::BeyondEnd(index));
        }
        Ok(self.driver.index.try_lock_or_insert(index)?)
    }

    fn bring(&self, index: u32) -> Result<(), FileError> {
        Ok(self.driver.index.lock_or_insert(index).map(drop)?)
    }
}
