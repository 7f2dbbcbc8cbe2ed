//! The built-in recipes parse, and mean what they should.

use uprof_recipes::builtin::find;
use uprof_recipes::{Action, Join, Kind, ProbeKind, Recipe, Value, builtin, parse};

fn load(name: &str) -> Recipe {
    let text = find(name).expect("a built-in of that name");
    parse(text.source()).unwrap_or_else(|errors| {
        panic!(
            "{}",
            errors
                .iter()
                .map(|e| e.render(false))
                .collect::<Vec<_>>()
                .join("\n")
        );
    })
}

fn set(recipe: &Recipe, values: &[(&str, &str)]) -> Recipe {
    let values: Vec<_> = values
        .iter()
        .map(|(n, v)| (n.to_string(), v.to_string()))
        .collect();
    recipe.with_params(&values).expect("values fit")
}

#[test]
fn all_parse_and_carry_their_name() {
    for b in builtin() {
        let recipe = load(b.name);
        assert_eq!(recipe.name, b.name);
        assert!(!recipe.about.is_empty(), "{}", b.name);
        assert!(recipe.with_params(&[]).is_ok(), "{}", b.name);
    }
}

#[test]
fn malloc_is_two_recipes_in_one() {
    let sums = load("malloc");
    assert_eq!(sums.target.binds.as_deref(), Some("malloc"));
    assert!(sums.probes.iter().all(|p| p.kind == ProbeKind::Entry));
    let malloc = sums.probe("malloc").expect("malloc");
    assert!(
        matches!(&malloc.action, Action::Histogram { unit, by, .. } if unit == "bytes" && by[0].0 == "pid")
    );
    assert!(
        matches!(&sums.probe("free").expect("free").action, Action::Count { by } if by[0].0 == "pid")
    );
    for (probe, size) in [
        ("malloc", "arg0"),
        ("calloc", "arg0 * arg1"),
        ("realloc", "arg1"),
        ("memalign", "arg1"),
        ("posix_memalign", "arg2"),
        ("valloc", "arg0"),
        ("operator new", "arg0"),
    ] {
        for at in &sums.probe(probe).expect(probe).at {
            assert_eq!(at.capture[0].1.to_string(), size, "{probe}");
        }
    }

    let events = set(&sums, &[("events", "true")]);
    assert_eq!(events.param("events"), Some(&Value::Bool(true)));
    assert!(
        events
            .probes
            .iter()
            .all(|p| matches!(p.action, Action::Event))
    );
    assert_eq!(
        events.probe("malloc").expect("malloc").kind,
        ProbeKind::Call
    );
    assert_eq!(events.probe("free").expect("free").kind, ProbeKind::Entry);
    let names = |r: &Recipe| r.probes.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&sums), names(&events));
    let aligned = events.probe("posix_memalign").expect("posix_memalign");
    assert_eq!(
        aligned.at[0].capture[1].1.to_string(),
        "retval == 0 ? (void*)after(*(u64*)arg0) : (void*)0"
    );
}

#[test]
fn operators_are_counted_in_allocators_alone() {
    let recipe = load("malloc");
    let new = recipe.probe("operator new").expect("operator new");
    let places =
        |file: &str, program: bool| new.at.iter().filter(|a| a.allows(file, program)).count();
    assert_eq!(places("libjemalloc.so.2", false), 1);
    assert_eq!(places("libtcmalloc_minimal.so.4", false), 1);
    assert_eq!(places("libmimalloc.so.2.0", false), 1);
    assert_eq!(places("libc.so.6", false), 0);
    assert_eq!(places("libstdc++.so.6", false), 0);
    // A statically linked C++ program's operator new calls malloc.
    assert_eq!(places("server", true), 0);
    let free = recipe.probe("free").expect("free");
    let first = |file: &str| {
        free.at
            .iter()
            .find(|a| a.allows(file, false))
            .map(|a| a.functions.len())
    };
    assert_eq!(first("libc.so.6"), Some(2));
    assert_eq!(first("libjemalloc.so.2"), Some(5));
}

#[test]
fn mysql_without_a_filter_has_none() {
    let recipe = load("mysql-queries");
    let statement = recipe.probe("statement").expect("statement");
    assert!(statement.where_.is_none(), "latency >= 0s is always true");
    assert_eq!(statement.text_limit, 1024);
    // MySQL's X plugin catches exceptions.
    assert!(!statement.uncaught);
    let places: Vec<bool> = statement.at.iter().map(|a| a.uncaught).collect();
    assert_eq!(places, [true, false]);
    assert_eq!(statement.at.len(), 2);
    assert!(recipe.probe("prepared").expect("prepared").hidden);
    let Some(Join::Statements(join)) = &recipe.join else {
        panic!("no join")
    };
    assert_eq!(
        (join.prepare.as_slice(), join.last_id),
        ([22].as_slice(), Some(0xffff_ffff))
    );
    assert_eq!(recipe.report.name_of("command", 3), Some("Query"));
    assert_eq!(recipe.report.name_of("command", 99), None);
}

#[test]
fn mysql_filter_and_limit_are_parameters() {
    let recipe = set(
        &load("mysql-queries"),
        &[("min_latency", "10ms"), ("text_limit", "64KiB")],
    );
    let statement = recipe.probe("statement").expect("statement");
    assert_eq!(
        statement.where_.as_ref().expect("a filter").to_string(),
        "latency >= 10000000"
    );
    assert_eq!(statement.text_limit, 65536);
    let errors = recipe
        .with_params(&[("text_limit".into(), "65KiB".into())])
        .expect_err("too large");
    assert!(errors[0].message.contains("64KiB"), "{}", errors[0]);
    // A value once set stays.
    let again = recipe.with_params(&[]).expect("unchanged");
    assert_eq!(
        again.param("min_latency"),
        Some(&Value::Duration(10_000_000))
    );
}

#[test]
fn mysql_text_is_read_for_commands_that_have_one() {
    let recipe = load("mysql-queries");
    let statement = recipe.probe("statement").expect("statement");
    for (at, length) in [(0, "(u32)arg3"), (1, "*(u32*)(arg1 + 8)")] {
        let sql = &statement.at[at]
            .capture
            .iter()
            .find(|(n, _)| n == "sql")
            .expect("sql")
            .1;
        let Kind::ReadStr { len: Some(len), .. } = &sql.kind else {
            panic!("{sql}")
        };
        let Kind::Cond { a, b, .. } = &len.kind else {
            panic!("{len}")
        };
        assert_eq!((a.to_string().as_str(), b.as_int()), (length, Some(0)));
    }
}

#[test]
fn columns_of_probes_that_are_switched_off_are_left_out() {
    let text = r#"
        [params]
        each = { type = "bool", default = "false" }
        [[probe]]
        name = "count"
        function = "f"
        when = "!$each"
        count = true
        by = { kind = "arg0" }
        [[probe]]
        name = "each"
        function = "f"
        when = "$each"
        capture = { kind = "arg0", size = "arg1" }
        [report]
        columns = ["time", "size", { value = "kind" }]
        [report.names.kind]
        1 = "one"
        [report.names.size]
        1 = "small"
    "#;
    let recipe = parse(uprof_recipes::Source::new("it", text)).expect("both ways");
    let columns = |each| {
        let recipe = set(&recipe, &[("each", each)]);
        let columns = recipe.report.columns.iter();
        columns.map(|c| c.value.clone()).collect::<Vec<_>>()
    };
    assert_eq!(columns("true"), ["time", "size", "kind"]);
    assert_eq!(columns("false"), ["time"]);
}
