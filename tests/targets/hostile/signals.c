/* signals: a thread in a probed function is interrupted as often as another can, and by itself; the handlers call
 * probed functions, too. Their stack is the thread's own, or with --altstack one of their own that lies below the
 * thread's (low) or above it (high). */
#define THREADED
#include "hostile.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>

#define CALLS 3000
#define SIGNALS 1000
#define STACK 131072u

TALLY(work);
TALLY(nested);

static volatile uint64_t handled, raised, handler_sum;
static char *stacks;
static pthread_t worker;
static sem_t running, acknowledged;

PROBED uint64_t nested(uint64_t n)
{
    ENTER(nested);
    uint64_t sum = mix(n, 3);
    LEAVE(nested);
    return sum;
}

PROBED uint64_t work(uint64_t n, int interrupt)
{
    volatile uint64_t words[WORDS];
    ENTER(work);
    fill(words, n);
    uint64_t sum = nested(n);
    /* Long enough that most signals arrive here. */
    for (volatile int i = 0; i < 10000; i++)
        ;
    if (interrupt)
        raise(SIGUSR2);
    sum = mix(sum, check(words, n));
    LEAVE(work);
    return sum;
}

static void on_signal(int signal)
{
    if (signal == SIGUSR1) {
        handler_sum = mix(handler_sum, work(handled, 0));
        handled++;
        sem_post(&acknowledged);
    } else {
        raised = mix(raised, work(77, 0));
    }
}

static void *work_on(void *result)
{
    const char *place = option_text("--altstack", NULL);
    if (place) {
        stack_t stack = {.ss_sp = stacks + (strcmp(place, "high") == 0 ? 2 : 0) * STACK, .ss_size = STACK};
        if (sigaltstack(&stack, NULL) != 0)
            damaged("sigaltstack");
    }
    sem_post(&running);
    uint64_t sum = 0;
    for (uint64_t n = 0; n < CALLS; n++)
        sum = mix(sum, work(n, n % 16 == 0));
    while (handled < SIGNALS)
        sleep_ms(1);
    *(uint64_t *)result = sum;
    return NULL;
}

static uint64_t round_of_calls(void)
{
    uint64_t sum = 0;
    handled = raised = handler_sum = 0;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    if (pthread_attr_setstack(&attr, stacks + STACK, STACK) != 0 ||
        pthread_create(&worker, &attr, work_on, &sum) != 0)
        damaged("the thread");
    pthread_attr_destroy(&attr);
    sem_wait(&running);
    /* One after the other: two at once would be one. */
    for (uint64_t n = 0; n < SIGNALS; n++) {
        if (pthread_kill(worker, SIGUSR1) != 0)
            damaged("pthread_kill");
        while (sem_wait(&acknowledged) != 0)
            ;
    }
    pthread_join(worker, NULL);
    return mix(mix(sum, handler_sum), raised);
}

int main(int argc, char **argv)
{
    struct tally *const tallies[] = {&tally_work, &tally_nested, NULL};
    truth_start(argc, argv);
    int flags = option_text("--altstack", NULL) ? SA_ONSTACK : 0;
    sem_init(&running, 0, 0);
    sem_init(&acknowledged, 0, 0);
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags | SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
    stacks = mmap(NULL, 3 * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stacks == MAP_FAILED)
        return 70;
    return hostile(argc, argv, round_of_calls, tallies);
}
