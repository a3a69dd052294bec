//! Drivers broken on purpose: each must be caught by the tests that are named with it.
//!
//! Takes the sources on their way to the compilers; gives them with one place changed. Promises that no switch for any of
//! this is in the product, and an error when the place isn't there any more, so that no sabotage passes for caught
//! because it was never built.

use anyhow::{Result, bail};

/// One way to break the driver.
pub(super) struct Sabotage {
    pub(super) name: &'static str,
    /// The end of the file's name.
    file: &'static str,
    from: &'static str,
    to: &'static str,
    /// What has to fail, the kernel's log among it.
    pub(super) tests: &'static [&'static str],
}

/// All of them.
pub(super) const ALL: &[Sabotage] = &[
    Sabotage {
        name: "doesn't point its own table to the copy",
        file: "sample/src/driver.rs",
        from: "entry.store(page.to, Ordering::Relaxed)",
        to: "entry.store(page.from, Ordering::Relaxed)",
        tests: &["policy"],
    },
    Sabotage {
        name: "lets pages past the end be touched",
        file: "pages.c",
        from: "if (index >= i_size_read(mapping->host) >> PAGE_SHIFT)",
        to: "if (index >= 1 << 20)",
        tests: &["past-the-end"],
    },
    Sabotage {
        name: "loses half a page in a move",
        file: "pages.c",
        from: "\tif (!error)\n\t\tpmk_rust_migrate(",
        to: "\tif (!error)\n\t\tmemset(folio_address(dst) + 2048, 0, 2048);\n\tif (!error)\n\t\tpmk_rust_migrate(",
        tests: &["movement"],
    },
    Sabotage {
        name: "forgets a pin",
        file: "kernel.rs",
        from: "Pin::new(self.hold(index, Absent::Create)?, info)",
        to: "Pin::new(self.hold(0, Absent::Create)?, info)",
        tests: &["pins"],
    },
    Sabotage {
        name: "frees a page twice",
        file: "kernel.rs",
        from: "unsafe { pmk_page_put(self.0.as_ptr()) }",
        to: "unsafe { pmk_page_put(self.0.as_ptr()); pmk_page_put(self.0.as_ptr()) }",
        tests: &["read-and-write"],
    },
    Sabotage {
        name: "hands out memory as it is",
        file: "pages.c",
        from: "mapping_gfp_mask(mapping) | __GFP_ZERO",
        to: "mapping_gfp_mask(mapping)",
        tests: &["cleared-and-apart"],
    },
];

impl Sabotage {
    /// Changes the source, if it's the one.
    pub(super) fn apply(&self, file: &str, text: &mut String) -> Result<()> {
        if file.ends_with(self.file) {
            if text.matches(self.from).count() != 1 {
                bail!("sabotage `{}`: {file} has its place not just once; adapt it", self.name);
            }
            *text = text.replace(self.from, self.to);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_place_in_the_sources() {
        for sabotage in ALL {
            let source = match sabotage.file {
                "pages.c" => include_str!("../../../linux/shim/pages.c"),
                "kernel.rs" => include_str!("../../../linux/kit/src/kernel.rs"),
                "sample/src/driver.rs" => include_str!("../../../linux/sample/src/driver.rs"),
                other => panic!("{other} isn't read here"),
            };
            let mut text = source.to_owned();
            sabotage.apply(sabotage.file, &mut text).expect("its place is there");
            assert_ne!(text, source, "{}", sabotage.name);
        }
    }
}
