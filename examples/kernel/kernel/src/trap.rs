//! Interrupts and exceptions, and the way to ring 3.

use pagemove_x86::fault::{PageFaultErrorCode, access};
use x86_64::{instructions::interrupts, registers::control::Cr2};

use crate::{apic, console, cpu, platform, sched, syscall};

/// Vector and x87 registers with their control words, as FXSAVE writes them.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct Vectors([u8; 512]);

impl Default for Vectors {
    /// All 0, exceptions masked: what the ABI gives a new process.
    fn default() -> Self {
        let mut bytes = [0; 512];
        bytes[..2].copy_from_slice(&0x37fu16.to_le_bytes());
        bytes[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        Self(bytes)
    }
}

/// The registers of the interrupted code, as `entry.s` saves them.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Frame {
    vectors: Vectors,
    pub(crate) r15: u64,
    pub(crate) r14: u64,
    pub(crate) r13: u64,
    pub(crate) r12: u64,
    pub(crate) r11: u64,
    pub(crate) r10: u64,
    pub(crate) r9: u64,
    pub(crate) r8: u64,
    pub(crate) rbp: u64,
    pub(crate) rdi: u64,
    pub(crate) rsi: u64,
    pub(crate) rdx: u64,
    pub(crate) rcx: u64,
    pub(crate) rbx: u64,
    pub(crate) rax: u64,
    vector: u64,
    error: u64,
    pub(crate) rip: u64,
    cs: u64,
    rflags: u64,
    pub(crate) rsp: u64,
    ss: u64,
}

const PAGE_FAULT: u64 = 14;
const USER_CODE: u64 = 0x23;
const USER_DATA: u64 = 0x1b;

impl Frame {
    /// Registers for ring 3, with interrupts on.
    pub(crate) fn of_user(rip: u64, rsp: u64) -> Self {
        Self { rip, rsp, cs: USER_CODE, ss: USER_DATA, rflags: 0x202, ..Self::default() }
    }

    fn is_of_user(&self) -> bool {
        self.cs & 3 == 3
    }
}

/// Called by `entry.s`, with interrupts masked.
#[unsafe(no_mangle)]
extern "C" fn interrupt(frame: &mut Frame) {
    match frame.vector {
        apic::TIMER => {
            apic::end();
            platform::check_root();
            sched::tick();
        }
        apic::WORK => {
            apic::end();
            platform::machine().answer();
        }
        apic::RESCHEDULE => {
            apic::end();
            cpu::set_wants_switch(true);
        }
        PAGE_FAULT => page_fault(frame),
        vector if vector < 32 => exception(frame),
        _ => (),
    }
    if frame.is_of_user() {
        let is_ending = sched::current().process.as_ref().is_some_and(|process| process.is_ending());
        if is_ending {
            interrupts::enable();
            end_thread();
        }
    }
    if cpu::may_switch() {
        sched::preempt();
    }
}

fn page_fault(frame: &mut Frame) {
    let at = Cr2::read_raw();
    let code = PageFaultErrorCode::from_bits_truncate(frame.error);
    if !frame.is_of_user() {
        panic!("a page fault of the kernel at {at:#x} ({code:?}), instruction {:#x}", frame.rip);
    }
    // The fault may wait for a moving page, and for other processors.
    interrupts::enable();
    let thread = sched::current();
    thread.count_fault(at);
    if let Some(process) = &thread.process {
        syscall::fault(process, at, access(code), frame);
    }
    drop(thread);
    interrupts::disable();
}

fn exception(frame: &Frame) {
    if !frame.is_of_user() {
        panic!("exception {} of the kernel ({:#x}), instruction {:#x}", frame.vector, frame.error, frame.rip);
    }
    let thread = sched::current();
    if let Some(process) = &thread.process {
        interrupts::enable();
        process.kill(format_args!("exception {}, instruction {:#x}", frame.vector, frame.rip));
        interrupts::disable();
    } else {
        console::print!("exception {} in ring 3 without a process\n", frame.vector);
    }
}

/// Ends the running thread of a process.
pub(crate) fn end_thread() -> ! {
    let thread = sched::current();
    if let Some(process) = &thread.process {
        process.thread_ends();
    }
    drop(thread);
    sched::exit()
}

/// Continues in ring 3. The frame is at the end of this thread's kernel stack.
pub(crate) extern "C" fn enter_user(frame: &Frame) -> ! {
    unsafe extern "C" {
        fn return_to_frame();
    }
    interrupts::disable();
    // SAFETY: a frame of ring 3; what is on this stack is not needed any more.
    unsafe {
        core::arch::asm!("mov rsp, {}", "jmp {}", in(reg) frame, sym return_to_frame, options(noreturn));
    }
}
