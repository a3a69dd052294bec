//! The frame word: lock, references, mappings, pins, marks.

use alloc::sync::Arc;

use loom::thread;

use super::{
    all,
    machine::{Guarded, Model},
    within,
};
use crate::{
    frame::{Claim, Frame, FrameTable, Key, Kind, Marks, Put, Spans, State},
    units::{FrameRange, Order, Pfn},
};

const PFN: Pfn = Pfn::new(0);

fn table(machine: Arc<Model>) -> FrameTable {
    let zone = FrameRange { start: PFN, frames: 1 };
    FrameTable::new(machine, Spans::of(&[zone]).expect("numbers")).expect("a table")
}

/// A table whose frame has a reference, which locking requires.
fn table_in_use(machine: Arc<Model>) -> FrameTable {
    let table = table(machine);
    table[PFN].publish();
    table
}

/// Locks once on each of `threads` threads: one at a time uses the guarded value, and sees the previous one's store.
fn lock(threads: u64, machine: fn() -> Arc<Model>) -> impl Fn() + Send + Sync + 'static {
    move || {
        let shared = Arc::new((table_in_use(machine()), Guarded::new()));
        let worker = |shared: &(FrameTable, Guarded)| {
            shared.0.lock_raw(PFN);
            shared.1.write(shared.1.read() + 1);
            shared.0.unlock_raw(PFN);
        };
        let others: alloc::vec::Vec<_> = (1..threads)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || worker(&shared))
            })
            .collect();
        worker(&shared);
        others.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert_eq!(shared.1.read(), threads);
    }
}

#[test]
fn lock_excludes_and_orders() {
    all("lock, polling", lock(2, Model::polling));
}

#[test]
fn lock_wakes_a_sleeper() {
    all("lock, sleeping", lock(2, Model::sleeping));
}

#[test]
fn lock_wakes_all_sleepers() {
    within(2, "lock of three, sleeping", lock(3, Model::sleeping));
}

#[test]
fn try_lock_excludes_and_orders() {
    all("try-lock against lock", || {
        let shared = Arc::new((table_in_use(Model::polling()), Guarded::new()));
        let other = shared.clone();
        let thread = thread::spawn(move || {
            if other.0.try_lock_raw(PFN) {
                other.1.write(1);
                other.0.unlock_raw(PFN);
            }
        });
        shared.0.lock_raw(PFN);
        shared.1.write(2);
        shared.0.unlock_raw(PFN);
        thread.join().expect("no panic");
    });
}

/// A thread that only waits for the end of a move sees all that the move did, and is woken.
fn wait<const WAITERS: usize>(machine: fn() -> Arc<Model>) -> impl Fn() + Send + Sync + 'static {
    move || {
        let shared = Arc::new((table_in_use(machine()), Guarded::new()));
        shared.0.lock_raw(PFN);
        let waiters: [_; WAITERS] = core::array::from_fn(|_| {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.0.wait_unlocked(PFN);
                assert_eq!(shared.1.read(), 1, "the move's work is not seen");
            })
        });
        shared.1.write(1);
        shared.0.unlock_raw(PFN);
        waiters.into_iter().for_each(|thread| thread.join().expect("no panic"));
    }
}

#[test]
fn migration_entry_wait_sees_the_move() {
    all("migration-entry wait against wake, polling", wait::<1>(Model::polling));
}

#[test]
fn migration_entry_wait_is_woken() {
    all("migration-entry wait against wake, sleeping", wait::<1>(Model::sleeping));
    within(2, "migration-entry wait of two against wake, sleeping", wait::<2>(Model::sleeping));
}

#[test]
fn writeback_wait_is_woken() {
    for machine in [Model::polling, Model::sleeping] {
        all("writeback: wait against end, another mark set meanwhile", move || {
            let shared = Arc::new((table_in_use(machine()), Guarded::new()));
            shared.0.start_writeback(PFN);
            let other = shared.clone();
            let waiter = thread::spawn(move || {
                other.0.wait_writeback(PFN);
                assert_eq!(other.1.read(), 1);
            });
            let marker = shared.clone();
            let marker = thread::spawn(move || marker.0[PFN].mark(Marks::DIRTY));
            shared.1.write(1);
            shared.0.end_writeback(PFN);
            shared.0.wake_writeback(PFN);
            waiter.join().expect("no panic");
            marker.join().expect("no panic");
            assert!(shared.0[PFN].state().marks().contains(Marks::DIRTY), "a mark was lost");
        });
    }
}

/// An allocation becomes visible only by its count: a thread with a reference sees owner, key and kind.
#[test]
fn a_reference_shows_what_the_frame_is() {
    all("get-unless-zero against allocation", || {
        let frame = Arc::new(Frame::default());
        let key = Key { rmap: 3, index: 4 };
        let other = frame.clone();
        let looker = thread::spawn(move || {
            if other.try_get() {
                assert_eq!((other.owner(), other.key(), other.state().kind()), (7, key, Kind::Driver));
                assert_eq!(other.put(), Put::Shared);
            }
        });
        frame.set_owner(7, key);
        frame.set_state(State::new(Kind::Driver, Kind::Driver.first_class(), Order::ZERO));
        frame.publish();
        looker.join().expect("no panic");
    });
}

