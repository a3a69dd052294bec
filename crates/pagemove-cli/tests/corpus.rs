//! Every file of the fuzz targets' corpus, through the functions that the targets call. What a fuzzer found once stays found.

use std::{fs, path::PathBuf};

fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../../fuzz/corpus", target].iter().collect();
    let mut files = 0;
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a file").path();
        let bytes = fs::read(&path).expect("reads");
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&bytes))) {
            eprintln!("{} fails", path.display());
            std::panic::resume_unwind(panic);
        }
        files += 1;
    }
    assert!(files > 5, "{files} files in {}", folder.display());
}

#[test]
fn layout_files() {
    replay("layout_file", pagemove_cli::fuzz::layout_file);
}

#[test]
fn zoneinfo() {
    replay("zoneinfo", pagemove_cli::fuzz::zoneinfo);
}

#[test]
fn captures() {
    replay("capture", pagemove_cli::fuzz::capture);
}
