//! Expressions with names that debug information knows: kept until it is there, then like any other.

mod eval;
mod mock;

use mock::{Nothing, World};
use uprof_recipes::{
    Action, Error, Expr, Kind, Recipe, Scope, Source, Type, parse, parse_expr, rebind_args,
};

fn kept(text: &str) -> Expr {
    parse_expr(&Source::new("--where", text), &Scope::call())
        .unwrap_or_else(|e| panic!("{}", e.render(false)))
}

fn bound(text: &str) -> Expr {
    let e = kept(text);
    assert!(e.is_deferred() && e.ty == Type::Deferred, "{text}: {e:?}");
    let bound = e
        .bind(&World::new())
        .unwrap_or_else(|e| panic!("{}", e.render(false)));
    assert!(!bound.any(&Expr::is_deferred), "{text}");
    assert!(!matches!(bound.ty, Type::Deferred | Type::Named(_)));
    bound
}

fn refused(text: &str) -> Error {
    kept(text)
        .bind(&World::new())
        .err()
        .unwrap_or_else(|| panic!("{text} is bound"))
}

const WORLD: eval::World = eval::World {
    args: [
        0x7000_0000_1000,
        0xffff_ffff_0000_0005,
        0x5000,
        0x6000,
        0xdead_beef_0000_0001,
        0x8000,
        0x9000,
        0xa000,
        8,
        9,
    ],
    retval: 0xb000,
    latency: 15_000_000,
    memory: |at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8,
    text: "King",
};

