//! System calls for the tests: mapped memory, processes, and calls that the standard library lacks.
//!
//! Typed values in and out; errors carry the call's name. The only module with `unsafe`. It relies on: a [`Map`]'s
//! range stays mapped until dropped (tests unmap or move parts only through their map). Each access is one volatile
//! load or store of an aligned word, which moves and concurrent writes can't make undefined. An access past the end
//! kills the process by a signal, so tests that want that fork first.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::CString;
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::ptr::NonNull;

pub(crate) const PAGE: usize = 4096;
pub(crate) const WORDS: usize = PAGE / 8;

fn named(call: &str) -> Error {
    let error = Error::last_os_error();
    Error::new(error.kind(), format!("{call}: {error}"))
}

/// The errno of a result; 0 if it is ok.
pub(crate) fn errno(result: &Result<i64>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    }
}

/// Mapped memory.
#[derive(Debug)]
pub(crate) struct Map {
    at: NonNull<u64>,
    pages: usize,
}

// SAFETY: all accesses are volatile words; tests expect races.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

/// The kind of a mapping.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) private: bool,
    pub(crate) write: bool,
}

pub(crate) const SHARED: Kind = Kind { private: false, write: true };
pub(crate) const READ_ONLY: Kind = Kind { private: false, write: false };
pub(crate) const PRIVATE: Kind = Kind { private: true, write: true };

impl Map {
    /// Maps a file, from page `first` on; or anonymous memory.
    pub(crate) fn new(file: Option<BorrowedFd<'_>>, first: u64, pages: usize, kind: Kind) -> Result<Self> {
        let protection = libc::PROT_READ | if kind.write { libc::PROT_WRITE } else { 0 };
        let flags = if kind.private { libc::MAP_PRIVATE } else { libc::MAP_SHARED }
            | if file.is_none() { libc::MAP_ANONYMOUS } else { 0 };
        let fd = file.map_or(-1, |file| file.as_raw_fd());
        let offset = first as i64 * PAGE as i64;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), pages * PAGE, protection, flags, fd, offset) };
        if at == libc::MAP_FAILED {
            return Err(named("mmap"));
        }
        Ok(Self { at: NonNull::new(at.cast()).ok_or_else(|| named("mmap"))?, pages })
    }

    pub(crate) fn address(&self) -> usize {
        self.at.as_ptr() as usize
    }

    pub(crate) fn pages(&self) -> usize {
        self.pages
    }

    /// Keeps the mapping until [`unmap`]; gives its address.
    pub(crate) fn keep(self) -> usize {
        std::mem::ManuallyDrop::new(self).address()
    }

    fn word(&self, page: usize, word: usize) -> *mut u64 {
        assert!(page < self.pages && word < WORDS, "past the end of a mapping");
        self.at.as_ptr().wrapping_add(page * WORDS + word)
    }

    pub(crate) fn load(&self, page: usize, word: usize) -> u64 {
        // SAFETY: within the mapping (`word`).
        unsafe { self.word(page, word).read_volatile() }
    }

    pub(crate) fn store(&self, page: usize, word: usize, value: u64) {
        // SAFETY: within the mapping (`word`).
        unsafe { self.word(page, word).write_volatile(value) }
    }

    pub(crate) fn advise(&self, first: usize, pages: usize, advice: i32) -> Result<i64> {
        let at = self.word(first, 0);
        // SAFETY: within the mapping; tests expect contents to be lost.
        let result = unsafe { libc::madvise(at.cast(), pages * PAGE, advice) };
        if result == 0 { Ok(0) } else { Err(Error::last_os_error()) }
    }

    pub(crate) fn protect(&self, first: usize, pages: usize, write: bool) -> Result<()> {
        let protection = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
        // SAFETY: within the mapping.
        let result = unsafe { libc::mprotect(self.word(first, 0).cast(), pages * PAGE, protection) };
        if result == 0 { Ok(()) } else { Err(named("mprotect")) }
    }

    /// Moves the mapping to another address.
    pub(crate) fn remap(&mut self) -> Result<()> {
        let (size, target) = (self.pages * PAGE, Self::new(None, 0, self.pages, PRIVATE)?);
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: both ranges are ours; the target is replaced, and the old range is gone.
        let at = unsafe { libc::mremap(self.at.as_ptr().cast(), size, size, flags, target.at.as_ptr()) };
        if at == libc::MAP_FAILED {
            return Err(named("mremap"));
        }
        self.at = target.at;
        std::mem::forget(target);
        Ok(())
    }

    /// Locks pages in memory, or unlocks them.
    pub(crate) fn lock(&self, first: usize, pages: usize, lock: bool) -> Result<()> {
        let (at, bytes) = (self.word(first, 0).cast(), pages * PAGE);
        // SAFETY: within the mapping.
        let result = unsafe { if lock { libc::mlock(at, bytes) } else { libc::munlock(at, bytes) } };
        if result == 0 { Ok(()) } else { Err(named("mlock")) }
    }

    /// Pins a page by handing it to a pipe.
    pub(crate) fn vmsplice(&self, page: usize, pipe: &Pipe) -> Result<()> {
        let part = libc::iovec { iov_base: self.word(page, 0).cast(), iov_len: PAGE };
        // SAFETY: one page of ours.
        let done = unsafe { libc::vmsplice(pipe.write.as_raw_fd(), &part, 1, libc::SPLICE_F_NONBLOCK) };
        if done == PAGE as isize { Ok(()) } else { Err(named("vmsplice")) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: our mapping, no longer used.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.pages * PAGE) };
    }
}

