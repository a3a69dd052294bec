//! Threads: preemptive, on any processor, first come first served; sleeping on words.
//!
//! One lock, held across the switch of stacks and released by the thread that runs then: so no other processor can take a thread
//! whose registers aren't saved yet. It is taken with interrupts masked.
//!
//! Stacks are folios of the engine, not of the heap: without memory there is an error, and the heap's reserve stays. A kernel thread
//! frees what has ended.

use alloc::{boxed::Box, collections::VecDeque, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pagemove::{
    compact::alloc_compacting, folio::FrozenFolio, frame::Kind, migrate::Options, movable::Mode, units::Order,
    zone::Request,
};
use spin::Mutex;
use x86_64::instructions::interrupts;

use crate::{apic, cpu, platform, process::Process};

/// A kernel stack: 64 KiB.
const STACK: Order = Order::new(4).unwrap();

/// A thread.
pub(crate) struct Thread {
    /// The process whose memory it uses; `None` for the kernel's own.
    pub(crate) process: Option<Arc<Process>>,
    /// Its kernel stack, until it has ended.
    stack: Mutex<Option<FrozenFolio<'static>>>,
    stack_end: u64,
    /// Where its registers are, while it doesn't run.
    saved: AtomicU64,
    is_idle: bool,
    /// The only processor on which it runs, if it's bound to one.
    cpu: Option<usize>,
    /// The page of its last fault, and how often in a row it was that one.
    last_fault: AtomicU64,
    faults: AtomicU32,
    /// It has ended, and its stack is free.
    ended: AtomicU32,
}

struct Sleeper {
    thread: Arc<Thread>,
    /// The address of its word.
    word: usize,
    value: u32,
    /// The process whose end wakes it, by its address; 0 for none.
    process: usize,
    /// For how many ticks its word has had another value.
    overdue: u32,
}

struct Scheduler {
    ready: VecDeque<Arc<Thread>>,
    sleeping: Vec<Sleeper>,
    /// Threads that have ended, for the reaper.
    dead: Vec<Arc<Thread>>,
    /// How many threads there are. Each list has room for all of them.
    threads: usize,
    /// A bit for each processor that runs its idle thread, and that nobody has interrupted since.
    idle_cpus: u64,
    lost_wakes: u32,
}

static SCHEDULER: Mutex<Scheduler> = Mutex::new(Scheduler {
    ready: VecDeque::new(),
    sleeping: Vec::new(),
    dead: Vec::new(),
    threads: 0,
    idle_cpus: 0,
    lost_wakes: 0,
});

unsafe extern "C" {
    fn switch_stacks(save: *mut u64, to: u64);
    fn begin_thread();
}

/// Why the running thread stops.
enum Stop {
    /// Others are to run.
    Preempted,
    /// It sleeps while a word has a value.
    Sleeps {
        word: usize,
        value: u32,
        process: usize,
    },
    Ended,
}

/// There is no memory for a thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NoMemory;

impl Thread {
    /// Makes a thread that calls `begin` with a copy of `argument`, which is on its stack.
    fn new<T: Copy>(
        process: Option<Arc<Process>>,
        cpu: Option<usize>,
        begin: extern "C" fn(&T) -> !,
        argument: T,
    ) -> Result<Arc<Self>, NoMemory> {
        let request = Request::new(STACK, Kind::Kernel);
        let stack = alloc_compacting(platform::engine(), &request, Options::new(Mode::Sync)).map_err(|_| NoMemory)?;
        locked(Scheduler::admit)?;
        let bytes = STACK.frames() as u64 * 4096;
        let stack_end = stack.words(0).as_ptr() as u64 + bytes;
        let place = (stack_end - size_of::<T>() as u64) & !15;
        // What `switch_stacks` takes: r15 to r12, rbp, rbx, and the address to return to. After that the stack is aligned to 16.
        let registers = [0, 0, place, begin as *const () as u64, 0, 0, begin_thread as *const () as u64];
        let saved = place - size_of_val(&registers) as u64;
        // SAFETY: both are in the folio, which is ours, and apart from each other.
        unsafe {
            (place as *mut T).write(argument);
            (saved as *mut [u64; 7]).write(registers);
        }
        Ok(Arc::new(Self { stack: Mutex::new(Some(stack)), cpu, ..Self::with(process, stack_end, saved) }))
    }

    fn with(process: Option<Arc<Process>>, stack_end: u64, saved: u64) -> Self {
        Self {
            process,
            stack: Mutex::new(None),
            stack_end,
            saved: AtomicU64::new(saved),
            is_idle: false,
            cpu: None,
            last_fault: AtomicU64::new(0),
            faults: AtomicU32::new(0),
            ended: AtomicU32::new(0),
        }
    }

    /// It has faulted at a page.
    pub(crate) fn count_fault(&self, at: u64) {
        let page = at >> 12;
        let again = self.last_fault.swap(page, Ordering::Relaxed) == page;
        let faults = if again { self.faults.load(Ordering::Relaxed) + 1 } else { 1 };
        self.faults.store(faults, Ordering::Relaxed);
        MOST_FAULTS.fetch_max(faults, Ordering::Relaxed);
    }

    fn may_run_on(&self, cpu: usize) -> bool {
        self.cpu.is_none_or(|only| only == cpu)
    }

    /// It has come further than its last fault.
    pub(crate) fn forget_faults(&self) {
        self.last_fault.store(0, Ordering::Relaxed);
    }
}

static MOST_FAULTS: AtomicU32 = AtomicU32::new(0);

/// Gives the most faults in a row of one thread at one page, and begins anew.
pub(crate) fn take_most_faults() -> u32 {
    MOST_FAULTS.swap(0, Ordering::Relaxed)
}

/// The rest of a new thread's first switch.
#[unsafe(no_mangle)]
extern "C" fn thread_begins() {
    // SAFETY: the thread that switched to this one holds the lock, and leaves it to this one.
    unsafe { SCHEDULER.force_unlock() };
    interrupts::enable();
}

/// Gives the running thread.
pub(crate) fn current() -> Arc<Thread> {
    let thread = cpu::thread() as *const Thread;
    // SAFETY: the running thread's `Arc` is kept by `switch`.
    unsafe {
        Arc::increment_strong_count(thread);
        Arc::from_raw(thread)
    }
}

/// Makes the caller, on the processor's first stack, its idle thread, and starts the timer.
pub(crate) fn start() {
    let idle = Arc::new(Thread { is_idle: true, ..Thread::with(None, 0, 0) });
    cpu::set_thread(Arc::into_raw(idle) as usize, 0);
    IDLE.lock()[cpu::number()] = cpu::thread();
    cpu::enable_preemption();
    apic::start_timer();
    interrupts::enable();
}

static IDLE: Mutex<[usize; cpu::MAX_CPUS]> = Mutex::new([0; cpu::MAX_CPUS]);

/// The idle thread's loop.
pub(crate) fn idle() -> ! {
    loop {
        interrupts::disable();
        cpu::set_wants_switch(false);
        let mut scheduler = SCHEDULER.lock();
        if !scheduler.has_ready() {
            scheduler.idle_cpus |= 1 << cpu::number();
            drop(scheduler);
            interrupts::enable_and_hlt();
            continue;
        }
        switch_locked(scheduler, Stop::Preempted);
        interrupts::enable();
    }
}

/// Starts a kernel thread.
pub(crate) fn spawn<F: FnOnce() + Send + 'static>(begin: F) -> Result<Arc<Thread>, NoMemory> {
    extern "C" fn run<F: FnOnce()>(begin: &*mut F) -> ! {
        // SAFETY: of the box below, which is this thread's.
        let begin = unsafe { Box::from_raw(*begin) };
        begin();
        exit()
    }
    let begin = Box::into_raw(Box::new(begin));
    let thread = Thread::new(None, None, run::<F>, begin).inspect_err(|_| {
        // SAFETY: the thread that would have taken it isn't there.
        drop(unsafe { Box::from_raw(begin) });
    })?;
    let started = thread.clone();
    locked(|scheduler| scheduler.make_ready(started));
    Ok(thread)
}

