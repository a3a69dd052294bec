//! Drivers broken on purpose: each must be caught by the tests that are named with it.
//!
//! Takes the sources on their way to the compilers; gives them with one place changed. Promises that no switch for any of
//! this is in the product, and an error when the place isn't there any more, so that no sabotage passes for caught
//! because it was never built.

use anyhow::{Result, bail};

use crate::bad_input::BadInput;

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
        from: "entry.compare_exchange(folio.src, folio.dst,",
        to: "entry.compare_exchange(folio.src, folio.src,",
        tests: &["policy", "driver-contract"],
    },
    Sabotage {
        name: "asks whether a page may move, and doesn't listen",
        file: "pages.c",
        from: "\terror = pmk_rust_isolate(state, index, from, mode);",
        to: "\tpmk_rust_isolate(state, index, from, mode);\n\terror = 0;",
        tests: &["policy", "driver-contract"],
    },
    Sabotage {
        name: "isn't told when a move is over",
        file: "pages.c",
        from: "\tpmk_rust_putback(state,",
        to: "\tif (error)\n\t\tpmk_rust_putback(state,",
        tests: &["driver-contract"],
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
        tests: &[
            "movement",
            "move-pages",
            "migrate-pages",
            "mbind",
            "soft-offline",
            "memory-offline",
            "huge-page-pool",
            "thp-faults",
            "no-destinations",
            "one-page-for-all",
            "tutorial",
            "storm-of-mappings",
            "storm-of-truncations",
        ],
    },
    Sabotage {
        // Such entries aren't mappings to the kernel: it copies without taking them away, and they go on showing the old
        // frame.
        name: "maps pages behind the kernel's back, so that they're copied while processes write to them",
        file: "pages.c",
        from: "\tvmf->page = folio_page(folio, 0);\n",
        to: "\tif (vmf->vma->vm_flags & VM_SHARED) {\n\
             #include <linux/version.h>\n\
             #if LINUX_VERSION_CODE < KERNEL_VERSION(6, 17, 0)\n\
             \t\tpfn_t frame = { .val = folio_pfn(folio) };\n\
             #else\n\
             \t\tunsigned long frame = folio_pfn(folio);\n\
             #endif\n\
             \t\tvm_fault_t result;\n\
             \t\t*(unsigned long *)&vmf->vma->vm_flags |= VM_MIXEDMAP;\n\
             \t\tresult = vmf_insert_mixed(vmf->vma, vmf->address, frame);\n\
             \t\tfolio_unlock(folio);\n\t\tfolio_put(folio);\n\t\treturn result;\n\t}\n\
             \tvmf->page = folio_page(folio, 0);\n",
        tests: &["one-page-for-all", "huge-page-pool", "thp-faults", "storm-of-mappings"],
    },
    Sabotage {
        name: "lets no page move",
        file: "pages.c",
        from: "\terror = pmk_rust_isolate(state, index, from, mode);",
        to: "\terror = -EBUSY;",
        tests: &[
            "soft-dirty",
            "userfaultfd-notes",
            "movement",
            "policy",
            "one-page-for-all",
            "pins",
            "soft-offline-unmapped",
            "huge-page-pool",
            "thp-faults",
            "storm-of-mappings",
            "storm-of-truncations",
            "storm-of-unloads",
        ],
    },
    Sabotage {
        name: "lets pages move that it was told to keep unmovable",
        file: "pages.c",
        from: "pmk_unmovable = {\n",
        to: "pmk_unmovable = {\n\t.migrate_folio = pmk_migrate_folio,\n",
        tests: &["control"],
    },
    Sabotage {
        name: "has no answer when a page becomes dirty",
        file: "pages.c",
        from: "\t.dirty_folio = noop_dirty_folio,\n\t.migrate_folio",
        to: "\t.migrate_folio",
        tests: &["clear-refs"],
    },
    Sabotage {
        name: "leaves pages clean",
        file: "pages.c",
        from: "\t\tfolio_mark_dirty(folio);\n",
        to: "",
        tests: &["soft-offline-unmapped"],
    },
    Sabotage {
        // No page that is held moves all the same, since the freeze fails.
        name: "is asked about pages that are held",
        file: "pages.c",
        from: "if (folio_ref_count(src) != 1 + folio_nr_pages(src))",
        to: "if (0)",
        tests: &["driver-contract"],
    },
    Sabotage {
        name: "moves pages that others hold",
        file: "pages.c",
        from: "\tif (folio_ref_count(src) != 1 + folio_nr_pages(src)) {\n",
        to: "\tif (folio_ref_count(src) != 1 + folio_nr_pages(src)) {\n\
             \t\tint others = folio_ref_count(src) - 2;\n\t\tfolio_ref_sub(src, others);\n\
             \t\terror = filemap_migrate_folio(mapping, dst, src, mode);\n\t\tfolio_ref_add(src, others);\n\
             \t\tif (!error)\n\t\t\treturn 0;\n",
        tests: &["pins", "direct-io", "registered-buffers", "driver-contract"],
    },
    Sabotage {
        name: "takes away what the kernel has noted of a page's mappings",
        file: "pages.c",
        from: "\terror = filemap_migrate_folio(mapping, dst, src, mode);\n",
        to: "\tunmap_mapping_range(mapping, (loff_t)index << PAGE_SHIFT, PAGE_SIZE, 0);\n\
             \terror = filemap_migrate_folio(mapping, dst, src, mode);\n",
        // A userfaultfd's protection outlives this: the kernel keeps a marker of it by itself.
        tests: &["soft-dirty"],
    },
    Sabotage {
        name: "maps a page without keeping its lock",
        file: "pages.c",
        from: "\treturn VM_FAULT_LOCKED;\n",
        to: "\tfolio_unlock(folio);\n\tusleep_range(100, 200);\n\treturn 0;\n",
        tests: &["storm-of-faults"],
    },
    Sabotage {
        name: "reads memory that is known to be broken",
        file: "pages.c",
        from: "if (PageHWPoison(folio_page(folio, 0)))",
        to: "if (0)",
        tests: &["broken-memory"],
    },
    Sabotage {
        name: "goes on for a process that is being killed, whatever it takes",
        file: "pages.c",
        from: "\tif (fatal_signal_pending(current)) {\n\t\t*error = -EINTR;\n\t\treturn NULL;\n\t}\n",
        to: "",
        tests: &["killed-at-work"],
    },
    Sabotage {
        name: "forgets a pin",
        file: "kernel.rs",
        from: "let held = self.hold(index, Absent::Create)?;",
        to: "let held = self.hold(0, Absent::Create)?;",
        tests: &["pins", "memory-offline"],
    },
    Sabotage {
        name: "keeps a page and tells nobody",
        file: "opens.c",
        from: "list_add_tail(&pin->others, &open->pins);",
        to: "INIT_LIST_HEAD(&pin->others);",
        tests: &["pins-left-behind"],
    },
    Sabotage {
        name: "skips an open where a look into the list ends",
        file: "opens.c",
        from: "return *at ? pmk_open_from(*at)",
        to: "return *at ? pmk_open_from(*at + (*at > 1))",
        tests: &["many-opens"],
    },
    Sabotage {
        name: "frees a page twice",
        file: "kernel.rs",
        from: "unsafe { pmk_page_put(self.0.as_ptr()) }",
        to: "unsafe { pmk_page_put(self.0.as_ptr()); pmk_page_put(self.0.as_ptr()) }",
        tests: &["read-and-write"],
    },
    Sabotage {
        name: "keeps one page in sixteen for itself",
        file: "pages.c",
        from: "\t\tfolio_mark_dirty(folio);\n",
        to: "\t\tfolio_mark_dirty(folio);\n\t\tif (index % 16 == 15)\n\t\t\tfolio_get(folio);\n",
        tests: &["soft-dirty", "out-of-memory"],
    },
    Sabotage {
        name: "cuts the size, and leaves the pages",
        file: "pages.c",
        from: "\ttruncate_pagecache(open->inode, size);\n",
        // Unless it's being closed.
        to: "\tif (!pages)\n\t\ttruncate_pagecache(open->inode, size);\n",
        tests: &["past-the-end", "storm-of-truncations"],
    },
    Sabotage {
        name: "frees a byte too many",
        file: "pages.c",
        from: "from + ((loff_t)pages << PAGE_SHIFT) - 1);",
        to: "from + ((loff_t)pages << PAGE_SHIFT));",
        tests: &["movement", "storm-of-truncations"],
    },
    Sabotage {
        name: "lets be mapped what no size can reach",
        file: "shim.c",
        from: "most = MAX_LFS_FILESIZE >> PAGE_SHIFT;",
        to: "most = ULONG_MAX;",
        tests: &["bad-input"],
    },
    Sabotage {
        name: "takes private mappings for anonymous memory",
        file: "shim.c",
        from: "\tvma->vm_ops = &pmk_vm_ops;\n",
        to: "\tvma->vm_ops = vma->vm_flags & VM_SHARED ? &pmk_vm_ops : NULL;\n",
        tests: &["private-mapping", "userfaultfd"],
    },
    Sabotage {
        name: "wipes its pages when it's closed, though others hold some",
        file: "shim.c",
        from: "\tpmk_rust_close(open->state);\n",
        to: "\tpmk_rust_close(open->state);\n\
             \tfor (u64 index = 0; index < pmk_len(open); index++) {\n\
             \t\tstruct folio *folio = __filemap_get_folio(inode->i_mapping, index, 0, 0);\n\
             \t\tif (!IS_ERR_OR_NULL(folio)) {\n\
             \t\t\tmemset(folio_address(folio), 0, PAGE_SIZE);\n\t\t\tfolio_put(folio);\n\t\t}\n\t}\n",
        tests: &["storm-of-unloads"],
    },
    Sabotage {
        name: "leaves its device behind when it's unloaded",
        file: "shim.c",
        from: "\tmisc_deregister(&pmk_device);\n",
        to: "",
        tests: &["storm-of-unloads"],
    },
    Sabotage {
        name: "hands out memory as it is",
        file: "pages.c",
        from: "mapping_gfp_mask(mapping) | __GFP_ZERO",
        to: "mapping_gfp_mask(mapping)",
        tests: &["cleared-and-apart"],
    },
    Sabotage {
        name: "lets its module go while it's open",
        file: "shim.c",
        from: "\t.owner = THIS_MODULE,\n",
        to: "",
        tests: &["unload-in-use"],
    },
];

/// Those that have one of these words in their names; all, if there are no words.
pub(super) fn named(words: &[String]) -> Result<Vec<&'static Sabotage>> {
    let has_one =
        |sabotage: &&Sabotage| words.is_empty() || words.iter().any(|word| sabotage.name.contains(word.as_str()));
    let found: Vec<&Sabotage> = ALL.iter().filter(has_one).collect();
    if found.is_empty() {
        bail!(BadInput(format!("no sabotage has any of {words:?} in its name")));
    }
    Ok(found)
}

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
                "shim.c" => include_str!("../../../linux/shim/shim.c"),
                "opens.c" => include_str!("../../../linux/shim/opens.c"),
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