#[test]
fn names_mean_what_their_offsets_do() {
    for (text, same) in [
        ("size", "(int)arg1"),
        ("size + 1", "(int)arg1 + 1"),
        ("client", "arg0"),
        ("client->argc", "*(int*)(arg0 + 0x48)"),
        ("client.argc", "*(int*)(arg0 + 0x48)"),
        ("(*client).argc", "*(int*)(arg0 + 0x48)"),
        ("client[1].argc", "*(int*)(arg0 + 0x148)"),
        ("(client + 1)->argc", "*(int*)(arg0 + 0x148)"),
        (
            "client->next->next->argc",
            "*(int*)(*(u64*)(*(u64*)(arg0 + 0xc8) + 0xc8) + 0x48)",
        ),
        ("client->next == client", "*(u64*)(arg0 + 0xc8) == arg0"),
        ("client->addr.port", "*(u16*)(arg0 + 0xc0)"),
        ("client->addr.ip", "*(u32*)(arg0 + 0xc4)"),
        ("client->counts[2]", "*(u32*)(arg0 + 0xd8)"),
        ("*client->counts", "*(u32*)(arg0 + 0xd0)"),
        (
            "client->counts[size]",
            "*(u32*)(arg0 + 0xd0 + 4 * (int)arg1)",
        ),
        ("client->argv[1][0]", "**(char**)(*(u64*)(arg0 + 0x50) + 8)"),
        ("(u64)client->argv[1]", "*(u64*)(*(u64*)(arg0 + 0x50) + 8)"),
        ("client->flags", "(*(u32*)(arg0 + 0x64) >> 2) & 7"),
        ("client->prio", "(i64)(*(u32*)(arg0 + 0x64) << 54) >> 59"),
        ("client->top", "*(i64*)(arg0 + 0x68)"),
        ("client->open", "*(u8*)(arg0 + 0xf0)"),
        ("client->u32", "*(u32*)(arg0 + 0xf4)"),
        ("client->state", "*(int*)(arg0 + 0x60)"),
        ("client->state == OPEN", "*(int*)(arg0 + 0x60) == 1"),
        ("LOST == client->state", "*(int*)(arg0 + 0x60) == -1"),
        ("client->state < state::OPEN", "*(int*)(arg0 + 0x60) < 1"),
        ("client->state == \"LOST\"", "*(int*)(arg0 + 0x60) == -1"),
        (
            "state != NEW && size > 3",
            "(int)arg4 != 0 && (int)arg1 > 3",
        ),
        ("(u64)client->ratio", "*(u64*)(arg0 + 0xb8)"),
        ("&client->addr", "arg0 + 0xc0"),
        ("&client->addr.ip", "arg0 + 0xc4"),
        ("&client->counts[3]", "arg0 + 0xdc"),
        ("((struct client *)arg1)->argc", "*(int*)(arg1 + 0x48)"),
        ("((struct client*)arg1)->argc", "*(int*)(arg1 + 0x48)"),
        ("((const client *)arg1)->argc", "*(int*)(arg1 + 0x48)"),
        ("((client const *)arg1)[1].argc", "*(int*)(arg1 + 0x148)"),
        (
            "(*(struct client **)arg1)->argc",
            "*(int*)(*(u64*)arg1 + 0x48)",
        ),
        ("(enum state)arg1", "(int)arg1"),
        ("*(std::string *)arg1 == \"\"", "*(u64*)(arg1 + 8) == 0"),
        ("peer.port", "(u16)reg(\"rcx\")"),
        ("peer.ip", "(u32)(reg(\"rcx\") >> 32)"),
        ("total", "*(i64*)(reg(\"rip\") - 0x1000 + 0x4010)"),
        ("local.argc", "*(int*)(reg(\"rsp\") + 16 + 0x48)"),
        ("local.addr.ip", "*(u32*)(reg(\"rsp\") + 16 + 0xc4)"),
        ("seven", "7"),
        ("seven * 6", "42"),
        ("title._M_string_length", "*(i64*)(arg3 + 8)"),
        ("retval->argc", "*(int*)(retval + 0x48)"),
        ("retval == client", "retval == (i64)arg0"),
        ("after(client->argc)", "after(*(int*)(arg0 + 0x48))"),
        (
            "after(client->next)->argc",
            "*(int*)(after(*(u64*)(arg0 + 0xc8)) + 0x48)",
        ),
        (
            "size ? client->argc : 0",
            "(int)arg1 ? *(int*)(arg0 + 0x48) : 0",
        ),
        (
            "slice == \"GET\"",
            "str(reg(\"rdi\"), reg(\"rsi\")) == \"GET\"",
        ),
        ("!client->next", "!*(u64*)(arg0 + 0xc8)"),
        ("pid == size", "pid == (int)arg1"),
        ("client->name == \"King\"", "1"),
        ("client->cmd != \"King\"", "0"),
    ] {
        let e = bound(text);
        assert!(e.ty.is_scalar(), "{text}: {}", e.ty);
        assert_eq!(
            WORLD.eval(&e),
            WORLD.eval(&kept(same)),
            "{text} is {e}, not {same}"
        );
        // What `--explain` shows: it can be written, and means the same.
        let shown = e.to_string();
        if !matches!(e.ty, Type::Ptr { .. } | Type::Enum(_)) {
            let again = parse_expr(&Source::new("e", shown.as_str()), &Scope::call());
            let again = again.unwrap_or_else(|e| panic!("{}", e.render(false)));
            if !again.is_deferred() {
                assert_eq!(WORLD.eval(&again), WORLD.eval(&e), "{text}: {shown}");
            }
        }
    }
}

#[test]
fn types_at_the_end() {
    let int = |bits, signed| Type::Int { bits, signed };
    for (text, ty) in [
        ("size", int(32, true)),
        ("client->addr.port", int(16, false)),
        ("client->flags", int(32, false)),
        ("client->prio", int(32, true)),
        ("client->open", int(8, false)),
        ("client->argv[0][0]", int(8, true)),
        ("client->cmd", Type::Str),
        ("client->name", Type::Str),
        ("client->mac", Type::Bytes),
        ("client->title", Type::Str),
        ("path", Type::Str),
        ("title", Type::Str),
        ("*label", Type::Str),
        ("label", Type::Str),
        ("old", Type::Str),
        ("slice", Type::Str),
        ("raw", Type::Bytes),
        ("after(path)", Type::Str),
        ("after(client->cmd)", Type::Str),
        ("after(client->title)", Type::Str),
        ("buf", Type::Str),
        ("str(client->cmd, 4)", Type::Str),
        ("(u64)client->cmd", int(64, false)),
        ("client->cmd + 1", Type::Str),
    ] {
        assert_eq!(bound(text).ty, ty, "{text}");
    }
    for text in [
        "client",
        "data",
        "client->next",
        "(char*)client->cmd",
        "pointer",
    ] {
        assert!(matches!(bound(text).ty, Type::Ptr { .. }), "{text}");
    }
    let Type::Enum(state) = bound("client->state").ty else {
        panic!("no enumeration")
    };
    assert_eq!(
        (state.name.as_str(), state.bits, state.signed),
        ("enum state", 32, true)
    );
    assert_eq!(state.name_of(1), Some("OPEN"));
    assert_eq!(state.name_of(u64::MAX), Some("LOST"));
    assert_eq!(state.name_of(9), None);
}

