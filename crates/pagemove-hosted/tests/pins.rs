//! Pins: what is pinned stays and says who pins it since when; device and process go on seeing the same page.
mod common;

use std::sync::atomic::Ordering;

use common::*;
use pagemove::{
    folio::PinnedPage,
    frame::{Class, Kind, Marks},
    migrate::Mode,
    report::Reason,
    space::{FaultError, PinError, Protection},
    units::VirtRange,
};
use pagemove_drivers::CharDevice;
use pagemove_hosted::TlbKind;

fn word(pin: &PinnedPage) -> u64 {
    pin.words(0)[0].load(Ordering::Acquire)
}

fn dma(pin: &PinnedPage, value: u64) {
    pin.words(0)[0].store(value, Ordering::Release);
}

#[test]
fn selftests_gup_test_a_pinned_page_stays_until_it_is_let_go() {
    on_both(1, |lab| {
        let process = lab.process();
        let device = CharDevice::new(&lab.engine, "chardev").open(2);
        let (file, _) = stored_file(lab, 2);
        for at in [anonymous(&process, 2), shared(&process, device, 2, RW), private(&process, file.clone(), 2)] {
            let pins = process.space().pin(part(at, 0, 1), true, "nic").unwrap();
            let pfn = pins[0].pfn();
            assert_eq!(pfn_at(&process, at.start()), pfn);
            for mode in [Mode::Async, Mode::SyncLight, Mode::Sync] {
                assert_eq!(lab.migrate(pfn, mode), Err(Reason::Pinned));
            }
            assert_eq!(lab.engine.physical().frame(pfn).state().class(), Class::Pinned);
            lab.validate();
            dma(&pins[0], 5);
            assert_eq!(process.load(at.start()).unwrap(), 5);
            process.store(at.start(), 6).unwrap();
            assert_eq!(word(&pins[0]), 6);
            drop(pins);
            assert_ne!(lab.engine.physical().frame(pfn).state().class(), Class::Pinned);
            lab.migrate(pfn, Mode::Async).unwrap();
            assert_ne!(pfn_at(&process, at.start()), pfn);
            assert_eq!(process.load(at.start()).unwrap(), 6);
        }
    });
}

#[test]
fn pins_tell_who_and_since_when() {
    on_both(1, |lab| {
        let process = lab.process();
        let at = anonymous(&process, 3);
        let physical = lab.engine.physical();
        let start = physical.machine().now_ns();
        let nic = process.space().pin(at, false, "nic").unwrap();
        let gpu = process.space().pin(part(at, 1, 1), true, "gpu").unwrap();
        let pfn = gpu[0].pfn();
        let of = physical.pins().of(pfn);
        assert_eq!(of.iter().map(|pin| pin.who.as_str()).collect::<Vec<_>>(), ["nic", "gpu"]);
        assert!(start <= of[0].since_ns && of[0].since_ns <= of[1].since_ns);
        assert!(of[1].since_ns <= physical.machine().now_ns());
        assert_eq!(physical.pins().all().len(), 3);
        assert_eq!(physical.frame(pfn).pins(), 2);
        drop(nic);
        assert_eq!(physical.pins().of(pfn).len(), 1);
        assert_eq!(physical.pins().of(pfn)[0].who, "gpu");
        assert_eq!(lab.migrate(pfn, Mode::Sync), Err(Reason::Pinned));
        drop(gpu);
        assert!(physical.pins().all().is_empty());
        lab.migrate(pfn, Mode::Sync).unwrap();
    });
}

#[test]
fn a_pin_for_reading_of_a_page_shared_by_fork_gets_the_process_its_own() {
    on_both(1, |lab| {
        let parent = lab.process();
        let at = anonymous(&parent, 1);
        parent.store(at.start(), 1).unwrap();
        let child = parent.fork().unwrap();
        for (process, other, value) in [(&parent, &child, 2), (&child, &parent, 3)] {
            let before = other.load(at.start()).unwrap();
            let pins = process.space().pin(at, false, "nic").unwrap();
            assert_eq!(word(&pins[0]), process.load(at.start()).unwrap());
            process.store(at.start(), value).unwrap();
            assert_eq!(word(&pins[0]), value, "the device must see the process's stores");
            assert_eq!(other.load(at.start()).unwrap(), before);
        }
    });
}

#[test]
fn a_pin_for_reading_of_a_private_file_page_gets_a_copy() {
    on_both(1, |lab| {
        let (file, _) = stored_file(lab, 1);
        let process = lab.process();
        let at = private(&process, file.clone(), 1);
        assert_eq!(process.load(at.start()).unwrap(), 1000);
        let pins = process.space().pin(at, false, "nic").unwrap();
        process.store(at.start(), 5).unwrap();
        assert_eq!(word(&pins[0]), 5);
        assert_eq!(lab.process_reading(&file, 0), 1000);
    });
}

#[test]
fn selftests_gup_test_a_child_gets_a_copy_of_what_is_pinned() {
    on_both(1, |lab| {
        let parent = lab.process();
        let at = anonymous(&parent, 2);
        at.iter().for_each(|page| parent.store(page, 1).unwrap());
        for write in [true, false] {
            let pins = parent.space().pin(part(at, 0, 1), write, "nic").unwrap();
            let now = parent.load(at.start()).unwrap();
            let child = parent.fork().unwrap();
            assert_ne!(pfn_at(&child, at.start()), pins[0].pfn());
            parent.store(at.start(), now + 1).unwrap();
            assert_eq!(word(&pins[0]), now + 1, "the device must see its process's stores");
            dma(&pins[0], now + 2);
            assert_eq!(parent.load(at.start()).unwrap(), now + 2);
            assert_eq!(child.load(at.start()).unwrap(), now);
            child.store(at.start(), 99).unwrap();
            assert_eq!(word(&pins[0]), now + 2);
            // The page beside it is shared as ever.
            assert_eq!(pfn_at(&child, at.start().up(1)), pfn_at(&parent, at.start().up(1)));
        }
    });
}

