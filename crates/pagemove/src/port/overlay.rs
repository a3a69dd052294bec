//! A machine on top of another one: for tests that watch or change some of the engine's calls, and for an engine on memory of another.

/// In an `impl Machine`, forwards the named calls to the machine in a field: `pass_on!(inner: take_ram lend flush);`.
#[macro_export]
macro_rules! pass_on {
    ($inner:ident: $($call:ident)*) => { $( $crate::pass_on!(@ $call $inner); )* };
    (@ take_ram $inner:ident) => {
        fn take_ram(&self) -> Option<$crate::port::Ram> {
            self.$inner.take_ram()
        }
    };
    (@ return_ram $inner:ident) => {
        unsafe fn return_ram(&self) {
            // SAFETY: the caller's contract.
            unsafe { self.$inner.return_ram() };
        }
    };
    (@ lend $inner:ident) => {
        fn lend(&self, bytes: usize) -> Option<$crate::port::LentMemory> {
            self.$inner.lend(bytes)
        }
    };
    (@ lend_sparse $inner:ident) => {
        fn lend_sparse(
            &self,
            bytes: usize,
            used: &[::core::ops::Range<usize>],
        ) -> Option<$crate::port::LentMemory> {
            self.$inner.lend_sparse(bytes, used)
        }
    };
    (@ root_made $inner:ident) => {
        unsafe fn root_made(&self, id: $crate::port::SpaceId, root: $crate::units::Pfn) -> u64 {
            // SAFETY: the caller's contract.
            unsafe { self.$inner.root_made(id, root) }
        }
    };
    (@ move_root $inner:ident) => {
        unsafe fn move_root(&self, space: $crate::port::Space, to: $crate::units::Pfn, publish: &mut dyn FnMut()) {
            // SAFETY: the caller's contract.
            unsafe { self.$inner.move_root(space, to, publish) };
        }
    };
    (@ root_freed $inner:ident) => {
        unsafe fn root_freed(&self, space: $crate::port::Space) {
            // SAFETY: the caller's contract.
            unsafe { self.$inner.root_freed(space) };
        }
    };
    (@ flush $inner:ident) => {
        fn flush(&self, ranges: &[$crate::port::FlushRange]) {
            self.$inner.flush(ranges);
        }
    };
    (@ cpus $inner:ident) => {
        fn cpus(&self) -> usize {
            self.$inner.cpus()
        }
    };
    (@ cpu_claim $inner:ident) => {
        fn cpu_claim(&self) -> $crate::port::CpuClaim {
            self.$inner.cpu_claim()
        }
    };
    (@ interrupt_mask $inner:ident) => {
        fn interrupt_mask(&self) -> Option<$crate::port::InterruptMask> {
            self.$inner.interrupt_mask()
        }
    };
    (@ preemption $inner:ident) => {
        fn preemption(&self) -> Option<$crate::port::Preemption> {
            self.$inner.preemption()
        }
    };
    (@ barrier $inner:ident) => {
        fn barrier(&self) {
            self.$inner.barrier();
        }
    };
    (@ wait $inner:ident) => {
        fn wait(&self, word: &$crate::sync::AtomicU32, value: u32) {
            self.$inner.wait(word, value);
        }
    };
    (@ wake $inner:ident) => {
        fn wake(&self, word: &$crate::sync::AtomicU32) {
            self.$inner.wake(word);
        }
    };
    (@ might_wait $inner:ident) => {
        fn might_wait(&self) {
            self.$inner.might_wait();
        }
    };
    (@ pause $inner:ident) => {
        fn pause(&self) {
            self.$inner.pause();
        }
    };
    (@ now_ns $inner:ident) => {
        fn now_ns(&self) -> u64 {
            self.$inner.now_ns()
        }
    };
}