/// A pipe with room for this many pages.
pub(crate) struct Pipe {
    pub(crate) read: File,
    write: OwnedFd,
}

impl Pipe {
    pub(crate) fn new(pages: usize) -> Result<Self> {
        let mut ends = [0; 2];
        // SAFETY: room for two.
        if unsafe { libc::pipe(ends.as_mut_ptr()) } != 0 {
            return Err(named("pipe"));
        }
        // SAFETY: new and ours.
        let pipe = unsafe { Self { read: File::from_raw_fd(ends[0]), write: OwnedFd::from_raw_fd(ends[1]) } };
        // SAFETY: a plain call.
        let size = unsafe { libc::fcntl(pipe.write.as_raw_fd(), libc::F_SETPIPE_SZ, pages * PAGE) };
        if size < 0 { Err(named("F_SETPIPE_SZ")) } else { Ok(pipe) }
    }
}

/// Calls an ioctl with its argument's bytes.
pub(crate) fn ioctl(file: BorrowedFd<'_>, command: u32, argument: &mut [u8]) -> Result<i64> {
    let size = (command >> 16 & 0x3fff) as usize;
    assert!(argument.len() >= size, "the command takes more than is given");
    ioctl_at(file, command, argument.as_mut_ptr() as usize)
}

/// The same with any address, also invalid ones.
pub(crate) fn ioctl_at(file: BorrowedFd<'_>, command: u32, address: usize) -> Result<i64> {
    // SAFETY: the argument is as long as the command says, or the address is invalid.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), command as libc::Ioctl, address) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result.into()) }
}

/// Reads or writes at an invalid address.
pub(crate) fn read_to_nowhere(file: BorrowedFd<'_>, write: bool) -> Result<i64> {
    // SAFETY: the kernel rejects the address; that is the test.
    let result = unsafe {
        if write {
            libc::pwrite(file.as_raw_fd(), 8 as *const _, 64, 0)
        } else {
            libc::pread(file.as_raw_fd(), 8 as *mut _, 64, 0)
        }
    };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result as i64) }
}

/// Maps with any arguments, to test refusals. A successful mapping is unmapped at once.
pub(crate) fn try_map(file: BorrowedFd<'_>, offset: i64, bytes: usize) -> Result<i64> {
    // SAFETY: a new mapping at an address of the kernel's choice, unmapped before any use.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), offset);
        if at == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        libc::munmap(at, bytes);
    }
    Ok(0)
}

/// Asks the kernel to drop the file's cached pages.
pub(crate) fn advise_dont_need(file: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: a plain call.
    let number = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    if number == 0 { Ok(()) } else { Err(Error::from_raw_os_error(number)) }
}

/// How a child has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Exit(i32),
    Signal(i32),
}

