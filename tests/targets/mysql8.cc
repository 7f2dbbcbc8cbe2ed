/* mysql8: the part of MySQL 8's server that a statement profiler sees.
 *
 * Debian ships no MySQL, so this stands in for it: dispatch_command() with
 * MySQL 8's signature, its COM_DATA layout (the text of a query and of a
 * PREPARE is the first pointer, its length the unsigned int after it; the
 * statement id comes first in EXECUTE, RESET and CLOSE), and the way of
 * its answers: my_net_write() puts a packet behind its header (length in three
 * bytes, sequence number) into a buffer, and net_flush() hands the buffer to
 * net_write_packet(). A PREPARE is answered by a packet of 12 bytes (13 for
 * clients that can do without metadata): 0, the statement's id in four bytes,
 * columns, parameters, 0, warnings.
 *
 * Built with -DPACKETS_ALONE there is no net_write_packet: a server where it
 * was inlined.
 *
 *   --sessions S --executes E   --slow-ms M (every session's second statement)
 *   --gate --hold
 * Lines of output: one {"text":..,"query":N,"prepare":N,"execute":N} for every
 * distinct text (control and non-ASCII bytes as \u00XX; "length" is the whole
 * length, "text" at most 600 bytes of it), then the truth: queries, prepares,
 * executes, closes, quits, slow, calls.
 */
#include <pthread.h>

#include <map>
#include <string>

#include "truth.h"

enum enum_server_command {
    COM_SLEEP = 0,
    COM_QUIT = 1,
    COM_INIT_DB = 2,
    COM_QUERY = 3,
    COM_PING = 14,
    COM_STMT_PREPARE = 22,
    COM_STMT_EXECUTE = 23,
    COM_STMT_CLOSE = 25,
    COM_STMT_RESET = 26,
};

struct QueryData {
    const char *text;
    unsigned int length;
    const char *attributes;
    unsigned int attributes_length;
};

struct PrepareData {
    const char *text;
    unsigned int length;
};

struct ExecuteData {
    unsigned long statement;
    unsigned long open_cursor;
    void *parameters;
    unsigned long parameter_count;
    unsigned char has_new_types;
};

struct CloseData {
    unsigned int statement;
};

union COM_DATA {
    QueryData query;
    PrepareData prepare;
    ExecuteData execute;
    CloseData close;
};

struct NET {
    unsigned char buffer[256];
    size_t used;
    unsigned char sequence;
    size_t sent;
};

struct THD {
    NET net{};
    unsigned next_statement = 1;
    bool optional_metadata = false;
};

static uint64_t slow_ms;

#ifndef PACKETS_ALONE
__attribute__((noinline, noipa)) bool net_write_packet(NET *net, const unsigned char *packet, size_t length)
{
    net->sent += length + (packet[0] & 0);
    return false;
}
#endif

extern "C" __attribute__((noinline, noipa)) bool net_flush(NET *net)
{
#ifndef PACKETS_ALONE
    if (net->used)
        net_write_packet(net, net->buffer, net->used);
#endif
    net->used = 0;
    return false;
}

extern "C" __attribute__((noinline, noipa)) bool my_net_write(NET *net, const unsigned char *packet,
                                                              size_t length)
{
    if (net->used + 4 + length > sizeof net->buffer)
        _exit(74);
    unsigned char *to = net->buffer + net->used;
    to[0] = (unsigned char)length;
    to[1] = to[2] = 0;
    to[3] = ++net->sequence;
    memcpy(to + 4, packet, length);
    net->used += 4 + length;
    return false;
}

static void put(unsigned char *at, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        at[i] = (unsigned char)(value >> (8 * i));
}

/* A row of a result set that looks like an answer to PREPARE, byte for byte:
 * only the call it is written in tells them apart. */
static void write_row_like_prepare(THD *thd)
{
    unsigned char row[12] = {0};
    put(row + 1, 1, 4);
    my_net_write(&thd->net, row, sizeof row);
}

