/* deep: recursion 10,000 deep, three times; a shallow call after each. Between them is a pause: who watches learns after
 * the first that it was too deep to follow, and needs a moment to change its ways. */
#include "hostile.h"

#include <unistd.h>

TALLY(descend);
TALLY(shallow);

PROBED uint64_t descend(uint64_t depth)
{
    ENTER(descend);
    uint64_t sum = depth == 0 ? 1 : mix(descend(depth - 1), depth);
    LEAVE(descend);
    return sum;
}

PROBED uint64_t shallow(uint64_t n)
{
    ENTER(shallow);
    LEAVE(shallow);
    return mix(n, 5);
}

static uint64_t round_of_calls(void)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < 3; i++) {
        sum = mix(sum, descend(10000 - 1));
        sum = mix(sum, shallow(i));
        usleep(400 * 1000);
    }
    return sum;
}

int main(int argc, char **argv)
{
    struct tally *const tallies[] = {&tally_descend, &tally_shallow, NULL};
    return hostile(argc, argv, round_of_calls, tallies);
}
