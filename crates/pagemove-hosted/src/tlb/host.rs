//! The host TLB: a process's addresses are a window of this program, in which the host's MMU enforces the engine's
//! tables.
//!
//! A window starts with nothing mapped. A load or store that misses raises SIGSEGV. The handler has the engine handle
//! the fault, walks its tables, and maps the frame of the memory file there; for stores only once the dirty mark is
//! set. A flush unmaps. The host's limit of map areas bounds the number of translations; the oldest are evicted, as a
//! TLB may do at any time.
//!
//! `unsafe`: installing a signal handler, and reading its arguments. The handler takes locks and may allocate, but only
//! for faults at addresses of windows. These are accessed only by `Process::load` and `Process::store`, and by user
//! code that got such an address: never by a thread that holds a lock of the engine, of this module or of an allocator.
#![allow(unsafe_code)]

use std::{
    collections::{BTreeMap, VecDeque},
    mem::MaybeUninit,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use pagemove::{
    paging::Walk,
    port::{FlushRange, SpaceId},
    space::Access,
    units::{HUGE_ORDER, Order, PAGE_SHIFT, Pfn, VirtAddr},
};
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;

use crate::{
    error::HostedError,
    format::Space,
    os::{self, Area, MemoryFile},
};

/// Windows of all machines by their first address, for the signal handler.
static WINDOWS: RwLock<BTreeMap<usize, Weak<Window>>> = RwLock::new(BTreeMap::new());

/// The number of translations in all windows.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Map areas reserved for the rest of the program, and the fewest that a machine needs besides.
const RESERVE: usize = 4096;
const MIN_FREE: usize = 1024;

/// The windows of one machine.
pub(crate) struct HostTlb {
    windows: RwLock<FxHashMap<SpaceId, Arc<Window>>>,
    // The machine's RAM; closed with the machine.
    frames: Arc<MemoryFile>,
    first_frame: Pfn,
    most: usize,
}

impl HostTlb {
    /// Makes a TLB for a RAM in `frames`, whose first frame is `first_frame`.
    pub(crate) fn new(frames: MemoryFile, first_frame: Pfn) -> Result<Self, HostedError> {
        let (most, used) = os::map_areas().unwrap_or((65530, 0));
        let free = most.saturating_sub(used);
        if free < RESERVE + MIN_FREE {
            return Err(HostedError::MapAreas { needed: RESERVE + MIN_FREE, most, free });
        }
        // A translation can cost two areas: its own, and by splitting the reserved area around it.
        Ok(Self { windows: RwLock::default(), frames: Arc::new(frames), first_frame, most: (free - RESERVE) / 2 })
    }

    /// Opens a window for an address space.
    pub(crate) fn open(&self, space: &Arc<Space>) -> Result<Arc<Window>, HostedError> {
        let bounds = space.bounds();
        let bytes = (bounds.pages() as usize) << PAGE_SHIFT;
        let area = Area::reserved(bytes).map_err(|source| HostedError::Host { what: "a window", source })?;
        let window = Arc::new(Window {
            frames: Arc::downgrade(&self.frames),
            first_frame: self.first_frame,
            space: Arc::downgrade(space),
            first: bounds.start(),
            most: self.most,
            held: Mutex::default(),
            area,
        });
        WINDOWS.write().insert(window.area.start().as_ptr() as usize, Arc::downgrade(&window));
        self.windows.write().insert(space.id(), window.clone());
        Ok(window)
    }

    /// Closes an address space's window.
    pub(crate) fn close(&self, space: SpaceId) {
        let window = self.windows.write().remove(&space);
        if let Some(window) = window {
            WINDOWS.write().remove(&(window.area.start().as_ptr() as usize));
        }
    }

    /// Waits until no walk of the address space's tables is in progress that began before.
    pub(crate) fn end_walks(&self, space: SpaceId) {
        let window = self.windows.read().get(&space).cloned();
        if let Some(window) = window {
            drop(window.held.lock());
        }
    }

    pub(crate) fn flush(&self, ranges: &[FlushRange]) {
        for of_space in ranges.chunk_by(|one, next| one.space.id == next.space.id) {
            let window = self.windows.read().get(&of_space[0].space.id).cloned();
            if let Some(window) = window {
                window.flush(of_space);
            }
        }
    }
}

/// Translations of one window.
#[derive(Default)]
struct Held {
    // By virtual page number of the page's start: its order, and the number of its fill.
    pages: FxHashMap<u64, (Order, u64)>,
    // Pages and the numbers of their fills, oldest first; may have fills that were flushed since.
    ages: VecDeque<(u64, u64)>,
    fills: u64,
}

/// A process's addresses.
pub(crate) struct Window {
    frames: Weak<MemoryFile>,
    first_frame: Pfn,
    space: Weak<Space>,
    first: VirtAddr,
    most: usize,
    held: Mutex<Held>,
    area: Area,
}

impl Window {
    /// Gives the host address of `address`; `None` outside the window.
    pub(crate) fn host_address(&self, address: VirtAddr) -> Option<*mut u8> {
        let offset = address.get().checked_sub(self.first.get())? as usize;
        // SAFETY: within the area, by the check.
        (offset < self.area.bytes()).then(|| unsafe { self.area.start().as_ptr().add(offset) })
    }

    fn offset(&self, vpn: u64) -> usize {
        ((vpn - self.first.vpn()) << PAGE_SHIFT) as usize
    }

    /// Handles a fault at `offset`, so that the access can be retried; false for an access violation.
    fn fault(&self, offset: usize, access: Access) -> bool {
        let (Some(frames), Some(space)) = (self.frames.upgrade(), self.space.upgrade()) else { return false };
        let Some(address) = VirtAddr::new(self.first.get() + offset as u64) else { return false };
        let walk = match access {
            Access::Write => Walk::Store,
            Access::Read => Walk::Load,
            // Frames are never mapped executable: no program's code is in them.
            Access::Execute => return false,
        };
        loop {
            match self.fill(&frames, &space, address, walk) {
                Filled::Yes => return true,
                Filled::WalkFaults if space.fault(address, access).is_ok() => {}
                Filled::WalkFaults => return false,
                Filled::HostRefuses(error) => {
                    // The program can't continue without this page, and there is no caller to return an error to.
                    eprintln!("pagemove: the host maps no more pages for the host TLB: {error}");
                    return false;
                }
            }
        }
    }

    /// Walks the tables, and maps the frame found.
    fn fill(&self, frames: &MemoryFile, space: &Space, address: VirtAddr, walk: Walk) -> Filled {
        // Held over walk and map: a flush comes before, so the walk sees the change; or after, so it unmaps.
        let mut held = self.held.lock();
        // SAFETY: a CPU's walk; a flush of this window waits for `held`.
        let Some(found) = (unsafe { space.table().translate(address, walk) }) else { return Filled::WalkFaults };
        let start = if found.order == HUGE_ORDER { address.align_down_huge() } else { address.page() };
        let bytes = (found.order.frames() as usize) << PAGE_SHIFT;
        let at = (found.first.offset_from(self.first_frame) as usize) << PAGE_SHIFT;
        if !held.pages.contains_key(&start.vpn()) {
            held.fills += 1;
            let fill = held.fills;
            held.pages.insert(start.vpn(), (found.order, fill));
            held.ages.push_back((start.vpn(), fill));
            if HELD.fetch_add(1, Ordering::Relaxed) >= self.most {
                self.evict(&mut held);
            }
        }
        let show = || self.area.show(self.offset(start.vpn()), bytes, frames, at, found.storable);
        // The rest of the program may have used up the reserved areas: evict again, and retry.
        match show().or_else(|_| {
            self.evict(&mut held);
            show()
        }) {
            Ok(()) => Filled::Yes,
            Err(error) => Filled::HostRefuses(error),
        }
    }

    /// Evicts the oldest translations of this window; if it has few, first those of others.
    fn evict(&self, held: &mut Held) {
        if held.pages.len() < EVICT_BATCH {
            let others: Vec<Arc<Window>> = WINDOWS.read().values().filter_map(Weak::upgrade).collect();
            let mut evicted = 0;
            for other in others.iter().filter(|other| !std::ptr::eq(&***other, self)) {
                // Without waiting, since two windows could wait for each other.
                if let Some(mut theirs) = other.held.try_lock() {
                    evicted += other.evict_oldest(&mut theirs);
                }
                if evicted >= EVICT_BATCH {
                    return;
                }
            }
        }
        self.evict_oldest(held);
    }

    fn evict_oldest(&self, held: &mut Held) -> usize {
        let mut pages = Vec::with_capacity(EVICT_BATCH);
        // Not the newest, which is being filled.
        while pages.len() < EVICT_BATCH && held.ages.len() > 1 {
            let Some((vpn, fill)) = held.ages.pop_front() else { break };
            // If the page was filled again since, that fill has its own place in `ages`.
            if let Some(&(order, now)) = held.pages.get(&vpn)
                && now == fill
            {
                held.pages.remove(&vpn);
                pages.push((vpn, order));
            }
        }
        let evicted = pages.len();
        self.hide(pages);
        evicted
    }

    fn flush(&self, ranges: &[FlushRange]) {
        let mut held = self.held.lock();
        let held = &mut *held;
        let mut gone = Vec::new();
        for range in ranges {
            let (first, behind) = (range.start.vpn(), range.start.vpn() + u64::from(range.pages));
            if u64::from(range.pages) > held.pages.len() as u64 {
                let inside = |vpn: u64, order: Order| vpn < behind && vpn + u64::from(order.frames()) > first;
                let found = held.pages.extract_if(|&vpn, &mut (order, _)| inside(vpn, order));
                gone.extend(found.map(|(vpn, (order, _))| (vpn, order)));
                continue;
            }
            let mut forget = |vpn: u64, least: Order| {
                if let Some(&(order, _)) = held.pages.get(&vpn)
                    && order >= least
                {
                    held.pages.remove(&vpn);
                    gone.push((vpn, order));
                }
            };
            // A 2 MiB page that begins before the range.
            forget(range.start.align_down_huge().vpn(), HUGE_ORDER);
            (first..behind).for_each(|vpn| forget(vpn, Order::ZERO));
        }
        self.hide(gone);
        if held.ages.len() > held.pages.len() * 2 + EVICT_BATCH {
            held.ages.retain(|(vpn, fill)| held.pages.get(vpn).is_some_and(|(_, now)| now == fill));
        }
    }

    /// Unmaps pages, consecutive ones with one call.
    fn hide(&self, mut pages: Vec<(u64, Order)>) {
        HELD.fetch_sub(pages.len(), Ordering::Relaxed);
        pages.sort_unstable();
        for run in pages.chunk_by(|(one, order), (next, _)| one + u64::from(order.frames()) == *next) {
            let frames: u64 = run.iter().map(|(_, order)| u64::from(order.frames())).sum();
            let hidden = self.area.hide(self.offset(run[0].0), (frames << PAGE_SHIFT) as usize);
            // Unmapping fails only if it would exceed the limit of areas; we stay far below.
            assert!(hidden.is_ok(), "the host did not unmap a translation: {hidden:?}");
        }
    }
}

/// The result of a fill.
enum Filled {
    Yes,
    WalkFaults,
    HostRefuses(std::io::Error),
}

/// Translations evicted at once, since consecutive ones need only one call.
const EVICT_BATCH: usize = 64;

impl Drop for Window {
    fn drop(&mut self) {
        HELD.fetch_sub(self.held.get_mut().pages.len(), Ordering::Relaxed);
    }
}

/// The previous action of SIGSEGV.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs the handler, once for the program.
pub(crate) fn install_handler() {
    // On the thread's stack: the alternate stack is too small for the engine.
    // SAFETY: zeroes are a valid sigaction.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_RESTART;
    action.sa_sigaction = on_segv as *const () as usize;
    let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: both point to valid actions; the handler has the form that SA_SIGINFO asks for.
    let previous = unsafe {
        libc::sigaction(libc::SIGSEGV, &action, previous.as_mut_ptr());
        previous.assume_init()
    };
    let _ = PREVIOUS.set(previous);
}

extern "C" fn on_segv(_signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: errno's address is valid in every thread.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the kernel passes both to a handler of this form.
    let (address, code) = unsafe {
        let context = &*context.cast::<libc::ucontext_t>();
        ((*info).si_addr() as usize, context.uc_mcontext.gregs[libc::REG_ERR as usize])
    };
    // Intel SDM volume 3, section 4.7: bit 1 is a store, bit 4 an instruction fetch.
    let access = match code {
        code if code & 2 != 0 => Access::Write,
        code if code & 16 != 0 => Access::Execute,
        _ => Access::Read,
    };
    let window = {
        let windows = WINDOWS.read();
        windows.range(..=address).next_back().and_then(|(&start, window)| Some((address - start, window.upgrade()?)))
    };
    let handled = window.is_some_and(|(offset, window)| offset < window.area.bytes() && window.fault(offset, access));
    if !handled {
        // Not ours, or a violation: the previous handler, or the kernel, gets it when the access is retried.
        if let Some(previous) = PREVIOUS.get() {
            // SAFETY: an action that was in force before.
            unsafe { libc::sigaction(libc::SIGSEGV, previous, std::ptr::null_mut()) };
        }
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}
