//! Work for other CPUs: the sender puts it in its own place, posts its number to each CPU, interrupts them, and waits.
//!
//! A sender stays on its CPU until all are done, so each CPU sends one work at a time. While it waits it does what others have
//! posted to it: two CPUs that send to each other don't depend on their interrupts.

use alloc::boxed::Box;
use core::sync::atomic::AtomicUsize;

use arrayvec::ArrayVec;
use pagemove::{
    port::{FlushRange, Space, SpaceId},
    sync::{AtomicU32, AtomicU64, Ordering, RwLock},
    units::{HUGE_ORDER, Order, Pfn},
};

use crate::{
    cpus::{CpuSet, MAX_CPUS, bits},
    platform::{Instructions, Platform, masked},
    tlb::{CpuTlb, pcid},
};

/// The most ranges that are copied one by one, and the most spaces.
const MOST: usize = 64;
/// From this number of entries on, a space is flushed as a whole (Linux: `tlb_single_page_flush_ceiling`).
const CEILING: u64 = 33;

/// What CPUs are asked to do.
#[derive(Clone, Copy)]
pub(crate) enum Deed<'r> {
    /// Pass a memory barrier: the interrupt is one.
    Barrier,
    /// Flush these ranges.
    Flush(&'r [FlushRange]),
    /// Load this root, if the space is loaded.
    MoveRoot(SpaceId, Pfn),
    /// Load the kernel's own root, if the space is loaded.
    FreeRoot(SpaceId),
}

/// The same, where other CPUs read it. Ranges are written in place, since they are many bytes.
#[derive(Default)]
struct Work {
    kind: Kind,
    ranges: ArrayVec<FlushRange, MOST>,
    /// Of which all is flushed.
    spaces: ArrayVec<SpaceId, MOST>,
}

#[derive(Default, Clone, Copy)]
enum Kind {
    #[default]
    Barrier,
    /// `ranges`, and `spaces`.
    Flush,
    /// All spaces.
    FlushAll,
    MoveRoot(SpaceId, Pfn),
    FreeRoot(SpaceId),
}

impl Work {
    fn set(&mut self, deed: Deed<'_>) {
        self.ranges.clear();
        self.spaces.clear();
        self.kind = match deed {
            Deed::Barrier => Kind::Barrier,
            Deed::MoveRoot(space, to) => Kind::MoveRoot(space, to),
            Deed::FreeRoot(space) => Kind::FreeRoot(space),
            Deed::Flush(ranges) if self.ranges.try_extend_from_slice(ranges).is_ok() => Kind::Flush,
            Deed::Flush(ranges) => self.set_spaces(ranges),
        };
    }

    fn set_spaces(&mut self, ranges: &[FlushRange]) -> Kind {
        for range in ranges {
            if !self.spaces.contains(&range.space.id) && self.spaces.try_push(range.space.id).is_err() {
                return Kind::FlushAll;
            }
        }
        Kind::Flush
    }
}

/// One CPU's state. On cache lines of its own.
#[repr(align(128))]
#[derive(Default)]
pub(crate) struct Cpu {
    pub(crate) tlb: CpuTlb,
    pub(crate) is_online: core::sync::atomic::AtomicBool,
    /// The CPUs that have work for this one.
    posted: [AtomicU64; MAX_CPUS / 64],
    /// The work that this CPU sends.
    sent: RwLock<Work>,
    /// How many CPUs haven't done it yet.
    undone: AtomicU32,
}

/// All CPUs, and what they have done.
pub(crate) struct Cpus {
    all: Box<[Cpu]>,
    kernel_root: Pfn,
    pub(crate) has_pcids: bool,
    pub(crate) interrupts: AtomicUsize,
}

