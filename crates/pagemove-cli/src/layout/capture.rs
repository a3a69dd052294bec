//! The layout of the machine that this runs on.
//!
//! Takes `/proc/kpageflags`, `/proc/kpagecount` and `/proc/zoneinfo`, gives a layout, and beside it what Linux itself
//! says about free frames, so that a reader can judge the capture. Promises to read only, a section of memory at a
//! time. Memory goes on changing while it is looked at: frames that are read a second apart are a second apart.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::cancel::Stopped;

use super::{
    FrameClass, Layout, LayoutError, Run, Sizes, Zone,
    check::{MAX_FRAMES, MAX_PFN, check_sizes},
    kpage::{Classifier, NOPAGE, Seen},
    memory_blocks,
    parts::push_run,
    zoneinfo::{self, ZoneInfo},
};

/// Frames of a section: memory comes and goes in such units (128 MiB), and one read takes 256 KiB for each.
const SECTION: u64 = 1 << 15;
/// The order of a pageblock of kernels that say nothing about it: that of the largest free block.
const DEFAULT_PAGEBLOCK_ORDER: u8 = 10;

/// Why this machine's memory can't be captured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaptureError {
    /// The kernel shows frames to root only.
    #[error("{path} can be read by root only", path = .0.display())]
    Permission(PathBuf),
    /// The kernel doesn't have the file.
    #[error("this system has no {path}: it takes Linux with CONFIG_PROC_PAGE_MONITOR", path = .0.display())]
    Missing(PathBuf),
    /// Another error of reading.
    #[error("can't read {path}: {error}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// No zone with frames is in `/proc/zoneinfo`.
    #[error("{path} names no zone that has frames", path = .0.display())]
    NoZones(PathBuf),
    /// A signal.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// What was read makes no layout.
    #[error("what the kernel shows makes no layout: {0}")]
    Layout(#[from] LayoutError),
}

/// What a capture found.
#[derive(Debug)]
pub(crate) struct Capture {
    /// The layout.
    pub(crate) layout: Layout,
    /// How far to trust it.
    pub(crate) check: FreeCheck,
}

/// Free frames as captured, beside what Linux says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct FreeCheck {
    /// Frames captured as free.
    pub(crate) captured: u64,
    /// `nr_free_pages` of all zones, in the middle between before and after.
    pub(crate) zoneinfo: u64,
    /// Free frames on per-CPU lists, which are captured as kernel; in the middle between before and after.
    pub(crate) per_cpu: u64,
}

impl Layout {
    /// Captures this machine's memory; `progress` hears the frames read so far and their total.
    ///
    /// Driver pages that nobody has mapped, and free frames on per-CPU lists, are captured as [`FrameClass::Kernel`]:
    /// the kernel exports nothing that tells them apart.
    pub(crate) fn capture(progress: &mut Progress<'_>) -> Result<Capture, CaptureError> {
        capture_from(Path::new("/proc"), Path::new("/sys"), procfs::page_size(), progress)
    }
}

/// Hears the frames read so far and their total; says when to stop.
pub(crate) type Progress<'p> = dyn FnMut(u64, u64) -> Result<(), Stopped> + 'p;

