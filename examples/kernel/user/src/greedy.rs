//! Programs that take as much of the kernel as they get: it refuses, and goes on.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::{
    Arguments,
    sys::{self, ANONYMOUS, Call, KILLED, READ, SHARED, Words, call, exit, say},
};

/// Linux's ENOMEM.
const NO_MEMORY: i64 = -12;

type Deed = (&'static str, fn() -> Result<(), i64>);

/// Each in a child, which must be refused.
const DEEDS: &[Deed] = &[
    ("threads", || threads(touched(4096)?)),
    ("children", children),
    ("generations", generations),
    ("files", || until_refused(|| call(Call::OpenFile, [16, 0, 0, 0, 0, 0]))),
    ("devices", || until_refused(|| call(Call::OpenDevice, [16, 0, 0, 0, 0, 0]))),
    ("pins", pins),
    ("pins of half a million pages", || {
        let words = Words::map(1 << 19, ANONYMOUS, 0, 0)?;
        until_refused(|| call(Call::Pin, [words.start(), words.pages, 1, 0, 0, 0]))
    }),
    ("children with many mappings when memory is full", || {
        let words = touched(1 << 14)?;
        for page in (0..words.pages).step_by(2) {
            call(Call::Mprotect, [words.page(page), 1, READ, 0, 0, 0])?;
        }
        fill_memory()?;
        children()
    }),
    ("files when memory is full", || {
        fill_memory()?;
        until_refused(|| call(Call::OpenFile, [16, 0, 0, 0, 0, 0]))
    }),
    ("threads when memory is full", || {
        let stacks = touched(64)?;
        fill_memory()?;
        threads(stacks)
    }),
];

pub(crate) fn run(arguments: Arguments) {
    // With `amount`, only that one.
    let is_wanted = |number: u64| arguments.amount == 0 || arguments.amount == number;
    if is_wanted(1) {
        forks();
    }
    if is_wanted(2) {
        waits();
    }
    let file = call(Call::OpenFile, [1, 0, 0, 0, 0, 0]).expect("a file");
    let told = Words::map(1, SHARED, file, 0).expect("memory");
    TOLD.store(told.start(), Ordering::Release);
    for (_, (what, deed)) in (3..).zip(DEEDS).filter(|&(number, _)| is_wanted(number)) {
        told.store(0, 0, 0);
        told.store(0, 1, 0);
        let child = sys::fork(|| {
            if let Err(error) = deed() {
                say!("{what}: error {error}");
            }
            0
        });
        let code = sys::wait_for(child.expect("a fork"));
        // What comes after the refusal may lack memory, too: then a fault ends the child.
        if told.load(0, 0) == 0 {
            say!("{what}: not refused, ended with {code}");
            exit(1);
        }
        say!("{} {what}, and no more", told.load(0, 1));
    }
}

/// Where a deed tells, for its parent, that it was refused, and how often it wasn't.
static TOLD: AtomicU64 = AtomicU64::new(0);

/// Asks until the kernel has no memory.
fn until_refused(mut ask: impl FnMut() -> Result<u64, i64>) -> Result<(), i64> {
    let told = Words::at(TOLD.load(Ordering::Acquire), 1);
    loop {
        match ask() {
            Ok(_) => {
                told.word(0, 1).fetch_add(1, Ordering::AcqRel);
            }
            Err(NO_MEMORY) => {
                told.store(0, 0, 1);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}

/// Children one after the other: what each had is free soon after its end.
fn forks() {
    for _ in 0..4000 {
        match sys::fork(|| 0) {
            Ok(child) => assert_eq!(sys::wait_for(child), 0),
            Err(error) => {
                say!("fork: error {error}");
                exit(1);
            }
        }
    }
}

/// A process that waits for a child that never ends is ended. So is that child, for which nobody can wait any more.
fn waits() {
    for round in 0..20 {
        let child = sys::fork(|| {
            let grandchild = sys::fork(|| {
                loop {
                    let _ = call(Call::Yield, [0; 6]);
                }
            });
            sys::wait_for(grandchild.expect("a fork"))
        });
        let child = child.expect("a fork");
        for _ in 0..round * 2 {
            let _ = call(Call::Yield, [0; 6]);
        }
        call(Call::End, [child, 0, 0, 0, 0, 0]).expect("a child");
        assert_eq!(sys::wait_for(child), KILLED);
    }
}

/// Memory that is there: a store that finds none ends the process.
fn touched(pages: u64) -> Result<Words, i64> {
    let words = Words::map(pages, ANONYMOUS, 0, 0)?;
    (0..pages).for_each(|page| words.store(page, 0, 0));
    Ok(words)
}

/// Threads that sleep, each on a stack of one page.
fn threads(stacks: Words) -> Result<(), i64> {
    static WORD: AtomicU32 = AtomicU32::new(0);
    extern "C" fn sleep(_: u64) -> ! {
        loop {
            sys::wait(&WORD, 0);
        }
    }
    let mut next = 0;
    until_refused(|| {
        next += 1;
        call(Call::Thread, [sleep as *const () as u64, stacks.page(next - 1) + 4096, 0, 0, 0, 0])
    })
}

/// Children that end at once, and that nobody waits for.
fn children() -> Result<(), i64> {
    until_refused(|| sys::fork(|| 0))
}

/// Each child forks the next one, and waits for it, until one is refused.
fn generations() -> Result<(), i64> {
    until_refused(|| match call(Call::Fork, [0; 6])? {
        0 => Ok(0),
        child => exit(sys::wait_for(child)),
    })
}

/// Pins of one page, again and again.
fn pins() -> Result<(), i64> {
    let words = Words::map(1, ANONYMOUS, 0, 0)?;
    until_refused(|| call(Call::Pin, [words.start(), 1, 1, 0, 0, 0]))
}

/// Stores to pages until 2 MiB are left.
fn fill_memory() -> Result<(), i64> {
    let words = Words::map(1 << 22, ANONYMOUS, 0, 0)?;
    for page in 0..words.pages {
        if page % 32 == 0 && call(Call::FreePages, [0; 6])? < 512 {
            break;
        }
        words.store(page, 0, page);
    }
    Ok(())
}
