//! mprotect and soft-dirty marks: rights are taken at once, whatever a TLB still holds, and contents stay.
mod common;

use common::*;
use pagemove::{
    migrate::Mode,
    paging::Flags,
    space::{Access, FaultError, PageCache, Protection, SpaceError},
};
use pagemove_drivers::CharDevice;
use pagemove_hosted::{TlbKind, enter_cpu};

const READ: Protection = Protection::READ;
const NONE: Protection = Protection::empty();

/// On the soft TLB, where a violation comes back as an error; its translations are as stale as any.
fn on_soft(blocks: u32, test: impl Fn(&Lab)) {
    let lab = Lab::new(TlbKind::Soft, blocks);
    let free = lab.free_frames();
    test(&lab);
    lab.assert_all_free(free);
}

#[test]
fn rights_are_taken_at_once_from_every_processor() {
    on_soft(1, |lab| {
        let process = lab.process();
        let device = CharDevice::new(&lab.engine, "chardev").open(4);
        let file = PageCache::new(&lab.engine, "file", 4);
        let mappings = [anonymous(&process, 4), shared(&process, device, 4, RW), private(&process, file.clone(), 4)];
        for at in mappings {
            for cpu in 0..4 {
                enter_cpu(cpu);
                at.iter().for_each(|page| process.store(page, 7).unwrap());
            }
            process.space().mprotect(part(at, 1, 2), READ).unwrap();
            for cpu in 0..4 {
                enter_cpu(cpu);
                for (number, page) in at.iter().enumerate() {
                    assert_eq!(process.load(page).unwrap(), 7);
                    let expected = if (1..3).contains(&number) { Err(FaultError::Protection(page)) } else { Ok(()) };
                    assert_eq!(process.store(page, 7), expected);
                }
            }
            process.space().mprotect(part(at, 1, 2), NONE).unwrap();
            for cpu in 0..4 {
                enter_cpu(cpu);
                let page = at.start().up(1);
                assert_eq!(process.load(page), Err(FaultError::Protection(page)));
                assert_eq!(process.store(page, 1), Err(FaultError::Protection(page)));
            }
        }
    });
}

#[test]
fn no_rights_and_back_keeps_contents_also_over_moves() {
    on_both(1, |lab| {
        let process = lab.process();
        let device = CharDevice::new(&lab.engine, "chardev").open(4);
        for at in [anonymous(&process, 4), shared(&process, device.clone(), 4, RW)] {
            at.iter().for_each(|page| process.store(page, page.get()).unwrap());
            process.space().mprotect(at, NONE).unwrap();
            for page in at.iter() {
                let entry = process.space().entry(page);
                assert!(!entry.has(Flags::USER) && !entry.has(Flags::WRITE));
                lab.migrate(entry.pfn(), Mode::Sync).unwrap();
                assert!(!process.space().entry(page).has(Flags::USER));
            }
            process.space().mprotect(at, READ).unwrap();
            assert!(at.iter().all(|page| process.load(page).unwrap() == page.get()));
            process.space().mprotect(at, RW).unwrap();
            at.iter().for_each(|page| process.store(page, 3).unwrap());
            assert!(at.iter().all(|page| process.load(page).unwrap() == 3));
        }
    });
}

#[test]
fn rights_given_are_had_at_the_next_access() {
    on_both(1, |lab| {
        let process = lab.process();
        let device = CharDevice::new(&lab.engine, "chardev").open(2);
        let at = shared(&process, device.clone(), 2, READ);
        at.iter().for_each(|page| assert_eq!(process.load(page).unwrap(), 0));
        process.space().mprotect(at, RW).unwrap();
        at.iter().for_each(|page| process.store(page, 5).unwrap());
        assert_eq!(device.read(1, 0).unwrap(), 5);
        // Execute comes and goes, too; no host code runs from a frame, so the entry tells.
        assert!(process.space().entry(at.start()).has(Flags::NO_EXECUTE));
        process.space().mprotect(at, RW | Protection::EXECUTE).unwrap();
        process.space().fault(at.start(), Access::Execute).unwrap();
        assert!(!process.space().entry(at.start()).has(Flags::NO_EXECUTE));
        process.space().mprotect(at, RW).unwrap();
        assert!(process.space().entry(at.start()).has(Flags::NO_EXECUTE));
        let refused = FaultError::Protection(at.start());
        assert_eq!(process.space().fault(at.start(), Access::Execute), Err(refused));
        assert_eq!(process.load(at.start()).unwrap(), 5);
    });
}

