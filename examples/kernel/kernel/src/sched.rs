//! Threads: preemptive, on any processor, first come first served; sleeping on words.
//!
//! One lock, held across the switch of stacks and released by the thread that runs then: so no other processor can take a thread
//! whose registers aren't saved yet. It is taken with interrupts masked.

use alloc::{boxed::Box, collections::VecDeque, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use spin::Mutex;
use x86_64::instructions::interrupts;

use crate::{apic, cpu, platform, process::Process, time};

const STACK_WORDS: usize = 8192;

/// A thread.
pub(crate) struct Thread {
    /// The process whose memory it uses; `None` for the kernel's own.
    pub(crate) process: Option<Arc<Process>>,
    stack: Box<[u64]>,
    /// Where its registers are, while it doesn't run.
    saved: AtomicU64,
    /// A kernel thread's function.
    begin: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    is_idle: bool,
    /// The page of its last fault, and how often in a row it was that one.
    last_fault: AtomicU64,
    faults: AtomicU32,
    pub(crate) ended: AtomicU32,
}

struct Sleeper {
    thread: Arc<Thread>,
    /// The address of its word.
    word: usize,
    value: u32,
    /// When it is to be woken.
    limit: u64,
    /// For how many ticks its word has had another value.
    overdue: u32,
}

struct Scheduler {
    ready: VecDeque<Arc<Thread>>,
    sleeping: Vec<Sleeper>,
    /// Threads that have ended, for [`reap`].
    dead: Vec<Arc<Thread>>,
    idle_cpus: Vec<usize>,
    lost_wakes: u32,
}

static SCHEDULER: Mutex<Scheduler> = Mutex::new(Scheduler {
    ready: VecDeque::new(),
    sleeping: Vec::new(),
    dead: Vec::new(),
    idle_cpus: Vec::new(),
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
    /// It sleeps while a word has a value, until this time.
    Sleeps {
        word: usize,
        value: u32,
        limit: u64,
    },
    Ended,
}

impl Thread {
    fn new(process: Option<Arc<Process>>, begin: Box<dyn FnOnce() + Send>) -> Arc<Self> {
        let mut stack = alloc::vec![0u64; STACK_WORDS].into_boxed_slice();
        // What `switch_stacks` takes: r15 to r12, rbp, rbx, and the address to return to. After that the stack is aligned to 16.
        let at = STACK_WORDS - 9 - stack.as_ptr_range().end as usize / 8 % 2;
        unsafe extern "C" fn run() {
            let thread = current();
            let begin = thread.begin.lock().take();
            if let Some(begin) = begin {
                drop(thread);
                begin();
            }
            exit();
        }
        stack[at + 3] = run as *const () as u64;
        stack[at + 6] = begin_thread as *const () as u64;
        let saved = AtomicU64::new(&raw const stack[at] as u64);
        let begin = Mutex::new(Some(begin));
        Arc::new(Self {
            process,
            stack,
            saved,
            begin,
            is_idle: false,
            last_fault: AtomicU64::new(0),
            faults: AtomicU32::new(0),
            ended: AtomicU32::new(0),
        })
    }

    /// It has faulted at a page.
    pub(crate) fn count_fault(&self, at: u64) {
        let page = at >> 12;
        let again = self.last_fault.swap(page, Ordering::Relaxed) == page;
        let faults = if again { self.faults.load(Ordering::Relaxed) + 1 } else { 1 };
        self.faults.store(faults, Ordering::Relaxed);
        MOST_FAULTS.fetch_max(faults, Ordering::Relaxed);
    }

    /// It has come further than its last fault.
    pub(crate) fn forget_faults(&self) {
        self.last_fault.store(0, Ordering::Relaxed);
    }

    /// The end of its kernel stack.
    pub(crate) fn stack_end(&self) -> u64 {
        self.stack.as_ptr_range().end as u64 & !15
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
    let idle = Arc::new(Thread {
        process: None,
        stack: Box::new([]),
        saved: AtomicU64::new(0),
        begin: Mutex::new(None),
        is_idle: true,
        last_fault: AtomicU64::new(0),
        faults: AtomicU32::new(0),
        ended: AtomicU32::new(0),
    });
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
        if scheduler.ready.is_empty() {
            let own = cpu::number();
            if !scheduler.idle_cpus.contains(&own) {
                scheduler.idle_cpus.push(own);
            }
            drop(scheduler);
            interrupts::enable_and_hlt();
            continue;
        }
        scheduler.idle_cpus.retain(|&cpu| cpu != cpu::number());
        switch_locked(scheduler, Stop::Preempted);
        interrupts::enable();
    }
}

/// Starts a kernel thread.
pub(crate) fn spawn(begin: impl FnOnce() + Send + 'static) -> Arc<Thread> {
    spawn_in(None, begin)
}

/// Starts a thread of a process.
pub(crate) fn spawn_in(process: Option<Arc<Process>>, begin: impl FnOnce() + Send + 'static) -> Arc<Thread> {
    let thread = Thread::new(process, Box::new(begin));
    let started = thread.clone();
    locked(|scheduler| scheduler.make_ready(started));
    thread
}

fn locked<T>(deed: impl FnOnce(&mut Scheduler) -> T) -> T {
    interrupts::without_interrupts(|| deed(&mut SCHEDULER.lock()))
}

impl Scheduler {
    fn make_ready(&mut self, thread: Arc<Thread>) {
        self.ready.push_back(thread);
        let own = cpu::number();
        if let Some(idle) = self.idle_cpus.pop()
            && idle != own
        {
            apic::interrupt(idle, apic::RESCHEDULE);
        }
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
    let thread = current();
    thread.ended.store(1, Ordering::Release);
    let word = (&raw const thread.ended) as usize;
    drop(thread);
    SCHEDULER.lock().wake(|sleeper| sleeper.word == word);
    switch(Stop::Ended);
    unreachable!("an ended thread runs again");
}

/// Waits until a thread has ended.
pub(crate) fn join(thread: &Thread) {
    while thread.ended.load(Ordering::Acquire) == 0 {
        wait_until(&thread.ended, 0, u64::MAX);
    }
}

/// Sleeps while `word` holds `value`, until it's woken. May return early.
pub(crate) fn wait(word: &AtomicU32, value: u32) {
    wait_until(word, value, u64::MAX);
}

fn wait_until(word: &AtomicU32, value: u32, limit: u64) {
    interrupts::without_interrupts(|| {
        let scheduler = SCHEDULER.lock();
        // Under the lock that `wake` takes: so a change after this is followed by a wake-up that finds us.
        if word.load(Ordering::SeqCst) == value {
            switch_locked(scheduler, Stop::Sleeps { word: (&raw const *word) as usize, value, limit });
        }
    });
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
    let now = time::now_ns();
    let mut scheduler = SCHEDULER.lock();
    scheduler.wake(|sleeper| sleeper.limit <= now);
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
    if !scheduler.ready.is_empty() {
        cpu::set_wants_switch(true);
    }
}

/// Gives how often a thread slept on although its word had changed. It should be 0.
pub(crate) fn lost_wakes() -> u32 {
    locked(|scheduler| scheduler.lost_wakes)
}

/// Frees ended threads. Sleeps, since a process may end with its last thread.
pub(crate) fn reap() {
    let dead = locked(|scheduler| core::mem::take(&mut scheduler.dead));
    drop(dead);
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
    let next = match scheduler.ready.pop_front() {
        Some(next) => Arc::into_raw(next),
        None if matches!(stop, Stop::Preempted) => return,
        None => IDLE.lock()[cpu::number()] as *const Thread,
    };
    if !is_idle {
        // SAFETY: the reference that `into_raw` gave when it was switched to.
        let this = unsafe { Arc::from_raw(own) };
        match stop {
            Stop::Preempted => scheduler.ready.push_back(this),
            Stop::Sleeps { word, value, limit } => {
                scheduler.sleeping.push(Sleeper { thread: this, word, value, limit, overdue: 0 });
            }
            Stop::Ended => scheduler.dead.push(this),
        }
    }
    // SAFETY: `next` has its reference; `own` is in one of the lists now, which need the lock.
    let (save, to) = unsafe {
        platform::enter((*next).process.as_deref());
        cpu::set_thread(next as usize, (*next).stack_end());
        ((*own).saved.as_ptr(), (*next).saved.load(Ordering::Relaxed))
    };
    core::mem::forget(scheduler);
    // SAFETY: `to` is what this function saved, or a new thread's stack.
    unsafe { switch_stacks(save, to) };
    // SAFETY: the thread that switched to this one has left its lock to it.
    unsafe { SCHEDULER.force_unlock() };
}
