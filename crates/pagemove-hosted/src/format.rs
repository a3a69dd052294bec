//! The format of the machine's page tables: x86-64, or another one that the build asks for by
//! `--cfg pagemove_format="aarch64"` (or `"sv39"`, `"sv48"`), for checks. Besides that, RAM begins elsewhere. Its TLBs walk any format.

use pagemove::units::Pfn;

#[cfg(pagemove_format = "aarch64")]
use pagemove::paging::Aarch64 as Chosen;
#[cfg(pagemove_format = "sv39")]
use pagemove::paging::Sv39 as Chosen;
#[cfg(pagemove_format = "sv48")]
use pagemove::paging::Sv48 as Chosen;
#[cfg(not(any(pagemove_format = "aarch64", pagemove_format = "sv39", pagemove_format = "sv48")))]
use pagemove::paging::X86_64 as Chosen;

/// The format of all page tables.
pub type TableFormat = Chosen;

/// The first frame of RAM: 0; with another format 64 TiB, where some machines' memory begins, for checks.
pub const FIRST_FRAME: Pfn = Pfn::new(if IS_ANOTHER { 1 << 34 } else { 0 });

const IS_ANOTHER: bool = cfg!(any(pagemove_format = "aarch64", pagemove_format = "sv39", pagemove_format = "sv48"));

/// An address space of a hosted process.
pub type Space = pagemove::space::AddressSpace<TableFormat>;
