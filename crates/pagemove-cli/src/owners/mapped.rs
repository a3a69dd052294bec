//! Which process maps a driver's frames, and by which object: `/proc/PID/smaps` and `pagemap`.
//!
//! Takes a layout of this machine, gives a name for each of its frames of class [`FrameClass::DriverMapped`] that some process maps now. Promises to read only.
//! Processes come and go meanwhile, and frames change hands: what can't be read is counted; a frame keeps the first name.
//!
//! What a driver maps without counting (`remap_pfn_range`: rings of perf, buffers of some GPUs) has no map count, and is the kernel's here.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, FileType, FsWord, StatxFlags, statfs, statx};

use super::{
    smaps::{self, Mapping},
    wanted::Wanted,
};
use crate::{
    cancel::{Stop, Stopped},
    layout::{FrameClass, Layout},
    terminal::plain,
};

/// What the kernel maps into each process.
const VDSO: &str = "vdso";
/// The file system of `memfd_secret`: its pages are on the LRU lists like others', and never move (Linux: `mm/secretmem.c`).
const SECRETMEM_MAGIC: FsWord = 0x5345_434d;
/// Processes of a name that are told by number.
const MOST_PIDS: usize = 16;
/// Entries of `pagemap` that are read at once: 128 KiB.
const CHUNK: u64 = 1 << 14;
/// Of an entry (Linux: `Documentation/admin-guide/mm/pagemap.rst`).
const PRESENT: u64 = 1 << 63;
const PFN: u64 = (1 << 55) - 1;

/// Names of frames.
#[derive(Debug, Default)]
pub(crate) struct Mapped {
    /// The object that a process maps (a device, `anon_inode:…`, `socket`), and the process's name.
    names: Vec<(String, String)>,
    numbers: HashMap<(String, String), u32>,
    /// The processes by each name.
    processes: Vec<BTreeSet<u32>>,
    frames: HashMap<u64, u32>,
    /// Frames that look like page cache, and stay.
    secret: BTreeSet<u64>,
    /// Processes that couldn't be read to the end, mostly since they had ended.
    pub(crate) unread: u64,
    /// The kernel shows no PFNs: this process may not see them (`CAP_SYS_ADMIN`).
    pub(crate) is_blind: bool,
}

impl Mapped {
    /// Looks at all processes; `progress` hears how many of them are done, and how many there are.
    pub(crate) fn find(layout: &Layout, stop: &Stop, progress: &mut dyn FnMut(u64, u64)) -> Result<Self, Stopped> {
        let mut found = Self::default();
        let wanted = Wanted::of(layout, |class| class == FrameClass::DriverMapped);
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let number = |entry: fs::DirEntry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()));
        let processes: Vec<(u32, PathBuf)> = entries.filter_map(number).collect();
        let total = processes.len() as u64;
        let (mut present, mut seen) = (0, 0);
        for (done, (pid, folder)) in (1..).zip(processes) {
            let mut look = |object: &str, is_secret: bool, command: &str, pfns: &[u64]| {
                present += pfns.len();
                seen += pfns.iter().filter(|&&pfn| pfn != 0).count();
                let is_wanted = |pfn: u64| pfn != 0 && (is_secret || wanted.contains(pfn));
                let wanted: Vec<u64> = pfns.iter().copied().filter(|&pfn| is_wanted(pfn)).collect();
                if is_secret {
                    found.secret.extend(&wanted);
                }
                if !wanted.is_empty() {
                    found.add(object, command, pid, &wanted);
                }
            };
            match look_at(&folder, layout.sizes().frame_bytes, stop, &mut look) {
                Err(Look::Stopped(stopped)) => return Err(stopped),
                Err(Look::Gone) => found.unread += 1,
                Ok(()) => {}
            }
            progress(done, total);
        }
        found.is_blind = present > 0 && seen == 0;
        Ok(found)
    }

    fn add(&mut self, object: &str, command: &str, pid: u32, pfns: &[u64]) {
        let object = plain(&object_name(object));
        // The kernel maps that one, into all of them.
        let command = if object == VDSO { String::new() } else { plain(command) };
        let next = self.names.len() as u32;
        let number = *self.numbers.entry((object, command)).or_insert_with_key(|name| {
            self.names.push(name.clone());
            self.processes.push(BTreeSet::new());
            next
        });
        self.processes[number as usize].insert(pid);
        for &pfn in pfns {
            self.frames.entry(pfn).or_insert(number);
        }
    }

    /// Gives the frames that look like page cache and stay, upwards.
    pub(super) fn secret(&self) -> Vec<u64> {
        self.secret.iter().copied().collect()
    }

    /// Gives the number of a frame's name.
    pub(super) fn number(&self, pfn: u64) -> Option<u32> {
        self.frames.get(&pfn).copied()
    }

    /// Gives the object and the program of a name, the same however many processes run it.
    pub(super) fn name(&self, number: u32) -> String {
        let (object, command) = &self.names[number as usize];
        if object == VDSO {
            format!("{object}, mapped by all processes")
        } else {
            format!("{object}, mapped by {command}")
        }
    }

    /// Gives the processes of a name, some of many.
    pub(super) fn pids(&self, number: u32) -> Vec<u32> {
        self.processes[number as usize].iter().copied().take(MOST_PIDS).collect()
    }

    /// Counts the processes of a name.
    pub(super) fn processes(&self, number: u32) -> u64 {
        self.processes[number as usize].len() as u64
    }
}

