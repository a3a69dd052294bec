//! The host TLB's own business: evicting translations when there are as many as the host allows.
mod common;

use common::*;
use pagemove::migrate::Mode;
use pagemove_hosted::TlbKind;

/// With as many translations as the host allows, the oldest are evicted. One that was flushed and is filled anew is the
/// newest, whatever the list of ages still says: were it forgotten and then mapped, no flush would find it.
#[test]
fn a_translation_that_is_filled_anew_is_not_forgotten_by_evicting_it() {
    const TEST: &str = "a_translation_that_is_filled_anew_is_not_forgotten_by_evicting_it";
    if case().is_none() {
        // Alone in a process, since the number of translations is counted for all of it.
        let output = run_case(TEST, "evict");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let areas = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse::<u32>().unwrap();
    let pages = (areas / 2).min(40_000) + 1000;
    let lab = Lab::new(TlbKind::Host, pages / 512 + 4);
    let process = lab.process();
    // Filled, and flushed: the ages begin with it.
    let first = anonymous(&process, 1);
    process.store(first.start(), 1).unwrap();
    lab.migrate(pfn_at(&process, first.start()), Mode::Sync).unwrap();
    // As many as there may be, and more.
    let most = anonymous(&process, pages);
    for page in most.iter() {
        process.load(page).unwrap();
        if page.vpn() % 64 == 0 {
            let before = pfn_at(&process, first.start());
            process.store(first.start(), page.get()).unwrap();
            lab.migrate(before, Mode::Sync).unwrap();
            process.store(first.start(), page.get() + 1).unwrap();
            let frame = pfn_at(&process, first.start());
            let held = lab.get(frame).words(0)[0].load(std::sync::atomic::Ordering::SeqCst);
            assert_eq!(held, page.get() + 1, "a store went to a frame that the page has left");
        }
    }
}
