//! Compaction in three steps: **observe** reads the summaries of pageblocks, **plan** decides from them alone which blocks
//! to empty and which to fill, **act** moves the pages and says what became of each block.
//!
//! So a plan can be printed, tested and run dry, and its cost grows with the pages moved: only the blocks chosen are
//! looked at frame by frame.

mod act;
mod observe;
mod plan;

pub use act::{Act, BlockOutcome, alloc_compacting, compact, compact_for_allocations};
pub use observe::{Observation, Observed, Tally, is_fixed};
pub use plan::{Emptied, Goal, Plan};
