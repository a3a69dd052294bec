//! Splitting large folios: those that a move finds no destination for, and on request.

use alloc::vec::Vec;

use super::{Mode, Mover, Options, Outcome, Purpose};
use crate::{
    engine::Engine,
    folio::{FolioRef, LockedFolio},
    movable::{FolioToken, IsolatedFolio},
    report::{Counter, Reason},
    rmap::split_folio,
    units::{Order, Pfn},
};

/// Splits a locked folio into base folios: contents, mappings and owner stay, and so do the frames. Gives a reference to
/// each. On error the folio is unchanged, except that its 2 MiB entries may have been split. The lock is released.
///
/// Anonymous folios and those of owners that allow it ([`MovableOps::splits`](crate::movable::MovableOps::splits)) can
/// be split, while nobody has pinned them or another reference. Sleeps. (Linux: `split_folio`.)
pub fn split<'p>(engine: &Engine, folio: LockedFolio<'p>) -> Result<Vec<FolioRef<'p>>, (FolioRef<'p>, Reason)> {
    if folio.order() == Order::ZERO {
        return Ok(alloc::vec![folio.unlock()]);
    }
    let frame = folio.physical().frame(folio.pfn());
    if !frame.state().kind().is_movable() {
        return Err((folio.unlock(), Reason::Unmovable));
    }
    // The owner stays registered until the split is done.
    let used = match frame.owner() {
        0 => None,
        number => match engine.owners().get(number).and_then(|owner| Some((owner.begin()?, owner))) {
            None => return Err((folio.unlock(), Reason::OwnerGone)),
            Some((_, owner)) if !owner.splits() => return Err((folio.unlock(), Reason::Refused)),
            Some((used, _)) => Some(used),
        },
    };
    let map = engine.reverse_maps().get(folio.key().rmap);
    let physical = folio.physical();
    let whole = IsolatedFolio { pfn: folio.pfn(), index: folio.key().index, order: folio.order() };
    let tell_owner = || {
        if let Some(used) = &used {
            let tail = |number| FolioToken::new(physical, whole.pfn.up(number));
            used.ops().split(whole, &mut (1..whole.order.frames()).map(tail));
        }
    };
    // Unlocked before owner and map are let go: dropping the last `Arc` of one may wait for its folios' locks.
    match split_folio(folio, map.as_deref(), used.is_some(), tell_owner) {
        Ok(parts) => Ok(parts.into_iter().map(LockedFolio::unlock).collect()),
        Err((folio, reason)) => Err((folio.unlock(), reason)),
    }
}

/// Splits partly mapped folios until one has given frames back; tells whether one has. Sleeps.
pub fn split_partly_mapped(engine: &Engine) -> bool {
    let physical = engine.physical();
    let mut from = Pfn::default();
    while physical.partly_mapped() > 0
        && let Some(head) = physical.next_partly_mapped(from)
    {
        from = head.up(1);
        let Some(folio) = physical.get(head).and_then(|folio| folio.try_lock().ok()) else { continue };
        if !physical.frames().is_partly_mapped(folio.pfn()) {
            physical.unmark_partly_mapped(folio.pfn());
            continue;
        }
        // Dropping the parts frees those that nobody maps.
        if split(engine, folio).is_ok() {
            return true;
        }
    }
    false
}

impl Mover<'_> {
    /// Splits the folios that stayed since no destination of their order was free; gives their pages. An asynchronous
    /// move doesn't, since a split waits for reverse maps' locks.
    pub(super) fn split_stayed(&self, options: Options, outcome: &mut Outcome) -> Vec<Pfn> {
        let physical = self.physical();
        let mut pages = Vec::new();
        if options.mode == Mode::Async {
            return pages;
        }
        outcome.stayed.retain(|&(pfn, reason)| {
            if reason != Reason::Order {
                return true;
            }
            let Some(folio) = physical.get(pfn) else { return true };
            // Emptying a pageblock by breaking up a folio of its size gains nothing.
            if options.purpose == Purpose::Compaction && folio.order() >= physical.blocks().order() {
                return true;
            }
            let Ok(parts) = split(self.engine, folio.lock()) else { return true };
            physical.counters().add(Counter::ThpMigrationSplit, 1);
            pages.extend(parts.iter().map(|part| part.pfn()));
            false
        });
        pages
    }
}
