//! Places in the kernel, and what leads there from a program.

mod eval;
mod mock;

use mock::kernel::Kernel;
use mock::{Nothing, World};
use uprof_recipes::{
    At, Context, DebugInfo, Error, Expr, Kind, Provider, Scope, Source, Type, parse, parse_expr,
};

const FUNCTION: Kernel = Kernel {
    tracepoint: false,
    btf: true,
};
const TRACEPOINT: Kernel = Kernel {
    tracepoint: true,
    btf: true,
};

const WORLD: eval::World = eval::World {
    args: [
        0x7000_0000_1000,
        0xffff_ffff_0000_0005,
        7,
        0x6000,
        0,
        0,
        0,
        0,
        0,
        0,
    ],
    retval: 0xdead_0000_ffff_fffb,
    latency: 15,
    memory: |at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8,
    text: "King",
};

fn read(text: &str, scope: &Scope) -> Expr {
    parse_expr(&Source::new("--where", text), scope)
        .unwrap_or_else(|e| panic!("{}", e.render(false)))
}

fn bound(text: &str, scope: &Scope, info: &dyn DebugInfo) -> Expr {
    let e = read(text, scope).bind(info);
    let e = e.unwrap_or_else(|e| panic!("{}", e.render(false)));
    assert!(!e.any(&Expr::is_deferred), "{text}");
    e
}

fn function() -> Scope {
    Scope::call().at([Provider::KernelFunction])
}

fn tracepoint() -> Scope {
    Scope::entry().at([Provider::Tracepoint])
}

#[test]
fn names_in_the_kernel_are_arguments_and_fields() {
    for (text, same) in [
        ("size", "(int)arg1"),
        ("args.size", "(int)arg1"),
        ("sk->num", "*(u16*)(arg0 + 14)"),
        ("sk->dport", "ntohs(*(u16*)(arg0 + 12))"),
        ("ntohs(sk->dport)", "ntohs(*(u16*)(arg0 + 12))"),
        ("sk->daddr", "ntohl(*(u32*)arg0)"),
        ("sk->cookie", "ntohll(*(u64*)(arg0 + 0x60))"),
        ("sk->next->num", "*(u16*)(*(u64*)(arg0 + 0x70) + 14)"),
        ("((struct tcp_sock *)sk)->acked", "*(u32*)(arg0 + 0x400)"),
        (
            "*((struct tcp_sock *)sk)->ports",
            "ntohs(*(u16*)*(u64*)(arg0 + 0x408))",
        ),
        (
            "((struct tcp_sock *)sk)->ports[2]",
            "ntohs(*(u16*)(*(u64*)(arg0 + 0x408) + 4))",
        ),
        ("&sk->dport", "arg0 + 12"),
        ("reason == RESET", "(u32)arg2 == 7"),
        ("reason == \"NO_SOCKET\"", "(u32)arg2 == 3"),
        // What it returns is an int: the register's upper half is not part of it.
        ("retval == -5", "(int)retval == -5"),
        ("parent->num", "*(u16*)(arg0 + 14)"),
        ("args.parent->num", "*(u16*)(arg0 + 14)"),
        (
            "curtask->parent->tgid",
            "*(int*)(*(u64*)((u64)curtask + 0x500) + 0x510)",
        ),
    ] {
        let e = bound(text, &function(), &FUNCTION);
        let plain = parse_expr(&Source::new("same", same), &Scope::call()).expect(same);
        let plain = plain.bind(&World::new()).expect(same);
        let plain = match same.contains("retval") {
            true => read(same, &Scope::call()),
            false => plain,
        };
        assert_eq!(
            WORLD.eval(&e),
            WORLD.eval(&plain),
            "{text} is {e}, not {plain}"
        );
    }
    for (text, shown) in [
        ("dport == 80", "field(8) == 80"),
        ("args.pid", "(i32)field(12)"),
        ("pid", "pid"),
        ("args.comm == \"King\"", "str(context + 40)"),
        ("saddr[1]", "*(u8*)(context + 16 + 1)"),
    ] {
        let e = bound(text, &tracepoint(), &TRACEPOINT).to_string();
        assert!(e.starts_with(shown), "{text}: {e}");
    }
}

