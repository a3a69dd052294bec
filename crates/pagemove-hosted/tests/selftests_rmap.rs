//! Linux's selftest `rmap` again: a random tree of processes, five deep, shares a page. A random member moves it; all others
//! must see the new frame. Its kinds of memory (anonymous, shared, file) and a device's.
//!
//! Its case of merged pages (KSM) has nothing here to stand on: the engine merges no pages.
mod common;

use std::sync::Arc;

use common::*;
use pagemove::{
    migrate::Options,
    space::{Mappable, PageCache},
    units::{Pfn, VirtRange},
};
use pagemove_drivers::CharDevice;
use pagemove_hosted::{Process, TlbKind};
use rand::RngExt;

const DEPTH: u32 = 5;
const PAGES: u32 = 4;

/// What the processes share, and how a store by one of them shows to the others.
#[derive(Clone, Copy, PartialEq)]
enum Memory {
    Anonymous,
    /// Linux's shared anonymous memory: a memory file without a name.
    Shared,
    PrivateFile,
    Device,
}

/// Adds up to three children to each process, down to the depth.
fn grow(tree: &mut Vec<Process>, parent: usize, depth: u32, rng: &mut impl rand::Rng) {
    if depth == DEPTH {
        return;
    }
    // The first line reaches the full depth.
    let children = rng.random_range(u32::from(parent + 1 == tree.len())..=2);
    for _ in 0..children {
        if tree.len() > 24 {
            return;
        }
        tree.push(tree[parent].fork().unwrap());
        grow(tree, tree.len() - 1, depth + 1, rng);
    }
}

fn all_see(tree: &[Process], at: VirtRange, page: u32, pfn: Pfn, value: u64) {
    for process in tree {
        assert_eq!(process.load(at.start().up(page)).unwrap(), value);
        assert_eq!(pfn_at(process, at.start().up(page)), pfn);
    }
}

fn run(memory: Memory, tlb: TlbKind, seed: u64) {
    println!("{tlb:?} TLB, seed {seed}");
    let lab = Lab::new(tlb, 4);
    let mut rng = rng(seed);
    {
        let root = lab.process();
        let file: Arc<dyn Mappable> = match memory {
            Memory::Device => CharDevice::new(&lab.engine, "chardev").open(PAGES),
            _ => PageCache::new(&lab.engine, "file", PAGES),
        };
        let at = match memory {
            Memory::Anonymous => anonymous(&root, PAGES),
            Memory::PrivateFile => private(&root, file, PAGES),
            Memory::Shared | Memory::Device => shared(&root, file, PAGES, RW),
        };
        at.iter().for_each(|page| root.store(page, page.get()).unwrap());
        let mut tree = vec![root];
        grow(&mut tree, 0, 0, &mut rng);
        assert!(tree.len() > DEPTH as usize, "seed {seed}: {} processes", tree.len());
        for turn in 0..9 {
            let member = rng.random_range(0..tree.len());
            let page = rng.random_range(0..PAGES);
            let address = at.start().up(page);
            let value = tree[member].load(address).unwrap();
            let before = pfn_at(&tree[member], address);
            all_see(&tree, at, page, before, value);
            let maps = lab.engine.physical().frame(before).maps();
            assert_eq!(maps as usize, tree.len(), "seed {seed}");
            let options = Options { batch: BATCHES[turn % 5], ..Options::new(MODES[turn % 3]) };
            let outcome = lab.migrate_all(&[before], options);
            assert_eq!((outcome.moved, outcome.stayed), (1, vec![]), "seed {seed}");
            let after = pfn_at(&tree[member], address);
            assert_ne!(after, before, "seed {seed}");
            all_see(&tree, at, page, after, value);
            assert_eq!(lab.engine.physical().frame(after).maps(), maps);
        }
        // Shared memory goes on being shared, what is private does not.
        let member = rng.random_range(0..tree.len());
        let before = tree[0].load(at.start()).unwrap();
        tree[member].store(at.start(), 7).unwrap();
        let is_shared = matches!(memory, Memory::Shared | Memory::Device);
        for (other, process) in tree.iter().enumerate() {
            let expected = if other == member || is_shared { 7 } else { before };
            assert_eq!(process.load(at.start()).unwrap(), expected, "seed {seed}");
        }
        // Some leave, in any order; the rest still see every move.
        while tree.len() > 2 {
            drop(tree.swap_remove(rng.random_range(0..tree.len())));
            let page = rng.random_range(1..PAGES);
            let before = pfn_at(&tree[0], at.start().up(page));
            lab.migrate(before, MODES[tree.len() % 3]).unwrap();
            let after = pfn_at(&tree[1], at.start().up(page));
            assert_ne!(after, before, "seed {seed}");
            all_see(&tree, at, page, after, tree[0].load(at.start().up(page)).unwrap());
        }
        lab.validate();
    }
    lab.assert_all_free(2048);
}

fn run_seeds(memory: Memory, first: u64) {
    (first..first + 6).for_each(|seed| run(memory, TlbKind::Soft, seed));
    (first + 6..first + 8).for_each(|seed| run(memory, TlbKind::Host, seed));
}

#[test]
fn selftests_rmap_anon() {
    run_seeds(Memory::Anonymous, 0);
}

#[test]
fn selftests_rmap_shared() {
    run_seeds(Memory::Shared, 10);
}

#[test]
fn selftests_rmap_file() {
    run_seeds(Memory::PrivateFile, 20);
}

#[test]
fn selftests_rmap_device() {
    run_seeds(Memory::Device, 30);
}
