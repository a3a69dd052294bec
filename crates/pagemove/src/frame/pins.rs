//! Who pins which frame, and since when. Pins are few and long-lived, so a side table, not bytes of every frame.
//!
//! On the heap. Locked with interrupts masked, since an interrupt handler may drop a pin.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use crate::{
    port::{InterruptMask, MaskedMutex},
    units::{FrameRange, Pfn},
};

/// One pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinRecord {
    /// Name of the holder, as given to the pinning call.
    pub who: String,
    /// Time of the pin, by the machine's clock.
    pub since_ns: u64,
}

/// All pins of an engine.
#[derive(Debug)]
pub struct Pins {
    records: MaskedMutex<BTreeMap<Pfn, Vec<PinRecord>>>,
}

impl Pins {
    pub(crate) fn new(mask: Option<InterruptMask>) -> Self {
        Self { records: MaskedMutex::new(mask, BTreeMap::new()) }
    }

    pub(crate) fn add(&self, pfn: Pfn, who: &str, since_ns: u64) {
        let record = PinRecord { who: who.into(), since_ns };
        self.records.lock().entry(pfn).or_default().push(record);
    }

    pub(crate) fn remove(&self, pfn: Pfn, who: &str) {
        let mut records = self.records.lock();
        if let Some(of_frame) = records.get_mut(&pfn) {
            if let Some(at) = of_frame.iter().position(|record| record.who == who) {
                of_frame.remove(at);
            }
            if of_frame.is_empty() {
                records.remove(&pfn);
            }
        }
    }

    /// Gives the pins of the page of frame `pfn`, oldest first.
    pub fn of(&self, pfn: Pfn) -> Vec<PinRecord> {
        self.records.lock().get(&pfn).cloned().unwrap_or_default()
    }

    /// Gives the pins of all pages in `range`: one is enough to hold a whole folio.
    pub fn within(&self, range: FrameRange) -> Vec<PinRecord> {
        self.records.lock().range(range.start..range.end()).flat_map(|(_, records)| records.iter().cloned()).collect()
    }

    /// Gives all pinned frames with their pins, by frame number.
    pub fn all(&self) -> Vec<(Pfn, Vec<PinRecord>)> {
        self.records.lock().iter().map(|(&pfn, records)| (pfn, records.clone())).collect()
    }
}
