/* sockets: TCP over loopback with itself, in one thread, and what it did.
 *
 *   --port P          where it listens (7001)       --connections N
 *   --send B          bytes that the client sends, in one send (1)
 *   --reply R         bytes that the server answers with (0: it does not)
 *   --server-first    the server's end is closed first, not the client's
 *   --reset           the client's end is closed by a reset (SO_LINGER 0)
 *   --refused K       attempts to connect to port P + 1, where nobody listens
 *   --loss            the server's socket drops what comes, until the client
 *                     has sent its data again: a filter of its own drops all
 *   --opens O         files that are not there, /no/such/file-0 ...
 *   --gate --hold
 *
 * Truth: calls (connections), sent and received (the client's data), acked and
 * peer_acked (TCP_INFO's bytes_acked of the last client's and server's socket
 * before it is closed), client_port (of the last), refused, retransmits
 * (TCP_INFO's, of all clients), opens.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "truth.h"

static uint64_t sent, received, acked, peer_acked, client_port, refused, retransmits, opens;

static void need(int works, const char *what)
{
    if (!works) {
        say("{\"error\":\"%s: %s\"}", what, strerror(errno));
        _exit(1);
    }
}

static struct sockaddr_in address(uint64_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

static struct tcp_info info(int fd)
{
    struct tcp_info told = {0};
    socklen_t size = sizeof told;
    need(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &told, &size) == 0, "TCP_INFO");
    return told;
}

/* Waits until all that was sent is acknowledged. */
static uint64_t settled(int fd)
{
    while (info(fd).tcpi_unacked != 0 || info(fd).tcpi_notsent_bytes != 0)
        sleep_ms(5);
    return info(fd).tcpi_bytes_acked;
}

static void carry(int from, int to, uint64_t bytes)
{
    static char buffer[1 << 16];
    if (bytes == 0)
        return;
    need(bytes <= sizeof buffer, "too many bytes");
    need(send(from, buffer, bytes, 0) == (ssize_t)bytes, "send");
    for (uint64_t got = 0; got < bytes;) {
        ssize_t n = recv(to, buffer, bytes - got, 0);
        need(n > 0, "recv");
        got += (uint64_t)n;
    }
}

/* Sends a byte to a socket that drops what comes. */
static void lose(int from, int to)
{
    struct sock_filter drop = {BPF_RET | BPF_K, 0, 0, 0};
    struct sock_fprog all = {1, &drop};
    need(setsockopt(to, SOL_SOCKET, SO_ATTACH_FILTER, &all, sizeof all) == 0, "SO_ATTACH_FILTER");
    need(send(from, "x", 1, 0) == 1, "send");
    while (info(from).tcpi_total_retrans < 2)
        sleep_ms(20);
    int none = 0;
    need(setsockopt(to, SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof none) == 0, "SO_DETACH_FILTER");
    char c;
    need(recv(to, &c, 1, 0) == 1, "recv");
    sent++;
}

static void talk(int listener, uint64_t port)
{
    struct sockaddr_in there = address(port), own;
    socklen_t size = sizeof own;
    int client = socket(AF_INET, SOCK_STREAM, 0);
    need(connect(client, (struct sockaddr *)&there, sizeof there) == 0, "connect");
    need(getsockname(client, (struct sockaddr *)&own, &size) == 0, "getsockname");
    client_port = ntohs(own.sin_port);
    int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    need(server >= 0, "accept4");
    uint64_t send = option("--send", 1), reply = option("--reply", 0);
    carry(client, server, send);
    carry(server, client, reply);
    if (flag("--loss"))
        lose(client, server);
    acked = settled(client);
    peer_acked = settled(server);
    retransmits += info(client).tcpi_total_retrans;
    sent += send;
    received += reply;
    struct linger now = {1, 0};
    if (flag("--reset"))
        need(setsockopt(client, SOL_SOCKET, SO_LINGER, &now, sizeof now) == 0, "SO_LINGER");
    int first = flag("--server-first");
    close(first ? server : client);
    close(first ? client : server);
}

int main(int argc, char **argv)
{
    truth_start(argc, argv);
    uint64_t port = option("--port", 7001), connections = option("--connections", 1);
    struct sockaddr_in here = address(port), nobody = address(port + 1);
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    need(bind(listener, (struct sockaddr *)&here, sizeof here) == 0, "bind");
    need(listen(listener, 16) == 0, "listen");
    gate();
    for (uint64_t i = 0; i < connections; i++)
        talk(listener, port);
    for (; refused < option("--refused", 0); refused++) {
        int client = socket(AF_INET, SOCK_STREAM, 0);
        need(connect(client, (struct sockaddr *)&nobody, sizeof nobody) != 0 && errno == ECONNREFUSED, "refused");
        close(client);
    }
    for (; opens < option("--opens", 0); opens++) {
        char path[64];
        snprintf(path, sizeof path, "/no/such/file-%d", (int)opens);
        need(open(path, O_RDONLY) < 0 && errno == ENOENT, "open");
    }
    say("{\"calls\":%llu,\"sent\":%llu,\"received\":%llu,\"acked\":%llu,\"peer_acked\":%llu,\"client_port\":%llu,"
        "\"refused\":%llu,\"retransmits\":%llu,\"opens\":%llu}",
        (unsigned long long)connections, (unsigned long long)sent, (unsigned long long)received,
        (unsigned long long)acked, (unsigned long long)peer_acked, (unsigned long long)client_port,
        (unsigned long long)refused, (unsigned long long)retransmits, (unsigned long long)opens);
    hold();
    return 0;
}
