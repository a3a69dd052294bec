//! Clean pages of a file are dropped while a process unmaps one that it has stored to: the mark comes with the unmapping.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use pagemove::{
    space::{Map, PageCache, Protection, Source},
    sync::set_stepping,
};
use pagemove_hosted::Process;
use shuttle::thread;

use crate::{explore, world};

#[test]
fn a_page_is_dropped_while_it_becomes_dirty() {
    let dropped = Arc::new(AtomicU64::new(0));
    let sum = dropped.clone();
    // Short, as looking up is.
    let explored = explore("a page is dropped while it becomes dirty", 40, move || {
        set_stepping(false);
        let (machine, engine) = world::small_machine();
        let file = PageCache::new(&engine, "a file", 2);
        let process = Process::new(&machine, &engine).expect("a process");
        let protection = Protection::READ | Protection::WRITE;
        let source = Source::Shared { file: file.clone(), first: 0 };
        let at = process.space().mmap(&Map { at: None, pages: 2, protection, source }).expect("room");
        process.store(at.start(), 1).expect("a store");
        process.load(at.start().up(1)).expect("a load");
        set_stepping(true);
        let unmaps = thread::spawn(move || {
            // In one step: its thousands would use up the switches, and one between two steps of the other is enough.
            set_stepping(false);
            process.space().munmap(at).expect("to unmap");
            set_stepping(true);
            process
        });
        let drops = {
            let file = file.clone();
            thread::spawn(move || file.index().drop_clean(0..2))
        };
        let count = drops.join().expect("who drops panicked");
        let process = unmaps.join().expect("who unmaps panicked");
        set_stepping(false);
        let page = file.index().lock_page(0).expect("a dirty page was dropped");
        assert_eq!(page.words(0)[0].load(pagemove::sync::Ordering::Relaxed), 1);
        assert!(count <= 1 && file.index().len() as u32 == 2 - count);
        sum.fetch_add(count.into(), Ordering::Relaxed);
        drop(page);
        drop((process, file, engine, machine));
    });
    assert!(!explored || dropped.load(Ordering::Relaxed) > 0, "nothing was dropped");
}
