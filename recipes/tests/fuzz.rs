//! Whatever the text, the answer is a recipe or errors with a place: never a panic.

mod eval;
mod mock;

use std::sync::OnceLock;

use proptest::prelude::*;
use uprof_recipes::{Context, Expr, Provider, Scope, Source, Type, builtin, parse, parse_expr};

fn scope() -> Scope {
    let sized =
        parse_expr(&Source::new("capture", "str(arg2, arg3)"), &Scope::call()).expect("a capture");
    Scope::call()
        .with_capture("sql", sized)
        .with_capture("size", Expr::arg(0))
}

const WORLD: eval::World = eval::World {
    args: [0x7fff_0000_8123, 0x10_0000, 3, u64::MAX, 0, 0, 0, 0, 0, 0],
    retval: -5i64 as u64,
    latency: 1_000_000,
    memory: |at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8,
    text: "King",
};

fn check(text: String) -> Result<(), TestCaseError> {
    if let Err(errors) = parse(Source::new("t.toml", text.as_str())) {
        prop_assert!(!errors.is_empty());
        for e in errors {
            prop_assert!(
                e.line >= 1
                    && e.column >= 1
                    && !e.to_string().is_empty()
                    && !e.render(true).is_empty()
            );
        }
    }
    Ok(())
}

/// An expression over names that debug information knows; many have no meaning.
fn named() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "client", "size", "path", "title", "state", "slice", "raw", "peer", "label", "old",
        "hidden", "pointer", "circle", "endless", "total", "local", "odd", "seven", "gone",
        "nobody", "retval", "arg0", "comm", "OPEN", "\"OPEN\"", "3", "0",
    ]);
    leaf.prop_map(str::to_owned)
        .prop_recursive(6, 30, 2, |inner| {
            let member = prop::sample::select(vec![
                "argc", "argv", "cmd", "state", "flags", "prio", "top", "name", "mac", "title",
                "ratio", "addr", "next", "counts", "wide", "open", "port", "ip", "x",
            ]);
            let prefix = prop::sample::select(vec![
                "*",
                "&",
                "-",
                "!",
                "(u64)",
                "(int)",
                "(char*)",
                "(struct client *)",
                "(client **)",
                "(std::string *)",
                "(enum state)",
                "(struct hidden *)",
            ]);
            let infix = prop::sample::select(vec!["+", "-", "==", "!=", "<", "&&", "<<"]);
            let call = prop::sample::select(vec!["str", "after", "chars"]);
            prop_oneof![
                (inner.clone(), prop::sample::select(vec!["->", "."]), member)
                    .prop_map(|(e, op, m)| format!("{e}{op}{m}")),
                (prefix, inner.clone()).prop_map(|(op, e)| format!("({op}{e})")),
                (inner.clone(), inner.clone()).prop_map(|(e, i)| format!("{e}[{i}]")),
                (inner.clone(), infix, inner.clone())
                    .prop_map(|(a, op, b)| format!("({a} {op} {b})")),
                (call, inner.clone()).prop_map(|(f, e)| format!("{f}({e})")),
                (inner.clone(), inner).prop_map(|(e, n)| format!("str({e}, {n})")),
            ]
        })
}

/// A well-formed expression over integers, pointers and texts; some have no meaning.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("arg0".to_owned()),
        Just("retval".to_owned()),
        Just("latency".to_owned()),
        Just("pid".to_owned()),
        Just("size".to_owned()),
        Just("*(u32*)(arg1 + 8)".to_owned()),
        Just("((char**)arg1)[2]".to_owned()),
        Just("(comm == \"King\")".to_owned()),
        Just("(str(arg0) != \"a\\\"b\")".to_owned()),
        Just("(sql == \"SELECT 1\")".to_owned()),
        Just("((u32*)arg0 + 3)".to_owned()),
        any::<u64>().prop_map(|v| v.to_string()),
        (0u64..5000).prop_map(|v| format!("{v:#x}")),
    ];
    leaf.prop_recursive(6, 40, 3, |inner| {
        let infix = prop::sample::select(vec![
            "+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>", "==", "!=", "<", "<=", ">", ">=",
            "&&", "||",
        ]);
        let prefix = prop::sample::select(vec![
            "-", "~", "!", "(u8)", "(int)", "(u64)", "(char*)", "*(u16*)", "(bool)",
        ]);
        prop_oneof![
            (inner.clone(), infix, inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            (prefix, inner.clone()).prop_map(|(op, e)| format!("{op}({e})")),
            (inner.clone(), inner.clone(), inner)
                .prop_map(|(c, a, b)| format!("({c} ? {a} : {b})")),
        ]
    })
}

