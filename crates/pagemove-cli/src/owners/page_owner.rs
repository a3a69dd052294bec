//! Who allocated a frame: `page_owner` in debugfs (Linux: `Documentation/mm/page_owner.rst`), of kernels that have it, booted with
//! `page_owner=on`.
//!
//! Takes its text as it comes, gigabytes of it on a large machine, and the frames that want a name; gives each of these an origin: the first
//! function of the allocating stack that isn't of memory management, with its module. Promises bounded memory for each frame, and no panic,
//! whatever the text says; records that can't be read are counted.

use std::{
    collections::HashMap,
    io::{self, BufRead, Read},
    time::Duration,
};

use super::wanted::Wanted;
use crate::terminal::plain;

/// Where it is.
pub(super) const PATH: &str = "kernel/debug/page_owner";

/// Beginnings of the names of functions that allocate on others' behalf: the first function of a stack with another name is who wanted the
/// memory. By the files of Linux' `mm`, `lib`, of DMA and of network buffers, 4.18 to 7.3.
pub(crate) const ALLOCATORS: [&str; 75] = [
    "___kmalloc",
    "___slab_alloc",
    "__alloc_contig",
    "__alloc_frozen",
    "__alloc_pages",
    "__alloc_percpu",
    "__alloc_skb",
    "__build_skb",
    "__dma_alloc",
    "__do_kmalloc",
    "__folio_alloc",
    "__get_free_page",
    "__get_vm_area",
    "__kmalloc",
    "__kmem_cache",
    "__krealloc",
    "__kvmalloc",
    "__napi_alloc",
    "__netdev_alloc",
    "__p4d_alloc",
    "__page_frag",
    "__pcs_",
    "__pmd_alloc",
    "__pte_alloc",
    "__pud_alloc",
    "__reset_page_owner",
    "__set_page_owner",
    "__slab_alloc",
    "__vcalloc",
    "__vmalloc",
    "_vmalloc",
    "alloc_contig",
    "alloc_from_",
    "alloc_frozen",
    "alloc_page",
    "alloc_skb",
    "alloc_slab",
    "alloc_vmap",
    "allocate_slab",
    "cma_alloc",
    "depot_alloc",
    "devm_k",
    "dma_alloc",
    "dma_common",
    "dma_direct_alloc",
    "dma_pool",
    "folio_alloc",
    "get_free_page",
    "get_page_from_freelist",
    "get_zeroed_page",
    "iommu_dma_alloc",
    "kcalloc",
    "kmalloc",
    "kmem_cache",
    "kmemdup",
    "krealloc",
    "kstrdup",
    "kvmalloc",
    "kzalloc",
    "memdup",
    "mempool_",
    "new_slab",
    "page_frag",
    "pcpu_",
    "post_alloc_hook",
    "prep_new_page",
    "pte_alloc",
    "refill_",
    "save_stack",
    "sheaf_",
    "skb_page_frag",
    "stack_depot",
    "vmalloc",
    "vmemdup",
    "vzalloc",
];
/// Names of functions at most; all others have one.
const MOST_ORIGINS: usize = 10_000;
/// Bytes of a line at most; the rest is passed over.
const LONGEST: u64 = 4096;
/// Lines of a stack that are kept.
const DEEPEST: usize = 32;
/// Names of processes that an origin keeps.
const MOST_COMMANDS: usize = 3;

/// Where frames came from.
#[derive(Debug, Default)]
pub(crate) struct PageOwner {
    origins: Vec<Origin>,
    numbers: HashMap<String, u32>,
    /// First frame, frames and origin of each allocation, upwards.
    allocations: Vec<(u64, u64, u32)>,
    /// Records without a PFN or a stack.
    pub(crate) unreadable: u64,
}

/// A function that wanted memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The function, and its module if it's of one.
    pub(crate) name: String,
    /// One of its stacks, from the allocator outwards.
    pub(crate) stack: Vec<String>,
    /// Programs that were running then; not all of them.
    pub(crate) commands: Vec<String>,
    /// Between boot and the first allocation that is still there, and the last one.
    pub(crate) span: Option<(Duration, Duration)>,
}

/// A record as far as it's read.
#[derive(Default)]
struct Record {
    order: u32,
    command: Option<String>,
    at: Option<Duration>,
    pfn: Option<u64>,
    stack: Vec<String>,
}

