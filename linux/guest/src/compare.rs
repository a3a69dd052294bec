//! The comparison with the example kernel, on Linux.
//!
//! Takes a number of rounds; tells each row. Pages move between two nodes by `move_pages`; large pages come by THP with direct compaction.

use std::io::{Error, Result};
use std::time::Instant;

use pagemove_compare::{Failed, PAGES, System, run as run_rows};

use crate::console::tell;
use crate::machine::{count, free_pages_everywhere, move_only_when_asked};
use crate::sys::{self, Child, Map, PAGE, PRIVATE, SHARED};

struct Linux {
    start: Instant,
    children: Vec<Child>,
    /// Mappings with a large page.
    blocks: Vec<Map>,
}

const DEFRAG: &str = "/sys/kernel/mm/transparent_hugepage/defrag";

impl Linux {
    /// Touches a new mapping of 2 MiB; tells the nanoseconds, and whether it is one page. If not, it isn't kept.
    fn huge(&mut self) -> std::result::Result<(u64, bool), Failed> {
        let before = failed(count("thp_fault_alloc"), "/proc/vmstat")?;
        let start = self.now();
        // Of 4 MiB those 2 that may be one page.
        let map = failed(Map::new(None, 0, 1024, PRIVATE), "mmap")?;
        let first = map.address().next_multiple_of(512 * PAGE) / PAGE - map.address() / PAGE;
        failed(map.advise(first, 512, libc::MADV_HUGEPAGE), "madvise")?;
        map.store(first, 0, 1);
        let time = self.now() - start;
        let found = failed(count("thp_fault_alloc"), "/proc/vmstat")? > before;
        if found {
            self.blocks.push(map);
        }
        Ok((time, found))
    }
}

fn failed<T>(result: Result<T>, what: &'static str) -> std::result::Result<T, Failed> {
    result.map_err(|_| Failed(what))
}

impl System for Linux {
    fn map(&mut self, pages: usize, shared: bool) -> std::result::Result<usize, Failed> {
        let kind = if shared { SHARED } else { PRIVATE };
        Ok(failed(Map::new(None, 0, pages, kind), "mmap")?.keep())
    }

    fn unmap(&mut self, address: usize, pages: usize) -> std::result::Result<(), Failed> {
        failed(sys::unmap(address, pages), "munmap")
    }

    fn child(&mut self, deed: &mut dyn FnMut()) -> std::result::Result<u64, Failed> {
        let child = sys::fork(|| {
            deed();
            loop {
                std::thread::park();
            }
        });
        self.children.push(failed(child, "fork")?);
        Ok(self.children.len() as u64 - 1)
    }

    fn fork(&mut self) -> std::result::Result<u64, Failed> {
        let start = self.now();
        let child = failed(sys::fork(|| 0), "fork")?;
        let time = self.now() - start;
        child.wait();
        Ok(time)
    }

    fn end(&mut self, child: u64) -> std::result::Result<(), Failed> {
        let child = self.children.get(child as usize).ok_or(Failed("there is no such child"))?;
        child.kill();
        child.wait();
        Ok(())
    }

    fn move_pages(
        &mut self,
        addresses: &[usize],
        statuses: &mut [i32],
        round: usize,
    ) -> std::result::Result<usize, Failed> {
        let node = (round % 2) as i32;
        let nodes = [node; PAGES];
        failed(sys::move_addresses(addresses, nodes.get(..addresses.len()), statuses), "move_pages")?;
        Ok(statuses.iter().filter(|&&status| status == node).count())
    }

    fn take_free_blocks(&mut self) -> std::result::Result<(), Failed> {
        failed(std::fs::write(DEFRAG, "never"), DEFRAG)?;
        while self.huge()?.1 {}
        failed(std::fs::write(DEFRAG, "madvise"), DEFRAG)
    }

    fn huge_block(&mut self) -> std::result::Result<(u64, bool), Failed> {
        self.huge()
    }

    fn free_blocks(&mut self) -> std::result::Result<(), Failed> {
        self.blocks.clear();
        Ok(())
    }

    fn now(&mut self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn free_pages(&mut self) -> std::result::Result<usize, Failed> {
        failed(free_pages_everywhere().map(|pages| pages as usize), "the number of free pages")
    }
}

/// Runs all rows.
pub(crate) fn run(rounds: usize) -> Result<()> {
    sys::stay_on_processor(0)?;
    move_only_when_asked()?;
    std::fs::write("/sys/kernel/mm/transparent_hugepage/enabled", "madvise")?;
    // Large pages raise what Linux keeps free; it is to use as much memory as the other kernel.
    std::fs::write("/proc/sys/vm/min_free_kbytes", "4096")?;
    let told = |name: &str, nanoseconds: u64| tell(&format!("{{\"row\":{name:?},\"ns\":{nanoseconds}}}"));
    run_rows(&mut Linux { start: Instant::now(), children: Vec::new(), blocks: Vec::new() }, rounds, told)
        .map_err(|Failed(why)| Error::other(why))
}
