//! What a guest tells its host of its memory (Virtio 1.2, 5.5.6.4).

use pagemove::{report::Counter, units::PAGE_SIZE};

use super::Balloon;

/// A guest's figures, by tags. Tags that this version doesn't know are passed over.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct BalloonStats {
    /// Major faults.
    pub major_faults: Option<u64>,
    /// Minor faults.
    pub minor_faults: Option<u64>,
    /// Bytes that are free.
    pub free: Option<u64>,
    /// Bytes in all.
    pub total: Option<u64>,
    /// Bytes that could be had without swapping.
    pub available: Option<u64>,
}

impl BalloonStats {
    const TAGS: [u16; 5] = [2, 3, 4, 5, 6];

    fn fields(&mut self) -> [&mut Option<u64>; 5] {
        [&mut self.major_faults, &mut self.minor_faults, &mut self.free, &mut self.total, &mut self.available]
    }

    /// Reads what a guest tells.
    pub fn from_tags(told: impl IntoIterator<Item = (u16, u64)>) -> Self {
        let mut stats = Self::default();
        for (tag, value) in told {
            if let Some(at) = Self::TAGS.iter().position(|known| *known == tag) {
                *stats.fields()[at] = Some(value);
            }
        }
        stats
    }

    /// Gives what is known, by tags.
    pub fn tags(mut self) -> impl Iterator<Item = (u16, u64)> {
        let values = self.fields().map(|value| *value);
        Self::TAGS.into_iter().zip(values).filter_map(|(tag, value)| Some((tag, value?)))
    }
}

impl Balloon {
    /// Gives the guest's figures for its host.
    pub fn stats(&self) -> BalloonStats {
        let physical = self.registration.physical();
        let bytes = |frames: u64| Some(frames * PAGE_SIZE as u64);
        BalloonStats {
            minor_faults: Some(physical.counters().get(Counter::Pgfault)),
            free: bytes(physical.free_frames().into()),
            total: bytes(physical.zones().map(|zone| u64::from(zone.frames)).sum()),
            ..BalloonStats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_tags_are_passed_over() {
        let told = [(4, 1000), (99, 1), (5, 4000), (u16::MAX, 7), (4, 2000)];
        let stats = BalloonStats::from_tags(told);
        assert_eq!(stats, BalloonStats { free: Some(2000), total: Some(4000), ..BalloonStats::default() });
        assert_eq!(BalloonStats::from_tags(stats.tags()), stats);
    }
}