impl PageOwner {
    /// Reads all; `look` hears the PFN that it's at, and may stop it.
    pub(super) fn read<E: From<io::Error>>(
        mut text: impl BufRead,
        wanted: &Wanted,
        look: &mut dyn FnMut(u64) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut found = Self::default();
        let (mut line, mut record) = (Vec::new(), None::<Record>);
        loop {
            line.clear();
            let read = (&mut text).take(LONGEST).read_until(b'\n', &mut line)?;
            if read as u64 == LONGEST && line.last() != Some(&b'\n') {
                text.skip_until(b'\n')?;
            }
            let said = String::from_utf8_lossy(&line);
            let said = said.trim_end();
            // A process's name stands in a record as it is, and may have ends of lines.
            let is_whole = record.as_ref().is_some_and(|record| record.pfn.is_some());
            if read == 0 || said.is_empty() && is_whole || said.starts_with("Page allocated via order ") {
                if let Some(record) = record.take() {
                    found.add(record, wanted, look)?;
                }
                if read == 0 {
                    break;
                }
            }
            if let Some(head) = said.strip_prefix("Page allocated via order ") {
                record = Some(Record::headed(head));
            } else if let Some(record) = &mut record {
                record.line(said);
            }
        }
        // The kernel goes upwards; who reads a saved file may have it otherwise.
        found.allocations.sort_unstable();
        Ok(found)
    }

    fn add<E>(&mut self, record: Record, wanted: &Wanted, look: &mut dyn FnMut(u64) -> Result<(), E>) -> Result<(), E> {
        let Record { order, command, at, pfn, stack } = record;
        let (Some(pfn), Some(frames)) = (pfn, 1_u64.checked_shl(order).filter(|_| !stack.is_empty())) else {
            self.unreadable += 1;
            return Ok(());
        };
        look(pfn)?;
        let Some(end) = pfn.checked_add(frames).filter(|&end| wanted.meets(pfn, end)) else { return Ok(()) };
        let wanted_it = stack.iter().find(|line| !is_allocator(line)).unwrap_or(&stack[stack.len() - 1]);
        let mut name = plain(&name_of(wanted_it));
        if self.origins.len() >= MOST_ORIGINS && !self.numbers.contains_key(&name) {
            "others by page_owner".clone_into(&mut name);
        }
        let number = *self.numbers.entry(name.clone()).or_insert_with(|| {
            self.origins.push(Origin { name, stack, commands: Vec::new(), span: None });
            self.origins.len() as u32 - 1
        });
        let origin = &mut self.origins[number as usize];
        if let Some(command) = command.map(|command| plain(&command))
            && origin.commands.len() < MOST_COMMANDS
            && !origin.commands.contains(&command)
        {
            origin.commands.push(command);
        }
        if let Some(at) = at {
            origin.span = Some(origin.span.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
        }
        self.allocations.push((pfn, end - pfn, number));
        Ok(())
    }

    /// Gives the number of a frame's origin.
    pub(super) fn number(&self, pfn: u64) -> Option<u32> {
        let behind = self.allocations.partition_point(|&(first, ..)| first <= pfn);
        let &(first, frames, number) = self.allocations.get(behind.checked_sub(1)?)?;
        (pfn - first < frames).then_some(number)
    }

    /// Gives an origin.
    pub(super) fn origin(&self, number: u32) -> &Origin {
        &self.origins[number as usize]
    }
}

impl Record {
    /// Reads what follows "Page allocated via order ": `0, mask 0x…(…), pid 1, tgid 1 (init), ts 123 ns, free_ts 0 ns`.
    fn headed(text: &str) -> Self {
        let number =
            |text: &str| text.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok());
        let after = |what: &str| text.split_once(what).map(|(_, rest)| rest);
        // The name is of the process: what stands around it is looked for from the right.
        let command =
            after(", tgid ").and_then(|rest| rest.split_once(" (")).and_then(|(_, rest)| rest.rsplit_once("), ts "));
        let time = text.rsplit_once(", ts ").and_then(|(_, rest)| number(rest));
        Self {
            order: number(text).and_then(|order| u32::try_from(order).ok()).unwrap_or(u32::MAX),
            command: command.map(|(name, _)| name.to_owned()),
            at: time.map(Duration::from_nanos),
            ..Self::default()
        }
    }

    fn line(&mut self, text: &str) {
        if let Some(rest) = text.strip_prefix("PFN ").filter(|_| self.pfn.is_none()) {
            let (word, _) = rest.split_once(" type ").unwrap_or_default();
            // Hexadecimal since Linux 5.13.
            self.pfn = match word.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).ok(),
                None => word.parse().ok(),
            };
        } else if self.pfn.is_some() && text.starts_with(' ') && text.contains("+0x") && self.stack.len() < DEEPEST {
            self.stack.push(text.trim_start().to_owned());
        }
    }
}

fn is_allocator(line: &str) -> bool {
    ALLOCATORS.iter().any(|start| line.starts_with(start))
}

/// Gives `function [module]` of `function+0x12/0x34 [module]`; without what a compiler adds to a name.
fn name_of(line: &str) -> String {
    let (function, rest) = line.split_once("+0x").unwrap_or((line, ""));
    let function = function.split('.').next().unwrap_or(function);
    match rest.split_once('[').and_then(|(_, rest)| rest.split_once(']')) {
        // A module's build ID may follow its name.
        Some((module, _)) => format!("{function} [{}]", module.split_whitespace().next().unwrap_or(module)),
        None => function.to_owned(),
    }
}

