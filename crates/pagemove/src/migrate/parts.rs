//! How many folios make a batch, and which of them go through the last steps together.

use core::{ops::Range, sync::atomic::Ordering};

use super::{
    Batch, Mover, Options,
    budget::{cost_after, pages_in},
};
use crate::{
    folio::Migration,
    units::{Order, Pfn},
};

/// Folios that are unblocked together when waits are to be short. More would wait longer, fewer would cost more: each look at a
/// reverse map is one for all of them.
const PART: usize = 16;

impl Mover<'_> {
    /// Tells how many of the first `sources` make a batch; one at least.
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

    /// Takes into account that the batch took `ns` nanoseconds, if all of it are base pages: what a larger folio costs says little about
    /// those.
    pub(super) fn measure(&self, ns: u64) {
        if self.folios.iter().all(|folio| folio.order == Order::ZERO) {
            let moved = self.folios.iter().filter(|folio| !folio.stays()).count();
            // Two movers at once lose one of their figures, which doesn't matter.
            let cost = self.engine.move_cost();
            cost.store(cost_after(cost.load(Ordering::Relaxed), moved, ns), Ordering::Relaxed);
        }
    }

    /// Gives the next folios of the batch to be frozen, copied, committed, rebound and released; `None` if all are.
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
