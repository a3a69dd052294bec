//! Checks that zones, lists, states and summaries agree, at a quiet point (invariants 3 and 8 of DESIGN).

use super::{Physical, Summary};
use crate::{
    frame::{Class, Kind},
    units::Pfn,
};

/// An inconsistency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("frame {pfn}: {what}")]
pub struct Invalid {
    /// The frame, or the first one of the zone or block.
    pub pfn: Pfn,
    /// What is wrong with it.
    pub what: &'static str,
}

impl Physical {
    /// Checks all memory, frame by frame; nothing may allocate, free or move meanwhile.
    pub fn validate(&self) -> Result<(), Invalid> {
        for found in self.zones.iter().map(|zone| zone.buddy.lock().validate(self.tables())) {
            found.map_err(|(pfn, what)| Invalid { pfn, what })?;
        }
        for range in self.zones() {
            let mut in_free_block = 0;
            let mut in_allocation = (0, Class::Free);
            let mut block = Summary::default();
            for pfn in range.iter() {
                let frame = self.frame(pfn);
                let state = frame.state();
                let wrong = |what| Err(Invalid { pfn, what });
                if in_free_block > 0 {
                    if state.kind() != Kind::Free || state.is_free_head() {
                        return wrong("lies in a free block, but is not free");
                    }
                    in_free_block -= 1;
                } else if in_allocation.0 > 0 {
                    if state.kind() != Kind::Tail {
                        return wrong("lies in a larger allocation, but is not its tail");
                    }
                    in_allocation.0 -= 1;
                } else {
                    match state.kind() {
                        Kind::Free if !state.is_free_head() => return wrong("is free, but on no list"),
                        Kind::Free => in_free_block = state.order().frames() - 1,
                        Kind::Tail => return wrong("is the tail of no allocation"),
                        _ => in_allocation = (state.order().frames() - 1, state.class()),
                    }
                }
                match state.kind() {
                    Kind::Tail if (frame.refs(), frame.maps()) == (0, 0) => {}
                    kind if !kind.is_allocation() => {
                        if (frame.refs(), frame.maps(), frame.pins()) != (0, 0, 0) {
                            return wrong("is free or a tail, but has references, mappings or pins");
                        }
                    }
                    _ => {
                        if frame.refs() < frame.maps() || frame.refs() == 0 && state.kind().is_movable() {
                            return wrong("has fewer references than mappings, or is movable and has none");
                        }
                        if !self.frames.are_mappings_counted(pfn) {
                            return wrong("has another number of mappings than its pages together");
                        }
                        if state.class() != self.class_of(frame) {
                            return wrong("counts as another class than its kind, mappings and pins make it");
                        }
                    }
                }
                if self.frames().is_locked(pfn) {
                    return wrong("is still locked, but nothing moves");
                }
                block.count(if state.kind() == Kind::Tail { in_allocation.1 } else { state.class() });
                if pfn.up(1).is_aligned(self.blocks().order()) {
                    if block != self.blocks().summary(self.blocks().number(pfn)) {
                        return wrong("ends a pageblock whose summary differs from its frames");
                    }
                    block = Summary::default();
                }
            }
        }
        Ok(())
    }
}