#[test]
fn texts_are_read_where_they_lie() {
    for (text, shown) in [
        ("path", "str(arg2)"),
        ("client->cmd", "str(*(u64*)(arg0 + 88))"),
        ("client->argv[1]", "str(*(u64*)(*(u64*)(arg0 + 80) + 8))"),
        ("client->name", "chars(arg0 + 128, 16)"),
        ("client->mac", "buf(arg0 + 144, 6)"),
        (
            "client->title",
            "str(*(u64*)(arg0 + 152), *(u64*)(arg0 + 152 + 8))",
        ),
        ("title", "str(*(u64*)arg3, *(u64*)(arg3 + 8))"),
        ("slice", "str(reg(\"rdi\"), reg(\"rsi\"))"),
        ("raw", "buf(reg(\"rdi\"), reg(\"rsi\"))"),
        ("old", "str(reg(\"rbx\"), *(u64*)(reg(\"rbx\") - 24))"),
        (
            "label",
            "str(*(u64*)reg(\"rbx\"), *(u64*)(reg(\"rbx\") + 8))",
        ),
        ("after(path)", "after(str(arg2))"),
    ] {
        let e = bound(text);
        let plain = e.to_string().replace("(u64)", "");
        assert_eq!(plain, shown, "{text}");
    }
}

#[test]
fn comparisons_of_texts_need_no_buffer() {
    // A text that fills its array has no NUL; one that is longer never equals.
    let full = bound("client->name == \"0123456789abcdef\"");
    assert!(!full.any(&|e| matches!(e.kind, Kind::ReadChars { .. } | Kind::ReadStr { .. })));
    assert_eq!(
        bound("client->name == \"0123456789abcdef!\"").as_int(),
        Some(0)
    );
    assert_eq!(
        bound("client->name != \"0123456789abcdef!\"").as_int(),
        Some(1)
    );
    let short = bound("client->name == \"abc\"");
    assert!(short.any(&|e| matches!(e.kind, Kind::ReadStr { len: None, .. })));
}

#[test]
fn what_needs_the_return_is_known_before() {
    for (text, late) in [
        ("client->argc > 1", false),
        ("client->argc > retval", true),
        ("after(client->argc)", true),
        ("size && latency > 1ms", true),
        ("retval->argc", true),
    ] {
        assert_eq!(kept(text).needs_return(), late, "{text}");
        assert_eq!(bound_any(text).needs_return(), late, "{text}");
    }
}

fn bound_any(text: &str) -> Expr {
    kept(text).bind(&World::new()).expect("it binds")
}

