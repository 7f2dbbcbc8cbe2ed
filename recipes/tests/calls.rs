//! Calls: how their return is seen, what they know of each other, and what names their frames.

mod mock;

use uprof_recipes::{
    Action, Error, Expr, Kind, Recipe, Returns, Scope, Source, Type, parse, parse_expr,
};

fn read(text: &str) -> Expr {
    parse_expr(&Source::new("e", text), &Scope::call()).unwrap_or_else(|e| panic!("{e}"))
}

fn recipe(text: &str) -> Recipe {
    parse(Source::new("t.toml", text)).unwrap_or_else(|errors| panic!("{text}\n{errors:?}"))
}

fn errors(text: &str) -> Vec<Error> {
    let Err(errors) = parse(Source::new("t.toml", text)) else {
        panic!("no error in\n{text}")
    };
    errors
}

#[test]
fn how_the_return_is_seen() {
    for (word, returns) in [
        ("auto", Returns::Auto),
        ("session", Returns::Session),
        ("uretprobe", Returns::Uretprobe),
        ("ret", Returns::Ret),
        ("none", Returns::None),
    ] {
        let read = recipe(&format!(
            "[[call]]\nfunction = \"f\"\nreturn = \"{word}\"\n"
        ));
        assert_eq!(read.probes[0].returns, returns);
        assert_eq!(returns.word(), word);
    }
    let plain = recipe("[[call]]\nfunction = \"f\"\n");
    assert_eq!(plain.probes[0].returns, Returns::Auto);
    assert!(!plain.probes[0].uncaught);
    let uncaught = recipe("[[call]]\nfunction = \"f\"\nuncaught = true\n");
    assert!(uncaught.probes[0].uncaught && !uncaught.probes[0].at[0].uncaught);
    let place = recipe(
        "[[call]]\nname = \"x\"\nat = [{ function = \"f\", uncaught = true }, { function = \"g\" }]\n",
    );
    let places: Vec<bool> = place.probes[0].at.iter().map(|a| a.uncaught).collect();
    assert_eq!(
        (place.probes[0].uncaught, places),
        (false, vec![true, false])
    );
}

#[test]
fn without_a_return_a_call_knows_its_entry() {
    let read = recipe(
        "[[call]]\nfunction = \"f\"\nreturn = \"none\"\nwhere = \"arg0 > 1\"\ncapture = { a = \"str(arg1)\" }\n",
    );
    assert_eq!(read.probes[0].returns, Returns::None);
    // A filter that is always true asks for nothing.
    let text = "[params]\nmin = { type = \"duration\", default = \"0s\" }\n[[call]]\nfunction = \"f\"\nreturn = \"none\"\nwhere = \"latency >= $min\"\n";
    let errors = recipe(text)
        .with_params(&[("min".into(), "1ms".into())])
        .expect_err("a filter of latency");
    assert_eq!(
        errors[0].to_string(),
        "t.toml:6:10: `latency` is known only when the call returns"
    );
}

#[test]
fn words_of_open_calls() {
    for (text, kind, ty) in [
        ("depth", Kind::Depth, Type::U64),
        ("self", Kind::SelfTime, Type::U64),
        ("parent", Kind::Parent, Type::Function),
    ] {
        let e = read(text);
        assert_eq!((&e.kind, &e.ty), (&kind, &ty));
        assert!(e.needs_return());
        assert_eq!(e.to_string(), text);
        assert_eq!(e.bind(&mock::World::new()).expect("bound").kind, kind);
    }
    let e = read("self > 1ms && depth == 0");
    assert_eq!(e.to_string(), "self > 1000000 && depth == 0");
    assert_eq!(e.first_of_return().expect("one").kind, Kind::SelfTime);
    assert_eq!(read("latency - self").ty, Type::U64);
}

