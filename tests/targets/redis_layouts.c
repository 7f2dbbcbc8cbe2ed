/* redis_layouts: redis' call() with its structs laid out as the flags of the
 * compiler say, since Debian has one version of redis only.
 *
 *   ARGC, CMD   where in a client its argc (argv is 8 bytes on) and its cmd are
 *   NAME        where in a command its name is
 *   HAS         a function by which that version is known
 *
 * Executes a fixed list of commands whose words have all kinds of lengths.
 * Before the truth there is a line for each: its words' number, its name and
 * the length and the first 40 bytes of its second to fifth word. The truth: calls.
 */
#include "truth.h"

#define PROBED __attribute__((noinline, noclone, noipa))

typedef char *sds;

/* The first word of a redisObject: type (4 bits), encoding (4 bits), the rest for eviction. */
typedef struct robj {
    unsigned type : 4, encoding : 4, lru : 24;
    int refcount;
    void *ptr;
} robj;

struct redisCommand {
    char before[NAME];
    sds fullname;
};

typedef struct client {
    uint64_t id;
    char before[ARGC - 8];
    int argc;
    robj **argv;
    char between[CMD - ARGC - 16];
    struct redisCommand *cmd;
} client;

#ifdef HAS
PROBED void HAS(void) {}
#endif

static uint64_t calls;

PROBED void call(client *c, int flags)
{
    calls += c->argc > 0 && flags == 15;
}

/* A text with its length in front, in the least of redis' widths from `type` on. */
static sds text(int type, const char *from, size_t length)
{
    static const size_t header[] = {1, 3, 5, 9, 17};
    char *whole = malloc(header[type] + length + 1);
    if (!whole)
        _exit(72);
    sds s = whole + header[type];
    memcpy(s, from, length);
    s[length] = 0;
    s[-1] = (char)(type == 0 ? length << 3 : (size_t)type);
    if (type > 0) {
        size_t width = (header[type] - 1) / 2;
        memcpy(whole, &length, width);
        memcpy(whole + width, &length, width);
    }
    return s;
}

static robj *object(const char *from, size_t length)
{
    robj *o = malloc(sizeof *o);
    if (!o)
        _exit(72);
    o->type = 0;
    o->encoding = length <= 44 ? 8 : 0;
    o->lru = 0xabcdef;
    o->refcount = 1;
    /* What is embedded has a header of bytes; the last two widths stand for texts that were longer. */
    o->ptr = text(length <= 200 ? 1 : length <= 5000 ? 2 : length < 70000 ? 3 : 4, from, length);
    return o;
}

static void execute(uint64_t id, const char *name, int argc, const size_t *lengths)
{
    static char letters[80000];
    if (!letters[0])
        for (size_t n = 0; n < sizeof letters; n++)
            letters[n] = (char)('a' + n % 26);
    struct redisCommand cmd;
    client c;
    robj *argv[6];
    memset(&cmd, 0, sizeof cmd);
    memset(&c, 0, sizeof c);
    cmd.fullname = text(0, name, strlen(name));
    c.id = id;
    c.argc = argc;
    c.argv = argv;
    c.cmd = &cmd;
    argv[0] = object(name, strlen(name));
    char words[1000] = "";
    size_t used = 0;
    for (int n = 1; n < argc; n++) {
        argv[n] = object(letters + n, lengths[n - 1]);
        used += (size_t)snprintf(words + used, sizeof words - used, "%s[%zu,\"%.*s\"]", n > 1 ? "," : "", lengths[n - 1],
                                 (int)(lengths[n - 1] < 40 ? lengths[n - 1] : 40), letters + n);
    }
    call(&c, 15);
    say("{\"id\":%llu,\"command\":\"%s\",\"words\":[%s],\"argc\":%d}", (unsigned long long)id, name, words, argc);
}

int main(int argc, char **argv)
{
    truth_start(argc, argv);
    gate();
    execute(7, "ping", 1, NULL);
    execute(8, "set", 3, (size_t[]){3, 17});
    execute(9, "config|set", 4, (size_t[]){3, 0, 31});
    execute(UINT64_MAX, "xadd", 5, (size_t[]){44, 45, 200, 201});
    execute(11, "set", 5, (size_t[]){5000, 60000, 70000, 1});
#ifdef HAS
    HAS();
#endif
    say("{\"pid\":%d,\"calls\":%llu}", (int)getpid(), (unsigned long long)calls);
    hold();
    return 0;
}
