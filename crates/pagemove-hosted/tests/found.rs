//! Defects found in the core, each by the least that shows it. These tests fail until their defect is mended; then they
//! are to be moved to the file of their subject.
mod common;

use common::*;
use pagemove::frame::Kind;

/// The tables of the second and third level are pruned only if all addresses that they serve lie in the gap, and gaps
/// end at the bounds of the address space. Those begin at 4 MiB, so the first table of each of these levels, which
/// serves addresses from 0 on, is never given back: every process leaks two frames.
#[test]
fn a_process_that_ends_gives_all_its_page_tables_back() {
    let lab = Lab::new(BOTH[0], 1);
    let process = lab.process();
    process.store(anonymous(&process, 1).start(), 1).unwrap();
    drop(process);
    assert_eq!((lab.count_kind(Kind::PageTable), lab.free_frames()), (0, 512));
}
