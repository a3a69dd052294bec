//! Typed system calls: memory files, mappings, available memory and map areas.
//!
//! `unsafe`: calls of mmap and the like on ranges that this module has mapped itself.
#![allow(unsafe_code)]

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr::NonNull,
};

/// A mapping of this program, unmapped when dropped.
pub(crate) struct Area {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a range of addresses; its memory is shared as atomics, or by the engine's protocol, as its users say.
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

impl Area {
    fn map(bytes: usize, protection: i32, flags: i32, file: i32) -> io::Result<Self> {
        // SAFETY: a new range, at an address that the kernel chooses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, file, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast())
            .map(|start| Self { start, bytes })
            .ok_or_else(|| io::Error::other("mmap gave address 0"))
    }

    /// Maps zeroed private memory, with huge pages if the host has them, since accesses to it are random.
    pub(crate) fn zeroed(bytes: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let area = Self::map(bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1)?;
        // SAFETY: the range is ours; advice changes no contents. The advice may fail.
        unsafe { libc::madvise(area.start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        Ok(area)
    }

    /// Maps a whole memory file.
    pub(crate) fn of_file(file: &MemoryFile) -> io::Result<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        Self::map(file.bytes, libc::PROT_READ | libc::PROT_WRITE, flags, file.fd.as_raw_fd())
    }

    /// Reserves addresses; every access faults.
    pub(crate) fn reserved(bytes: usize) -> io::Result<Self> {
        Self::map(bytes, libc::PROT_NONE, RESERVED, -1)
    }

    /// Gives the host its memory back for a part of a mapped file, which then reads as zeros (`fallocate` with `FALLOC_FL_PUNCH_HOLE`).
    ///
    /// # Safety
    /// Nobody relies on what is there.
    pub(crate) unsafe fn remove(&self, offset: usize, bytes: usize) -> io::Result<()> {
        assert!(offset.checked_add(bytes).is_some_and(|end| end <= self.bytes), "beyond the mapping");
        // SAFETY: within the mapping, of a file that only this program has; the caller says that the contents may go.
        let failed = unsafe {
            let start = self.start.as_ptr().add(offset);
            libc::madvise(start.cast(), bytes, libc::MADV_REMOVE)
        };
        if failed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Maps `bytes` of `file` from `at` on at `offset` of the area, for loads, and if `store` also for stores.
    pub(crate) fn show(
        &self,
        offset: usize,
        bytes: usize,
        file: &MemoryFile,
        at: usize,
        store: bool,
    ) -> io::Result<()> {
        assert!(offset + bytes <= self.bytes && at + bytes <= file.bytes, "a mapping outside its area");
        let protection = if store { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // Populated: otherwise the first access would fault again, in the kernel.
        let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE | libc::MAP_POPULATE;
        self.replace(offset, bytes, protection, flags, file.fd.as_raw_fd(), at)
    }

    /// Makes every access to the range fault again. When it returns, no CPU of the host uses the old mapping.
    pub(crate) fn hide(&self, offset: usize, bytes: usize) -> io::Result<()> {
        assert!(offset + bytes <= self.bytes, "a mapping outside its area");
        self.replace(offset, bytes, libc::PROT_NONE, RESERVED | libc::MAP_FIXED, -1, 0)
    }

    fn replace(&self, offset: usize, bytes: usize, protection: i32, flags: i32, fd: i32, at: usize) -> io::Result<()> {
        // SAFETY: within this area, by the callers' assertions. Rust references into it are to atomics in shared
        // memory, as every frame of RAM is, and an access to a hidden part traps.
        let got = unsafe {
            let start = self.start.as_ptr().add(offset).cast();
            libc::mmap(start, bytes, protection, flags, fd, at as libc::off_t)
        };
        if got == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

const RESERVED: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: only this value uses the range.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// A memfd. Its pages are allocated at the first store.
pub(crate) struct MemoryFile {
    fd: OwnedFd,
    bytes: usize,
}

impl MemoryFile {
    pub(crate) fn new(bytes: usize) -> io::Result<Self> {
        // SAFETY: a C string, and no pointer kept.
        let fd = unsafe { libc::memfd_create(c"pagemove-ram".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else has.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: no pointers.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), bytes as libc::off_t) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd, bytes })
    }
}

/// Gives the host's `MemAvailable` in bytes, if known.
pub(crate) fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Gives the limit of this program's mappings, and their number.
pub(crate) fn map_areas() -> Option<(usize, usize)> {
    let most = fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()?;
    Some((most, fs::read_to_string("/proc/self/maps").ok()?.lines().count()))
}

/// Registers the program for [`barrier`]; false if the host has none (Linux before 4.14, or a sandbox).
pub(crate) fn register_barrier() -> bool {
    membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
}

/// Makes every running thread of this program pass a full memory barrier; others pass one before they run.
pub(crate) fn barrier() {
    assert!(membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED), "membarrier failed after it was registered");
}

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: no pointers.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}
