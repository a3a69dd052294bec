//! Two files of a driver close while two migrators move batches of the pages of both: whoever lets go last frees them.

use std::sync::{Arc, Mutex};

use pagemove::{
    migrate::{AnyFree, Mode, Mover, Options},
    sync::set_stepping,
    units::Pfn,
};
use pagemove_drivers::CharDevice;
use shuttle::thread;

use crate::{
    explore,
    world::{self, PAGES},
};

#[test]
fn two_files_close() {
    let moved = Arc::new(Mutex::new(0));
    let sum = moved.clone();
    // Short, and what it has found once (each migrator's last hold of one file, dropped with the other's page locked) is one
    // history in 20,000.
    let explored = explore("two files close, two migrators", 100, move || {
        set_stepping(false);
        let (machine, engine) = world::small_machine();
        engine.physical().drain_cpu_lists();
        let free = engine.physical().free_frames();
        let device = CharDevice::new(&engine, "a device");
        let files = [device.open(PAGES), device.open(PAGES)];
        files.iter().for_each(|file| file.populate().expect("enough frames"));
        let page = |file: usize, page| files[file].peek(page).expect("it was just made");
        let batch = [page(0, 0), page(1, 0), page(0, 1), page(1, 1)];
        set_stepping(true);
        let migrators = [false, true].map(|backwards| {
            let engine = engine.clone();
            thread::spawn(move || {
                let mut sources: Vec<Pfn> = batch.to_vec();
                if backwards {
                    sources.reverse();
                }
                let mut destination = AnyFree::new(engine.physical(), sources.len());
                Mover::new(&engine).migrate(&sources, &mut destination, Options::new(Mode::Sync)).moved
            })
        });
        let closers = files.map(|file| thread::spawn(move || drop(file)));
        closers.into_iter().for_each(|thread| thread.join().expect("closing panicked"));
        let now: u64 = migrators.into_iter().map(|thread| thread.join().expect("a migrator panicked")).sum();
        set_stepping(false);
        drop(device);
        engine.physical().drain_cpu_lists();
        engine.physical().validate().expect("invariants 3 and 8");
        engine.physical().drain_cpu_lists();
        assert_eq!(engine.physical().free_frames(), free, "frames were lost or found");
        *sum.lock().expect("no panic") += now;
        drop(machine);
    });
    assert!(!explored || *moved.lock().expect("no panic") > 0, "nothing moved");
}
