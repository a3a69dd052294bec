//! The system calls. Runs with interrupts on.

use alloc::{sync::Arc, vec::Vec};

use kernel_abi::{self as abi, Call, Error};
use pagemove::{
    compact::alloc_compacting,
    frame::Kind,
    migrate::{AnyFree, Mover, Options},
    movable::Mode,
    space::{Access, Map, PageCache, Protection, Source},
    units::{HUGE_ORDER, Orders, Pfn, VirtAddr, VirtRange},
    zone::{Effort, Request},
};
use pagemove_drivers::CharDevice;

use crate::{
    agent::{self, Agent, Deed},
    console, cpu,
    heap::HEAP,
    mover, platform,
    process::{File, Process, error_of_fault, error_of_space},
    program, sched, time,
    trap::Frame,
};

/// The most pages of one call.
const MOST: u64 = 1 << 20;

/// Called by `entry.s`.
#[unsafe(no_mangle)]
extern "C" fn system_call(frame: &mut Frame) {
    let thread = sched::current();
    let Some(process) = &thread.process else { return };
    thread.forget_faults();
    let number = frame.rax;
    match &process.agents {
        Some(agents) => next_deed(&agents[cpu::number()], process, frame),
        None => {
            frame.rax = match call(process, frame) {
                Ok(value) => value,
                Err(error) => error as i64 as u64,
            };
        }
    }
    let ends = process.is_ending() || number == Call::ExitThread as u64;
    // A thread that ends doesn't come back to drop it.
    drop(thread);
    if ends {
        crate::trap::end_thread();
    }
}

/// The only call of an agent.
fn next_deed(agent: &Agent, process: &Process, frame: &mut Frame) {
    match agent.next(process, frame.rdi) {
        Some(Deed::Load(at)) => (frame.rax, frame.rdi) = (1, at.get()),
        Some(Deed::Store(at, value)) => (frame.rax, frame.rdi, frame.rsi) = (2, at.get(), value),
        // It ends.
        None => (),
    }
}

/// What a call may take of the heap if its arguments don't matter: mostly the lists of a mover, which also makes room for a folio.
const CALL: usize = 256 << 10;
/// What it takes for each page that it lists.
const PAGE: usize = 96;
/// What a fork takes for each mapping, in two trees.
const MAPPING: usize = 512;

/// Gives what a call may take of the heap at most, 0 for those that make no objects of the kernel's. When memory is full, these go on, and
/// so do processes that end.
fn heap_bytes(process: &Process, call: Call, count: u64) -> usize {
    let of_pages = |most: usize| CALL + (count as usize).min(most) * PAGE;
    match call {
        Call::Move => of_pages(abi::MOST_MOVED),
        Call::Pin => of_pages(abi::MOST_PINNED),
        // Other threads may add some until the fork has the lock: there is room for 500.
        Call::Fork => CALL + process.space.mappings() * MAPPING,
        Call::Mmap
        | Call::Mprotect
        | Call::Mremap
        | Call::Thread
        | Call::OpenDevice
        | Call::OpenFile
        | Call::Collapse
        | Call::Compact => CALL,
        _ => 0,
    }
}

