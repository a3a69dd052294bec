//! How a machine keeps a thread on its CPU. Plain data.

/// How a thread keeps its CPU while it holds a lock that spins. Plain functions, which must not lock; calls nest.
#[derive(Debug, Clone, Copy)]
pub struct Preemption {
    /// Disables preemption (Linux: `preempt_disable`).
    pub disable: fn(),
    /// Enables it again, as often as it was disabled.
    pub enable: fn(),
}
