//! Stacks with their weights, a line each: `outermost;...;innermost COUNT`, as `flamegraph.pl`, speedscope and inferno
//! read them (<https://github.com/brendangregg/FlameGraph>, "stackcollapse").

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::grid::Key;
use super::model::{Summary, Value};
use super::{escape, values};

/// The lines of all counts, sums and histograms with a stack in their key: other parts of the key stand in front as
/// frames, and before them the probe where there are several. Sums weigh by their first value where its sum is shown,
/// all else by hits; what weighs nothing is left out, for a flame has no negative width.
pub(super) fn draw(summary: &Summary) -> String {
    let counts = summary.counts.iter();
    let counts = counts.map(|c| (c.probe.as_str(), c.key.as_slice(), c.count));
    let stats = summary.stats.iter();
    // Whole numbers, since not all readers know others.
    let stats = stats.map(|s| {
        (
            s.probe.as_str(),
            s.key.as_slice(),
            s.weight().round() as u64,
        )
    });
    let histograms = summary.histograms.iter();
    let histograms = histograms.map(|h| (h.name.as_str(), h.key.as_slice(), h.count));
    let linear = summary.linear.iter();
    let linear = linear.map(|h| (h.name.as_str(), h.key.as_slice(), h.count));
    let all = || {
        let all = counts.clone().chain(stats.clone());
        all.chain(histograms.clone()).chain(linear.clone())
    };
    let is_stack = |value: &Value| matches!(value, Value::Stack(_));
    // By name: a stack that could not be taken is no stack, yet belongs to the picture.
    let parts: BTreeSet<(&str, &str)> = all()
        .flat_map(|(name, key, _)| key.iter().map(move |(part, value)| (name, part, value)))
        .filter(|(_, _, value)| is_stack(value))
        .map(|(name, part, _)| (name, part.as_str()))
        .collect();
    let names: BTreeSet<&str> = parts.iter().map(|(name, _)| *name).collect();
    let mut out = String::new();
    for (name, key, weight) in all().filter(|(name, _, n)| *n > 0 && names.contains(name)) {
        let mut frames = Vec::new();
        if names.len() > 1 {
            frames.push(frame(name));
        }
        line(&mut frames, key, |part| parts.contains(&(name, part)));
        let _ = writeln!(out, "{} {weight}", frames.join(";"));
    }
    out
}

/// The frames of a key: plain parts first, then the stacks in the key's order, but that of the kernel last, since it
/// runs on top of the program.
fn line(frames: &mut Vec<String>, key: &Key, is_stack: impl Fn(&str) -> bool) {
    let (mut stacks, plain): (Vec<_>, Vec<_>) = key.iter().partition(|(part, _)| is_stack(part));
    stacks.sort_by_key(|(part, _)| part == "kstack");
    for (_, value) in plain.into_iter().chain(stacks) {
        match value {
            Value::Stack(stack) => frames.extend(stack.iter().rev().map(|f| frame(f))),
            other => {
                let mut text = String::new();
                values::show(&mut text, other);
                frames.push(frame(&text));
            }
        }
    }
}

/// A frame's name without what ends a frame.
fn frame(name: &str) -> String {
    let mut text = String::new();
    escape::text(&mut text, name.as_bytes());
    text.replace(';', ":")
}

#[cfg(test)]
mod tests {
    use super::super::model::{Count, StatRow, StatValue};
    use super::super::tests::{a_stack, a_summary, an_event, written};
    use super::super::{Format, TermInfo};
    use super::*;
    use uprof_recipes::StatKind;

    fn key(comm: &str, stacks: [Value; 2]) -> Vec<(String, Value)> {
        let [kernel, user] = stacks;
        vec![
            ("kstack".into(), kernel),
            ("comm".into(), Value::Name(comm.into())),
            ("ustack".into(), user),
        ]
    }

    fn sends() -> Vec<Count> {
        let kernel = a_stack(&["tcp_sendmsg+0x1b", "sock_sendmsg"]);
        let count = |key, count| Count {
            probe: "send".into(),
            key,
            count,
        };
        vec![
            count(
                key(
                    "King",
                    [kernel.clone(), a_stack(&["put;it (a.out)", "main"])],
                ),
                3,
            ),
            count(key("Que\nen", [kernel, Value::Missing("unreadable")]), 2),
            count(key("King", [a_stack(&[]), a_stack(&["main"])]), 0),
        ]
    }

    #[test]
    fn frames_stand_outermost_first_and_the_kernel_on_top() {
        let mut summary = a_summary();
        summary.counts.extend(sends());
        let page = written(Format::Folded, TermInfo::plain(), |out| {
            out.start(&[])?;
            out.event(&an_event())?;
            out.live(&summary)?;
            out.finish(&summary)
        });
        assert_eq!(
            page,
            "\
King;main;put:it (a.out);sock_sendmsg;tcp_sendmsg+0x1b 3
Que\\nen;(unreadable);sock_sendmsg;tcp_sendmsg+0x1b 2
"
        );
    }

    #[test]
    fn sums_weigh_by_their_first_value_and_several_probes_are_named() {
        let stats = |sum: f64, shown| StatRow {
            probe: "off".into(),
            key: vec![("ustack".into(), a_stack(&["wait", "main"]))],
            count: 7,
            values: vec![StatValue {
                name: "time".into(),
                unit: "ns".into(),
                shown: vec![(shown, sum)],
            }],
        };
        let mut histogram = a_summary().histograms.remove(0);
        histogram.key = vec![("ustack".into(), a_stack(&["malloc"]))];
        let summary = Summary {
            stats: vec![
                stats(1e9, StatKind::Sum),
                stats(50.0, StatKind::Avg),
                stats(-3.0, StatKind::Sum),
            ],
            histograms: vec![histogram],
            ..Summary::default()
        };
        assert_eq!(
            draw(&summary),
            "off;main;wait 1000000000\noff;main;wait 7\nsize;malloc 1000\n"
        );
        assert_eq!(draw(&a_summary()), "");
    }
}
