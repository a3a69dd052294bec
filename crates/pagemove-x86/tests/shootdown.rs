//! The whole protocol on threads that play CPUs, with TLBs that keep all that they aren't told to drop: PCIDs, lazy roots, flushes of
//! ranges and spaces, roots that move and end. (QEMU's software CPUs have no PCIDs, so a kernel in QEMU can't see most of this.)
//!
//! Varied: CPUs, spaces (more than PCIDs), ranges per flush, lazy or not, with PCIDs or without. Not varied: weak orderings (the host's
//! CPU's only); interrupts come only where a CPU looks for them, and in one test between two steps of a flush.

#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System, alloc_zeroed},
    cell::{Cell, RefCell},
    collections::HashMap,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
};

use pagemove::{
    Engine,
    migrate::{Destination, TheseFrames},
    port::{Contents, FlushRange, Machine, Ram, Space},
    space::AddressSpace,
    sync::AtomicU32,
    units::{FrameRange, HUGE_ORDER, Order, Pfn, VirtAddr, VirtRange},
    zone::Config,
};
use pagemove_x86::{Instructions, Platform, X86Machine, cpus::CpuSet, machine::Setup, tlb::pcid};

const CPUS: usize = 4;
const PAGES: usize = 80;

/// What a CPU does just before it loads a root, or in an interrupt.
type Deed = Box<dyn FnOnce()>;

/// Counts allocations with interrupts masked, which the engine's zones are locked with, of threads that say so.
struct Watching;

// SAFETY: the system's allocator.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if WATCHED.get() && MASKED.get() {
            UNDER_A_LOCK.set(UNDER_A_LOCK.get() + 1);
        }
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static HEAP: Watching = Watching;

thread_local! {
    static IN_FLUSH: RefCell<Option<Deed>> = const { RefCell::new(None) };
    static BEFORE_LOAD: RefCell<Option<Deed>> = const { RefCell::new(None) };
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    static UNDER_A_LOCK: Cell<u32> = const { Cell::new(0) };
    static MASKED: Cell<bool> = const { Cell::new(false) };
    static CPU: Cell<usize> = const { Cell::new(0) };
    static LOADED: Cell<(Pfn, u16)> = const { Cell::new((Pfn::new(0), 0)) };
    /// By PCID and page: what was read from the table.
    static TLB: RefCell<HashMap<(u16, u64), u64>> = RefCell::default();
}

struct Threads;

// SAFETY: each thread has its number for life.
unsafe impl Platform for Threads {
    fn cpu() -> usize {
        CPU.get()
    }
    fn disable_preemption() {}
    fn enable_preemption() {}
    fn send_ipi(_: &CpuSet) {}
    fn wait(_: &AtomicU32, _: u32) {
        thread::yield_now();
    }
    fn wake(_: &AtomicU32) {}
    fn now_ns() -> u64 {
        0
    }
    fn pause() {
        thread::yield_now();
    }
}

/// A CPU's TLB, with PCIDs or without.
struct Modelled<const PCIDS: bool>;

// SAFETY: they do to the modelled TLB what they are to do.
unsafe impl<const PCIDS: bool> Instructions for Modelled<PCIDS> {
    fn has_pcids() -> bool {
        PCIDS
    }
    unsafe fn load_root(root: Pfn, pcid: u16, keep: bool) {
        assert!(PCIDS || (pcid == 0 && !keep));
        let deed = BEFORE_LOAD.take();
        if let Some(deed) = deed {
            deed();
        }
        if !keep {
            TLB.with_borrow_mut(|tlb| tlb.retain(|key, _| key.0 != pcid));
        }
        LOADED.set((root, pcid));
    }
    fn flush_loaded() {
        // As a CPU does: the register is read, and then written.
        let (root, pcid) = LOADED.get();
        if !MASKED.get()
            && let Some(interrupt) = IN_FLUSH.take()
        {
            interrupt();
        }
        TLB.with_borrow_mut(|tlb| tlb.retain(|key, _| key.0 != pcid));
        LOADED.set((root, pcid));
    }
    fn flush_page(address: VirtAddr) {
        let (_, pcid) = LOADED.get();
        TLB.with_borrow_mut(|tlb| tlb.remove(&(pcid, address.vpn())));
    }
    fn are_interrupts_on() -> bool {
        !MASKED.get()
    }
    fn mask_interrupts() -> bool {
        !MASKED.replace(true)
    }
    fn restore_interrupts(were_on: bool) {
        MASKED.set(!were_on);
    }
}

