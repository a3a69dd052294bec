//! Tests of low memory: no free frames as destinations, and none at all.
//!
//! Moves fail without losing anything, and work again afterwards. A process that asks for too much is killed, with all
//! its memory freed, and no other process is.

use std::fs;

use pagemove_sample::uapi;

use crate::device::Device;
use crate::dmesg;
use crate::machine::{compact, free_pages_everywhere, free_pages_of, wait_until};
use crate::sys::{self, End, MPOL_PREFERRED, Map, PRIVATE, SHARED};
use crate::verdict::{Outcome, check};
use crate::work::Scene;

/// Fills a node with anonymous memory; what doesn't fit comes from the other node.
fn filler(node: i32) -> std::io::Result<Map> {
    let pages = free_pages_of(node)? as usize;
    let map = Map::new(None, 0, pages, PRIVATE)?;
    map.advise(0, pages, libc::MADV_NOHUGEPAGE)?;
    sys::mbind(&map, MPOL_PREFERRED, node, 0)?;
    (0..pages).for_each(|page| map.store(page, 0, 1));
    Ok(map)
}

pub(crate) fn no_destinations() -> Outcome {
    // A failed allocation prints a call trace.
    dmesg::expect_low_memory(true)?;
    let scene = Scene::whole(3000)?;
    let all = scene.kept.len();
    let on = |node| -> std::io::Result<usize> {
        let nodes = sys::move_pages(&scene.map, &scene.kept, node)?;
        Ok(nodes.into_iter().filter(|&at| at == node).count())
    };
    wait_until("all pages to be on one node", || Ok(on(0)? == all))?;
    let full = filler(1)?;
    let free = free_pages_of(1)?;
    let (there, report) = scene.during(21, || -> std::io::Result<usize> {
        // A page not moved is reported by the call's errno, or by the page's status.
        let there = on(1).or_else(|error| {
            let is_short = error.kind() == std::io::ErrorKind::OutOfMemory;
            if is_short { Ok(0) } else { Err(error) }
        })?;
        compact()?;
        Ok(there)
    })?;
    report.sound()?;
    check(there < all, || format!("all {all} pages went to a node that had {free} free"))?;
    let counts = scene.device.counts()?;
    check(counts.pages == all as u64, || format!("{} pages are left of {all}", counts.pages))?;
    drop(full);
    let ((), report) = scene.during(22, || wait_until("all pages to move", || Ok(on(1)? == all)))?;
    report.sound()?;
    check(report.moved > 0, || "nothing moved afterwards".to_owned())?;
    dmesg::expect_low_memory(false)?;
    Ok(format!("{there} of {all} pages moved to a node with {free} free, all {all} when it had room"))
}

pub(crate) fn out_of_memory() -> Outcome {
    // An OOM kill prints a call trace.
    dmesg::expect_low_memory(true)?;
    let scene = Scene::whole(2000)?;
    let free = free_pages_everywhere()?;
    let greedy = |by_faults: bool| {
        let child = sys::fork(|| {
            // Makes the OOM killer choose this process, whoever allocates at that moment.
            let Ok(()) = fs::write("/proc/self/oom_score_adj", "1000") else { return 2 };
            let Ok(device) = Device::open(uapi::MOST_PAGES) else { return 3 };
            if by_faults {
                let Ok(map) = device.map(0, uapi::MOST_PAGES as usize, SHARED) else { return 4 };
                (0..map.pages()).for_each(|page| map.store(page, 0, 1));
            } else {
                let _ = device.fill(0, uapi::MOST_PAGES);
            }
            // Never reached: this is more than the machine has.
            5
        });
        child.map(|child| child.wait())
    };
    let (ends, report) = scene.during(23, || -> std::io::Result<_> {
        let ends = [greedy(true)?, greedy(false)?];
        compact()?;
        Ok(ends)
    })?;
    check(ends == [End::Signal(libc::SIGKILL); 2], || format!("asking for too much memory ended by {ends:?}"))?;
    report.sound()?;
    let mut last = 0;
    let given_back = wait_until("all memory to be freed", || {
        last = free_pages_everywhere()?;
        Ok(last + 2000 > free)
    });
    check(given_back.is_ok(), || format!("{last} pages are free, where there were {free}"))?;
    let ((), report) = scene.during(24, compact)?;
    report.sound()?;
    dmesg::expect_low_memory(false)?;
    Ok("a process that asks for too much by faults or by an ioctl is killed, and all its memory is freed".to_owned())
}
