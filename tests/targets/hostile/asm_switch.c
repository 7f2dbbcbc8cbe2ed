/* asm_switch: coroutines that take turns by a few instructions written by hand (switch.h), each passing the turn to
 * the next from within two probed functions. */
#include "hostile.h"

#include "switch.h"

#define COROUTINES 6
#define STEPS 60
#define STACK 32768u

TALLY(inner);
TALLY(outer);

struct coroutine {
    void *sp;
    uint64_t sum;
    int done;
};

static struct coroutine coroutines[COROUTINES];
static void *main_sp;
static int running;
static char stacks[COROUTINES][STACK] __attribute__((aligned(16)));

/* The next that is not done; the main program when all are. */
__attribute__((noinline)) static void pass_on(void)
{
    int from = running;
    for (int step = 1; step <= COROUTINES; step++) {
        int next = (from + step) % COROUTINES;
        if (!coroutines[next].done) {
            if (next == from)
                return;
            running = next;
            take_turns(&coroutines[from].sp, coroutines[next].sp);
            return;
        }
    }
    take_turns(&coroutines[from].sp, main_sp);
}

PROBED uint64_t inner(uint64_t n)
{
    volatile uint64_t words[WORDS];
    ENTER(inner);
    fill(words, n);
    pass_on();
    uint64_t sum = check(words, n);
    LEAVE(inner);
    return sum;
}

PROBED uint64_t outer(uint64_t n)
{
    ENTER(outer);
    uint64_t sum = inner(n + 1);
    pass_on();
    sum = mix(sum, inner(n + 2));
    LEAVE(outer);
    return sum;
}

static void body(void)
{
    int self = running;
    /* Different lengths, so that the order changes as some are done. */
    for (uint64_t i = 0; i < STEPS + (uint64_t)self * 5; i++)
        coroutines[self].sum = mix(coroutines[self].sum, outer((uint64_t)self * 1000 + i));
    coroutines[self].done = 1;
    pass_on();
    damaged("a coroutine that is done was resumed");
}

static uint64_t round_of_calls(void)
{
    for (int i = 0; i < COROUTINES; i++) {
        coroutines[i].sum = (uint64_t)i;
        coroutines[i].done = 0;
        coroutines[i].sp = new_stack(stacks[i], STACK, body);
    }
    running = 0;
    take_turns(&main_sp, coroutines[0].sp);
    uint64_t sum = 0;
    for (int i = 0; i < COROUTINES; i++)
        sum = mix(sum, coroutines[i].sum);
    return sum;
}

int main(int argc, char **argv)
{
    struct tally *const tallies[] = {&tally_inner, &tally_outer, NULL};
    return hostile(argc, argv, round_of_calls, tallies);
}
