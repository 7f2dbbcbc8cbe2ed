/* nginx_closes: a server with nginx's function and the start of its connection, and a client, in one thread.
 *
 *   --connections N   of each way to end (8)        --port P (7001)
 *   --gate --hold
 *
 * Truth: calls (of ngx_close_connection), and how many were closed by app (the server first), peer, peer_reset
 * (SO_LINGER 0), app_reset (unread data) and half (the peer's FIN first, then the answer).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <sys/socket.h>

#include "truth.h"

/* ngx_event_t: flags from 8 on; of ngx_connection_t what has not moved since 2014, and what 1.19.10 to 1.24 have behind. */
struct event {
    void *data;
    uint32_t flags;
};
struct connection {
    void *data;
    struct event *read, *write;
    int fd;
    char between[64 - 28];
    void *listening;
    uint64_t sent;
    char more[200 - 80];
    uint64_t number, start_time, requests;
};
_Static_assert(offsetof(struct connection, fd) == 24 && offsetof(struct connection, listening) == 64 &&
                   offsetof(struct connection, number) == 200,
               "ngx_connection_t of nginx 1.22");

uint64_t ngx_current_msec = 100000;

static void need(int works, const char *what)
{
    if (!works) {
        say("{\"error\":\"%s: %s\"}", what, strerror(errno));
        _exit(1);
    }
}

__attribute__((noinline, noclone)) void ngx_close_connection(struct connection *c)
{
    int fd = c->fd;
    c->fd = -1;
    need(close(fd) == 0, "close");
}

static void await(int fd, short what)
{
    struct pollfd one = {.fd = fd, .events = what};
    need(poll(&one, 1, 20000) == 1, "poll");
}

enum way { APP, PEER, PEER_RESET, APP_RESET, HALF, WAYS };

static void serve(int listener, struct sockaddr_in *there, enum way way, uint64_t number)
{
    int client = socket(AF_INET, SOCK_STREAM, 0);
    need(connect(client, (struct sockaddr *)there, sizeof *there) == 0, "connect");
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    need(fd >= 0, "accept4");
    struct event in = {0}, out = {0};
    struct connection c = {.read = &in, .write = &out, .fd = fd, .listening = &listener,
                           .number = number, .start_time = ngx_current_msec - 7, .requests = 1};
    in.data = out.data = &c;
    need(send(client, "ask", 3, 0) == 3, "send");
    await(fd, POLLIN);
    char text[16];
    if (way != APP_RESET)
        need(recv(fd, text, sizeof text, 0) == 3, "recv");
    struct linger now = {1, 0};
    if (way == PEER_RESET)
        need(setsockopt(client, SOL_SOCKET, SO_LINGER, &now, sizeof now) == 0, "SO_LINGER");
    if (way == HALF)
        need(shutdown(client, SHUT_WR) == 0, "shutdown");
    if (way == PEER || way == PEER_RESET)
        close(client);
    if (way == PEER || way == PEER_RESET || way == HALF)
        await(fd, POLLRDHUP);
    if (way == HALF)
        need(send(fd, "answer", 6, 0) == 6, "send");
    ngx_close_connection(&c);
    if (way == PEER || way == PEER_RESET)
        return;
    await(client, POLLRDHUP);
    close(client);
}

int main(int argc, char **argv)
{
    truth_start(argc, argv);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)option("--port", 7001))};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    need(bind(listener, (struct sockaddr *)&here, sizeof here) == 0, "bind");
    need(listen(listener, 16) == 0, "listen");
    gate();
    unsigned long long each = option("--connections", 8), number = 0;
    for (unsigned long long i = 0; i < each; i++)
        for (enum way way = APP; way < WAYS; way++)
            serve(listener, &here, way, ++number);
    say("{\"calls\":%llu,\"app\":%llu,\"peer\":%llu,\"peer_reset\":%llu,\"app_reset\":%llu,\"half\":%llu}", number, each,
        each, each, each, each);
    hold();
    return 0;
}