fn masked<T>(deed: impl FnOnce() -> T) -> T {
    MASKED.set(true);
    let result = deed();
    MASKED.set(false);
    result
}

type Kernel<const PCIDS: bool> = X86Machine<Threads, Modelled<PCIDS>>;

fn boot<const PCIDS: bool>() -> (Arc<Kernel<PCIDS>>, Arc<Engine>) {
    // The others would wait for ever for a CPU that has panicked.
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        told(info);
        std::process::abort();
    }));
    const FRAMES: u64 = 4096;
    let layout = Layout::from_size_align((FRAMES as usize) << 12, 1 << 21).unwrap();
    // SAFETY: the layout isn't empty.
    let base = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap();
    let frames = Pfn::new(0)..Pfn::new(FRAMES);
    // SAFETY: leaked memory of this size.
    let ram = unsafe { Ram::new(base, frames, Contents::All) };
    let lent = FrameRange::new(Pfn::new(512), 512).unwrap();
    let setup = Setup { ram, kernel_root: Pfn::new(1), cpus: CPUS, lent, sparse: 0xffff_c000_0000_0000 };
    // SAFETY: nobody uses the memory; the roots are only compared.
    let machine = unsafe { Kernel::<PCIDS>::new(setup) };
    let zone = FrameRange::new(Pfn::new(0), FRAMES as u32).unwrap();
    let config = Config::new(vec![zone], HUGE_ORDER).with_reserved([FrameRange::new(Pfn::new(0), 1024).unwrap()]);
    // SAFETY: played by threads.
    (1..CPUS).for_each(|cpu| unsafe { machine.cpu_started(cpu) });
    // At boot, and later for lists, this thread waits for the others' answers: so they are threads from the start.
    let engine = Engine::boot(machine.clone(), &config).unwrap();
    (machine, engine)
}

/// A space: its page table, and the "entries" that its CPUs read, each a version.
struct Mapped {
    space: AddressSpace,
    entries: Vec<AtomicU64>,
    /// The version that no CPU may be behind.
    flushed: Vec<AtomicU64>,
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }
}

fn address(page: usize) -> VirtAddr {
    VirtAddr::new((page as u64 + 16) << 12).unwrap()
}

/// The running CPU loads a page of the space that it has activated.
fn load<const PCIDS: bool>(of: &Mapped, page: usize) {
    let least = of.flushed[page].load(SeqCst);
    let (root, loaded) = LOADED.get();
    assert_eq!(root, of.space.table().root(), "another root is loaded");
    assert_eq!(loaded, if PCIDS { pcid(of.space.id()) } else { 0 });
    let key = (loaded, address(page).vpn());
    let read = || of.entries[page].load(SeqCst);
    let version = TLB.with_borrow_mut(|tlb| *tlb.entry(key).or_insert_with(read));
    assert!(version >= least, "CPU {}, page {page}: version {version} after the flush of {least}", CPU.get());
}

fn change(machine: &dyn Machine, of: &Mapped, random: &mut Random) {
    // Few pages, more than one by one, or more ranges than are copied.
    let count = [1, 3, 40, 70][random.below(4)];
    let first = random.below(PAGES - count + 1);
    let step = 1 + random.below(2);
    let space: Space = of.space.table().space();
    let tables_changed = random.below(4) == 0;
    let pages: Vec<usize> = (first..first + count).step_by(step).collect();
    let versions: Vec<u64> = pages.iter().map(|&page| of.entries[page].fetch_add(1, SeqCst) + 1).collect();
    let range =
        |&page: &usize| FlushRange { space, start: address(page), pages: 1, order: Order::ZERO, tables_changed };
    let ranges: Vec<FlushRange> = pages.iter().map(range).collect();
    machine.flush(&ranges);
    for (&page, version) in pages.iter().zip(versions) {
        of.flushed[page].fetch_max(version, SeqCst);
    }
}