#[test]
fn a_process_may_end_or_unmap_before_its_device_lets_go() {
    on_both(1, |lab| {
        let process = lab.process();
        let device = CharDevice::new(&lab.engine, "chardev").open(1);
        let (one, two) = (anonymous(&process, 2), shared(&process, device.clone(), 1, RW));
        let mut pins = process.space().pin(one, true, "nic").unwrap();
        pins.extend(process.space().pin(two, true, "gpu").unwrap());
        process.space().munmap(part(one, 0, 1)).unwrap();
        dma(&pins[0], 7);
        // The address is somebody else's by now.
        let again = anonymous(&process, 1);
        assert_eq!((again.start(), process.load(again.start()).unwrap()), (one.start(), 0));
        assert!(device.free(0));
        assert_eq!(process.load(two.start()).unwrap(), 0);
        drop(process);
        drop(device);
        for pin in &pins {
            dma(pin, 8);
            assert_eq!(lab.migrate(pin.pfn(), Mode::Sync), Err(Reason::Pinned));
        }
        lab.validate();
        assert_eq!(lab.count_kind(Kind::Anon) + lab.count_kind(Kind::Driver), 3);
        drop(pins);
        assert_eq!(lab.count_kind(Kind::Anon) + lab.count_kind(Kind::Driver), 0);
    });
}

#[test]
fn pins_are_all_or_none_and_need_the_rights() {
    on_both(1, |lab| {
        let process = lab.process();
        let at = anonymous(&process, 4);
        process.space().munmap(part(at, 2, 1)).unwrap();
        let hole = FaultError::NotMapped(at.start().up(2));
        assert_eq!(process.space().pin(at, false, "nic").err(), Some(PinError::Fault(hole)));
        assert!(lab.engine.physical().pins().all().is_empty());
        process.space().mprotect(part(at, 1, 1), Protection::READ).unwrap();
        let refused = FaultError::Protection(at.start().up(1));
        assert_eq!(process.space().pin(part(at, 0, 2), true, "nic").err(), Some(PinError::Fault(refused)));
        assert_eq!(process.space().pin(part(at, 0, 2), false, "nic").unwrap().len(), 2);
        process.space().mprotect(part(at, 1, 1), Protection::empty()).unwrap();
        assert_eq!(process.space().pin(part(at, 1, 1), false, "nic").err(), Some(PinError::Fault(refused)));
        let bounds = process.space().bounds();
        let beyond = VirtRange::new(bounds.end(), 1).unwrap();
        assert_eq!(process.space().pin(beyond, false, "nic").err(), Some(PinError::BadRange));
        assert!(lab.engine.physical().pins().all().is_empty());
    });
}

/// What a device wrote must not be dropped as clean.
#[test]
fn a_pin_for_writing_leaves_the_page_dirty() {
    on_both(1, |lab| {
        let (file, _) = stored_file(lab, 2);
        let process = lab.process();
        let at = shared(&process, file.clone(), 2, RW);
        let pins = process.space().pin(part(at, 0, 1), true, "nic").unwrap();
        let _read_only = process.space().pin(part(at, 1, 1), false, "nic").unwrap();
        process.space().munmap(at).unwrap();
        dma(&pins[0], 77);
        assert_eq!(file.index().drop_clean(0..2), 0);
        let marks = |page| lab.engine.physical().frame(file.index().peek(page).unwrap()).state().marks();
        drop(pins);
        assert!(marks(0).contains(Marks::DIRTY) && !marks(1).contains(Marks::DIRTY));
        assert_eq!(file.index().drop_clean(0..1), 0);
        assert_eq!(lab.process_reading(&file, 0), 77);
    });
}

#[test]
fn pins_hold_over_protection_changes_and_mremap() {
    on_both(1, |lab| {
        let process = lab.process();
        let at = anonymous(&process, 1);
        let pins = process.space().pin(at, true, "nic").unwrap();
        process.space().mprotect(at, Protection::READ).unwrap();
        process.space().mprotect(at, RW).unwrap();
        process.space().clear_soft_dirty();
        process.store(at.start(), 1).unwrap();
        assert_eq!(word(&pins[0]), 1);
        let new = process.space().mremap(at, 1, Some(at.start().up(9))).unwrap();
        process.store(new.start(), 2).unwrap();
        assert_eq!(word(&pins[0]), 2);
    });
}

/// Pinned while the mapping allows no stores, a page that a fork shares becomes the process's own all the same: else the
/// first store after the right is given back would go to a copy. (Linux unshares such a page since 5.19.)
#[test]
fn a_device_sees_stores_after_the_right_to_store_was_given_back() {
    let lab = Lab::new(TlbKind::Soft, 1);
    let parent = lab.process();
    let at = anonymous(&parent, 1);
    parent.store(at.start(), 1).unwrap();
    let _child = parent.fork().unwrap();
    parent.space().mprotect(at, Protection::READ).unwrap();
    let pins = parent.space().pin(at, false, "nic").unwrap();
    parent.space().mprotect(at, RW).unwrap();
    parent.store(at.start(), 2).unwrap();
    assert_eq!(pins[0].words(0)[0].load(std::sync::atomic::Ordering::Acquire), 2);
}