static void write_error(THD *thd)
{
    unsigned char error[] = "\377\050\004#42000";
    my_net_write(&thd->net, error, sizeof error - 1);
}

static void write_prepare_answer(THD *thd)
{
    unsigned char answer[13] = {0};
    put(answer + 1, thd->next_statement++, 4);
    put(answer + 5, 1, 2);
    put(answer + 7, 2, 2);
    answer[12] = 1;
    my_net_write(&thd->net, answer, thd->optional_metadata ? 13 : 12);
    unsigned char column[] = "\003def\0\0\0\001?\0\014\077";
    my_net_write(&thd->net, column, 12);
}

static bool run_command(THD *thd, const COM_DATA *data, enum enum_server_command command)
{
    switch (command) {
    case COM_QUERY:
        write_row_like_prepare(thd);
        return memmem(data->query.text, data->query.length, "BAD", 3) != nullptr;
    case COM_STMT_PREPARE:
        if (memmem(data->prepare.text, data->prepare.length, "BAD", 3) != nullptr) {
            write_error(thd);
            return true;
        }
        write_prepare_answer(thd);
        return false;
    case COM_STMT_EXECUTE:
        if (slow_ms != 0 && data->execute.statement == 2)
            sleep_ms(slow_ms);
        write_row_like_prepare(thd);
        return false;
    case COM_QUIT:
        return true;
    default:
        return false;
    }
}

__attribute__((noinline, noipa)) bool dispatch_command(THD *thd, const COM_DATA *data,
                                                       enum enum_server_command command)
{
    thd->net.sequence = 0;
    bool failed = run_command(thd, data, command);
    net_flush(&thd->net);
    return failed;
}

struct Seen {
    unsigned query = 0, prepare = 0, execute = 0;
};

static std::map<std::string, Seen> seen;
static unsigned queries, prepares, executes, closes, quits, slow, calls;
static pthread_barrier_t hand_over;

/* The text lies among other bytes, as in a packet buffer: what follows it is
 * not NUL. */
static std::string packet(const std::string &text)
{
    return text + "<<bytes after the text>>";
}

static void query(THD *thd, const std::string &text)
{
    std::string buffer = packet(text);
    COM_DATA data{};
    data.query = {buffer.data(), (unsigned)text.size(), nullptr, 0};
    seen[text].query++;
    queries++, calls++;
    dispatch_command(thd, &data, COM_QUERY);
}

static unsigned prepare(THD *thd, const std::string &text)
{
    std::string buffer = packet(text);
    COM_DATA data{};
    data.prepare = {buffer.data(), (unsigned)text.size()};
    seen[text].prepare++;
    prepares++, calls++;
    unsigned statement = thd->next_statement;
    dispatch_command(thd, &data, COM_STMT_PREPARE);
    return statement;
}

static void execute(THD *thd, unsigned statement, const std::string &text)
{
    COM_DATA data{};
    data.execute = {statement, 0, nullptr, 2, 1};
    seen[text].execute++;
    executes++, calls++;
    if (slow_ms != 0 && statement == 2)
        slow++;
    dispatch_command(thd, &data, COM_STMT_EXECUTE);
}

static void close_statement(THD *thd, unsigned statement)
{
    COM_DATA data{};
    data.close = {statement};
    closes++, calls++;
    dispatch_command(thd, &data, COM_STMT_CLOSE);
}

static void quit(THD *thd)
{
    COM_DATA data{};
    quits++, calls++;
    dispatch_command(thd, &data, COM_QUIT);
}

static std::string numbered(const char *text, uint64_t a, uint64_t b)
{
    char line[200];
    snprintf(line, sizeof line, text, (unsigned long long)a, (unsigned long long)b);
    return line;
}

static std::string padded(const std::string &start, size_t length)
{
    std::string text = start;
    while (text.size() < length)
        text += "abcdefghijklmnopqrstuvwxyz"[text.size() % 26];
    return text;
}

