// ways++: what C++ makes of names: namespaces, overloads, templates, virtuals, lambdas. Each is called --calls times.
#include "truth.h"

#define PROBED __attribute__((noinline, noclone, noipa))

namespace shop {
namespace {
PROBED long hidden(long n) { return n + 1; }
}  // namespace

PROBED long price(int n) { return 2L * n; }
PROBED long price(const char *text) { return text[0]; }

template <typename T> struct Box {
    T held;
    PROBED T take(T other) const { return static_cast<T>(held + other); }
};

struct Shape {
    virtual ~Shape() = default;
    virtual long area(long scale) const = 0;
};

struct Square final : Shape {
    long side;
    explicit Square(long s) : side(s) {}
    PROBED long area(long scale) const override { return side * side * scale; }
};

template <int N> PROBED long times(long n) { return n * N; }

PROBED long run(long n)
{
    const Square square(n);
    const Shape &shape = square;
    const Box<long> box{n};
    const Box<short> small{3};
    auto add = [n](long m) __attribute__((noinline)) { return n + m; };
    return hidden(n) + price(static_cast<int>(n)) + price("a") + box.take(1) + small.take(2) + shape.area(2) +
           times<3>(n) + times<4>(n) + add(5);
}
}  // namespace shop

int main(int argc, char **argv)
{
    truth_start(argc, argv);
    const uint64_t calls = option("--calls", 1000);
    gate();
    long sum = 0;
    for (uint64_t i = 0; i < calls; i++)
        sum += shop::run(static_cast<long>(i));
    say("{\"pid\":%d,\"calls\":%llu,\"sum\":%ld}", static_cast<int>(getpid()), static_cast<unsigned long long>(calls),
        sum);
    hold();
    return 0;
}
