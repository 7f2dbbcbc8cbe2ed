//! The differences that are known and explained: `differences.toml`.

use std::cell::Cell;

use regex_lite::Regex;
use toml::{Table, Value};

/// What is explained about one comparison.
pub struct Differences {
    what: String,
    known: Vec<Known>,
}

struct Known {
    files: Regex,
    text: Regex,
    at_most: usize,
    seen: std::sync::Mutex<Cell<usize>>,
    reason: String,
}

impl Differences {
    /// Those of one comparison ("names", "addresses").
    pub fn read(what: &str) -> Self {
        let table: Table = include_str!("differences.toml")
            .parse()
            .expect("differences.toml");
        let rows = table
            .get(what)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let known = rows.iter().map(|row| {
            let text = |key: &str| {
                let value = row.get(key).and_then(Value::as_str);
                value
                    .unwrap_or_else(|| panic!("differences.toml: no `{key}` in {row:?}"))
                    .to_owned()
            };
            let pattern =
                |key: &str| Regex::new(&text(key)).unwrap_or_else(|e| panic!("{key}: {e}"));
            let at_most = row.get("at_most").and_then(Value::as_integer);
            Known {
                files: pattern("files"),
                text: pattern("text"),
                at_most: at_most
                    .and_then(|number| usize::try_from(number).ok())
                    .unwrap_or_else(|| panic!("differences.toml: no `at_most` in {row:?}")),
                seen: std::sync::Mutex::default(),
                reason: text("reason"),
            }
        });
        Self {
            what: what.to_owned(),
            known: known.collect(),
        }
    }

    /// How many of these are explained, and those that are not.
    pub fn sort<'a>(&self, file: &str, differing: &'a [String]) -> (usize, Vec<&'a str>) {
        let mut unexplained = Vec::new();
        for text in differing {
            let explains = |known: &&Known| {
                known.files.is_match(file)
                    && known.text.is_match(text)
                    && known.seen() < known.at_most
            };
            match self.known.iter().find(explains) {
                Some(known) => known.count(),
                None => unexplained.push(text.as_str()),
            }
        }
        (differing.len() - unexplained.len(), unexplained)
    }

    /// Explanations that explain nothing any more.
    pub fn unused(&self) -> Vec<String> {
        let unused = self.known.iter().filter(|known| known.seen() == 0);
        unused
            .map(|known| {
                format!(
                    "differences.toml, {}: this no longer occurs: {}",
                    self.what, known.reason
                )
            })
            .collect()
    }
}

impl Known {
    fn seen(&self) -> usize {
        self.seen.lock().map_or(0, |seen| seen.get())
    }

    fn count(&self) {
        if let Ok(seen) = self.seen.lock() {
            seen.set(seen.get() + 1);
        }
    }
}
