//! What Linux tells anybody about its memory: free blocks by order, and counters of what it has done.

pub(crate) mod counters;
pub(crate) mod free;
pub(crate) mod types;
