//! Operations, with small numbers as arguments. All numbers are valid, since [`crate::resolve`] takes them modulo the
//! number of objects. An operation is eight bytes, its kind and up to seven numbers, so any bytes are a history.

/// Bytes of an encoded operation.
pub const BYTES: usize = 8;

/// The numbers of an operation, encoded.
type Numbers = [u8; BYTES - 1];

/// Defines the operations, each with its weight among random ones.
macro_rules! operations {
    ($($(#[$doc:meta])* $weight:literal $name:ident { $($field:ident),* $(,)? },)*) => {
        /// One operation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the fields' names say it")]
        pub enum Operation {
            $($(#[$doc])* $name { $($field: u8),* },)*
        }

        #[repr(u8)]
        enum Kind { $($name),* }

        /// For each kind: its weight among random operations, and the function that makes it.
        const KINDS: &[(u32, fn(Numbers) -> Operation)] = &[
            $(($weight, |numbers| {
                let [$($field,)* ..] = numbers;
                Operation::$name { $($field),* }
            })),*
        ];

        impl Operation {
            /// Gives the bytes from which [`Operation::decode`] makes this operation.
            pub fn encode(self) -> [u8; BYTES] {
                let mut bytes = [0; BYTES];
                match self {
                    $(Operation::$name { $($field),* } => {
                        let all: &[u8] = &[Kind::$name as u8, $($field),*];
                        bytes[..all.len()].copy_from_slice(all);
                    })*
                }
                bytes
            }
        }
    };
}

operations! {
    /// A process loads a word.
    12 Load { process, mapping, offset, word, cpu },
    /// A process stores to a word.
    16 Store { process, mapping, offset, word, cpu },
    /// A process's instruction fetch faults.
    1 Fetch { process, mapping, offset },
    /// mmap of anonymous memory.
    5 MapAnonymous { process, pages, at, rights },
    /// mmap of anonymous memory with larger folios, where they fit.
    4 MapLarge { process, pages, at, rights, orders },
    /// mmap of a file or device, shared.
    6 MapShared { process, pages, at, rights, file, first },
    /// mmap of a file or device, private.
    4 MapPrivate { process, pages, at, rights, file, first },
    /// munmap.
    4 Unmap { process, mapping, offset, pages },
    /// mprotect.
    4 Protect { process, mapping, offset, pages, rights },
    /// mremap.
    4 Remap { process, mapping, offset, pages, new_pages, to },
    /// Clears all soft-dirty marks.
    2 ClearSoftDirty { process },
    /// A new process.
    1 Start {},
    /// fork.
    4 Fork { process },
    /// The end of a process.
    2 Exit { process },
    /// A device pins pages of a process.
    4 Pin { process, mapping, offset, pages, write },
    /// The device drops a pin.
    3 Unpin { pin },
    /// The device writes to a pinned page.
    3 PinStore { pin, word },
    /// The owner of a file reads a word.
    2 FileLoad { file, page, word },
    /// The owner of a file writes a word.
    3 FileStore { file, page, word },
    /// The owner frees pages, also mapped ones.
    3 Truncate { file, page, pages },
    /// Drops a file's clean pages.
    2 DropClean { file },
    /// Sets the moody driver's answer to moves.
    2 Mood { mood },
    /// Moves the pages of a range.
    10 Move { process, mapping, offset, pages, mode, batch, policy },
    /// Moves all movable pages, and page tables.
    5 MoveAll { mode, batch, policy },
    /// Compacts all memory.
    3 Compact { mode, batch, policy },
    /// The kernel allocates a folio, published or frozen.
    2 Take { order, frozen },
    /// The kernel allocates 2 MiB, with compaction if needed.
    2 TakeHuge { mode, batch, policy },
    /// The kernel frees a folio.
    3 Give { taken },
    /// The balloon grows.
    2 Inflate { pages },
    /// The balloon shrinks.
    1 Deflate { pages },
    /// Drains the CPUs' lists.
    1 Drain {},
    /// Collapses a mapping that may have large folios.
    2 Collapse { process, mapping, offset },
    /// zram stores pages.
    6 ZramWrite { page, pages, contents },
    /// zram restores a page.
    4 ZramRead { page },
    /// zram forgets pages.
    4 ZramDiscard { page, pages },
    /// zram moves its objects together.
    3 ZramCompact { pages },
    /// A host is told of free blocks.
    1 Report { order },
}

impl Operation {
    /// Makes an operation from any bytes.
    pub fn decode([kind, numbers @ ..]: [u8; BYTES]) -> Self {
        let (_, make) = KINDS[usize::from(kind) % KINDS.len()];
        make(numbers)
    }

    /// Gives, for each kind, its weight among random operations, and the function that makes it.
    pub fn kinds() -> impl Iterator<Item = (u32, fn([u8; BYTES - 1]) -> Operation)> {
        KINDS.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        for kind in 0..KINDS.len() as u8 {
            let operation = Operation::decode([kind, 1, 2, 3, 4, 5, 6, 7]);
            assert_eq!(operation.encode()[0], kind);
            assert_eq!(Operation::decode(operation.encode()), operation);
        }
    }
}
