//! The comparison with Linux, on this kernel.

use pagemove_compare::{Failed, System, run as run_rows};

use crate::{
    Arguments,
    sys::{self, ANONYMOUS, Call, HUGE, READ, SHARED, WRITE, Words, call, exit, say},
};

struct Kernel;

impl System for Kernel {
    fn map(&mut self, pages: usize, shared: bool) -> Result<usize, Failed> {
        let failed = |_| Failed("mmap");
        let (kind, file) = if shared {
            (SHARED, call(Call::OpenFile, [pages as u64, 0, 0, 0, 0, 0]).map_err(failed)?)
        } else {
            (ANONYMOUS, 0)
        };
        let at = call(Call::Mmap, [0, pages as u64, READ | WRITE, kind, file, 0]).map_err(failed)?;
        Ok(at as usize)
    }

    fn unmap(&mut self, address: usize, pages: usize) -> Result<(), Failed> {
        call(Call::Munmap, [address as u64, pages as u64, 0, 0, 0, 0]).map(drop).map_err(|_| Failed("munmap"))
    }

    fn child(&mut self, deed: &mut dyn FnMut()) -> Result<u64, Failed> {
        sys::fork(|| {
            deed();
            let word = core::sync::atomic::AtomicU32::new(0);
            loop {
                sys::wait(&word, 0);
            }
        })
        .map_err(|_| Failed("fork"))
    }

    fn fork(&mut self) -> Result<u64, Failed> {
        let start = self.now();
        let child = sys::fork(|| 0).map_err(|_| Failed("fork"))?;
        let time = self.now() - start;
        sys::wait_for(child);
        Ok(time)
    }

    fn end(&mut self, child: u64) -> Result<(), Failed> {
        call(Call::End, [child, 0, 0, 0, 0, 0]).map_err(|_| Failed("the end of a child"))?;
        sys::wait_for(child);
        Ok(())
    }

    fn move_pages(&mut self, addresses: &[usize], statuses: &mut [i32], _: usize) -> Result<usize, Failed> {
        let arguments = [addresses.as_ptr() as u64, addresses.len() as u64, statuses.as_mut_ptr() as u64, 0, 0, 0];
        call(Call::Move, arguments).map_err(|_| Failed("a move"))?;
        Ok(statuses.iter().filter(|&&status| status == 0).count())
    }

    fn huge_block(&mut self) -> Result<(u64, bool), Failed> {
        let start = self.now();
        let found = call(Call::HugeBlock, [0; 6]).is_ok();
        Ok((self.now() - start, found))
    }

    fn take_free_blocks(&mut self) -> Result<(), Failed> {
        while call(Call::HugeBlock, [1, 0, 0, 0, 0, 0]).is_ok() {}
        Ok(())
    }

    fn free_blocks(&mut self) -> Result<(), Failed> {
        call(Call::HugeBlock, [2, 0, 0, 0, 0, 0]).map(drop).map_err(|_| Failed("blocks can't be freed"))
    }

    fn now(&mut self) -> u64 {
        call(Call::Now, [0; 6]).unwrap_or(0)
    }

    fn free_pages(&mut self) -> Result<usize, Failed> {
        call(Call::FreePages, [0; 6]).map(|pages| pages as usize).map_err(|_| Failed("the number of free pages"))
    }
}

/// Moves folios of 2 MiB in one call, which Linux isn't asked to; gives the nanoseconds for each 4 KiB.
fn move_large() -> Result<u64, Failed> {
    const FOLIOS: u64 = 16;
    let failed = |_| Failed("memory in folios of 2 MiB");
    let mapped = Words::map((FOLIOS + 1) * 512, ANONYMOUS | HUGE, 0, 0).map_err(failed)?;
    let words = Words::at(mapped.start().next_multiple_of(2 << 20), FOLIOS * 512);
    (0..words.pages).for_each(|page| words.store(page, 0, page));
    let mut addresses = [0; FOLIOS as usize];
    addresses.iter_mut().zip(0..).for_each(|(address, folio)| *address = words.page(folio * 512));
    let mut statuses = [0i32; FOLIOS as usize];
    let arguments = [addresses.as_ptr() as u64, FOLIOS, statuses.as_mut_ptr() as u64, 0, 0, 0];
    let start = Kernel.now();
    let moved = call(Call::Move, arguments).map_err(|_| Failed("a move"))?;
    let time = Kernel.now() - start;
    if moved != words.pages || (0..words.pages).any(|page| words.load(page, 0) != page) {
        return Err(Failed("a folio of 2 MiB hasn't moved, or has lost its words"));
    }
    mapped.unmap();
    Ok(time / moved)
}

pub(crate) fn run(arguments: Arguments) {
    let rounds = if arguments.amount == 0 { 5 } else { arguments.amount };
    let told = |name: &str, nanoseconds: u64| say!("row {name} {nanoseconds}");
    let large = (0..rounds).try_for_each(|_| move_large().map(|nanoseconds| told("move-2m", nanoseconds)));
    if let Err(Failed(why)) = large.and_then(|()| run_rows(&mut Kernel, rounds as usize, told)) {
        say!("compare: {why}");
        exit(1);
    }
}
