//! All names of frames that this machine can give.
//!
//! Takes a layout of this machine; gives each of its frames an owner: what a process maps, the function that allocated it, a fixed region, a pin that a driver
//! tells of, or just its class. Promises to read only; what a source couldn't tell is counted.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader},
    path::Path,
    time::Duration,
};

use super::{
    kit::Pins,
    mapped::Mapped,
    page_owner::{self, Origin, PageOwner},
    regions::Regions,
    saved::Saved,
    wanted::Wanted,
};
use crate::{
    cancel::{Stop, Stopped},
    layout::{
        FrameClass, Layout, Owned, SourceError,
        capture::CaptureError,
        check::{MAX_OWNER, MAX_OWNERS},
    },
};

/// Names of frames; none by default.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Those of a layout that isn't this machine's, or not as it is now.
    saved: Saved,
    /// What processes map.
    pub(crate) mapped: Mapped,
    /// Who allocated; `None` where the kernel doesn't say.
    pub(crate) allocated: Option<PageOwner>,
    regions: Regions,
    areas: Regions,
    pins: Pins,
    uptime: Duration,
    /// False by default: then there is nothing to tell.
    is_of_machine: bool,
}

/// An owner of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// As it stands in the layout.
    Saved(u32),
    /// Who pinned it, by a driver's list; its class may be any.
    Pinned(u32),
    /// What a process maps, by number.
    Mapped(u32),
    /// The function that allocated it.
    Allocated(u32),
    /// What lies at a fixed place.
    Region(u32),
    /// An area of CMA, by whose driver it's in use.
    Area(u32),
    /// All others of a class, by its place in [`FrameClass::ALL`].
    Class(usize),
}

impl Owner {
    /// Tells whether its frames stay.
    pub(crate) fn stays(self) -> bool {
        if let Self::Class(place) = self { FrameClass::ALL[place].stays() } else { true }
    }
}

/// Why reading a source ended early.
enum Ended {
    Stopped(Stopped),
    /// What was read until then is dropped: half of it would name the lower half of memory only.
    Unreadable,
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self::Unreadable
    }
}

impl Names {
    /// Asks this machine; `progress` hears how much is done, and of how much.
    pub(crate) fn find(layout: &Layout, stop: &Stop, progress: &mut dyn FnMut(u64, u64)) -> Result<Self, Stopped> {
        let mapped = Mapped::find(layout, stop, progress)?;
        let frame_bytes = layout.sizes().frame_bytes;
        let regions = Regions::parse(&fs::read_to_string("/proc/iomem").unwrap_or_default(), frame_bytes);
        let sys = Path::new("/sys");
        let debug = sys.join("kernel/debug");
        let (areas, pins) = (Regions::cma(&debug), Pins::find(&debug));
        let allocated = allocated(layout, sys, stop, progress)?;
        let (saved, uptime) = (Saved::default(), uptime());
        Ok(Self { saved, mapped, allocated, regions, areas, pins, uptime, is_of_machine: true })
    }

    /// Takes those that stand in a layout.
    pub(crate) fn of_file(layout: &Layout) -> Self {
        Self { saved: Saved::of(layout), ..Self::default() }
    }

    /// Gives the names of this machine's frames, as a layout can keep them.
    fn owned(&self, layout: &Layout) -> Vec<Owned> {
        let mut all = BTreeMap::<Owner, Vec<(u64, u64)>>::new();
        let mut at = layout.first_pfn();
        for run in layout.runs() {
            let end = at + run.frames;
            if self.tells(run.class) {
                for pfn in at..end {
                    let owner = self.owner(run.class, pfn);
                    if matches!(owner, Owner::Class(_)) {
                        continue;
                    }
                    let ranges = all.entry(owner).or_default();
                    match ranges.last_mut() {
                        Some((first, frames)) if *first + *frames == pfn => *frames += 1,
                        _ => ranges.push((pfn, 1)),
                    }
                }
            }
            at = end;
        }
        let owned = |(owner, ranges)| Owned {
            name: fit(self.name(owner)),
            source: fit(self.source(owner)),
            processes: self.processes(owner),
            ranges,
        };
        let mut all: Vec<Owned> = all.into_iter().map(owned).collect();
        if all.len() > MAX_OWNERS {
            let frames = |owned: &Owned| owned.ranges.iter().map(|range| range.1).sum::<u64>();
            all.sort_by_cached_key(|owned| Reverse(frames(owned)));
            all.truncate(MAX_OWNERS);
        }
        all
    }

