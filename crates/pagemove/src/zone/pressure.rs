//! State for failing allocations: the number of frames set aside by movers, the number of allocations that recall them,
//! the number of partly mapped folios, and the compactor. Plain data.

use alloc::sync::Arc;
use core::sync::atomic::AtomicU32;

use super::Request;
use crate::sync::RwLock;

/// Compacts memory for a request, for a base page splits partly mapped folios; tells whether to try again. May wait, and is called without any lock.
pub type Compactor = dyn Fn(&Request) -> bool + Send + Sync;

/// The counts are hints, so not atomics of `sync`.
#[derive(Default)]
pub(super) struct Pressure {
    pub(super) set_aside: AtomicU32,
    pub(super) recalls: AtomicU32,
    pub(super) partly_mapped: AtomicU32,
    pub(super) compactor: RwLock<Option<Arc<Compactor>>>,
}
