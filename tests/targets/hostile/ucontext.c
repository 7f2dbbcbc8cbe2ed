/* ucontext: coroutines of makecontext and swapcontext that yield inside probed functions. Their stacks lie side by
 * side: each that is resumed lies above the one before, with --descending below. With --migrate two threads resume
 * them in turns, so that a call begins on one thread and ends on another. */
#define _GNU_SOURCE
#define THREADED
#include "hostile.h"

#include <pthread.h>
#include <sys/mman.h>
#include <ucontext.h>

#define COROUTINES 8
#define STEPS 40
#define STACK 65536u

TALLY(inner);
TALLY(outer);
TALLY(qsort_r);

struct coroutine {
    ucontext_t context;
    ucontext_t *resumer;
    uint64_t sum;
    int done;
};

static struct coroutine coroutines[COROUTINES];

static void yield_to_resumer(struct coroutine *self)
{
    if (swapcontext(&self->context, self->resumer) != 0)
        damaged("swapcontext");
}

PROBED uint64_t inner(struct coroutine *self, uint64_t n)
{
    volatile uint64_t words[WORDS];
    ENTER(inner);
    fill(words, n);
    yield_to_resumer(self);
    uint64_t sum = check(words, n);
    LEAVE(inner);
    return sum;
}

/* Yields in the middle of libc. */
static int compare(const void *a, const void *b, void *self)
{
    yield_to_resumer(self);
    return *(const int *)a - *(const int *)b;
}

PROBED uint64_t outer(struct coroutine *self, uint64_t n)
{
    volatile uint64_t words[WORDS];
    ENTER(outer);
    fill(words, n);
    uint64_t sum = inner(self, n + 1);
    yield_to_resumer(self);
    sum = mix(sum, inner(self, n + 2));
    int numbers[] = {3, 1, 2};
    ENTER(qsort_r);
    qsort_r(numbers, 3, sizeof numbers[0], compare, self);
    LEAVE(qsort_r);
    sum = mix(sum, (uint64_t)(numbers[0] * 100 + numbers[1] * 10 + numbers[2]));
    sum = mix(sum, check(words, n));
    LEAVE(outer);
    return sum;
}

static void body(int which)
{
    struct coroutine *self = &coroutines[which];
    for (uint64_t i = 0; i < STEPS; i++)
        self->sum = mix(self->sum, outer(self, (uint64_t)which * 1000 + i));
    self->done = 1;
    yield_to_resumer(self);
}

static void resume(struct coroutine *coroutine)
{
    ucontext_t here;
    coroutine->resumer = &here;
    if (swapcontext(&here, &coroutine->context) != 0)
        damaged("swapcontext");
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct coroutine *queue[COROUTINES];
static unsigned queue_from, queue_to;
static pthread_barrier_t both_there;

static void resume_from_queue(void)
{
    for (unsigned idle = 0; idle < 100000;) {
        pthread_mutex_lock(&lock);
        struct coroutine *next = queue_from != queue_to ? queue[queue_from++ % COROUTINES] : NULL;
        pthread_mutex_unlock(&lock);
        if (!next) {
            idle++;
            continue;
        }
        idle = 0;
        resume(next);
        pthread_mutex_lock(&lock);
        if (!next->done)
            queue[queue_to++ % COROUTINES] = next;
        pthread_mutex_unlock(&lock);
    }
}

static void *resumer(void *unused)
{
    pthread_barrier_wait(&both_there);
    resume_from_queue();
    return unused;
}

static void on_two_threads(void)
{
    pthread_t threads[2];
    queue_from = queue_to = 0;
    for (int i = 0; i < COROUTINES; i++)
        queue[queue_to++ % COROUTINES] = &coroutines[i];
    pthread_barrier_init(&both_there, NULL, 2);
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, resumer, NULL);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    /* Who saw the queue empty for long has left; what the other still held then is done here. */
    resume_from_queue();
}

static uint64_t round_of_calls(void)
{
    static char *stacks;
    if (!stacks) {
        stacks = mmap(NULL, COROUTINES * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stacks == MAP_FAILED)
            return 0;
    }
    for (int i = 0; i < COROUTINES; i++) {
        int place = flag("--descending") ? COROUTINES - 1 - i : i;
        struct coroutine *c = &coroutines[i];
        c->sum = (uint64_t)i;
        c->done = 0;
        getcontext(&c->context);
        c->context.uc_stack.ss_sp = stacks + (size_t)place * STACK;
        c->context.uc_stack.ss_size = STACK;
        c->context.uc_link = NULL;
        makecontext(&c->context, (void (*)(void))body, 1, i);
    }
    if (flag("--migrate"))
        on_two_threads();
    else
        for (int left = COROUTINES; left > 0;)
            for (int i = 0; i < COROUTINES; i++)
                if (!coroutines[i].done) {
                    resume(&coroutines[i]);
                    left -= coroutines[i].done;
                }
    uint64_t sum = 0;
    for (int i = 0; i < COROUTINES; i++)
        sum = mix(sum, coroutines[i].sum);
    return sum;
}

int main(int argc, char **argv)
{
    struct tally *const tallies[] = {&tally_inner, &tally_outer, &tally_qsort_r, NULL};
    return hostile(argc, argv, round_of_calls, tallies);
}