/// An expression over what the kernel knows; many have no meaning.
fn in_the_kernel() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "sk",
        "size",
        "reason",
        "dport",
        "saddr",
        "saddr_v6",
        "args",
        "args.sk",
        "args.comm",
        "curtask",
        "kstack",
        "ustack",
        "retval",
        "latency",
        "arg0",
        "pid",
        "comm",
        "depth",
        "parent",
        "sock(3)",
        "sock(arg0)",
        "RESET",
        "\"RESET\"",
        "client",
        "0",
        "2",
        "10",
    ]);
    leaf.prop_map(str::to_owned)
        .prop_recursive(6, 30, 4, |inner| {
            let member = prop::sample::select(vec![
                "num", "dport", "daddr", "daddr6", "family", "next", "cookie", "parent", "tgid",
                "comm", "files", "fdt", "acked", "ports", "argc",
            ]);
            let prefix = prop::sample::select(vec![
                "*",
                "&",
                "-",
                "!",
                "(u64)",
                "(u16)",
                "(u32*)",
                "(struct tcp_sock *)",
                "(struct sock *)",
                "(struct client *)",
                "(enum reason)",
            ]);
            let infix = prop::sample::select(vec!["+", "-", "==", "!=", "<", "&&"]);
            let call = prop::sample::select(vec![
                "ntohs", "ntohl", "ntohll", "ntop", "sock", "str", "after",
            ]);
            let two = prop::sample::select(vec!["endpoint", "str", "buf"]);
            prop_oneof![
                (inner.clone(), prop::sample::select(vec!["->", "."]), member)
                    .prop_map(|(e, op, m)| format!("{e}{op}{m}")),
                (prefix, inner.clone()).prop_map(|(op, e)| format!("({op}{e})")),
                (inner.clone(), infix, inner.clone())
                    .prop_map(|(a, op, b)| format!("({a} {op} {b})")),
                (call, inner.clone()).prop_map(|(f, e)| format!("{f}({e})")),
                (two, inner.clone(), inner.clone()).prop_map(|(f, a, b)| format!("{f}({a}, {b})")),
                (inner.clone(), inner.clone(), inner.clone())
                    .prop_map(|(f, a, b)| format!("ntop({f}, {a}, {b})")),
                (inner.clone(), inner.clone(), inner.clone(), inner)
                    .prop_map(|(f, a, b, p)| format!("endpoint({f}, {a}, {b}, {p})")),
            ]
        })
}

