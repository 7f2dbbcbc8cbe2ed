/* forks: processes that are forked within probed functions and return from them, vforked children that call probed
 * functions on their parent's stack, and children that become this program anew. Counted is what the first process
 * did; what the others did is checked by their exit status. */
#include "hostile.h"

#include <sys/wait.h>

TALLY(work);
TALLY(forker);
TALLY(vforker);

PROBED uint64_t work(uint64_t n)
{
    volatile uint64_t words[WORDS];
    ENTER(work);
    fill(words, n);
    uint64_t sum = check(words, n);
    LEAVE(work);
    return sum;
}

/* Entered once, left twice. */
PROBED pid_t forker(uint64_t n)
{
    volatile uint64_t words[WORDS];
    ENTER(forker);
    fill(words, n);
    pid_t child = fork();
    if (child == 0)
        work(n + 1);
    check(words, n);
    LEAVE(forker);
    return child;
}

PROBED pid_t vforker(uint64_t n)
{
    volatile uint64_t words[WORDS];
    char number[24];
    ENTER(vforker);
    fill(words, n);
    snprintf(number, sizeof number, "%llu", (unsigned long long)n);
    pid_t child = vfork();
    if (child == 0) {
        /* The memory is the parent's: what this call counts is taken back. */
        struct tally before = tally_work;
        if (work(n) == 0)
            _exit(99);
        tally_work = before;
        if (n % 2)
            _exit((int)(n & 63));
        execl("/proc/self/exe", "forks", "--child", number, (char *)NULL);
        _exit(98);
    }
    check(words, n);
    LEAVE(vforker);
    return child;
}

static uint64_t wait_for(pid_t child)
{
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child)
        damaged("waitpid");
    if (WIFSIGNALED(status))
        damaged("a child was killed");
    return (uint64_t)WEXITSTATUS(status);
}

static uint64_t round_of_calls(void)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < 60; n++) {
        sum = mix(sum, work(n));
        pid_t child = forker(n);
        if (child == 0) {
            /* Two of three end here, within another probed function's reach, one becomes another program. */
            uint64_t own = work(n + 2);
            if (n % 3 == 0)
                execl("/bin/true", "true", (char *)NULL);
            _exit((int)(own & 63));
        }
        if (wait_for(child) != (n % 3 ? work(n + 2) & 63 : 0))
            damaged("what a forked child made of its number");
        sum = mix(sum, n);
        if (wait_for(vforker(n)) != (n & 63))
            damaged("what a vforked child made of its number");
    }
    return sum;
}

int main(int argc, char **argv)
{
    struct tally *const tallies[] = {&tally_work, &tally_forker, &tally_vforker, NULL};
    truth_start(argc, argv);
    if (option_text("--child", NULL)) {
        uint64_t n = option("--child", 0);
        for (uint64_t i = 0; i < 5; i++)
            work(i);
        return (int)(n & 63);
    }
    return hostile(argc, argv, round_of_calls, tallies);
}
