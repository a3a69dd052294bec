//! Two threads look a frame up by number while another one frees its folio and allocates the same frames again, as parts of folios
//! of other orders: what is got has the frame, and goes on having it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use pagemove::{frame::Kind, sync::set_stepping, units::Order};
use pagemove_hosted::FIRST_FRAME;
use shuttle::thread;

use crate::{explore, world};

fn order(order: u8) -> Order {
    Order::new(order).expect("a small one")
}

#[test]
fn a_frame_is_looked_up_while_its_folio_changes() {
    let got = Arc::new(AtomicU64::new(0));
    let sum = got.clone();
    // Short: a look-up that doesn't look at the tail again is found in one history in some hundreds.
    let explored = explore("a frame is looked up", 200, move || {
        set_stepping(false);
        let (machine, engine) = world::small_machine();
        let physical = engine.physical();
        physical.drain_cpu_lists();
        let free = physical.free_frames();
        // Only these frames are free, so that each folio has some of them.
        let mut taken = Vec::new();
        while let Ok(folio) = physical.alloc(Order::ZERO, Kind::Kernel) {
            taken.push(folio);
        }
        taken.retain(|folio| folio.pfn() >= FIRST_FRAME.up(8));
        physical.drain_cpu_lists();
        let first = physical.alloc(order(3), Kind::Kernel).expect("eight frames").publish().into_raw();
        set_stepping(true);
        let lookers = [5, 6].map(|number| {
            let engine = engine.clone();
            thread::spawn(move || {
                let (pfn, mut found) = (FIRST_FRAME.up(number), 0);
                for _ in 0..2 {
                    let Some(folio) = engine.physical().get(pfn) else { continue };
                    for _ in 0..2 {
                        let (head, order) = (folio.pfn(), folio.order());
                        assert_eq!(
                            pfn.align_down(order),
                            head,
                            "the folio at {head}, of order {order:?}, has not {pfn}"
                        );
                        thread::yield_now();
                    }
                    found += 1;
                }
                found
            })
        });
        let changes = {
            let engine = engine.clone();
            thread::spawn(move || {
                let physical = engine.physical();
                drop(crate::raw::counted(physical, first));
                // As long as a looker has the first one, there are none.
                for orders in [[1, 2], [2, 0], [0, 1]] {
                    let folios =
                        orders.map(|size| physical.alloc(order(size), Kind::Kernel).map(|folio| folio.publish()));
                    drop(folios);
                }
            })
        };
        let found: u64 = lookers.into_iter().map(|thread| thread.join().expect("a looker panicked")).sum();
        changes.join().expect("who frees panicked");
        set_stepping(false);
        drop(taken);
        physical.drain_cpu_lists();
        physical.validate().expect("invariants 3 and 8");
        physical.drain_cpu_lists();
        assert_eq!(physical.free_frames(), free, "frames were lost or found");
        sum.fetch_add(found, Ordering::Relaxed);
        drop((engine, machine));
    });
    assert!(!explored || got.load(Ordering::Relaxed) > 0, "nothing was found");
}
