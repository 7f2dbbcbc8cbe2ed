#include <stdio.h>
#include <stdlib.h>
#define NOIPA __attribute__((noipa))
volatile int sink;
NOIPA int leaf(int x) { return x * 3 + sink; }
NOIPA int other(int x) { return leaf(x) - 1; }
/* several returns */
NOIPA int returns(int x, int *p) { if (x < 0) { *p = 1; return leaf(x) + 4; } if (x > 9) return *p * 5; return other(x) + leaf(*p); }
/* tail calls: plain, on a condition, of itself, of one another */
NOIPA int tail(int x) { return leaf(x + 1); }
NOIPA int tail_if(int x) { if (x > 3) return other(x); return x; }
NOIPA int tail_late(int x) { int y = leaf(x); for (int i = 0; i < x; i++) y += other(i); return leaf(y + x); }
NOIPA int itself(int x) { if (x <= 0) return sink; sink += leaf(x); return itself(x - 1); }
int odd(int x);
NOIPA int even(int x) { return x == 0 ? 1 : odd(x - 1); }
NOIPA int odd(int x) { return x == 0 ? 0 : even(x - 1); }
/* through pointers */
typedef int function(int);
function *pointer = leaf;
function *const table[] = {leaf, other, tail, even};
NOIPA int by_pointer(int x) { return pointer(x + 2); }
NOIPA int by_argument(function *f, int x) { return f(x); }
NOIPA int by_table(unsigned n, int x) { return table[n & 3](x); }
struct ops { void *a; function *f; };
NOIPA int by_ops(struct ops *o, int x) { sink++; return o->f(x); }
/* switches: with nothing on the stack, and with something */
NOIPA int switch_leaf(int n, int x)
{
    switch (n) {
    case 0: sink = x; return x + 1;
    case 1: sink = 4; x ^= 7; break;
    case 2: return x << 3;
    case 3: sink += x; break;
    case 4: x /= 3; break;
    case 5: sink -= 9 * x; return sink;
    case 6: x %= 17; break;
    }
    return x * sink;
}
NOIPA int switch_tails(int n, int x)
{
    switch (n) {
    case 0: return leaf(x + 1);
    case 1: return other(x ^ 3);
    case 2: return tail(x << 3);
    case 3: return itself(x & 1);
    case 4: return even(x / 3);
    case 5: return odd(9 * x);
    case 6: return tail_if(x % 17);
    }
    return 0;
}
NOIPA int switch_frame(int n, int x)
{
    int a[4] = {n, x, leaf(n), 3}, s = 0;
    for (int i = 0; i < n; i++)
        switch (x + i) {
        case 0: s += other(a[i & 3]); break;
        case 1: s ^= leaf(i); a[0] = s; break;
        case 2: return s;
        case 3: s += a[1]; break;
        case 4: s /= 3; break;
        case 5: a[2] -= 9 * x; break;
        case 6: s = even(s % 17); break;
        }
    return s + a[n & 3];
}
NOIPA int switch_goto(int n, int x)
{
    static const void *const steps[] = {&&add, &&sub, &&twice, &&end};
    goto *steps[n & 3];
add: x += sink; n >>= 1; goto *steps[n & 3];
sub: x -= 3; n >>= 2; goto *steps[n & 3];
twice: x *= 2; n >>= 1; goto *steps[n & 3];
end: return x;
}
/* cold code */
__attribute__((cold, noipa)) void complain(const char *why) { fputs(why, stderr); sink++; }
__attribute__((cold, noreturn, noipa)) void die(int x) { fprintf(stderr, "%d\n", x); exit(x); }
NOIPA int cold_back(int *p, int x)
{
    int y = leaf(x);
    for (int i = 0; i < x; i++) {
        if (__builtin_expect(p[i] < 0, 0)) { complain("negative"); fprintf(stderr, "%d\n", p[i]); p[i] = leaf(-p[i]); }
        y += p[i];
    }
    return y;
}
NOIPA int cold_returns(int *p, int x)
{
    if (__builtin_expect(x < 0, 0)) { complain("less"); fprintf(stderr, "%d %d\n", x, *p); return -leaf(x); }
    return p[x] * x;
}
NOIPA int cold_tail(int *p, int x)
{
    if (__builtin_expect(x < 0, 0)) { complain("tail"); sink = *p; return other(x); }
    int y = leaf(x);
    if (__builtin_expect(y < 0, 0)) { complain("tail 2"); sink = *p; return leaf(y + x); }
    return p[x] * x + y;
}
NOIPA int cold_dies(int *p, int x)
{
    if (__builtin_expect(x < 0, 0)) die(x);
    return leaf(p[x]) + other(*p);
}
NOIPA void dies(int x) { if (x) die(x); exit(1); }
/* a function in two parts: the rest is called by it */
static int halves(int *p, int x)
{
    if (__builtin_expect(p == 0, 1)) return x;
    int s = 0;
    for (int i = 0; i < 20; i++) { s += leaf(p[i]) * other(s); s ^= p[s & 15]; printf("%d", s); }
    for (int i = 0; i < 20; i++) { s -= leaf(p[i]) * other(s); s ^= p[s & 15]; printf("%d", s); }
    return s;
}
NOIPA int halves_1(int *p, int x) { return halves(p, x); }
NOIPA int halves_2(int *p, int x) { return halves(p + 1, x) + 1; }
NOIPA int halves_3(int *p, int x) { sink++; return halves(p, x + 3); }
/* room on the stack that no constant tells, and aligned */
NOIPA int alloca_tail(int n) { volatile char *p = __builtin_alloca(n); p[0] = 1; return leaf(p[0] + n); }
NOIPA int aligned_tail(int n) { volatile int a[16] __attribute__((aligned(64))); a[n] = n; return other(a[n]); }
int main(int c, char **v)
{
    int a[32] = {c, 1, 2, 3}; (void)v;
    struct ops ops = {0, leaf};
    sink = returns(c, a) + tail(c) + tail_if(c) + tail_late(c) + itself(c) + even(c) + by_pointer(c) + by_argument(leaf, c)
        + by_table(c, c) + by_ops(&ops, c) + switch_leaf(c, c) + switch_tails(c, c) + switch_frame(c, c) + switch_goto(3, c)
        + cold_back(a, c) + cold_returns(a, c) + cold_tail(a, c) + cold_dies(a, c) + halves_1(0, c) + halves_2(a, c)
        + halves_3(0, c) + alloca_tail(c) + aligned_tail(c);
    if (sink == 12345) dies(c);
    return 0;
}
