// exceptions: thrown through one and through a hundred probed frames with destructors, rethrown, thrown out of a
// comparison that libc's qsort_r called; caught above, each time.
#include "hostile.h"

#include <stdexcept>
#include <string>

TALLY(thrower);
TALLY(climber);
TALLY(rethrower);
TALLY(compare);
TALLY(catcher);
TALLY(qsort_r);

static uint64_t destroyed;

// Only its destructor is of interest: unwinding must not pass it over.
struct Guard {
    uint64_t weight;
    explicit Guard(uint64_t w) : weight(w) {}
    Guard(const Guard &) = delete;
    Guard &operator=(const Guard &) = delete;
    ~Guard() { destroyed += weight; }
};

extern "C" {
PROBED uint64_t thrower(uint64_t n)
{
    ENTER(thrower);
    Guard guard(n);
    if (n % 2 == 1)
        throw std::runtime_error(std::to_string(n));
    LEAVE(thrower);
    return mix(n, 1);
}

PROBED uint64_t climber(uint64_t height, uint64_t n)
{
    ENTER(climber);
    Guard guard(height);
    if (height == 0 && n % 2 == 0)
        throw n;
    const uint64_t sum = height == 0 ? n : climber(height - 1, n);
    LEAVE(climber);
    return mix(sum, height);
}

PROBED uint64_t rethrower(uint64_t n)
{
    ENTER(rethrower);
    uint64_t sum = 0;
    try {
        sum = thrower(n);
    } catch (const std::runtime_error &) {
        GONE(thrower, EXCEPTION, 1);
        destroyed += 1000;
        if (n % 3 == 0)
            throw;
        sum = 3;
    }
    LEAVE(rethrower);
    return sum;
}

PROBED int compare(const void *a, const void *b, void *)
{
    ENTER(compare);
    const int x = *static_cast<const int *>(a), y = *static_cast<const int *>(b);
    if (x == 13 || y == 13)
        throw 13;
    LEAVE(compare);
    return x < y ? -1 : x > y;
}

// Probed itself: it catches, so it must return as if nothing had been.
PROBED uint64_t catcher(uint64_t n)
{
    ENTER(catcher);
    uint64_t sum = n;
    try {
        sum = mix(sum, rethrower(n));
    } catch (const std::runtime_error &error) {
        GONE(rethrower, EXCEPTION, 1);
        sum = mix(sum, std::stoull(error.what()));
    }
    LEAVE(catcher);
    return sum;
}
}

static uint64_t through_qsort()
{
    int numbers[32];
    for (int i = 0; i < 32; i++)
        numbers[i] = (i * 7 + 1) % 32;
    ENTER(qsort_r);
    try {
        qsort_r(numbers, 32, sizeof numbers[0], compare, nullptr);
    } catch (int thirteen) {
        GONE(compare, EXCEPTION, 1);
        GONE(qsort_r, EXCEPTION, 1);
        return static_cast<uint64_t>(thirteen);
    }
    damaged("qsort_r came back");
    return 0;
}

static uint64_t round_of_calls()
{
    uint64_t sum = 0;
    destroyed = 0;
    for (uint64_t n = 0; n < 600; n++)
        sum = mix(sum, catcher(n));
    for (uint64_t n = 0; n < 20; n++) {
        try {
            sum = mix(sum, climber(99, n));
        } catch (uint64_t thrown) {
            GONE(climber, EXCEPTION, 100);
            sum = mix(sum, thrown);
        }
    }
    for (int i = 0; i < 20; i++)
        sum = mix(sum, through_qsort());
    return mix(sum, destroyed);
}

int main(int argc, char **argv)
{
    struct tally *const tallies[] = {&tally_thrower,   &tally_climber, &tally_rethrower,
                                     &tally_compare, &tally_catcher, &tally_qsort_r, nullptr};
    return hostile(argc, argv, round_of_calls, tallies);
}