    /// Tells whether frames of a class may have names of their own here.
    fn tells(&self, class: FrameClass) -> bool {
        match class {
            FrameClass::Free | FrameClass::Absent => false,
            _ if !self.saved.is_empty() => true,
            class if class.linux_moves() => !self.pins.is_empty(),
            _ => self.is_of_machine,
        }
    }

    /// Tells whether all frames of a class in a range are known to have one owner.
    pub(super) fn is_uniform(&self, class: FrameClass, first: u64, end: u64) -> bool {
        !self.tells(class) || (!self.is_of_machine && self.saved.is_uniform(first, end))
    }

    /// Gives a frame's owner, by the best source.
    pub(crate) fn owner(&self, class: FrameClass, pfn: u64) -> Owner {
        if let Some(number) = self.saved.number(pfn)
            && !matches!(class, FrameClass::Free | FrameClass::Absent)
        {
            return Owner::Saved(number);
        }
        let allocated = || self.allocated.as_ref().and_then(|allocated| allocated.number(pfn)).map(Owner::Allocated);
        let named = match class {
            FrameClass::DriverMapped => self.mapped.number(pfn).map(Owner::Mapped).or_else(allocated),
            FrameClass::Reserved => self.regions.number(pfn).map(Owner::Region).or_else(allocated),
            FrameClass::Kernel => allocated().or_else(|| self.areas.number(pfn).map(Owner::Area)),
            class if class.linux_moves() => self.pins.number(pfn).map(Owner::Pinned),
            class if class.stays() && class != FrameClass::Absent => allocated(),
            _ => None,
        };
        named.unwrap_or(Owner::Class(class.index()))
    }

    /// Gives an owner's name.
    pub(crate) fn name(&self, owner: Owner) -> String {
        match owner {
            Owner::Saved(number) => self.saved.owner(number).name.clone(),
            Owner::Pinned(number) => self.pins.name(number).to_owned(),
            Owner::Mapped(number) => self.mapped.name(number),
            Owner::Allocated(number) => self.origin(number).map_or(String::new(), |origin| origin.name.clone()),
            Owner::Region(number) => self.regions.name(number).to_owned(),
            Owner::Area(number) => self.areas.name(number).to_owned(),
            Owner::Class(place) => FrameClass::ALL[place].name().to_owned(),
        }
    }

    /// Says what an owner is, or how its name is known.
    pub(crate) fn source(&self, owner: Owner) -> String {
        match owner {
            Owner::Saved(number) => self.saved.owner(number).source.clone(),
            Owner::Pinned(_) => "the driver's list in debugfs".to_owned(),
            Owner::Mapped(_) => "maps and pagemap of its processes".to_owned(),
            Owner::Allocated(number) => self.origin(number).map_or(String::new(), |origin| self.allocation(origin)),
            Owner::Region(_) => "/proc/iomem".to_owned(),
            Owner::Area(_) => "its range in debugfs".to_owned(),
            Owner::Class(place) => FrameClass::ALL[place].description().to_owned(),
        }
    }

    /// Counts the processes of an owner; 0: it isn't a matter of processes.
    pub(crate) fn processes(&self, owner: Owner) -> u64 {
        match owner {
            Owner::Mapped(number) => self.mapped.processes(number),
            Owner::Saved(number) => self.saved.owner(number).processes,
            _ => 0,
        }
    }

    /// Gives the processes that map an owner's frames, some of many.
    pub(crate) fn pids(&self, owner: Owner) -> Vec<u32> {
        if let Owner::Mapped(number) = owner { self.mapped.pids(number) } else { Vec::new() }
    }

    /// Gives a stack that allocated such frames, if the kernel tells.
    pub(crate) fn stack(&self, owner: Owner) -> &[String] {
        match owner {
            Owner::Allocated(number) => self.origin(number).map_or(&[], |origin| &origin.stack),
            _ => &[],
        }
    }

    fn origin(&self, number: u32) -> Option<&Origin> {
        self.allocated.as_ref().map(|allocated| allocated.origin(number))
    }

