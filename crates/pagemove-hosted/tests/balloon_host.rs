//! The memory of ballooned pages is the host's: this program's own falls. Alone in its program, since all of that's memory is measured.
mod common;

use std::sync::{Mutex, atomic::Ordering};

use common::*;
use pagemove::{frame::Kind, migrate::Mode, units::PAGE_SIZE};
use pagemove_drivers::{
    Balloon,
    balloon::{HostRefused, InflateError},
};
use pagemove_hosted::TlbKind;

/// The bytes of RAM that the program has from its host. The tests take turns.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// All memory is in use, and then free.
fn use_all(lab: &Lab) {
    let pages = lab.take_all(Kind::Kernel);
    pages.iter().for_each(|page| page.words(0)[7].store(9, Ordering::Relaxed));
}

static TURN: Mutex<()> = Mutex::new(());

/// The program's own memory falls by what its balloon has.
#[test]
fn the_host_gets_its_memory_back() {
    const PAGES: u32 = 4096;
    let _turn = TURN.lock();
    for tlb in BOTH {
        let lab = Lab::new(tlb, 10);
        use_all(&lab);
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
        use_all(&lab);
        drop(used);
        lab.validate();
    }
}

/// It falls by the free blocks that are reported, too.
#[test]
fn the_host_gets_the_memory_of_free_blocks() {
    let _turn = TURN.lock();
    let lab = Lab::new(TlbKind::Host, 20);
    let free = lab.free_frames();
    use_all(&lab);
    lab.assert_all_free(free);
    let balloon = Balloon::with_host(&lab.engine, lab.machine.clone());
    let before = resident();
    assert_eq!(balloon.report_free(order(9)), Ok(free.into()));
    let fell = before.saturating_sub(resident());
    assert!(fell > u64::from(free - 100) * PAGE_SIZE as u64, "{fell} bytes");
}
