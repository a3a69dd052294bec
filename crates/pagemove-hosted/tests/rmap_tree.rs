//! Linux's selftest `rmap`, again: a random tree of processes, five deep, that share anonymous, file and device memory. A
//! random member's page is moved; all others must see the new frame.
mod common;

use common::*;
use pagemove::{
    migrate::{Mode, Options},
    space::PageCache,
    units::{Pfn, VirtRange},
};
use pagemove_drivers::CharDevice;
use pagemove_hosted::{Process, TlbKind};
use rand::RngExt;

const DEPTH: u32 = 5;
const PAGES: u32 = 4;

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

fn run(tlb: TlbKind, seed: u64) {
    let lab = Lab::new(tlb, 4);
    let mut rng = rng(seed);
    {
        let root = lab.process();
        let file = PageCache::new(&lab.engine, "file", PAGES);
        let device = CharDevice::new(&lab.engine, "chardev").open(PAGES);
        let kinds = [
            anonymous(&root, PAGES),
            shared(&root, file.clone(), PAGES, RW),
            shared(&root, device.clone(), PAGES, RW),
            private(&root, file, PAGES),
        ];
        for (number, at) in kinds.iter().enumerate() {
            at.iter().for_each(|page| root.store(page, number as u64 + page.get()).unwrap());
        }
        let mut tree = vec![root];
        grow(&mut tree, 0, 0, &mut rng);
        assert!(tree.len() > DEPTH as usize, "seed {seed}: {} processes", tree.len());
        for turn in 0..12 {
            let member = rng.random_range(0..tree.len());
            let number = rng.random_range(0..kinds.len());
            let page = rng.random_range(0..PAGES);
            let (at, address) = (kinds[number], kinds[number].start().up(page));
            let value = tree[member].load(address).unwrap();
            let before = pfn_at(&tree[member], address);
            all_see(&tree, at, page, before, value);
            let maps = lab.engine.physical().frame(before).maps();
            assert_eq!(maps as usize, tree.len(), "seed {seed}");
            let options =
                Options { batch: 1 + turn % 3, ..Options::new([Mode::Async, Mode::SyncLight, Mode::Sync][turn % 3]) };
            let outcome = lab.migrate_all(&[before], options);
            assert_eq!((outcome.moved, outcome.stayed), (1, vec![]), "seed {seed}");
            let after = pfn_at(&tree[member], address);
            assert_ne!(after, before, "seed {seed}");
            all_see(&tree, at, page, after, value);
            assert_eq!(lab.engine.physical().frame(after).maps(), maps);
        }
        // Shared memory goes on being shared, what is private does not.
        let member = rng.random_range(0..tree.len());
        for (number, at) in kinds.iter().enumerate() {
            let before = tree[0].load(at.start()).unwrap();
            tree[member].store(at.start(), 7).unwrap();
            for (other, process) in tree.iter().enumerate() {
                let expected = if other == member || (number == 1 || number == 2) { 7 } else { before };
                assert_eq!(process.load(at.start()).unwrap(), expected, "seed {seed}, kind {number}");
            }
        }
        // Some leave, in any order; the rest still see every move.
        while tree.len() > 2 {
            drop(tree.swap_remove(rng.random_range(0..tree.len())));
            let (number, page) = (rng.random_range(0..kinds.len()), rng.random_range(1..PAGES));
            let before = pfn_at(&tree[0], kinds[number].start().up(page));
            lab.migrate(before, Mode::Sync).unwrap();
            let after = pfn_at(&tree[1], kinds[number].start().up(page));
            all_see(&tree, kinds[number], page, after, tree[0].load(kinds[number].start().up(page)).unwrap());
        }
        lab.validate();
    }
    lab.assert_all_free(2048);
}

#[test]
fn every_member_of_a_random_tree_sees_the_new_frame() {
    for seed in 0..6 {
        run(TlbKind::Soft, seed);
    }
    for seed in 6..8 {
        run(TlbKind::Host, seed);
    }
}