/// The last reference frees: once, and after all accesses by other references.
#[test]
fn the_last_reference_frees_once_and_last() {
    all("get-unless-zero against free", || {
        let shared = Arc::new((Frame::default(), Guarded::new(), Guarded::new()));
        shared.0.publish();
        let give_back = |shared: &(Frame, Guarded, Guarded)| {
            if shared.0.put() == Put::Last {
                // Reuse: nobody else may use the frame.
                shared.1.write(9);
                shared.2.write(shared.2.read() + 1);
            }
        };
        let lookers: [_; 2] = core::array::from_fn(|_| {
            let shared = shared.clone();
            thread::spawn(move || {
                if shared.0.try_get() {
                    assert_eq!(shared.1.read(), 0, "reused under a reference");
                    give_back(&shared);
                }
            })
        });
        give_back(&shared);
        lookers.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert_eq!(shared.2.read(), 1, "freed once");
    });
}

/// Makes the frame as a move has claimed it: `refs` references, `maps` mappings, locked.
fn claimed(frame: &Frame, refs: u32, maps: u32) {
    frame.thaw(refs - 1, maps);
    assert!(matches!(frame.claim(), Claim::Claimed));
}

/// Claims exclude each other, and each sees what the previous one did; the end of a claim may drop the last reference.
#[test]
fn a_claim_excludes_and_orders() {
    all("claim against claim, and against the last reference", || {
        let shared = Arc::new((table_in_use(Model::polling()), Guarded::new(), Guarded::new()));
        let free = |shared: &(FrameTable, Guarded, Guarded), put| {
            if put == Put::Last {
                shared.1.write(9);
                shared.2.write(shared.2.read() + 1);
            }
        };
        let claims: [_; 2] = core::array::from_fn(|_| {
            let shared = shared.clone();
            thread::spawn(move || {
                if let Claim::Claimed = shared.0[PFN].claim() {
                    assert_ne!(shared.1.read(), 9, "reused under a claim");
                    shared.1.write(shared.1.read() + 1);
                    free(&shared, shared.0.unlock_and_put(PFN));
                }
            })
        });
        free(&shared, shared.0[PFN].put());
        claims.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert_eq!(shared.2.read(), 1, "freed once");
    });
}

/// A commit publishes the destination's references: a thread with one sees the contents and the owner.
#[test]
fn a_commit_shows_what_the_frame_is() {
    all("commit of a destination against get", || {
        let shared = Arc::new((table(Model::polling()), Guarded::new()));
        shared.0.lock_exclusive(PFN);
        let other = shared.clone();
        let looker = thread::spawn(move || {
            if other.0[PFN].try_get() {
                assert_eq!((other.0[PFN].owner(), other.1.read()), (7, 1));
                assert_eq!(other.0[PFN].put(), Put::Shared);
            }
        });
        shared.0[PFN].set_owner(7, Key::default());
        shared.1.write(1);
        shared.0[PFN].thaw(2, 0);
        assert_eq!(shared.0.unlock_and_put(PFN), Put::Shared);
        looker.join().expect("no panic");
    });
}

/// The waiter of a frozen frame is kept over freeze and commit, and woken.
#[test]
fn a_commit_keeps_waiters() {
    all("freeze and commit against a waiter, sleeping", || {
        let shared = Arc::new(table_in_use(Model::sleeping()));
        assert!(matches!(shared[PFN].claim(), Claim::Claimed));
        let other = shared.clone();
        let waiter = thread::spawn(move || other.wait_unlocked(PFN));
        assert!(shared[PFN].freeze(2));
        shared[PFN].thaw(2, 0);
        assert_eq!(shared.unlock_and_put(PFN), Put::Shared);
        waiter.join().expect("a wake-up was not lost");
    });
}

/// Freezing against a writer with a reference: either the move sees the reference, or the writer gets none.
#[test]
fn freeze_against_get() {
    all("freeze against get", || {
        let shared = Arc::new((Frame::default(), Guarded::new()));
        // The owner's, and the move's.
        claimed(&shared.0, 2, 0);
        let other = shared.clone();
        let writer = thread::spawn(move || {
            if other.0.try_get() {
                other.1.write(1);
                assert_eq!(other.0.put(), Put::Shared);
                return true;
            }
            false
        });
        let frozen = shared.0.freeze(2);
        let copied = frozen.then(|| shared.1.read());
        let wrote = writer.join().expect("no panic");
        if let Some(copied) = copied {
            assert_eq!(copied, u64::from(wrote), "a store was not copied");
        }
    });
}

