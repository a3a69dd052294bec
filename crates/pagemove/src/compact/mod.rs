//! Compaction in three steps: **observe** reads the summaries of pageblocks, **plan** selects from them the blocks to
//! empty and to fill, **execute** moves the pages and reports each block's outcome.
//!
//! So a plan can be printed, tested and run dry. The cost depends on the pages moved: only selected blocks are scanned
//! frame by frame.

mod execute;
mod observe;
mod plan;

pub use execute::{BlockOutcome, Compaction, alloc_compacting, compact, compact_for_allocations};
pub use observe::{Observation, Observed, Tally, is_fixed};
pub use plan::{Emptied, Goal, Plan};
