//! The classes of frames.
//!
//! Takes a class or its text code, gives its code, name, description and what Linux can do with such a frame.
//! Promises that codes are stable: they stand in layout files and in `--json`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What a frame is used for.
///
/// [`FrameClass::DriverUnmapped`] is only ever stated by a layout file: a live kernel exports nothing that tells a
/// page which a driver keeps to itself from any other page of the kernel, so a capture calls both
/// [`FrameClass::Kernel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum FrameClass {
    /// On the free lists of the buddy allocator.
    Free,
    /// Anonymous memory on the LRU lists.
    Anon,
    /// Page cache or shared memory on the LRU lists.
    File,
    /// Slab allocator.
    Slab,
    /// Page table of a process.
    PageTable,
    /// Set aside at boot: kernel image, frame table, firmware.
    Reserved,
    /// Given to the hypervisor, or logically offline.
    Balloon,
    /// A driver's page that processes have mapped.
    DriverMapped,
    /// In use by the kernel, and none of the others.
    Kernel,
    /// A driver's page that no process has mapped; stated by files only.
    DriverUnmapped,
    /// In a pool of hugetlb pages, in use or not.
    Hugetlb,
    /// No frame: a hole, a poisoned frame, or memory that the kernel hasn't taken into use.
    Absent,
}

use FrameClass::*;

impl FrameClass {
    /// Number of classes.
    pub(crate) const COUNT: usize = 12;

    /// All classes, in the order of their numbers.
    pub(crate) const ALL: [Self; Self::COUNT] =
        [Free, Anon, File, Slab, PageTable, Reserved, Balloon, DriverMapped, Kernel, DriverUnmapped, Hugetlb, Absent];

    /// Returns the class's place in [`FrameClass::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// Returns the text code that stands in files; it never changes.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Free => "free",
            Anon => "anon",
            File => "file",
            Slab => "slab",
            PageTable => "page_table",
            Reserved => "reserved",
            Balloon => "balloon",
            DriverMapped => "driver_mapped",
            Kernel => "kernel",
            DriverUnmapped => "driver_unmapped",
            Hugetlb => "hugetlb",
            Absent => "absent",
        }
    }

    /// Returns the class with this text code.
    pub(crate) fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.code() == code)
    }

    /// Returns the name that a person reads.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Free => "free",
            Anon => "anonymous",
            File => "file",
            Slab => "slab",
            PageTable => "page table",
            Reserved => "reserved",
            Balloon => "balloon",
            DriverMapped => "driver, mapped",
            Kernel => "kernel",
            DriverUnmapped => "driver, unmapped",
            Hugetlb => "hugetlb",
            Absent => "absent",
        }
    }

    /// Describes the class in one line.
    pub(crate) const fn description(self) -> &'static str {
        match self {
            Free => "the buddy allocator's free lists",
            Anon => "processes' own memory, on the LRU lists",
            File => "page cache and shared memory, on the LRU lists",
            Slab => "the kernel's small objects",
            PageTable => "page tables of processes",
            Reserved => "kernel image, frame table, firmware",
            Balloon => "given to the hypervisor, or offline",
            DriverMapped => "a driver's pages that processes have mapped",
            Kernel => "vmalloc, stacks, drivers, all other",
            DriverUnmapped => "a driver's pages that nobody has mapped",
            Hugetlb => "pools of huge pages (vm.nr_hugepages), used or not",
            Absent => "holes, poisoned frames, memory not in use yet",
        }
    }

    /// Returns whether stock Linux moves such a frame.
    pub(crate) const fn linux_moves(self) -> bool {
        matches!(self, Anon | File)
    }

    /// Returns whether such a frame keeps its pageblock from ever becoming free on stock Linux.
    ///
    /// True for [`FrameClass::Balloon`] as well, though Linux moves the pages of some balloons: the flag that it
    /// exports is the same for the balloons that it can't move. True for [`FrameClass::Absent`]: a hole never becomes
    /// free.
    pub(crate) const fn stays(self) -> bool {
        !self.linux_moves() && !matches!(self, Free)
    }
}

impl fmt::Display for FrameClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for FrameClass {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for FrameClass {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A visitor and not a `String`: a file holds millions of codes.
        struct Code;
        impl de::Visitor<'_> for Code {
            type Value = FrameClass;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the code of a frame class")
            }

            fn visit_str<E: de::Error>(self, code: &str) -> Result<FrameClass, E> {
                FrameClass::from_code(code).ok_or_else(|| E::custom(format_args!("unknown class {code:?}")))
            }
        }
        deserializer.deserialize_str(Code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_names_and_numbers_are_distinct_and_lead_back() {
        for (number, class) in FrameClass::ALL.into_iter().enumerate() {
            assert_eq!(class.index(), number);
            assert_eq!(FrameClass::from_code(class.code()), Some(class));
            assert_eq!(FrameClass::ALL.iter().filter(|other| other.name() == class.name()).count(), 1);
        }
        assert_eq!(FrameClass::from_code("Free"), None);
    }

    #[test]
    fn codes_are_those_of_the_files() {
        let codes: Vec<_> = FrameClass::ALL.iter().map(|class| class.code()).collect();
        let (version_1, version_2) =
            ("free anon file slab page_table reserved balloon driver_mapped kernel driver_unmapped", "hugetlb");
        assert_eq!(codes.join(" "), format!("{version_1} {version_2} absent"));
    }

    #[test]
    fn linux_moves_the_lru_and_nothing_else() {
        let moved: Vec<_> = FrameClass::ALL.into_iter().filter(|class| class.linux_moves()).collect();
        assert_eq!(moved, [Anon, File]);
        assert_eq!(FrameClass::ALL.iter().filter(|class| class.stays()).count(), FrameClass::COUNT - 3);
    }
}
