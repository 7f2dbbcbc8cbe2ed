/* ntyco: coroutines behind the functions of NtyCo's interface, with its structures' layout as far as uprof's recipe
 * reads them, and nothing else of it. What runs is counted and timed from inside.
 *
 *   --coroutines N   of each of the three functions     --yields Y   of each coroutine of `often`; `seldom` yields once,
 *                    `at_once` never                     --spin-ns S  spent in each run
 *   --gate --hold
 * -DOWN_SWITCH: the older layout, with registers in the place of a ucontext_t.
 *
 * The last line is the truth: created, and for each function by its address runs, ended and own_ns.
 */
#include <ucontext.h>

#include "truth.h"

#define PROBED __attribute__((noinline, noclone, noipa))
#define STACK 65536u

enum { NEW = 1 << 2, READY = 1 << 3, EXITED = 1 << 4, DETACH = 1 << 9 };

#ifdef OWN_SWITCH
struct context {
    void *registers[11];
};
#else
struct context {
    ucontext_t ucontext;
};
#endif

typedef void (*proc_coroutine)(void *);

typedef struct nty_schedule {
    uint64_t birth;
    struct context ctx;
    void *stack;
    size_t stack_size;
    ucontext_t own;
} nty_schedule;

typedef struct nty_coroutine {
    struct context ctx;
    proc_coroutine func;
    void *arg, *data;
    size_t stack_size, last_stack_size;
    int status;
    nty_schedule *sched;
    uint64_t birth, id;
    /* Where NtyCo has more, this has what it switches with. */
    ucontext_t own;
    char *stack;
} nty_coroutine;

static nty_schedule sched = {.stack_size = STACK};
static nty_coroutine *running;
static uint64_t spin, yields, created;

struct function {
    uint64_t runs, ended, own_ns;
};
static struct function of_often, of_seldom, of_at_once;

PROBED void nty_coroutine_free(nty_coroutine *co)
{
    free(co->stack);
    free(co);
}

PROBED void nty_coroutine_yield(nty_coroutine *co)
{
    swapcontext(&co->own, &sched.own);
}

static void begin(void)
{
    nty_coroutine *co = running;
    co->func(co->arg);
    co->status |= EXITED | DETACH;
    nty_coroutine_yield(co);
}

static void init(nty_coroutine *co)
{
    co->stack = malloc(STACK);
    getcontext(&co->own);
    co->own.uc_stack.ss_sp = co->stack;
    co->own.uc_stack.ss_size = STACK;
    makecontext(&co->own, begin, 0);
#ifndef OWN_SWITCH
    co->ctx.ucontext.uc_link = &sched.ctx.ucontext;
#endif
    co->status = READY;
}

PROBED int nty_coroutine_resume(nty_coroutine *co)
{
    if (co->status & NEW)
        init(co);
    running = co;
    swapcontext(&sched.own, &co->own);
    running = NULL;
    if (co->status & EXITED) {
        nty_coroutine_free(co);
        return -1;
    }
    return 0;
}

PROBED int nty_coroutine_create(nty_coroutine **new_co, proc_coroutine func, void *arg)
{
    nty_coroutine *co = calloc(1, sizeof *co);
    if (!co)
        return -2;
    co->sched = &sched;
    co->stack_size = sched.stack_size;
    co->status = NEW;
    co->id = created++;
    co->func = func;
    co->arg = arg;
    *new_co = co;
    return 0;
}

__attribute__((noinline)) static void run(struct function *function)
{
    uint64_t start = now_ns();
    spin_ns(spin);
    function->runs++;
    function->own_ns += now_ns() - start;
}

PROBED void often(void *arg)
{
    (void)arg;
    for (uint64_t i = 0; i < yields; i++) {
        run(&of_often);
        nty_coroutine_yield(running);
    }
    run(&of_often);
    of_often.ended++;
}

PROBED void seldom(void *arg)
{
    (void)arg;
    run(&of_seldom);
    nty_coroutine_yield(running);
    run(&of_seldom);
    of_seldom.ended++;
}

PROBED void at_once(void *arg)
{
    (void)arg;
    run(&of_at_once);
    of_at_once.ended++;
}

int main(int argc, char **argv)
{
    truth_start(argc, argv);
    uint64_t each = option("--coroutines", 4), all = 3 * each, left = all;
    yields = option("--yields", 10);
    spin = option("--spin-ns", 0);
    proc_coroutine functions[] = {often, seldom, at_once};
    nty_coroutine **coroutines = calloc(all, sizeof *coroutines);
    gate();
    for (uint64_t i = 0; i < all; i++)
        if (nty_coroutine_create(&coroutines[i], functions[i % 3], NULL) != 0)
            _exit(72);
    while (left > 0)
        for (uint64_t i = 0; i < all; i++)
            if (coroutines[i] && nty_coroutine_resume(coroutines[i]) == -1) {
                coroutines[i] = NULL;
                left--;
            }
#define OF(f) (void *)f, (unsigned long)of_##f.runs, (unsigned long)of_##f.ended, (unsigned long)of_##f.own_ns
#define ONE "\"%p\":{\"runs\":%lu,\"ended\":%lu,\"own_ns\":%lu}"
    say("{\"pid\":%d,\"created\":%lu,\"functions\":{" ONE "," ONE "," ONE "}}", (int)getpid(), (unsigned long)created, OF(often), OF(seldom), OF(at_once));
    hold();
    return 0;
}
