//! Truncation knew processes only: a device went on writing to a page that was out of its file. And a page that was truncated
//! while somebody held it counted as movable, so that every compaction chose its block again.

use crate::common::*;
use pagemove::{
    compact::{Goal, Observation, Plan, compact},
    frame::{Class, Kind},
    migrate::{Mode, Options, Policy},
};

#[test]
fn a_device_does_not_keep_a_page_that_is_out_of_its_file() {
    on_both(2, |lab| {
        let device = Device::open(lab);
        let accelerator = Accelerator::attach(&lab.engine, &device.driver.index);
        let process = lab.process();
        let at = shared(&process, device.clone(), 2, RW).start();
        for page in 0..2 {
            accelerator.map(page);
            process.store(at.up(page), 5).unwrap();
        }
        assert_eq!(lab.engine.physical().frame(device.peek(0)).maps(), 2);
        let frames = lab.count_kind(Kind::Driver);
        assert!(device.driver.index.remove(0));
        assert_eq!((accelerator.entry(0), accelerator.load(0, 0)), (None, None));
        assert_eq!(lab.count_kind(Kind::Driver), frames - 1, "the page is free");
        assert_eq!((process.load(at), process.load(at.up(1))), (Ok(0), Ok(5)));
        assert_eq!(accelerator.add(1, 0, 1), Some(5));
        accelerator.close();
    });
}

#[test]
fn a_truncated_page_that_is_held_counts_as_held() {
    on_both(2, |lab| {
        let device = Device::open(lab);
        let pfn = device.fill(0, 1);
        let physical = lab.engine.physical();
        let frame = physical.frame(pfn);
        let held = lab.get(pfn);
        assert!(device.driver.index.remove(0));
        assert_eq!(frame.state().class(), Class::Pinned);
        lab.validate();
        let zone = physical.zones().next().unwrap();
        let block = physical.blocks().number(pfn);
        let plan = Plan::new(&Observation::of(physical, zone, Policy::Any), Goal::All);
        assert!(plan.empty.iter().all(|emptied| emptied.block != block), "a block that can't be emptied is chosen");
        let outcomes = compact(&lab.engine, zone, Goal::All, Options::new(Mode::Sync));
        assert!(outcomes.iter().all(|outcome| outcome.stayed.is_empty()));
        drop(held);
        lab.validate();
    });
}