/// Captures what the files in a folder like `/proc`, and one like `/sys`, say.
pub(super) fn capture_from(
    proc: &Path,
    sys: &Path,
    frame_bytes: u64,
    progress: &mut Progress<'_>,
) -> Result<Capture, CaptureError> {
    let mut flags = FrameFile::open(proc.join("kpageflags"))?;
    let mut counts = FrameFile::open(proc.join("kpagecount"))?;
    let infos = read_zones(proc)?;
    let sizes = Sizes { frame_bytes, pageblock_order: pageblock_order(proc, sys, frame_bytes) };
    check_sizes(sizes)?;
    let pieces = zoneinfo::pieces(&infos, &memory_blocks::online(sys, frame_bytes));
    // Before anything is read or counted: a kernel that says nonsense must not be believed to the last frame.
    for ZoneInfo { name, start_pfn, spanned, .. } in &infos {
        if start_pfn.checked_add(*spanned).is_none_or(|end| end > MAX_PFN) {
            return Err(LayoutError::ZoneEnd { name: name.clone(), start_pfn: *start_pfn, spanned: *spanned }.into());
        }
    }
    let total = pieces.iter().map(|piece| piece.end_pfn - piece.start_pfn).sum();
    if total > MAX_FRAMES {
        return Err(LayoutError::TooManyFrames(total).into());
    }

    let (mut seen, mut classifier, mut done) = (Vec::<(Seen, u64)>::new(), Classifier::default(), 0);
    let mut push = |what, frames| match seen.last_mut() {
        Some((last, length)) if *last == what => *length += frames,
        _ => seen.push((what, frames)),
    };
    for piece in &pieces {
        classifier.skip();
        let mut pfn = piece.start_pfn;
        while pfn < piece.end_pfn {
            let end = (pfn + 1).next_multiple_of(SECTION).min(piece.end_pfn);
            let before = flags.read(pfn, end)?.to_vec();
            let counts = counts.read(pfn, end)?;
            // Again: a frame that was taken or freed meanwhile has a count that doesn't go with its flags, and would pass for a driver's.
            let flags = flags.read(pfn, end)?;
            if end - pfn == SECTION && flags.iter().chain(counts).all(|&word| word == 0) {
                push(Seen::Blank, SECTION);
                classifier.skip();
            } else {
                for (((&flags, &before), &count), pfn) in flags.iter().zip(&before).zip(counts).zip(pfn..) {
                    push(classifier.next(pfn, flags, if flags == before { count } else { 0 }), 1);
                }
            }
            done += end - pfn;
            pfn = end;
            progress(done, total)?;
        }
    }
    let after = read_zones(proc)?;
    let middle = |of: fn(&ZoneInfo) -> u64| (infos.iter().map(of).sum::<u64>() + after.iter().map(of).sum::<u64>()) / 2;
    let (zoneinfo, per_cpu) = (middle(|zone| zone.free), middle(|zone| zone.per_cpu));

    let marked: u64 = seen.iter().filter(|(what, _)| *what == Seen::Class(FrameClass::Free)).map(|run| run.1).sum();
    // Marked heads alone are one frame for each block, and most free memory is in large blocks.
    let heads_only = marked < zoneinfo / 2;
    let (zones, runs) = settle_runs(&infos, &pieces, &seen, heads_only, sizes.pageblock_order);
    let captured = runs.iter().filter(|run| run.class == FrameClass::Free).map(|run| run.frames).sum();
    let release = fs::read_to_string(proc.join("sys/kernel/osrelease")).unwrap_or_default();
    let source = format!("live capture, Linux {}", release.trim());
    let layout = Layout::new(source.trim_end().to_owned(), sizes, zones, runs)?;
    Ok(Capture { layout, check: FreeCheck { captured, zoneinfo, per_cpu } })
}

/// Decides what was left open, and fills the places between the zones.
fn settle_runs(
    infos: &[ZoneInfo],
    pieces: &[zoneinfo::Piece],
    seen: &[(Seen, u64)],
    heads_only: bool,
    order: u8,
) -> (Vec<Zone>, Vec<Run>) {
    // Frames that a zone spans but didn't get into its allocator: no more than these can be missing behind blank
    // sections.
    let mut lacking: Vec<u64> = vec![0; infos.len()];
    pieces.iter().for_each(|piece| lacking[piece.zone] += piece.end_pfn - piece.start_pfn);
    lacking.iter_mut().zip(infos).for_each(|(lacking, info)| *lacking = lacking.saturating_sub(info.managed));
    let block = 1_u64 << order;
    let (mut zones, mut runs) = (Vec::new(), Vec::new());
    let mut seen = seen.iter().copied();
    let mut rest: Option<(Seen, u64)> = None;
    let mut at = pieces.first().map_or(0, |piece| piece.start_pfn / block * block);
    for piece in pieces {
        push_run(&mut runs, FrameClass::Absent, piece.start_pfn - at);
        at = piece.start_pfn;
        let mut present = 0;
        while at < piece.end_pfn {
            // A run may reach over the end of a piece, since it is only cut where what is seen changes.
            let Some((what, frames)) = rest.take().or_else(|| seen.next()) else {
                break;
            };
            let mut take = frames.min(piece.end_pfn - at);
            let class = match what {
                Seen::Class(class) => class,
                Seen::AfterFreeHead if heads_only => FrameClass::Free,
                Seen::AfterFreeHead => FrameClass::Kernel,
                Seen::Blank => {
                    let sections = take.min(lacking[piece.zone]) / SECTION * SECTION;
                    lacking[piece.zone] -= sections;
                    if sections > 0 {
                        take = sections;
                        FrameClass::Absent
                    } else {
                        FrameClass::Kernel
                    }
                }
            };
            if class != FrameClass::Absent {
                present += take;
            }
            push_run(&mut runs, class, take);
            rest = (frames > take).then_some((what, frames - take));
            at += take;
        }
        let info = &infos[piece.zone];
        zones.push(Zone {
            name: info.name.clone(),
            node: info.node,
            start_pfn: piece.start_pfn,
            spanned: piece.end_pfn - piece.start_pfn,
            // Linux counts memory that it hasn't taken into use; the capture counts holes that have an entry in the
            // frame table.
            present: present.min(info.present),
        });
    }
    push_run(&mut runs, FrameClass::Absent, at.next_multiple_of(block) - at);
    (zones, runs)
}

