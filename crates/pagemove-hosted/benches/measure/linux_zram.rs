//! A zram device of this machine's kernel, made for a bench and removed after it. Needs root, and a kernel with zram.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::PathBuf,
};

use pagemove::units::PAGE_SIZE;

/// Pages that one system call reads or writes: the kernel's overhead is the same for few and many.
const CHUNK: usize = 256;

/// A buffer that the kernel's direct access can use.
#[repr(align(4096))]
struct Aligned([u8; CHUNK * PAGE_SIZE]);

/// The device.
pub struct LinuxZram {
    number: String,
    file: Option<File>,
    buffer: Box<Aligned>,
}

impl LinuxZram {
    /// Makes a device of `pages` pages with this compressor; or says why there is none.
    pub fn new(pages: usize, compressor: &str) -> Result<Self, String> {
        let control = "/sys/class/zram-control/hot_add";
        let number = fs::read_to_string(control).map_err(|error| format!("{control}: {error}"))?.trim().to_owned();
        let mut device = Self { number, file: None, buffer: Box::new(Aligned([0; _])) };
        device.set("comp_algorithm", compressor)?;
        device.set("disksize", &(pages * PAGE_SIZE).to_string())?;
        let node = format!("/dev/zram{}", device.number);
        let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(&node);
        device.file = Some(opened.map_err(|error| format!("{node}: {error}"))?);
        Ok(device)
    }

    fn place(&self, name: &str) -> PathBuf {
        ["/sys/block", &format!("zram{}", self.number), name].iter().collect()
    }

    fn set(&self, name: &str, value: &str) -> Result<(), String> {
        let place = self.place(name);
        fs::write(&place, value).map_err(|error| format!("{}: {value}: {error}", place.display()))
    }

    fn file(&self) -> &File {
        self.file.as_ref().expect("open until it is dropped")
    }

    /// Writes all pages.
    pub fn write(&mut self, data: &[[u8; PAGE_SIZE]]) {
        for (pages, at) in data.chunks(CHUNK).zip((0..).step_by(CHUNK * PAGE_SIZE)) {
            let bytes = pages.as_flattened();
            self.buffer.0[..bytes.len()].copy_from_slice(bytes);
            self.file().write_all_at(&self.buffer.0[..bytes.len()], at).expect("zram takes it");
        }
    }

    /// Reads all pages, and checks them.
    pub fn read(&mut self, data: &[[u8; PAGE_SIZE]]) {
        for (pages, at) in data.chunks(CHUNK).zip((0..).step_by(CHUNK * PAGE_SIZE)) {
            let bytes = pages.as_flattened();
            let file = self.file.as_ref().expect("open until it is dropped");
            file.read_exact_at(&mut self.buffer.0[..bytes.len()], at).expect("zram gives it");
            assert!(self.buffer.0[..bytes.len()] == *bytes, "zram gave something else");
        }
    }

    /// Gives the columns of `mm_stat`: bytes before, compressed, and used come first.
    pub fn mm_stat(&self) -> Vec<u64> {
        let text = fs::read_to_string(self.place("mm_stat")).expect("the device is there");
        text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    }
}

impl Drop for LinuxZram {
    fn drop(&mut self) {
        // Closed first: else it is in use.
        self.file = None;
        let removed = self.set("reset", "1").and_then(|()| {
            fs::write("/sys/class/zram-control/hot_remove", &self.number).map_err(|error| error.to_string())
        });
        if let Err(error) = removed {
            eprintln!("zram: device {} is left: {error}", self.number);
        }
    }
}
