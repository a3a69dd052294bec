//! Interrupts, as real signals: a handler allocates, frees and drops pins in the midst of a thread that does the same.
//!
//! Each case runs in a child, since signals and what handlers reach are a program's. Done wrong it hangs, and is ended.
//! A handler may meet any lock of the thread that it interrupts, so those that aren't masked are that thread's alone here.
#![allow(unsafe_code, reason = "signals, and an allocator that masks them")]
mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    mem::MaybeUninit,
    os::unix::thread::JoinHandleExt,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use common::*;
use pagemove::{
    Engine,
    folio::{FolioRef, PinnedPage},
    frame::Kind,
    movable::PageIndex,
    port::{CpuClaim, InterruptMask, Machine},
    units::Order,
    zone::{self, Effort, Physical, Request},
};
use pagemove_hosted::{Hosted, TlbKind};
use rand::RngExt;

/// The interrupt.
const SIGNAL: i32 = libc::SIGUSR1;
/// So many interrupts a case has at least, and so many of them drop a pin.
const INTERRUPTS: u32 = 500;
const UNPINS: u32 = 50;
const CPUS: usize = 4;
const FRAMES: u32 = 4 * 512;

/// Masks the signal on this thread, or lets it in; tells whether it was masked.
fn change_mask(how: i32) -> bool {
    let (mut signal, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: `sigemptyset` makes a set, which is changed and read here only; the calls may be made in a handler.
    unsafe {
        libc::sigemptyset(signal.as_mut_ptr());
        libc::sigaddset(signal.as_mut_ptr(), SIGNAL);
        libc::pthread_sigmask(how, signal.as_ptr(), before.as_mut_ptr());
        libc::sigismember(before.as_ptr(), SIGNAL) == 1
    }
}

fn mask() -> usize {
    usize::from(change_mask(libc::SIG_BLOCK))
}

fn restore(was_masked: usize) {
    if was_masked == 0 {
        change_mask(libc::SIG_UNBLOCK);
    }
}

/// A heap that handlers may use, as a kernel's.
struct MaskedHeap;

// SAFETY: the system's allocator, which is not re-entered.
unsafe impl GlobalAlloc for MaskedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let before = mask();
        // SAFETY: the caller's promise.
        let block = unsafe { System.alloc(layout) };
        restore(before);
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let before = mask();
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) };
        restore(before);
    }
}

#[global_allocator]
static HEAP: MaskedHeap = MaskedHeap;

/// A machine that the signal interrupts.
struct Interrupted {
    inner: Arc<Hosted>,
    claim: CpuClaim,
}

// SAFETY: as the hosted machine's; a handler gets the number of the thread that it interrupts, and ends before that goes on.
unsafe impl Machine for Interrupted {
    pagemove::pass_on!(inner: take_ram return_ram lend lend_sparse root_made move_root root_freed flush cpus barrier wait wake pause now_ns);

    fn cpu_claim(&self) -> CpuClaim {
        self.claim
    }

    fn interrupt_mask(&self) -> Option<InterruptMask> {
        Some(InterruptMask { mask, restore })
    }

    fn might_wait(&self) {
        // It's masked in handlers, too.
        let was_masked = mask();
        restore(was_masked);
        assert_eq!(was_masked, 0, "a call that may wait was made in an interrupt, or while they are masked");
    }
}

/// What a case's handlers and threads reach.
struct World {
    engine: Arc<Engine>,
    zones: usize,
    order: Order,
    index: Arc<PageIndex>,
    /// A pin for the next handler to drop; it only tries to lock this.
    pin: Mutex<Option<PinnedPage>>,
    handled: AtomicU32,
    unpinned: AtomicU32,
    ready: AtomicBool,
    stop: AtomicBool,
}

static WORLD: OnceLock<World> = OnceLock::new();

impl World {
    fn physical(&self) -> &Arc<Physical> {
        self.engine.physical()
    }

    /// Asks for one folio in each zone, base pages for two kinds of pageblock.
    fn requests(&self, order: Order) -> impl Iterator<Item = Request> {
        let kinds =
            [Kind::Kernel, Kind::Anon].into_iter().filter(move |&kind| order == Order::ZERO || kind == Kind::Kernel);
        let zones = self.zones;
        kinds.flat_map(move |kind| (0..zones).map(move |zone| Request::new(order, kind).in_zone(zone)))
    }

    /// Allocates folios of the case's order until there are `count`, and frees them in another order.
    fn allocate_and_free(&self, count: usize) {
        let physical = self.physical();
        let requests: Vec<Request> = self.requests(self.order).collect();
        let taken = requests.iter().cycle().take(count).map(|one| physical.alloc_with(one).unwrap().publish());
        let is_odd = |folio: &FolioRef<'_>| folio.pfn().get() >> self.order.get() & 1 == 1;
        let (odd, even): (Vec<_>, Vec<_>) = taken.partition(is_odd);
        drop(odd);
        drop(even);
        drop(physical.alloc(self.order, Kind::Slab).unwrap());
    }

    /// Puts a pin where the next handler finds it, and takes and drops one.
    fn pin(&self) {
        let page = self.index.lock_page(0).unwrap();
        let for_handler = page.pin("for a handler");
        *self.pin.lock().unwrap() = Some(for_handler);
        let own = page.pin("own");
        assert!(self.physical().pins().of(page.pfn()).iter().any(|record| record.who == "own"));
        drop(own);
    }