/// A place and what is known there.
fn place() -> impl Strategy<Value = (Scope, mock::kernel::Kernel)> {
    let providers = prop::sample::select(vec![
        Provider::Program,
        Provider::KernelFunction,
        Provider::Tracepoint,
        Provider::RawTracepoint,
        Provider::Syscall,
    ]);
    let places = (
        prop::collection::vec(providers, 1..3),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    places.prop_map(|(providers, call, any, btf)| {
        let tracepoint = providers[0] == Provider::Tracepoint;
        let scope = if call { Scope::call() } else { Scope::entry() };
        let context = if any { Context::Any } else { Context::Thread };
        let scope = scope.at(providers).in_context(context);
        (scope, mock::kernel::Kernel { tracepoint, btf })
    })
}

/// Recipes to be changed: the built-in ones, those of the reference, broken ones.
fn recipes() -> &'static [String] {
    static ALL: OnceLock<Vec<String>> = OnceLock::new();
    ALL.get_or_init(|| {
        let reference = include_str!("../../docs/recipes.md")
            .split("```toml\n")
            .skip(1);
        let reference = reference.filter_map(|rest| rest.split("```").next());
        let own = builtin().iter().map(|b| b.text);
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/broken");
        let broken = std::fs::read_dir(directory).expect("tests/broken");
        let broken =
            broken.map(|f| std::fs::read_to_string(f.expect("an entry").path()).expect("a recipe"));
        own.chain(reference)
            .map(str::to_owned)
            .chain(broken)
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_text(text in ".{0,200}") {
        check(text)?;
    }

    #[test]
    fn random_expression_text(text in r#"[-a-z0-9 ()\[\]"'$.,?:*&|<>=!~+/%\\]{0,80}"#) {
        if let Err(e) = parse_expr(&Source::new("--where", text.as_str()), &scope()) {
            prop_assert!(e.line >= 1 && e.span.start <= text.len() && e.span.end <= text.len());
            prop_assert!(!e.render(false).is_empty());
        }
    }

    /// What `--explain` shows means the same: it parses, and shows itself again.
    #[test]
    fn shown_expressions_parse(text in expression()) {
        let read = |t: &str| parse_expr(&Source::new("e", t), &scope());
        if let Ok(e) = read(&text) {
            let shown = e.to_string();
            let again = read(&shown).map_err(|e| TestCaseError::fail(format!("{text}\n{shown}\n{}", e.render(false))))?;
            prop_assert_eq!(again.to_string(), shown);
            if e.ty.is_scalar() && !e.any(&|e| matches!(&e.kind, uprof_recipes::Kind::Capture(n) if n == "sql")) {
                prop_assert_eq!(WORLD.eval(&again), WORLD.eval(&e), "{}", text);
            }
            let captures = scope().captures;
            prop_assert!(!e.with_captures(&captures).any(&|e| matches!(e.kind, uprof_recipes::Kind::Capture(_))));
        }
    }

    /// Whatever is asked of debug information: an expression of the ordinary kinds, or an error with a place.
    #[test]
    fn named_expressions_bind_or_say_why(text in named()) {
        if let Ok(e) = parse_expr(&Source::new("e", text.as_str()), &Scope::call()) {
            for bound in [e.bind(&mock::World::new()), e.bind(&mock::Nothing)] {
                match bound {
                    Ok(bound) => {
                        prop_assert!(!bound.any(&Expr::is_deferred), "{}", text);
                        prop_assert!(!bound.any(&|e| matches!(e.ty, Type::Named(_) | Type::Deferred)), "{}: {}", text, bound);
                        // What is folded away needs nothing any more.
                        prop_assert!(!bound.needs_return() || e.needs_return(), "{}", text);
                        if bound.ty.is_scalar() {
                            WORLD.eval(&bound);
                        }
                        prop_assert!(!bound.to_string().is_empty());
                    }
                    Err(e) => {
                        prop_assert!(e.span.end <= text.len() && e.line == 1, "{}", text);
                        prop_assert!(!e.render(false).is_empty());
                    }
                }
            }
        }
    }

    /// The same in the kernel, with its types or without.
    #[test]
    fn expressions_in_the_kernel_bind_or_say_why(text in in_the_kernel(), (scope, kernel) in place()) {
        if let Ok(e) = parse_expr(&Source::new("e", text.as_str()), &scope) {
            for bound in [e.bind(&kernel), e.bind(&mock::World::new()), e.bind(&mock::Nothing)] {
                match bound {
                    Ok(bound) => {
                        prop_assert!(!bound.any(&Expr::is_deferred), "{}", text);
                        prop_assert!(!bound.any(&|e| matches!(e.ty, Type::Named(_) | Type::Deferred)), "{}: {}", text, bound);
                        prop_assert!(!bound.needs_return() || e.needs_return(), "{}", text);
                        if bound.ty.is_scalar() {
                            WORLD.eval(&bound);
                        }
                        prop_assert!(!bound.to_string().is_empty());
                    }
                    Err(e) => {
                        prop_assert!(e.span.end <= text.len() && e.line == 1, "{}", text);
                        prop_assert!(!e.render(false).is_empty());
                    }
                }
            }
        }
    }

    /// Recipes with pieces cut out, doubled, and replaced.
    #[test]
    fn mutated_recipes(which in any::<prop::sample::Index>(), other in any::<prop::sample::Index>(), joined in any::<bool>(), edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, ".{0,4}"), 1..6)) {
        let all = recipes();
        let mut text = all[which.index(all.len())].clone();
        if joined {
            text.push_str(&all[other.index(all.len())]);
        }
        for (at, cut, put) in edits {
            let mut from = at.index(text.len().max(1)).min(text.len());
            while !text.is_char_boundary(from) {
                from -= 1;
            }
            let mut to = (from + cut).min(text.len());
            while !text.is_char_boundary(to) {
                to += 1;
            }
            text.replace_range(from..to, &put);
        }
        check(text)?;
    }
}
