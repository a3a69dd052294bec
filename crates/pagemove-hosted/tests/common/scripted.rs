//! A driver that does what a test's script says: it refuses, runs hooks inside its callbacks, and logs all of them.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, atomic::Ordering},
};

use pagemove::{
    folio::LockedFolio,
    frame::Kind,
    movable::{IsolationRun, MigrationRun, MovableOps, PageIndex, PutbackRun, Refusal, Registration},
    rmap::RangeMap,
    space::{FileError, Mappable, Orders},
    units::Pfn,
};

use super::{Lab, raw};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Isolate(Pfn, u32),
    Copy(Pfn, Pfn, u32),
    Migrate(Pfn, Pfn, u32),
    Putback(Pfn, u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    Isolate,
    Copy,
    Migrate,
    Putback,
}

impl Stage {
    pub const ALL: [Stage; 4] = [Stage::Isolate, Stage::Copy, Stage::Migrate, Stage::Putback];
}

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Script {
    refuse: Option<(Stage, Refusal)>,
    hook: Option<(Stage, Hook)>,
    refuse_midway: Option<Refusal>,
    calls: Vec<Call>,
    isolated: BTreeSet<u32>,
}

/// The driver's side of a move.
pub struct Scripted {
    pub index: Arc<PageIndex>,
    script: Mutex<Script>,
}

/// An open file of the driver, to be mapped.
pub struct Device {
    pub driver: Arc<Scripted>,
    pub registration: Registration,
}

impl Device {
    pub fn open(lab: &Lab) -> Arc<Self> {
        Self::open_as(lab, Kind::Driver)
    }

    /// With pages of `kind`: a driver's, or a file system's.
    pub fn open_as(lab: &Lab, kind: Kind) -> Arc<Self> {
        let index = lab.engine.new_index(kind, "scripted");
        let driver = Arc::new(Scripted { index, script: Mutex::default() });
        let registration = lab.engine.owners().register(driver.clone());
        driver.index.set_owner(&registration);
        Arc::new(Self { driver, registration })
    }

    /// Makes the page at `index`; its first word is `value`.
    pub fn fill(&self, index: u32, value: u64) -> Pfn {
        let page = self.driver.index.lock_or_insert(index).unwrap();
        page.words(0)[0].store(value, Ordering::Release);
        page.pfn()
    }

    pub fn peek(&self, index: u32) -> Pfn {
        self.driver.index.peek(index).unwrap()
    }
}

impl Scripted {
    /// Refuses at `stage` (any but putback) from now on.
    pub fn refuse(&self, stage: Stage, refusal: Refusal) {
        self.script.lock().unwrap().refuse = Some((stage, refusal));
    }

    /// Breaks copies off when half of the words are copied, from now on.
    pub fn refuse_midway(&self, refusal: Refusal) {
        self.script.lock().unwrap().refuse_midway = Some(refusal);
    }

    pub fn refuse_nothing(&self) {
        let mut script = self.script.lock().unwrap();
        (script.refuse, script.refuse_midway) = (None, None);
    }

    /// How many pages are isolated and not yet put back.
    pub fn isolated(&self) -> usize {
        self.script.lock().unwrap().isolated.len()
    }

    /// Does `hook` once, inside the next callback of `stage`.
    pub fn during_next(&self, stage: Stage, hook: impl FnOnce() + Send + 'static) {
        self.script.lock().unwrap().hook = Some((stage, Box::new(hook)));
    }

    /// The callbacks since the last call of this.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.script.lock().unwrap().calls)
    }

    fn called(&self, stage: Stage, call: Call) -> Result<(), Refusal> {
        let hook = {
            let mut script = self.script.lock().unwrap();
            script.calls.push(call);
            script.hook.take_if(|(at, _)| *at == stage)
        };
        if let Some((_, hook)) = hook {
            hook();
        }
        match self.script.lock().unwrap().refuse {
            Some((at, refusal)) if at == stage => Err(refusal),
            _ => Ok(()),
        }
    }
}

impl MovableOps for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn isolate(&self, run: &mut IsolationRun<'_>) {
        run.decide(|folio| {
            self.called(Stage::Isolate, Call::Isolate(folio.pfn, folio.index))?;
            assert!(self.script.lock().unwrap().isolated.insert(folio.index), "page {} is isolated twice", folio.index);
            Ok(())
        });
    }

    fn copy(&self, run: &mut MigrationRun<'_>) {
        run.for_each(|folio| {
            self.called(Stage::Copy, Call::Copy(folio.src(), folio.dst(), folio.index()))?;
            if let Some(refusal) = self.script.lock().unwrap().refuse_midway {
                for (word, copy) in folio.src_words(0).iter().zip(folio.dst_words(0)).take(256) {
                    copy.store(word.load(Ordering::Relaxed), Ordering::Relaxed);
                }
                return Err(refusal);
            }
            folio.copy_contents();
            Ok(())
        });
    }

    fn migrate(&self, run: &mut MigrationRun<'_>) {
        run.for_each(|folio| self.called(Stage::Migrate, Call::Migrate(folio.src(), folio.dst(), folio.index())));
        self.index.repoint(run);
    }

    fn putback(&self, run: &PutbackRun<'_>) {
        for folio in run.folios() {
            let _ = self.called(Stage::Putback, Call::Putback(folio.pfn, folio.index));
            assert!(self.script.lock().unwrap().isolated.remove(&folio.index), "page {} was not isolated", folio.index);
        }
    }
}

impl Mappable for Device {
    fn name(&self) -> &str {
        "scripted"
    }

    fn reverse_map(&self) -> &Arc<RangeMap> {
        self.driver.index.reverse_map()
    }

    fn orders(&self) -> Orders {
        self.driver.index.orders()
    }

    fn fault(&self, index: u32) -> Result<LockedFolio<'_>, FileError> {
        Ok(self.driver.index.try_lock_or_insert(index)?)
    }

    fn bring(&self, index: u32) -> Result<(), FileError> {
        Ok(self.driver.index.lock_or_insert(index).map(drop)?)
    }
}
