//! Output to the host, over the console.

use std::fs;
use std::io::Write;
use std::time::Duration;

use crate::sys;

/// Prints one line for the host.
pub(crate) fn tell(json: &str) {
    // Without a console there is nobody to report to.
    let _ = std::io::stdout().write_all(format!("\n@pagemove {json}\n").as_bytes());
}

/// Ends the guest: after a kernel complaint or a hang, later results mean nothing.
pub(crate) fn give_up(test: &str, why: &str) -> ! {
    for who in [test, "guest"] {
        tell(&format!("{{\"test\":{who:?},\"ok\":false,\"why\":{why:?}}}"));
    }
    tell("{\"end\":true}");
    // The serial console is slow, and a reboot discards unsent output.
    std::thread::sleep(Duration::from_secs(2));
    // Reboots at once, without waiting for any process.
    let _ = fs::write("/proc/sysrq-trigger", "b");
    sys::power_off();
}
