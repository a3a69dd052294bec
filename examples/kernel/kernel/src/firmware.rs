//! What the loader and the firmware say: memory, processors, the command line, the user programs (Xen's `hvm_start_info`; ACPI).

use alloc::{string::String, vec::Vec};
use core::{ffi::CStr, ptr::NonNull};

use acpi::{
    AcpiHandler, AcpiTables, HpetInfo, PhysicalMapping,
    madt::{Madt, MadtEntry},
};
use pagemove_x86::memory::MemoryMap;

use crate::{console, cpu::MAX_CPUS, direct};

/// Gives what the boot's tables map of physical memory: less if the CPU has no pages of 1 GiB.
fn direct_gib() -> u64 {
    unsafe extern "C" {
        #[link_name = "direct_gib"]
        static gib: u8;
    }
    // SAFETY: a word of the image, which nobody changes any more.
    unsafe { direct::<u32>(&raw const gib as u64).read() }.into()
}

/// What was read.
pub(crate) struct Firmware {
    /// Usable memory, without the kernel's image and the user programs.
    pub(crate) map: MemoryMap,
    /// The bytes of usable memory.
    pub(crate) memory: u64,
    /// The first address after all memory.
    pub(crate) end: u64,
    /// The numbers of the processors' interrupt controllers; the first is this one's.
    pub(crate) processors: Vec<u32>,
    /// The address of a timer's registers (HPET), which the kernel doesn't use.
    pub(crate) timer: Option<u64>,
    /// The command line's words `name=value`.
    words: Vec<(String, String)>,
    /// The ELF file of the user programs.
    pub(crate) programs: &'static [u8],
}

#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_entries: u32,
}

#[repr(C)]
struct MemoryEntry {
    start: u64,
    bytes: u64,
    kind: u32,
    _reserved: u32,
}

#[repr(C)]
struct Module {
    start: u64,
    bytes: u64,
}

#[derive(Clone)]
struct Mapped;

impl AcpiHandler for Mapped {
    unsafe fn map_physical_region<T>(&self, address: usize, size: usize) -> PhysicalMapping<Self, T> {
        let start = NonNull::new(direct(address as u64)).expect("the direct map isn't at 0");
        // SAFETY: all memory is in the direct map.
        unsafe { PhysicalMapping::new(address, start, size, size, self.clone()) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

impl Firmware {
    /// Reads it all.
    ///
    /// # Safety
    /// `info` is the address that the loader gave, and the heap has begun.
    pub(crate) unsafe fn read(info: u64) -> Self {
        unsafe extern "C" {
            static image_start: u8;
            static image_end: u8;
        }
        // SAFETY: the loader's structures, by its protocol.
        let info: &StartInfo = unsafe { &*direct(info) };
        assert_eq!(info.magic, 0x336e_c578, "not started as PVH");
        // SAFETY: as above.
        let entries = unsafe {
            core::slice::from_raw_parts(direct::<MemoryEntry>(info.memory_map), info.memory_entries as usize)
        };
        let mut map = MemoryMap::default();
        let direct_gib = direct_gib();
        for entry in entries {
            if entry.kind == 1 {
                // The rest isn't in the direct map.
                let bytes = entry.bytes.min((direct_gib << 30).saturating_sub(entry.start));
                if bytes < entry.bytes {
                    console::print!(
                        "{} MiB of memory aren't used: they are above {direct_gib} GiB\n",
                        (entry.bytes - bytes) >> 20
                    );
                }
                map.add_usable(entry.start, bytes, 0);
            } else {
                map.reserve(entry.start, entry.bytes);
            }
        }
        let free = map.free();
        let memory = free.iter().map(|(range, _)| u64::from(range.frames) << 12).sum();
        let end = free.last().map_or(0, |(range, _)| range.end().get() << 12);
        // The firmware's data, the trampoline, and what the loader gave.
        map.reserve(0, 1 << 20);
        let (start, end_of_image) = (&raw const image_start as u64, &raw const image_end as u64);
        map.reserve(start, end_of_image - start);
        let mut programs: &[u8] = &[];
        if info.modules > 0 {
            // SAFETY: as above.
            let module: &Module = unsafe { &*direct(info.module_list) };
            map.reserve(module.start, module.bytes);
            // SAFETY: reserved, so it stays.
            programs = unsafe { core::slice::from_raw_parts(direct(module.start), module.bytes as usize) };
        }
        let mut words = Vec::new();
        if info.command_line != 0 {
            // SAFETY: the loader's text ends with a 0.
            let line = unsafe { CStr::from_ptr(direct(info.command_line)) };
            for word in line.to_str().unwrap_or("").split_whitespace() {
                let (name, value) = word.split_once('=').unwrap_or((word, ""));
                words.push((name.into(), value.into()));
            }
        }
        // SAFETY: the firmware's tables.
        let tables = unsafe { AcpiTables::from_rsdp(Mapped, info.rsdp as usize) }.ok();
        let timer =
            tables.as_ref().and_then(|tables| HpetInfo::new(tables).ok()).map(|timer| timer.base_address as u64);
        Self { map, memory, end, processors: processors(tables.as_ref()), timer, words, programs }
    }

    /// Gives a word of the command line.
    pub(crate) fn word(&self, name: &str) -> Option<&str> {
        self.words.iter().find(|(word, _)| word == name).map(|(_, value)| value.as_str())
    }

    /// Gives a number of the command line.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.word(name)?.parse().ok()
    }
}

/// Lists the processors that can be used, this one first. The interrupt controller's old mode has numbers below 255.
fn processors(tables: Option<&AcpiTables<Mapped>>) -> Vec<u32> {
    let own = crate::apic::own_id();
    let mut all = alloc::vec![own];
    let Some(madt) = tables.and_then(|tables| tables.find_table::<Madt>().ok()) else { return all };
    let mut out_of_reach = 0;
    for entry in madt.get().entries() {
        let (id, flags) = match entry {
            MadtEntry::LocalApic(apic) => (apic.apic_id.into(), apic.flags),
            MadtEntry::LocalX2Apic(apic) => (apic.x2apic_id, apic.flags),
            _ => continue,
        };
        if flags & 1 == 0 || all.contains(&id) {
            continue;
        }
        if id < 255 { all.push(id) } else { out_of_reach += 1 }
    }
    if out_of_reach > 0 {
        console::print!("{out_of_reach} processors aren't used: only x2APIC mode reaches them\n");
    }
    if all.len() > MAX_CPUS {
        console::print!("{} processors aren't used: there are more than {MAX_CPUS}\n", all.len() - MAX_CPUS);
        all.truncate(MAX_CPUS);
    }
    all
}
