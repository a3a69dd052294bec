//! Programs that do what they must not. The kernel ends them, and goes on.

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::{
    Arguments,
    sys::{self, ANONYMOUS, Call, KILLED, READ, Words, call, exit, say},
};

fn touch(address: u64) -> u64 {
    // SAFETY: none: this is what is tried.
    unsafe { (address as *const u64).read_volatile() }
}

fn jump(address: u64) -> u64 {
    // SAFETY: none: this is what is tried.
    let place: extern "C" fn() -> u64 = unsafe { core::mem::transmute(address) };
    place()
}

type Deed = (&'static str, fn() -> u64);

/// Each in a child, which must be killed.
const DEEDS: &[Deed] = &[
    ("reads address 0", || touch(0)),
    ("reads what isn't mapped", || touch(0x1234_5000)),
    ("reads the kernel's half", || touch(0xffff_8000_0000_1000)),
    ("reads the kernel's image", || touch(0xffff_ffff_8020_0000)),
    ("reads an address that is none", || touch(0x8000_0000_0000_0000)),
    ("writes to its code", || {
        // SAFETY: none: this is what is tried.
        unsafe { (0x40_0000 as *mut u64).write_volatile(1) };
        0
    }),
    ("jumps into the kernel's half", || jump(0xffff_ffff_8020_0000)),
    ("jumps to data", || {
        let words = Words::map(1, ANONYMOUS, 0, 0).expect("memory");
        words.store(0, 0, 0xc3);
        jump(words.start())
    }),
    ("writes to a read-only page", || {
        let words = Words::map(1, ANONYMOUS, 0, 0).expect("memory");
        call(Call::Mprotect, [words.start(), 1, READ, 0, 0, 0]).expect("mprotect");
        words.store(0, 0, 1);
        0
    }),
    ("divides by zero", || {
        // SAFETY: the exception ends the process.
        unsafe {
            core::arch::asm!("xor edx, edx", "xor ecx, ecx", "div ecx", out("rax") _, out("rcx") _, out("rdx") _)
        };
        0
    }),
    ("divides by zero in x87, which is to tell", || {
        let control = 0x37bu16;
        // SAFETY: as above.
        unsafe { core::arch::asm!("fldcw [{}]", "fld1", "fldz", "fdivp", "fwait", in(reg) &control) };
        0
    }),
    ("halts the processor", || {
        // SAFETY: as above.
        unsafe { core::arch::asm!("hlt") };
        0
    }),
    ("writes to a port", || {
        // SAFETY: as above.
        unsafe { core::arch::asm!("out dx, al", in("dx") 0xf4u16, in("al") 1u8) };
        0
    }),
    ("calls with the flag of a nested task", || {
        // SAFETY: as above; the kernel clears it, and the program goes on.
        unsafe { core::arch::asm!("pushfq", "or qword ptr [rsp], 0x4000", "popfq") };
        let _ = call(Call::Now, [0; 6]);
        for (entry, stack) in [(1, 0), (u64::MAX, 4096), (0x8000_0000_0000, 4096), (4096, u64::MAX)] {
            assert!(call(Call::Thread, [entry, stack, 0, 0, 0, 0]).is_err());
        }
        touch(0)
    }),
    ("calls with a stack that is none", || {
        // SAFETY: as above.
        unsafe { core::arch::asm!("mov rsp, 8", "push rax", options(noreturn)) }
    }),
];

pub(crate) fn run(_: Arguments) {
    for (what, deed) in DEEDS {
        let code = sys::wait_for(sys::fork(deed).expect("a fork"));
        if code != KILLED {
            say!("a program that {what} ended with {code}");
            exit(1);
        }
    }
    // Calls with wild arguments fail, and change nothing.
    let wild = [0, 1, 4095, 4096, 0x7fff_ffff_ffff, 0x8000_0000_0000, 0xffff_8000_0000_0000, u64::MAX - 4095, u64::MAX];
    let mut random = SmallRng::seed_from_u64(1);
    for number in (1..30).chain([u64::MAX, 1 << 32]) {
        let waits = [Call::Fork, Call::Thread, Call::ExitThread, Call::FutexWait].map(|call| call as u64);
        if waits.contains(&number) {
            continue;
        }
        for _ in 0..60 {
            let mut argument = || wild[random.random_range(0..wild.len() as u64) as usize];
            let arguments = [argument(), argument(), argument(), argument(), argument(), argument()];
            // Some may well succeed: an anonymous mapping, a file.
            let _ = sys::raw(number, arguments);
        }
    }
    say!("{} programs were ended, and wild calls refused", DEEDS.len());
}

/// Takes memory until there is none. The child that asks for more is ended, and the parent goes on.
pub(crate) fn exhaust() {
    let child = sys::fork(|| {
        let words = Words::map(1 << 22, ANONYMOUS, 0, 0).expect("addresses");
        for page in 0..words.pages {
            words.store(page, 0, page);
        }
        0
    });
    let code = sys::wait_for(child.expect("a fork"));
    let words = Words::map(64, ANONYMOUS, 0, 0).expect("memory");
    (0..64).for_each(|page| words.store(page, 0, page));
    say!("a program that takes all memory ended with {code}");
    if code != KILLED {
        exit(1);
    }
}