/// Starts a thread of a process, which calls `begin` with a copy of `argument`; on one processor only, if `cpu` names it.
pub(crate) fn spawn_in<T: Copy>(
    process: &Arc<Process>,
    cpu: Option<usize>,
    begin: extern "C" fn(&T) -> !,
    argument: T,
) -> Result<Arc<Thread>, NoMemory> {
    let thread = Thread::new(Some(process.clone()), cpu, begin, argument)?;
    process.thread_begins();
    let started = thread.clone();
    locked(|scheduler| scheduler.make_ready(started));
    Ok(thread)
}

fn locked<T>(deed: impl FnOnce(&mut Scheduler) -> T) -> T {
    interrupts::without_interrupts(|| deed(&mut SCHEDULER.lock()))
}

impl Scheduler {
    fn make_ready(&mut self, thread: Arc<Thread>) {
        let idle_cpus = self.idle_cpus & thread.cpu.map_or(u64::MAX, |cpu| 1 << cpu);
        self.ready.push_back(thread);
        // The caller's own processor first: a handler there has ended the halt.
        let own = cpu::number();
        let idle = if idle_cpus & 1 << own != 0 { own } else { idle_cpus.trailing_zeros() as usize };
        if idle_cpus != 0 {
            self.idle_cpus &= !(1 << idle);
            if idle != own {
                apic::interrupt(idle, apic::RESCHEDULE);
            }
        }
    }

