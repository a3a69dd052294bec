//! How many folios make a batch, and which of them go through the last steps together.

use core::ops::Range;

use super::{Batch, Mover, Options};
use crate::{folio::Migration, units::Pfn};

/// Folios that are unblocked together when waits are to be short. More would wait longer, fewer would cost more: each look at a
/// reverse map is one for all of them.
const PART: usize = 16;

impl Mover<'_> {
    /// Tells how many of the first `sources` make a batch; one at least.
    pub(super) fn batch_of(&self, sources: &[Pfn], batch: Batch) -> usize {
        let most = match batch {
            Batch::Folios(folios) => return sources.len().min(folios.clamp(1, Options::MOST)),
            Batch::Micros(micros) => self.cost.pages_in(micros),
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
