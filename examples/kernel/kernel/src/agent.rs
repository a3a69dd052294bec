//! Loads and stores in ring 3 for the kernel: a thread of a process on each processor asks for a word to load or store, does it, and
//! tells what came of it. Its code is no part of the process's memory.

use core::{
    arch::global_asm,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use pagemove::{space::FaultError, units::VirtAddr};
use spin::Mutex;

use crate::{process::Process, sched};

/// A word to load, or to store.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Deed {
    Load(VirtAddr),
    Store(VirtAddr, u64),
}

/// What kernel and thread tell each other.
#[derive(Default)]
pub(crate) struct Agent {
    deed: Mutex<Option<Deed>>,
    is_busy: AtomicBool,
    fault: Mutex<Option<FaultError>>,
    answer: Mutex<Option<Result<u64, FaultError>>>,
    asked: AtomicU32,
    answered: AtomicU32,
}

// rdi: the value loaded; rsi: 1 if the deed is done. The kernel gives rax: 1 to load, 2 to store; rdi: the address; rsi: the value.
global_asm!(
    ".section .text",
    ".global agent_begin, agent_failed, agent_end",
    "agent_begin:",
    "xor esi, esi",
    "2: mov eax, {next}",
    "syscall",
    "cmp eax, 1",
    "je 3f",
    "mov [rdi], rsi",
    "jmp 4f",
    "3: mov rdi, [rdi]",
    "4: mov esi, 1",
    "jmp 2b",
    // Where a fault that can't be handled continues.
    "agent_failed:",
    "xor esi, esi",
    "jmp 2b",
    "agent_end:",
    next = const kernel_abi::Call::AgentNext as u64,
);

unsafe extern "C" {
    static agent_begin: u8;
    static agent_failed: u8;
    static agent_end: u8;
}

/// Where the code is, in the lower half and outside of all bounds.
pub(crate) const ADDRESS: u64 = (ROOT_ENTRY as u64) << 39;
/// Its entry in roots.
pub(crate) const ROOT_ENTRY: usize = 255;

/// Gives the code, which runs at any address.
pub(crate) fn code() -> &'static [u8] {
    let (begin, end) = (&raw const agent_begin, &raw const agent_end);
    // SAFETY: the code between the two labels.
    unsafe { core::slice::from_raw_parts(begin, end as usize - begin as usize) }
}

/// Gives the place in the code where a fault that can't be handled continues.
pub(crate) fn failed_offset() -> u64 {
    (&raw const agent_failed as usize - &raw const agent_begin as usize) as u64
}

impl Agent {
    /// Has the thread do it, and waits.
    pub(crate) fn ask(&self, deed: Deed) -> Result<u64, FaultError> {
        let before = self.answered.load(Ordering::SeqCst);
        *self.deed.lock() = Some(deed);
        self.asked.fetch_add(1, Ordering::SeqCst);
        sched::wake(&self.asked);
        while self.answered.load(Ordering::SeqCst) == before {
            sched::wait(&self.answered, before);
        }
        self.answer.lock().take().expect("the thread has answered")
    }

    /// The thread has done what it was asked to, or not, and waits for the next deed. `None` if its process is to end.
    pub(crate) fn next(&self, process: &Process, value: u64, is_done: bool) -> Option<Deed> {
        if self.is_busy.swap(false, Ordering::SeqCst) {
            let fault = self.fault.lock().take();
            *self.answer.lock() = Some(if is_done { Ok(value) } else { Err(fault.expect("a fault ended the deed")) });
            self.answered.fetch_add(1, Ordering::SeqCst);
            sched::wake(&self.answered);
        }
        while !process.is_ending() {
            let asked = self.asked.load(Ordering::SeqCst);
            let deed = self.deed.lock().take();
            if deed.is_some() {
                self.is_busy.store(true, Ordering::SeqCst);
                return deed;
            }
            sched::wait_unless_ending(process, &self.asked, asked);
        }
        None
    }

    /// The thread's deed has faulted, for good.
    pub(crate) fn has_faulted(&self, error: FaultError) {
        *self.fault.lock() = Some(error);
    }
}