    /// Counts one more thread, and makes room for it in all lists: they grow here, where that may fail.
    fn admit(&mut self) -> Result<(), NoMemory> {
        let threads = self.threads + 1;
        self.ready.try_reserve(threads - self.ready.len()).map_err(|_| NoMemory)?;
        self.sleeping.try_reserve(threads - self.sleeping.len()).map_err(|_| NoMemory)?;
        self.dead.try_reserve(threads - self.dead.len()).map_err(|_| NoMemory)?;
        self.threads = threads;
        Ok(())
    }

    /// Tells whether a thread can run on the caller's processor.
    fn has_ready(&self) -> bool {
        self.ready.iter().any(|thread| thread.may_run_on(cpu::number()))
    }

    /// Takes the first thread that can.
    fn take_ready(&mut self) -> Option<Arc<Thread>> {
        let at = self.ready.iter().position(|thread| thread.may_run_on(cpu::number()))?;
        self.ready.remove(at)
    }

    fn wake(&mut self, is_due: impl Fn(&Sleeper) -> bool) -> usize {
        let mut woken = 0;
        let mut at = 0;
        while at < self.sleeping.len() {
            if is_due(&self.sleeping[at]) {
                let sleeper = self.sleeping.swap_remove(at);
                self.make_ready(sleeper.thread);
                woken += 1;
            } else {
                at += 1;
            }
        }
        woken
    }
}

/// Lets another thread run, if there is one.
pub(crate) fn yield_now() {
    interrupts::without_interrupts(|| switch(Stop::Preempted));
}

/// Ends the running thread.
pub(crate) fn exit() -> ! {
    interrupts::disable();
    switch(Stop::Ended);
    unreachable!("an ended thread runs again");
}

/// Waits until a thread has ended, and its stack is free.
pub(crate) fn join(thread: &Thread) {
    while thread.ended.load(Ordering::Acquire) == 0 {
        wait(&thread.ended, 0);
    }
}

/// Sleeps while `word` holds `value`, until it's woken. May return early.
pub(crate) fn wait(word: &AtomicU32, value: u32) {
    wait_with(word, value, None);
}

/// As [`wait`], but not while `process`, the caller's, is to end.
pub(crate) fn wait_unless_ending(process: &Process, word: &AtomicU32, value: u32) {
    wait_with(word, value, Some(process));
}

fn wait_with(word: &AtomicU32, value: u32, process: Option<&Process>) {
    interrupts::without_interrupts(|| {
        let scheduler = SCHEDULER.lock();
        // Under the lock that `wake` takes: so a change after this is followed by a wake-up that finds us.
        if word.load(Ordering::SeqCst) == value && !process.is_some_and(Process::is_ending) {
            let process = process.map_or(0, |process| (&raw const *process) as usize);
            switch_locked(scheduler, Stop::Sleeps { word: (&raw const *word) as usize, value, process });
        }
    });
}

/// Wakes the threads of a process that is to end from [`wait_unless_ending`].
pub(crate) fn wake_ending(process: &Process) {
    let process = (&raw const *process) as usize;
    locked(|scheduler| scheduler.wake(|sleeper| sleeper.process == process));
}

/// Wakes all threads that sleep on the word; gives their number.
pub(crate) fn wake(word: &AtomicU32) -> usize {
    let word = (&raw const *word) as usize;
    locked(|scheduler| scheduler.wake(|sleeper| sleeper.word == word))
}

