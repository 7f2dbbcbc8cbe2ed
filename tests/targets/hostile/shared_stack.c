/* shared_stack: as in NtyCo all coroutines run on one stack, and what a coroutine has on it is copied out when it
 * yields and in when it is resumed. So the open calls of all coroutines have the same stack addresses: only who runs
 * (the argument of co_resume) tells them apart. */
#include "hostile.h"

#include "switch.h"

#define COROUTINES 8
#define STEPS 50
#define STACK 32768u

TALLY(inner);
TALLY(outer);
TALLY(co_resume);

struct coroutine {
    void *sp;
    char *copy;
    size_t size;
    uint64_t sum;
    int done;
};

static char stack[STACK] __attribute__((aligned(16)));
static struct coroutine coroutines[COROUTINES];
static struct coroutine *running;
static void *main_sp;

__attribute__((noinline)) static void co_yield(void)
{
    take_turns(&running->sp, main_sp);
}

PROBED void co_resume(struct coroutine *co)
{
    ENTER(co_resume);
    memcpy(co->sp, co->copy, co->size);
    running = co;
    take_turns(&main_sp, co->sp);
    running = NULL;
    co->size = (size_t)(stack + STACK - (char *)co->sp);
    co->copy = realloc(co->copy, co->size);
    memcpy(co->copy, co->sp, co->size);
    LEAVE(co_resume);
}

PROBED uint64_t inner(uint64_t n)
{
    volatile uint64_t words[WORDS];
    ENTER(inner);
    fill(words, n);
    co_yield();
    uint64_t sum = check(words, n);
    LEAVE(inner);
    return sum;
}

PROBED uint64_t outer(uint64_t n)
{
    volatile uint64_t words[WORDS];
    ENTER(outer);
    fill(words, n);
    uint64_t sum = inner(n + 1);
    if (n % 3 == 0)
        co_yield();
    sum = mix(sum, inner(n + 2));
    sum = mix(sum, check(words, n));
    LEAVE(outer);
    return sum;
}

static void body(void)
{
    struct coroutine *self = running;
    uint64_t which = (uint64_t)(self - coroutines);
    for (uint64_t i = 0; i < STEPS; i++)
        self->sum = mix(self->sum, outer(which * 1000 + i));
    self->done = 1;
    co_yield();
    damaged("a coroutine that is done was resumed");
}

static uint64_t round_of_calls(void)
{
    for (int i = 0; i < COROUTINES; i++) {
        struct coroutine *co = &coroutines[i];
        co->sum = (uint64_t)i;
        co->done = 0;
        co->sp = new_stack(stack, STACK, body);
        co->size = (size_t)(stack + STACK - (char *)co->sp);
        co->copy = realloc(co->copy, co->size);
        memcpy(co->copy, co->sp, co->size);
    }
    for (int left = COROUTINES; left > 0;)
        for (int i = 0; i < COROUTINES; i++)
            if (!coroutines[i].done) {
                co_resume(&coroutines[i]);
                left -= coroutines[i].done;
            }
    uint64_t sum = 0;
    for (int i = 0; i < COROUTINES; i++)
        sum = mix(sum, coroutines[i].sum);
    return sum;
}

int main(int argc, char **argv)
{
    struct tally *const tallies[] = {&tally_inner, &tally_outer, &tally_co_resume, NULL};
    return hostile(argc, argv, round_of_calls, tallies);
}
