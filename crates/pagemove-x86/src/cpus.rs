//! Sets of CPUs, as plain values.

/// The most CPUs of a machine (those that xAPIC numbers).
pub const MAX_CPUS: usize = 256;

/// A set of CPU numbers below [`MAX_CPUS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuSet([u64; MAX_CPUS / 64]);

impl CpuSet {
    /// Adds a CPU.
    ///
    /// # Panics
    /// If `cpu` is [`MAX_CPUS`] or more.
    pub fn insert(&mut self, cpu: usize) {
        self.0[cpu / 64] |= 1 << (cpu % 64);
    }

    /// Tells whether it has `cpu`.
    pub fn contains(&self, cpu: usize) -> bool {
        self.0.get(cpu / 64).is_some_and(|word| word >> (cpu % 64) & 1 == 1)
    }

    /// Gives the number of CPUs in it.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Tells whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives the CPUs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(at, word)| bits(word).map(move |bit| at * 64 + bit))
    }
}

/// Gives the numbers of the bits that are set, ascending.
pub(crate) fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let bit = word.trailing_zeros() as usize;
        word &= word.checked_sub(1)?;
        Some(bit)
    })
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn keeps_what_is_inserted() {
        let mut set = CpuSet::default();
        assert!(set.is_empty());
        let cpus = [0, 1, 63, 64, 200, 255];
        cpus.iter().rev().for_each(|&cpu| set.insert(cpu));
        assert_eq!(set.iter().collect::<Vec<_>>(), cpus);
        assert_eq!(set.len(), 6);
        assert!(set.contains(200) && !set.contains(199) && !set.contains(1000));
    }
}