#[test]
fn histograms_of_self_time_are_of_nanoseconds() {
    let read =
        recipe("[[call]]\nfunction = \"f\"\nhistogram = \"self\"\nby = [\"parent\", \"depth\"]\n");
    let Action::Histogram { unit, by, .. } = &read.probes[0].action else {
        panic!("{:?}", read.probes[0].action)
    };
    assert_eq!(unit, "ns");
    assert_eq!(
        by.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(),
        ["parent", "depth"]
    );
}

/// Captures may be called as the words are, and are what the names mean then.
#[test]
fn captures_have_these_names() {
    let read = recipe(
        "[[call]]\nfunction = \"f\"\nwhere = \"depth > 2\"\n[call.capture]\ndepth = \"depth\"\nself = \"self\"\nparent = \"arg0\"\n",
    );
    let probe = &read.probes[0];
    let filter = probe.where_.as_ref().expect("a filter");
    assert!(
        matches!(&filter.kind, Kind::Binary { a, .. } if a.kind == Kind::Capture("depth".into()))
    );
    assert!(filter.with_captures(&probe.at[0].capture).needs_return());
    assert_eq!(probe.at[0].capture[2].1.kind, Kind::Arg(0));
}

/// The program's own `self` and `parent` have members; those of a call have none.
#[test]
fn members_are_the_programs_own() {
    for scope in [Scope::call(), Scope::entry()] {
        for text in ["self->argc", "parent.argc", "(depth->argc) + 1"] {
            let e =
                parse_expr(&Source::new("e", text), &scope).expect("known by debug information");
            assert!(e.is_deferred() && !e.needs_return(), "{text}");
            let e = e.bind(&mock::World::new()).expect_err("no such variable");
            assert!(e.message.contains("unknown name"), "{text}: {e}");
            assert!(
                !e.help.unwrap_or_default().contains("did you mean"),
                "{text}"
            );
        }
    }
    assert!(read("self->argc + self").needs_return());
}

#[test]
fn frames() {
    let read = recipe(
        "[params]\nn = { type = \"int\", default = 2 }\n[frame]\nfunction = [\"resume\", \"resume_*\"]\nrunning = \"(void*)(arg0 + $n * 8)\"\nabout = \"coroutines\"\n[[call]]\nfunction = \"f\"\n",
    );
    let frame = read.frame.expect("a frame");
    let functions: Vec<&str> = frame.functions.iter().map(|f| f.value.as_str()).collect();
    assert_eq!(functions, ["resume", "resume_*"]);
    assert_eq!(frame.running.to_string(), "(void*)(arg0 + 16)");
    assert_eq!(frame.about.as_deref(), Some("coroutines"));
    assert_eq!(recipe("[[call]]\nfunction = \"f\"\n").frame, None);
}

