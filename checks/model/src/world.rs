//! What histories run on: an engine, and processes that use its page tables.

use alloc::{string::String, sync::Arc};

use pagemove::{
    Engine,
    paging::Format,
    space::{AddressSpace, FaultError, SpaceError},
    units::VirtAddr,
};

/// A machine with an engine.
pub trait World: Sized {
    /// The format of its page tables.
    type Format: Format;
    /// Its processes.
    type Process: Process<Self::Format>;

    /// Boots with `blocks` pageblocks of 2 MiB: in one zone, or in two that are far `apart`.
    ///
    /// # Errors
    /// Says why it can't.
    fn boot(blocks: u32, apart: bool) -> Result<Self, String>;

    /// Gives the engine.
    fn engine(&self) -> &Arc<Engine>;

    /// Makes a process without mappings.
    ///
    /// # Errors
    /// There is no memory.
    fn start(&self) -> Result<Self::Process, Failed>;

    /// Skips flushes from now on, or makes them again: a deliberate fault.
    fn skip_flushes(&self, skip: bool);

    /// Calls `f`, and makes a panic an error if it can.
    ///
    /// # Errors
    /// As `f`, or of a panic.
    fn caught<R>(f: impl FnOnce() -> Result<R, String>) -> Result<R, String> {
        f()
    }
}

/// Why there is no new process.
pub enum Failed {
    /// Of the address space.
    Space(SpaceError),
    /// Of something else, which is an error of the check.
    Other(String),
}

impl From<SpaceError> for Failed {
    fn from(error: SpaceError) -> Self {
        Self::Space(error)
    }
}

/// A process of a [`World`].
pub trait Process<F: Format>: Sized {
    /// Gives the address space.
    fn space(&self) -> &AddressSpace<F>;

    /// Makes a copy.
    ///
    /// # Errors
    /// The address space's, or another one.
    fn fork(&self) -> Result<Self, Failed>;

    /// Loads the word at `at` on CPU `cpu`, by its TLB; faults are handled first.
    ///
    /// # Errors
    /// The fault can't be handled.
    fn load(&self, cpu: usize, at: VirtAddr) -> Result<u64, FaultError>;

    /// Stores a word; otherwise as [`Self::load`].
    ///
    /// # Errors
    /// As there.
    fn store(&self, cpu: usize, at: VirtAddr, value: u64) -> Result<(), FaultError>;
}