#[test]
fn what_cannot_be_bound_says_why() {
    for (text, column, message, help) in [
        (
            "siz > 3",
            1,
            "unknown name `siz`",
            "did you mean `size`?; in the source here: client",
        ),
        ("pidd > 3", 1, "unknown name `pidd`", "did you mean `pid`?"),
        (
            "client->argcc",
            9,
            "struct client has no member `argcc`",
            "did you mean `argc`? It has: argc, argv",
        ),
        (
            "client->xyzzy",
            9,
            "struct client has no member `xyzzy`",
            "it has: argc",
        ),
        ("gone == 1", 1, "`gone` is optimised out here", ""),
        (
            "client->argc->x",
            1,
            "`->` needs a record with members, and `client->argc` is a signed 32-bit",
            "((struct NAME *)client->argc)->x",
        ),
        (
            "client->addr->port",
            1,
            "`->` on a struct addr, which is no pointer",
            "client->addr.port",
        ),
        (
            "client->argv->x",
            1,
            "`->` needs a record",
            "(*client->argv)->x",
        ),
        (
            "*client",
            1,
            "`*client` is a whole struct client",
            "name a member: argc",
        ),
        (
            "client->addr",
            1,
            "`client->addr` is a whole struct addr",
            "port, ip",
        ),
        ("client->addr == 1", 1, "is a whole struct addr", "port, ip"),
        (
            "client->counts",
            1,
            "is an array (uint32_t [4])",
            "client->counts[0]",
        ),
        (
            "client->ratio",
            1,
            "a fraction (double), with which the kernel cannot compute",
            "(u64)client->ratio",
        ),
        ("client->ratio > 1", 1, "a fraction", "has its bits"),
        ("client->wide", 1, "an integer of 16 bytes", ""),
        (
            "client->title + 1",
            1,
            "is a text (std::string)",
            "compared by ==",
        ),
        ("client->mac == \"abc\"", 1, "bytes cannot be compared", ""),
        (
            "hidden->x",
            9,
            "struct hidden has no member `x`",
            "no members of it",
        ),
        ("hidden[1]", 1, "the size of struct hidden is not known", ""),
        (
            "hidden + 1",
            1,
            "the size of struct hidden is not known",
            "",
        ),
        ("*pointer", 1, "void*", "cast it"),
        ("endless", 1, "is a reference to a reference", ""),
        ("odd", 1, "a member of 3 bytes", ""),
        (
            "((struct cliet *)arg0)->argc",
            3,
            "has no type `struct cliet`",
            "",
        ),
        (
            "(struct client)arg0",
            2,
            "`struct client` is no integer",
            "(struct client *)",
        ),
        (
            "client->state == \"SHUT\"",
            18,
            "enum state has no such value",
            "it has: NEW, OPEN, LOST",
        ),
        ("client->state == SHUT", 18, "unknown name `SHUT`", ""),
        ("&size", 1, "`size` has no address", ""),
        ("client % 3", 1, "`%` on a pointer", "u64"),
        ("size > 5000000000", 8, "too large for `size`", ""),
        ("after(size)", 1, "nothing in `after()` is read", ""),
        ("str(client->title)", 5, "text", ""),
        ("usym + size", 1, "`usym` is known to bpftrace", ""),
        ("client + client", 1, "`+` on a pointer", ""),
    ] {
        let e = refused(text);
        let fits = e.column == column
            && e.message.contains(message)
            && e.help.as_deref().unwrap_or("").contains(help);
        assert!(fits, "{text}\n{}", e.render(false));
    }
}

#[test]
fn a_binary_without_debug_information_says_so() {
    let e = kept("siz > 3")
        .bind(&Nothing)
        .expect_err("nothing is known");
    let help = e.help.unwrap_or_default();
    assert!(help.contains("app has no debug information"), "{help}");
    // Words of the language and of bpftrace are common names of parameters.
    for text in ["count > 3", "buf", "func == 1"] {
        let help = kept(text).bind(&Nothing).expect_err(text).help;
        assert!(
            help.is_some_and(|h| h.contains("no debug information")),
            "{text}"
        );
    }
}

