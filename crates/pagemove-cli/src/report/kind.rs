//! What a block is to a policy: free, movable, a hostage (and whose), or wholly fixed.
//!
//! Takes a block's frames by class and the classes that the policy leaves where they are, and gives one [`Kind`]. Pure. The rule is that of
//! `PolicyResult::hostage_blocks_after`: a hostage holds a page which the policy can't move, and something else too.

use crate::results::{BlockPicture, CLASSES};

/// Index into [`CLASSES`] of each class that this module must tell apart.
const FREE: usize = 0;
const DRIVER_UNMAPPED: usize = 2;
const DRIVER_MAPPED: usize = 3;
const SPACE_TABLE: usize = 9;

/// The classes that a policy can't move ([`crate::results::PolicyResult::fixed`]).
pub(crate) type Fixed = [bool; CLASSES.len()];

/// What a block is to a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// Has no frames: a hole, or beyond the end of memory.
    Absent,
    /// Every frame is free.
    Free,
    /// Holds only pages which the policy moves.
    Movable,
    /// Held by pages which the policy can't move; names the class (an index into [`CLASSES`]) that is hardest to move.
    Hostage(usize),
    /// Holds nothing but pages which the policy can't move, so that nothing is lost by leaving it alone.
    Fixed,
}

/// What a policy is, in words.
pub(crate) fn policy_in_words(policy: &str) -> &'static str {
    match policy {
        "unmovable" => "Driver pages never move.",
        "unmapped" => "Driver pages move only while nothing maps them, as in Linux since 4.8.",
        "any" => "Driver pages move even while processes have them mapped, and so do page tables.",
        _ => "",
    }
}

/// Gives the number of frames of a block, of every class.
pub(crate) fn total(block: &BlockPicture) -> u32 {
    block.frames.iter().map(|&count| u32::from(count)).sum()
}

/// Gives how much of a block is used, from 0 to 1; an absent block is not used.
pub(crate) fn occupancy(block: &BlockPicture) -> f64 {
    match total(block) {
        0 => 0.0,
        all => 1.0 - f64::from(block.frames[FREE]) / f64::from(all),
    }
}

/// Tells what a block is to a policy.
pub(crate) fn kind(block: &BlockPicture, fixed: &Fixed) -> Kind {
    let all = total(block);
    let held = || (0..CLASSES.len()).filter(|&class| fixed[class] && block.frames[class] > 0);
    let stuck: u32 = held().map(|class| u32::from(block.frames[class])).sum();
    if all == 0 {
        Kind::Absent
    } else if u32::from(block.frames[FREE]) == all {
        Kind::Free
    } else if stuck == 0 {
        Kind::Movable
    } else if stuck == all {
        Kind::Fixed
    } else {
        // What no policy moves comes before driver pages and page tables, whatever their number: so a block shown in their colours
        // is one that a better policy would win, and only such a block.
        let holder = held().max_by_key(|&class| match class {
            DRIVER_UNMAPPED => (0, 0),
            DRIVER_MAPPED => (1, 0),
            SPACE_TABLE => (2, 0),
            _ => (3, block.frames[class]),
        });
        holder.map_or(Kind::Movable, Kind::Hostage)
    }
}

/// Gives how many of the blocks are hostages of a policy.
pub(crate) fn hostages(blocks: &[BlockPicture], fixed: &Fixed) -> u64 {
    blocks.iter().filter(|block| matches!(kind(block, fixed), Kind::Hostage(_))).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::fixed;

    const PINNED: usize = 4;

    fn block(counts: &[(usize, u16)]) -> BlockPicture {
        let mut block = BlockPicture::default();
        for &(class, count) in counts {
            block.frames[class] = count;
        }
        block
    }

    #[test]
    fn mapped_driver_pages_hold_a_block_hostage_unless_any_page_moves() {
        let block = block(&[(FREE, 500), (DRIVER_MAPPED, 12)]);
        assert_eq!(kind(&block, &fixed("unmovable")), Kind::Hostage(DRIVER_MAPPED));
        assert_eq!(kind(&block, &fixed("unmapped")), Kind::Hostage(DRIVER_MAPPED));
        assert_eq!(kind(&block, &fixed("any")), Kind::Movable);
    }

    #[test]
    fn unmapped_driver_pages_hold_only_where_driver_pages_never_move() {
        let block = block(&[(FREE, 511), (DRIVER_UNMAPPED, 1)]);
        assert_eq!(kind(&block, &fixed("unmovable")), Kind::Hostage(DRIVER_UNMAPPED));
        assert_eq!(kind(&block, &fixed("unmapped")), Kind::Movable);
        assert_eq!(kind(&block, &fixed("any")), Kind::Movable);
    }

    #[test]
    fn page_tables_hold_a_block_unless_any_page_moves() {
        let block = block(&[(FREE, 510), (DRIVER_MAPPED, 1), (SPACE_TABLE, 1)]);
        assert_eq!(kind(&block, &fixed("unmapped")), Kind::Hostage(SPACE_TABLE));
        assert_eq!(kind(&block, &fixed("any")), Kind::Movable);
    }

    #[test]
    fn the_hardest_to_move_names_the_hostage() {
        let (slab, page_table) = (5, 6);
        let both = block(&[(FREE, 9), (DRIVER_MAPPED, 500), (slab, 1), (page_table, 2)]);
        assert_eq!(kind(&both, &fixed("unmovable")), Kind::Hostage(page_table));
        assert_eq!(kind(&both, &fixed("any")), Kind::Hostage(page_table));
    }

    #[test]
    fn what_no_policy_moves_holds_under_every_policy() {
        for class in PINNED..SPACE_TABLE {
            for policy in ["unmovable", "unmapped", "any"] {
                assert_eq!(kind(&block(&[(FREE, 511), (class, 1)]), &fixed(policy)), Kind::Hostage(class));
            }
        }
        let names = [FREE, DRIVER_UNMAPPED, DRIVER_MAPPED, PINNED, SPACE_TABLE].map(|class| CLASSES[class]);
        assert_eq!(names, ["free", "driver, unmapped", "driver, mapped", "pinned", "page table of a process"]);
    }

    #[test]
    fn full_of_what_stays_is_no_hostage() {
        assert_eq!(kind(&block(&[(7, 512)]), &fixed("any")), Kind::Fixed);
        assert_eq!(kind(&block(&[(DRIVER_MAPPED, 256), (8, 256)]), &fixed("unmapped")), Kind::Fixed);
    }

    #[test]
    fn free_short_and_absent_blocks() {
        assert_eq!(kind(&block(&[(FREE, 512)]), &fixed("any")), Kind::Free);
        assert_eq!(kind(&block(&[(FREE, 7)]), &fixed("any")), Kind::Free);
        assert_eq!(kind(&BlockPicture::default(), &fixed("any")), Kind::Absent);
        assert!(occupancy(&BlockPicture::default()) == 0.0);
        assert!((occupancy(&block(&[(FREE, 128), (1, 384)])) - 0.75).abs() < 1e-9);
    }
}
