//! Changes of mappings against moves: fork with copy-on-write, mprotect, mremap, munmap, pins, truncation, collapse, moves by a call.

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::{
    Arguments,
    sys::{self, ANONYMOUS, Call, HUGE, PRIVATE, READ, SHARED, WRITE, Words, call, say},
};

const PAGES: u64 = 24;

pub(crate) fn run(arguments: Arguments) {
    let rounds = if arguments.amount == 0 { 30 } else { arguments.amount };
    let mut random = SmallRng::seed_from_u64(arguments.seed);
    for round in 0..rounds {
        let value = round * 1000 + 1;
        forked(&mut random, value);
        remapped(&mut random, value);
        pinned(value);
        of_a_file(value);
        moved(value);
        large(value);
    }
    say!("{rounds} rounds of changes");
}

fn fill(words: Words, value: u64) {
    (0..words.pages).for_each(|page| words.store(page, 7, value + page));
}

fn check(what: &str, words: Words, value: u64) {
    for page in 0..words.pages {
        let found = words.load(page, 7);
        if found != value + page {
            say!("{what}: page {page} has {found}, not {}", value + page);
            sys::exit(1);
        }
    }
}

/// A child sees what the parent had, and neither sees what the other stores.
fn forked(random: &mut SmallRng, value: u64) {
    let words = Words::map(PAGES, ANONYMOUS, 0, 0).expect("memory");
    fill(words, value);
    let first = random.random_range(0..PAGES);
    let child = sys::fork(|| {
        check("a child", words, value);
        for page in first..PAGES {
            words.store(page, 7, 0);
        }
        let grandchild = sys::fork(|| u64::from((first..PAGES).any(|page| words.load(page, 7) != 0))).expect("a fork");
        sys::wait_for(grandchild)
    })
    .expect("a fork");
    for page in 0..PAGES / 2 {
        words.store(page, 7, value + page);
    }
    let code = sys::wait_for(child);
    if code != 0 {
        say!("a child ended with {code}");
        sys::exit(1);
    }
    check("a parent", words, value);
    words.unmap();
}

/// Words stay with their pages, wherever they are mapped.
fn remapped(random: &mut SmallRng, value: u64) {
    let words = Words::map(PAGES, ANONYMOUS, 0, 0).expect("memory");
    fill(words, value);
    let to = call(Call::Mremap, [words.start(), PAGES, 2 * PAGES, 0, 0, 0]).expect("mremap");
    check("remapped", Words::at(to, PAGES), value);
    call(Call::Mprotect, [to, PAGES, READ, 0, 0, 0]).expect("mprotect");
    check("read-only", Words::at(to, PAGES), value);
    call(Call::Mprotect, [to, PAGES, READ | WRITE, 0, 0, 0]).expect("mprotect");
    let hole = 1 + random.random_range(0..PAGES - 2);
    call(Call::Munmap, [to + hole * 4096, 1, 0, 0, 0, 0]).expect("munmap");
    check("before a hole", Words::at(to, hole), value);
    check("after a hole", Words::at(to + (hole + 1) * 4096, PAGES - hole - 1), value + hole + 1);
    call(Call::Munmap, [to, 2 * PAGES, 0, 0, 0, 0]).expect("munmap");
}

/// Pinned pages keep their words, and are copied by a fork.
fn pinned(value: u64) {
    let words = Words::map(PAGES, ANONYMOUS, 0, 0).expect("memory");
    fill(words, value);
    let pin = call(Call::Pin, [words.start(), PAGES / 2, 1, 0, 0, 0]).expect("a pin");
    let child = sys::fork(|| {
        check("a child of a pinned parent", words, value);
        0
    })
    .expect("a fork");
    check("pinned", words, value);
    if sys::wait_for(child) != 0 {
        sys::exit(1);
    }
    call(Call::Unpin, [pin, 0, 0, 0, 0, 0]).expect("an unpin");
    words.unmap();
}

/// A file's pages are shared, or copied on a store; a truncation takes them away.
fn of_a_file(value: u64) {
    let file = call(Call::OpenFile, [PAGES, 0, 0, 0, 0, 0]).expect("a file");
    let shared = Words::map(PAGES, SHARED, file, 0).expect("memory");
    fill(shared, value);
    let private = Words::map(PAGES, PRIVATE, file, 0).expect("memory");
    check("private", private, value);
    private.store(0, 7, 0);
    check("shared", shared, value);
    call(Call::Truncate, [file, 0, PAGES / 2, 0, 0, 0]).expect("a truncation");
    if shared.load(1, 7) != 0 || shared.load(PAGES - 1, 7) != value + PAGES - 1 {
        say!("a truncation took {} and {}", shared.load(1, 7), shared.load(PAGES - 1, 7));
        sys::exit(1);
    }
    shared.unmap();
    private.unmap();
}

/// Pages that the program moves itself.
fn moved(value: u64) {
    let words = Words::map(PAGES, ANONYMOUS, 0, 0).expect("memory");
    fill(words, value);
    let mut addresses = [0u64; PAGES as usize];
    for (page, address) in (0..).zip(&mut addresses) {
        *address = words.page(page);
    }
    let mut statuses = [1i32; PAGES as usize];
    let arguments = [addresses.as_ptr() as u64, PAGES, statuses.as_mut_ptr() as u64, 0, 0, 0];
    call(Call::Move, arguments).expect("a move");
    if statuses.contains(&1) {
        say!("a move left a status out");
        sys::exit(1);
    }
    check("moved", words, value);
    words.unmap();
}

/// A folio of 2 MiB, of which parts are changed, and small pages that are collapsed.
fn large(value: u64) {
    let words = Words::map(1024, ANONYMOUS | HUGE, 0, 0).expect("memory");
    fill(words, value);
    call(Call::Mprotect, [words.page(3), 2, READ, 0, 0, 0]).expect("mprotect");
    check("of a large folio", words, value);
    let aligned = words.start().next_multiple_of(1 << 21);
    // It may fail for want of a free block, but loses nothing.
    let _ = call(Call::Mprotect, [words.page(3), 2, READ | WRITE, 0, 0, 0]);
    let _ = call(Call::Collapse, [aligned, 512, 0, 0, 0, 0]);
    check("collapsed", words, value);
    words.unmap();
}