impl Cpus {
    pub(crate) fn new(count: usize, kernel_root: Pfn, has_pcids: bool) -> Self {
        let all = (0..count).map(|_| Cpu::default()).collect();
        Self { all, kernel_root, has_pcids, interrupts: AtomicUsize::new(0) }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn of(&self, cpu: usize) -> &Cpu {
        &self.all[cpu]
    }

    /// Loads a root, or keeps it.
    #[allow(unsafe_code, reason = "control registers")]
    pub(crate) fn load<I: Instructions>(&self, root: Pfn, pcid: u16, keep: bool) {
        let pcid = if self.has_pcids { pcid } else { 0 };
        // SAFETY: the machine's roots have the kernel's half, and aren't freed while they are loaded.
        unsafe { I::load_root(root, pcid, keep && self.has_pcids) }
    }

    /// Loads the kernel's own root.
    pub(crate) fn leave<I: Instructions>(&self, cpu: usize) {
        self.all[cpu].tlb.leave();
        self.load::<I>(self.kernel_root, 0, true);
        self.all[cpu].tlb.has_switched();
    }

    /// Has this CPU and those that `needs` names do `deed`, and waits for them. `needs` is asked about each CPU.
    pub(crate) fn run<P: Platform, I: Instructions>(&self, deed: Deed<'_>, needs: impl Fn(&Cpu) -> bool) {
        P::disable_preemption();
        let own = P::cpu();
        let me = &self.all[own];
        me.sent.write().set(deed);
        let mut targets = CpuSet::default();
        for (number, cpu) in self.all.iter().enumerate() {
            // A CPU that isn't online yet has no translations, and no lists of frames.
            if number != own && cpu.is_online.load(Ordering::SeqCst) && needs(cpu) {
                targets.insert(number);
            }
        }
        if !targets.is_empty() {
            me.undone.store(targets.len(), Ordering::Relaxed);
            for cpu in targets.iter() {
                // Release: the CPU that takes the bit sees the work.
                self.all[cpu].posted[own / 64].fetch_or(1 << (own % 64), Ordering::Release);
            }
            self.interrupts.fetch_add(targets.len() as usize, Ordering::Relaxed);
            P::send_ipi(&targets);
        }
        masked::<I, _>(|| self.perform::<I>(own, &me.sent.read()));
        // Acquire: what the others did, and read by old translations, is over.
        let mut patience = Patience { start: P::now_ns(), late_turns: 0 };
        while me.undone.load(Ordering::Acquire) > 0 {
            masked::<I, _>(|| self.answer::<I>(own));
            P::pause();
            if cfg!(debug_assertions) && patience.ends::<P>() {
                let silent =
                    |&cpu: &usize| self.all[cpu].posted[own / 64].load(Ordering::Relaxed) >> (own % 64) & 1 == 1;
                let first = targets.iter().find(silent);
                panic!(
                    "CPU {own} waits for {} other CPUs, the first of them {first:?}: its interrupts are masked, its vector doesn't \
                     call `answer`, or `send_ipi` interrupts another one",
                    me.undone.load(Ordering::Relaxed)
                );
            }
        }
        P::enable_preemption();
    }

    /// Does all that was posted to this CPU. Interrupts are masked.
    pub(crate) fn answer<I: Instructions>(&self, own: usize) {
        for (at, word) in self.all[own].posted.iter().enumerate() {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            for bit in bits(word.swap(0, Ordering::Acquire)) {
                let sender = &self.all[at * 64 + bit];
                self.perform::<I>(own, &sender.sent.read());
                sender.undone.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    /// Does one work on this CPU. Interrupts are masked: a handler might load another root between two steps.
    fn perform<I: Instructions>(&self, own: usize, work: &Work) {
        let tlb = &self.all[own].tlb;
        match work.kind {
            Kind::Barrier => (),
            Kind::Flush => {
                let of_loaded = |range: &&FlushRange| tlb.has_loaded(range.space.id);
                if work.ranges.iter().filter(of_loaded).map(|range| u64::from(entries(range))).sum::<u64>() > CEILING {
                    I::flush_loaded();
                } else {
                    for range in work.ranges.iter().filter(of_loaded) {
                        let mut at = range.start;
                        for _ in 0..entries(range) {
                            I::flush_page(at);
                            at = at.up(step(range).frames());
                        }
                    }
                }
                // Those of a space that isn't loaded, or not any more.
                for range in &work.ranges {
                    tlb.mark_stale_unless_loaded(range.space.id);
                }
                for &space in &work.spaces {
                    if tlb.has_loaded(space) {
                        I::flush_loaded();
                    }
                    tlb.mark_stale_unless_loaded(space);
                }
            }
            Kind::FlushAll => {
                tlb.mark_all_stale();
                I::flush_loaded();
            }
            Kind::MoveRoot(space, to) => {
                if tlb.has_loaded(space) {
                    if tlb.is_lazy() {
                        self.leave::<I>(own);
                    } else {
                        self.load::<I>(to, pcid(space), false);
                    }
                }
                tlb.mark_stale(space);
            }
            Kind::FreeRoot(space) => {
                if tlb.has_loaded(space) {
                    self.leave::<I>(own);
                }
            }
        }
    }
}

/// How long a sender waits before it says that something is wrong: 30 seconds, and then as many turns as a machine that was stopped
/// meanwhile needs to answer.
struct Patience {
    start: u64,
    late_turns: u64,
}

impl Patience {
    const NANOSECONDS: u64 = 30_000_000_000;
    const TURNS: u64 = 1 << 22;

    /// Called once a turn.
    fn ends<P: Platform>(&mut self) -> bool {
        if P::now_ns().saturating_sub(self.start) > Self::NANOSECONDS {
            self.late_turns += 1;
        }
        self.late_turns > Self::TURNS
    }
}

/// Gives the order of each entry of a range.
fn step(range: &FlushRange) -> Order {
    if range.order >= HUGE_ORDER { HUGE_ORDER } else { Order::ZERO }
}

/// Gives the number of entries of a range.
fn entries(range: &FlushRange) -> u32 {
    range.pages.div_ceil(step(range).frames())
}

/// Tells whether a flush of `ranges` must interrupt `cpu`; marks it otherwise.
pub(crate) fn needs_flush(cpu: &Cpu, ranges: &[FlushRange]) -> bool {
    let mut must = false;
    let mut last: Option<(Space, bool)> = None;
    for range in ranges {
        let this = (range.space, range.tables_changed);
        // Ranges of a space mostly follow each other.
        if last != Some(this) {
            must |= cpu.tlb.must_interrupt(range.space, range.tables_changed);
            last = Some(this);
        }
    }
    must
}
