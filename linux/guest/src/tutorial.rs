//! The tutorial's driver in a kernel: it does what the tutorial's page says.
//!
//! Its pages move under writers with no word lost, as the sample's do in `triggers`, and a page under capture stays.
//! The module's file is beside the sample's in the initramfs.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use pagemove_tutorial::driver::{CAPTURES, PAGES, QUEUE, STAMP, START, STOP};

use crate::device::Device;
use crate::machine::wait_until;
use crate::sys::{self, SHARED};
use crate::triggers::{move_across, to_and_fro};
use crate::verdict::{Outcome, check, expect};
use crate::work::{Scene, mark};

const MODULE: &str = "pagemove_tutorial";

pub(crate) fn tutorial() -> Outcome {
    crate::module::load_module(MODULE, "")?;
    let outcome = grab();
    // Unload in any case: all opens are closed.
    let unloaded = wait_until("the module to be unloaded", || Ok(sys::unload_module(MODULE).is_ok()));
    outcome.and_then(|facts| unloaded.map(|_| facts).map_err(Into::into))
}

fn grab() -> Outcome {
    let file = File::options().read(true).write(true).open("/dev/grab")?;
    let pages = PAGES as usize;
    let map = Device { file: file.try_clone()? }.map(0, pages, SHARED)?;
    let call = |command, page: usize| sys::ioctl(file.as_fd(), command, &mut (page as u64).to_ne_bytes());
    for page in 0..pages {
        call(STAMP, page)?;
        call(QUEUE, page)?;
    }
    check((0..pages).all(|page| map.load(page, 0) == u64::from(u32::from_ne_bytes(*b"grab"))), || {
        "a mapping doesn't show the stamp".to_owned()
    })?;
    expect("a stamp past the end", call(STAMP, pages), libc::ENXIO)?;
    (0..pages).for_each(|page| mark(&map, page));

    let captured: Vec<usize> = (0..CAPTURES).collect();
    captured.iter().try_for_each(|&page| call(START, page).map(drop))?;
    expect("one capture too many", call(START, CAPTURES), libc::ENOSPC)?;
    let scene = Scene { device: Device { file: file.try_clone()? }, map, kept: (CAPTURES..pages).collect() };
    let (calls, report) = to_and_fro(&scene, |scene, node| sys::move_pages(&scene.map, &scene.kept, node).map(drop))?;
    let moved = move_across(&scene.map, &captured)?;
    check(moved == 0, || format!("{moved} of {CAPTURES} pages moved during a capture"))?;
    captured.iter().try_for_each(|&page| call(STOP, page).map(drop))?;
    let moved = move_across(&scene.map, &captured)?;
    check(moved == CAPTURES, || format!("{moved} of {CAPTURES} pages moved after their captures"))?;

    let scene = Scene { kept: (0..pages).collect(), ..scene };
    let wrong = scene.wrong_words();
    check(wrong == 0, || format!("{wrong} words are wrong"))?;
    call(STAMP, 0)?;
    check(stamp_of(&file)? == *b"grab", || "`read` doesn't give the stamp".to_owned())?;
    Ok(format!(
        "{} pages three times in {calls} calls, under {} writes; {CAPTURES} stayed during their captures",
        pages - CAPTURES,
        report.writes
    ))
}

/// Reads the first bytes by `read`.
fn stamp_of(file: &File) -> std::io::Result<[u8; 4]> {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
