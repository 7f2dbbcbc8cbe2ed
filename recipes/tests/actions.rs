//! What is done with hits: sums, linear histograms, samples; targets and graphs of their own; choices.

use uprof_recipes::{Action, Recipe, Scale, Source, StatKind, parse};

fn read(text: &str) -> Recipe {
    parse(Source::new("t.toml", text)).unwrap_or_else(|e| panic!("{}", e[0].render(false)))
}

fn probe(keys: &str) -> uprof_recipes::Probe {
    read(&format!(
        "[params]\nn = {{ type = \"int\", default = 4 }}\n[[call]]\nfunction = \"f\"\n{keys}"
    ))
    .probes
    .remove(0)
}

#[test]
fn sums_of_one_value_are_shown_together() {
    let found =
        probe("max = \"arg0\"\nsum = \"arg0\"\navg = \"latency\"\nby = \"pid\"\nunit = \"bytes\"");
    let Action::Stats { values, by } = &found.action else {
        panic!("{:?}", found.action)
    };
    assert_eq!(by.len(), 1);
    let shown: Vec<_> = values
        .iter()
        .map(|s| (s.name.as_str(), s.show.as_slice(), s.unit.as_str()))
        .collect();
    let together = [StatKind::Max, StatKind::Sum];
    assert_eq!(
        shown,
        [
            ("arg0", &together[..], "bytes"),
            ("latency", &[StatKind::Avg], "bytes")
        ]
    );
}

#[test]
fn stats_have_names_units_and_what_is_shown() {
    let found = probe(
        "[call.stats]\nbytes = { value = \"retval\", show = [\"avg\", \"sum\"], unit = \"bytes\" }\ntook = \"latency\"\n",
    );
    let Action::Stats { values, .. } = &found.action else {
        panic!("{:?}", found.action)
    };
    let mut shown: Vec<_> = values
        .iter()
        .map(|s| (s.name.as_str(), s.show.len(), s.unit.as_str()))
        .collect();
    shown.sort_unstable();
    assert_eq!(shown, [("bytes", 2, "bytes"), ("took", 4, "ns")]);
}

#[test]
fn linear_buckets() {
    for (text, scale) in [
        ("from = -10, to = 10, step = 5", (-10, 10, 5)),
        (
            "from = \"$n\", to = \"1KiB + $n\", step = \"$n\"",
            (4, 1028, 4),
        ),
        ("from = 0, to = 1000, step = 1", (0, 1000, 1)),
        (
            "from = -9223372036854775808, to = 9223372036854775807, step = 9223372036854775807",
            (0, 0, 0),
        ),
    ] {
        let text = format!(
            "[params]\nn = {{ type = \"int\", default = 4 }}\n[[call]]\nfunction = \"f\"\nlinear = {{ value = \"arg0\", {text} }}\n"
        );
        let (from, to, step) = scale;
        match parse(Source::new("t.toml", text)) {
            Ok(recipe) => {
                let Action::Histogram { scale, .. } = &recipe.probes[0].action else {
                    panic!("no histogram")
                };
                assert_eq!(*scale, Scale::Linear { from, to, step });
            }
            Err(e) => assert!(
                step == 0 && e[0].message.contains("no multiple"),
                "{}",
                e[0]
            ),
        }
    }
}

#[test]
fn samples_tops_and_targets() {
    let found = probe(
        "sample = \"$n * 25\"\ncount = true\nby = \"pid\"\ntop = 3\n[call.target]\nlibrary = \"libssl\"\n",
    );
    assert_eq!((found.sample, found.top), (100, Some(3)));
    assert_eq!(found.target.expect("a target").library, ["libssl"]);
    let plain = probe("");
    assert_eq!((plain.sample, plain.top, plain.target), (1, None, None));
}

#[test]
fn a_choice_is_one_of_those_that_there_are() {
    let recipe = read(
        "[params]\nby = { type = \"string\", choices = [\"comm\", \"pid\"], default = \"pid\" }\n[[probe]]\nfunction = \"f\"\nwhen = '$by == \"comm\"'\n",
    );
    assert!(recipe.probes.is_empty());
    let set = |value: &str| recipe.with_params(&[("by".to_owned(), value.to_owned())]);
    assert_eq!(set("comm").expect("a choice").probes.len(), 1);
    let e = set("com").expect_err("no choice");
    assert_eq!(e[0].message, "`com` is no value of `by`");
    assert_eq!(e[0].help.as_deref(), Some("did you mean `comm`?"));
}

#[test]
fn a_graph_has_edges() {
    let recipe = read(
        "[[probe]]\nname = \"sent\"\nfunction = \"f\"\nsum = \"arg1\"\nby = { a = \"arg0\", b = \"pid\" }\n[report.graph]\nprobe = \"sent\"\nfrom = \"a\"\nto = \"b\"\nweight = \"arg1\"\n",
    );
    let graph = recipe.report.graph.expect("a graph");
    assert_eq!((graph.from.as_str(), graph.to.as_str()), ("a", "b"));
    assert_eq!(graph.weight.as_deref(), Some("arg1"));
}

/// As columns of captures that there are not: what parameters switch off is no error.
#[test]
fn a_graph_of_what_is_switched_off_is_left_out() {
    let text = r#"
        [params]
        each = { type = "bool", default = "false" }
        [[probe]]
        name = "sent"
        function = "f"
        when = "!$each"
        count = true
        by = { a = "arg0", b = "pid" }
        [[probe]]
        name = "sent"
        function = "f"
        when = "$each"
        [report.graph]
        probe = "sent"
        from = "a"
        to = "b"
    "#;
    let recipe = read(text);
    assert!(recipe.report.graph.is_some());
    let each = recipe.with_params(&[("each".to_owned(), "true".to_owned())]);
    assert!(each.expect("events").report.graph.is_none());
    let other = text.replace(
        "name = \"sent\"\n        function = \"f\"\n        when = \"$each\"",
        "function = \"f\"\n        when = \"$each\"",
    );
    let each = read(&other).with_params(&[("each".to_owned(), "true".to_owned())]);
    assert!(each.expect("other events").report.graph.is_none());
}