fn call(process: &Arc<Process>, frame: &Frame) -> Result<u64, Error> {
    let [a, b, c, d, e, f] = [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9];
    let call = Call::new(frame.rax).ok_or(Error::NoCall)?;
    let bytes = heap_bytes(process, call, b);
    let _reserved = if bytes == 0 { None } else { Some(HEAP.reserve(bytes).ok_or(Error::NoMemory)?) };
    match call {
        Call::Exit => process.end(a),
        Call::Write => return write(process, a, b),
        Call::Mmap => return mmap(process, a, b, c, d, e, f),
        Call::Munmap => process.space.munmap(range(a, b)?).map_err(error_of_space)?,
        Call::Mprotect => process.space.mprotect(range(a, b)?, rights(c)).map_err(error_of_space)?,
        Call::Mremap => {
            let to = if d == 0 { None } else { Some(address(d)?) };
            let pages = u32::try_from(c).map_err(|_| Error::Invalid)?;
            let moved = process.space.mremap(range(a, b)?, pages, to).map_err(error_of_space)?;
            return Ok(moved.start().get());
        }
        Call::Fork => {
            process.check_children()?;
            let child = process.fork().map_err(error_of_space)?;
            let number = child.number;
            let mut registers = *frame;
            registers.rax = 0;
            program::run(&child, registers).map_err(|_| Error::NoMemory)?;
            process.add_child(child);
            return Ok(number);
        }
        Call::Wait => return process.wait_for_child(a),
        Call::Thread => {
            // IRETQ to an address that is none would fault in the kernel.
            let (entry, stack) = (address(a)?, address(b & !15)?);
            let mut registers = Frame::of_user(entry.get(), stack.get().checked_sub(8).ok_or(Error::Invalid)?);
            registers.rdi = c;
            program::run(process, registers).map_err(|_| Error::NoMemory)?;
        }
        // The caller ends it.
        Call::ExitThread => (),
        Call::Move => return move_pages(process, a, b, c),
        Call::Pin => {
            let range = range(a, b)?;
            if b > abi::MOST_PINNED as u64 {
                return Err(Error::NoMemory);
            }
            let pins = process.space.pin(range, c != 0, &process.name).map_err(|_| Error::Fault)?;
            return process.keep_pins(pins);
        }
        Call::Unpin => {
            let pins = process.pins.lock().remove(&a).ok_or(Error::BadFile)?;
            drop(pins);
        }
        Call::Yield => sched::yield_now(),
        Call::Now => return Ok(time::now_ns()),
        Call::OpenDevice => {
            let pages = u32::try_from(a).ok().filter(|&pages| u64::from(pages) <= MOST).ok_or(Error::Invalid)?;
            let mappable = CharDevice::new(platform::engine(), "device").open(pages);
            return process.add_file(File { mappable, cache: None });
        }
        Call::OpenFile => {
            let pages = u32::try_from(a).ok().filter(|&pages| u64::from(pages) <= MOST).ok_or(Error::Invalid)?;
            let cache = PageCache::new(platform::engine(), "memory", pages);
            return process.add_file(File { mappable: cache.clone(), cache: Some(cache) });
        }
        Call::FutexWait => {
            // The count first: a wake-up after the word was read changes it.
            let wakes = process.wakes.load(core::sync::atomic::Ordering::SeqCst);
            if read_word(process, a)? != b as u32 {
                return Err(Error::Again);
            }
            sched::wait_unless_ending(process, &process.wakes, wakes);
        }
        Call::FutexWake => process.wake_all(),
        Call::Collapse => process.space.collapse(range(a, b)?).map_err(|_| Error::Again)?,
        Call::Compact => return Ok(mover::compact().into()),
        Call::Truncate => {
            let cache = process.file(a)?.cache.ok_or(Error::BadFile)?;
            let end = u32::try_from(c).map_err(|_| Error::Invalid)?;
            let first = u32::try_from(b).ok().filter(|&first| first <= end).ok_or(Error::Invalid)?;
            cache.index().truncate(first..end);
        }
        Call::End => process.child(a).ok_or(Error::NoProcess)?.end(abi::KILLED),
        Call::HugeBlock => huge_block(process, a)?,
        Call::FreePages => {
            platform::engine().physical().drain_cpu_lists();
            return Ok(platform::engine().physical().free_frames().into());
        }
        Call::AgentNext => return Err(Error::NoCall),
        Call::DropClean => {
            let cache = process.file(a)?.cache.ok_or(Error::BadFile)?;
            return Ok(cache.index().drop_clean(0..u32::MAX).into());
        }
    }
    Ok(0)
}

/// Makes a list with room for as many as a program asks for.
fn with_room<T>(count: usize) -> Result<Vec<T>, Error> {
    let mut list = Vec::new();
    list.try_reserve_exact(count).map_err(|_| Error::NoMemory)?;
    Ok(list)
}

fn buffer<T: Clone>(count: usize, value: T) -> Result<Vec<T>, Error> {
    let mut list = with_room(count)?;
    list.resize(count, value);
    Ok(list)
}

fn address(value: u64) -> Result<VirtAddr, Error> {
    VirtAddr::new(value).ok_or(Error::Invalid)
}

fn range(start: u64, pages: u64) -> Result<VirtRange, Error> {
    let pages = u32::try_from(pages).map_err(|_| Error::Invalid)?;
    VirtRange::new(address(start)?, pages).ok_or(Error::Invalid)
}

fn rights(bits: u64) -> Protection {
    Protection::from_bits_truncate(bits as u8)
}

fn read_word(process: &Process, at: u64) -> Result<u32, Error> {
    let mut bytes = [0; 4];
    process.space.read(address(at)?, &mut bytes).map_err(|error| error_of_fault(error.cause))?;
    Ok(u32::from_le_bytes(bytes))
}

/// Writes as much as is written at once; gives how many bytes.
fn write(process: &Process, text: u64, bytes: u64) -> Result<u64, Error> {
    let mut piece = [0; abi::MOST_TEXT];
    let bytes = bytes.min(abi::MOST_TEXT as u64);
    let piece = &mut piece[..bytes as usize];
    process.space.read(address(text)?, piece).map_err(|error| error_of_fault(error.cause))?;
    console::write_bytes(piece);
    Ok(bytes)
}