    /// Sends the signal to `thread` until enough came; one at a time, at all kinds of moments.
    fn interrupt(&self, thread: libc::pthread_t) {
        let mut rng = rng(1);
        let mut sent = 0;
        while sent < INTERRUPTS || self.unpinned.load(Ordering::SeqCst) < UNPINS {
            // SAFETY: the thread runs until it's told to stop.
            assert_eq!(unsafe { libc::pthread_kill(thread, SIGNAL) }, 0);
            sent += 1;
            while self.handled.load(Ordering::SeqCst) < sent {
                thread::yield_now();
            }
            (0..rng.random_range(0..2000)).for_each(|_| std::hint::spin_loop());
        }
    }
}

/// The interrupt handler. A check that fails ends the program.
extern "C" fn handle(_: i32) {
    // SAFETY: this thread's own; the interrupted code may be about to read it.
    let errno = unsafe { *libc::__errno_location() };
    handle_interrupt();
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

fn handle_interrupt() {
    let world = WORLD.get().unwrap();
    let physical = world.physical();
    let orders = if world.order == Order::ZERO { vec![Order::ZERO] } else { vec![Order::ZERO, world.order] };
    let requests: Vec<Request> = orders.into_iter().flat_map(|order| world.requests(order)).collect();
    let take = |request: &Request| physical.alloc_with(&request.with_effort(Effort::Lists)).unwrap().publish();
    let taken: Vec<FolioRef<'_>> = requests.iter().map(take).collect();
    drop(taken);
    if let Ok(mut pin) = world.pin.try_lock()
        && let Some(pin) = pin.take()
    {
        assert!(physical.pins().of(pin.pfn()).iter().any(|record| record.who == "for a handler"));
        drop(pin);
        world.unpinned.fetch_add(1, Ordering::SeqCst);
    }
    world.handled.fetch_add(1, Ordering::SeqCst);
}

fn install_handler() {
    // SAFETY: zeroes are a valid sigaction, with an empty mask; the signal itself is masked while its handler runs.
    let installed = unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_flags = libc::SA_RESTART;
        action.sa_sigaction = handle as *const () as usize;
        libc::sigaction(SIGNAL, &action, std::ptr::null_mut())
    };
    assert_eq!(installed, 0);
}

fn run(has_lists: bool, order: Order, zones: u32) {
    end_if_hung();
    let machine = hosted(TlbKind::Soft, FRAMES, CPUS);
    let claim = if has_lists { machine.cpu_claim() } else { CpuClaim::NONE };
    let frames = FRAMES / zones;
    let zone_ranges = (0..zones).map(|zone| range(zone * frames, frames)).collect();
    let config = zone::Config::new(zone_ranges, common::order(9));
    let engine = Engine::boot(Arc::new(Interrupted { inner: machine.clone(), claim }), &config).unwrap();
    let lab = Lab { machine, engine: engine.clone() };
    let index = engine.new_index(Kind::Driver, "pinned by handlers' devices");
    drop(index.lock_or_insert(0).unwrap());
    let world = WORLD.get_or_init(|| World {
        engine,
        zones: zones as usize,
        order,
        index,
        pin: Mutex::default(),
        handled: AtomicU32::new(0),
        unpinned: AtomicU32::new(0),
        ready: AtomicBool::new(false),
        stop: AtomicBool::new(false),
    });
    install_handler();
    let interrupted = thread::spawn(|| {
        let mut rounds = 0u64;
        while !world.stop.load(Ordering::SeqCst) {
            world.allocate_and_free(96);
            world.pin();
            rounds += 1;
            world.ready.store(true, Ordering::SeqCst);
        }
        // None from now on: the thread's own end is no code that may be interrupted.
        mask();
        rounds
    });
    // Wants the same locks, and revokes the lists of the CPU that is interrupted.
    let neighbour = thread::spawn(|| {
        let mut rounds = 0u64;
        while !world.stop.load(Ordering::SeqCst) {
            world.allocate_and_free(32);
            rounds += 1;
            if rounds.is_multiple_of(16) {
                world.physical().drain_cpu_lists();
            }
            // The interrupted thread may wait for a processor.
            thread::yield_now();
        }
    });
    while !world.ready.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    world.interrupt(interrupted.as_pthread_t());
    world.stop.store(true, Ordering::SeqCst);
    assert!(interrupted.join().unwrap() > 0);
    neighbour.join().unwrap();
    drop(world.pin.lock().unwrap().take());
    assert!(world.physical().pins().all().is_empty());
    assert!(world.index.remove(0));
    lab.assert_all_free(FRAMES);
    println!(
        "{} interrupts, {} of them unpinned",
        world.handled.load(Ordering::SeqCst),
        world.unpinned.load(Ordering::SeqCst)
    );
}

#[test]
fn handlers_allocate_free_and_unpin() {
    if let Some(case) = case() {
        let mut words = case.split(' ').map(|word| word.parse::<u8>().unwrap());
        let mut next = || words.next().unwrap();
        run(next() == 1, order(next()), u32::from(next()));
        return;
    }
    for has_lists in [1, 0] {
        for order in [0, 3] {
            for zones in [1, 2] {
                let case = format!("{has_lists} {order} {zones}");
                let output = run_case("handlers_allocate_free_and_unpin", &case);
                assert!(output.status.success(), "CPU's lists, order, zones: {case}: {output:?}");
            }
        }
    }
}
