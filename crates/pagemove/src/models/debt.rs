//! Flush debt: a frame is not reused while a TLB still has a translation to it; a debt that is announced is seen.

use alloc::sync::Arc;

use loom::{sync::Mutex, thread};

use super::{
    all,
    machine::{Guarded, Model, Waiting},
};
use crate::{
    frame::Kind,
    paging::{Entry, Flags, FlushDebt, PageTable, Root, X86_64},
    port::SpaceId,
    sync::{AtomicU64, Ordering},
    units::{Order, Pfn, VirtAddr},
};

/// A TLB of one entry. Locked during an access and a fill, so that a flush waits for either.
type Tlb = Mutex<Option<Pfn>>;

#[test]
fn a_source_is_reused_after_the_flush() {
    all("flush debt against an access and reuse", || {
        let tlb: Arc<Tlb> = Arc::new(Mutex::new(None));
        let flushed = tlb.clone();
        let machine = Model::with(Waiting::Polling, move || *flushed.lock().expect("no panic") = None);
        let engine = machine.boot();
        let physical = engine.physical().clone();
        let root = Root::new(physical.clone(), SpaceId(1)).expect("a root");
        let pfn = physical.alloc(Order::ZERO, Kind::Anon).expect("a frame").publish().into_raw();
        let page = Arc::new(Guarded::new());
        // The page-table entry: 1 more than the frame's number, or nothing.
        let entry = Arc::new(AtomicU64::new(pfn.get() + 1));
        *tlb.lock().expect("no panic") = Some(pfn);

        let program = {
            let (tlb, page, entry) = (tlb.clone(), page.clone(), entry.clone());
            thread::spawn(move || {
                let mut tlb = tlb.lock().expect("no panic");
                if tlb.is_none() && entry.load(Ordering::Acquire) != 0 {
                    *tlb = Some(pfn);
                }
                if tlb.is_some() {
                    page.write(1);
                }
            })
        };
        entry.store(0, Ordering::Release);
        let mut debt = FlushDebt::new(&physical);
        debt.owe(&root, VirtAddr::new(1 << 12).expect("an address"), Order::ZERO);
        debt.keep_reference(&physical, pfn);
        debt.pay();
        // Free now: the next owner has it alone.
        assert_eq!(physical.frame(pfn).refs(), 0);
        page.write(2);
        program.join().expect("no panic");
        assert_eq!(page.read(), 2, "a program stored to a frame that had been reused");
    });
}

/// A truncation takes an entry out, and then flushes. Who finds the entry empty meanwhile learns that a flush is owed; or it's done.
#[test]
fn an_empty_entry_is_flushed_or_announced() {
    all("an announced debt against a change of mappings", || {
        let flushed = Arc::new(AtomicU64::new(0));
        let flag = flushed.clone();
        // Relaxed, here and below: only the announcement may order it.
        let machine = Model::with(Waiting::Polling, move || flag.store(1, Ordering::Relaxed));
        let engine = machine.boot_larger();
        let physical = engine.physical().clone();
        let root = Root::new(physical.clone(), SpaceId(1)).expect("a root");
        let table = Arc::new(PageTable::<X86_64>::new(root.clone(), 0));
        let address = VirtAddr::new(1 << 12).expect("an address");
        let slot = table.slot_or_create(address).expect("enough frames");
        // A frame outside of the memory, which nobody looks at.
        slot.replace(Entry::NONE, Entry::present(Pfn::new(1000), Flags::WRITE));
        let truncation = {
            let (physical, root, table) = (physical.clone(), root.clone(), table.clone());
            thread::spawn(move || {
                let mut debt = FlushDebt::new(&physical);
                debt.announce(&root);
                table.slot(address).expect("a leaf").take();
                debt.owe(&root, address, Order::ZERO);
                debt.pay();
            })
        };
        // As mprotect does.
        let changed = slot.update(|entry| entry.is_present().then(|| entry.without(Flags::WRITE)));
        if changed.is_none() && !root.is_pending() {
            assert_eq!(flushed.load(Ordering::Relaxed), 1, "an entry is gone, and not flushed, and nobody says so");
        }
        truncation.join().expect("no panic");
        assert!(!root.is_pending());
    });
}
