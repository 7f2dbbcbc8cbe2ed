/* asks: system calls of known numbers, arguments and results: opens files that are there and some that are not, and
 * writes into /dev/null. */
#include "truth.h"

#include <errno.h>
#include <fcntl.h>

int main(int argc, char **argv)
{
    truth_start(argc, argv);
    uint64_t calls = option("--calls", 100);
    int sink = open("/dev/null", O_WRONLY);
    static char bytes[5000];
    if (sink < 0)
        return 71;
    gate();
    uint64_t opened = 0, missing = 0, written = 0, sum = 0, most = 0;
    for (uint64_t i = 0; i < calls; i++) {
        char path[64];
        int there = i % 4 != 0;
        snprintf(path, sizeof path, there ? "/dev/null" : "/nonexistent/%llu", (unsigned long long)i);
        int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file >= 0) {
            opened++;
            close(file);
        } else if (errno == ENOENT) {
            missing++;
        }
        uint64_t size = 1 + i * 37 % sizeof bytes;
        if (write(sink, bytes, size) != (ssize_t)size)
            return 72;
        written++;
        sum += size;
        most = size > most ? size : most;
    }
    say("{\"pid\":%d,\"opened\":%llu,\"missing\":%llu,\"writes\":%llu,\"bytes\":%llu,\"most\":%llu}", (int)getpid(),
        (unsigned long long)opened, (unsigned long long)missing, (unsigned long long)written, (unsigned long long)sum,
        (unsigned long long)most);
    hold();
    return 0;
}
