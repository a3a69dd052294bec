//! The system calls, as the kernel and its user programs see them.
//!
//! The number is in `rax`, up to six arguments in `rdi`, `rsi`, `rdx`, `r10`, `r8`, `r9`; the result is in `rax`, negative for an [`Error`].
//! All other registers but `rcx` and `r11` are kept.
#![no_std]

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// A system call.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u64)]
        pub enum Call { $($(#[$doc])* $name = $number,)* }

        impl Call {
            /// Gives the call of a number.
            pub const fn new(number: u64) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

calls! {
    /// `(code)`: ends the process and all its threads.
    Exit = 0,
    /// `(text, bytes)`: writes to the console, at most [`MOST_TEXT`] bytes; gives how many.
    Write = 1,
    /// `(address or 0, pages, rights, kind, file, first page)`: gives the address.
    Mmap = 2,
    /// `(address, pages)`
    Munmap = 3,
    /// `(address, pages, rights)`
    Mprotect = 4,
    /// `(address, pages, new pages, new address or 0)`: gives the address.
    Mremap = 5,
    /// `()`: gives the child's number, and 0 to the child.
    Fork = 6,
    /// `(child)`: waits until it has ended, gives its code.
    Wait = 7,
    /// `(entry, stack, argument)`: starts a thread; gives its number.
    Thread = 8,
    /// `()`: ends the thread.
    ExitThread = 9,
    /// `(addresses, count, statuses)`: moves the pages, at most [`MOST_MOVED`]; a status is 0 or negative.
    Move = 10,
    /// `(address, pages, writing)`: pins pages; gives a handle.
    Pin = 11,
    /// `(handle)`
    Unpin = 12,
    /// `()`: lets others run.
    Yield = 13,
    /// `()`: gives nanoseconds.
    Now = 14,
    /// `(pages)`: opens the character device with private pages; gives a file.
    OpenDevice = 15,
    /// `(pages)`: makes a file in memory.
    OpenFile = 16,
    /// `(word, value)`: sleeps while the word has the value.
    FutexWait = 17,
    /// `(word)`: wakes all that sleep on it.
    FutexWake = 18,
    /// `(address, pages)`: collapses 2 MiB ranges.
    Collapse = 19,
    /// `()`: compacts memory; gives the pageblocks that became free.
    Compact = 20,
    /// `(file, first page, end page)`: removes pages of a file in memory.
    Truncate = 21,
    /// `(file)`: frees its pages that nobody has stored to; gives their number.
    DropClean = 22,
    /// `(child)`: ends it; it can then be waited for.
    End = 23,
    /// `(0)`: allocates 2 MiB in a row, by compaction if need be, clears them, and keeps them for the process; `(1)`: the same without
    /// compaction; `(2)`: frees all that were kept.
    HugeBlock = 24,
    /// `()`: gives the number of free pages.
    FreePages = 25,
    /// `(value)`: for the kernel's own checks; gives a word to load or store.
    AgentNext = 26,
}

/// The most bytes of one call of [`Call::Write`].
pub const MOST_TEXT: usize = 256;
/// The most pages of one call of [`Call::Move`].
pub const MOST_MOVED: usize = 4096;
/// The most children of a process, with those that have ended and weren't waited for.
pub const MOST_CHILDREN: usize = 1024;
/// The most open files of a process.
pub const MOST_FILES: usize = 1024;
/// The most pinned pages of a process; a page that is pinned twice counts twice.
pub const MOST_PINNED: usize = 4096;

/// Reading is allowed.
pub const READ: u64 = 1;
/// Writing is allowed.
pub const WRITE: u64 = 2;
/// Fetching instructions is allowed.
pub const EXECUTE: u64 = 4;

/// A mapping of memory that is nobody else's.
pub const ANONYMOUS: u64 = 0;
/// A mapping that is shared with all others of the file.
pub const SHARED: u64 = 1;
/// A mapping of a file that is copied on write.
pub const PRIVATE: u64 = 2;
/// A mapping of a timer's registers (HPET), one page.
pub const TIMER: u64 = 3;
/// Added to [`ANONYMOUS`]: with folios of 2 MiB where they fit.
pub const HUGE: u64 = 16;

/// Why a call failed. The numbers are those of Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i64)]
pub enum Error {
    /// No such process or thread.
    NoProcess = -3,
    /// No such file, or it can't do this.
    BadFile = -9,
    /// Not now.
    Again = -11,
    /// Out of memory.
    NoMemory = -12,
    /// The address isn't mapped, or not for this access.
    Fault = -14,
    /// It's in use.
    Busy = -16,
    /// A wrong argument.
    Invalid = -22,
    /// No such call.
    NoCall = -38,
}

/// The code of a process that the kernel has ended because of a fault.
pub const KILLED: u64 = 139;
