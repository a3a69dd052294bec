//! Loading kernel modules.

use std::fs::File;
use std::os::fd::AsFd;

use crate::sys;

/// The sample's module; its file is `/NAME.ko`.
pub(crate) const MODULE: &str = "pagemove_sample";

/// Loads the sample's module.
pub(crate) fn load(unmovable: bool) -> std::io::Result<()> {
    load_module(MODULE, if unmovable { "unmovable=1" } else { "" })
}

/// Loads a module.
pub(crate) fn load_module(name: &str, parameters: &str) -> std::io::Result<()> {
    let file = File::open(format!("/{name}.ko"))?;
    sys::load_module(file.as_fd(), parameters).map(drop)
}
