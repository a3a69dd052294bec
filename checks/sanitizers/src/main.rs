//! Does wrong what its argument says, for a sanitizer to see: `freed` reads freed memory, `raced` writes a word from two
//! threads at once. Prints "unnoticed" and ends well if nobody stops it.
#![allow(unsafe_code)]

use std::{cell::UnsafeCell, hint::black_box, process::ExitCode, thread};

/// A word that two threads write.
struct Word(UnsafeCell<u64>);

// SAFETY: none; that is the race that the thread sanitizer must see.
unsafe impl Sync for Word {}

static WORD: Word = Word(UnsafeCell::new(0));

fn freed() {
    let word = Box::into_raw(Box::new(1u64));
    // SAFETY: the box's own; freed here.
    drop(unsafe { Box::from_raw(word) });
    // SAFETY: none; that is the use after free that the address sanitizer must see.
    black_box(unsafe { black_box(word).read_volatile() });
}

fn raced() {
    let write = || {
        for value in 0..1000 {
            // SAFETY: none; see `Word`.
            unsafe { black_box(WORD.0.get()).write_volatile(value) };
        }
    };
    let other = thread::spawn(write);
    write();
    // Ends well, so that only the sanitizer can make the program fail.
    let _ = other.join();
}

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("freed") => freed(),
        Some("raced") => raced(),
        _ => {
            eprintln!("error: say what to do wrong: freed or raced");
            return ExitCode::from(2);
        }
    }
    println!("unnoticed");
    ExitCode::SUCCESS
}
