//! User programs: an ELF file that came with the boot, mapped as a file whose pages are read from there.

use alloc::{boxed::Box, sync::Arc};
use core::sync::atomic::Ordering;

use elf::{ElfBytes, abi, endian::LittleEndian};
use pagemove::{
    space::{Access, AddressSpace, Map, PageCache, Protection, Source},
    sync::AtomicU64,
    units::{Orders, VirtAddr},
};

use crate::{platform, process::Process, sched, trap};

const STACK_PAGES: u32 = 64;

/// The programs.
pub(crate) struct Programs {
    bytes: &'static [u8],
    file: Arc<PageCache>,
}

impl Programs {
    /// Takes an ELF file.
    pub(crate) fn new(bytes: &'static [u8]) -> Self {
        let read = move |index: u32, words: &[AtomicU64; 512]| {
            let page = bytes.get(index as usize * 4096..).unwrap_or(&[]);
            for (word, bytes) in words.iter().zip(page.chunks(8)) {
                let mut value = [0; 8];
                value[..bytes.len()].copy_from_slice(bytes);
                word.store(u64::from_le_bytes(value), Ordering::Relaxed);
            }
        };
        let pages = bytes.len().div_ceil(4096) as u32;
        Self { bytes, file: PageCache::with_store(platform::engine(), "programs", pages, Some(Box::new(read))) }
    }

    /// Starts a process that runs program `name` with these arguments. Says why it can't be.
    pub(crate) fn start(&self, name: &str, arguments: [u64; 3]) -> Result<Arc<Process>, &'static str> {
        let process = Process::new(name).map_err(|_| "no memory for a process")?;
        let entry = self.load(&process.space)?;
        let map = Map {
            at: None,
            pages: STACK_PAGES,
            protection: Protection::READ | Protection::WRITE,
            source: Source::Anonymous { orders: Orders::BASE },
        };
        let stack = process.space.mmap(&map).map_err(|_| "no place for a stack")?.end().get() - 64;
        let place = VirtAddr::new(stack).ok_or("no place for a stack")?;
        // The name is on the stack.
        let mut text = [0; 32];
        text[..name.len().min(31)].copy_from_slice(&name.as_bytes()[..name.len().min(31)]);
        process.space.write(place, &text).map_err(|_| "no memory for a stack")?;
        let mut frame = trap::Frame::of_user(entry, stack);
        (frame.rdi, frame.rsi, frame.rdx, frame.rcx) = (stack, arguments[0], arguments[1], arguments[2]);
        run(&process, frame).map_err(|_| "no memory for a thread")?;
        Ok(process)
    }

    /// Frees the file's pages; they are read again.
    pub(crate) fn forget(&self) {
        self.file.index().truncate(0..u32::MAX);
    }

    /// Maps the file's parts; gives the address of its first instruction.
    fn load(&self, space: &AddressSpace) -> Result<u64, &'static str> {
        let file = ElfBytes::<LittleEndian>::minimal_parse(self.bytes).map_err(|_| "the programs are no ELF file")?;
        for part in file.segments().ok_or("the programs have no segments")? {
            if part.p_type != abi::PT_LOAD || part.p_memsz == 0 {
                continue;
            }
            let mut protection = Protection::empty();
            for (flag, right) in
                [(abi::PF_R, Protection::READ), (abi::PF_W, Protection::WRITE), (abi::PF_X, Protection::EXECUTE)]
            {
                if part.p_flags & flag != 0 {
                    protection |= right;
                }
            }
            let start = part.p_vaddr & !4095;
            if part.p_offset % 4096 != part.p_vaddr % 4096 {
                return Err("a segment is not aligned as in the file");
            }
            let file_end = (part.p_vaddr + part.p_filesz).next_multiple_of(4096);
            let end = (part.p_vaddr + part.p_memsz).next_multiple_of(4096);
            let map = |from: u64, to: u64, source| {
                let pages = ((to - from) >> 12) as u32;
                let map = Map { at: VirtAddr::new(from), pages, protection, source };
                if pages == 0 { Ok(()) } else { space.mmap(&map).map(drop).map_err(|_| "a segment's place is taken") }
            };
            let first = (part.p_offset >> 12) as u32;
            let of_file = part.p_filesz > 0;
            if of_file {
                map(start, file_end, Source::Private { file: self.file.clone(), first })?;
            }
            map(if of_file { file_end } else { start }, end, Source::Anonymous { orders: Orders::BASE })?;
            // The rest of the last page of the file isn't the segment's.
            let rest = part.p_vaddr + part.p_filesz;
            if of_file && protection.contains(Protection::WRITE) && rest < file_end {
                let at = VirtAddr::new(rest).ok_or("a segment is not in the user's half")?;
                let zeros = [0; 4096];
                space.write(at, &zeros[..(file_end - rest) as usize]).map_err(|_| "no memory for a segment")?;
            }
        }
        let entry = VirtAddr::new(file.ehdr.e_entry).ok_or("the entry is not in the user's half")?;
        space.fault(entry, Access::Execute).map_err(|_| "the entry is not mapped")?;
        Ok(entry.get())
    }
}

/// Starts a thread of `process` with these registers.
pub(crate) fn run(process: &Arc<Process>, frame: trap::Frame) -> Result<(), sched::NoMemory> {
    sched::spawn_in(process, None, trap::enter_user, frame).map(drop)
}