/// A page that was shared read-only between processes must be copied, not just made writable.
#[test]
fn write_given_after_a_fork_still_copies() {
    on_both(1, |lab| {
        let parent = lab.process();
        let at = anonymous(&parent, 1);
        parent.store(at.start(), 1).unwrap();
        parent.space().mprotect(at, READ).unwrap();
        let child = parent.fork().unwrap();
        parent.space().mprotect(at, RW).unwrap();
        child.space().mprotect(at, RW).unwrap();
        parent.store(at.start(), 2).unwrap();
        assert_eq!(child.load(at.start()).unwrap(), 1);
        child.store(at.start(), 3).unwrap();
        assert_eq!(parent.load(at.start()).unwrap(), 2);
    });
}

#[test]
fn a_hole_is_an_error_and_nothing_has_changed() {
    on_both(1, |lab| {
        let process = lab.process();
        let at = anonymous(&process, 8);
        at.iter().for_each(|page| process.store(page, 1).unwrap());
        process.space().munmap(part(at, 5, 1)).unwrap();
        let before = process.space().vmas().len();
        let error = SpaceError::NotMapped { stage: "mprotect", at: at.start().up(5) };
        assert_eq!(process.space().mprotect(at, READ), Err(error));
        assert_eq!(process.space().mprotect(part(at, 4, 2), READ), Err(error));
        assert_eq!(process.space().mprotect(part(at, 5, 1), READ), Err(error));
        assert_eq!(process.space().vmas().len(), before);
        assert!(process.space().vmas().iter().all(|vma| vma.protection == RW));
        (0..5).chain(6..8).for_each(|page| process.store(at.start().up(page), 2).unwrap());
        let bounds = process.space().bounds();
        let beyond = pagemove::units::VirtRange::new(bounds.end(), 1).unwrap();
        assert_eq!(process.space().mprotect(beyond, READ), Err(SpaceError::BadRange { stage: "mprotect" }));
    });
}

#[test]
fn one_change_reaches_parts_of_several_mappings() {
    on_soft(1, |lab| {
        let process = lab.process();
        let one = anonymous(&process, 4);
        let file = PageCache::new(&lab.engine, "file", 4);
        let two = shared(&process, file, 4, RW);
        assert_eq!(one.end(), two.start());
        let both = part(one, 2, 4);
        process.space().mprotect(both, READ).unwrap();
        for page in one.iter().chain(two.iter()) {
            let expected = if both.contains(page) { Err(FaultError::Protection(page)) } else { Ok(()) };
            assert_eq!(process.store(page, 1), expected);
        }
        assert_eq!(process.space().vmas().len(), 4);
    });
}

/// The load must not map the page for stores: they would leave no mark.
#[test]
fn a_store_after_a_load_sets_the_soft_dirty_mark() {
    let lab = Lab::new(TlbKind::Soft, 1);
    let process = lab.process();
    let at = shared(&process, PageCache::new(&lab.engine, "file", 1), 1, RW);
    process.space().clear_soft_dirty();
    process.load(at.start()).unwrap();
    process.store(at.start(), 1).unwrap();
    assert!(process.space().entry(at.start()).has(Flags::DIRTY));
    assert!(process.space().entry(at.start()).has(Flags::SOFT_DIRTY));
}