#[test]
fn addresses_of_the_network() {
    let of = |text: &str, scope: &Scope, info: &dyn DebugInfo| {
        let e = bound(text, scope, info);
        assert_eq!(e.ty, Type::Address, "{text}");
        e.to_string()
    };
    for (text, shown) in [
        ("ntop(sk->daddr)", "ntop(2, arg0, 0)"),
        ("ntop(&sk->daddr)", "ntop(2, arg0, 0)"),
        ("ntop(sk->daddr6)", "ntop(10, 0, arg0 + 56)"),
        ("ntop(&sk->daddr6)", "ntop(10, 0, arg0 + 56)"),
        (
            "ntop(sk->family, sk->daddr, sk->daddr6)",
            "ntop(*(u16*)(arg0 + 16), arg0, arg0 + 56)",
        ),
        (
            "endpoint(sk->family, sk->daddr, &sk->daddr6, sk->dport)",
            "endpoint(*(u16*)(arg0 + 16), arg0, arg0 + 56, ntohs(*(u16*)(arg0 + 12)))",
        ),
        (
            "endpoint(sk->daddr, sk->num)",
            "endpoint(2, arg0, 0, *(u16*)(arg0 + 14))",
        ),
        ("endpoint((u32*)arg0, 80)", "endpoint(2, arg0, 0, 80)"),
        ("ntop(10, 0, arg3)", "ntop(10, 0, arg3)"),
        ("ntop((struct in6_addr *)arg3)", "ntop(10, 0, arg3)"),
    ] {
        assert_eq!(of(text, &function(), &FUNCTION), shown, "{text}");
        let again = of(shown, &function(), &FUNCTION);
        assert_eq!(again, shown);
    }
    for (text, shown) in [
        ("ntop(saddr)", "ntop(2, context + 16, 0)"),
        (
            "endpoint(10, saddr, saddr_v6, dport)",
            "endpoint(10, context + 16, context + 20, field(8))",
        ),
    ] {
        assert_eq!(of(text, &tracepoint(), &TRACEPOINT), shown, "{text}");
    }
}

/// From a program's function into the kernel.
#[test]
fn the_running_thread_and_its_sockets() {
    for (text, shown) in [
        ("curtask", "curtask"),
        ("curtask->tgid", "*(i32*)((u64)curtask + 1296)"),
        ("curtask->comm", "chars((u64)curtask + 1312, 16)"),
        (
            "curtask->comm == \"King\"",
            "str((u64)curtask + 1312) == \"King\"",
        ),
        ("sock(size)->num > 0 ? 1 : 0", ""),
        ("((struct tcp_sock *)sock(arg0))->acked", ""),
        ("((struct client *)arg0)->argc", "*(i32*)(arg0 + 72)"),
    ] {
        let e = bound(text, &Scope::entry(), &World::new());
        let text_of = e.to_string();
        assert!(shown.is_empty() || text_of == shown, "{text}: {text_of}");
        assert!(!e.any(&|e| e.ty == Type::Deferred), "{text}");
    }
    let sock = bound("sock(arg0)", &Scope::entry(), &World::new());
    let Type::Ptr { to } = &sock.ty else {
        panic!("{}", sock.ty)
    };
    assert_eq!(to.to_string(), "struct sock");
    let loads = count(&sock, &|e| matches!(e.kind, Kind::Load(_)));
    assert!(loads <= 32, "{loads} loads: {sock}");
    // Types in casts of anything else are the program's.
    let e = read("((struct tcp_sock *)arg0)->acked", &Scope::entry());
    let e = e.bind(&World::new()).expect_err("no type of the program");
    assert!(
        e.message.contains("the debug information has no type"),
        "{e}"
    );
    let e = read("((struct client *)curtask)->argc", &Scope::entry());
    let e = e.bind(&World::new()).expect_err("no type of the kernel");
    assert!(e.message.contains("this kernel has no type"), "{e}");
    let e = read("curtask->tgid", &Scope::entry());
    let e = e.bind(&Nothing).expect_err("no types");
    assert!(e.message.contains("the kernel's types are unknown"), "{e}");
}

fn count(e: &Expr, test: &impl Fn(&Expr) -> bool) -> usize {
    let inside: usize = e.children().into_iter().map(|e| count(e, test)).sum();
    inside + usize::from(test(e))
}

