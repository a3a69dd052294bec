//! Which process maps a driver's frames, and by which object: `/proc/PID/smaps` and `pagemap`.
//!
//! Takes a layout of this machine, gives a name for each of its frames of class [`FrameClass::DriverMapped`] that some process maps now. Promises to read only.
//! Processes come and go meanwhile, and frames change hands: what can't be read, and frames that have changed, are counted; a frame keeps the first name.

use std::collections::{BTreeSet, HashMap};

use procfs::process::{MMapPath, MemoryMap, PageInfo, Process, all_processes};

use crate::{
    cancel::{Stop, Stopped},
    layout::{FrameClass, Layout},
    terminal::plain,
};

/// What the kernel maps into each process.
const VDSO: &str = "vdso";
/// Pages that are read at once.
const CHUNK: u64 = 1 << 14;

/// Names of frames.
#[derive(Debug, Default)]
pub(crate) struct Mapped {
    /// The object that a process maps (a device, `anon_inode:…`, `socket`), and the process's name.
    names: Vec<(String, String)>,
    /// The processes by each name.
    processes: Vec<BTreeSet<i32>>,
    /// The name of each frame; `None`: it's a process's own memory by now, so it has changed since its flags were read.
    frames: HashMap<u64, Option<u32>>,
    /// Processes that couldn't be read to the end, mostly since they had ended.
    pub(crate) unread: u64,
}

impl Mapped {
    /// Looks at all processes; `progress` hears how many of them are done, and how many there are.
    pub(crate) fn find(layout: &Layout, stop: &Stop, progress: &mut dyn FnMut(u64, u64)) -> Result<Self, Stopped> {
        let mut found = Self::default();
        let wanted = Wanted::of(layout);
        if wanted.0.is_empty() {
            return Ok(found);
        }
        let processes: Vec<_> = all_processes().into_iter().flatten().collect();
        let total = processes.len() as u64;
        for (done, process) in (1..).zip(processes) {
            stop.check()?;
            // A process without memory of its own, as the kernel's threads, has no mapping; that is no failure.
            if process.and_then(|process| found.look_at(&process, &wanted, layout.sizes().frame_bytes)).is_err() {
                found.unread += 1;
            }
            progress(done, total);
        }
        Ok(found)
    }

    fn look_at(&mut self, process: &Process, wanted: &Wanted, frame_bytes: u64) -> procfs::ProcResult<()> {
        let maps = process.smaps()?;
        let maps: Vec<&MemoryMap> = maps.iter().filter(|map| has_frames(map)).collect();
        if maps.is_empty() {
            return Ok(());
        }
        let command = process.stat()?.comm;
        let mut pages = process.pagemap()?;
        for map in maps {
            let (first, end) = (map.address.0 / frame_bytes, map.address.1 / frame_bytes);
            for from in (first..end).step_by(CHUNK as usize) {
                for page in pages.get_range_info(from as usize..end.min(from + CHUNK) as usize)? {
                    if let PageInfo::MemoryPage(flags) = page
                        && wanted.contains(flags.get_page_frame_number().0)
                    {
                        self.add(flags.get_page_frame_number().0, &map.pathname, &command, process.pid);
                    }
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, pfn: u64, object: &MMapPath, command: &str, pid: i32) {
        let Some(object) = object_name(object) else {
            self.frames.entry(pfn).or_insert(None);
            return;
        };
        let name = (plain(&object), plain(command));
        let number = self.names.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.names.push(name);
            self.processes.push(BTreeSet::new());
            self.names.len() - 1
        });
        self.processes[number].insert(pid);
        self.frames.entry(pfn).or_insert(Some(number as u32));
    }

    /// Gives the number of a frame's name, `Some(None)` if it has changed.
    pub(super) fn number(&self, pfn: u64) -> Option<Option<u32>> {
        self.frames.get(&pfn).copied()
    }

    /// Gives a name, with the processes that have it.
    pub(super) fn name(&self, number: u32) -> String {
        let (object, command) = &self.names[number as usize];
        if object == VDSO {
            return format!("{object}, mapped by all processes");
        }
        match self.processes[number as usize].len() {
            1 => format!("{object}, mapped by {command}"),
            several => format!("{object}, mapped by {several} × {command}"),
        }
    }
}

/// Ranges of frames that want a name, upwards.
struct Wanted(Vec<(u64, u64)>);

impl Wanted {
    fn of(layout: &Layout) -> Self {
        let mut at = layout.first_pfn();
        let mut ranges = Vec::new();
        for run in layout.runs() {
            if run.class == FrameClass::DriverMapped {
                ranges.push((at, at + run.frames));
            }
            at += run.frames;
        }
        Self(ranges)
    }

    fn contains(&self, pfn: u64) -> bool {
        let behind = self.0.partition_point(|&(start, _)| start <= pfn);
        behind > 0 && pfn < self.0[behind - 1].1
    }
}

/// Tells whether a mapping has frames in memory.
fn has_frames(map: &MemoryMap) -> bool {
    match map.pathname {
        // Not counted.
        MMapPath::Vdso | MMapPath::Vvar => true,
        // No process's pages, at an address that `pagemap` doesn't have.
        MMapPath::Vsyscall => false,
        // Unknown: the kernel doesn't say.
        _ => map.extension.map.get("Rss").is_none_or(|&bytes| bytes > 0),
    }
}

/// Names an object so that several of a kind have one name: without numbers of inodes. `None`: a process's own memory.
fn object_name(object: &MMapPath) -> Option<String> {
    Some(match object {
        MMapPath::Path(path) => {
            let path = path.to_string_lossy();
            match path.split_once(":[") {
                Some((kind, number)) if number.trim_end_matches(']').bytes().all(|byte| byte.is_ascii_digit()) => {
                    kind.to_owned()
                }
                _ => path.trim_end_matches(" (deleted)").to_owned(),
            }
        }
        MMapPath::Other(name) => name.clone(),
        MMapPath::Vsys(_) => "shared memory (SysV)".to_owned(),
        MMapPath::Vdso | MMapPath::Vvar => VDSO.to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Run, Sizes, Zone};

    #[test]
    fn objects_of_a_kind_have_one_name() {
        let named = |path: &str| object_name(&MMapPath::from(path).expect("a path")).expect("an object");
        assert_eq!(named("/dev/dri/card0"), "/dev/dri/card0");
        assert_eq!([named("socket:[123]"), named("socket:[77]")], ["socket", "socket"]);
        assert_eq!(named("anon_inode:[io_uring]"), "anon_inode:[io_uring]");
        assert_eq!(named("/memfd:buffers (deleted)"), "/memfd:buffers");
        assert_eq!([MMapPath::Heap, MMapPath::Anonymous].map(|own| object_name(&own)), [None, None]);
    }

    #[test]
    fn only_a_drivers_frames_want_a_name() {
        use FrameClass::*;
        let runs = [(Free, 4), (DriverMapped, 2), (Slab, 1), (DriverMapped, 1)].map(Run::from).to_vec();
        let zone = Zone { name: "Normal".into(), node: 0, start_pfn: 16, spanned: 8, present: 8 };
        let layout = Layout::new("test".into(), Sizes::usual(2), vec![zone], runs).expect("consistent");
        let wanted = Wanted::of(&layout);
        let found: Vec<u64> = (0..40).filter(|&pfn| wanted.contains(pfn)).collect();
        assert_eq!(found, [20, 21, 23]);
    }
}