/// From this number of ticks on after its word has changed, a thread that still sleeps wasn't woken: 10 s of a running machine.
const LOST: u32 = 2500;

/// A tick of this processor's timer.
pub(crate) fn tick() {
    let mut scheduler = SCHEDULER.lock();
    if cpu::number() == 0 {
        let mut lost = 0;
        for sleeper in &mut scheduler.sleeping {
            // SAFETY: the thread sleeps in `wait_until`, which borrows the word.
            let now = unsafe { &*(sleeper.word as *const AtomicU32) }.load(Ordering::Relaxed);
            sleeper.overdue = if now == sleeper.value { 0 } else { sleeper.overdue + 1 };
            lost += u32::from(sleeper.overdue == LOST);
        }
        scheduler.lost_wakes += lost;
        scheduler.wake(|sleeper| sleeper.overdue >= LOST);
    }
    if scheduler.has_ready() {
        cpu::set_wants_switch(true);
    }
}

/// Gives how often a thread slept on although its word had changed. It should be 0.
pub(crate) fn lost_wakes() -> u32 {
    locked(|scheduler| scheduler.lost_wakes)
}

/// How many threads have ended.
static DEATHS: AtomicU32 = AtomicU32::new(0);

/// Starts the thread that frees what has ended. It sleeps, since a process may end with its last thread.
pub(crate) fn start_reaper() -> Result<(), NoMemory> {
    spawn(|| {
        loop {
            let deaths = DEATHS.load(Ordering::SeqCst);
            // One by one, so that the list keeps its room.
            while let Some(thread) = locked(|scheduler| scheduler.dead.pop()) {
                // Before the process: its last reference tells that nothing is left.
                drop(thread.stack.lock().take());
                locked(|scheduler| scheduler.threads -= 1);
                thread.ended.store(1, Ordering::SeqCst);
                wake(&thread.ended);
            }
            wait(&DEATHS, deaths);
        }
    })
    .map(drop)
}

/// Switches if that is wanted. Interrupts are masked, preemption is enabled.
pub(crate) fn preempt() {
    cpu::set_wants_switch(false);
    switch(Stop::Preempted);
}

fn switch(stop: Stop) {
    switch_locked(SCHEDULER.lock(), stop);
}

/// Switches to the next thread; returns when this one runs again, perhaps on another processor. Interrupts are masked.
fn switch_locked(mut scheduler: spin::MutexGuard<'_, Scheduler>, stop: Stop) {
    let own = cpu::thread() as *const Thread;
    // SAFETY: it's the running thread.
    let is_idle = unsafe { &*own }.is_idle;
    if matches!(stop, Stop::Ended) {
        DEATHS.fetch_add(1, Ordering::SeqCst);
        let deaths = (&raw const DEATHS) as usize;
        // It takes the lock first, and so finds the thread in the list.
        scheduler.wake(|sleeper| sleeper.word == deaths);
    }
    let next = match scheduler.take_ready() {
        Some(next) => Arc::into_raw(next),
        None if matches!(stop, Stop::Preempted) => return,
        None => IDLE.lock()[cpu::number()] as *const Thread,
    };
    if is_idle {
        // Also when it was interrupted, and not by who wants a thread to run here.
        scheduler.idle_cpus &= !(1 << cpu::number());
    } else {
        // SAFETY: the reference that `into_raw` gave when it was switched to.
        let this = unsafe { Arc::from_raw(own) };
        match stop {
            Stop::Preempted => scheduler.ready.push_back(this),
            Stop::Sleeps { word, value, process } => {
                scheduler.sleeping.push(Sleeper { thread: this, word, value, process, overdue: 0 });
            }
            Stop::Ended => scheduler.dead.push(this),
        }
    }
    // SAFETY: `next` has its reference; `own` is in one of the lists now, which need the lock.
    let (save, to) = unsafe {
        platform::enter((*next).process.as_deref());
        cpu::set_thread(next as usize, (*next).stack_end);
        ((*own).saved.as_ptr(), (*next).saved.load(Ordering::Relaxed))
    };
    core::mem::forget(scheduler);
    // SAFETY: `to` is what this function saved, or a new thread's stack.
    unsafe { switch_stacks(save, to) };
    // SAFETY: the thread that switched to this one has left its lock to it.
    unsafe { SCHEDULER.force_unlock() };
}
