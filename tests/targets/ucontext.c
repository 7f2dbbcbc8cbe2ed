/* ucontext: coroutines on the C library's contexts, which count their switches.
 *
 *   --rounds N   of the first context; the second has half as many   --spin-ns S  spent by a context each time
 *   --gate --hold
 *
 * The last line is the truth: made, and for each pair "FROM TO" of contexts the switches; home: the context that all
 * others switch to.
 */
#include <ucontext.h>

#include "truth.h"

#define STACK 65536u

static ucontext_t home, first, second;
static uint64_t rounds, spin, to_first, to_second, from_first, from_second;

static void run(ucontext_t *own, uint64_t times, uint64_t *switches)
{
    for (uint64_t i = 0; i < times; i++) {
        spin_ns(spin);
        ++*switches;
        swapcontext(own, &home);
    }
}

/* Their ends go home by setcontext. */
static void often(void)
{
    run(&first, rounds, &from_first);
}

static void seldom(void)
{
    run(&second, rounds / 2, &from_second);
}

static void make(ucontext_t *context, void (*function)(void))
{
    getcontext(context);
    context->uc_stack.ss_sp = malloc(STACK);
    context->uc_stack.ss_size = STACK;
    context->uc_link = &home;
    makecontext(context, function, 0);
}

int main(int argc, char **argv)
{
    truth_start(argc, argv);
    rounds = option("--rounds", 10);
    spin = option("--spin-ns", 0);
    gate();
    make(&first, often);
    make(&second, seldom);
    for (uint64_t i = 0; i <= rounds; i++) {
        to_first++;
        swapcontext(&home, &first);
        if (i <= rounds / 2) {
            to_second++;
            swapcontext(&home, &second);
        }
    }
#define PAIR(from, to) (void *)&from, (void *)&to
#define ONE "\"%p %p\":%lu"
    say("{\"pid\":%d,\"made\":[\"%p\",\"%p\"],\"switches\":{" ONE "," ONE "," ONE "," ONE "},\"home\":\"%p\"}", (int)getpid(),
        (void *)often, (void *)seldom, PAIR(home, first), (unsigned long)to_first, PAIR(home, second),
        (unsigned long)to_second, PAIR(first, home), (unsigned long)from_first, PAIR(second, home),
        (unsigned long)from_second, (void *)&home);
    hold();
    return 0;
}
