//! An mremap that fails for want of memory leaves no table behind that a later one trips over.

use crate::common::*;
use pagemove::{
    folio::FrozenFolio,
    frame::Kind,
    space::SpaceError,
    units::{HUGE_ORDER, VirtAddr},
};
use pagemove_hosted::TlbKind;

/// Takes all free frames but `left`.
fn take_all_but(lab: &Lab, left: usize) -> Vec<FrozenFolio<'_>> {
    let mut taken = lab.take_all(Kind::Kernel);
    taken.truncate(taken.len() - left);
    taken
}

/// In a process of its own: where debug assertions are on, it ends with an abort.
#[test]
fn a_2_mib_page_can_go_where_an_mremap_failed() {
    if case().is_some() {
        return a_2_mib_page_goes_where_an_mremap_failed();
    }
    let child = run_case("remap::a_2_mib_page_can_go_where_an_mremap_failed", "child");
    assert!(
        child.status.success(),
        "{}{}",
        String::from_utf8_lossy(&child.stdout),
        String::from_utf8_lossy(&child.stderr)
    );
}

fn a_2_mib_page_goes_where_an_mremap_failed() {
    let lab = Lab::new(TlbKind::Soft, 4);
    let process = lab.process();
    // Two leaf tables' worth of addresses, two pages in use; and a place for them that has no leaf table yet.
    let small = anonymous(&process, 1024);
    process.store(small.start(), 1).unwrap();
    process.store(small.start().up(600), 2).unwrap();
    let to = VirtAddr::new(64 << 20).unwrap();
    let taken = take_all_but(&lab, 1);
    let failed = process.space().mremap(small, 1024, Some(to));
    assert!(matches!(failed, Err(SpaceError::OutOfMemory { .. })), "the scene is set: {failed:?}");
    drop(taken);
    lab.engine.physical().drain_cpu_lists();

    let large = huge(&process, 512);
    process.store(large.start(), 7).unwrap();
    assert!(process.space().entry(large.start()).has(pagemove::paging::Flags::HUGE), "the scene is set");
    assert_eq!(process.space().mremap(large, 512, Some(to)).unwrap().start(), to);
    assert_eq!(process.load(to), Ok(7), "the page is lost");
    drop(process);
    lab.assert_all_free(4 * HUGE_ORDER.frames());
}

/// What is only a waste: the tables stay until something is mapped and unmapped there, or the process ends.
#[test]
fn no_table_is_left() {
    let lab = Lab::new(TlbKind::Soft, 4);
    let process = lab.process();
    let small = anonymous(&process, 1024);
    process.store(small.start(), 1).unwrap();
    process.store(small.start().up(600), 2).unwrap();
    let tables = lab.count_kind(Kind::PageTable);
    let taken = take_all_but(&lab, 1);
    let failed = process.space().mremap(small, 1024, Some(VirtAddr::new(64 << 20).unwrap()));
    assert!(matches!(failed, Err(SpaceError::OutOfMemory { .. })), "the scene is set: {failed:?}");
    drop(taken);
    assert_eq!(lab.count_kind(Kind::PageTable), tables, "mremap has failed, and left tables behind");
}
