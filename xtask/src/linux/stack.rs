//! How much of the kernel's stack the Rust object takes.
//!
//! Takes what `objdump` prints of an object; fails where a function takes more than the kernel's own build lets C take. A
//! stack has 16 KiB, moves come late in deep chains of calls, and nothing looks whether a large frame has stepped over
//! the guard at its end.

use anyhow::{Result, bail};

/// The most a function may take, in bytes: the kernel's `CONFIG_FRAME_WARN` on 64 bits.
const MOST: u64 = 2048;

/// The same for `open`, which gives a driver's state (4096 bytes at most) by value, twice at times, and comes by a short way.
const MOST_OF_OPEN: u64 = 2 * 4096 + 512;

/// Looks at each function of a listing.
pub(super) fn check(listing: &str) -> Result<()> {
    let mut function = "";
    let mut bytes = 0;
    for line in listing.lines() {
        if let Some((_, name)) = line.strip_suffix(">:").and_then(|line| line.split_once(" <")) {
            // Labels within a function begin with a dot.
            if !name.starts_with('.') {
                (function, bytes) = (name, 0);
            }
        } else if line.contains("\tpush ") {
            bytes += 8;
        } else if line.contains("\tsub ")
            && let Some((_, rest)) = line.split_once("$0x")
            && let Some((number, _)) = rest.split_once(",%rsp")
        {
            bytes += u64::from_str_radix(number, 16)?;
        } else {
            continue;
        }
        // As a name is written in symbols: its length, then itself.
        let is_open = function == "pmk_rust_open" || function.contains("4open");
        let most = if is_open { MOST_OF_OPEN } else { MOST };
        if bytes > most {
            bail!(
                "{function} takes {bytes} bytes of the kernel's small stack, where {most} are the most: use less at once"
            );
        }
    }
    if function.is_empty() {
        bail!("no function is in the object's listing");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_frames_are_refused() {
        let listing = |name: &str, bytes: u64| {
            format!(
                "\n0000000000000010 <{name}>:\n  10:\tpush   %rbp\n  12:\tsub    ${bytes:#x},%rsp\n\n0000000000000018 <.Ltmp1>:\n  \
                 18:\tsub    $0x8,%rax\n"
            )
        };
        check(&listing("pmk_rust_ioctl", MOST - 8)).expect("is the most");
        let error = check(&listing("pmk_rust_ioctl", MOST)).expect_err("is one push more").to_string();
        assert!(error.starts_with("pmk_rust_ioctl takes 2056 bytes"), "{error}");
        check(&listing("pmk_rust_open", MOST)).expect("has the driver's state");
        check(&listing("_RNvXCs5_6driver6deviceNtB2_6Driver4open", MOST_OF_OPEN)).expect_err("is too much even so");
        check("driver.o: file format elf64-x86-64\n").expect_err("nothing to look at");
    }
}
