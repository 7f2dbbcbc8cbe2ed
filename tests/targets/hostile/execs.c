/* execs: a process that becomes itself anew thirty times, each time from within a probed function; its count goes
 * along on the command line. */
#include "hostile.h"

#define GENERATIONS 30

TALLY(work);
TALLY(leap);

PROBED uint64_t work(uint64_t n)
{
    ENTER(work);
    uint64_t sum = mix(n, 6);
    LEAVE(work);
    return sum;
}

PROBED void leap(uint64_t depth, char **argv)
{
    ENTER(leap);
    if (depth > 0)
        leap(depth - 1, argv);
    execv("/proc/self/exe", argv);
    LEAVE(leap);
}

int main(int argc, char **argv)
{
    struct tally *const tallies[] = {&tally_work, &tally_leap, NULL};
    truth_start(argc, argv);
    uint64_t seconds = option("--seconds", 0), until = option("--until", 0);
    uint64_t generation = option("--generation", 0), sum = option("--sum", 0), first = option("--first", 0);
    if (until == 0) {
        gate();
        until = now_ns() + seconds * 1000000000u;
    }
    for (uint64_t i = 0; i < 50; i++)
        sum = mix(sum, work(i));
    int last = ++generation == GENERATIONS;
    if (last && first && first != sum)
        return 3;
    if (!last || now_ns() < until) {
        char words[4][24];
        uint64_t values[] = {last ? 0 : generation, last ? 0 : sum, last ? sum : first, until};
        for (int i = 0; i < 4; i++)
            snprintf(words[i], sizeof words[i], "%llu", (unsigned long long)values[i]);
        char *next[] = {argv[0], (char *)"--generation", words[0], (char *)"--sum",   words[1], (char *)"--first",
                        words[2], (char *)"--until",     words[3], flag("--hold") ? (char *)"--hold" : NULL,
                        NULL};
        leap(2, next);
        return 70;
    }
    /* Each generation but the last left three calls by its leap. */
    tally_work.entries = tally_work.returns = 50 * GENERATIONS;
    tally_leap.entries = tally_leap.left[EXEC] = 3 * (GENERATIONS - 1);
    struct tally now[] = {tally_work, tally_leap};
    say_truth(tallies, now, sum);
    hold();
    return 0;
}
