//! What is written in pages: one word in each, which names the page and counts the stores to it.
//!
//! The upper half is the page's tag, made from the seed, the policy and the page; so a page with another page's contents,
//! or with those of an earlier run that lay in the same frame, shows. The lower half counts the stores, from 1 on; so a
//! word that is older than the last store shows, and a cleared page, too.

/// The tags of one policy's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words {
    salt: u64,
    /// As the salt, but the same for all policies.
    common: u64,
}

/// Number of the store by which a page gets its first word.
pub(crate) const FIRST: u32 = 1;

impl Words {
    /// Makes the tags for a seed, and a number that tells policies apart.
    pub(crate) fn new(seed: u64, policy: u64) -> Self {
        Self { salt: mix(mix(seed) ^ policy), common: mix(seed) }
    }

    /// Gives the tag of a page of a region.
    pub(crate) fn tag(self, region: u32, page: u32) -> u32 {
        tag(self.salt, region, page)
    }

    /// Gives a tag that is the same for all policies.
    pub(crate) fn common_tag(self, region: u32, page: u32) -> u32 {
        tag(self.common, region, page)
    }
}

fn tag(salt: u64, region: u32, page: u32) -> u32 {
    (mix(salt ^ (u64::from(region) << 32 | u64::from(page))) >> 32) as u32
}

/// Gives the word that a page with this tag holds after store number `sequence`.
pub(crate) fn word(tag: u32, sequence: u32) -> u64 {
    u64::from(tag) << 32 | u64::from(sequence)
}

/// Gives where in its page the word with this tag stands: anywhere, so that a copy of a part of the page shows.
pub(crate) fn place(tag: u32) -> usize {
    (tag % 512) as usize
}

/// Mixes all bits into all bits (the finalizer of SplitMix64).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_policies_and_stores_tell_apart() {
        let (one, two) = (Words::new(7, 1), Words::new(7, 2));
        let tags: std::collections::BTreeSet<u32> =
            (0..1000).flat_map(|page| [one.tag(1, page), one.tag(2, page), two.tag(1, page)]).collect();
        assert!(tags.len() > 2990, "{} of 3000 tags differ", tags.len());
        assert_ne!(word(5, 1), word(5, 2));
        assert_ne!(word(0, FIRST), 0);
        assert!(place(u32::MAX) < 512);
    }
}
