//! Code of C libraries and libffi that loads the stack pointer and leaves no call open on the way, known by its bytes
//! where symbols are stripped away.

/// glibc's `__longjmp` (sysdeps/x86_64/__longjmp.S): the saved values were mangled with a secret of the thread,
/// `ror $0x11, REG; xor %fs:0x30, REG`.
const DEMANGLE: [&[u8]; 2] = [
    &[0x64, 0x4c, 0x33, 0x04, 0x25, 0x30, 0, 0, 0],
    &[0x64, 0x4c, 0x33, 0x0c, 0x25, 0x30, 0, 0, 0],
];

/// What stands right before the load.
const BEFORE: [&[u8]; 2] = [
    // musl 1.1 and 1.2, `longjmp` (src/setjmp/x86_64/longjmp.s): from mov (%rdi),%rbx to mov 40(%rdi),%r15
    &[
        0x48, 0x8b, 0x1f, 0x48, 0x8b, 0x6f, 0x08, 0x4c, 0x8b, 0x67, 0x10, 0x4c, 0x8b, 0x6f, 0x18,
        0x4c, 0x8b, 0x77, 0x20, 0x4c, 0x8b, 0x7f, 0x28,
    ],
    // libffi, `ffi_call_win64` (src/x86/win64.S): its caller gives it the memory of its frame, on the same stack
    &[
        0x48, 0x8b, 0x04, 0x24, 0x48, 0x89, 0x2e, 0x48, 0x89, 0x46, 0x08, 0x48, 0x89, 0xf5,
    ],
];

/// libffi, `ffi_call_unix64` (src/x86/unix64.S), the same way: its first instructions.
const FFI: &[u8] = &[
    0x4c, 0x8b, 0x14, 0x24, 0x48, 0x8d, 0x04, 0x37, 0x48, 0x89, 0x10, 0x48, 0x89, 0x48, 0x08, 0x48,
    0x89, 0x68, 0x10, 0x4c, 0x89, 0x50, 0x18,
];

/// Whether the code before a load of the stack pointer is one of these.
pub(super) fn ends_with_known(code: &[u8]) -> bool {
    /// They are shorter than this, from the start to the load.
    const LEN: usize = 192;
    let near = &code[code.len().saturating_sub(LEN)..];
    let holds = |part: &[u8]| memchr::memmem::find(near, part).is_some();
    BEFORE.iter().any(|before| code.ends_with(before))
        || DEMANGLE.iter().any(|part| holds(part))
        || holds(FFI)
}
