//! What the example kernel and Linux are compared by: one program, in the same machine, through the system calls of each.
//!
//! Takes a [`System`]; tells nanoseconds for each row. Promises that what was asked for was done: pages that didn't move, or have lost
//! their words, are an error, not a fast row. `no_std`, and without memory of its own.
#![no_std]

/// The pages that are moved, at most.
pub const PAGES: usize = 512;

/// Pages of 64 MiB.
const LARGE: usize = 16384;

/// Why nothing was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed(pub &'static str);

/// The system calls, of either kernel.
pub trait System {
    /// Maps anonymous memory, shared with children if `shared`; gives its address.
    fn map(&mut self, pages: usize, shared: bool) -> Result<usize, Failed>;
    /// Unmaps it.
    fn unmap(&mut self, address: usize, pages: usize) -> Result<(), Failed>;
    /// Makes a child, which does `deed` and then sleeps until it is ended.
    fn child(&mut self, deed: &mut dyn FnMut()) -> Result<u64, Failed>;
    /// Makes a child that ends at once; gives the nanoseconds of the call alone.
    fn fork(&mut self) -> Result<u64, Failed>;
    /// Ends a child, and waits for it.
    fn end(&mut self, child: u64) -> Result<(), Failed>;
    /// Moves the pages at these addresses elsewhere; `round` alternates, for systems that move between two nodes. Gives the number that
    /// moved.
    fn move_pages(&mut self, addresses: &[usize], statuses: &mut [i32], round: usize) -> Result<usize, Failed>;
    /// Takes all 2 MiB blocks that are free, without compaction, and keeps them.
    fn take_free_blocks(&mut self) -> Result<(), Failed>;
    /// Allocates and clears 2 MiB in a row, by compaction if need be, and keeps them; gives the nanoseconds, and whether there were 2 MiB.
    fn huge_block(&mut self) -> Result<(u64, bool), Failed>;
    /// Frees the blocks that were kept.
    fn free_blocks(&mut self) -> Result<(), Failed>;
    /// Nanoseconds.
    fn now(&mut self) -> u64;
    /// The number of free pages.
    fn free_pages(&mut self) -> Result<usize, Failed>;
}

/// Measures all rows `rounds` times, and tells each.
pub fn run(system: &mut impl System, rounds: usize, mut tell: impl FnMut(&str, u64)) -> Result<(), Failed> {
    for _ in 0..rounds {
        tell("copy", copy(system)?);
    }
    for (processes, names) in
        [(1, ["move-1", "move-32", "move-512"]), (4, ["move-1-by-4", "move-32-by-4", "move-512-by-4"])]
    {
        for (batch, name) in [1, 32, 512].into_iter().zip(names) {
            moves(system, processes, batch, rounds, |nanoseconds| tell(name, nanoseconds))?;
        }
    }
    for _ in 0..rounds {
        tell("fault", faults(system)?);
    }
    let at = touched(system, LARGE)?;
    for _ in 0..rounds {
        tell("fork", system.fork()?);
    }
    system.unmap(at, LARGE)?;
    for _ in 0..rounds {
        let at = touched(system, LARGE)?;
        let start = system.now();
        system.unmap(at, LARGE)?;
        tell("munmap", system.now() - start);
    }
    huge(system, rounds, tell)
}

#[allow(unsafe_code, reason = "memory that the system has mapped, of this thread or shared as atomics")]
#[inline]
fn word(at: usize) -> &'static core::sync::atomic::AtomicU64 {
    // SAFETY: callers pass addresses within a mapping that is there.
    unsafe { &*(at as *const core::sync::atomic::AtomicU64) }
}

#[inline]
fn load(at: usize) -> u64 {
    word(at).load(core::sync::atomic::Ordering::Relaxed)
}

#[inline]
fn store(at: usize, value: u64) {
    word(at).store(value, core::sync::atomic::Ordering::Relaxed);
}