    /// Says when and in which program memory was allocated.
    fn allocation(&self, origin: &Origin) -> String {
        let mut text = "page_owner".to_owned();
        if !origin.commands.is_empty() {
            text += &format!(", in {}", origin.commands.join(", "));
        }
        if let Some((oldest, newest)) = page_owner::ages(origin, self.uptime) {
            text += &format!(", {} to {} ago", age(newest), age(oldest));
        }
        text
    }
}

/// Gives a layout with the names of its frames. Of this machine (`is_live`): asks it, and gives the layout with what is known better then
/// (memory that is secret looks like page cache, and never moves) and with the names. Else those that stand in it.
pub(crate) fn named(
    layout: Layout,
    is_live: bool,
    stop: &Stop,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Layout, Names), SourceError> {
    if !is_live {
        let names = Names::of_file(&layout);
        return Ok((layout, names));
    }
    let names = Names::find(&layout, stop, progress)?;
    let layout = layout.with_class(&names.mapped.secret(), FrameClass::DriverMapped);
    let owners = names.owned(&layout);
    Ok((layout.with_owners(owners).map_err(CaptureError::from)?, names))
}

/// Makes a name one that a layout takes: a path and a process may be of any bytes, a function or region may have none.
fn fit(mut name: String) -> String {
    while name.len() > MAX_OWNER {
        name.pop();
    }
    if name.is_empty() { "?".to_owned() } else { name }
}

/// Reads `page_owner`, if this kernel has it.
fn allocated(
    layout: &Layout,
    sys: &Path,
    stop: &Stop,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Option<PageOwner>, Stopped> {
    let Ok(file) = File::open(sys.join(page_owner::PATH)) else { return Ok(None) };
    let wanted = Wanted::of(layout, |class| class.stays() && class != FrameClass::Absent);
    let (first, frames) = (layout.first_pfn(), layout.frames());
    let mut look = |pfn: u64| {
        progress(pfn.saturating_sub(first).min(frames), frames);
        stop.check().map_err(Ended::Stopped)
    };
    // Each read gives one record at most, whatever the buffer.
    match PageOwner::read(BufReader::new(file), &wanted, &mut look) {
        Ok(found) => Ok(Some(found)),
        Err(Ended::Stopped(stopped)) => Err(stopped),
        Err(Ended::Unreadable) => Ok(None),
    }
}

/// The time since boot, by the clock of `page_owner`'s times.
fn uptime() -> Duration {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split_whitespace().next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0);
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// A time in the largest unit of which there are two.
fn age(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_well() {
        let texts = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(|seconds| age(Duration::from_secs(seconds)));
        assert_eq!(texts, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days"]);
    }

    #[test]
    fn any_name_fits_in_a_layout() {
        assert_eq!((fit(String::new()), fit("a".into())), ("?".into(), "a".into()));
        // As a path of 4,095 control characters is shown.
        let long = fit("\u{fffd}".repeat(4095));
        assert!(
            long.len() <= MAX_OWNER && long.len() > MAX_OWNER - 3 && long.chars().all(|letter| letter == '\u{fffd}')
        );
    }

    #[test]
    fn without_a_source_a_frame_has_its_class() {
        let names = Names::default();
        for class in FrameClass::ALL {
            let owner = names.owner(class, 5);
            assert_eq!((owner, names.name(owner)), (Owner::Class(class.index()), class.name().to_owned()));
        }
    }

    /// This machine's, as far as this user may read it: the kernel's image is named where root asks.
    #[test]
    fn this_machine_is_asked() {
        let Ok(capture) = Layout::capture(&mut |_, _| Ok(())) else { return };
        // In a container addresses may all be 0.
        let iomem = fs::read_to_string("/proc/iomem").unwrap_or_default();
        let has_image =
            iomem.lines().any(|line| line.ends_with("Kernel code") && !line.trim_start().starts_with("00000000-"));
        let names = Names::find(&capture.layout, &Stop::default(), &mut |_, _| ()).expect("nobody stops it");
        let (mut pfn, mut named) = (capture.layout.first_pfn(), 0);
        for run in capture.layout.runs() {
            for _ in 0..run.frames {
                named += u64::from(matches!(names.owner(run.class, pfn), Owner::Region(_)));
                pfn += 1;
            }
        }
        assert_eq!(named > 100, has_image, "{named} frames of the kernel's image:\n{iomem}");
    }
}
