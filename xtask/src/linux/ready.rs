//! A kernel that is ready to be booted.

use std::path::PathBuf;
use std::time::Duration;

use super::kernels::Kernel;
use super::qemu::Guest;

/// A kernel with all that a guest needs.
pub(super) struct Ready<'a> {
    pub(super) kernel: &'a Kernel<'a>,
    pub(super) image: PathBuf,
    pub(super) modules: Vec<PathBuf>,
    pub(super) archive: Vec<u8>,
}

impl Ready<'_> {
    /// The same with one more archive: a kernel unpacks them one after the other.
    pub(super) fn with(&self, more: Vec<u8>) -> Self {
        let Self { kernel, image, modules, archive } = self;
        let mut archive = archive.clone();
        // As `cpio` ends one.
        archive.resize(archive.len().next_multiple_of(512), 0);
        archive.extend(more);
        Self { kernel, image: image.clone(), modules: modules.clone(), archive }
    }

    /// A guest with this kernel.
    pub(super) fn guest<'a>(&'a self, orders: &'a str, memory_mib: u32, limit: Duration) -> Guest<'a> {
        Guest {
            image: &self.image,
            archive: &self.archive,
            orders,
            words: "",
            memory_mib,
            is_preallocated: false,
            limit,
        }
    }
}
