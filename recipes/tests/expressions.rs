//! What expressions mean.

mod eval;

use eval::World;
use uprof_recipes::{Expr, Kind, Scope, Source, Type, Value, parse_expr};

fn read(text: &str, scope: &Scope) -> Expr {
    parse_expr(&Source::new("--where", text), scope)
        .unwrap_or_else(|e| panic!("{}", e.render(false)))
}

const WORLD: World = World {
    args: [
        100,
        1000,
        3,
        12,
        u64::MAX,
        0xdead_beef_0000_0007,
        6,
        7,
        8,
        9,
    ],
    retval: -5i64 as u64,
    latency: 15_000_000,
    memory: |at| (at % 251) as u8,
    text: "King",
};

#[test]
fn constants_are_what_they_are_shown_as() {
    let text = "0 + (arg0 ? (1 ? 0 : *(u32*)(arg1 + 8)) : ((char**)arg1)[2])";
    let e = read(text, &Scope::entry());
    assert_eq!(
        read(&e.to_string(), &Scope::entry()).to_string(),
        e.to_string()
    );
}

#[test]
fn captures_name_those_before_them() {
    let scope = Scope::entry().with_capture("a", read("arg1 + 1", &Scope::entry()));
    let scope = scope.clone().with_capture("b", read("a * 2", &scope));
    let e = read("b > a", &scope).with_captures(&scope.captures);
    assert_eq!(e.to_string(), "(arg1 + 1) * 2 > arg1 + 1");
}

#[test]
fn values() {
    for (text, value) in [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("10 - 3 - 2", 5),
        ("1 << 2 + 1", 8),
        ("6 & 3 == 3", 0), // as in C: 6 & (3 == 3)
        ("(6 & 3) == 2", 1),
        ("1 | 2 ^ 3 & 1", 3),
        ("1 || 0 && 0", 1),
        ("0 ? 1 : 0 ? 2 : 3", 3),
        ("-7 / 2", -3i64 as u64),
        ("-7 % 3", -1i64 as u64),
        ("-8 >> 1", -4i64 as u64),
        ("~0", u64::MAX),
        ("!5 + !0", 1),
        ("'A' + '\\n'", 75),
        ("true + false", 1),
        ("2KiB", 2048),
        ("(u8)257", 1),
        ("(char)200 < 0", 1),
        ("(unsigned char)200 < 0 ? 1 : 2", 2),
        ("(bool)256", 1),
        ("reg(\"rdi\")", WORLD.args[5]),
        ("reg(\"di\") == reg(\"rdi\")", 1),
        ("chars(arg0, 16) == \"King\"", 1),
        // arguments are unsigned, the result is signed, and a literal follows the other side
        ("retval < 0", 1),
        ("retval == -5", 1),
        ("-retval", 5),
        ("retval / 2", -2i64 as u64),
        ("arg0 > retval", 0),
        ("(i64)arg0 > retval", 1),
        ("arg4 > 1", 1),
        ("arg4 == -1", 1),
        ("(int)arg4 < 0", 1),
        ("(i64)arg4 < 0", 1),
        ("arg4 >> 63", 1),
        ("(int)arg5", 7),
        ("arg5 == 7", 0),
        ("(u32)arg4 - (u32)arg0 > 0", 1),
        ("(u32)arg0 - (u32)arg1 < 0", 1), // 64 bits: no wrap at 32
        ("latency >= 15ms && latency < 15001us", 1),
        ("elapsed == latency", 1),
        // memory: byte n at address n
        ("*(u8*)arg0", 100),
        ("*(u16*)arg0", 101 << 8 | 100),
        ("*(u32*)(arg0 + 4)", 0x6b6a_6968),
        ("*(char*)(arg0 + 100)", -56i64 as u64),
        ("*(unsigned char*)(arg0 + 100)", 200),
        ("((u8*)arg0)[2]", 102),
        ("((u16*)arg0)[2]", 105 << 8 | 104),
        ("((u16*)arg0)[arg2]", 107 << 8 | 106),
        ("*((u32*)arg0 + 1) == ((u32*)arg0)[1]", 1),
        ("*(1 + (u32*)arg0) == ((u32*)arg0)[1]", 1),
        ("*((u32*)(arg0 + 8) - 1) == ((u32*)arg0)[1]", 1),
        ("(u32*)(arg0 + 8) - (u32*)arg0", 2),
        ("(u64)((void*)arg0 + 3)", 103),
        ("(u8)*(u32*)arg0", 100),
        ("*(u8*)arg0 + 1", 101),
        ("arg0 ? *(u8*)arg0 : 0", 100),
        (
            "comm == \"King\" && \"King\" == comm && comm != \"Queen\"",
            1,
        ),
        ("str(arg0) == \"King\"", 1),
        ("str(arg0) != \"King\"", 0),
        ("after(str(arg0)) == \"King\"", 1),
        // a text of given length: eight bytes at a time
        ("str(arg0, 3) == \"def\"", 1),
        ("str(arg0, arg2) == \"def\"", 1),
        ("str(arg0, arg2) != \"def\"", 0),
        ("str(arg0, 4) == \"def\"", 0),
        ("str(arg0, arg3) == \"defghijklmno\"", 1),
        ("str(arg0, arg3) == \"defghijklmnX\"", 0),
        ("str(arg0, arg3) == \"Xefghijklmno\"", 0),
        ("str(arg0, 0) == \"\"", 1),
        ("str(arg0, arg3) == \"\"", 0),
        ("pid == 4242", 1),
    ] {
        assert_eq!(WORLD.eval(&read(text, &Scope::call())), value, "{text}");
    }
}

