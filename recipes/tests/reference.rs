//! Every example of the language reference is what it says: it parses.

mod mock;

use uprof_recipes::{Scope, Source, parse, parse_expr};

const REFERENCE: &str = include_str!("../../docs/recipes.md");

/// The fenced blocks of a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    REFERENCE
        .split(fence.as_str())
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or(""))
        .collect()
}

#[test]
fn recipes_parse() {
    let all = blocks("toml");
    assert!(all.len() >= 9, "{} examples", all.len());
    for text in all {
        let recipe = parse(Source::new("docs/recipes.md", text));
        let errors = recipe.err().unwrap_or_default();
        assert!(
            errors.is_empty(),
            "{text}\n{}",
            errors
                .iter()
                .map(|e| e.render(false))
                .collect::<Vec<_>>()
                .join("\n")
        );
    }
}

#[test]
fn expressions_parse() {
    let lines: Vec<&str> = blocks("expr").into_iter().flat_map(str::lines).collect();
    assert!(lines.len() >= 25, "{} examples", lines.len());
    for line in lines {
        let text = line.split("//").next().unwrap_or("").trim();
        // Names from debug information are those of the tests' own world.
        let parsed = parse_expr(&Source::new("docs/recipes.md", text), &Scope::call());
        if let Err(e) = parsed.and_then(|e| e.bind(&mock::World::new())) {
            panic!("{}", e.render(false));
        }
    }
}

/// The message shown in the introduction is the one that comes.
#[test]
fn the_shown_error_is_real() {
    let text = "[[probe]]\nfunction = \"f\"\nwhere = \"retval == 0\"\n";
    let errors = parse(Source::new("sizes.toml", text)).expect_err("no return at the entry");
    let shown: Vec<String> = errors[0]
        .render(false)
        .lines()
        .map(|l| format!("    {l}").trim_end().to_owned())
        .collect();
    assert!(
        REFERENCE.contains(&shown.join("\n")),
        "{}",
        shown.join("\n")
    );
}

/// Every key that the checker knows is in the reference.
#[test]
fn every_key_is_documented() {
    let text = "x = 1\n[recipe]\nx = 1\n[target]\nx = 1\n[frame]\nx = 1\n[params]\na = { type = \"int\", x = 1 }\n[report]\nx = 1\n[[probe]]\nfunction = \"f\"\nxxxxxxxxxxxx = 1\n";
    let errors = parse(Source::new("keys", text)).expect_err("unknown keys");
    let mut keys = 0;
    for e in &errors {
        let help = e.help.as_deref().unwrap_or("");
        let Some(known) = help.strip_prefix("known: ") else {
            continue;
        };
        for key in known.split(", ") {
            keys += 1;
            let found =
                REFERENCE.contains(&format!("`{key}`")) || REFERENCE.contains(&format!("[{key}"));
            assert!(found, "`{key}` is not in docs/recipes.md");
        }
    }
    assert!(keys >= 25, "{keys} keys");
}
