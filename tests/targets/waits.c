/* waits: a function whose calls each spend their time in one known way, and
 * which measures where by clocks of its own: the monotonic one, its thread's
 * CPU time, and how long the scheduler says that it waited for a CPU.
 *
 *   --calls N      of each kind (default 20)
 *   --ms M         how long each call spends so (default 20)
 *   --kind K       only of this kind, a number (default: all by turns)
 *   --file PATH    a file of some megabytes to be read around the page cache
 *   --threads T    so many threads, all on the first CPU (default 1, anywhere)
 *   --gate --hold
 *
 * Kinds: 0 spins by its CPU time, 1 sleeps, 2 waits on a futex, 3 reads the
 * file with O_DIRECT, 4 waits for a socket, 5 for a pipe.
 *
 * Before the truth there is a line for each call, a thread's in order. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "truth.h"

/* Large blocks, since the scheduler's own account is off with each switch: its
 * clock stands between a wake-up and the switch that comes of it, so that an
 * idle CPU's awakening is the thread's CPU time there. */
enum { KINDS = 6, MOST = 4096, BLOCK = 4 << 20, ALIGNED = 4096 };

struct call {
    unsigned kind;
    int tid;
    uint64_t wall, cpu, runq;
};

static struct call calls[MOST];
static unsigned made;
static uint64_t span_ns;
static int file_fd = -1;
static uint64_t file_blocks;
static __thread int schedstat_fd;

static void must(int fine, const char *what)
{
    if (!fine) {
        say("{\"failed\":\"%s\",\"errno\":%d}", what, errno);
        _exit(72);
    }
}

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The second word of schedstat (Documentation/scheduler/sched-stats.rst). */
static uint64_t runq_ns(void)
{
    char text[128];
    ssize_t n = pread(schedstat_fd, text, sizeof text - 1, 0);
    must(n > 0, "schedstat");
    text[n] = 0;
    char *word;
    strtoull(text, &word, 10);
    return strtoull(word, NULL, 10);
}

struct clocks {
    uint64_t wall, cpu, runq;
};

/* All at one time: a thread that is preempted in between reads them again. */
static struct clocks read_clocks(void)
{
    struct clocks c;
    uint64_t start;
    do {
        start = now_ns();
        c.runq = runq_ns();
        c.cpu = cpu_ns();
        c.wall = now_ns();
    } while (c.wall - start > 50000);
    return c;
}

/* What another thread does after a while, so that somebody stops waiting. */
struct later {
    unsigned kind;
    int fd;
    uint32_t word;
};

static void *later(void *arg)
{
    struct later *l = arg;
    struct timespec t = {(time_t)(span_ns / 1000000000), (long)(span_ns % 1000000000)};
    nanosleep(&t, NULL);
    if (l->kind == 2) {
        __atomic_store_n(&l->word, 1, __ATOMIC_SEQ_CST);
        syscall(SYS_futex, &l->word, FUTEX_WAKE, 1, NULL, NULL, 0);
    } else
        must(write(l->fd, "x", 1) == 1, "write");
    return NULL;
}

static void read_file(void)
{
    static __thread uint64_t random = 88172645463325252u;
    void *block;
    must(posix_memalign(&block, ALIGNED, BLOCK) == 0, "memory");
    uint64_t start = now_ns();
    while (now_ns() - start < span_ns) {
        off_t at = (off_t)(next_random(&random) % file_blocks * BLOCK);
        must(pread(file_fd, block, BLOCK, at) == BLOCK, "read of --file");
    }
    free(block);
}

static void be_at(unsigned kind, struct later *l, int fd)
{
    char c;
    uint64_t end;
    struct timespec t = {(time_t)(span_ns / 1000000000), (long)(span_ns % 1000000000)};
    switch (kind) {
    case 0:
        end = cpu_ns() + span_ns;
        while (cpu_ns() < end)
            ;
        break;
    case 1:
        nanosleep(&t, NULL);
        break;
    case 2:
        while (__atomic_load_n(&l->word, __ATOMIC_SEQ_CST) == 0)
            syscall(SYS_futex, &l->word, FUTEX_WAIT, 0, NULL, NULL, 0);
        break;
    case 3:
        read_file();
        break;
    default:
        must(read(fd, &c, 1) == 1, "read");
    }
}

__attribute__((noinline, noclone, noipa)) unsigned work(unsigned kind, struct later *l, int fd)
{
    struct clocks before = read_clocks();
    be_at(kind, l, fd);
    struct clocks after = read_clocks();
    unsigned at = __atomic_fetch_add(&made, 1, __ATOMIC_RELAXED);
    must(at < MOST, "too many calls");
    calls[at] = (struct call){kind, (int)syscall(SYS_gettid), after.wall - before.wall, after.cpu - before.cpu,
                              after.runq - before.runq};
    return at;
}

static volatile unsigned sink;

static void one(unsigned kind)
{
    struct later l = {kind, -1, 0};
    int ends[2] = {-1, -1};
    pthread_t other;
    if (kind == 4)
        must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
    if (kind == 5)
        must(pipe(ends) == 0, "pipe");
    l.fd = ends[1];
    int waits = kind == 2 || kind >= 4;
    if (waits)
        must(pthread_create(&other, NULL, later, &l) == 0, "thread");
    sink += work(kind, &l, ends[0]);
    if (waits)
        pthread_join(other, NULL);
    if (ends[0] >= 0) {
        close(ends[0]);
        close(ends[1]);
    }
}

static void *all(void *unused)
{
    schedstat_fd = open("/proc/thread-self/schedstat", O_RDONLY);
    must(schedstat_fd >= 0, "open schedstat");
    unsigned only = (unsigned)option("--kind", KINDS);
    for (uint64_t i = 0; i < option("--calls", 20); i++)
        for (unsigned kind = 0; kind < KINDS; kind++)
            if ((only == KINDS || only == kind) && (kind != 3 || file_fd >= 0))
                one(kind);
    close(schedstat_fd);
    return unused;
}

static void on_one_cpu(unsigned threads)
{
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    must(sched_setaffinity(0, sizeof first, &first) == 0, "affinity");
    pthread_t t[64];
    must(threads <= 64, "threads");
    for (unsigned i = 0; i < threads; i++)
        must(pthread_create(&t[i], NULL, all, NULL) == 0, "thread");
    for (unsigned i = 0; i < threads; i++)
        pthread_join(t[i], NULL);
}

int main(int argc, char **argv)
{
    truth_start(argc, argv);
    span_ns = option("--ms", 20) * 1000000;
    const char *path = option_text("--file", NULL);
    if (path) {
        struct stat s;
        file_fd = open(path, O_RDONLY | O_DIRECT);
        must(file_fd >= 0, "open --file with O_DIRECT");
        must(fstat(file_fd, &s) == 0 && s.st_size >= BLOCK, "size of --file");
        file_blocks = (uint64_t)s.st_size / BLOCK;
    }
    gate();
    unsigned threads = (unsigned)option("--threads", 1);
    if (threads > 1)
        on_one_cpu(threads);
    else
        all(NULL);
    for (unsigned i = 0; i < made; i++)
        say("{\"kind\":%u,\"tid\":%d,\"wall\":%llu,\"cpu\":%llu,\"runq\":%llu}", calls[i].kind, calls[i].tid,
            (unsigned long long)calls[i].wall, (unsigned long long)calls[i].cpu,
            (unsigned long long)calls[i].runq);
    say("{\"pid\":%d,\"calls\":%u}", (int)getpid(), made);
    hold();
    return 0;
}
