//! Vector registers, x87 registers and their control words are a thread's own: kept over calls and preemption, copied by fork, cleared for
//! a new process.

use core::{arch::asm, sync::atomic::AtomicU64, sync::atomic::Ordering};

use crate::{
    Arguments,
    sys::{self, Call, say},
};

/// The registers as FXSAVE writes them.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub(crate) struct Registers([u8; 512]);

impl Registers {
    /// As after a reset, but with all exceptions masked: what x86-64's ABI gives a new process.
    const CLEAN: Self = {
        let mut bytes = [0; 512];
        [bytes[0], bytes[1], bytes[24], bytes[25]] = [0x7f, 0x03, 0x80, 0x1f];
        Self(bytes)
    };

    /// Registers that tell one thread's turn from all others'.
    fn of(number: u64, turn: u64) -> Self {
        let mut registers = Self::CLEAN;
        let value = (number << 16 | turn) + 1;
        // Rounding, and denormals to zero: no operation is done with them.
        registers.0[25] |= (value as u8 & 3) << 5 | 0x80;
        registers.0[1] |= (value as u8 & 3) << 2;
        let vectors = &mut registers.0[160..416];
        for (at, word) in vectors.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&(value * 0x0101_0001 + at as u64).to_le_bytes());
        }
        registers
    }

    /// Control words and vector registers; whatever else is there is the CPU's own.
    fn parts(&self) -> (&[u8], &[u8], &[u8]) {
        (&self.0[..2], &self.0[24..28], &self.0[160..416])
    }

    /// Stops if it's something else. Says what differs.
    fn expect(&self, expected: &Self, who: &str, number: u64) {
        let names = ["the x87 control word", "MXCSR", "a vector register"];
        let (found, right) = (self.parts(), expected.parts());
        let differs = [found.0 != right.0, found.1 != right.1, found.2 != right.2];
        if let Some(at) = differs.into_iter().position(|differs| differs) {
            say!("{who} {number}: {} is another's", names[at]);
            sys::exit(1);
        }
    }

    /// Loads them, makes a call, and gives the call's result with the registers after it; then the usual ones are loaded again.
    fn over_call(&self, call: Call) -> (u64, Self) {
        let mut after = Self::CLEAN;
        let result: u64;
        // SAFETY: both are 512 bytes, aligned; the calls take no argument; all registers but the control words are named as changed, and
        // those get the values that code expects.
        unsafe {
            asm!("fxrstor [r12]", "syscall", "fxsave [r13]", "fxrstor [r14]", in("r12") &self.0, in("r13") &mut after.0,
                in("r14") &Self::CLEAN.0, inlateout("rax") call as u64 => result, clobber_abi("sysv64"));
        }
        (result, after)
    }

    /// As [`Self::over_call`], over a loop that lasts longer than a thread's turn.
    fn over_turns(&self) -> Self {
        let mut after = Self::CLEAN;
        // SAFETY: as above.
        unsafe {
            asm!("fxrstor [r12]", "2: dec rcx", "jnz 2b", "fxsave [r13]", "fxrstor [r14]", in("r12") &self.0,
                in("r13") &mut after.0, in("r14") &Self::CLEAN.0, inlateout("rcx") 4_000_000u64 => _,
                clobber_abi("sysv64"));
        }
        after
    }
}

static TURNS: AtomicU64 = AtomicU64::new(0);

/// `first`: the registers at the program's first instruction.
pub(crate) fn run(arguments: Arguments, first: &Registers) {
    first.expect(&Registers::CLEAN, "a new process", 0);
    if first.0[32..160].iter().any(|&byte| byte != 0) {
        say!("a new process has another's x87 registers");
        sys::exit(1);
    }
    TURNS.store(if arguments.amount == 0 { 12 } else { arguments.amount }, Ordering::Release);
    // Other programs' threads must differ from this one's, too.
    let child = sys::fork(|| {
        threads(arguments.processors, 1000);
        0
    });
    threads(arguments.processors, 0);
    assert_eq!(sys::wait_for(child.expect("a fork")), 0, "the child");
    say!("registers were kept");
}

fn threads(processors: u64, first: u64) {
    static FIRST: AtomicU64 = AtomicU64::new(0);
    FIRST.store(first, Ordering::Release);
    sys::run_threads(processors.min(8) + 1, |number| {
        let number = FIRST.load(Ordering::Acquire) + number;
        for turn in 0..TURNS.load(Ordering::Acquire) {
            let own = Registers::of(number, turn);
            own.over_turns().expect(&own, "over turns: thread", number);
            own.over_call(Call::Yield).1.expect(&own, "over a call: thread", number);
            match own.over_call(Call::Fork) {
                (0, after) => {
                    after.expect(&own, "a child of thread", number);
                    sys::exit(0);
                }
                (child, after) => {
                    after.expect(&own, "over a fork: thread", number);
                    assert_eq!(sys::wait_for(child), 0, "a child");
                }
            }
        }
    });
}
