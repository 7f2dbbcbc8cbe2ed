# A 32-bit x86 program: a target that uprof must refuse by name.
    .globl _start
    .globl work
    .type work, @function
    .text
work:
    ret
    .size work, . - work
_start:
    call work
    movl $1, %eax
    xorl %ebx, %ebx
    int $0x80
