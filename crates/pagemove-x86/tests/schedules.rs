//! The TLB's protocol: a CPU that switches address spaces against a flush, all interleavings that two threads' few steps have (random,
//! 20,000 of each).
//!
//! Varied: what the CPU ran before, lazily or not; whether the flush is of tables. Not varied: weak orderings: all accesses are
//! sequentially consistent in the code, and for shuttle.

use pagemove::{
    port::{Space, SpaceId},
    sync::{AtomicBool, AtomicU64, Ordering::SeqCst, set_stepping},
    units::Pfn,
};
use pagemove_x86::tlb::{CpuTlb, Load};
use shuttle::{rand::Rng, sync::Arc, thread};

struct Shared {
    tlb: CpuTlb,
    /// The table's entry.
    entry: AtomicU64,
    /// An interrupt is pending.
    is_asked: AtomicBool,
}

const ONE: SpaceId = SpaceId(1);
const TWO: SpaceId = SpaceId(2);

/// The CPU has a translation of space 1 (entry 0), runs something, and runs space 1 again, while the entry becomes 1. A translation that it
/// uses after the flush, and after it has answered, must be the new one.
fn round() {
    set_stepping(true);
    let shared =
        Arc::new(Shared { tlb: CpuTlb::default(), entry: AtomicU64::new(0), is_asked: AtomicBool::new(false) });
    shared.tlb.enter(ONE);
    shared.tlb.has_switched();
    let mut random = shuttle::rand::thread_rng();
    let (goes_lazy, stays, tables) = (random.gen_bool(0.5), random.gen_bool(0.3), random.gen_bool(0.5));
    let other = shared.clone();
    let flush = thread::spawn(move || {
        other.entry.store(1, SeqCst);
        let asked = other.tlb.must_interrupt(Space { id: ONE, root: Pfn::new(1), word: 0 }, tables);
        other.is_asked.store(asked, SeqCst);
    });
    let mut kept = Some(0);
    if !stays {
        shared.tlb.enter(TWO);
        shared.tlb.has_switched();
    }
    if goes_lazy {
        shared.tlb.go_lazy();
    }
    match shared.tlb.enter(ONE) {
        Load::Loaded | Load::Root { keep: true, .. } => (),
        // Loaded with a flush: the next access reads the entry.
        Load::Root { keep: false, .. } => kept = None,
    }
    let used = kept.unwrap_or_else(|| shared.entry.load(SeqCst));
    flush.join().unwrap();
    // Interrupts are on again: the CPU answers before it goes on.
    let after = if shared.is_asked.load(SeqCst) { shared.entry.load(SeqCst) } else { used };
    assert_eq!(after, 1, "a translation was used after its flush");
}

#[test]
fn a_switch_against_a_flush() {
    shuttle::check_random(round, 20_000);
}

#[test]
fn a_switch_against_a_flush_by_priorities() {
    shuttle::check_pct(round, 20_000, 3);
}
