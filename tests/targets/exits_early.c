/* exits_early: calls work(n) and then ends while it is still being watched.
 *
 *   --calls N   --gate
 *   --how exit      exit(--exit STATUS) after the calls
 *         inside    _exit from within one more work() call: an open call
 *         signal    kills itself with SIGKILL
 *         exec      becomes `true`
 * Truth is printed before the end.
 */
#include <signal.h>

#include "truth.h"

static const char *how;

__attribute__((noinline, noclone, noipa)) long work(long n)
{
    if (n < 0)
        _exit((int)option("--exit", 0));
    return 3 * n + 1;
}

int main(int argc, char **argv)
{
    truth_start(argc, argv);
    uint64_t calls = option("--calls", 1000);
    how = option_text("--how", "exit");
    gate();
    long sum = 0;
    for (uint64_t i = 0; i < calls; i++)
        sum += work((long)i);
    int inside = strcmp(how, "inside") == 0;
    say("{\"pid\":%d,\"calls\":%llu,\"returned\":%ld}", (int)getpid(),
        (unsigned long long)calls + (inside ? 1 : 0), sum);
    if (inside)
        work(-1);
    if (strcmp(how, "signal") == 0)
        kill(getpid(), SIGKILL);
    if (strcmp(how, "exec") == 0)
        execlp("true", "true", (char *)NULL);
    return (int)option("--exit", 0);
}