fn read_zones(proc: &Path) -> Result<Vec<ZoneInfo>, CaptureError> {
    let path = proc.join("zoneinfo");
    match fs::read_to_string(&path) {
        Ok(text) => match zoneinfo::parse(&text) {
            zones if zones.is_empty() => Err(CaptureError::NoZones(path)),
            zones => Ok(zones),
        },
        Err(error) => Err(refused(path, error)),
    }
}

impl Sizes {
    /// Asks this machine. Without root the order of a pageblock is that of a huge page.
    pub(crate) fn of_this_machine() -> Self {
        let frame_bytes = procfs::page_size();
        Self { frame_bytes, pageblock_order: pageblock_order(Path::new("/proc"), Path::new("/sys"), frame_bytes) }
    }
}

/// Returns the order of a pageblock, as the kernel says it, or as it follows from the size of a huge page.
fn pageblock_order(proc: &Path, sys: &Path, frame_bytes: u64) -> u8 {
    let stated = fs::read_to_string(proc.join("pagetypeinfo")).ok();
    let stated = stated.and_then(|text| text.lines().next()?.strip_prefix("Page block order:")?.trim().parse().ok());
    let huge = || {
        let bytes = fs::read_to_string(sys.join("kernel/mm/transparent_hugepage/hpage_pmd_size")).ok()?;
        let frames = bytes.trim().parse::<u64>().ok()? / frame_bytes;
        u8::try_from(frames.checked_ilog2()?).ok()
    };
    stated.or_else(huge).unwrap_or(DEFAULT_PAGEBLOCK_ORDER)
}

/// A file with one word of 8 bytes for each frame.
struct FrameFile {
    path: PathBuf,
    file: File,
    bytes: Vec<u8>,
    words: Vec<u64>,
}

impl FrameFile {
    fn open(path: PathBuf) -> Result<Self, CaptureError> {
        match File::open(&path) {
            Ok(file) => Ok(Self { path, file, bytes: Vec::new(), words: Vec::new() }),
            Err(error) => Err(refused(path, error)),
        }
    }

    /// Returns the words of a range of frames; those behind the end of the file are `NOPAGE`.
    fn read(&mut self, first: u64, end: u64) -> Result<&[u64], CaptureError> {
        self.bytes.resize((end - first) as usize * 8, 0);
        let mut filled = 0;
        while filled < self.bytes.len() {
            match self.file.read_at(&mut self.bytes[filled..], first * 8 + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(refused(self.path.clone(), error)),
            }
        }
        let (words, _) = self.bytes.as_chunks::<8>();
        self.words.clear();
        self.words.extend(words[..filled / 8].iter().map(|word| u64::from_ne_bytes(*word)));
        self.words.resize((end - first) as usize, NOPAGE);
        Ok(&self.words)
    }
}

/// Gives an error of the system its meaning.
fn refused(path: PathBuf, error: io::Error) -> CaptureError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => CaptureError::Permission(path),
        io::ErrorKind::NotFound => CaptureError::Missing(path),
        _ => CaptureError::Unreadable { path, error },
    }
}

#[cfg(test)]
#[path = "capture_tests.rs"]
mod tests;
