//! A CPU's lists: plain stores on its side, a barrier on the other. And the class of a frame.

use alloc::{sync::Arc, vec::Vec};

use loom::thread;

use super::{
    all,
    machine::{Guarded, Model},
    within,
};
use crate::{
    frame::{Class, Key, Kind},
    units::{Order, Pfn},
    zone::{CpuLocal, revoke_all},
};

#[test]
fn a_cpus_lists_have_one_user() {
    all("a CPU's lists against draining, twice each", || {
        let shared = Arc::new((CpuLocal::new(1, 1), Guarded::new()));
        let other = shared.clone();
        let cpu = thread::spawn(move || {
            for _ in 0..2 {
                #[allow(unsafe_code)]
                // SAFETY: this thread is the owning CPU.
                if let Some(_guard) = unsafe { other.0.enter() } {
                    other.1.write(other.1.read() + 1);
                }
            }
        });
        let machine = Model::polling();
        for _ in 0..2 {
            let guards: Vec<_> = revoke_all(|| core::iter::once(&shared.0), &*machine).collect();
            shared.1.write(shared.1.read() + 1);
            drop(guards);
        }
        cpu.join().expect("no panic");
    });
}

#[test]
fn two_draining_threads_exclude_each_other() {
    all("draining against draining", || {
        let shared = Arc::new((CpuLocal::new(1, 1), Guarded::new()));
        let drain = |shared: &(CpuLocal, Guarded)| {
            let machine = Model::without_barrier();
            let guards: Vec<_> = revoke_all(|| core::iter::once(&shared.0), &*machine).collect();
            shared.1.write(shared.1.read() + 1);
            drop(guards);
        };
        let other = shared.clone();
        let thread = thread::spawn(move || drain(&other));
        drain(&shared);
        thread.join().expect("no panic");
        assert_eq!(shared.1.read(), 2);
    });
}

/// The class follows concurrent mapping and unmapping, and the pageblock's summary follows the class.
#[test]
fn the_class_follows_mappings() {
    all("class: map against unmap", || {
        let engine = Model::polling().boot();
        let physical = engine.physical().clone();
        let pfn = Pfn::new(1);
        let _ = physical.alloc_exactly(pfn, Kind::Driver).expect("free").publish().into_raw();
        physical.frame(pfn).set_owner(1, Key::default());
        // Mapped once.
        physical.frames().map(pfn, Order::ZERO).expect("few");
        physical.update_class(pfn);
        let other = physical.clone();
        let unmaps = thread::spawn(move || {
            other.frames().unmap(pfn, Order::ZERO);
            other.update_class(pfn);
        });
        physical.frames().map(pfn, Order::ZERO).expect("few");
        physical.update_class(pfn);
        unmaps.join().expect("no panic");
        assert_eq!(physical.frame(pfn).state().class(), Class::DriverMapped);
        let summary = physical.blocks().summary(physical.blocks().number(pfn));
        assert_eq!((summary.of(Class::DriverMapped), summary.of(Class::DriverUnmapped)), (1, 0));
    });
}

/// The index of candidate blocks misses none at a quiet point, though scans clear stale bits.
#[test]
fn no_block_with_work_is_forgotten() {
    all("index of pageblocks: a count against a scan that clears", || {
        let engine = Model::polling().boot();
        let physical = engine.physical().clone();
        let range = physical.zones().next().expect("a zone");
        // A stale bit: the page that set it is gone.
        physical.blocks().moved(Pfn::new(1), Class::Free, Class::Lru, 1);
        physical.blocks().moved(Pfn::new(1), Class::Lru, Class::Free, 1);
        let other = physical.clone();
        let fault = thread::spawn(move || other.blocks().moved(Pfn::new(1), Class::Free, Class::Lru, 1));
        physical.blocks().for_each_candidate(range, |_, _| ());
        fault.join().expect("no panic");
        let mut seen = alloc::vec::Vec::new();
        physical.blocks().for_each_candidate(range, |number, _| seen.push(number));
        assert_eq!(seen, [0], "a block with a movable page is not in the index");
    });
}

/// Allocating and freeing on two threads: no frame is allocated twice, and none is lost.
#[test]
fn allocations_are_apart() {
    within(4, "allocation and freeing against the same", || {
        let engine = Model::polling().boot();
        let shared = Arc::new((engine.physical().clone(), [(); 4].map(|()| Guarded::new())));
        let worker = |shared: &(Arc<crate::zone::Physical>, [Guarded; 4])| {
            let folio = shared.0.alloc(Order::ZERO, Kind::Kernel).expect("enough").publish();
            let frame = &shared.1[folio.pfn().get() as usize];
            frame.write(frame.read() + 1);
        };
        let other = shared.clone();
        let thread = thread::spawn(move || worker(&other));
        worker(&shared);
        thread.join().expect("no panic");
        shared.0.drain_cpu_lists();
        assert_eq!(shared.0.free_frames(), 4);
        shared.0.validate().expect("invariant 8");
    });
}

/// Copy-on-write takes a page of a large folio for its own when no other entry maps it: until the sharer that removed the
/// last one has flushed, it has a reference, which is seen.
#[test]
fn reuse_of_a_page_against_unmap() {
    let names = [
        "copy-on-write reuse of a page of a large folio against the unmapping of the page",
        "copy-on-write reuse of a page of a large folio against the unmapping of the whole",
    ];
    for (name, whole) in names.into_iter().zip([false, true]) {
        all(name, move || {
            let engine = Model::polling().boot_larger();
            let physical = engine.physical().clone();
            let size = Order::new(2).expect("an order");
            let folio = physical.alloc(size, Kind::Anon).expect("four frames").publish_locked(Key::default());
            let (head, flushed) = (folio.into_raw(), Arc::new(Guarded::new()));
            let (theirs, order) = if whole { (head, size) } else { (head.up(1), Order::ZERO) };
            physical.frames().map(head.up(1), Order::ZERO).expect("few");
            physical.frames().map(theirs, order).expect("few");
            let (other, other_flushed) = (physical.clone(), flushed.clone());
            let sharer = thread::spawn(move || {
                let _ = other.frames().unmap(theirs, order);
                assert_eq!(other_flushed.read(), 0, "a store is seen by a translation that isn't flushed yet");
                other.put(head);
            });
            let frames = physical.frames();
            if frames.page_maps(head.up(1)) == 1 && frames[head].counts().has_only_mappings_and(1) {
                flushed.write(1);
            }
            sharer.join().expect("no panic");
        });
    }
}