/// A child process. Killed when dropped, so that a failed test doesn't leave the device open.
#[derive(Debug)]
pub(crate) struct Child {
    process: i32,
    end: Cell<Option<End>>,
}

/// Runs `child` in a forked process, and exits that with its result.
pub(crate) fn fork(child: impl FnOnce() -> i32) -> Result<Child> {
    // SAFETY: the child has a copy of this thread's memory. Tests also fork from threads: of the locks that the child
    // needs, only the allocator's may be held, and glibc handles that one.
    match unsafe { libc::fork() } {
        -1 => Err(named("fork")),
        0 => {
            // A panic must not unwind into the copies of the parent's values: dropping them would kill other children.
            let code = panic::catch_unwind(AssertUnwindSafe(child)).unwrap_or(101);
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) }
        }
        process => Ok(Child { process, end: Cell::new(None) }),
    }
}

impl Child {
    fn wait_with(&self, flags: i32) -> Option<End> {
        let mut status = 0;
        // SAFETY: our child, not waited for yet, and a variable for its status.
        if self.end.get().is_none() && unsafe { libc::waitpid(self.process, &mut status, flags) } == self.process {
            self.end.set(Some(if libc::WIFEXITED(status) {
                End::Exit(libc::WEXITSTATUS(status))
            } else {
                End::Signal(libc::WTERMSIG(status))
            }));
        }
        self.end.get()
    }

    /// Waits for the child's end.
    pub(crate) fn wait(&self) -> End {
        self.wait_with(0).unwrap_or(End::Exit(-1))
    }

    /// How the child ended, if it has.
    pub(crate) fn ended(&self) -> Option<End> {
        self.wait_with(libc::WNOHANG)
    }

    /// Its process ID.
    pub(crate) fn process(&self) -> u32 {
        self.process.unsigned_abs()
    }

    /// Duplicates a file that the child has open, as only an administrator may.
    pub(crate) fn file(&self, number: i32) -> Result<File> {
        // SAFETY: a plain call.
        let child = unsafe { libc::syscall(libc::SYS_pidfd_open, self.process, 0) };
        if child < 0 {
            return Err(named("pidfd_open"));
        }
        // SAFETY: new and ours.
        let child = unsafe { OwnedFd::from_raw_fd(child as i32) };
        // SAFETY: a plain call.
        let file = unsafe { libc::syscall(libc::SYS_pidfd_getfd, child.as_raw_fd(), number, 0) };
        if file < 0 {
            return Err(named("pidfd_getfd"));
        }
        // SAFETY: new and ours.
        Ok(unsafe { File::from_raw_fd(file as i32) })
    }

    pub(crate) fn kill(&self) {
        if self.ended().is_none() {
            // SAFETY: our child, whose process ID isn't reused until it is waited for.
            unsafe { libc::kill(self.process, libc::SIGKILL) };
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Gives up all privileges for good.
pub(crate) fn become_nobody() -> Result<()> {
    // SAFETY: a plain call.
    if unsafe { libc::setuid(65534) } == 0 { Ok(()) } else { Err(named("setuid")) }
}

pub(crate) fn mount(kind: &str, at: &str) -> Result<()> {
    std::fs::create_dir_all(at)?;
    let (kind, at) = (CString::new(kind)?, CString::new(at)?);
    // SAFETY: three strings, no data.
    let result = unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    if result == 0 { Ok(()) } else { Err(named("mount")) }
}

pub(crate) fn load_module(file: BorrowedFd<'_>, parameters: &str) -> Result<i64> {
    let parameters = CString::new(parameters)?;
    // SAFETY: a string.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), 0) };
    if result == 0 { Ok(0) } else { Err(Error::last_os_error()) }
}

pub(crate) fn unload_module(name: &str) -> Result<i64> {
    let name = CString::new(name)?;
    // SAFETY: a string.
    let result = unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) };
    if result == 0 { Ok(0) } else { Err(Error::last_os_error()) }
}

/// Asks for pages to be moved to a node; gives each page's node afterwards, or a negative errno.
pub(crate) fn move_pages(map: &Map, pages: &[usize], node: i32) -> Result<Vec<i32>> {
    call_move_pages(map, pages, Some(node))
}

/// Each page's node, or a negative errno.
pub(crate) fn nodes_of(map: &Map, pages: &[usize]) -> Result<Vec<i32>> {
    call_move_pages(map, pages, None)
}

fn call_move_pages(map: &Map, pages: &[usize], node: Option<i32>) -> Result<Vec<i32>> {
    let addresses: Vec<usize> = pages.iter().map(|page| map.address() + page * PAGE).collect();
    let nodes = node.map(|node| vec![node; pages.len()]);
    let mut status = vec![-1; pages.len()];
    move_addresses(&addresses, nodes.as_deref(), &mut status)?;
    Ok(status)
}

/// Asks for the page at each address to be moved to its node, or only for its node; writes each page's node afterwards, or a negative errno.
pub(crate) fn move_addresses(addresses: &[usize], nodes: Option<&[i32]>, status: &mut [i32]) -> Result<()> {
    assert!(addresses.len() == status.len() && nodes.is_none_or(|nodes| nodes.len() == status.len()));
    let nodes = nodes.map_or(std::ptr::null(), <[i32]>::as_ptr);
    // SAFETY: three arrays of equal length; `nodes` may be null, which only queries.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            addresses.len(),
            addresses.as_ptr(),
            nodes,
            status.as_mut_ptr(),
            MPOL_MF_MOVE_ALL,
        )
    };
    if result < 0 { Err(named("move_pages")) } else { Ok(()) }
}

