/* tails: calls that end in a jump to another function, to themselves, to each other; conditional ones, ones through a
 * pointer, and one out of a table of jumps. Compiled with -O2, which makes such calls jumps. */
#include "hostile.h"

TALLY(again);
TALLY(even);
TALLY(odd);
TALLY(first);
TALLY(last);
TALLY(maybe);
TALLY(through);
TALLY(table);

/* Another name of `again` that the compiler knows nothing of: it jumps to its own first instruction, not into a loop. */
uint64_t again_by_name(uint64_t n, uint64_t sum);
__asm__(".globl again_by_name\n.set again_by_name, again");

PROBED uint64_t again(uint64_t n, uint64_t sum)
{
    ENTER(again);
    LEAVE(again);
    return n == 0 ? sum : again_by_name(n - 1, mix(sum, n));
}

PROBED uint64_t odd(uint64_t n, uint64_t sum);

PROBED uint64_t even(uint64_t n, uint64_t sum)
{
    ENTER(even);
    LEAVE(even);
    return n == 0 ? sum : odd(n - 1, mix(sum, 2));
}

PROBED uint64_t odd(uint64_t n, uint64_t sum)
{
    ENTER(odd);
    LEAVE(odd);
    return n == 0 ? sum + 1 : even(n - 1, mix(sum, 1));
}

PROBED uint64_t last(uint64_t n)
{
    ENTER(last);
    uint64_t sum = mix(n, 9);
    LEAVE(last);
    return sum;
}

PROBED uint64_t first(uint64_t n)
{
    ENTER(first);
    LEAVE(first);
    return last(n + 1);
}

/* A conditional jump out of a function: `jne last`. gcc 12 rarely makes one, so it is written out. */
uint64_t maybe(uint64_t n);
void count_maybe(void);
__attribute__((used, noipa)) void count_maybe(void)
{
    ENTER(maybe);
    LEAVE(maybe);
}
__asm__(".text\n"
        ".globl maybe\n"
        ".type maybe, @function\n"
        "maybe:\n\t"
        "push %rdi\n\t"
        "call count_maybe\n\t"
        "pop %rdi\n\t"
        "test $3, %dil\n\t"
        "jne last\n\t"
        "lea 100(%rdi), %rax\n\t"
        "ret\n"
        ".size maybe, . - maybe\n");

static uint64_t (*volatile target)(uint64_t);

PROBED uint64_t through(uint64_t n)
{
    ENTER(through);
    LEAVE(through);
    target = n % 2 ? last : first;
    return target(n);
}

/* Without a frame of its own: the indirect jump over the table is made with the stack pointer of the entry. */
PROBED uint64_t table(uint64_t n)
{
    ENTER(table);
    LEAVE(table);
    switch (n % 8) {
    case 0: return last(n * 3);
    case 1: return n ^ 0x55;
    case 2: return first(n + 2);
    case 3: return n * n;
    case 4: return maybe(n);
    case 5: return n >> 1;
    case 6: return through(n);
    default: return n + 7;
    }
}

static uint64_t round_of_calls(void)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < 20; n++) {
        sum = mix(sum, again(30, n));
        sum = mix(sum, even(25 + n % 2, n));
    }
    for (uint64_t n = 0; n < 200; n++) {
        sum = mix(sum, first(n));
        sum = mix(sum, maybe(n));
        sum = mix(sum, through(n));
        sum = mix(sum, table(n));
        sum = mix(sum, table(n + 3));
    }
    return sum;
}

int main(int argc, char **argv)
{
    struct tally *const tallies[] = {&tally_again, &tally_even,    &tally_odd,   &tally_first, &tally_last,
                                     &tally_maybe, &tally_through, &tally_table, NULL};
    return hostile(argc, argv, round_of_calls, tallies);
}