/// A descriptor leads to its socket, and to 0 where it is none, by the rules of the kernel's structures.
#[test]
fn a_descriptor_leads_to_its_socket() {
    const MEMORY: &[(u64, u64, u8)] = &[
        (eval::TASK + 0x600, 0x10_000, 8), // files
        (0x10_020, 0x20_000, 8),           // fdt
        (0x20_000, 8, 4),                  // max_fds
        (0x20_008, 0x30_000, 8),           // fd
        (0x30_000 + 8 * 5, 0x40_000, 8),
        (0x30_000 + 8 * 6, 0x41_000, 8),
        (0x40_020, 0x50_000, 8), // private_data of a socket
        (0x50_010, 0x40_000, 8), // its file
        (0x50_018, 0x60_000, 8), // its sk
        (0x41_020, 0x51_000, 8), // private_data of something else
    ];
    fn at(wanted: u64) -> u8 {
        let found = MEMORY
            .iter()
            .find(|(at, _, n)| (*at..at + u64::from(*n)).contains(&wanted));
        found.map_or(0, |(at, v, _)| (v >> (8 * (wanted - at))) as u8)
    }
    let world = eval::World {
        memory: at,
        ..WORLD
    };
    for (fd, sk) in [
        ("5", 0x60_000),
        ("6", 0),
        ("7", 0),
        ("8", 0),
        ("-1", 0),
        ("(u64)0x100000005", 0x60_000),
    ] {
        let e = bound(&format!("sock({fd})"), &Scope::entry(), &World::new());
        assert_eq!(world.eval(&e), sk, "{fd}: {e}");
    }
}

fn refused(text: &str, scope: &Scope, info: &dyn DebugInfo) -> Error {
    match parse_expr(&Source::new("--where", text), scope).and_then(|e| e.bind(info)) {
        Err(e) => e,
        Ok(e) => panic!("{text} is {e}"),
    }
}

#[test]
fn what_the_kernel_has_not_is_said() {
    let any = Scope::entry()
        .at([Provider::KernelFunction])
        .in_context(Context::Any);
    let raw = Scope::entry().at([Provider::RawTracepoint]);
    let program = Scope::entry();
    for (scope, text, column, message, help) in [
        (
            &tracepoint(),
            "arg0 == 1",
            1,
            "`arg0` in a tracepoint, whose fields have names",
            "uprof symbols --args",
        ),
        (
            &tracepoint(),
            "retval == 1",
            1,
            "`retval` in a tracepoint, which has no return",
            "[[call]]",
        ),
        (
            &raw,
            "latency > 1",
            1,
            "`latency` in a raw tracepoint, which has no return",
            "[[call]]",
        ),
        (
            &tracepoint(),
            "reg(\"rdi\") == 1",
            1,
            "`reg()` reads a program's registers",
            "by their names",
        ),
        (
            &function(),
            "depth == 0",
            1,
            "`depth` is of calls in a program",
            "args.depth",
        ),
        (
            &function(),
            "size + self",
            8,
            "`self` is of calls in a program",
            "args.self",
        ),
        (
            &function(),
            "parent",
            1,
            "`parent` is of calls in a program",
            "args.parent",
        ),
        (
            &any,
            "size > 1 && pid == 3",
            13,
            "`pid` is that of whoever was interrupted",
            "leave `context` out",
        ),
        (
            &any,
            "comm == \"x\"",
            1,
            "`comm` is that of whoever",
            "cpu and nsecs",
        ),
        (&any, "ustack", 1, "`ustack` is that of whoever", ""),
        (&any, "curtask->tgid", 1, "`curtask` is that of whoever", ""),
        (
            &any,
            "sock(3)->num",
            1,
            "`sock()` is of a descriptor of whoever",
            "sk->__sk_common",
        ),
        (&program, "kstack", 1, "`kstack` in a program", "ustack"),
        (
            &function(),
            "kstack + 1",
            1,
            "`+` takes numbers, and `kstack` is a stack",
            "captured or be a key",
        ),
        (
            &function(),
            "kstack == ustack",
            1,
            "`kstack` is a stack, which cannot be compared",
            "key",
        ),
        (
            &function(),
            "size ? kstack : ustack",
            8,
            "and `kstack` is a stack",
            "key",
        ),
        (
            &function(),
            "ntop(sk->daddr) == 1",
            1,
            "is an address of the network, which cannot be compared",
            "bytes",
        ),
        (
            &function(),
            "ntop(sk->daddr) == \"127.0.0.1\"",
            1,
            "which cannot be compared",
            "bytes",
        ),
        (
            &function(),
            "endpoint(sk->daddr, 1) + 1",
            1,
            "`+` takes numbers",
            "key",
        ),
        (
            &function(),
            "ntop(arg0)",
            6,
            "whether `arg0` is an IPv4 or an IPv6 address",
            "ntop(2, arg0, 0)",
        ),
        (
            &function(),
            "endpoint(arg0, 80)",
            10,
            "is an IPv4 or an IPv6",
            "endpoint(10, 0, arg0, port)",
        ),
        (
            &function(),
            "ntop(sk->dport)",
            6,
            "has 2 bytes",
            "0 stands for none",
        ),
        (
            &function(),
            "ntop(sk)",
            6,
            "whether `sk` is an IPv4",
            "ntop(2, sk, 0)",
        ),
        (
            &function(),
            "ntop(2, 0, 0)",
            1,
            "neither an IPv4 nor an IPv6",
            "",
        ),
        (
            &function(),
            "ntop(2, sk->daddr)",
            1,
            "`ntop` takes 1 or 3 arguments, found 2",
            "",
        ),
        (
            &function(),
            "endpoint(sk->daddr)",
            1,
            "`endpoint` takes 2 or 4 arguments, found 1",
            "",
        ),
        (&function(), "ntop(2, 0, sk->daddr)", 12, "has 4 bytes", ""),
        (
            &function(),
            "ntop(comm)",
            6,
            "takes where an address stands, and `comm` is a text",
            "",
        ),
        (
            &function(),
            "ntohs(sk)",
            1,
            "`ntohs()` of a pointer",
            "ntohs(*sk)",
        ),
        (
            &function(),
            "sock(sk)->num",
            1,
            "this is a pointer",
            "by itself",
        ),
        (
            &function(),
            "sk->dprot",
            5,
            "struct sock has no member `dprot`",
            "did you mean `dport`?",
        ),
        (
            &function(),
            "siz > 3",
            1,
            "unknown name `siz`",
            "its arguments: sk, size, reason",
        ),
        (
            &tracepoint(),
            "prot > 3",
            1,
            "unknown name `prot`",
            "its fields: dport, pid, saddr",
        ),
        (
            &function(),
            "((struct tpc_sock *)sk)->acked",
            3,
            "this kernel has no type `struct tpc_sock`",
            "",
        ),
        (&function(), "reason == RSET", 11, "unknown name `RSET`", ""),
        (
            &function(),
            "reason == \"RSET\"",
            11,
            "enum reason has no such value",
            "NO_SOCKET, RESET",
        ),
        (
            &function(),
            "args > 1",
            1,
            "`args` is known to bpftrace",
            "args.skb",
        ),
    ] {
        let info = match scope.provider == Provider::Tracepoint {
            true => &TRACEPOINT,
            false => &FUNCTION,
        };
        let e = refused(text, scope, info);
        let fits = e.column == column
            && e.message.contains(message)
            && e.help.as_deref().unwrap_or("").contains(help);
        assert!(fits, "{text}\n{}", e.render(false));
    }
}

