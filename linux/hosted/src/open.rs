// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! An open of the device: processes' calls go to the driver, and the engine's callbacks to its `Moves`.
//!
//! Takes calls from any thread; passes them to the driver one at a time, and callbacks concurrently. Drop order: the
//! driver with its pins, then the registration (no callback runs after it), then the pages.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use pagemove::{
    Engine,
    folio::LockedFolio,
    migrate::{AnyFree, Mover, Options},
    movable::{self, IsolationRun, MigrationRun, MovableOps, PageIndex, PutbackRun, Registration},
    report::Reason,
    rmap::RangeMap,
    space::{FileError, Mappable},
    units::Pfn,
};
use pagemove_kit::{Absent, Driver, Errno, IsolatedFolio, Migration, Mode, Moves, Refusal, UserMemory};

use crate::pages::Pages;

/// An open of the device. It lives until it is closed and no longer mapped.
pub struct Open<D: Driver<Pages>> {
    // Fields are in drop order.
    driver: Mutex<D>,
    _registration: Registration,
    ops: Arc<Ops<D::Moves>>,
    pages: Pages,
    engine: Arc<Engine>,
}

/// The outcome of a requested move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The page is in another frame.
    Moved,
    /// The page wasn't moved, for this reason.
    Stayed(Reason),
    /// There is no such page.
    Absent,
}

/// The engine's view of the driver's callbacks.
struct Ops<M> {
    name: String,
    index: Arc<PageIndex>,
    // Unset while the driver's `open` runs, which may already add pages.
    moves: OnceLock<M>,
}

impl<M: Moves> MovableOps for Ops<M> {
    fn name(&self) -> &str {
        &self.name
    }

    fn isolate(&self, run: &mut IsolationRun<'_>) {
        let mode = mode(run.mode());
        run.decide(|folio| {
            let moves = self.moves.get().ok_or(movable::Refusal::Retry)?;
            moves.isolate(isolated(folio, mode)).map_err(|refusal| match refusal {
                Refusal::No => movable::Refusal::No,
                Refusal::Retry => movable::Refusal::Retry,
            })
        });
    }

    fn migrate(&self, run: &mut MigrationRun<'_>) {
        self.index.repoint(run);
        let (mode, Some(moves)) = (mode(run.mode()), self.moves.get()) else { return };
        for folio in run.exchanged() {
            let [src, dst] = [folio.src(), folio.dst()].map(|pfn| pfn.get());
            moves.migrate(Migration { index: folio.key().index.into(), src, dst, mode });
        }
    }

    fn putback(&self, run: &PutbackRun<'_>) {
        let (mode, Some(moves)) = (mode(run.mode()), self.moves.get()) else { return };
        run.folios().for_each(|folio| moves.putback(isolated(folio, mode)));
    }
}

fn isolated(folio: movable::IsolatedFolio, mode: Mode) -> IsolatedFolio {
    IsolatedFolio { index: folio.index.into(), pfn: folio.pfn.get(), mode }
}

fn mode(mode: movable::Mode) -> Mode {
    match mode {
        movable::Mode::Async => Mode::Async,
        movable::Mode::SyncLight => Mode::SyncLight,
        movable::Mode::Sync => Mode::Sync,
    }
}

impl<D: Driver<Pages>> Open<D> {
    pub(crate) fn new(engine: &Arc<Engine>) -> Result<Arc<Self>, Errno> {
        let name = D::NAME.to_string_lossy().into_owned();
        let pages = Pages::new(engine, &name);
        let ops = Arc::new(Ops { name, index: pages.index().clone(), moves: OnceLock::new() });
        let registration = engine.owners().register(ops.clone());
        pages.index().set_owner(&registration);
        let (driver, moves) = D::open(&pages)?;
        // Can't fail: nothing else sets it.
        let _ = ops.moves.set(moves);
        let (driver, engine) = (Mutex::new(driver), engine.clone());
        Ok(Arc::new(Self { driver, _registration: registration, ops, pages, engine }))
    }

    /// Gives the pages.
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// The state of the driver's move callbacks.
    pub fn moves(&self) -> &D::Moves {
        self.ops.moves.get().expect("set before an open is given to anybody")
    }

    fn call_driver<T>(&self, call: impl FnOnce(&mut D) -> T) -> T {
        call(&mut self.driver.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads, as a process's call does.
    pub fn read(&self, at: u64, user: &mut impl UserMemory) -> Result<usize, Errno> {
        self.call_driver(|driver| driver.read(&self.pages, at, user))
    }

    /// Writes, as a process's call does.
    pub fn write(&self, at: u64, user: &mut impl UserMemory) -> Result<usize, Errno> {
        self.call_driver(|driver| driver.write(&self.pages, at, user))
    }

    /// Carries out an ioctl, as a process's call does.
    pub fn ioctl(&self, command: u32, argument: &mut [u8]) -> Result<u32, Errno> {
        self.call_driver(|driver| driver.ioctl(&self.pages, self.moves(), command, argument))
    }

    /// Moves a page to any free frame.
    pub fn move_page(&self, index: u64, mode: pagemove::migrate::Mode) -> Outcome {
        let Some(pfn) = self.pages.pfn(index) else { return Outcome::Absent };
        let mut destination = AnyFree::new(self.engine.physical(), 1);
        let pfn = Pfn::new(pfn);
        let outcome = Mover::new(&self.engine).migrate(&[pfn], &mut destination, Options::new(mode));
        match outcome.stayed.first() {
            Some(&(_, reason)) => Outcome::Stayed(reason),
            None if outcome.moved == 0 => Outcome::Absent,
            None => Outcome::Moved,
        }
    }
}

impl<D: Driver<Pages>> Mappable for Open<D> {
    fn name(&self) -> &str {
        &self.ops.name
    }

    fn reverse_map(&self) -> &Arc<RangeMap> {
        self.pages.index().reverse_map()
    }

    fn fault(&self, index: u32) -> Result<LockedFolio<'_>, FileError> {
        self.pages.try_lock(index)
    }

    fn bring(&self, index: u32) -> Result<(), FileError> {
        let found = self.pages.lock(index.into(), Absent::Create).ok_or(FileError::BeyondEnd(index))??;
        found.map(drop).ok_or(FileError::BeyondEnd(index))
    }
}
