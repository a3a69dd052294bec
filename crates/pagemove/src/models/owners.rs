//! Unregistering a driver against moves of its pages: afterwards no callback runs, and the driver may go.

use alloc::sync::Arc;

use loom::thread;

use super::{
    all,
    machine::{Guarded, Model},
};
use crate::movable::{MovableOps, OwnedMove, OwnedPage, Owners, Refusal};

/// A driver whose callback uses what it frees when it has unregistered.
struct Driver(Guarded);

impl MovableOps for Driver {
    fn name(&self) -> &str {
        "a driver"
    }

    fn migrate(&self, _: &OwnedMove<'_>) -> Result<(), Refusal> {
        Err(Refusal::No)
    }

    fn putback(&self, _: OwnedPage) {
        self.0.write(self.0.read() + 1);
    }
}

fn unregister(name: &str, machine: fn() -> Arc<Model>) {
    all(name, move || {
        let owners = Arc::new(Owners::new(machine()));
        let driver = Arc::new(Driver(Guarded::new()));
        let registration = owners.register(driver.clone());
        let number = registration.number();
        let mover = {
            let owners = owners.clone();
            thread::spawn(move || {
                let Some(owner) = owners.get(number) else { return };
                let Some(used) = owner.begin() else { return };
                let page = OwnedPage { pfn: Default::default(), index: 0, mode: crate::movable::Mode::Sync };
                used.ops().putback(page);
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
    unregister("unregister against isolate, waiting by looking", Model::looking);
}

#[test]
fn unregister_is_woken() {
    unregister("unregister against isolate, waiting asleep", Model::sleeping);
}

#[test]
fn try_unregister_refuses_or_has_ended_it() {
    all("try-unregister against isolate", || {
        let owners = Arc::new(Owners::new(Model::looking()));
        let driver = Arc::new(Driver(Guarded::new()));
        let registration = owners.register(driver.clone());
        let number = registration.number();
        let other = owners.clone();
        let mover = thread::spawn(move || {
            let Some(owner) = other.get(number) else { return };
            let Some(used) = owner.begin() else { return };
            used.ops().putback(OwnedPage { pfn: Default::default(), index: 0, mode: crate::movable::Mode::Sync });
        });
        if registration.try_unregister().is_ok() {
            driver.0.write(100);
        }
        mover.join().expect("no panic");
    });
}
