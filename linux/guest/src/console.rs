//! What the guest says to the machine outside.

use std::fs;
use std::io::Write;
use std::time::Duration;

use crate::sys;

/// Says something to the machine outside.
pub(crate) fn tell(json: &str) {
    // There's nobody to complain to if the console is gone.
    let _ = std::io::stdout().write_all(format!("\n@pagemove {json}\n").as_bytes());
}

/// Ends the guest: where the kernel has complained, or doesn't come back, nothing that comes after says anything.
pub(crate) fn give_up(test: &str, why: &str) -> ! {
    for who in [test, "guest"] {
        tell(&format!("{{\"test\":{who:?},\"ok\":false,\"why\":{why:?}}}"));
    }
    tell("{\"end\":true}");
    // The console is a slow line, and forgets what it has not sent yet.
    std::thread::sleep(Duration::from_secs(2));
    // At once, and without asking anybody to finish what he's doing.
    let _ = fs::write("/proc/sysrq-trigger", "b");
    sys::power_off();
}
