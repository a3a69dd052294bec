//! A process on the hosted machine: an address space, and loads and stores through its TLB.
#![allow(unsafe_code)]

use std::sync::Arc;

use pagemove::{
    Engine,
    space::{FaultError, SpaceError},
    sync::{AtomicU64, Ordering},
    units::{VirtAddr, VirtRange},
};

use crate::{
    error::HostedError,
    format::Space,
    machine::Hosted,
    native,
    tlb::{Tlb, Window},
};

/// A process.
pub struct Process {
    machine: Arc<Hosted>,
    space: Arc<Space>,
    window: Option<Arc<Window>>,
}

/// First address and number of pages of every process: 64 GiB from 4 MiB on, so that address 0 is never mapped.
const FIRST: u64 = 4 << 20;
const PAGES: u32 = 16 << 20;

impl Process {
    /// Makes a process with nothing mapped.
    pub fn new(machine: &Arc<Hosted>, engine: &Arc<Engine>) -> Result<Self, HostedError> {
        let bounds = VirtAddr::new(FIRST).and_then(|first| VirtRange::new(first, PAGES)).ok_or(HostedError::Nothing)?;
        let space = Space::with_format(engine, bounds).map_err(|error| HostedError::Host {
            what: "a page table",
            source: std::io::Error::new(std::io::ErrorKind::OutOfMemory, error.to_string()),
        })?;
        Self::with_space(machine, space)
    }

    fn with_space(machine: &Arc<Hosted>, space: Space) -> Result<Self, HostedError> {
        let space = Arc::new(space);
        let window = match machine.tlb() {
            Tlb::Soft(_) => None,
            Tlb::Host(tlb) => Some(tlb.open(&space)?),
        };
        Ok(Self { machine: machine.clone(), space, window })
    }

    /// Makes a child with the same mappings.
    pub fn fork(&self) -> Result<Self, ForkError> {
        Ok(Self::with_space(&self.machine, self.space.fork()?)?)
    }

    /// Gives the address space, for system calls.
    pub fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// Loads the word at `address`, a multiple of 8, on this thread's virtual CPU.
    ///
    /// An access violation is returned with the soft TLB; with the host TLB it kills the program with SIGSEGV.
    pub fn load(&self, address: VirtAddr) -> Result<u64, FaultError> {
        self.access(address, false, |word| word.load(Ordering::Acquire), native::Word::load)
    }

    /// Stores to the word at `address`, a multiple of 8; as [`Self::load`] otherwise.
    pub fn store(&self, address: VirtAddr, value: u64) -> Result<(), FaultError> {
        self.access(address, true, |word| word.store(value, Ordering::Release), |word| word.store(value))
    }

    fn access<R>(
        &self,
        address: VirtAddr,
        store: bool,
        by_frame: impl Fn(&AtomicU64) -> R,
        native: impl Fn(native::Word) -> R,
    ) -> Result<R, FaultError> {
        if !address.get().is_multiple_of(8) {
            return Err(FaultError::NotMapped(address));
        }
        match (&self.window, self.machine.tlb()) {
            (None, Tlb::Soft(tlb)) => {
                let cpu = self.machine.tlb_number();
                let ram = self.machine.ram();
                // SAFETY: bound to the machine; a CPU's access by a translation in its TLB, which excludes a flush
                // meanwhile.
                let words = |pfn| unsafe { ram.words(pfn) };
                tlb.access(cpu, ram, &self.space, address, store, |pfn, word| by_frame(&words(pfn)[word]))
            }
            (Some(window), _) => {
                let pointer = window.host_address(address).ok_or(FaultError::NotMapped(address))?;
                // SAFETY: aligned, within a window that stays reserved as long as `self`. Memory mapped there is
                // accessed by all as atomics; elsewhere the access traps.
                Ok(native(unsafe { native::Word::new(pointer.cast()) }))
            }
            (None, Tlb::Host(_)) => Err(FaultError::NotMapped(address)),
        }
    }

    /// Gives the host address of `address`, for native code; `None` with the soft TLB, or outside the bounds.
    pub fn host_address(&self, address: VirtAddr) -> Option<*mut u8> {
        self.window.as_ref()?.host_address(address)
    }
}

/// Why a fork failed.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// The address space could not be copied.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// The host can't hold another process.
    #[error(transparent)]
    Host(#[from] HostedError),
}

impl Drop for Process {
    fn drop(&mut self) {
        self.space.exit();
        if let Tlb::Host(tlb) = self.machine.tlb() {
            tlb.close(self.space.id());
        }
    }
}
