/* nginx_layouts: ends requests with the layouts of releases of nginx that are not installed, and with one that no release
 * has, by the name of nginx's function. The offsets are what gcc says of nginx's own headers, configured as Debian does.
 *
 *   --gate --hold
 *
 * Each request's URI is its release, its status 200 and its number; it took 350 ms. The last line is the pid alone.
 */
#include "truth.h"

#define PROBED __attribute__((noinline, noclone, noipa))

struct layout {
    const char *release;
    size_t status, start_sec, start_msec, http_version, unparsed_uri, method_name, main, request_length, err_status;
};

static const struct layout layouts[] = {
    {"1.22.1", 648, 960, 968, 984, 1056, 1072, 1128, 1248, 1256},
    {"1.24.0", 584, 832, 840, 856, 928, 944, 1000, 1120, 1128},
    {"1.28.0", 584, 832, 840, 856, 928, 944, 1000, 1120, 1128},
    {"1.31.4", 600, 856, 864, 880, 952, 968, 1024, 1144, 1152},
    {"none", 632, 936, 944, 960, 1032, 1048, 1104, 1224, 1232},
};

struct ngx_time {
    long sec;
    unsigned long msec;
    long gmtoff;
};

static struct ngx_time now = {1000, 250, 0};
volatile struct ngx_time *ngx_cached_time = (volatile struct ngx_time *)&now;

static char connection[256];

PROBED void ngx_http_free_request(void *r, long rc)
{
    __asm__ volatile("" : : "r"(r), "r"(rc) : "memory");
}

static void put(char *at, uint64_t value)
{
    memcpy(at, &value, sizeof value);
}

static void put_text(char *at, const char *text)
{
    put(at, strlen(text));
    put(at + 8, (uint64_t)(uintptr_t)text);
}

int main(int argc, char **argv)
{
    static char r[4096];
    truth_start(argc, argv);
    put_text(connection + 120, "192.0.2.7");
    put(connection + 72, 1234);
    gate();
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        const struct layout *l = &layouts[i];
        memset(r, 0, sizeof r);
        memcpy(r, "HTTP", 4);
        put(r + 8, (uint64_t)(uintptr_t)connection);
        put(r + l->status, 200 + i);
        put(r + l->start_sec, 999);
        put(r + l->start_msec, 900);
        put(r + l->http_version, 1001);
        put_text(r + l->unparsed_uri, l->release);
        put_text(r + l->method_name, "GET");
        put(r + l->main, (uint64_t)(uintptr_t)r);
        put(r + l->request_length, 77);
        ngx_http_free_request(r, 0);
    }
    say("{\"pid\":%d}", (int)getpid());
    hold();
    return 0;
}
