/* A coroutine switch as small libraries write it: pushes what a callee must keep, changes the stack pointer, pops.
 * Without a name that tells what it is; with -DIN_LINE it is no function at all (build with -mno-red-zone). */
#ifndef UPROF_TARGET_SWITCH_H
#define UPROF_TARGET_SWITCH_H

#include <stddef.h>
#include <stdint.h>

#ifdef IN_LINE
__attribute__((always_inline)) static inline void take_turns(void **save, void *next)
{
    /* Pushed last, popped last of all by the `ret` of the other side: where this side goes on. */
    __asm__ volatile("lea 1f(%%rip), %%rax\n\t"
                     "push %%rax\n\t"
                     "push %%rbp\n\t"
                     "push %%rbx\n\t"
                     "mov %%rsp, (%%rdi)\n\t"
                     "mov %%rsi, %%rsp\n\t"
                     "pop %%rbx\n\t"
                     "pop %%rbp\n\t"
                     "ret\n"
                     "1:"
                     : "+D"(save), "+S"(next)
                     :
                     : "rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
}
#define SAVED_REGISTERS 2
#else
void take_turns(void **save, void *next);
__asm__(".text\n"
        ".globl take_turns\n"
        ".type take_turns, @function\n"
        "take_turns:\n\t"
        "push %rbp\n\t"
        "push %rbx\n\t"
        "push %r12\n\t"
        "push %r13\n\t"
        "push %r14\n\t"
        "push %r15\n\t"
        "mov %rsp, (%rdi)\n\t"
        "mov %rsi, %rsp\n\t"
        "pop %r15\n\t"
        "pop %r14\n\t"
        "pop %r13\n\t"
        "pop %r12\n\t"
        "pop %rbx\n\t"
        "pop %rbp\n\t"
        "ret\n"
        ".size take_turns, . - take_turns\n");
#define SAVED_REGISTERS 6
#endif

/* Makes a stack on which take_turns starts `body`, which must not return. */
static inline void *new_stack(char *stack, size_t size, void (*body)(void))
{
    uint64_t *top = (uint64_t *)(stack + size);
    *--top = 0; /* as if body had been called: 16-byte aligned before its return address */
    *--top = 0;
    *--top = (uint64_t)(uintptr_t)body;
    for (int i = 0; i < SAVED_REGISTERS; i++)
        *--top = 0;
    return top;
}

#endif