/* One session, as a pool serves it: prepared on one thread, executed on
 * another. Statement ids begin at 1 in every session. */
static THD sessions[64];
static uint64_t session_count, execute_count;

static std::string statement_text(uint64_t session, uint64_t statement)
{
    return numbered("SELECT c FROM t%llu WHERE id = ? AND k%llu = ?", session, statement);
}

static void prepare_all()
{
    for (uint64_t s = 0; s < session_count; s++) {
        sessions[s].optional_metadata = s % 2 == 1;
        query(&sessions[s], "SELECT 1");
        for (uint64_t i = 1; i <= 3; i++)
            prepare(&sessions[s], statement_text(s, i));
        prepare(&sessions[s], "SELECT BAD syntax ?");
    }
}

static void *execute_all(void *)
{
    pthread_barrier_wait(&hand_over);
    for (uint64_t e = 0; e < execute_count; e++)
        for (uint64_t s = 0; s < session_count; s++) {
            uint64_t statement = 1 + e % 3;
            execute(&sessions[s], (unsigned)statement, statement_text(s, statement));
            if (e % 5 == 0)
                query(&sessions[s], numbered("UPDATE t%llu SET k = %llu", s, e));
        }
    pthread_barrier_wait(&hand_over);
    return nullptr;
}

int main(int argc, char **argv)
{
    truth_start(argc, argv);
    session_count = option("--sessions", 4);
    execute_count = option("--executes", 30);
    slow_ms = option("--slow-ms", 0);
    if (session_count < 1 || session_count > 64)
        return 64;
    pthread_barrier_init(&hand_over, nullptr, 2);
    pthread_t other;
    if (pthread_create(&other, nullptr, execute_all, nullptr) != 0)
        return 73;
    gate();

    prepare_all();
    pthread_barrier_wait(&hand_over);
    pthread_barrier_wait(&hand_over);
    pthread_join(other, nullptr);

    THD *thd = &sessions[0];
    close_statement(thd, 1);
    quit(thd);
    /* A new session at the old one's address: its ids begin again. */
    *thd = THD();
    unsigned again = prepare(thd, "INSERT INTO reused VALUES (?)");
    execute(thd, again, "INSERT INTO reused VALUES (?)");

    query(thd, padded("SELECT /* 5000 */ ", 5000));
    query(thd, padded("SELECT /* 70000 */ ", 70000));
    unsigned lengthy = prepare(thd, padded("SELECT /* prepared 3000 */ ? ", 3000));
    execute(thd, lengthy, padded("SELECT /* prepared 3000 */ ? ", 3000));
    query(thd, "SELECT '\033[31mred\033[0m'");
    query(thd, std::string("SELECT 'nul\0inside'", 19));
    query(thd, "SELECT '\xff\xfe not UTF-8'");
    query(thd, "SELECT 'caf\xc3\xa9'");
    query(thd, "");
    query(thd, "BAD");

    for (const auto &one : seen) {
        char text[6 * 600 + 1];
        size_t used = 0;
        for (size_t i = 0; i < one.first.size() && i < 600; i++) {
            unsigned char c = (unsigned char)one.first[i];
            const char *form = c < 32 || c > 126 || c == '"' || c == '\\' ? "\\u%04x" : "%c";
            used += (size_t)snprintf(text + used, sizeof text - used, form, c);
        }
        text[used] = 0;
        say("{\"text\":\"%s\",\"length\":%zu,\"query\":%u,\"prepare\":%u,\"execute\":%u}", text,
            one.first.size(), one.second.query, one.second.prepare, one.second.execute);
    }
    say("{\"pid\":%d,\"queries\":%u,\"prepares\":%u,\"executes\":%u,\"closes\":%u,\"quits\":%u,"
        "\"slow\":%u,\"calls\":%u}",
        (int)getpid(), queries, prepares, executes, closes, quits, slow, calls);
    hold();
    return 0;
}