#[test]
fn what_can_be_checked_is_checked_at_once() {
    for (text, message) in [
        ("client-> == 1", "expected a name after `->`"),
        ("client->argc = 1", "`=` does not compare"),
        ("size > $least", "unknown parameter `$least`"),
        ("strr(client->cmd)", "unknown function `strr`"),
        ("str(client->cmd, -1)", ""),
        ("client->argc / 0", ""),
        ("(u32)comm + size", "takes numbers"),
        ("size + str(arg0)", "takes numbers"),
        ("arg0->argc", "`->` needs a record"),
        ("size ? 1", "`?` has no `:`"),
        ("client->cmd > \"a\"", "`>` does not compare texts"),
    ] {
        let found = parse_expr(&Source::new("--where", text), &Scope::call());
        if message.is_empty() {
            let e = found.expect("it is kept");
            assert!(e.bind(&World::new()).is_err(), "{text}");
            continue;
        }
        let e = found.expect_err(text);
        assert!(e.message.contains(message), "{text}\n{}", e.render(false));
    }
    let entry = parse_expr(&Source::new("--where", "retval->argc"), &Scope::entry());
    assert!(
        entry
            .expect_err("no return")
            .message
            .contains("when the call returns")
    );
}

fn recipe(text: &str) -> Recipe {
    parse(Source::new("t.toml", text)).unwrap_or_else(|e| panic!("{}", e[0].render(false)))
}

#[test]
fn a_probe_is_bound_at_each_of_its_places() {
    let recipe = recipe(
        r#"
[[call]]
name = "command"
where = "words > 1 && size < 10 && latency > 1ms"
histogram = "client->argc + words"
by = { cmd = "client->cmd", words = "words" }
[[call.at]]
function = "call"
capture = { words = "client->argc", size = "size" }
[[call.at]]
function = "processCommand"
where = "client->open"
capture = { words = "(int)arg1", size = "size" }
"#,
    );
    assert!(recipe.needs_debug_info());
    let probe = &recipe.probes[0];
    let first = probe.bind(0, &World::new()).expect("it binds");
    let second = probe.bind(1, &World::new()).expect("it binds");
    assert!(!first.needs_debug_info() && !second.needs_debug_info());
    assert_eq!(first.at.len(), 1);
    assert_eq!(first.at[0].capture[0].1.ty, Type::INT);
    assert_eq!(second.at[0].capture[0].1.to_string(), "(i32)arg1");
    assert!(first.at[0].where_.is_none() && second.at[0].where_.is_some());
    let Action::Histogram { value, by, .. } = &first.action else {
        panic!("no histogram")
    };
    let value = value.with_captures(&first.at[0].capture);
    assert_eq!(
        WORLD.eval(&value),
        WORLD.eval(&kept("2 * *(int*)(arg0 + 0x48)"))
    );
    assert_eq!(by[0].1.ty, Type::Str);
    let filter = first.where_.as_ref().expect("a filter");
    let filter = filter.with_captures(&first.at[0].capture);
    assert!(!filter.any(&|e| matches!(e.kind, Kind::Capture(_))));
    assert!(filter.needs_return());
    assert!(
        probe
            .bind(2, &World::new())
            .expect("nothing to bind")
            .at
            .is_empty()
    );
}

#[test]
fn errors_of_binding_stand_at_their_place_in_the_recipe() {
    for (text, line, column, message) in [
        (
            "where = \"client->cmd\"",
            3,
            10,
            "a condition is a number, and this is a text",
        ),
        (
            "histogram = \"client->cmd\"",
            3,
            14,
            "a histogram is of numbers, and this is a text",
        ),
        (
            "count = true\nby = \"client->mac\"",
            4,
            7,
            "a key is a number, a text, a function, a stack or an address of the network",
        ),
        (
            "capture = { a = \"client->argc +\\t siz\" }",
            3,
            35,
            "unknown name `siz`",
        ),
    ] {
        let recipe = recipe(&format!("[[probe]]\nfunction = \"f\"\n{text}\n"));
        let e = recipe.probes[0].bind(0, &World::new()).expect_err(text);
        assert!(
            (e.line, e.column) == (line, column) && e.message.contains(message),
            "{}",
            e.render(false)
        );
    }
}

