// boost: fibers of boost.context that yield inside probed functions, also where an exception passes between them.
#include "hostile.h"

#include <boost/context/fiber.hpp>
#include <stdexcept>
#include <vector>

namespace ctx = boost::context;

TALLY(inner);
TALLY(outer);

struct Task {
    ctx::fiber resumer;
    uint64_t sum = 0;
    bool done = false;
    void yield() { resumer = std::move(resumer).resume(); }
};

extern "C" PROBED uint64_t inner(Task *self, uint64_t n)
{
    volatile uint64_t words[WORDS];
    ENTER(inner);
    fill(words, n);
    self->yield();
    const uint64_t sum = check(words, n);
    if (n % 10 == 7)
        throw std::runtime_error("seven");
    LEAVE(inner);
    return sum;
}

extern "C" PROBED uint64_t outer(Task *self, uint64_t n)
{
    ENTER(outer);
    uint64_t sum = n;
    try {
        sum = inner(self, n + 1);
        self->yield();
        sum = mix(sum, inner(self, n + 2));
    } catch (const std::runtime_error &) {
        GONE(inner, EXCEPTION, 1);
        sum = mix(sum, 7);
    }
    LEAVE(outer);
    return sum;
}

static uint64_t round_of_calls()
{
    constexpr uint64_t FIBERS = 8, STEPS = 50;
    std::vector<Task> tasks(FIBERS);
    std::vector<ctx::fiber> fibers;
    for (uint64_t i = 0; i < FIBERS; i++)
        fibers.emplace_back([task = &tasks[i], i](ctx::fiber &&resumer) {
            task->resumer = std::move(resumer);
            for (uint64_t step = 0; step < STEPS; step++)
                task->sum = mix(task->sum, outer(task, i * 1000 + step));
            task->done = true;
            return std::move(task->resumer);
        });
    for (bool some = true; some;) {
        some = false;
        for (uint64_t i = 0; i < FIBERS; i++)
            if (!tasks[i].done) {
                fibers[i] = std::move(fibers[i]).resume();
                some = true;
            }
    }
    uint64_t sum = 0;
    for (const Task &task : tasks)
        sum = mix(sum, task.sum);
    return sum;
}

int main(int argc, char **argv)
{
    struct tally *const tallies[] = {&tally_inner, &tally_outer, nullptr};
    return hostile(argc, argv, round_of_calls, tallies);
}
