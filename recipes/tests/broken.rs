//! `tests/broken`: recipes each of which has one thing wrong. The first line of each says where and what:
//! `# LINE:COLUMN: MESSAGE`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use uprof_recipes::{Error, Source, parse};

/// The name and text of each.
fn recipes() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken");
    let files = fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut all: Vec<(String, String)> = files
        .map(|file| {
            let path = file.expect("an entry of the directory").path();
            let text =
                fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let name = path
                .file_name()
                .expect("a file")
                .to_string_lossy()
                .into_owned();
            (name, text)
        })
        .collect();
    all.sort();
    all
}

/// The one thing that is wrong with a recipe, which is found before anything is asked of any program or kernel.
fn error(name: &str, text: &str) -> Result<Error, String> {
    let errors = parse(Source::new(name, text)).err().unwrap_or_default();
    let [error] = errors.as_slice() else {
        let all: Vec<String> = errors.iter().map(Error::to_string).collect();
        return Err(format!("{name}: not one error: {all:#?}"));
    };
    Ok(error.clone())
}

#[test]
fn each_has_its_own_error_at_its_place() {
    let all = recipes();
    assert!(all.len() >= 100, "{} recipes", all.len());
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (name, text) in all {
        let e = match error(&name, &text) {
            Ok(e) => e,
            Err(what) => {
                wrong.push(what);
                continue;
            }
        };
        let said = format!("# {}:{}: {}", e.line, e.column, e.message);
        let first = text.lines().next().unwrap_or("");
        if said != first {
            wrong.push(format!("{name}\n  {first}\n  {said}"));
        }
        if let Some(other) = seen.insert(e.message.clone(), name.clone()) {
            wrong.push(format!("{name} and {other}: {}", e.message));
        }
        // The place is where the text is, and is shown with it.
        let line = text.lines().nth(e.line - 1).unwrap_or("");
        assert!(e.line > 1 || e.span.start == 0, "{name}: {e}");
        assert!(e.column <= line.chars().count() + 1, "{name}: {e}");
        let shown = e.render(false);
        assert!(
            shown.contains(&format!("{name}:{}:{}", e.line, e.column)),
            "{shown}"
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// With the broken line out, or another recipe's in, there may be errors or none, and no panic.
#[test]
fn pieces_of_them_are_read_too() {
    let all = recipes();
    for (name, text) in &all {
        let lines: Vec<&str> = text.lines().collect();
        for without in 0..lines.len() {
            let mut rest = lines.clone();
            rest.remove(without);
            let text = rest.join("\n");
            for e in parse(Source::new(name.as_str(), text))
                .err()
                .unwrap_or_default()
            {
                assert!(!e.render(true).is_empty());
            }
        }
        for (_, other) in &all {
            let both = format!("{text}\n{other}");
            for e in parse(Source::new(name.as_str(), both))
                .err()
                .unwrap_or_default()
            {
                assert!(e.line >= 1 && e.column >= 1);
            }
        }
    }
}
