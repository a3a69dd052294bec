//! Zones: allocating and freeing frames. Buddy lists, lists for each CPU, pageblocks with migratetypes and summaries.
//!
//! | file | does |
//! | --- | --- |
//! | `config` | what a memory is booted with |
//! | `request` | what an allocation asks for, and how far it goes |
//! | `physical` | boot, and what is below: frame table, pageblocks, zones |
//! | `buddy` | free lists of one zone, under its lock |
//! | `percpu`, `lists` | free lists of one CPU; entering, filling and draining them |
//! | `pageblock`, `class` | summaries by class; the class of each folio |
//! | `alloc`, `free` | bare frames, out and back; callers outside get handles from [`crate::folio`] |
//! | `destinations` | frames set aside for moves |
//! | `isolate` | pageblocks of which nothing is handed out |
//! | `retry`, `pressure` | what an allocation does that found nothing, and what is kept for it |
//! | `validate` | all of it checked |
//!
//! A zone's lock is the innermost but
//! for that of a CPU's list, which may be taken first and never the other way round.

mod alloc;
mod buddy;
mod class;
mod config;
mod destinations;
mod free;
mod isolate;
mod lists;
mod pageblock;
mod percpu;
mod physical;
mod pressure;
mod request;
mod retry;
mod validate;

pub use config::{BootError, Config};
pub(crate) use pageblock::ClassRun;
pub use pageblock::{Migratetype, Pageblocks, Summary};
#[cfg(all(test, feature = "loom"))]
pub(crate) use percpu::CpuLocal;
pub use physical::Physical;
pub use pressure::Compactor;
pub use request::{AllocError, Effort, Request};
pub use validate::Invalid;
