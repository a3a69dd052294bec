//! The system calls as functions, and what stands on them: threads, memory that is dropped, random numbers.

use core::{
    arch::asm,
    fmt::{self, Write},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

pub(crate) use kernel_abi::{ANONYMOUS, Call, HUGE, KILLED, PRIVATE, READ, SHARED, TIMER, WRITE};

/// Makes a call; a negative result is an error's number.
pub(crate) fn call(call: Call, arguments: [u64; 6]) -> Result<u64, i64> {
    raw(call as u64, arguments)
}

/// As [`call`], by any number.
pub(crate) fn raw(number: u64, [a, b, c, d, e, f]: [u64; 6]) -> Result<u64, i64> {
    let result: i64;
    // SAFETY: the kernel keeps all registers but these, and the program's memory is as it asks.
    unsafe {
        asm!("syscall", inlateout("rax") number as i64 => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    if (-4095..0).contains(&result) { Err(result) } else { Ok(result as u64) }
}

/// Ends the process.
pub(crate) fn exit(code: u64) -> ! {
    let _ = call(Call::Exit, [code, 0, 0, 0, 0, 0]);
    unreachable!()
}

struct Console([u8; 200], usize);

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes().iter().take(200 - self.1) {
            self.0[self.1] = byte;
            self.1 += 1;
        }
        Ok(())
    }
}

pub(crate) fn print_arguments(arguments: fmt::Arguments<'_>) {
    let mut line = Console([0; 200], 0);
    let _ = line.write_fmt(arguments);
    let _ = call(Call::Write, [line.0.as_ptr() as u64, line.1 as u64, 0, 0, 0, 0]);
}

/// Prints a line.
macro_rules! say {
    ($($arguments:tt)*) => { $crate::sys::print_arguments(format_args!("{}\n", format_args!($($arguments)*))) };
}
pub(crate) use say;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say!("{info}");
    exit(1)
}

/// Words of mapped memory, shared by the program's threads. Not unmapped by itself.
#[derive(Clone, Copy)]
pub(crate) struct Words {
    start: u64,
    pub(crate) pages: u64,
}

impl Words {
    /// Maps `pages` pages.
    pub(crate) fn map(pages: u64, kind: u64, file: u64, first: u64) -> Result<Self, i64> {
        let start = call(Call::Mmap, [0, pages, READ | WRITE, kind, file, first])?;
        Ok(Self { start, pages })
    }

    /// Views memory at an address.
    pub(crate) fn at(start: u64, pages: u64) -> Self {
        Self { start, pages }
    }

    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Gives the address of a page.
    pub(crate) fn page(&self, page: u64) -> u64 {
        assert!(page < self.pages);
        self.start + page * 4096
    }

    /// Gives a word. A load or store of memory that isn't mapped ends the process.
    pub(crate) fn word(&self, page: u64, word: usize) -> &AtomicU64 {
        assert!(word < 512);
        // SAFETY: mapped, or the process ends; any bits are a number.
        unsafe { &*((self.page(page) + word as u64 * 8) as *const AtomicU64) }
    }

    pub(crate) fn load(&self, page: u64, word: usize) -> u64 {
        self.word(page, word).load(Ordering::Acquire)
    }

    pub(crate) fn store(&self, page: u64, word: usize, value: u64) {
        self.word(page, word).store(value, Ordering::Release);
    }

    pub(crate) fn unmap(&self) {
        call(Call::Munmap, [self.start, self.pages, 0, 0, 0, 0]).expect("munmap");
    }
}

/// Starts `count` threads that run `body` with their number, and waits for them. `body` is the same function in all.
pub(crate) fn run_threads(count: u64, body: fn(u64)) {
    static BODY: AtomicU64 = AtomicU64::new(0);
    static LEFT: AtomicU32 = AtomicU32::new(0);
    extern "C" fn begin(number: u64) -> ! {
        // SAFETY: `run_threads` has stored a function.
        let body: fn(u64) = unsafe { core::mem::transmute(BODY.load(Ordering::Acquire)) };
        body(number);
        if LEFT.fetch_sub(1, Ordering::AcqRel) == 1 {
            wake(&LEFT);
        }
        let _ = call(Call::ExitThread, [0; 6]);
        unreachable!()
    }
    BODY.store(body as usize as u64, Ordering::Release);
    LEFT.store(count as u32, Ordering::Release);
    const STACK: u64 = 8;
    let stacks = Words::map(STACK * count, ANONYMOUS, 0, 0).expect("stacks");
    for number in 0..count {
        let end = stacks.start() + (number + 1) * STACK * 4096;
        call(Call::Thread, [begin as *const () as u64, end, number, 0, 0, 0]).expect("a thread");
    }
    loop {
        let left = LEFT.load(Ordering::Acquire);
        if left == 0 {
            break;
        }
        wait(&LEFT, left);
    }
}

/// Sleeps while the word has the value.
pub(crate) fn wait(word: &AtomicU32, value: u32) {
    let _ = call(Call::FutexWait, [&raw const *word as u64, value.into(), 0, 0, 0, 0]);
}

/// Wakes those that sleep on the word.
pub(crate) fn wake(word: &AtomicU32) {
    let _ = call(Call::FutexWake, [&raw const *word as u64, 0, 0, 0, 0, 0]);
}

/// Makes a child that runs `body` and ends with what it gives; gives its number.
pub(crate) fn fork(body: impl FnOnce() -> u64) -> Result<u64, i64> {
    match call(Call::Fork, [0; 6])? {
        0 => exit(body()),
        child => Ok(child),
    }
}

/// Waits for a child; gives its code.
pub(crate) fn wait_for(child: u64) -> u64 {
    call(Call::Wait, [child, 0, 0, 0, 0, 0]).expect("a child")
}
