//! The mappings of a process that may have a driver's frames: `/proc/PID/smaps`, whose names are bytes of any kind.
//!
//! Not by a library: those that there are fail or panic at names that aren't UTF-8 or look like others.

/// A mapping of something that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping {
    /// Addresses.
    pub(super) start: u64,
    pub(super) end: u64,
    /// The name, as the kernel writes it.
    pub(super) name: String,
}

/// Reads them: of named objects that have pages in memory, and of what the kernel maps into each process. Passes over lines that it doesn't know.
pub(super) fn parse(text: &[u8]) -> Vec<Mapping> {
    let mut mappings = Vec::new();
    let mut last: Option<Mapping> = None;
    for line in text.split(|&byte| byte == b'\n') {
        if let Some(mapping) = head(line) {
            last = Some(mapping);
        } else if let Some(kib) = line.strip_prefix(b"Rss:")
            && let Some(mapping) = last.take()
        {
            let is_resident = !kib.trim_ascii().starts_with(b"0 ");
            let is_named = !mapping.name.is_empty() && !mapping.name.starts_with('[');
            // Those aren't counted as resident.
            if is_the_kernels(&mapping.name) || is_named && is_resident {
                mappings.push(mapping);
            }
        }
    }
    mappings
}

/// Tells whether a name is of pages that the kernel maps into each process. (Not `[vsyscall]`, which has an address that no process has.)
pub(super) fn is_the_kernels(name: &str) -> bool {
    name.starts_with("[vdso") || name.starts_with("[vvar")
}

/// Reads a line such as `7f00-7f10 rw-s 00000000 00:0b 123   /dev/video0`.
fn head(line: &[u8]) -> Option<Mapping> {
    let mut words = line.splitn(6, |&byte| byte == b' ');
    let addresses = std::str::from_utf8(words.next()?).ok()?;
    let (start, end) = addresses.split_once('-')?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    let (start, end) = (number(start)?, number(end)?);
    let rest = words.nth(3).map(|_| words.next().unwrap_or_default())?;
    let name = String::from_utf8_lossy(rest).trim_start().to_owned();
    Some(Mapping { start, end, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bytes_of_any_kind() {
        let text = b"00400000-00401000 r-xp 00000000 08:01 12                     /usr/bin/a\nRss:     4 kB\n\
7f0000000000-7f0000010000 rw-s 00000000 00:08 77                         socket:[77]\nSize: 64 kB\nRss:     64 kB\n\
7f0000010000-7f0000020000 rw-s 00000000 00:06 9                          /dev/gpu0\nRss:     0 kB\n\
7f0000020000-7f0000030000 rw-p 00000000 00:00 0 \nRss:     64 kB\n\
7f0000030000-7f0000040000 rw-p 00000000 00:00 0                          [heap]\nRss:     64 kB\n\
7f0000040000-7f0000050000 rw-s 00000000 00:01 3                          /SYSV (deleted)\nRss:     64 kB\n\
7f0000050000-7f0000060000 rw-s 00000000 00:01 3                          /srv/caf\xe9 x\nRss:     64 kB\n\
7fff00000000-7fff00001000 r--p 00000000 00:00 0                          [vvar]\nRss:      0 kB\n\
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\nRss:      0 kB\nnonsense\n-\n";
        let names: Vec<String> = parse(text).into_iter().map(|mapping| mapping.name).collect();
        assert_eq!(names, ["/usr/bin/a", "socket:[77]", "/SYSV (deleted)", "/srv/caf\u{fffd} x", "[vvar]"]);
        assert_eq!(
            parse(text)[1],
            Mapping { start: 0x7f00_0000_0000, end: 0x7f00_0001_0000, name: "socket:[77]".into() }
        );
        assert_eq!(parse(b"\xff\n\n1-2\n1-2 a b c d\nRss: 4 kB\nRss:\n"), []);
    }
}