/// Unmaps a part of a mapping, or all of one that was kept by [`Map::keep`]. Nobody uses it any more.
pub(crate) fn unmap(address: usize, pages: usize) -> Result<()> {
    // SAFETY: the caller's mapping.
    if unsafe { libc::munmap(address as *mut libc::c_void, pages * PAGE) } == 0 { Ok(()) } else { Err(named("munmap")) }
}

/// Makes a memfd of `pages` pages.
pub(crate) fn memory_file(pages: usize) -> Result<File> {
    // SAFETY: a string.
    let file = unsafe { libc::memfd_create(c"bench".as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(named("memfd_create"));
    }
    // SAFETY: new and ours.
    let file = unsafe { File::from_raw_fd(file) };
    file.set_len((pages * PAGE) as u64)?;
    Ok(file)
}

/// Makes a file of secret memory (`memfd_secret`).
pub(crate) fn secret_file(pages: usize) -> Result<File> {
    // SAFETY: a plain call.
    let file = unsafe { libc::syscall(libc::SYS_memfd_secret, 0) };
    if file < 0 {
        return Err(named("memfd_secret"));
    }
    // SAFETY: new and ours.
    let file = unsafe { File::from_raw_fd(file as i32) };
    file.set_len((pages * PAGE) as u64)?;
    Ok(file)
}

/// Makes a packet socket with a ring of `pages` pages for what it receives, to be mapped.
pub(crate) fn packet_ring(pages: u32) -> Result<OwnedFd> {
    // SAFETY: a plain call.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
    if socket < 0 {
        return Err(named("socket"));
    }
    // SAFETY: new and ours.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let (block, frame) = (PAGE as u32, 2048);
    let ring = libc::tpacket_req {
        tp_block_size: block,
        tp_block_nr: pages,
        tp_frame_size: frame,
        tp_frame_nr: pages * (block / frame),
    };
    let bytes = size_of_val(&ring) as libc::socklen_t;
    // SAFETY: the option's own struct, with its size.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_RX_RING, (&raw const ring).cast(), bytes)
    };
    if done == 0 { Ok(socket) } else { Err(named("setsockopt")) }
}

/// Allows this process so many open files.
pub(crate) fn allow_files(number: u64) -> Result<()> {
    let limit = libc::rlimit { rlim_cur: number, rlim_max: number };
    // SAFETY: a struct of the call's own kind.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0 {
        Ok(())
    } else {
        Err(named("setrlimit"))
    }
}

/// Binds this thread to a CPU.
pub(crate) fn stay_on_processor(number: usize) -> Result<()> {
    // SAFETY: an all-zero set; then one bit within its size is set.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(number, &mut set);
        set
    };
    // SAFETY: this thread, and the set's true size.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
    if result == 0 { Ok(()) } else { Err(named("sched_setaffinity")) }
}

