//! The comparison with the example kernel: boots stock kernels without any driver of ours, and hears the rows.
//!
//! Takes which kernels, and how often; gives each row's times. The machine is that of all guests: QEMU without KVM.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

use super::{apt::Apt, cache::Cache, guest, kernels::Kernel, kernels::Wanted, module, qemu::Guest};

const LIMIT: Duration = Duration::from_secs(900);

/// What is measured.
pub(crate) struct Asked<'a> {
    pub(crate) kernels: &'a [Wanted],
    pub(crate) boots: usize,
    pub(crate) rounds: usize,
    pub(crate) memory_mib: u32,
}

/// Boots each kernel as often, with the CPU's mitigations on and off; `heard` gets the kernel, the row's name, and its nanoseconds.
///
/// # Errors
/// When a kernel can't be had, or a guest failed.
pub(crate) fn compare(root: &Path, asked: &Asked<'_>, mut heard: impl FnMut(&str, &str, u64)) -> Result<()> {
    let cache = Cache::open(None)?;
    let apts = Apt::open_all(&cache)?;
    let program = guest::program(root)?;
    let orders = format!("compare,{}", asked.rounds);
    for wanted in asked.kernels {
        let kernel = Kernel::find(&apts, wanted)?;
        let image = kernel.image(&cache)?;
        let archive = guest::archive(&program, &[], &module::config(&cache, &kernel)?)?;
        for (words, name) in
            [("", kernel.version.clone()), ("mitigations=off", format!("{}, no mitigations", kernel.version))]
        {
            for boot in 1..=asked.boots {
                eprintln!("compare: booting Linux {name} ({boot} of {})", asked.boots);
                let memory_mib = asked.memory_mib;
                let guest = Guest {
                    image: &image,
                    archive: &archive,
                    orders: &orders,
                    words,
                    memory_mib,
                    is_preallocated: true,
                    limit: LIMIT,
                };
                let mut faults = Vec::new();
                guest.run(|told: &Value| {
                    if let (Some(row), Some(ns)) = (told["row"].as_str(), told["ns"].as_u64()) {
                        heard(&name, row, ns);
                    }
                    if told["ok"].as_bool() == Some(false) {
                        faults.push(told["why"].as_str().unwrap_or_default().to_owned());
                    }
                })?;
                if !faults.is_empty() {
                    bail!("in the guest: {}", faults.join("; "));
                }
            }
        }
    }
    Ok(())
}
