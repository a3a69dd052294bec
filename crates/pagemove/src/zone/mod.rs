//! Zones: who gets which frame. Buddy lists, lists for each processor, pageblocks with migratetypes and summaries.
//!
//! [`Physical`] is the memory below everything else: it lends frames, counts them by class, and takes them back. A zone's
//! lock is the innermost but for that of a processor's list, which may be taken first and never the other way round.

mod buddy;
mod pageblock;
mod percpu;
mod physical;
mod pinned;
mod validate;

pub(crate) use pageblock::ClassRun;
pub use pageblock::{Migratetype, Pageblocks, Summary};
#[cfg(all(test, feature = "loom"))]
pub(crate) use percpu::CpuLocal;
pub use physical::{AllocError, BootError, Config, Physical};
pub use pinned::PinnedPage;
pub use validate::Invalid;
