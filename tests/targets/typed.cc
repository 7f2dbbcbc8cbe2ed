// C++ texts as arguments: tests/types.rs knows the values.
#include <cstdio>
#include <string>
#include <string_view>

namespace shop {
struct Base {
    int kind;
    std::string name;
};

class Order : public Base {
public:
    Order(int kind, std::string name, double price) : Base{kind, std::move(name)}, price_(price) {}
    __attribute__((noinline)) int add(std::string_view item, const std::string &note, int count);

private:
    double price_;
    int total_ = 0;
};

int Order::add(std::string_view item, const std::string &note, int count) {
    total_ += count + static_cast<int>(item.size() + note.size());
    __asm__ volatile("" ::: "memory");
    return total_;
}
}  // namespace shop

int main() {
    shop::Order order(7, "small", 1.5);
    shop::Order large(8, "a name that is longer than what fits into the string itself", 2.5);
    const char text[] = "apples and pears";
    int sum = order.add(std::string_view(text, 6), "short", 2);
    sum += large.add(std::string_view(text + 11, 5), "a note that is longer than fifteen bytes", -1);
    std::printf("%d\n", sum);
}
