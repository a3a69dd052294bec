//! The page as a whole: what is in it, and that names are text.

use super::*;
use crate::{
    kernel::free,
    layout::{Layout, Run, Sizes, Zone},
    owners::names::Names,
};

#[test]
fn the_page_tells_what_the_census_counts() {
    let (sample, names) = (Layout::sample(), Names::default());
    let mut view = View::of(&sample, &names);
    view.free_blocks = free::parse("Node 0, zone   Normal    8    4    0\n", 2);
    let page = page(&view).into_string();
    let hostages = thousands(view.census.total.blocks.hostage);
    for words in [
        &format!("<h1>{hostages} of 1,024 blocks of 2 MiB are held hostage.</h1>"),
        "driver, mapped",
        "could be emptied",
        "Free blocks by order",
        "Pinned pages look like others here",
    ] {
        assert!(page.contains(words), "{words:?} isn't in the page");
    }
    assert!(page.len() < 1 << 20, "{} bytes", page.len());
    for way_out in ["http:", "https:", "src=", "href=", "@import", "url(", "fetch("] {
        assert!(!page.contains(way_out), "{way_out}");
    }
}

#[test]
fn names_are_text_and_never_markup() {
    use FrameClass::*;
    let evil = r#"<&>"'</script><script>alert(1)"#;
    let zone = Zone { name: evil.into(), node: 0, start_pfn: 0, spanned: 8, present: 8 };
    let runs = [(Free, 3), (Slab, 5)].map(Run::from).to_vec();
    let layout = Layout::new(evil.into(), Sizes::usual(2), vec![zone], runs).expect("consistent");
    let names = Names::default();
    let page = page(&View::of(&layout, &names)).into_string();
    assert!(!page.contains("<&>") && !page.contains("<script>alert"), "{page}");
    assert_eq!(page.matches("</script>").count(), 2);
    assert!(page.contains("1 of 2 blocks of 16 KiB are held hostage"));
}

#[test]
fn a_layout_without_hostages_has_a_page() {
    let zone = Zone { name: "Normal".into(), node: 0, start_pfn: 0, spanned: 8, present: 8 };
    let runs = [(FrameClass::Free, 8)].map(Run::from).to_vec();
    let layout = Layout::new("test".into(), Sizes::usual(2), vec![zone], runs).expect("consistent");
    let names = Names::default();
    let page = page(&View::of(&layout, &names)).into_string();
    assert!(page.contains("None of 2 blocks of 16 KiB is held hostage") && page.contains("No block is held hostage."));
}
