//! What depends on the architecture: where `struct pt_regs` holds what (x86-64, System V ABI).
//! Offsets are those of arch/x86/include/asm/ptrace.h, fixed by the kernel's ABI.

/// Offsets of the registers that carry arguments 0 to 5: rdi, rsi, rdx, rcx, r8, r9.
pub(crate) const ARGS: [i16; 6] = [112, 104, 96, 88, 72, 64];
/// Offsets of the general registers by their DWARF numbers (System V ABI, x86-64 supplement, figure
/// 3.36): rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8 to r15, and rip, which at a hit is the probed
/// address, whether the probe is a breakpoint or a nop that became a call.
pub(crate) const DWARF_REGS: [i16; 17] = [
    80, 96, 88, 40, 104, 112, 32, 152, 72, 64, 56, 48, 24, 16, 8, 0, 128,
];
/// Offset of the register that carries the return value: rax.
pub(crate) const RETVAL: i16 = 80;
/// Offset of the stack pointer.
pub(crate) const SP: i16 = 152;
/// How far the stack pointer has moved up at the return: the return address is popped.
pub(crate) const SP_AT_RETURN: i32 = 8;
/// Offset of the flags register.
pub(crate) const FLAGS: i16 = 144;
/// Offset of the register that holds the goroutine (`g`) in Go code: r14, from Go 1.17 on (the
/// register-based ABI, cmd/compile/abi-internal.md).
pub(crate) const GOROUTINE: i16 = DWARF_REGS[14];
/// Offset in `g` of `stack.hi`, the end of its stack (runtime/runtime2.go; the same in all
/// versions, as the assembler's prologues know `stack.lo` and the guards after it).
pub(crate) const GOROUTINE_STACK_HI: i32 = 8;
/// Offset of what a system call was made with: its second argument (rsi), its first (rdi), and its number as it was
/// before a return value took its place (`orig_ax`), a word each; the number is -1 where it was no system call.
pub(crate) const SYSCALL: i32 = 104;
/// From the end of a thread's stack in the kernel that is lower in memory to the registers it entered the kernel with:
/// THREAD_SIZE (arch/x86/include/asm/page_64_types.h, without KASAN) less them, as it is up to Linux 6.8; newer ones tell.
pub(crate) const KERNEL_STACK: i32 = (16 << 10) - REGS_SIZE as i32;
/// Bytes of `struct pt_regs`.
pub(crate) const REGS_SIZE: usize = 168;

/// Distance from the stack pointer at entry to argument `n` (6 or more).
pub(crate) fn stack_arg(n: u8) -> i32 {
    8 * (i32::from(n) - 5)
}