#[test]
fn usdts_and_lines_are_places() {
    let recipe = recipe(
        r#"
[[probe]]
usdt = "app:request"
capture = { id = "arg0", path = "str(arg1)" }
[[probe]]
name = "both"
[[probe.at]]
usdt = ["app:begin", "app:end"]
[[probe.at]]
line = "src/app.c:120"
where = "size > 3"
"#,
    );
    let patterns = |p: usize, a: usize| -> Vec<&str> {
        let at = &recipe.probes[p].at[a];
        at.functions.iter().map(|f| f.value.as_str()).collect()
    };
    assert_eq!(recipe.probes[0].name, "app:request");
    assert_eq!(patterns(0, 0), ["usdt:app:request"]);
    assert_eq!(patterns(1, 0), ["usdt:app:begin", "usdt:app:end"]);
    assert_eq!(patterns(1, 1), ["src/app.c:120"]);
    let mut world = World::new();
    world.usdt = true;
    let bound = recipe.probes[0].bind(0, &world).expect("it binds");
    assert_eq!(bound.at[0].capture[0].1.to_string(), "reg(\"rax\")");
    let e = recipe.probes[1]
        .bind(1, &Nothing)
        .expect_err("no variables");
    assert_eq!((e.line, e.column), (11, 10), "{}", e.render(false));
}

#[test]
fn flags_know_their_captures() {
    let scope = Scope::entry().with_capture("c", kept("client"));
    let scope = scope.clone().with_capture(
        "n",
        parse_expr(&Source::new("--capture", "c->next"), &scope).expect("kept"),
    );
    let e = parse_expr(&Source::new("--where", "n->argc == size"), &scope).expect("kept");
    assert!(e.is_deferred());
    let world = World::new();
    let bound = e.bind(&world).expect("it binds");
    let mut captures: Vec<(String, Expr)> = Vec::new();
    for (name, e) in &scope.captures {
        let e = e.bind_with(&world, &captures).expect("it binds");
        let e = e.with_captures(&captures);
        captures.push((name.clone(), e));
    }
    assert_eq!(
        WORLD.eval(&bound.with_captures(&captures)),
        WORLD.eval(&kept("*(int*)(*(u64*)(arg0 + 0xc8) + 0x48) == (int)arg1"))
    );
}

#[test]
fn a_usdt_has_its_own_arguments() {
    let mut world = World::new();
    world.usdt = true;
    for (text, shown) in [
        ("arg0 + 1", "reg(\"rax\") + 1"),
        ("arg1 == 2", "(u64)*(u32*)(reg(\"rsp\") + 8) == 2"),
        ("(int)arg1", "(i32)(u64)*(u32*)(reg(\"rsp\") + 8)"),
        ("str(arg0)", "str(reg(\"rax\"))"),
    ] {
        let e = kept(text).bind(&world).expect("it binds");
        assert_eq!(e.to_string(), shown, "{text}");
    }
    let typed = kept("seven + arg1").bind(&world).expect("it binds");
    assert!(!typed.any(&|e| matches!(e.kind, Kind::Arg(_))));
    for text in ["arg2 == 1", "arg2 == size"] {
        let e = kept(text).bind(&world).expect_err("two arguments");
        assert!(
            e.message.contains("`arg2` is not among the 2 arguments"),
            "{e}"
        );
    }
    let moved = rebind_args(&kept("arg0 + arg3"), &|n| Ok(Expr::arg(n + 1)));
    assert_eq!(moved.expect("nothing fails").to_string(), "arg1 + arg4");
}

#[test]
fn named_types_are_casts_and_nothing_else() {
    for text in [
        "((struct client *)arg0)->argc",
        "(client*)arg0",
        "(ns::Foo *)arg0",
        "(std::vector<int, std::allocator<int> > *)arg0",
        "(a<b<c<d>>> *)arg0",
        "(const union u **)arg0",
        "(::ns::Foo *)arg0",
        "(enum color)arg0",
    ] {
        assert!(kept(text).is_deferred(), "{text}");
    }
    // A product, a difference, a comparison: no casts.
    let scope = Scope::entry()
        .with_capture("size", Expr::arg(0))
        .with_capture("n", Expr::arg(1));
    for text in [
        "(size * n)",
        "(size) * n",
        "(size) - 1",
        "(size < n)",
        "(size) & n",
    ] {
        let e = parse_expr(&Source::new("e", text), &scope).expect(text);
        assert!(!e.is_deferred(), "{text}");
    }
}