/// Maps pages, and stores to each.
fn touched(system: &mut impl System, pages: usize) -> Result<usize, Failed> {
    let at = system.map(pages, false)?;
    (0..pages).for_each(|page| store(at + page * 4096, page as u64));
    Ok(at)
}

fn copy(system: &mut impl System) -> Result<u64, Failed> {
    let at = touched(system, 2 * PAGES)?;
    let start = system.now();
    for page in 0..PAGES {
        let (from, to) = (at + page * 4096, at + (PAGES + page) * 4096);
        (0..4096).step_by(8).for_each(|offset| store(to + offset, load(from + offset)));
    }
    let time = (system.now() - start) / PAGES as u64;
    system.unmap(at, 2 * PAGES)?;
    Ok(time)
}

fn moves(
    system: &mut impl System,
    processes: usize,
    batch: usize,
    rounds: usize,
    mut told: impl FnMut(u64),
) -> Result<(), Failed> {
    let at = system.map(PAGES + 1, processes > 1)?;
    let ready = at + PAGES * 4096;
    (0..=PAGES).for_each(|page| store(at + page * 4096, page as u64));
    store(ready, 0);
    let mut children = [0; 8];
    for child in &mut children[1..processes] {
        *child = system.child(&mut || {
            (0..PAGES).for_each(|page| store(at + page * 4096, page as u64));
            word(ready).fetch_add(1, core::sync::atomic::Ordering::AcqRel);
        })?;
    }
    while load(ready) + 1 < processes as u64 {
        core::hint::spin_loop();
    }
    let mut addresses = [0; PAGES];
    addresses.iter_mut().enumerate().for_each(|(page, address)| *address = at + page * 4096);
    let mut statuses = [0; PAGES];
    // The first rounds bring all pages to one node.
    for round in 0..rounds + 2 {
        let start = system.now();
        let mut moved = 0;
        for (addresses, statuses) in addresses.chunks(batch).zip(statuses.chunks_mut(batch)) {
            moved += system.move_pages(addresses, statuses, round)?;
        }
        let time = system.now() - start;
        if round >= 2 {
            if moved < PAGES {
                return Err(Failed("not all pages have moved"));
            }
            told(time / PAGES as u64);
        }
    }
    if (0..PAGES).any(|page| load(at + page * 4096) != page as u64) {
        return Err(Failed("a page has lost its words"));
    }
    for &child in &children[1..processes] {
        system.end(child)?;
    }
    system.unmap(at, PAGES + 1)
}

fn faults(system: &mut impl System) -> Result<u64, Failed> {
    const MANY: usize = 2048;
    let at = system.map(MANY, false)?;
    let start = system.now();
    (0..MANY).for_each(|page| store(at + page * 4096, 1));
    let time = (system.now() - start) / MANY as u64;
    system.unmap(at, MANY)?;
    Ok(time)
}

/// Takes nearly all memory, gives back a tenth of each 2 MiB, and asks for 2 MiB: no block is free, but a tenth of memory.
fn huge(system: &mut impl System, rounds: usize, mut told: impl FnMut(&str, u64)) -> Result<(), Failed> {
    const KEPT: usize = 12000;
    const GIVEN: usize = 51;
    let pages = system.free_pages()?.saturating_sub(KEPT) / 512 * 512;
    let at = touched(system, pages)?;
    system.take_free_blocks()?;
    for stretch in (0..pages).step_by(512) {
        system.unmap(at + stretch * 4096, GIVEN)?;
    }
    for _ in 0..rounds {
        let (nanoseconds, found) = system.huge_block()?;
        told("huge", nanoseconds);
        told("huge-failed", if found { 0 } else { 100 });
    }
    let is_kept = (0..pages).filter(|page| page % 512 >= GIVEN).all(|page| load(at + page * 4096) == page as u64);
    system.free_blocks()?;
    system.unmap(at, pages)?;
    if is_kept { Ok(()) } else { Err(Failed("compaction has lost a word")) }
}
