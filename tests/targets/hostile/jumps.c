/* jumps: longjmp out of one and out of a hundred probed frames, and siglongjmp out of the handler of a fault in a
 * probed function, on the signal's own stack. */
#include "hostile.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

TALLY(one);
TALLY(many);
TALLY(faulty);
TALLY(landing);

static jmp_buf back;
static sigjmp_buf back_from_signal;
static volatile uint64_t *forbidden;

PROBED uint64_t one(uint64_t n)
{
    ENTER(one);
    if (n % 3 == 0)
        longjmp(back, 1);
    LEAVE(one);
    return mix(n, 1);
}

PROBED uint64_t many(uint64_t depth, uint64_t n)
{
    ENTER(many);
    if (depth == 0 && n % 2 == 0)
        longjmp(back, 2);
    uint64_t sum = depth == 0 ? n : many(depth - 1, n);
    LEAVE(many);
    return mix(sum, depth);
}

PROBED uint64_t faulty(uint64_t n)
{
    ENTER(faulty);
    uint64_t got = n % 2 ? *forbidden : n;
    LEAVE(faulty);
    return got;
}

/* Probed, and returned to by longjmp: setjmp comes back twice, the function returns once. */
PROBED uint64_t landing(uint64_t n)
{
    volatile uint64_t sum = n;
    ENTER(landing);
    if (setjmp(back) == 0)
        sum = mix(sum, one(n));
    else {
        GONE(one, LONGJMP, 1);
        sum = mix(sum, 77);
    }
    LEAVE(landing);
    return sum;
}

static void on_fault(int signal)
{
    (void)signal;
    siglongjmp(back_from_signal, 1);
}

static uint64_t round_of_calls(void)
{
    volatile uint64_t sum = 0;
    for (volatile uint64_t n = 0; n < 900; n++)
        sum = mix(sum, landing(n));
    for (volatile uint64_t n = 0; n < 20; n++) {
        if (setjmp(back) == 0)
            sum = mix(sum, many(99, n));
        else {
            GONE(many, LONGJMP, 100);
            sum = mix(sum, 78);
        }
    }
    for (volatile uint64_t n = 0; n < 400; n++) {
        if (sigsetjmp(back_from_signal, 1) == 0)
            sum = mix(sum, faulty(n));
        else {
            GONE(faulty, LONGJMP, 1);
            sum = mix(sum, 79);
        }
    }
    return sum;
}

int main(int argc, char **argv)
{
    struct tally *const tallies[] = {&tally_one, &tally_many, &tally_faulty, &tally_landing, NULL};
    static char signal_stack[65536];
    stack_t stack = {.ss_sp = signal_stack, .ss_size = sizeof signal_stack};
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_ONSTACK};
    forbidden = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (sigaltstack(&stack, NULL) != 0 || sigaction(SIGSEGV, &action, NULL) != 0 || forbidden == MAP_FAILED)
        return 70;
    return hostile(argc, argv, round_of_calls, tallies);
}
