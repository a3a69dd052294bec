//! Compaction in three steps: **observe** reads the summaries of pageblocks, **plan** selects from them the blocks to
//! empty and to fill, **act** moves the pages and reports each block's outcome.
//!
//! So a plan can be printed, tested and run dry. The cost depends on the pages moved: only selected blocks are scanned
//! frame by frame.

mod act;
mod observe;
mod plan;

pub use act::{Act, BlockOutcome, alloc_compacting, compact, compact_for_allocations};
pub use observe::{Observation, Observed, Tally, is_fixed};
pub use plan::{Emptied, Goal, Plan};