fn run<const PCIDS: bool>(spaces: usize, seed: u64) {
    let (machine, engine) = boot::<PCIDS>();
    let bounds = VirtRange::new(VirtAddr::new(1 << 16).unwrap(), 1 << 20).unwrap();
    let mapped: Vec<Mapped> = (0..spaces)
        .map(|_| Mapped {
            space: AddressSpace::new(&engine, bounds).unwrap(),
            entries: (0..PAGES).map(|_| AtomicU64::new(0)).collect(),
            flushed: (0..PAGES).map(|_| AtomicU64::new(0)).collect(),
        })
        .collect();
    let (ended, left) = (AtomicBool::new(false), AtomicU64::new(CPUS as u64));
    thread::scope(|scope| {
        for cpu in 0..CPUS {
            let (machine, mapped, ended, left) = (&machine, &mapped, &ended, &left);
            scope.spawn(move || {
                CPU.set(cpu);
                let mut random = Random(seed << 8 | cpu as u64);
                for _ in 0..1500 {
                    let of = &mapped[random.below(mapped.len())];
                    // SAFETY: a table of the machine's engine.
                    masked(|| unsafe { machine.activate(of.space.table()) });
                    for _ in 0..random.below(6) {
                        load::<PCIDS>(of, random.below(PAGES));
                        if random.below(2) == 0 {
                            machine.answer();
                        }
                    }
                    if random.below(3) == 0 {
                        // SAFETY: memory is only modelled.
                        masked(|| unsafe { machine.go_lazy() });
                        machine.answer();
                    }
                    if random.below(8) == 0 {
                        change(&**machine, &mapped[random.below(mapped.len())], &mut random);
                    }
                }
                if left.fetch_sub(1, SeqCst) == 1 {
                    ended.store(true, SeqCst);
                }
                while !ended.load(SeqCst) {
                    machine.answer();
                    thread::yield_now();
                }
            });
        }
    });
    assert!(machine.interrupts_sent() > 0, "no CPU ran what another one changed");
    end(mapped, &machine);
}

/// Ends the spaces, while other CPUs have them loaded lazily.
fn end<const PCIDS: bool>(mapped: Vec<Mapped>, machine: &Arc<Kernel<PCIDS>>) {
    let ended = AtomicBool::new(false);
    let tables: Vec<_> = mapped.iter().map(|of| of.space.table().clone()).collect();
    let ready = AtomicU64::new(0);
    thread::scope(|scope| {
        for cpu in 1..CPUS {
            let (machine, tables, ended, ready) = (machine, &tables, &ended, &ready);
            scope.spawn(move || {
                CPU.set(cpu);
                // SAFETY: as above.
                masked(|| unsafe { machine.activate(&tables[cpu % tables.len()]) });
                // SAFETY: memory is only modelled.
                masked(|| unsafe { machine.go_lazy() });
                ready.fetch_add(1, SeqCst);
                while !ended.load(SeqCst) {
                    machine.answer();
                    thread::yield_now();
                }
                assert_eq!(LOADED.get(), (Pfn::new(1), 0), "CPU {cpu} has a root loaded that is gone");
            });
        }
        CPU.set(0);
        while ready.load(SeqCst) < CPUS as u64 - 1 {
            thread::yield_now();
        }
        for of in &mapped {
            // SAFETY: the space is used no more.
            unsafe { machine.root_freed(of.space.table().space()) };
        }
        ended.store(true, SeqCst);
    });
    // The engine ends them once more; no other CPU is asked, since none has one loaded.
    drop(mapped);
    drop(tables);
}

#[test]
fn no_cpu_uses_a_translation_after_its_flush() {
    for seed in 1..=3 {
        println!("seed {seed}");
        run::<true>(3, seed);
        run::<false>(3, seed);
    }
}

