# From the loader (PVH: 32 bits, no paging) to `start` at -2 GiB; and from a start-up interrupt (16 bits) to `start_cpu`.

    .set BASE, 0xffffffff80000000
    .set EFER, 0xc0000080

# PCIDs, if the CPU has them: in long mode, while CR3's low bits are 0.
    .macro enable_pcids
    mov eax, 1
    cpuid
    bt ecx, 17
    jnc 1f
    mov rax, cr4
    bts rax, 17                 # PCIDE
    mov cr4, rax
1:
    .endm

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18              # the name's and the contents' size; XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_start

    .section .boot.text, "ax"
    .code32
    .global pvh_start
pvh_start:
    mov edi, ebx                # hvm_start_info
    mov eax, 0x80000001
    cpuid
    bt edx, 26                  # pages of 1 GiB
    jc has_gib_pages
    mov dword ptr [boot_root + 256 * 8], offset boot_direct_low + 3
    mov dword ptr [kernel_root + 256 * 8], offset boot_direct_low + 3
    mov dword ptr [direct_gib], 4
has_gib_pages:
    mov esp, offset boot_stack_end - BASE
    mov eax, offset boot_root
    call long_mode
    lgdt [boot_gdt_pointer]
    push 8
    mov eax, offset in_long_mode
    push eax
    retf
    .code64
in_long_mode:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov rsp, offset boot_stack_end
    enable_pcids
    mov edi, edi
    xor ebp, ebp
    mov rax, offset start
    call rax
    ud2

# Switches to long mode with the root in eax; the caller then loads a 64-bit code segment.
    .code32
long_mode:
    mov cr3, eax
    mov eax, 0x6a0              # PAE, PGE, OSFXSR, OSXMMEXCPT; not LA57, whatever was on before
    mov cr4, eax
    mov ecx, EFER
    rdmsr
    or eax, 0x901               # SCE, LME, NXE
    wrmsr
    mov eax, cr0
    and eax, 0xfffffffb         # not EM
    or eax, 0x80010022          # PG, WP, NE, MP
    mov cr0, eax
    ret

# Runs at 0x8000, where it's copied. It calls `long_mode` by its address, since the two are far apart.
    .section .trampoline, "ax"
    .code16
    .global trampoline_stack, trampoline_cpu
    cli
    xor ax, ax
    mov ds, ax
    lgdtd [trampoline_gdt]
    mov eax, cr0
    or eax, 1
    mov cr0, eax
    .byte 0x66, 0xea            # a far jump to 32 bits
    .long trampoline_32
    .word 24
    .code32
trampoline_32:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, 0x9000
    mov eax, offset boot_root
    mov ecx, offset long_mode
    call ecx
    push 8
    mov eax, offset trampoline_64
    push eax
    retf
    .code64
trampoline_64:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov rsp, [trampoline_stack]
    enable_pcids
    mov rdi, [trampoline_cpu]
    xor ebp, ebp
    mov rax, offset start_cpu
    call rax
    ud2
    .balign 8
trampoline_stack: .quad 0
trampoline_cpu: .quad 0
trampoline_gdt:
    .word 31
    .long boot_gdt

    .section .boot.data, "aw"
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 64-bit code
    .quad 0x00cf93000000ffff    # data
    .quad 0x00cf9b000000ffff    # 32-bit code
boot_gdt_pointer:
    .word 31
    .long boot_gdt

    .balign 4096
    .global boot_root
boot_root:                      # each processor's first root: the kernel's, and the identity below
    .quad boot_identity + 3
    .fill 255, 8, 0
    .quad boot_direct + 3
    .fill 254, 8, 0
    .quad boot_image + 3
    .global kernel_root
kernel_root:                    # the direct map; the image
    .fill 256, 8, 0
    .quad boot_direct + 3
    .fill 254, 8, 0
    .quad boot_image + 3
boot_identity:                  # 1 GiB, not global: it goes when another root is loaded
    .quad boot_identity_pages + 3
    .fill 511, 8, 0
boot_identity_pages:
    .set at, 0x83
    .rept 512
    .quad at
    .set at, at + 0x200000
    .endr
boot_direct:                    # 512 GiB by pages of 1 GiB, global
    .set at, 0x183
    .rept 512
    .quad at
    .set at, at + 0x40000000
    .endr
boot_direct_low:                # for CPUs without such pages: 4 GiB by pages of 2 MiB, global
    .set at, boot_low_pages + 3
    .rept 4
    .quad at
    .set at, at + 4096
    .endr
    .fill 508, 8, 0
boot_image:
    .fill 510, 8, 0
    .quad boot_low_pages + 3
    .quad 0
boot_low_pages:
    .set at, 0x183
    .rept 2048
    .quad at
    .set at, at + 0x200000
    .endr
    .global direct_gib
direct_gib: .long 512

    .section .bss
    .balign 16
    .skip 65536
boot_stack_end:
