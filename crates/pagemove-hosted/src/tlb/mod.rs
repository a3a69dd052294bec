//! The two TLBs.
//!
//! Both guarantee what hardware does. A fill excludes a flush of the same CPU (soft) or window (host), so that no
//! translation read before a change becomes visible after the flush that covers it. An access in progress ends before
//! the flush returns. The access itself sets the accessed and dirty marks.

mod host;
mod soft;

pub(crate) use host::{HostTlb, Window, install_handler};
pub(crate) use soft::SoftTlb;

/// The machine's TLB.
pub(crate) enum Tlb {
    Soft(SoftTlb),
    Host(HostTlb),
}