#[test]
fn constants_are_computed_here() {
    for text in [
        "1 + 2",
        "latency >= 0",
        "0 && arg0",
        "1 || arg0",
        "10ms / 2 > 1",
        "1 ? 2 : arg0",
        "(u8)300",
        "\"a\" == \"a\"",
    ] {
        let e = read(text, &Scope::call());
        assert!(matches!(e.kind, Kind::Int(_)), "{text}: {e}");
    }
}

#[test]
fn types() {
    for (text, ty) in [
        ("arg0", "u64"),
        ("retval", "i64"),
        ("pid", "u32"),
        ("comm", "text"),
        ("str(arg0)", "text"),
        ("buf(arg0, 4)", "bytes"),
        ("arg0 == 1", "i32"),
        ("!arg0", "i32"),
        ("*(int*)arg0", "i32"),
        ("*(char**)arg0", "char*"),
        ("(void*)arg0", "void*"),
        ("(unsigned long long)arg0", "u64"),
        ("(unsigned)arg0", "u32"),
        ("(const char*)arg0", "char*"),
        ("(uint16_t)arg0", "u16"),
        ("(int8)arg0", "i8"),
        ("(long unsigned int)arg0", "u64"),
        ("(size_t)arg0", "u64"),
        ("(ssize_t)arg0", "i64"),
        ("(bool)arg0", "u8"),
        ("(u8)arg0 + 1", "i64"),
        ("(u8)arg0 + arg1", "u64"),
        ("after(str(arg1, retval))", "text"),
    ] {
        assert_eq!(read(text, &Scope::call()).ty.to_string(), ty, "{text}");
    }
}

#[test]
fn shown_as_text() {
    for (text, shown) in [
        ("(arg0+1)*2", "(arg0 + 1) * 2"),
        ("arg0+(1*arg1)", "arg0 + 1 * arg1"),
        ("arg0-(arg1-arg2)", "arg0 - (arg1 - arg2)"),
        ("((u32*)arg0)[3]", "*(u32*)(arg0 + 12)"),
        ("*(char**)arg1", "*(char**)arg1"),
        (
            "str(*(char **)arg1, *(u32*)(arg1+8))",
            "str(*(u64*)arg1, *(u32*)(arg1 + 8))",
        ),
        ("- -arg0", "-(-arg0)"),
        ("latency>10ms", "latency > 10000000"),
        ("comm==\"a\\\"b\"", "comm == \"a\\\"b\""),
        ("arg0 ? arg1 : arg2 ? 1 : 2", "arg0 ? arg1 : arg2 ? 1 : 2"),
        ("(arg0 ? 1 : 2) ? 3 : 4", "(arg0 ? 1 : 2) ? 3 : 4"),
        ("after(*(u64*)arg0)", "after(*(u64*)arg0)"),
    ] {
        assert_eq!(read(text, &Scope::call()).to_string(), shown);
    }
}

#[test]
fn spans_point_into_the_source() {
    let text = "arg0 > 1 && (latency - 3 > 2)";
    let e = read(text, &Scope::call());
    let Kind::Binary { a, b, .. } = &e.kind else {
        panic!("{e}")
    };
    assert_eq!(
        (&text[a.span.clone()], &text[b.span.clone()]),
        ("arg0 > 1", "(latency - 3 > 2)")
    );
}

#[test]
fn captures_take_the_place_of_their_names() {
    let text = read("str(arg2, (u32)arg3)", &Scope::call());
    let scope = Scope::call()
        .with_capture("sql", text.clone())
        .with_capture("n", read("retval", &Scope::call()));
    let e = read("n > 1 && sql == \"ab\"", &scope);
    assert_eq!(e.to_string(), "n > 1 && sql == \"ab\"");
    assert!(!e.needs_return());
    let inlined = e.with_captures(&scope.captures);
    assert_eq!(
        inlined.to_string(),
        "retval > 1 && ((u32)arg3 == 2 && *(u16*)arg2 == 25185)"
    );
    assert!(inlined.needs_return());
    let e = read("after(sql)", &scope);
    assert_eq!(
        e.with_captures(&scope.captures).to_string(),
        "after(str(arg2, (u32)arg3))"
    );
}

#[test]
fn parameters_are_constants() {
    let scope = Scope::call()
        .with_param("min", Value::Duration(5))
        .with_param("who", Value::String("King".into()))
        .with_param("on", Value::Bool(true))
        .with_param("low", Value::Int(-1));
    assert_eq!(read("latency > $min", &scope).to_string(), "latency > 5");
    assert_eq!(read("comm == $who", &scope).to_string(), "comm == \"King\"");
    assert_eq!(read("$who == \"\"", &scope).as_int(), Some(0));
    assert_eq!(read("$on", &scope).as_int(), Some(1));
    assert_eq!(read("retval > $low", &scope).to_string(), "retval > -1");
    assert_eq!(read("$min", &scope).ty, Type::I64);
}
