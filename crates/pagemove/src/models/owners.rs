//! Unregistering a driver against moves of its pages: afterwards no callback runs, and the driver may be freed.

use alloc::sync::Arc;

use loom::thread;

use super::{
    all,
    machine::{Guarded, Model},
};
use crate::{
    Engine,
    migrate::{Mode, Purpose},
    movable::{CallbackGuard, Context, MigrationRun, MovableOps, PutbackRun},
};

/// A driver whose callback uses memory that it frees after unregistering.
struct Driver(Guarded);

impl MovableOps for Driver {
    fn name(&self) -> &str {
        "a driver"
    }

    fn migrate(&self, _: &mut MigrationRun<'_>) {}

    fn putback(&self, _: &PutbackRun<'_>) {
        self.0.write(self.0.read() + 1);
    }
}

/// Calls the driver back, as the end of a move does.
fn put_back(engine: &Engine, used: &CallbackGuard) {
    let context = Context { physical: engine.physical(), mode: Mode::Sync, purpose: Purpose::Compaction };
    used.ops().putback(&PutbackRun { context, folios: &[] });
}

fn unregister(name: &str, machine: fn() -> Arc<Model>) {
    all(name, move || {
        let engine = machine().boot();
        let driver = Arc::new(Driver(Guarded::new()));
        let registration = engine.owners().register(driver.clone());
        let number = registration.number();
        let mover = {
            let engine = engine.clone();
            thread::spawn(move || {
                let Some(owner) = engine.owners().get(number) else { return };
                let Some(used) = owner.begin() else { return };
                put_back(&engine, &used);
            })
        };
        registration.unregister();
        // The driver's memory is its own again.
        driver.0.write(100);
        mover.join().expect("no panic");
        assert_eq!(driver.0.read(), 100, "a callback ran after the driver had unregistered");
    });
}

#[test]
fn unregister_waits_for_callbacks() {
    unregister("unregister against isolate, polling", Model::polling);
}

#[test]
fn unregister_is_woken() {
    unregister("unregister against isolate, sleeping", Model::sleeping);
}

#[test]
fn try_unregister_refuses_or_has_ended_it() {
    all("try-unregister against isolate", || {
        let engine = Model::polling().boot();
        let driver = Arc::new(Driver(Guarded::new()));
        let registration = engine.owners().register(driver.clone());
        let number = registration.number();
        let other = engine.clone();
        let mover = thread::spawn(move || {
            let Some(owner) = other.owners().get(number) else { return };
            let Some(used) = owner.begin() else { return };
            put_back(&other, &used);
        });
        if registration.try_unregister().is_ok() {
            driver.0.write(100);
        }
        mover.join().expect("no panic");
    });
}