/// Expressions in a `where`: expression, column in it, part of the message, part of the help.
#[test]
fn broken_expressions() {
    const USES: &str = "captured or be a key";
    for (probe, expr, column, message, help) in [
        (
            "call",
            "parent",
            1,
            "`where` is a condition, and this is a function",
            "",
        ),
        (
            "call",
            "parent == \"f\"",
            1,
            "`parent` is a function, which cannot be compared",
            USES,
        ),
        (
            "call",
            "3 != parent",
            6,
            "`parent` is a function, which cannot be compared",
            USES,
        ),
        (
            "call",
            "parent < 3",
            1,
            "`<` takes numbers, and `parent` is a function",
            USES,
        ),
        (
            "call",
            "parent + 1 > 3",
            1,
            "`+` takes numbers, and `parent` is a function",
            USES,
        ),
        (
            "call",
            "!parent",
            2,
            "`!` takes numbers, and `parent` is a function",
            USES,
        ),
        (
            "call",
            "(u64)parent > 1",
            6,
            "a cast takes numbers, and `parent` is a function",
            USES,
        ),
        (
            "call",
            "arg0 ? parent : 0",
            8,
            "`?:` chooses between numbers, and `parent` is a function",
            USES,
        ),
        (
            "call",
            "parent ? 1 : 0",
            1,
            "the condition of `?:` takes numbers",
            USES,
        ),
        (
            "call",
            "str(parent) == \"f\"",
            5,
            "`str()` takes numbers, and `parent` is a function",
            USES,
        ),
        (
            "call",
            "*parent == 1",
            2,
            "`*` takes numbers, and `parent` is a function",
            USES,
        ),
        (
            "call",
            "*self == 1",
            1,
            "needs a pointer, and `self` is a 64-bit integer",
            "",
        ),
        ("call", "after(depth) == 1", 1, "nothing in `after()`", ""),
        ("call", "self < -1", 8, "`self` is unsigned", ""),
        (
            "call",
            "dept > 1",
            1,
            "unknown name `dept`",
            "did you mean `depth`?",
        ),
        (
            "call",
            "parrent > 1",
            1,
            "unknown name `parrent`",
            "did you mean `parent`?",
        ),
        (
            "probe",
            "depth > 1",
            1,
            "`depth` is known only when the call returns",
            "[[call]]",
        ),
        (
            "probe",
            "arg0 && self > 1ms",
            9,
            "`self` is known only when the call returns",
            "own `self` is written argN",
        ),
        (
            "probe",
            "parent",
            1,
            "`parent` is known only when the call returns",
            "[[call]]",
        ),
    ] {
        let text = format!("[[{probe}]]\nfunction = \"f\"\nwhere = '{expr}'\n");
        let found = match parse(Source::new("t.toml", &text)) {
            Err(mut errors) => errors.remove(0),
            Ok(recipe) => recipe.probes[0]
                .bind(0, &mock::Nothing)
                .expect_err("an error in the end"),
        };
        assert!(
            found.message.contains(message)
                && (found.line, found.column) == (3, 9 + column)
                && found.help.as_deref().unwrap_or("").contains(help),
            "{expr}\n{}",
            found.render(false)
        );
    }
}

