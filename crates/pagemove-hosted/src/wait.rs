//! Waiting on a word, waking, and yielding: the host's, or shuttle's.

#[cfg(not(feature = "shuttle"))]
pub(crate) use atomic_wait::{wait, wake_all};
#[cfg(not(feature = "shuttle"))]
pub(crate) use std::thread::yield_now;

#[cfg(feature = "shuttle")]
pub(crate) use checked::{wait, wake_all};
#[cfg(feature = "shuttle")]
pub(crate) use shuttle::thread::yield_now;

/// One queue for all words, as futexes of the same hash share one: a woken thread checks its word again.
#[cfg(feature = "shuttle")]
mod checked {
    use pagemove::sync::{AtomicU32, Ordering};
    use shuttle::sync::{Condvar, Mutex};

    shuttle::lazy_static! {
        static ref QUEUE: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
    }

    pub(crate) fn wait(word: &AtomicU32, value: u32) {
        let guard = QUEUE.0.lock().expect("nobody panics with it");
        // Under the lock, so that no wake-up comes between the check and the sleep.
        if word.load(Ordering::SeqCst) == value {
            drop(QUEUE.1.wait(guard));
        }
    }

    pub(crate) fn wake_all(_word: &AtomicU32) {
        let _guard = QUEUE.0.lock().expect("nobody panics with it");
        QUEUE.1.notify_all();
    }
}
