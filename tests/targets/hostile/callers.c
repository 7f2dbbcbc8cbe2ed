/* callers: a function that looks at its own return address, as sanitizers, tracers and allocators do, and takes it ill
 * when that is not in the program's text; beside it one that does not look. */
#include "hostile.h"

TALLY(who);
TALLY(plain);

static uint64_t strangers;

PROBED uint64_t who(uint64_t n)
{
    ENTER(who);
    const char *from = (const char *)__builtin_return_address(0);
    extern const char __executable_start, etext;
    if (from < &__executable_start || from >= &etext)
        strangers++;
    LEAVE(who);
    return mix(n, 1);
}

PROBED uint64_t plain(uint64_t n)
{
    ENTER(plain);
    LEAVE(plain);
    return mix(n, 2);
}

static uint64_t round_of_calls(void)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < 500; n++)
        sum = mix(mix(sum, who(n)), plain(n));
    if (strangers)
        damaged("a return address");
    return sum;
}

int main(int argc, char **argv)
{
    struct tally *const tallies[] = {&tally_who, &tally_plain, NULL};
    return hostile(argc, argv, round_of_calls, tallies);
}
