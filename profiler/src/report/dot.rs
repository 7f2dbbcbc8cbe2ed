//! The graph of a summary in Graphviz' language (<https://graphviz.org/doc/info/lang.html>).

use std::fmt::Write as _;

use super::model::{Graph, Summary};
use super::{escape, units};

/// The widest edge, in points; the thinnest has one.
const WIDEST: f64 = 8.0;

/// Draws the graph, the heaviest edges first; without one an empty graph.
pub(super) fn draw(summary: &Summary) -> String {
    let nothing = Graph {
        name: "uprof".into(),
        weight: "hits".into(),
        edges: Vec::new(),
    };
    let graph = summary.graph.as_ref().unwrap_or(&nothing);
    let mut edges: Vec<_> = graph.edges.iter().collect();
    edges.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| (&a.0, &a.1).cmp(&(&b.0, &b.1))));
    let most = edges.first().map_or(1, |(_, _, weight)| (*weight).max(1));
    let mut out = format!("digraph {} {{\n", quoted(&graph.name));
    out.push_str("  rankdir=LR;\n  node [shape=box];\n");
    for (from, to, weight) in edges {
        let label = match graph.weight.as_str() {
            "hits" => weight.to_string(),
            unit => units::quantity(*weight as f64, unit),
        };
        let width = 1.0 + (WIDEST - 1.0) * *weight as f64 / most as f64;
        let _ = writeln!(
            out,
            "  {} -> {} [label={}, penwidth={width:.2}];",
            quoted(from),
            quoted(to),
            quoted(&label)
        );
    }
    out.push_str("}\n");
    out
}

/// A name in quotes. A backslash would begin an escape where a name becomes a label, so it is doubled.
fn quoted(name: &str) -> String {
    let mut text = String::new();
    escape::text(&mut text, name.as_bytes());
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{an_event, written};
    use super::super::{Format, TermInfo};
    use super::*;

    /// The tokens of a text in DOT: names in quotes as what they mean, with a `'` in front.
    fn tokens(text: &str) -> Vec<String> {
        let mut tokens = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '"' => {
                    let mut name = "'".to_owned();
                    loop {
                        match rest.next().expect("a name ends") {
                            '"' => break,
                            '\\' => match rest.next().expect("an escape ends") {
                                c @ ('"' | '\\') => name.push(c),
                                c => panic!("\\{c} in {text}"),
                            },
                            c => name.push(c),
                        }
                    }
                    tokens.push(name);
                }
                '-' => {
                    assert_eq!(rest.next(), Some('>'), "{text}");
                    tokens.push("->".into());
                }
                c if c.is_ascii_alphanumeric() => {
                    let mut word = c.to_string();
                    while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '.') {
                        word.push(c);
                    }
                    tokens.push(word);
                }
                c if c.is_whitespace() => {}
                c if "{}[]=,;".contains(c) => tokens.push(c.into()),
                c => panic!("{c:?} in {text}"),
            }
        }
        tokens
    }

    /// The name and the edges of a graph: from, to, label, width. Fails on what the grammar does not have.
    fn read(text: &str) -> (String, Vec<[String; 4]>) {
        let tokens = tokens(text);
        let mut rest = tokens.as_slice();
        let mut take = |n: usize| {
            let (taken, left) = rest.split_at(n);
            rest = left;
            taken.to_vec()
        };
        let head = take(3);
        assert_eq!((head[0].as_str(), head[2].as_str()), ("digraph", "{"));
        let about = ["rankdir", "=", "LR", ";", "node", "[", "shape", "=", "box"];
        assert_eq!(take(about.len()), about);
        assert_eq!(take(2), ["]", ";"]);
        let mut edges = Vec::new();
        loop {
            let from = take(1).remove(0);
            if from == "}" {
                break;
            }
            let edge = take(12);
            let fixed = [0, 2, 3, 4, 6, 7, 8, 10, 11].map(|at| edge[at].as_str());
            let words = ["->", "[", "label", "=", ",", "penwidth", "=", "]", ";"];
            assert_eq!(fixed, words);
            edges.push([from, edge[1].clone(), edge[5].clone(), edge[9].clone()]);
        }
        assert!(rest.is_empty(), "{text}");
        (head[1].clone(), edges)
    }

    #[test]
    fn names_and_weights_come_back_whatever_they_are() {
        let edge = |from: &str, to: &str, weight| (from.to_owned(), to.to_owned(), weight);
        let mut graph = Graph {
            name: "who \"talks\"".into(),
            weight: "bytes".into(),
            edges: vec![
                edge("nginx", "[::1]:80", 1024),
                edge("a\\N\"; evil [", "b\n{", 2048),
                edge("東京", "", 0),
            ],
        };
        let drawn = |graph: &Graph| {
            let summary = Summary {
                graph: Some(graph.clone()),
                ..Summary::default()
            };
            let page = written(Format::Dot, TermInfo::plain(), |out| {
                out.event(&an_event())?;
                out.live(&summary)?;
                out.finish(&summary)
            });
            read(&page)
        };
        let (name, edges) = drawn(&graph);
        assert_eq!(name, "'who \"talks\"");
        assert_eq!(
            edges,
            [
                ["'a\\N\"; evil [", "'b\\n{", "'2 KiB", "8.00"],
                ["'nginx", "'[::1]:80", "'1 KiB", "4.50"],
                ["'東京", "'", "'0 B", "1.00"]
            ]
        );
        graph.weight = "hits".into();
        assert_eq!(drawn(&graph).1[1][2], "'1024");
        graph.edges.clear();
        assert_eq!(drawn(&graph).1.len(), 0);
        assert_eq!(read(&draw(&Summary::default())).1.len(), 0);
    }
}