#[test]
fn spaces_that_share_pcids_do_not_see_each_other() {
    run::<true>(2 * pagemove_x86::tlb::SLOTS + 3, 4);
}

/// A CPU that has a root loaded loads the copy; one that has it lazily goes back to the kernel's own.
#[test]
fn a_root_that_moves_is_loaded_anew() {
    let (machine, engine) = boot::<true>();
    let bounds = VirtRange::new(VirtAddr::new(1 << 16).unwrap(), 1 << 20).unwrap();
    let space = AddressSpace::new(&engine, bounds).unwrap();
    let (to, is_ready) = (Pfn::new(9), AtomicU64::new(0));
    let (is_moved, has_ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let (id, table) = (space.id(), space.table().clone());
    thread::scope(|scope| {
        for cpu in 1..CPUS {
            let (machine, table, is_ready, is_moved, has_ended) = (&machine, &table, &is_ready, &is_moved, &has_ended);
            scope.spawn(move || {
                CPU.set(cpu);
                // SAFETY: as above.
                masked(|| unsafe { machine.activate(table) });
                let is_lazy = cpu == 2;
                if is_lazy {
                    // SAFETY: memory is only modelled.
                    masked(|| unsafe { machine.go_lazy() });
                }
                is_ready.fetch_add(1, SeqCst);
                while !is_moved.load(SeqCst) {
                    machine.answer();
                    thread::yield_now();
                }
                let expected = if is_lazy { (Pfn::new(1), 0) } else { (to, pcid(id)) };
                assert_eq!(LOADED.get(), expected, "CPU {cpu}");
                // It answers as long as it has a root loaded.
                while !has_ended.load(SeqCst) {
                    machine.answer();
                    thread::yield_now();
                }
            });
        }
        while is_ready.load(SeqCst) < CPUS as u64 - 1 {
            thread::yield_now();
        }
        let mut is_published = false;
        // SAFETY: as the engine does.
        unsafe { machine.move_root(space.table().space(), to, &mut || is_published = true) };
        assert!(is_published);
        is_moved.store(true, SeqCst);
        // SAFETY: the space is used no more.
        unsafe { machine.root_freed(table.space()) };
        has_ended.store(true, SeqCst);
    });
}

/// A CPU that is about to load another root still has the old one: who ends, moves or empties that waits for it.
#[test]
fn a_root_is_in_use_until_another_one_is_loaded() {
    type Other = fn(&dyn Machine, Space);
    let others: [(&str, Other); 3] = [
        // SAFETY: the spaces are used no more.
        ("the root ends", |machine, space| unsafe { machine.root_freed(space) }),
        // SAFETY: memory is only modelled.
        ("the root moves", |machine, space| unsafe { machine.move_root(space, Pfn::new(9), &mut || ()) }),
        ("a table is removed", |machine, space| {
            let range = FlushRange { space, start: address(0), pages: 512, order: Order::ZERO, tables_changed: true };
            machine.flush(&[range]);
        }),
    ];
    for (what, other) in others {
        let (machine, engine) = boot::<true>();
        let bounds = VirtRange::new(VirtAddr::new(1 << 16).unwrap(), 1 << 20).unwrap();
        let spaces = [(); 2].map(|()| AddressSpace::new(&engine, bounds).unwrap());
        let (began, is_over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let space = spaces[0].table().space();
        thread::scope(|scope| {
            let (switches, tables) = (machine.clone(), [0, 1].map(|at| spaces[at].table().clone()));
            let (begins, ends) = (began.clone(), is_over.clone());
            scope.spawn(move || {
                CPU.set(1);
                // SAFETY: tables of the machine's engine.
                masked(|| unsafe { switches.activate(&tables[0]) });
                let has_ended = ends.clone();
                BEFORE_LOAD.set(Some(Box::new(move || {
                    begins.store(true, SeqCst);
                    // Time enough for who doesn't wait; who waits can't have ended.
                    for _ in 0..20_000 {
                        assert!(!has_ended.load(SeqCst), "{what}, and a CPU has the old root");
                        thread::yield_now();
                    }
                })));
                // SAFETY: as above.
                masked(|| unsafe { switches.activate(&tables[1]) });
                while !ends.load(SeqCst) {
                    switches.answer();
                    thread::yield_now();
                }
                // It leaves, so that nobody waits for this thread any more.
                switches.answer();
                assert_eq!(LOADED.get().0, tables[1].root());
            });
            CPU.set(0);
            while !began.load(SeqCst) {
                thread::yield_now();
            }
            other(&*machine, space);
            is_over.store(true, SeqCst);
        });
        // CPU 1's thread has ended with the other root loaded.
        std::mem::forget(spaces);
    }
}

/// The kernel's heap takes zones' locks to grow, so it must not be used with one held.
#[test]
fn nothing_is_allocated_under_a_zones_lock() {
    let (_machine, engine) = boot::<true>();
    let physical = engine.physical();
    let block = |pfn| physical.blocks().number(Pfn::new(pfn));
    let mut destinations = TheseFrames::new(physical, [block(3072), block(1536)]);
    WATCHED.set(true);
    let first = destinations.take(Order::ZERO, None);
    // What is left of the first block is above the bound, and more comes from the second.
    let second = destinations.take(Order::ZERO, Some(Pfn::new(2048)));
    WATCHED.set(false);
    assert!(first.is_some() && second.is_some());
    assert_eq!(UNDER_A_LOCK.get(), 0, "allocations with a zone's lock held");
}

#[test]
fn metadata_that_is_mapped_is_not_lent_again() {
    let (machine, engine) = boot::<true>();
    drop(engine);
    assert!(machine.take_ram().is_some(), "an engine has ended");
    // SAFETY: taken just before, and not used.
    unsafe { machine.return_ram() };
    assert!(machine.take_ram().is_some());
    assert!(machine.lend_sparse(1 << 30, &[0..4096, (1 << 30) - 4096..1 << 30]).is_some());
    // SAFETY: taken just before, and not used.
    unsafe { machine.return_ram() };
    assert!(machine.take_ram().is_none(), "the tables are in use");
}

/// A CPU flushes a space while another one moves its root. Once that has been answered, the old root is freed.
#[test]
fn a_flush_does_not_load_the_root_that_has_moved_meanwhile() {
    let (machine, engine) = boot::<true>();
    let bounds = VirtRange::new(VirtAddr::new(1 << 16).unwrap(), 1 << 20).unwrap();
    let space = AddressSpace::new(&engine, bounds).unwrap();
    let table = space.table().clone();
    let to = Pfn::new(9);
    CPU.set(0);
    // SAFETY: a table of the machine's engine.
    masked(|| unsafe { machine.activate(&table) });
    let begins = Arc::new(AtomicBool::new(false));
    let mover = thread::spawn({
        let (machine, begins, space) = (machine.clone(), begins.clone(), table.space());
        move || {
            CPU.set(1);
            while !begins.load(SeqCst) {
                thread::yield_now();
            }
            // SAFETY: memory is only modelled.
            unsafe { machine.move_root(space, to, &mut || ()) };
        }
    });
    let mover = Arc::new(mover);
    let answer = {
        let (machine, mover) = (machine.clone(), mover.clone());
        move || {
            begins.store(true, SeqCst);
            while !mover.is_finished() {
                machine.answer();
                thread::yield_now();
            }
        }
    };
    // An interrupt comes in the middle of the flush, if it's let in, and until then not.
    IN_FLUSH.set(Some(Box::new(answer.clone())));
    let space_of = table.space();
    machine.flush(&[FlushRange {
        space: space_of,
        start: address(0),
        pages: 40,
        order: Order::ZERO,
        tables_changed: false,
    }]);
    answer();
    assert_eq!(LOADED.get().0, to, "a CPU has a root loaded that was freed");
    // The space has another root than the machine was told.
    std::mem::forget((space, engine));
}
