//! Captures on a thread of its own, so that keys answer at once: a large machine's capture takes seconds.
//!
//! Takes a source of layouts; gives a snapshot for each request, and how far it is. Promises one capture at a time.

use std::{
    panic,
    sync::mpsc::{self, Receiver, Sender},
    thread::{self, JoinHandle},
    time::Instant,
};

use jiff::Timestamp;

use super::snapshot::Snapshot;
use crate::{
    cancel::Stop,
    kernel::{counters, free},
    layout::{Layout, LayoutSource, Sizes, SourceError, capture::CaptureError},
    owners::names::named,
    terminal::plain,
};

/// What the thread tells.
#[derive(Debug)]
pub(crate) enum News {
    /// So many per cent are read.
    Progress(u64),
    /// A capture, or why there is none.
    Done(Result<Box<Snapshot>, SourceError>),
}

/// The thread's other end.
pub(crate) struct Gather {
    requests: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Gather {
    /// Starts the thread. It ends when this is dropped, or the receiver of what it tells.
    pub(crate) fn start(source: LayoutSource, stop: Stop, tell: impl Fn(News) -> bool + Send + 'static) -> Self {
        let (requests, received): (_, Receiver<()>) = mpsc::channel();
        // Left behind in a capture, it ends with the program.
        let thread = thread::spawn(move || {
            for () in received {
                let mut last = 0;
                let done = gather(&source, &stop, &mut |done, total| {
                    let percent = done * 100 / total.max(1);
                    if percent != last {
                        last = percent;
                        tell(News::Progress(percent));
                    }
                });
                if !tell(News::Done(done.map(Box::new))) {
                    return;
                }
            }
        });
        Self { requests, thread: Some(thread) }
    }

    /// Asks for a capture.
    pub(crate) fn request(&self) {
        // A thread that has panicked is seen below.
        let _ = self.requests.send(());
    }

    /// Goes on with the thread's panic, if it had one.
    pub(crate) fn check(&mut self) {
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished())
            && let Err(panicked) = thread.join()
        {
            panic::resume_unwind(panicked);
        }
    }
}

/// Captures once; without frames where this user may not read them.
pub(crate) fn gather(
    source: &LayoutSource,
    stop: &Stop,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Snapshot, SourceError> {
    let start = Instant::now();
    match capture(source, stop, progress) {
        Err(SourceError::Live(error @ (CaptureError::Permission(_) | CaptureError::Missing(_)))) => {
            let mut snapshot = Snapshot::without_frames("this machine".to_owned(), Sizes::of_this_machine());
            snapshot.lacks = Some(lacks(&error));
            add_counts(&mut snapshot, start);
            Ok(snapshot)
        }
        captured => captured.map(|(snapshot, _)| snapshot),
    }
}

/// Captures once, with frames.
pub(crate) fn capture(
    source: &LayoutSource,
    stop: &Stop,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Snapshot, Layout), SourceError> {
    let start = Instant::now();
    let (layout, _) = source.open(stop, progress)?;
    let is_live = *source == LayoutSource::Live;
    let (layout, names) = named(layout, is_live, stop, &mut |_, _| {})?;
    let mut snapshot = Snapshot::of(&layout, &names);
    stop.check()?;
    snapshot.took_us = micros(start);
    if is_live {
        add_counts(&mut snapshot, start);
    }
    Ok((snapshot, layout))
}

/// Adds what anybody may read, and the time.
fn add_counts(snapshot: &mut Snapshot, start: Instant) {
    let counts = counters::read(&counters::vmstat());
    snapshot.counters = counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    snapshot.free_blocks = free::read(snapshot.pageblock_order);
    snapshot.at = Timestamp::now();
    snapshot.took_us = micros(start);
}

fn micros(start: Instant) -> u64 {
    start.elapsed().as_micros().try_into().unwrap_or(u64::MAX)
}

/// Says what isn't shown, and how to see it.
fn lacks(error: &CaptureError) -> String {
    let more = match error {
        CaptureError::Permission(_) => "As root",
        _ => "With a kernel that has it",
    };
    plain(&format!("{more}: what is in each block, and who holds it ({error})."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_gives_one_capture() {
        let (send, news) = mpsc::channel();
        let gather = Gather::start(LayoutSource::Sample, Stop::default(), move |news| send.send(news).is_ok());
        for _ in 0..2 {
            gather.request();
            let News::Done(Ok(snapshot)) = news.recv().expect("an answer") else { panic!("no capture") };
            assert!(snapshot.blocks.is_some() && snapshot.counters.is_empty(), "a file has no counters");
        }
        drop(gather);
        assert!(news.recv().is_err(), "the thread ends");
    }

    /// As root with frames, without them else; counters and free blocks in any case.
    #[test]
    fn this_machine_is_captured_as_far_as_this_user_may() {
        let snapshot = gather(&LayoutSource::Live, &Stop::default(), &mut |_, _| {}).expect("a capture");
        assert_eq!(snapshot.blocks.is_some(), snapshot.lacks.is_none());
        assert!(!snapshot.free_blocks.is_empty(), "{snapshot:?}");
        let denied = lacks(&CaptureError::Permission("/proc/kpageflags".into()));
        assert!(denied.starts_with("As root: what is in each block") && denied.contains("root only"), "{denied}");
    }
}
