//! Loads and stores in ring 3 for the kernel: a thread of a process on each processor asks for a word to load or store, does it, and
//! tells what came of it. Its code is no part of the process's memory.

use core::{
    arch::global_asm,
    sync::atomic::{AtomicU32, Ordering},
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

/// How far a deed has come.
#[derive(Default)]
enum State {
    #[default]
    Idle,
    Asked(Deed),
    /// The thread does it.
    Busy,
    Answered(Result<u64, FaultError>),
}

/// What kernel and thread tell each other.
#[derive(Default)]
pub(crate) struct Agent {
    state: Mutex<State>,
    /// Changes with the state; both sleep on it.
    changes: AtomicU32,
}

// The kernel gives rax: 1 to load, otherwise to store; rdi: the address; rsi: the value. rdi: the value loaded. A fault that can't be
// handled continues at the beginning, too.
global_asm!(
    ".section .text",
    ".global agent_begin, agent_end",
    "agent_begin:",
    "mov eax, {next}",
    "syscall",
    "cmp eax, 1",
    "je 2f",
    "mov [rdi], rsi",
    "jmp agent_begin",
    "2: mov rdi, [rdi]",
    "jmp agent_begin",
    "agent_end:",
    next = const kernel_abi::Call::AgentNext as u64,
);

unsafe extern "C" {
    static agent_begin: u8;
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

impl Agent {
    /// Has the thread do it, and waits.
    pub(crate) fn ask(&self, deed: Deed) -> Result<u64, FaultError> {
        self.set(State::Asked(deed));
        loop {
            let changes = self.changes.load(Ordering::SeqCst);
            let mut state = self.state.lock();
            if let State::Answered(answer) = *state {
                *state = State::Idle;
                return answer;
            }
            drop(state);
            sched::wait(&self.changes, changes);
        }
    }

    /// The thread has done what it was asked to, or hasn't because of a fault, and waits for the next deed. `None` if its process is to end.
    pub(crate) fn next(&self, process: &Process, value: u64) -> Option<Deed> {
        if matches!(*self.state.lock(), State::Busy) {
            self.set(State::Answered(Ok(value)));
        }
        while !process.is_ending() {
            let changes = self.changes.load(Ordering::SeqCst);
            let mut state = self.state.lock();
            if let State::Asked(deed) = *state {
                *state = State::Busy;
                return Some(deed);
            }
            drop(state);
            sched::wait_unless_ending(process, &self.changes, changes);
        }
        None
    }

    /// The thread's deed has faulted, for good.
    pub(crate) fn has_faulted(&self, error: FaultError) {
        self.set(State::Answered(Err(error)));
    }

    fn set(&self, state: State) {
        *self.state.lock() = state;
        self.changes.fetch_add(1, Ordering::SeqCst);
        sched::wake(&self.changes);
    }
}
