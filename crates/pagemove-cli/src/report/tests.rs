//! The page as a whole: what is in it, that it is well formed, and that it appears whole or not at all.

use super::*;
use std::os::unix::fs::PermissionsExt as _;

/// Elements that have no end, so the check of the nesting must not wait for one.
const VOID: [&str; 1] = ["meta"];

/// Checks that every element is closed in order, and gives how many of each were opened.
fn nested(page: &str) -> std::collections::BTreeMap<String, usize> {
    let mut opened = std::collections::BTreeMap::new();
    let mut stack = Vec::new();
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        let tag = &rest[..rest.find('>').expect("a tag ends")];
        assert!(!tag.contains('<'), "a tag within a tag: {tag}");
        rest = &rest[tag.len() + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(stack.pop().as_deref(), Some(name));
        } else if !tag.starts_with('!') {
            let name = tag.split_whitespace().next().unwrap().to_owned();
            *opened.entry(name.clone()).or_default() += 1;
            if let "script" | "style" = name.as_str() {
                // Their text is not markup.
                rest = &rest[rest.find(&format!("</{name}")).expect("it ends")..];
            }
            if !VOID.contains(&name.as_str()) {
                stack.push(name);
            }
        }
    }
    assert_eq!(stack, Vec::<String>::new());
    opened
}

#[test]
fn a_large_page_is_well_formed_and_small_enough_to_mail() {
    let results = fixture::results(2048);
    let page = page(&results).into_string();
    let elements = nested(&page);
    assert!(page.len() < 1_500_000, "{} bytes", page.len());
    assert_eq!(page.matches(r#"<svg class="blocks""#).count(), 6);
    assert_eq!(elements["article"], 3);
    // Every picture has 2,048 cells: the runs' widths add up.
    for picture in page.split(r#"<svg class="blocks""#).skip(1) {
        let picture = &picture[..picture.find("</svg>").unwrap()];
        let cells: usize = picture
            .split(r#" d=""#)
            .skip(1)
            .flat_map(|path| path[..path.find('"').unwrap()].split('M').skip(1))
            .map(|run| run.split(['h', 'v']).nth(1).unwrap().parse::<usize>().unwrap())
            .sum();
        assert_eq!(cells, 2048);
    }
}

#[test]
fn the_page_loads_nothing() {
    let page = page(&fixture::results(64)).into_string();
    for way_out in ["http:", "https:", "src=", "href=", "@import", "url(//", "fetch("] {
        assert!(!page.contains(way_out), "{way_out}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn names_are_text_and_never_markup() {
    let mut results = fixture::results(64);
    let evil = r#"<&>"'</script><script>alert(1)"#;
    results.layout.source = evil.into();
    results.policies[0].policy = evil.into();
    results.policies[1].hostages = vec![(evil.into(), 3)];
    results.policies[1].not_moved = [(evil.to_string(), 3)].into();
    results.policies[0].words_checked = 0;
    let page = page(&results).into_string();
    nested(&page);
    assert!(!page.contains("<&>") && !page.contains("<script>alert"));
    assert!(page.contains("&lt;&amp;&gt;&quot;"));
    assert_eq!(page.matches("</script>").count(), 1);
}

#[test]
fn small_and_empty_runs_have_a_page() {
    for blocks in [0, 1, 2, 65] {
        let page = page(&fixture::results(blocks)).into_string();
        nested(&page);
        assert!(!page.contains("NaN") && !page.contains("inf%"), "{blocks} blocks");
    }
    assert!(page(&fixture::results(0)).into_string().contains("This run compacted no blocks."));

    let mut results = fixture::results(8);
    results.policies.clear();
    results.throughput = Default::default();
    let page = page(&results).into_string();
    nested(&page);
    assert!(page.contains("Nothing was checked") && page.contains("Not measured"));
}

#[test]
fn the_verdict_has_a_sign_for_each_case() {
    let mut results = fixture::results(8);
    assert!(judged(&results).into_string().contains("✓ No data was lost."));
    results.policies[1].words_checked = 0;
    assert!(judged(&results).into_string().contains("under “unmapped”."));
    results.policies[2].stale_reads = 1;
    let broken = page(&results).into_string();
    assert!(broken.contains("✗ Memory was corrupted.") && broken.contains("prove nothing.</h1>"));
}

#[test]
fn the_page_tells_how_to_repeat_the_run() {
    let page = page(&fixture::results(8)).into_string();
    assert!(page.contains("pagemove run --seed 2016"));
    assert!(page.contains("4,096 frames of 4 KiB (16 MiB)"));
}

#[test]
fn the_file_replaces_an_older_one_and_leaves_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let nested = dir.path().join("new/folder");
    let first = write(&fixture::results(1), &nested).unwrap();
    // A second name of the first page: it keeps that page, unless someone writes into it instead of replacing it.
    let kept = dir.path().join("kept");
    std::fs::hard_link(&first, &kept).unwrap();
    let second = write(&fixture::results(2), &nested).unwrap();
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), page(&fixture::results(1)).into_string());
    assert_eq!(first, second);
    assert_eq!(std::fs::read_to_string(&second).unwrap(), page(&fixture::results(2)).into_string());
    assert_eq!(std::fs::read_dir(&nested).unwrap().count(), 1);
    // Not its owner's alone, as a temporary file would be: the same as any new file.
    std::fs::write(nested.join("any"), "").unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
    assert_eq!(mode(&second), mode(&nested.join("any")));
}

#[test]
fn a_failed_write_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // A file where a folder should be, and a folder where the page should be: these fail for root as well.
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = write(&fixture::results(1), &file).unwrap_err();
    assert!(matches!(&error, PageError::Folder { dir, .. } if *dir == file));

    let taken = dir.path().join("taken");
    std::fs::create_dir_all(taken.join(FILE_NAME).join("full")).unwrap();
    let error = write(&fixture::results(1), &taken).unwrap_err();
    assert!(error.to_string().contains(FILE_NAME));
    assert!(matches!(error, PageError::Write { .. }));
    // Nor does it leave half a page under another name.
    assert_eq!(std::fs::read_dir(&taken).unwrap().count(), 1);
}