/// Freezing against a pin: a pinned page does not freeze.
#[test]
fn freeze_against_pin() {
    all("freeze against pin", || {
        let shared = Arc::new((Frame::default(), Guarded::new()));
        claimed(&shared.0, 2, 0);
        let other = shared.clone();
        let device = thread::spawn(move || {
            if !other.0.try_get() {
                return false;
            }
            other.0.pin();
            other.1.write(1);
            other.0.unpin();
            assert_eq!(other.0.put(), Put::Shared);
            true
        });
        if shared.0.freeze(2) {
            assert_eq!(shared.0.pins(), 0, "frozen under a pin");
            shared.1.read();
            shared.0.thaw(2, 0);
        }
        device.join().expect("no panic");
    });
}

/// Freezing against an unmapping: what was stored through the mapping is copied.
#[test]
fn freeze_against_unmap() {
    all("freeze against unmap", || {
        let shared = Arc::new((Frame::default(), Guarded::new()));
        // The owner's, the mapping's, the move's.
        claimed(&shared.0, 3, 1);
        let other = shared.clone();
        let process = thread::spawn(move || {
            other.1.write(1);
            other.0.unmap_with_reference(1);
        });
        if shared.0.freeze(2) {
            assert_eq!(shared.1.read(), 1);
        }
        process.join().expect("no panic");
    });
}

/// The same where the mapping's reference is kept until after a flush, as by munmap.
#[test]
fn freeze_against_unmap_that_keeps_its_reference() {
    all("freeze against unmap that keeps its reference", || {
        let shared = Arc::new((Frame::default(), Guarded::new()));
        claimed(&shared.0, 3, 1);
        let other = shared.clone();
        let process = thread::spawn(move || {
            other.1.write(1);
            other.0.unmap();
            // The flush comes here; until then stores go on.
            other.1.write(2);
            assert_eq!(other.0.put(), Put::Shared);
        });
        if shared.0.freeze(2) {
            assert_eq!(shared.1.read(), 2);
        }
        process.join().expect("no panic");
    });
}

/// The owner is asked for a page when nobody else holds it: it sees what the last holder recorded.
#[test]
fn asking_the_owner_against_a_holder() {
    all("asking the owner against a holder", || {
        let shared = Arc::new((Frame::default(), Guarded::new()));
        // The owner's, the move's, the holder's.
        claimed(&shared.0, 3, 0);
        let other = shared.clone();
        let holder = thread::spawn(move || {
            other.1.write(1);
            assert_eq!(other.0.put(), Put::Shared);
        });
        if shared.0.counts().has_only_mappings_and(2) {
            assert_eq!(shared.1.read(), 1);
        }
        holder.join().expect("no panic");
    });
}

/// Copy-on-write reuses a page when nobody else has a reference: all their reads are over.
#[test]
fn reuse_against_unmap() {
    all("copy-on-write reuse against unmap", || {
        let shared = Arc::new((Frame::default(), Guarded::new()));
        // Two mappings, and the reference of the copying thread.
        claimed(&shared.0, 3, 2);
        let other = shared.clone();
        let sharer = thread::spawn(move || {
            assert_eq!(other.1.read(), 0, "a store of another process is seen");
            other.0.unmap();
            assert_eq!(other.0.put(), Put::Shared);
        });
        if shared.0.refs() == 2 {
            shared.1.write(1);
        }
        sharer.join().expect("no panic");
    });
}

/// A map count of 0 means that all stores through mappings are seen.
#[test]
fn no_mapping_left_means_all_is_stored() {
    all("maps against unmap", || {
        let shared = Arc::new((Frame::default(), Guarded::new()));
        claimed(&shared.0, 2, 1);
        let other = shared.clone();
        let process = thread::spawn(move || {
            other.1.write(1);
            other.0.unmap();
        });
        if shared.0.maps() == 0 {
            assert_eq!(shared.1.read(), 1);
        }
        process.join().expect("no panic");
    });
}

/// Trap 3 of 2016: marks set and cleared concurrently don't change each other, nor the class.
#[test]
fn marks_are_apart() {
    all("marks against marks and class", || {
        let frame = Arc::new(Frame::default());
        frame.set_state(State::new(Kind::Driver, crate::frame::Class::DriverUnmapped, Order::ZERO));
        frame.mark(Marks::WRITEBACK);
        let threads = [
            thread::spawn({
                let frame = frame.clone();
                move || assert!(frame.mark(Marks::DIRTY), "nobody else sets it")
            }),
            thread::spawn({
                let frame = frame.clone();
                move || frame.unmark(Marks::WRITEBACK)
            }),
        ];
        frame.swap_class(crate::frame::Class::DriverMapped);
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        let state = frame.state();
        assert_eq!((state.marks(), state.class()), (Marks::DIRTY, crate::frame::Class::DriverMapped));
    });
}
