//! Counts how often a thread has masked interrupts, and disabled preemption.
//!
//! This machine has neither. It counts where the engine masks interrupts, and panics if a call that may wait is made
//! meanwhile: a kernel could deadlock there. And it counts locks that spin, and panics if a thread sleeps with one.

use std::cell::Cell;

use pagemove::port::{InterruptMask, Preemption};

#[cfg(feature = "shuttle")]
use shuttle::thread_local;

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    static DISABLED: Cell<usize> = const { Cell::new(0) };
}

/// An interrupt mask that only counts.
pub(crate) const COUNTING: InterruptMask = InterruptMask { mask, restore };

fn mask() -> usize {
    DEPTH.with(|depth| depth.replace(depth.get() + 1))
}

fn restore(before: usize) {
    let depth = DEPTH.with(|depth| depth.replace(before));
    assert_eq!(depth, before + 1, "interrupts were not restored in the reverse order of masking them");
}

/// A scheduler that only counts.
pub(crate) const PREEMPTION: Preemption = Preemption { disable, enable };

fn disable() {
    DISABLED.with(|disabled| disabled.set(disabled.get() + 1));
}

fn enable() {
    DISABLED
        .with(|disabled| disabled.set(disabled.get().checked_sub(1).expect("preemption was enabled once too often")));
}

/// Panics if this thread has disabled preemption.
pub(crate) fn assert_preemptible() {
    assert_eq!(DISABLED.with(Cell::get), 0, "a thread is about to sleep that has disabled preemption");
}

/// Panics if this thread has masked interrupts.
pub(crate) fn assert_unmasked() {
    let depth = DEPTH.with(Cell::get);
    assert_eq!(depth, 0, "a call that may wait was made while interrupts are masked");
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[test]
    fn nests() {
        let outer = mask();
        restore(mask());
        assert_eq!(DEPTH.get(), 1);
        restore(outer);
        assert_unmasked();
    }

    #[test]
    #[should_panic(expected = "reverse order")]
    fn is_restored_in_reverse_order() {
        let outer = mask();
        mask();
        restore(outer);
    }

    #[test]
    #[should_panic(expected = "has disabled preemption")]
    fn sleeping_without_preemption_is_refused() {
        disable();
        disable();
        enable();
        assert_preemptible();
    }

    #[test]
    #[should_panic(expected = "while interrupts are masked")]
    fn waiting_while_masked_is_refused() {
        mask();
        assert_unmasked();
    }
}