/// Gives how long ago the first allocation was that is still there, and the last one.
pub(super) fn ages(origin: &Origin, uptime: Duration) -> Option<(Duration, Duration)> {
    origin.span.map(|(first, last)| (uptime.saturating_sub(first), uptime.saturating_sub(last)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{FrameClass, Layout, Run, Sizes, Zone};

    /// As Linux 6.12 prints it, with made-up functions; an older one has no tgid and decimal PFNs.
    const TEXT: &str = "\
Page allocated via order 1, mask 0x40cc0(GFP_KERNEL|__GFP_COMP), pid 7, tgid 7 (a), ts 5 (b), ts 2000000000 ns, free_ts 1 ns
PFN 0x14 type Unmovable Block 0 type Unmovable Flags 0x200(workingset|node=0|zone=1)
 get_page_from_freelist+0x5c0/0x1280
 __alloc_pages_noprof+0x1a0/0x2f0
 ___kmalloc_large_node+0x61/0x120
 leak_fill.isra.0+0x2f/0x80 [leaky d34db33f]
 do_one_initcall+0x58/0x300
Charged to memcg x

Page allocated via order 0, mask 0x0(), pid 9
PFN 23 type Unmovable Block 0 type Unmovable Flags 0x0()
 prep_new_page+0x1/0x2
 copy_process+0x10/0x20
Page has been migrated, last migrate reason: compaction

Page allocated via order 99, mask 0x0(), pid 9
PFN 0x15 type Unmovable

Page allocated via order 0, mask 0x0(), pid 9, tgid 9 (x), ts 1000000000 ns
PFN 0x10 type Movable
 vma_alloc_folio+0x1/0x2
";

    fn read(text: &str) -> PageOwner {
        use FrameClass::*;
        let runs = [(Anon, 4), (Kernel, 4)].map(Run::from).to_vec();
        let zone = Zone { name: "Normal".into(), node: 0, start_pfn: 16, spanned: 8, present: 8 };
        let layout = Layout::new("test".into(), Sizes::usual(2), vec![zone], runs).expect("consistent");
        let wanted = Wanted::of(&layout, FrameClass::stays);
        PageOwner::read(text.as_bytes(), &wanted, &mut |_| Ok::<_, io::Error>(())).expect("memory can be read")
    }

    #[test]
    fn frames_are_named_by_the_first_function_outside_of_mm() {
        let found = read(TEXT);
        // What a process may call itself.
        let forged =
            read("Page allocated via order 0, pid 1, tgid 1 (\nPFN 7\n f+0x1), ts 1 ns\nPFN 0x14 type x\n g+0x1/0x2\n");
        assert_eq!(forged.number(0x14).map(|number| forged.origin(number).name.clone()), Some("g".to_owned()));
        let forged = read("Page allocated via order 0, pid 1, tgid 1 (\n\n), ts 1 ns\nPFN 0x14 type x\n g+0x1/0x2\n");
        assert!(forged.number(0x14).is_some());
        let name = |pfn| found.number(pfn).map(|number| found.origin(number).name.clone());
        let leak = Some("leak_fill [leaky]".to_owned());
        assert_eq!([name(0x14), name(0x15), name(0x16)], [leak.clone(), leak, None]);
        assert_eq!([name(23), name(24), name(0x10), name(0)], [Some("copy_process".into()), None, None, None]);
        assert_eq!(found.unreadable, 1);
        let leak = found.origin(0);
        assert_eq!((leak.stack.len(), leak.commands.clone()), (5, vec!["a), ts 5 (b".to_owned()]));
        let (first, last) = ages(leak, Duration::from_secs(10)).expect("a time");
        assert_eq!((first.as_secs(), last.as_secs()), (8, 8));
        assert_eq!(ages(found.origin(1), Duration::from_secs(10)), None);
    }

    #[test]
    fn no_beginning_is_said_twice() {
        for (at, one) in ALLOCATORS.iter().enumerate() {
            let mut others = ALLOCATORS.iter().enumerate().filter(|&(other, _)| other != at);
            assert!(others.all(|(_, other)| !one.starts_with(other)), "{one} is said already");
        }
    }

    #[test]
    fn any_text_is_read() {
        for cut in 0..TEXT.len() {
            read(&TEXT[..cut]);
            read(&TEXT[cut..]);
        }
        let long = format!(
            "Page allocated via order 0, {}\nPFN 0x14 type x\n {}+0x1/0x2\n",
            "x".repeat(9000),
            "f".repeat(9000)
        );
        assert_eq!(read(&long).unreadable, 1);
        let far = "Page allocated via order 63, pid 1\nPFN 0xffffffffffffffff type x\n f+0x1/0x2\n";
        assert_eq!(read(far).allocations, []);
        assert_eq!(name_of(" "), " ");
    }
}