/// A filter of a probe with places of several providers is bound to the one in use.
#[test]
fn places_of_several_providers() {
    let text = r#"
[[probe]]
name = "sent"
where = "size > 3"
by = "size"
count = true
[[probe.at]]
kernel = "tcp_sendmsg"
[[probe.at]]
tracepoint = "sock:sock_send_length"
capture = { }
[[probe.at]]
function = "send"
"#;
    let recipe =
        parse(Source::new("t.toml", text)).unwrap_or_else(|e| panic!("{}", e[0].render(false)));
    let probe = &recipe.probes[0];
    let providers: Vec<Provider> = probe.at.iter().map(At::provider).collect();
    let all = [
        Provider::KernelFunction,
        Provider::Tracepoint,
        Provider::Program,
    ];
    assert_eq!(providers, all);
    assert_eq!(probe.at[0].functions[0].value, "kernel:tcp_sendmsg");
    let shown = |at, info: &dyn DebugInfo| {
        let bound = probe
            .bind(at, info)
            .unwrap_or_else(|e| panic!("{}", e.render(false)));
        bound.where_.expect("a filter").to_string()
    };
    assert_eq!(shown(0, &FUNCTION), "(i32)arg1 > 3");
    assert_eq!(shown(2, &World::new()), "(i32)arg1 > 3");
    let e = probe.bind(1, &TRACEPOINT).expect_err("no such field");
    assert!(
        e.help.as_deref().is_some_and(|h| h.contains("its fields")),
        "{e}"
    );
    // It must have a meaning at each of them.
    let broken = text.replace("size > 3", "arg1 > 3");
    let e = parse(Source::new("t.toml", broken)).expect_err("a tracepoint has no arg1");
    assert!(e[0].message.contains("in a tracepoint"), "{}", e[0]);
    assert_eq!((e[0].line, e[0].column), (4, 10));
}

#[test]
fn names_of_cplusplus_are_not_the_kernels() {
    assert_eq!(Provider::of("kernel::launch(int)").0, Provider::Program);
    assert_eq!(
        Provider::of("kernel:launch"),
        (Provider::KernelFunction, "launch")
    );
}
