// The same parameters in another order: one probe on all three needs three places to find them.
// tests/types.rs knows the values.
#include <stdio.h>

struct value {
    int v;
};

__attribute__((noinline)) int take_a(struct value *p, int n) {
    __asm__ volatile("" ::: "memory");
    return p->v + n;
}

__attribute__((noinline)) int take_b(int n, struct value *p) {
    __asm__ volatile("" ::: "memory");
    return p->v - n;
}

__attribute__((noinline)) int take_c(struct value *p, int n) {
    __asm__ volatile("" ::: "memory");
    return p->v * n;
}

int main(void) {
    struct value value = {5};
    int total = 0;
    for (int n = 0; n < 10; n++)
        total += take_a(&value, n) + take_b(n, &value) + take_b(n, &value) + take_c(&value, n);
    printf("%d\n", total);
    return 0;
}
