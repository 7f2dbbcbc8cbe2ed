use super::*;

fn parse(text: &str) -> Operand {
    let symbol = &mut |name: &str| (name == "counter.0").then_some(0x4010);
    syntax::operand(text, 0x1000, symbol)
}

fn memory(base: Option<u8>, index: Option<(u8, u8)>, displacement: i64) -> Operand {
    Operand::Memory {
        base,
        index,
        displacement,
    }
}

/// What compilers print for the constraint "nor", and what people write by hand.
#[test]
fn operands() {
    let register = |register, shift| Operand::Register { register, shift };
    for (text, wanted) in [
        ("$5", Operand::Constant(5)),
        ("$-1", Operand::Constant(-1)),
        ("$0x7f", Operand::Constant(0x7f)),
        ("$18446744073709551615", Operand::Constant(-1)),
        ("$counter.0", Operand::Constant(0x4010)),
        ("%rax", register(0, 0)),
        ("%edi", register(5, 0)),
        ("%si", register(4, 0)),
        ("%dl", register(1, 0)),
        ("%ah", register(0, 8)),
        ("%bh", register(3, 8)),
        ("%sil", register(4, 0)),
        ("%bpl", register(6, 0)),
        ("%r8", register(8, 0)),
        ("%r8d", register(8, 0)),
        ("%r15w", register(15, 0)),
        ("%r10b", register(10, 0)),
        ("(%rdi)", memory(Some(5), None, 0)),
        ("-20(%rbp)", memory(Some(6), None, -20)),
        ("-0x14(%rsp)", memory(Some(7), None, -20)),
        ("8(%rax,%rcx,4)", memory(Some(0), Some((2, 4)), 8)),
        ("(%rax,%r9)", memory(Some(0), Some((9, 1)), 0)),
        ("0(,%r12,8)", memory(None, Some((12, 8)), 0)),
        ("counter.0(,%rax,8)", memory(None, Some((0, 8)), 0x4010)),
        ("counter.0(%rip)", memory(Some(16), None, 0x3010)),
        ("counter.0+4(%rip)", memory(Some(16), None, 0x3014)),
        ("4+counter.0(%rip)", memory(Some(16), None, 0x3014)),
        ("-4+counter.0+8(%rip)", memory(Some(16), None, 0x3014)),
        ("counter.0", memory(None, None, 0x4010)),
        ("4198400", memory(None, None, 4_198_400)),
    ] {
        assert_eq!(parse(text), wanted, "{text}");
    }
}

#[test]
fn what_cannot_be_read_says_why() {
    for (text, why) in [
        ("%xmm0", "no general register"),
        ("%st(0)", "no general register"),
        ("%fs:0", "thread-local"),
        ("%fs:counter@tpoff", "thread-local"),
        ("nobody(%rip)", "does not name the symbol \"nobody\""),
        ("counter@GOTPCREL(%rip)", "linker only"),
        ("8(%eax)", "cannot be part of an address"),
        ("8(%rax,%rcx,3)", "no scale"),
        ("8(%rax", "no closing bracket"),
        ("%r16", "no general register"),
        ("$", "cannot be understood"),
        ("-", "cannot be understood"),
        ("", "cannot be understood"),
    ] {
        let Operand::Unreadable(said) = parse(text) else {
            panic!("{text}: {:?}", parse(text));
        };
        assert!(said.contains(why), "{text}: {said}");
    }
}
