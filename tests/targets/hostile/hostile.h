/* What the hostile programs share: each keeps its own count of the calls of its probed functions, does the
 * same things in rounds, checks each round against the first, and says at the end, in one line, what it
 * counted: {"truth":{"FUNCTION":{"entries":N,"returns":N,"longjmp":N ...}},"checksum":N}
 *
 *   --rounds N     so many rounds (1); the line is about all of them
 *   --seconds N    as many rounds as fit; the line is about one
 *   --gate --hold  as in truth.h
 *
 * Exit status 3: a round went otherwise than the first. 4: a call is not accounted for. 5: something was damaged. */
#ifndef UPROF_TARGET_HOSTILE_H
#define UPROF_TARGET_HOSTILE_H

#include "../truth.h"

#define PROBED __attribute__((noinline, noclone, noipa))

/* Why a call was left without a return. */
enum left { LONGJMP, EXCEPTION, THREAD_END, PROCESS_END, EXEC, WAYS_OUT };

struct tally {
    const char *name;
    uint64_t entries;
    uint64_t returns;
    uint64_t left[WAYS_OUT];
};

/* The count of function F. */
#define TALLY(f) static struct tally tally_##f = {#f, 0, 0, {0}}
/* First and last in function F. */
#define ENTER(f) tick(&tally_##f.entries, 1)
#define LEAVE(f) tick(&tally_##f.returns, 1)
/* Said by who catches: N calls of F are over without a return. */
#define GONE(f, why, n) tick(&tally_##f.left[why], n)

/* In a program of several threads by a call, since the kernel sets no probe on an instruction with a `lock` prefix,
 * which would often be a function's first. Else by one instruction, which no signal can divide. */
#ifdef THREADED
__attribute__((noinline, noipa, unused)) static void tick(uint64_t *counter, uint64_t by)
{
    __atomic_fetch_add(counter, by, __ATOMIC_RELAXED);
}
#else
static inline void tick(uint64_t *counter, uint64_t by)
{
    __asm__ volatile("addq %1, %0" : "+m"(*counter) : "er"(by) : "cc");
}
#endif

static inline uint64_t mix(uint64_t sum, uint64_t value)
{
    sum = (sum ^ value) * 0x9e3779b97f4a7c15u;
    return sum ^ sum >> 29;
}

static inline void damaged(const char *what)
{
    fprintf(stderr, "damaged: %s\n", what);
    _exit(5);
}

/* Numbers on the stack that must still be there after others ran. */
#define WORDS 12
static inline void fill(volatile uint64_t *words, uint64_t seed)
{
    for (unsigned i = 0; i < WORDS; i++)
        words[i] = mix(seed, i);
}

static inline uint64_t check(const volatile uint64_t *words, uint64_t seed)
{
    uint64_t sum = seed;
    for (unsigned i = 0; i < WORDS; i++) {
        if (words[i] != mix(seed, i))
            damaged("words on the stack");
        sum = mix(sum, words[i]);
    }
    return sum;
}

static inline void account(const struct tally *t, uint64_t rounds, const struct tally *first)
{
    uint64_t over = t->returns;
    for (int i = 0; i < WAYS_OUT; i++)
        over += t->left[i];
    if (over != t->entries) {
        fprintf(stderr, "%s: %llu entries, %llu over\n", t->name, (unsigned long long)t->entries,
                (unsigned long long)over);
        _exit(4);
    }
    if (t->entries != rounds * first->entries || t->returns != rounds * first->returns) {
        fprintf(stderr, "%s: %llu entries in %llu rounds, %llu in the first\n", t->name,
                (unsigned long long)t->entries, (unsigned long long)rounds, (unsigned long long)first->entries);
        _exit(3);
    }
}

static inline void say_truth(struct tally *const *tallies, const struct tally *counts, uint64_t checksum)
{
    static const char *const names[] = {"longjmp", "exception", "thread", "exit", "exec"};
    char line[2048];
    int n = snprintf(line, sizeof line, "{\"truth\":{");
    for (int f = 0; tallies[f]; f++) {
        const struct tally *t = &counts[f];
        n += snprintf(line + n, sizeof line - (size_t)n, "%s\"%s\":{\"entries\":%llu,\"returns\":%llu", f ? "," : "",
                      t->name, (unsigned long long)t->entries, (unsigned long long)t->returns);
        for (int i = 0; i < WAYS_OUT; i++)
            if (t->left[i])
                n += snprintf(line + n, sizeof line - (size_t)n, ",\"%s\":%llu", names[i],
                              (unsigned long long)t->left[i]);
        n += snprintf(line + n, sizeof line - (size_t)n, "}");
    }
    say("%s},\"checksum\":%llu}", line, (unsigned long long)checksum);
}

#define MOST_TALLIES 10

/* Does ROUND as often as asked for, and tells of it. TALLIES ends in a null pointer. */
static inline int hostile(int argc, char **argv, uint64_t (*round)(void), struct tally *const *tallies)
{
    truth_start(argc, argv);
    uint64_t rounds = option("--rounds", 1);
    uint64_t until = option("--seconds", 0) * 1000000000u;
    struct tally first[MOST_TALLIES], now[MOST_TALLIES];
    uint64_t checksum = 0;
    gate();
    uint64_t start = now_ns();
    for (uint64_t done = 0; until ? !done || now_ns() - start < until : done < rounds;) {
        uint64_t sum = round();
        if (done++ == 0)
            checksum = sum;
        if (sum != checksum) {
            fprintf(stderr, "round %llu: checksum %llu, not %llu\n", (unsigned long long)done,
                    (unsigned long long)sum, (unsigned long long)checksum);
            _exit(3);
        }
        for (int f = 0; tallies[f]; f++) {
            now[f] = *tallies[f];
            if (done == 1)
                first[f] = now[f];
            account(&now[f], done, &first[f]);
        }
    }
    say_truth(tallies, until ? first : now, checksum);
    hold();
    return 0;
}

#endif
