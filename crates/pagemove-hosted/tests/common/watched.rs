//! A file that does something at each of its faults, which are with the address space locked, and at its end.

use std::sync::Arc;

use pagemove::{
    folio::LockedFolio,
    rmap::RangeMap,
    space::{FileError, Mappable, PageCache},
};

type Deed = Box<dyn Fn() + Send + Sync>;

pub struct Watched {
    inner: Arc<PageCache>,
    at_fault: Deed,
    at_end: Deed,
}

impl Watched {
    pub fn new(
        inner: Arc<PageCache>,
        at_fault: impl Fn() + Send + Sync + 'static,
        at_end: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { inner, at_fault: Box::new(at_fault), at_end: Box::new(at_end) })
    }
}

impl Mappable for Watched {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn reverse_map(&self) -> &Arc<RangeMap> {
        self.inner.reverse_map()
    }

    fn fault(&self, index: u32) -> Result<LockedFolio<'_>, FileError> {
        (self.at_fault)();
        self.inner.fault(index)
    }

    fn bring(&self, index: u32) -> Result<(), FileError> {
        self.inner.bring(index)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        (self.at_end)();
    }
}