/// Why a process can't be looked at.
enum Look {
    Stopped(Stopped),
    Gone,
}

impl From<io::Error> for Look {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Hears of a part of a mapping: its object, whether that is secret memory, the process's name, the frames in memory.
type Looker<'l> = dyn FnMut(&str, bool, &str, &[u64]) + 'l;

/// Calls `look` for the mappings that may have a driver's frames, part by part.
fn look_at(process: &Path, frame_bytes: u64, stop: &Stop, look: &mut Looker<'_>) -> Result<(), Look> {
    let mappings = smaps::parse(&fs::read(process.join("smaps"))?);
    // A thread of the kernel has none, and its `pagemap` can't be opened.
    if mappings.is_empty() {
        return Ok(());
    }
    let command = fs::read(process.join("comm"))?;
    let command = String::from_utf8_lossy(&command).trim_end().to_owned();
    let pages = File::open(process.join("pagemap"))?;
    let mut bytes = vec![0; CHUNK as usize * 8];
    for mapping in mappings {
        let object = object(process, &mapping);
        if object == Object::Regular {
            continue;
        }
        let Mapping { start, end, name } = mapping;
        let (first, end) = (start / frame_bytes, end / frame_bytes);
        for from in (first..end).step_by(CHUNK as usize) {
            stop.check().map_err(Look::Stopped)?;
            let wanted = (end - from).min(CHUNK) as usize * 8;
            let read = pages.read_at(&mut bytes[..wanted], from * 8)?;
            let (entries, _) = bytes[..read].as_chunks::<8>();
            let entries = entries.iter().map(|entry| u64::from_ne_bytes(*entry));
            let pfns: Vec<u64> = entries.filter(|entry| entry & PRESENT != 0).map(|entry| entry & PFN).collect();
            look(&name, object == Object::Secret, &command, &pfns);
        }
    }
    Ok(())
}

/// What is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Object {
    /// A regular file, whose pages are page cache and no driver's.
    Regular,
    /// A file of `memfd_secret`.
    Secret,
    /// Another one, or one of which nothing can be known.
    Other,
}

/// Asks what a mapping is of. Its name doesn't say: anybody may name a file as he likes.
fn object(process: &Path, mapping: &Mapping) -> Object {
    let file = process.join("map_files").join(format!("{:x}-{:x}", mapping.start, mapping.end));
    // What is known already will do: a file system over the network may not answer.
    let known = statx(CWD, &file, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE);
    let is_regular = known.is_ok_and(|known| FileType::from_raw_mode(known.stx_mode.into()) == FileType::RegularFile);
    // Only names that begin so are worth another question, which such a file system might not answer either.
    if mapping.name.starts_with("/secretmem") && statfs(&file).is_ok_and(|of| of.f_type == SECRETMEM_MAGIC) {
        Object::Secret
    } else if is_regular {
        Object::Regular
    } else {
        Object::Other
    }
}

/// Names an object so that several of a kind have one name: without numbers of inodes.
fn object_name(object: &str) -> String {
    if smaps::is_the_kernels(object) {
        return VDSO.to_owned();
    }
    match object.split_once(":[") {
        Some((kind, number)) if number.trim_end_matches(']').bytes().all(|byte| byte.is_ascii_digit()) => {
            kind.to_owned()
        }
        _ => object.trim_end_matches(" (deleted)").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_a_kind_have_one_name() {
        assert_eq!(object_name("/dev/dri/card0"), "/dev/dri/card0");
        assert_eq!(["socket:[123]", "socket:[77]"].map(object_name), ["socket", "socket"]);
        assert_eq!(object_name("anon_inode:[io_uring]"), "anon_inode:[io_uring]");
        assert_eq!(object_name("/memfd:buffers (deleted)"), "/memfd:buffers");
        assert_eq!(["[vdso]", "[vvar]", "[vvar_vclock]"].map(object_name), [VDSO; 3]);
    }

    /// Threads of the kernel have no mappings, and that's no failure; this program has some.
    #[test]
    fn a_process_is_read_to_its_end() {
        // In a container number 2 is another one, which may end.
        let is_the_kernels = fs::read("/proc/2/comm").is_ok_and(|name| name == b"kthreadd\n");
        for process in ["/proc/self", "/proc/2"].into_iter().take(1 + usize::from(is_the_kernels)) {
            // Without root others' can't be opened.
            let is_readable = fs::read(Path::new(process).join("smaps")).is_ok();
            let read = look_at(Path::new(process), 4096, &Stop::default(), &mut |_, _, _, _| {});
            assert_eq!(read.is_ok(), is_readable, "{process}");
        }
        assert!(look_at(Path::new("/proc/none"), 4096, &Stop::default(), &mut |_, _, _, _| {}).is_err());
    }
}
