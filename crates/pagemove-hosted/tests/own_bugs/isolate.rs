//! A driver was asked to isolate a page that somebody else had a reference to: it stopped its device in vain, or, worse, was
//! told of a move that then waited for a reference of its own.

use crate::common::*;
use pagemove::report::Reason;

#[test]
fn nobody_is_asked_for_a_page_that_somebody_else_refers_to() {
    for tlb in BOTH {
        for maps in 0..3 {
            let lab = Lab::new(tlb, 2);
            let device = Device::open(&lab);
            let pfn = device.fill(0, 1);
            let process = lab.process();
            for _ in 0..maps {
                process.load(shared(&process, device.clone(), 1, RW).start()).unwrap();
            }
            let frame = lab.engine.physical().frame(pfn);
            assert_eq!((frame.refs(), frame.maps()), (1 + maps, maps), "the owner's, and one for each entry");
            for mode in MODES {
                let held = lab.get(pfn);
                assert_eq!(lab.migrate(pfn, mode), Err(Reason::Referenced), "{mode:?}, {maps} mapping(s)");
                drop(held);
                assert_eq!(frame.refs(), 1 + maps);
                assert_eq!(device.driver.take_calls(), [], "{mode:?}, {maps} mapping(s)");
            }
            for mode in MODES {
                lab.migrate(device.peek(0), mode).unwrap();
                assert!(!device.driver.take_calls().is_empty());
            }
        }
    }
}
