//! The trait of an owner whose folios can move.

use super::{FolioToken, IsolatedFolio, IsolationRun, MigrationRun, Purposes, PutbackRun};
use crate::units::Pfn;

/// An owner's part of a move: Linux's `isolate_page`, `migratepage` and `putback_page` (4.8 to 6.16), by runs, for
/// folios that may be mapped meanwhile. The owner must not move, free or repurpose a folio from `isolate` to `putback`.
///
/// An owner is not asked for a folio with references beyond its own and the mappings'. All callbacks run with the
/// folios locked, and never after [`Registration::unregister`](super::Registration::unregister) has returned. They must
/// not lock folios, and in [`Mode::Async`](super::Mode::Async) must not sleep. All but `migrate` have a default: an
/// owner that keeps a [`PageIndex`](super::PageIndex) writes one line.
pub trait MovableOps: Send + Sync {
    /// Gives the owner's name, for reports.
    fn name(&self) -> &str;

    /// Gives the purposes for which its folios may move; called once, at registration.
    fn purposes(&self) -> Purposes {
        Purposes::all()
    }

    /// Gives the frame below which all its folios must be; called once, at registration. For devices that can't address
    /// more.
    fn below(&self) -> Option<Pfn> {
        None
    }

    /// Tells whether its large folios may be split; called once, at registration. After a split each page is a base folio
    /// with a reference of the owner's, the next index and the same frame. An owner that keeps tokens also writes
    /// [`Self::split`].
    fn splits(&self) -> bool {
        false
    }

    /// Tells that `folio` becomes base folios; can't be refused. Its token is that of its first page from now on, and
    /// `tails` gives the tokens of the others, in order. They must be kept, or these pages are never freed. Nobody gets a
    /// reference to any of them before this returns. Called in [`Mode::SyncLight`](super::Mode::SyncLight) and
    /// [`Mode::Sync`](super::Mode::Sync); it must not wait for storage. Not called by a truncation of a part of a
    /// [`PageIndex`](super::PageIndex)' folio.
    ///
    /// A [`PageIndex`](super::PageIndex) has each page's frame already, so an owner that keeps all its folios there writes
    /// nothing.
    fn split(&self, folio: IsolatedFolio, tails: &mut dyn Iterator<Item = FolioToken>) {
        let _ = (folio, tails);
    }

    /// Takes the folios off the owner's lists and stops devices that use them, or refuses.
    fn isolate(&self, run: &mut IsolationRun<'_>) {
        let _ = run;
    }

    /// Copies the contents; an owner may use a copy engine. Others see the copies only after the next step. A run may
    /// be a part of the isolated run; with [`crate::migrate::Batch::Folios`] it's all of it.
    fn copy(&self, run: &mut MigrationRun<'_>) {
        run.copy_contents();
    }

    /// Points the owner's tables to the destinations, which have the contents, by
    /// [`MovingFolio::exchange`](super::MovingFolio::exchange) of each token. The owner's references move along. A
    /// folio whose token isn't exchanged stays in its place.
    fn migrate(&self, run: &mut MigrationRun<'_>);

    /// Takes the folios back: the destination after a move, otherwise the source. Called once for each folio that
    /// `isolate` granted.
    fn putback(&self, run: &PutbackRun<'_>) {
        let _ = run;
    }
}
