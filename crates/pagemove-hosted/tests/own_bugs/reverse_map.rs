//! A reverse map that left the registry in mid-move: the batch asked the registry again, and its entries stayed blocked.
#![allow(unsafe_code, reason = "a reverse map is an unsafe trait")]

use std::sync::{Arc, Mutex};

use crate::common::*;
use pagemove::{
    folio::{LockedFolio, Migration},
    migrate::{Mode, Options},
    paging::FlushDebt,
    rmap::{RangeMap, ReverseMap, SplitError},
    space::{Access, FaultError},
    zone::Physical,
};
use pagemove_hosted::TlbKind;

/// A map that leaves the registry as soon as it has blocked its pages.
struct Leaves {
    processes: Arc<RangeMap>,
    leave: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

// SAFETY: does nothing but pass the calls on.
unsafe impl ReverseMap for Leaves {
    fn block(&self, physical: &Physical, pages: &mut [Migration], wait: bool, debt: &mut FlushDebt<'_>) {
        self.processes.block(physical, pages, wait, debt);
        if let Some(leave) = self.leave.lock().unwrap().take() {
            leave();
        }
    }

    fn rebind(&self, physical: &Physical, pages: &[Migration]) {
        self.processes.rebind(physical, pages);
    }

    fn unmap(&self, folio: &LockedFolio<'_>, debt: &mut FlushDebt<'_>) {
        self.processes.unmap(folio, debt);
    }

    fn split(&self, folio: &LockedFolio<'_>) -> Result<(), SplitError> {
        self.processes.split(folio)
    }
}

/// With a page of another map in the batch before it, and one behind it.
#[test]
fn a_map_that_leaves_in_mid_move_unblocks_what_it_blocked() {
    on_both_for_each_place(|lab, place| {
        let process = lab.process();
        let (device, other) = (Device::open(lab), Device::open(lab));
        let processes = device.driver.index.reverse_map().clone();
        let maps = lab.engine.reverse_maps().clone();
        let map = Arc::new(Leaves { processes, leave: Mutex::default() });
        let weak: std::sync::Weak<Leaves> = Arc::downgrade(&map);
        let registered = maps.add(weak);
        device.driver.index.set_reverse_map(registered.number());
        *map.leave.lock().unwrap() = Some(Box::new(move || drop(registered)));
        let [at, beside] = [device, other].map(|device| shared(&process, device, 2, RW).start());
        for address in [at, beside, beside.up(1)] {
            process.store(address, address.get()).unwrap();
        }
        let mut batch = vec![pfn_at(&process, beside), pfn_at(&process, beside.up(1))];
        batch.insert(place, pfn_at(&process, at));
        let moved = lab.migrate_all(&batch, Options::new(Mode::Async));
        assert_eq!((moved.moved, moved.stayed), (3, vec![]));
        for address in [at, beside, beside.up(1)] {
            assert!(process.space().entry(address).is_present(), "{address} is blocked for ever");
            assert_eq!(process.load(address), Ok(address.get()));
        }
    });
}

fn on_both_for_each_place(test: impl Fn(&Lab, usize)) {
    for tlb in [TlbKind::Soft, TlbKind::Host] {
        for place in 0..3 {
            let lab = Lab::new(tlb, 2);
            test(&lab, place);
            lab.assert_all_free(1024);
        }
    }
}

/// A map that blocks and never unblocks: a fault says so, and doesn't spin.
struct Forgets(Arc<RangeMap>);

// SAFETY: passes the calls on. An entry that stays blocked uses no frame.
unsafe impl ReverseMap for Forgets {
    fn block(&self, physical: &Physical, pages: &mut [Migration], wait: bool, debt: &mut FlushDebt<'_>) {
        self.0.block(physical, pages, wait, debt);
    }

    fn rebind(&self, _: &Physical, _: &[Migration]) {}

    fn unmap(&self, folio: &LockedFolio<'_>, debt: &mut FlushDebt<'_>) {
        self.0.unmap(folio, debt);
    }

    fn split(&self, folio: &LockedFolio<'_>) -> Result<(), SplitError> {
        self.0.split(folio)
    }
}

#[test]
fn a_fault_on_an_entry_that_was_left_behind_ends() {
    let lab = Lab::new(TlbKind::Soft, 2);
    {
        let process = lab.process();
        let device = Device::open(&lab);
        let map = Arc::new(Forgets(device.driver.index.reverse_map().clone()));
        let weak: std::sync::Weak<Forgets> = Arc::downgrade(&map);
        let registered = lab.engine.reverse_maps().add(weak);
        device.driver.index.set_reverse_map(registered.number());
        let at = shared(&process, device.clone(), 1, RW).start();
        process.store(at, 1).unwrap();
        lab.migrate(pfn_at(&process, at), Mode::Sync).unwrap();
        assert_eq!(process.space().fault(at, Access::Read), Err(FaultError::Abandoned(at)));
    }
    lab.assert_all_free(1024);
}
