# Entries from interrupts, exceptions and system calls. All make a `Frame`, call Rust, and return by IRETQ.
#
# The kernel uses vector registers, so each entry saves them, on the thread's own stack. So a switch between threads needn't, and what ring 3
# has in them is never another thread's. FXSAVE covers all that ring 3 can use: without CR4.OSXSAVE there is no AVX.

    .section .text
    .macro save
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    # 7 and 15 words from an aligned stack: aligned to 16, as FXSAVE and the call ask.
    sub rsp, 512
    fxsave [rsp]
    # Ring 3's exceptions and rounding aren't the kernel's, and compiled code relies on the usual ones.
    ldmxcsr [usual_mxcsr]
    .endm
    .macro restore
    fxrstor [rsp]
    add rsp, 512
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    .endm

# One stub of 16 bytes for each vector; those exceptions that push no error code push 0.
    .balign 16
    .global vectors
vectors:
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    push 0
    .endif
    push vector
    jmp interrupted
    .set vector, vector + 1
    .endr

interrupted:
    test byte ptr [rsp + 24], 3
    jz from_kernel
    swapgs
from_kernel:
    save
    mov rdi, rsp
    cld
    call interrupt
    .global return_to_frame
return_to_frame:                # rsp: a `Frame`
    restore
    add rsp, 16
    test byte ptr [rsp + 8], 3
    jz to_kernel
    swapgs
to_kernel:
    iretq

    .global system_call_entry
system_call_entry:
    swapgs
    mov gs:[16], rsp            # the user's, for a moment; interrupts are masked
    mov rsp, gs:[8]             # the thread's kernel stack
    push 0x1b                   # ss
    push qword ptr gs:[16]
    push r11                    # rflags
    push 0x23                   # cs
    push rcx                    # rip
    push 0
    push 0
    save
    mov rdi, rsp
    sti
    cld
    call system_call
    cli
    jmp return_to_frame

# switch_stacks(save: *mut usize, to: usize): keeps what a call must keep, and returns on the other stack.
    .global switch_stacks
switch_stacks:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    mov rsp, rsi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

# Where a new thread begins: its function is in r12, the argument in r13. Both are as in `Thread::new`.
    .global begin_thread
begin_thread:
    call thread_begins
    mov rdi, r13
    call r12
    ud2

    .section .rodata
    .balign 4
usual_mxcsr:
    .long 0x1f80                # all exceptions masked, to nearest
