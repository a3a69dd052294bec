//! Zones: allocating and freeing frames. Buddy lists, per-CPU lists, pageblocks with migratetypes and summaries.
//!
//! | file | does |
//! | --- | --- |
//! | `config` | layout of memory at boot |
//! | `request` | arguments of an allocation |
//! | `physical` | boot; holds frame table, pageblocks and zones |
//! | `buddy` | free lists of one zone, under its lock |
//! | `percpu`, `lists` | free lists of one CPU; entering, refilling and draining them |
//! | `pageblock`, `class` | summaries by class; the class of each folio |
//! | `alloc`, `free` | raw frames; other modules use the handles of [`crate::folio`] |
//! | `destinations` | frames set aside for moves |
//! | `partly` | partly mapped folios, whose split gives memory back |
//! | `isolate` | pageblocks that are not allocated from |
//! | `reporting` | free blocks that a host is told of |
//! | `retry`, `pressure` | recall and compaction after a failed allocation; their counts |
//! | `validate` | consistency check |
//!
//! Lock order: a CPU's list, then its zone's lock, which is the innermost of all.

mod alloc;
mod buddy;
mod class;
mod config;
mod destinations;
mod free;
mod isolate;
mod lists;
mod pageblock;
mod partly;
mod percpu;
mod physical;
mod pressure;
mod reporting;
mod request;
mod retry;
mod validate;

pub use config::{BootError, Config};
pub(crate) use pageblock::ClassRun;
pub use pageblock::{Migratetype, Pageblocks, Summary};
#[cfg(all(test, feature = "loom"))]
pub(crate) use percpu::CpuLocal;
#[cfg(all(test, feature = "loom"))]
pub(crate) use percpu::revoke_all;
pub use physical::Physical;
pub use pressure::Compactor;
pub use request::{AllocError, Effort, Request};
pub use validate::Invalid;
