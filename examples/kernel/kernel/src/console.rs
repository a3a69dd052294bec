//! The serial port, and the end of the machine.

use core::fmt::{self, Write};

use pagemove_x86::Platform;
use spin::Mutex;
use uart_16550::{Config, Uart16550, backend::PioBackend};
use x86_64::instructions::{interrupts, port::Port};

use crate::{cpu, platform::Kernel};

static PORT: Mutex<Option<Uart16550<PioBackend>>> = Mutex::new(None);

/// For the machine's last words.
struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        send(text.as_bytes());
        Ok(())
    }
}

/// Writes bytes as one piece. Interrupts stay on, since a port is slow, and other processors may wait for this one's answer. So no handler
/// may write, except when the machine ends.
pub(crate) fn write_bytes(bytes: &[u8]) {
    cpu::disable_preemption();
    send(bytes);
    Kernel::enable_preemption();
}

fn send(bytes: &[u8]) {
    let mut port = PORT.lock();
    if port.is_none() {
        // SAFETY: COM1, which nobody else uses.
        if let Ok(mut uart) = unsafe { Uart16550::new_port(0x3f8) } {
            let _ = uart.init(Config::default());
            *port = Some(uart);
        }
    }
    let Some(uart) = port.as_mut() else { return };
    for &byte in bytes {
        while uart.try_send_byte(byte).is_err() {
            core::hint::spin_loop();
        }
    }
}

pub(crate) fn print_arguments(arguments: fmt::Arguments<'_>) {
    // One line at a time, so that lines of several processors don't mix.
    let mut line = Line { bytes: [0; 256], len: 0 };
    let _ = line.write_fmt(arguments);
    line.flush();
}

struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Line {
    fn flush(&mut self) {
        write_bytes(&self.bytes[..self.len]);
        self.len = 0;
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.len == self.bytes.len() {
                self.flush();
            }
            self.bytes[self.len] = byte;
            self.len += 1;
        }
        Ok(())
    }
}

macro_rules! print {
    ($($arguments:tt)*) => { $crate::console::print_arguments(format_args!($($arguments)*)) };
}
pub(crate) use print;

/// Ends the machine (QEMU's `isa-debug-exit`): its exit code is 33 if all went well, 35 if something failed.
pub(crate) fn exit(failed: bool) -> ! {
    // SAFETY: the device is made for this.
    unsafe { Port::<u32>::new(0xf4).write(if failed { 17 } else { 16 }) };
    loop {
        x86_64::instructions::hlt();
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    interrupts::disable();
    // The lock may be held by the code that panicked.
    // SAFETY: the machine ends.
    unsafe { PORT.force_unlock() };
    let _ = writeln!(Serial, "\nPANIC on processor {}: {info}", crate::cpu::number_or_zero());
    // The callers, by their frame pointers; `addr2line` names them.
    let mut at: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) at) };
    for _ in 0..24 {
        if at < crate::DIRECT_MAP || !at.is_multiple_of(8) {
            break;
        }
        // SAFETY: a frame of the kernel's stack.
        let (up, caller) = unsafe { ((at as *const u64).read(), (at as *const u64).add(1).read()) };
        let _ = write!(Serial, " {caller:#x}");
        at = up;
    }
    let _ = writeln!(Serial);
    exit(true)
}
