//! What an owner implements so that its folios can move.

use super::{IsolationRun, MigrationRun, Purposes, PutbackRun};
use crate::units::Pfn;

/// An owner's side of a move: Linux's `isolate_page`, `migratepage` and `putback_page` (4.8 to 6.16), by runs, for folios that may
/// be mapped meanwhile. The owner must not move, free or repurpose a folio between `isolate` and what ends it.
///
/// Nobody is asked about a folio that has more references than those of its owner and its mappings. All callbacks run with the
/// folios locked, and never after [`Registration::unregister`](super::Registration::unregister) has returned. They must not lock folios, and in [`Mode::Async`](super::Mode::Async)
/// must not sleep. All but `migrate` have a default: an owner that keeps a [`PageIndex`](super::PageIndex) writes one line.
pub trait MovableOps: Send + Sync {
    /// Names the owner in reports.
    fn name(&self) -> &str;

    /// Tells for what its folios may be moved; asked once, when it's registered.
    fn purposes(&self) -> Purposes {
        Purposes::all()
    }

    /// Tells the frame below which its folios must stay wherever they are moved; asked once, when it's registered. For devices that
    /// can't reach higher addresses.
    fn below(&self) -> Option<Pfn> {
        None
    }

    /// Takes the folios off the owner's own lists, stops devices that use them, or refuses.
    fn isolate(&self, run: &mut IsolationRun<'_>) {
        let _ = run;
    }

    /// Copies the contents; an owner may use an engine of its own. Others see the copies only after the next step. A run may be a part of
    /// the one that was isolated: with [`crate::migrate::Batch::Folios`] it's all of it.
    fn copy(&self, run: &mut MigrationRun<'_>) {
        run.copy_contents();
    }

    /// Points the owner's tables to the destinations, which have the contents: [`MovingFolio::exchange`](super::MovingFolio::exchange) with the token of each.
    /// The owner's references go along. A folio whose token isn't exchanged stays where it is.
    fn migrate(&self, run: &mut MigrationRun<'_>);

    /// Takes the folios back: in the new place after a move, in the old one after none. Each that `isolate` granted comes once.
    fn putback(&self, run: &PutbackRun<'_>) {
        let _ = run;
    }
}
