//! Bar charts of distributions.

use std::fmt::Write as _;

use super::model::{Histogram, Linear};
use super::summary::Style;
use super::units;

/// Rows of one bar chart, where buckets are of powers of two.
const MOST_BARS: usize = 20;
/// Rows of one bar chart, where the recipe says how wide a bucket is.
const MOST_STEPS: usize = 50;
const BAR_WIDTH: usize = 40;

/// One row of a bar chart: values from `low` up to, not including, `high`; without one it is open at that end.
#[derive(Debug, PartialEq)]
struct Bar {
    low: Option<f64>,
    high: Option<f64>,
    count: u64,
}

/// Draws a histogram.
pub(super) fn log(out: &mut String, h: &Histogram, style: &Style) {
    draw(out, &collapse(h), &h.unit, style);
}

/// Draws a histogram in steps of one width, with what lies outside.
pub(super) fn linear(out: &mut String, h: &Linear, style: &Style) {
    draw(out, &steps(h), &h.unit, style);
}

/// Collapses the buckets to powers of two, and further when they span too many.
fn collapse(h: &Histogram) -> Vec<Bar> {
    // 0, then 1, 2-3, 4-7 ...: row k holds [2^(k-1), 2^k).
    let row_of = |value: u64| (u64::BITS - value.leading_zeros()) as usize;
    let filled = || h.buckets.iter().filter(|b| b.count > 0);
    let (Some(first), Some(last)) = (
        filled().map(|b| row_of(b.low)).min(),
        filled().map(|b| row_of(b.low)).max(),
    ) else {
        return Vec::new();
    };
    let step = (last - first + 1).div_ceil(MOST_BARS);
    let bound = |row: usize| {
        Some(if row == 0 {
            0.0
        } else {
            2f64.powi(row as i32 - 1)
        })
    };
    let mut bars: Vec<Bar> = (first..=last)
        .step_by(step)
        .map(|row| Bar {
            low: bound(row),
            high: bound(row + step),
            count: 0,
        })
        .collect();
    for bucket in filled() {
        bars[(row_of(bucket.low) - first) / step].count += bucket.count;
    }
    bars
}

/// The steps, several to a bar when they are too many, and what is below and above them.
fn steps(h: &Linear) -> Vec<Bar> {
    let outside = |low, high, count| Bar { low, high, count };
    let mut bars = Vec::new();
    if h.below > 0 {
        bars.push(outside(None, Some(h.from as f64), h.below));
    }
    let together = h.buckets.len().div_ceil(MOST_STEPS).max(1);
    for chunk in h.buckets.chunks(together) {
        let low = chunk[0].0 as f64;
        bars.push(Bar {
            low: Some(low),
            high: Some(low + h.step as f64 * chunk.len() as f64),
            count: chunk.iter().map(|(_, count)| count).sum(),
        });
    }
    if h.above > 0 {
        bars.push(outside(Some(h.to as f64), None, h.above));
    }
    bars
}

fn draw(out: &mut String, bars: &[Bar], unit: &str, style: &Style) {
    let most = bars.iter().map(|b| b.count).max().unwrap_or(0).max(1);
    let total: u64 = bars.iter().map(|b| b.count).sum();
    let unit = if unit == "ns" || unit == "bytes" {
        unit
    } else {
        ""
    };
    let label = |bound: Option<f64>| match bound {
        Some(value) => units::quantity_aligned(value, unit),
        None => "...".to_owned(),
    };
    let bounds: Vec<(String, String)> =
        bars.iter().map(|b| (label(b.low), label(b.high))).collect();
    let low_width = bounds.iter().map(|(low, _)| low.len()).max().unwrap_or(0);
    let high_width = bounds.iter().map(|(_, high)| high.len()).max().unwrap_or(0);
    let count_width = most.to_string().len();
    // What stands before the bar: brackets, comma and gaps, and a share of up to `100.0 %`.
    let before = low_width + high_width + count_width + 19;
    let room = style.width.map_or(BAR_WIDTH, |width| {
        width.saturating_sub(before).clamp(8, BAR_WIDTH)
    });
    for (bar, (low, high)) in bars.iter().zip(&bounds) {
        let share = units::share(bar.count as f64 / total.max(1) as f64);
        let drawn = draw_bar(bar.count as f64 / most as f64, room);
        let line = format!(
            "  [{low:>low_width$}, {high:>high_width$})  {:>count_width$}  {share:>7}  {drawn}",
            bar.count
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// A bar of `part` of `room`, in eighths of a character; never nothing for something.
pub(super) fn draw_bar(part: f64, room: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (part * (room * 8) as f64).round() as usize;
    let eighths = if part > 0.0 { eighths.max(1) } else { 0 };
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

#[cfg(test)]
mod tests {
    use super::super::model::Bucket;
    use super::super::tests::{a_linear, a_summary};
    use super::*;

    #[test]
    fn bars_fit_a_terminal() {
        let style = Style {
            width: Some(60),
            ..Style::file()
        };
        let mut out = String::new();
        log(&mut out, &a_summary().histograms[0], &style);
        let widest = out.lines().map(unicode_width::UnicodeWidthStr::width).max();
        assert_eq!(widest, Some(60));
    }

    #[test]
    fn bars_hold_every_value_whatever_the_span() {
        let mut h = a_summary().histograms.remove(0);
        h.buckets = [0, 1, 2, 3, 1000, 1 << 40, u64::MAX]
            .map(|v| Bucket {
                low: v,
                high: v,
                count: 1,
            })
            .to_vec();
        let bars = collapse(&h);
        assert!(bars.len() <= MOST_BARS);
        assert_eq!(bars.iter().map(|b| b.count).sum::<u64>(), 7);
        assert!(bars.windows(2).all(|w| w[0].high == w[1].low));
        h.buckets.clear();
        assert!(collapse(&h).is_empty());
    }

    #[test]
    fn steps_hold_every_value_however_many_there_are() {
        let mut h = a_linear();
        h.buckets = (0..1001).map(|n| (n * 10, 3)).collect();
        h.to = 20_000;
        let bars = steps(&h);
        assert_eq!(bars.len(), 48 + 2, "21 steps to a bar");
        let total = 1001 * 3 + h.below + h.above;
        assert_eq!(bars.iter().map(|b| b.count).sum::<u64>(), total);
        assert_eq!((bars[0].low, bars[0].high), (None, Some(-20.0)));
        assert_eq!((bars[49].low, bars[49].high), (Some(20_000.0), None));
        assert!(bars[1..49].windows(2).all(|w| w[0].high == w[1].low));
        assert_eq!(bars[48].high, Some(10_010.0));
        h.buckets.clear();
        (h.below, h.above) = (0, 0);
        assert_eq!(steps(&h), []);
    }
}