/// Asks for all pages of this process to be moved between nodes; gives how many were not.
pub(crate) fn migrate_pages(from: i32, to: i32) -> Result<i64> {
    let (from, to) = (1u64 << from, 1u64 << to);
    // SAFETY: two masks of 64 bits.
    let result = unsafe { libc::syscall(libc::SYS_migrate_pages, 0, 64, &from, &to) };
    if result < 0 { Err(named("migrate_pages")) } else { Ok(result) }
}

/// Sets a mapping's memory policy; with [`MOVE_ALL`] also moves pages that violate it.
pub(crate) fn mbind(map: &Map, policy: i32, node: i32, flags: i32) -> Result<i64> {
    let mask = 1u64 << node;
    // SAFETY: the map's own range, and a mask of 64 bits.
    let result = unsafe { libc::syscall(libc::SYS_mbind, map.address(), map.pages * PAGE, policy, &mask, 64, flags) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

pub(crate) use libc::{MPOL_BIND, MPOL_PREFERRED};

/// Also moves pages shared with other processes, and fails if any page stays.
pub(crate) const MOVE_ALL: i32 = MPOL_MF_MOVE_ALL | MPOL_MF_STRICT;
// Not in `libc`.
const MPOL_MF_STRICT: i32 = 1;
const MPOL_MF_MOVE_ALL: i32 = 4;

/// Reads from a file, or writes to it, in one request; gives the number of bytes.
pub(crate) fn transfer(file: BorrowedFd<'_>, map: &Map, first: usize, pages: usize, write: bool) -> Result<usize> {
    assert!(first + pages <= map.pages, "past the end of a mapping");
    let (at, bytes) = (map.word(first, 0), pages * PAGE);
    // SAFETY: within the mapping.
    let done = unsafe {
        if write {
            libc::pwrite(file.as_raw_fd(), at.cast(), bytes, 0)
        } else {
            libc::pread(file.as_raw_fd(), at.cast(), bytes, 0)
        }
    };
    usize::try_from(done).map_err(|_| named(if write { "pwrite" } else { "pread" }))
}

/// An io_uring instance, used only for registered buffers.
pub(crate) struct Ring(OwnedFd);

impl Ring {
    pub(crate) fn new() -> Result<Self> {
        // The kernel's `struct io_uring_params`; all zeros are the defaults.
        let mut parameters = [0u8; 120];
        // SAFETY: the buffer has the kernel's size.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr()) };
        if fd < 0 {
            return Err(named("io_uring_setup"));
        }
        // SAFETY: new and ours.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    fn call(&self, command: u32, argument: *const libc::iovec, number: u32) -> Result<()> {
        // SAFETY: the array has `number` entries.
        let result =
            unsafe { libc::syscall(libc::SYS_io_uring_register, self.0.as_raw_fd(), command, argument, number) };
        if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    /// Registers pages as a buffer; tells whether the kernel supports that for files.
    pub(crate) fn register(&self, map: &Map, first: usize, pages: usize) -> Result<bool> {
        assert!(first + pages <= map.pages, "past the end of a mapping");
        let part = libc::iovec { iov_base: map.word(first, 0).cast(), iov_len: pages * PAGE };
        match self.call(0, &part, 1) {
            Ok(()) => Ok(true),
            // Older kernels accept no file-backed memory.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
            Err(error) => Err(Error::new(error.kind(), format!("io_uring_register: {error}"))),
        }
    }

    /// Unregisters all buffers.
    pub(crate) fn unregister(&self) -> Result<()> {
        self.call(1, std::ptr::null(), 0)
    }
}

/// A new userfaultfd.
pub(crate) fn userfaultfd() -> Result<OwnedFd> {
    // SAFETY: a plain call.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(named("userfaultfd"));
    }
    // SAFETY: new and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Lowers this thread's priority: all CPUs stay busy, but movers don't have to wait.
pub(crate) fn yield_to_others() {
    // SAFETY: a plain call.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 15) };
}

/// Powers the machine off.
pub(crate) fn power_off() -> ! {
    // SAFETY: plain calls.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    loop {
        std::thread::park();
    }
}
