//! Processes: an address space, files, children, threads.

use alloc::{collections::BTreeMap, string::String, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use kernel_abi::{self as abi, Error};
use pagemove::{
    folio::{FrozenFolio, PinnedPage},
    space::{AddressSpace, FaultError, Mappable, PageCache, SpaceError},
    units::{VirtAddr, VirtRange},
};
use spin::Mutex;

use crate::{agent::Agent, console, platform, sched};

/// Where processes may have mappings: not the first pages, nor the last one before the hole of addresses.
const FIRST: u64 = 0x10000;
const LAST: u64 = (1 << 46) - 4096;

/// A process.
pub(crate) struct Process {
    pub(crate) number: u64,
    pub(crate) name: String,
    pub(crate) space: AddressSpace,
    pub(crate) files: Mutex<Vec<File>>,
    pub(crate) pins: Mutex<BTreeMap<u64, Vec<PinnedPage>>>,
    /// Memory that isn't mapped.
    pub(crate) blocks: Mutex<Vec<FrozenFolio<'static>>>,
    children: Mutex<Vec<Arc<Process>>>,
    /// Changes with each wake-up of a word of its memory.
    pub(crate) wakes: AtomicU32,
    threads: AtomicU32,
    has_ended: AtomicU32,
    is_ending: AtomicBool,
    code: AtomicU64,
    next_pin: AtomicU64,
    /// Where the kernel has it load and store: one for each processor.
    pub(crate) agents: Option<Vec<Agent>>,
    /// The last one, since fields are dropped in this order.
    _living: Living,
}

/// Counts processes.
struct Living;

static LIVING: AtomicU32 = AtomicU32::new(0);

impl Living {
    fn new() -> Self {
        LIVING.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        LIVING.fetch_sub(1, Ordering::SeqCst);
        sched::wake(&LIVING);
    }
}

/// Waits until no process is left, and all that they had is free.
pub(crate) fn wait_for_all() {
    loop {
        let living = LIVING.load(Ordering::SeqCst);
        if living == 0 {
            return;
        }
        sched::wait(&LIVING, living);
    }
}

/// An open file.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) mappable: Arc<dyn Mappable>,
    /// It can be truncated.
    pub(crate) cache: Option<Arc<PageCache>>,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

fn bounds() -> VirtRange {
    let start = VirtAddr::new(FIRST).expect("a user's address");
    VirtRange::new(start, ((LAST - FIRST) >> 12).min(u64::from(u32::MAX)) as u32).expect("a user's range")
}

impl Process {
    /// Makes a process without memory.
    pub(crate) fn new(name: &str) -> Result<Arc<Self>, SpaceError> {
        Ok(Self::with(name.into(), AddressSpace::new(platform::engine(), bounds())?, Vec::new()))
    }

    /// Makes one that only loads and stores what the kernel says, on `cpus` processors.
    pub(crate) fn of_agents(space: AddressSpace, cpus: usize) -> Arc<Self> {
        let agents = (0..cpus).map(|_| Agent::default()).collect();
        Arc::new(Self { agents: Some(agents), ..Self::make("agents".into(), space, Vec::new()) })
    }

    fn with(name: String, space: AddressSpace, files: Vec<File>) -> Arc<Self> {
        Arc::new(Self::make(name, space, files))
    }

    fn make(name: String, space: AddressSpace, files: Vec<File>) -> Self {
        Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            name,
            space,
            files: Mutex::new(files),
            pins: Mutex::default(),
            blocks: Mutex::default(),
            children: Mutex::default(),
            wakes: AtomicU32::new(0),
            threads: AtomicU32::new(0),
            has_ended: AtomicU32::new(0),
            is_ending: AtomicBool::new(false),
            code: AtomicU64::new(0),
            next_pin: AtomicU64::new(1),
            agents: None,
            _living: Living::new(),
        }
    }

    /// Makes a copy of this process, without threads.
    pub(crate) fn fork(&self) -> Result<Arc<Self>, SpaceError> {
        let files = self.files.lock().clone();
        Ok(Self::with(self.name.clone(), self.space.fork()?, files))
    }

    /// Tells whether it can have one more child.
    pub(crate) fn check_children(&self) -> Result<(), Error> {
        if self.children.lock().len() < abi::MOST_CHILDREN { Ok(()) } else { Err(Error::NoMemory) }
    }

    /// Adds a child.
    pub(crate) fn add_child(&self, child: Arc<Process>) {
        self.children.lock().push(child);
    }

    /// Gives a child.
    pub(crate) fn child(&self, number: u64) -> Option<Arc<Process>> {
        self.children.lock().iter().find(|child| child.number == number).cloned()
    }

    /// Takes a child out.
    fn take_child(&self, number: u64) -> Option<Arc<Process>> {
        let mut children = self.children.lock();
        let at = children.iter().position(|child| child.number == number)?;
        Some(children.swap_remove(at))
    }

    /// Adds a file; gives its number.
    pub(crate) fn add_file(&self, file: File) -> Result<u64, Error> {
        let mut files = self.files.lock();
        if files.len() >= abi::MOST_FILES {
            return Err(Error::NoMemory);
        }
        files.push(file);
        Ok(files.len() as u64 - 1)
    }

    /// Gives a file.
    pub(crate) fn file(&self, number: u64) -> Result<File, Error> {
        self.files.lock().get(number as usize).cloned().ok_or(Error::BadFile)
    }

    /// Keeps pinned pages; gives their number.
    pub(crate) fn keep_pins(&self, pages: Vec<PinnedPage>) -> Result<u64, Error> {
        let mut pins = self.pins.lock();
        if pages.len() + pins.values().map(Vec::len).sum::<usize>() > abi::MOST_PINNED {
            // They are unpinned without the lock.
            drop(pins);
            return Err(Error::NoMemory);
        }
        let number = self.next_pin.fetch_add(1, Ordering::Relaxed);
        pins.insert(number, pages);
        Ok(number)
    }

    /// One more thread runs in it.
    pub(crate) fn thread_begins(&self) {
        self.threads.fetch_add(1, Ordering::Relaxed);
    }

    /// A thread of it ends. The last one empties its memory.
    pub(crate) fn thread_ends(&self) {
        if self.threads.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        // Nobody else is in it, and nobody can come: only its own threads start others.
        self.pins.lock().clear();
        self.blocks.lock().clear();
        // Nobody can wait for its children, so they end too.
        let children = core::mem::take(&mut *self.children.lock());
        children.iter().for_each(|child| child.end(abi::KILLED));
        drop(children);
        self.space.exit();
        self.files.lock().clear();
        self.has_ended.store(1, Ordering::Release);
        sched::wake(&self.has_ended);
    }

    /// Ends the process: each of its threads when it next leaves the kernel. One that sleeps for another program is woken.
    pub(crate) fn end(&self, code: u64) {
        if !self.is_ending.swap(true, Ordering::AcqRel) {
            self.code.store(code, Ordering::Release);
        }
        sched::wake_ending(self);
    }

    /// Tells whether it is to end.
    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    /// Wakes all threads that sleep on words of its memory.
    pub(crate) fn wake_all(&self) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        sched::wake(&self.wakes);
    }

    /// Waits until all its threads have ended, and its memory is empty; gives its code.
    pub(crate) fn wait(&self) -> u64 {
        while self.has_ended.load(Ordering::Acquire) == 0 {
            sched::wait(&self.has_ended, 0);
        }
        self.code.load(Ordering::Acquire)
    }

    /// As [`Self::wait`] for a child, until this process is to end itself; then takes the child out.
    pub(crate) fn wait_for_child(&self, number: u64) -> Result<u64, Error> {
        let child = self.child(number).ok_or(Error::NoProcess)?;
        while child.has_ended.load(Ordering::Acquire) == 0 {
            if self.is_ending() {
                return Err(Error::Again);
            }
            sched::wait_unless_ending(self, &child.has_ended, 0);
        }
        self.take_child(number).ok_or(Error::NoProcess)?;
        Ok(child.code.load(Ordering::Acquire))
    }

    /// Says why it is killed, and ends it. Other threads of it may fault until they have noticed.
    pub(crate) fn kill(&self, why: core::fmt::Arguments<'_>) {
        if !self.is_ending() {
            console::print!("process {} ({}) is ended: {why}\n", self.number, self.name);
        }
        self.end(abi::KILLED);
    }
}

/// Gives the number of a failed call.
pub(crate) fn error_of_space(error: SpaceError) -> Error {
    match error {
        SpaceError::OutOfMemory { .. } | SpaceError::NoRoom { .. } | SpaceError::TooManyMappings { .. } => {
            Error::NoMemory
        }
        SpaceError::NotMapped { .. } => Error::Fault,
        _ => Error::Invalid,
    }
}

/// As [`error_of_space`].
pub(crate) fn error_of_fault(error: FaultError) -> Error {
    match error {
        FaultError::OutOfMemory(_) | FaultError::TooManyMappings(_) => Error::NoMemory,
        _ => Error::Fault,
    }
}
