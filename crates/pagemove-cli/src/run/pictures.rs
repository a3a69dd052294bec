//! What memory looks like: the blocks' contents, who holds hostages, and which pages had to stay.
//!
//! Reads summaries; looks at single frames in hostage blocks only.

use std::collections::{BTreeMap, BTreeSet};

use pagemove::{
    Engine,
    compact::{Tally, is_fixed},
    frame::Class,
    migrate::Policy,
    report::Reason,
    units::{FrameRange, Pfn},
    zone::Physical,
};

use crate::results::{BlockPicture, CLASSES};

// The picture counts in the order of the core's classes.
const _: () = assert!(CLASSES.len() == Class::ALL.len());

/// Gives what each block holds.
pub(crate) fn blocks(physical: &Physical) -> Vec<BlockPicture> {
    let picture = |number| {
        let summary = physical.blocks().summary(number);
        BlockPicture { frames: Class::ALL.map(|class| summary.of(class) as u16) }
    };
    (0..physical.blocks().count()).map(picture).collect()
}

/// Gives the number of wholly free blocks.
pub(crate) fn free_blocks(physical: &Physical) -> u64 {
    physical.zones().map(|zone| u64::from(physical.blocks().free_blocks(zone))).sum()
}

/// Tells which classes a policy leaves where they are.
pub(crate) fn fixed(policy: Policy) -> [bool; CLASSES.len()] {
    Class::ALL.map(|class| is_fixed(class, policy))
}

/// What hostage blocks hold that does not move.
#[derive(Debug, Default)]
pub(crate) struct Hostages {
    /// Their number.
    pub(crate) blocks: u64,
    /// How many of them each holder holds, most first.
    pub(crate) holders: Vec<(String, u64)>,
    /// Pages that hold them, and why a move would leave them.
    pub(crate) pages: BTreeMap<Pfn, Reason>,
}

impl Hostages {
    /// Looks at all blocks as a policy does.
    pub(crate) fn of(engine: &Engine, policy: Policy) -> Self {
        let physical = engine.physical();
        let (mut found, mut by_name) = (Self::default(), BTreeMap::<String, u64>::new());
        for number in 0..physical.blocks().count() {
            if !Tally::new(&physical.blocks().summary(number), policy).is_hostage() {
                continue;
            }
            found.blocks += 1;
            let mut names = BTreeSet::new();
            for pfn in physical.blocks().range(number).iter() {
                let class = physical.frame(pfn).state().class();
                if class != Class::Free && is_fixed(class, policy) {
                    holders(engine, pfn, class, &mut names);
                    found.pages.insert(pfn, reason(class, policy));
                }
            }
            for name in names {
                *by_name.entry(name).or_default() += 1;
            }
        }
        found.holders = by_name.into_iter().collect();
        found.holders.sort_by_key(|(_, blocks)| std::cmp::Reverse(*blocks));
        found
    }
}

/// Names who holds a frame: the driver, who pinned it, or the class.
fn holders(engine: &Engine, pfn: Pfn, class: Class, names: &mut BTreeSet<String>) {
    let frame = engine.physical().frame(pfn);
    match class {
        Class::Pinned => {
            let folio = FrameRange { start: pfn, frames: frame.state().order().frames() };
            names
                .extend(engine.physical().pins().within(folio).into_iter().map(|pin| format!("pinned by {}", pin.who)));
        }
        Class::DriverMapped | Class::DriverUnmapped => {
            let owner = engine.owners().get(frame.owner());
            let name = owner.as_ref().map_or("a driver that is gone", |owner| owner.name());
            names.insert(if class == Class::DriverMapped { format!("{name}, mapped") } else { name.to_owned() });
        }
        _ => {
            names.insert(class.name().to_owned());
        }
    }
}

/// Tells why a move under this policy would leave a frame of a class that the policy leaves.
fn reason(class: Class, policy: Policy) -> Reason {
    match class {
        Class::Pinned => Reason::Pinned,
        Class::DriverMapped if policy == Policy::Unmapped => Reason::Mapped,
        _ => Reason::Unmovable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_and_core_agree_on_the_order_of_classes() {
        // The report's name for the LRU is longer, the others are the same.
        for (name, class) in CLASSES.into_iter().zip(Class::ALL) {
            assert!(name == class.name() || class == Class::Lru, "{name}");
        }
    }
}
