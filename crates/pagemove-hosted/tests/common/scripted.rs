//! A driver that does what a test's script says: it refuses, runs hooks inside its callbacks, and logs all of them.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, atomic::Ordering},
};

use pagemove::{
    frame::Kind,
    movable::{LockedPage, MovableOps, OwnedMove, OwnedPage, PageIndex, Refusal, Registration},
    rmap::RangeMap,
    space::{FileError, Mappable},
    units::Pfn,
};

use super::Lab;

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
        page.words()[0].store(value, Ordering::Release);
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

    fn isolate(&self, page: OwnedPage) -> Result<(), Refusal> {
        self.called(Stage::Isolate, Call::Isolate(page.pfn, page.index))?;
        assert!(self.script.lock().unwrap().isolated.insert(page.index), "page {} is isolated twice", page.index);
        Ok(())
    }

    fn copy(&self, page: &OwnedMove<'_>) -> Result<(), Refusal> {
        self.called(Stage::Copy, Call::Copy(page.from, page.to, page.index))?;
        if let Some(refusal) = self.script.lock().unwrap().refuse_midway {
            let [from, to] = [page.from, page.to].map(|pfn| self.index.physical().ram_words(pfn));
            for (word, copy) in from.iter().zip(to).take(256) {
                copy.store(word.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            return Err(refusal);
        }
        page.copy();
        Ok(())
    }

    fn migrate(&self, page: &OwnedMove<'_>) -> Result<(), Refusal> {
        self.called(Stage::Migrate, Call::Migrate(page.from, page.to, page.index))?;
        self.index.repoint(page)
    }

    fn putback(&self, page: OwnedPage) {
        let _ = self.called(Stage::Putback, Call::Putback(page.pfn, page.index));
        assert!(self.script.lock().unwrap().isolated.remove(&page.index), "page {} was not isolated", page.index);
    }
}

impl Mappable for Device {
    fn name(&self) -> &str {
        "scripted"
    }

    fn reverse_map(&self) -> &Arc<RangeMap> {
        self.driver.index.reverse_map()
    }

    fn fault(&self, index: u32) -> Result<LockedPage<'_>, FileError> {
        Ok(self.driver.index.lock_or_insert(index)?)
    }
}
