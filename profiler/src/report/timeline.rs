//! The steps of an event, as lines under its row: when, seen from the event; what; and on which thread.

use unicode_width::UnicodeWidthStr;

use super::model::{Event, Step};
use super::{escape, units};

/// The lines, none for an event without steps.
pub(super) fn lines(event: &Event) -> impl Iterator<Item = String> {
    let whats = event.steps.iter().map(|step| {
        let mut what = String::new();
        escape::text(&mut what, step.what.as_bytes());
        what
    });
    let whats: Vec<String> = whats.collect();
    let width = whats.iter().map(|what| what.width()).max().unwrap_or(0);
    whats
        .into_iter()
        .zip(&event.steps)
        .map(move |(what, step)| {
            let gap = " ".repeat(width - what.width());
            let when = moment(step.time_ns, event.time_ns);
            format!("    {when:>10}  {what}{gap}  {}", runner(step))
        })
}

/// How long before or after the event: `-200 us`, `0`, `+3.00 us`.
fn moment(step_ns: u64, event_ns: u64) -> String {
    let distance = || units::duration_aligned(step_ns.abs_diff(event_ns) as f64);
    match step_ns.cmp(&event_ns) {
        std::cmp::Ordering::Less => format!("-{}", distance()),
        std::cmp::Ordering::Equal => "0   ".to_owned(),
        std::cmp::Ordering::Greater => format!("+{}", distance()),
    }
}

/// On which thread; in an interrupt it would be anybody's.
fn runner(step: &Step) -> String {
    if step.softirq {
        return "softirq".to_owned();
    }
    let mut name = String::new();
    escape::text(&mut name, step.comm.as_bytes());
    format!("{name} {}", step.tid)
}
