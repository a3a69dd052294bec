//! The size of a batch, and the parts of it that take the last steps together.

use core::{ops::Range, sync::atomic::Ordering};

use super::{
    Batch, Mover, Options,
    budget::{cost_after, pages_in},
};
use crate::{
    folio::Migration,
    units::{Order, Pfn},
};

/// Folios that are unblocked together when waits must be short. A larger part means longer waits; a smaller one costs
/// more, since each walk of a reverse map serves the whole part.
const PART: usize = 16;

impl Mover<'_> {
    /// Gives the number of `sources` that make the next batch; at least one.
    pub(super) fn batch_of(&self, sources: &[Pfn], batch: Batch) -> usize {
        let most = match batch {
            Batch::Folios(folios) => return sources.len().min(folios.clamp(1, Options::MOST)),
            Batch::Micros(micros) => pages_in(micros, self.engine.move_cost().load(Ordering::Relaxed)),
        };
        let frames = self.physical().frames();
        let pages = |pfn| frames.get(pfn).map_or(1, |frame| frame.state().order().frames() as usize);
        let mut sum = 0;
        let fits = |&&pfn: &&Pfn| {
            sum += pages(pfn);
            sum <= most
        };
        sources.iter().take_while(fits).count().max(1)
    }

    /// Updates the cost of a base page by the batch's time `ns`, unless the batch has larger folios, whose cost
    /// differs.
    pub(super) fn measure(&self, ns: u64) {
        if self.folios.iter().all(|folio| folio.order == Order::ZERO) {
            let moved = self.folios.iter().filter(|folio| !folio.stays()).count();
            // Of two movers' concurrent updates one may be lost, which does no harm.
            let cost = self.engine.move_cost();
            cost.store(cost_after(cost.load(Ordering::Relaxed), moved, ns), Ordering::Relaxed);
        }
    }

    /// Gives the next part of the batch to freeze, copy, commit, rebind and release; `None` after the last one.
    pub(super) fn next_part(&self, batch: Batch) -> Option<Range<usize>> {
        let first = self.folios.iter().position(|folio| !folio.is_released)?;
        let left = &self.folios[first..];
        if matches!(batch, Batch::Folios(_)) || left.len() <= PART {
            return Some(first..first + left.iter().take_while(|folio| !folio.is_released).count());
        }
        let is_waited_for =
            |folio: &Migration| !folio.is_released && self.physical().frame(folio.src).counts().has_waiters();
        if let Some(at) = left.iter().position(is_waited_for) {
            return Some(first + at..first + at + 1);
        }
        Some(first..first + left.iter().take(PART).take_while(|folio| !folio.is_released).count())
    }
}
