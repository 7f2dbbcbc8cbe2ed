// Calls of functions whose arguments have types: what a recipe that names them must show.
// tests/types.rs knows the values.
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum state { STATE_IDLE, STATE_READING = 4, STATE_CLOSED = 9 };

struct command {
    const char *name;
    int arity;
};

struct client {
    uint64_t id;
    int argc;
    enum state state;
    unsigned dirty : 1;
    unsigned level : 5;
    char nick[12];
    struct command *cmd;
    struct {
        uint32_t in;
        uint32_t out;
    } bytes;
    int16_t history[4];
    struct client *next;
};

__attribute__((noinline)) int serve(struct client *client, size_t size, const char *text) {
    __asm__ volatile("" ::: "memory");
    return (int)(client->argc + (int)size + text[0]);
}

__attribute__((noinline)) struct client *pick(struct client *first, int8_t wanted) {
    __asm__ volatile("" ::: "memory");
    return wanted < 0 ? first->next : first;
}

static int total;

__attribute__((noinline)) static void on_line(int round) {
    total += round;                      // LINE: counted
    __asm__ volatile("" ::: "memory");
}

int main(void) {
    struct command get = {"get", 2}, set = {"set", -3};
    struct client second = {.id = 1ull << 40, .argc = -2, .state = STATE_CLOSED, .dirty = 0, .level = 17, .nick = "twelve chars",
                            .cmd = &set, .bytes = {7, 8}, .history = {-1, -2, -3, -4}};
    struct client first = {.id = 42, .argc = 3, .state = STATE_READING, .dirty = 1, .level = 31, .nick = "ann", .cmd = &get,
                           .bytes = {100, 4000000000u}, .history = {10, 20, 30, 40}, .next = &second};
    // A probe cannot read a page that nobody has touched yet, and these texts lie in the file.
    const char *texts[] = {"hello", "w\xc3\xb6rld", get.name, set.name};
    for (int i = 0; i < 4; i++) {
        *(volatile const char *)texts[i];
    }
    int sum = serve(&first, 1024, texts[0]) + serve(&second, 1ul << 33, texts[1]);
    sum += pick(&first, -1)->argc + pick(&first, 1)->argc;
    for (int round = 0; round < 250; round++) on_line(round);
    printf("%d %d\n", sum, total);
    return 0;
}
