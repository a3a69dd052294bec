//! The two TLBs.
//!
//! Both keep what hardware keeps: a fill excludes a flush of the same processor (soft) or window (host), so that no
//! translation read before a change becomes visible after the flush that covers it; an access in progress ends before
//! the flush returns; and the access itself sets the accessed and dirty marks.

mod host;
mod soft;

pub(crate) use host::{HostTlb, Window, install_handler};
pub(crate) use soft::SoftTlb;

/// The machine's TLB.
pub(crate) enum Tlb {
    Soft(SoftTlb),
    Host(HostTlb),
}
