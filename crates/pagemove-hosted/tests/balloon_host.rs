//! The memory of ballooned pages is the host's: this program's own falls. Alone in its program, since all of that's memory is measured.
mod common;

use std::sync::atomic::Ordering;

use common::*;
use pagemove::{frame::Kind, migrate::Mode, units::PAGE_SIZE};
use pagemove_drivers::{
    Balloon,
    balloon::{HostRefused, InflateError},
};

/// The program's own memory falls by what its balloon has.
#[test]
fn the_host_gets_its_memory_back() {
    const PAGES: u32 = 4096;
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    };
    for tlb in BOTH {
        let lab = Lab::new(tlb, 10);
        // All of it is in use, and then free.
        drop(
            lab.take_all(Kind::Kernel)
                .into_iter()
                .map(|mut page| {
                    page.zero();
                    page.words(0)[7].store(9, Ordering::Relaxed);
                    page
                })
                .collect::<Vec<_>>(),
        );
        let used = lab.process();
        let at = anonymous(&used, 100);
        at.iter().for_each(|page| used.store(page, page.vpn()).unwrap());
        let balloon = Balloon::with_host(&lab.engine, lab.machine.clone());
        let before = resident();
        balloon.inflate(PAGES).unwrap();
        let fell = before.saturating_sub(resident());
        // A few pages are touched on the way.
        assert!(fell > u64::from(PAGES - 100) * PAGE_SIZE as u64, "{fell} bytes");
        assert_eq!(lab.move_drivers(Mode::Sync).moved, u64::from(PAGES));
        let moved = before.saturating_sub(resident());
        assert!(moved > u64::from(PAGES - 100) * PAGE_SIZE as u64, "{moved} bytes after the move");
        at.iter().for_each(|page| assert_eq!(used.load(page).unwrap(), page.vpn(), "others' memory stays"));
        // Another machine's balloon is none of this one's.
        let other = Lab::new(tlb, 1);
        let strange = Balloon::with_host(&other.engine, lab.machine.clone());
        assert_eq!(strange.inflate(10), Err(InflateError::Refused(HostRefused)));
        balloon.deflate(u32::MAX);
        let page = lab.take_all(Kind::Kernel);
        page.iter().for_each(|page| page.words(0)[3].store(1, Ordering::Relaxed));
        drop(page);
        drop(used);
        lab.validate();
    }
}