/// Whole recipes: text, line, column, part of the message, part of the help.
#[test]
fn broken_recipes() {
    const CALL: &str = "[[call]]\nfunction = \"f\"\n";
    let of_call = |more: &str| format!("{CALL}{more}\n");
    let of_frame = |keys: &str| format!("[frame]\n{keys}\n{CALL}");
    let of_running = |e: &str| of_frame(&format!("function = \"resume\"\nrunning = \"{e}\""));
    for (text, line, column, message, help) in [
        (of_call("return = \"uretprob\""), 3, 10, "unknown return `uretprob`", "did you mean `uretprobe`?"),
        (of_call("return = \"fast\""), 3, 10, "unknown return `fast`", "known: auto, none, ret, session, uretprobe"),
        (of_call("return = true"), 3, 10, "`return` is a text, found true or false", ""),
        (of_call("retrun = \"ret\""), 3, 1, "unknown key `retrun` in [[call]]", "`return`"),
        (of_call("uncaught = 1"), 3, 12, "`uncaught` is true or false, found an integer", ""),
        ("[[probe]]\nfunction = \"f\"\nreturn = \"ret\"\n".into(), 3, 1, "`return` in [[probe]]: it sees no return", "[[call]]"),
        ("[[probe]]\nfunction = \"f\"\nuncaught = true\n".into(), 3, 1, "`uncaught` in [[probe]]: it sees no return", "[[call]]"),
        ("[[probe]]\nname = \"x\"\nat = [{ function = \"f\", uncaught = true }]\n".into(), 3, 25, "`uncaught` in [[probe]]: it sees no return", "[[call]]"),
        (of_call("return = \"none\"\nwhere = \"arg0 > 1 && retval < 0\""), 4, 22, "`retval` is known only when the call returns", "leave `return` out"),
        (of_call("return = \"none\"\nhistogram = \"latency\""), 4, 14, "`latency` is known only when", ""),
        (of_call("return = \"none\"\ncount = true\nby = { p = \"parent\" }"), 5, 13, "`parent` is known only when", ""),
        (of_call("return = \"none\"\ncapture = { a = \"arg0\", d = \"depth\" }"), 4, 30, "`depth` is known only when", ""),
        (of_call("return = \"none\"\ncapture = { d = \"self / 2\" }"), 4, 18, "`self` is known only when", ""),
        (of_call("return = \"none\"\nkeep = \"after(*(u32*)arg0) == 1\"\nwhere = \"arg0\""), 4, 9, "`after(*(u32*)arg0)` is known only when", ""),
        (of_call("return = \"none\"\nwhere = \"client->argc > retval\""), 4, 10, "`client->argc > retval` is known only when", ""),
        ("[[call]]\nname = \"x\"\nreturn = \"none\"\nat = [{ function = \"f\" }, { function = \"g\", where = \"elapsed > 1s\" }]\n".into(), 4, 54, "`latency` is known only when", ""),
        (of_call("histogram = \"parent\""), 3, 14, "`histogram` is a number, and this is a function", ""),
        (of_call("count = true\nby = \"parent == 0\""), 4, 7, "cannot be compared", "be a key"),
        ("frame = 3\n[[call]]\nfunction = \"f\"\n".into(), 1, 9, "`frame` is a table, found an integer", ""),
        (of_frame("function = \"resume\""), 1, 1, "[frame] lacks `running`", "running = \"arg0\""),
        (of_frame("running = \"arg0\""), 1, 1, "[frame] lacks `function`", "runs a coroutine"),
        (of_frame("function = \"resume\"\nruning = \"arg0\"\nrunning = \"arg0\""), 3, 1, "unknown key `runing` in [frame]", "`running`"),
        (of_frame("function = 3\nrunning = \"arg0\""), 2, 12, "`function` is a text or a list", ""),
        (of_frame("function = \"\"\nrunning = \"arg0\""), 2, 12, "`function` is empty", ""),
        (of_frame("function = \"usdt:app:resume\"\nrunning = \"arg0\""), 2, 12, "no function's name", ""),
        (of_frame("function = \"resume\"\nrunning = [1]"), 3, 11, "`running` is an expression in quotes", ""),
        (of_frame("function = \"resume\"\nrunning = 3"), 3, 11, "`3` is the same for every coroutine", "running = \"arg0\""),
        (of_running("arg0 +"), 3, 18, "expected an expression after `+`", ""),
        (of_running("retval"), 3, 12, "made of arguments alone, and `retval` is none", "running = \"arg0\""),
        (of_running("*(u64*)(arg0 + 8)"), 3, 12, "made of arguments alone, and `*(u64*)(arg0 + 8)` is none", ""),
        (of_running("arg0 + tid"), 3, 19, "made of arguments alone, and `tid` is none", ""),
        (of_running("co"), 3, 12, "made of arguments alone, and `co` is none", ""),
        (of_running("str(arg0)"), 3, 12, "made of arguments alone, and `str(arg0)` is none", ""),
        (of_running("reg(\\\"rdi\\\")"), 3, 12, "made of arguments alone, and `reg(\"rdi\")` is none", ""),
        (of_running("parent"), 3, 12, "made of arguments alone, and `parent` is none", ""),
        ("[frame]\nfunction = \"resume\"\nrunning = \"arg0\"\n[[probe]]\nfunction = \"f\"\n".into(), 1, 2, "[frame] without [[call]]", "add [[call]]"),
    ] {
        let found = errors(&text);
        let e = &found[0];
        assert!(
            e.message.contains(message)
                && (e.line, e.column) == (line, column)
                && e.help.as_deref().unwrap_or("").contains(help),
            "expected {line}:{column} {message:?} {help:?} in\n{text}\n{}",
            e.render(false)
        );
    }
}

#[test]
fn a_join_takes_calls_when_they_return() {
    let text = include_str!("../builtin/mysql-queries.toml").replace(
        "where = \"latency >= $min_latency\"",
        "where = \"arg0 > 1\"\nreturn = \"none\"",
    );
    let found = errors(&text);
    assert!(
        found[0]
            .message
            .contains("the join takes calls when they return"),
        "{}",
        found[0].render(false)
    );
}