fn mmap(process: &Process, at: u64, pages: u64, bits: u64, kind: u64, file: u64, first: u64) -> Result<u64, Error> {
    let at = if at == 0 { None } else { Some(address(at)?) };
    let pages = u32::try_from(pages).ok().filter(|&pages| pages > 0).ok_or(Error::Invalid)?;
    let first = u32::try_from(first).map_err(|_| Error::Invalid)?;
    let source = match kind {
        abi::ANONYMOUS => Source::Anonymous { orders: Orders::BASE },
        kind if kind == abi::ANONYMOUS | abi::HUGE => Source::Anonymous { orders: Orders::HUGE },
        abi::SHARED => Source::Shared { file: process.file(file)?.mappable, first },
        abi::PRIVATE => Source::Private { file: process.file(file)?.mappable, first },
        abi::TIMER => Source::Device { frames: platform::timer().ok_or(Error::BadFile)?, first },
        _ => return Err(Error::Invalid),
    };
    let map = Map { at, pages, protection: rights(bits), source };
    Ok(process.space.mmap(&map).map_err(error_of_space)?.start().get())
}

/// Takes 2 MiB, or gives all back.
fn huge_block(process: &Process, how: u64) -> Result<(), Error> {
    let engine = platform::engine();
    let request = Request::new(HUGE_ORDER, Kind::Kernel);
    let block = match how {
        0 => alloc_compacting(engine, &request, Options::new(Mode::Sync).in_full_batches()),
        1 => engine.physical().alloc_with(&request.with_effort(Effort::Drain)),
        2 => {
            let blocks = core::mem::take(&mut *process.blocks.lock());
            drop(blocks);
            return Ok(());
        }
        _ => return Err(Error::Invalid),
    };
    let mut block = block.map_err(|_| Error::NoMemory)?;
    block.zero();
    process.blocks.lock().push(block);
    Ok(())
}

/// Moves the pages at `count` addresses; writes a status of each.
fn move_pages(process: &Process, addresses: u64, count: u64, statuses: u64) -> Result<u64, Error> {
    let count = usize::try_from(count).ok().filter(|&count| count <= abi::MOST_MOVED).ok_or(Error::Invalid)?;
    let mut bytes = buffer(count * 8, 0)?;
    process.space.read(address(addresses)?, &mut bytes).map_err(|error| error_of_fault(error.cause))?;
    let mut results = buffer(count, Error::Fault as i32)?;
    let mut frames: Vec<(Pfn, usize)> = with_room(count)?;
    for (at, word) in bytes.chunks(8).enumerate() {
        let page = VirtAddr::new(u64::from_le_bytes(word.try_into().unwrap_or_default()));
        if let Some(pfn) = page.and_then(|page| process.space.frame(page)) {
            frames.push((pfn, at));
        }
    }
    let mut sources: Vec<Pfn> = with_room(count)?;
    sources.extend(frames.iter().map(|&(pfn, _)| pfn));
    let engine = platform::engine();
    let mut destination = AnyFree::new(engine.physical(), sources.len());
    let options = Options::new(Mode::Sync).in_full_batches();
    let mut outcome = Mover::new(engine).migrate(&sources, &mut destination, options);
    outcome.stayed.sort_unstable_by_key(|&(pfn, _)| pfn);
    for (pfn, at) in frames {
        let stayed = outcome.stayed.binary_search_by_key(&pfn, |&(pfn, _)| pfn).is_ok();
        results[at] = if stayed { Error::Busy as i32 } else { 0 };
    }
    bytes.clear();
    bytes.extend(results.iter().flat_map(|result| result.to_le_bytes()));
    process.space.write(address(statuses)?, &bytes).map_err(|error| error_of_fault(error.cause))?;
    Ok(outcome.moved)
}

/// Handles a page fault of ring 3, or ends the process.
pub(crate) fn fault(process: &Process, at: u64, access: Option<Access>, frame: &mut Frame) {
    let ip = frame.rip;
    let Some(access) = access else {
        process.kill(format_args!("a bad table or a protection key at {at:#x}, instruction {ip:#x}"));
        return;
    };
    let Some(page) = VirtAddr::new(at) else {
        process.kill(format_args!("{access:?} at {at:#x}, which isn't its memory, instruction {ip:#x}"));
        return;
    };
    if let Err(error) = process.space.fault(page, access) {
        if let Some(agents) = &process.agents {
            agents[cpu::number()].has_faulted(error);
            frame.rip = agent::ADDRESS;
            return;
        }
        process.kill(format_args!("{access:?} at {at:#x}, instruction {ip:#x}: {error}"));
    }
}
