//! The format of the machine's page tables: x86-64, or another one that the build asks for by
//! `--cfg pagemove_format="aarch64"` (or `"sv39"`, `"sv48"`), for checks. Nothing else of the machine differs: its TLBs walk any format.

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

/// An address space of a hosted process.
pub type Space = pagemove::space::AddressSpace<TableFormat>;
