//! Monotonic time: the host's, or under shuttle one that passes with each look at it, so that a schedule can be repeated.

#[cfg(not(feature = "shuttle"))]
pub(crate) struct Clock(std::time::Instant);

#[cfg(not(feature = "shuttle"))]
impl Clock {
    pub(crate) fn start() -> Self {
        Self(std::time::Instant::now())
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

// Not shuttle's: looking at the time is no point to switch threads at.
#[cfg(feature = "shuttle")]
pub(crate) struct Clock(std::sync::atomic::AtomicU64);

#[cfg(feature = "shuttle")]
impl Clock {
    pub(crate) fn start() -> Self {
        Self(1.into())
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.0.fetch_add(1 << 20, std::sync::atomic::Ordering::Relaxed)
    }
}
