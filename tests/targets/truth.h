/* What the small targets share: options, a clock, a gate, and the line of
 * truth. Nothing here uses stdio streams or malloc, so a target allocates
 * and calls only what it counts itself. */
#ifndef UPROF_TARGET_TRUTH_H
#define UPROF_TARGET_TRUTH_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int truth_argc;
static char **truth_argv;

static inline void truth_start(int argc, char **argv)
{
    truth_argc = argc;
    truth_argv = argv;
}

/* The word after NAME on the command line, or `otherwise`. */
static inline const char *option_text(const char *name, const char *otherwise)
{
    for (int i = 1; i + 1 < truth_argc; i++)
        if (strcmp(truth_argv[i], name) == 0)
            return truth_argv[i + 1];
    return otherwise;
}

static inline uint64_t option(const char *name, uint64_t otherwise)
{
    const char *text = option_text(name, NULL);
    return text ? strtoull(text, NULL, 0) : otherwise;
}

static inline int flag(const char *name)
{
    for (int i = 1; i < truth_argc; i++)
        if (strcmp(truth_argv[i], name) == 0)
            return 1;
    return 0;
}

static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void spin_ns(uint64_t ns)
{
    uint64_t start = now_ns();
    while (now_ns() - start < ns)
        ;
}

static inline void sleep_ms(uint64_t ms)
{
    struct timespec t = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    while (nanosleep(&t, &t) != 0)
        ;
}

/* A xorshift generator: the same numbers in every run, no libc state. */
static inline uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

/* One line on standard output by a single write(2). */
__attribute__((format(printf, 1, 2))) static inline void say(const char *format, ...)
{
    char line[4096];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    if (n < 0)
        _exit(70);
    if (n > (int)sizeof line - 2)
        n = sizeof line - 2;
    line[n++] = '\n';
    for (int done = 0; done < n;) {
        ssize_t w = write(STDOUT_FILENO, line + done, (size_t)(n - done));
        if (w <= 0)
            _exit(71);
        done += (int)w;
    }
}

/* With --gate: say that everything is set up and wait for a line on standard
 * input, so that probes can be armed before the first counted call. */
static inline void gate(void)
{
    uint64_t delay = option("--delay-ms", 0);
    if (flag("--gate")) {
        say("{\"ready\":true,\"pid\":%d}", (int)getpid());
        char c = 0;
        while (read(STDIN_FILENO, &c, 1) == 1 && c != '\n')
            ;
    }
    if (delay)
        sleep_ms(delay);
}

/* With --hold: stand still until standard input closes, so that whoever
 * counts can look before exit handlers run. */
static inline void hold(void)
{
    if (flag("--hold")) {
        char c;
        while (read(STDIN_FILENO, &c, 1) == 1)
            ;
    }
}

#endif
