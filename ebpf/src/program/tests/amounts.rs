//! Statistics, linear histograms, keys of bytes, sampling.

use super::*;
use crate::key::{KeyBytes, KeyValue};
use crate::spec::{FrameName, Scale};
use crate::stats::{StatData, StatsData};
use crate::{LinearData, On};
use std::sync::Arc;

/// The words of what each shard, or each key, has.
fn values(b: &Bench) -> Vec<(Vec<u8>, Vec<u64>)> {
    let words = table_value(&b.spec.action) as usize / 8;
    let state = &b.target.state;
    if let Some(at) = state.blocks[0].unkeyed {
        let shard = |s: u32| (state.first_shard + s * state.stride + at) as usize / 8;
        return (0..state.shards)
            .map(|s| (vec![], b.machine.state[shard(s)..][..words].to_vec()))
            .collect();
    }
    b.machine.kernel(|k| {
        let copy = |at: u64| {
            // SAFETY: the value lies in the machine's arena.
            unsafe { std::slice::from_raw_parts(at as *const u64, words) }.to_vec()
        };
        let entries = k.table.entries.iter();
        entries.map(|(key, at)| (key.clone(), copy(*at))).collect()
    })
}

fn all_stats(b: &Bench) -> Option<StatsData> {
    let Action::Stats { values: list, .. } = &b.spec.action else {
        panic!("no statistics");
    };
    values(b)
        .iter()
        .filter_map(|(_, words)| StatsData::decode(list.len(), |at| words[at]))
        .reduce(|mut sum, one| {
            sum.merge(&one);
            sum
        })
}

fn all_linear(b: &Bench, buckets: u32) -> Option<LinearData> {
    values(b)
        .iter()
        .filter_map(|(_, words)| LinearData::decode(buckets, |at| words[at]))
        .reduce(|mut sum, one| {
            sum.merge(&one);
            sum
        })
}

/// What it should be.
fn expected(values: &[i64]) -> StatData {
    StatData {
        sum: values.iter().fold(0, |sum: i64, v| sum.wrapping_add(*v)),
        min: *values.iter().min().unwrap(),
        max: *values.iter().max().unwrap(),
    }
}

fn signed() -> impl Strategy<Value = i64> {
    prop_oneof![
        any::<i64>(),
        -5i64..5,
        prop::sample::select(vec![i64::MIN, i64::MAX])
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn statistics_have_sum_and_extremes_of_signed_values(
        hits in prop::collection::vec((signed(), signed(), 0u64..4), 1..12),
        atomics: bool,
        keyed: bool,
    ) {
        let key = if keyed { vec![KeyPart::Comm] } else { vec![] };
        let action = Action::Stats { values: vec![Expr::Arg(0), Expr::Arg(1)], key };
        let mut b = Bench::new(spec(ProbeKind::Entry, action), atomics);
        prop_assert_eq!(all_stats(&b), None);
        for (first, second, cpu) in &hits {
            b.machine.kernel(|k| k.cpu = *cpu);
            b.hit(&[*first as u64, *second as u64]);
        }
        let first: Vec<i64> = hits.iter().map(|h| h.0).collect();
        let second: Vec<i64> = hits.iter().map(|h| h.1).collect();
        let count = hits.len() as u64;
        let wanted = StatsData { count, values: vec![expected(&first), expected(&second)] };
        prop_assert_eq!(all_stats(&b), Some(wanted));
        prop_assert_eq!(b.counters(), [count, 0, count, 0, 0]);
    }

    #[test]
    fn linear_histograms_count_every_signed_value_once(
        values in prop::collection::vec(signed(), 1..12),
        from in signed(),
        step in prop_oneof![1u64..4, any::<u64>().prop_map(|s| s.max(1))],
        buckets in 1u32..6,
        atomics: bool,
        keyed: bool,
    ) {
        let key = if keyed { vec![KeyPart::Comm] } else { vec![] };
        let scale = Scale::Linear { from, step, buckets };
        let action = Action::Histogram { value: Expr::Arg(0), key, scale };
        let mut b = Bench::new(spec(ProbeKind::Entry, action), atomics);
        prop_assert_eq!(all_linear(&b, buckets), None);
        let all = expected(&values);
        let mut wanted = LinearData {
            below: 0,
            above: 0,
            buckets: vec![0; buckets as usize],
            sum: all.sum,
            min: all.min,
            max: all.max,
        };
        for (i, v) in values.iter().enumerate() {
            b.machine.kernel(|k| k.cpu = i as u64 % 4);
            b.hit(&[*v as u64]);
            let at = (i128::from(*v) - i128::from(from)).div_euclid(i128::from(step));
            match usize::try_from(at) {
                Err(_) if at < 0 => wanted.below += 1,
                Ok(at) if at < wanted.buckets.len() => wanted.buckets[at] += 1,
                _ => wanted.above += 1,
            }
        }
        prop_assert_eq!(all_linear(&b, buckets), Some(wanted));
    }
}

#[test]
fn an_unreadable_value_of_several_filters_the_hit_and_adds_nothing() {
    let action = Action::Stats {
        values: vec![Expr::Arg(0), unreadable()],
        key: vec![],
    };
    let mut b = Bench::new(spec(ProbeKind::Entry, action), true);
    b.hit(&[5]);
    assert_eq!(all_stats(&b), None);
    assert_eq!(b.counters(), [1, 0, 0, 1, 0]);
    assert_eq!(b.counter(Counter::Unreadable), 1);
}

#[test]
fn statistics_of_a_call_by_key_fill_up() {
    let action = Action::Stats {
        values: vec![Expr::Latency, Expr::Saved(0)],
        key: vec![KeyPart::Int(Expr::Saved(0))],
    };
    let saved = vec![Capture::Int(Expr::Arg(0))];
    let mut b = Bench::new(spec(call(saved), action), true);
    for i in 0..6 {
        b.hit(&[i]);
        b.machine.kernel(|k| k.now += 10 + i);
        b.returns(0);
    }
    assert_eq!(b.counters(), [6, 0, 4, 0, 2]);
    let mut seen: Vec<_> = values(&b)
        .iter()
        .filter_map(|(_, words)| StatsData::decode(2, |at| words[at]))
        .map(|s| (s.count, s.values[0].sum, s.values[1].max))
        .collect();
    seen.sort();
    assert_eq!(seen, [(1, 10, 0), (1, 11, 1), (1, 12, 2), (1, 13, 3)]);
}

#[test]
fn impossible_amounts_are_refused() {
    let refuse = |action| {
        let s = spec(ProbeKind::Entry, action);
        let target = target(&s, true);
        let site = SiteSource::Constant(0);
        compile(0, &s, Part::Entry, site, &target)
            .unwrap_err()
            .to_string()
    };
    let linear = |step, buckets| Action::Histogram {
        value: Expr::Arg(0),
        key: vec![],
        scale: Scale::Linear {
            from: 0,
            step,
            buckets,
        },
    };
    assert!(refuse(linear(0, 3)).contains("width is 0"));
    assert!(refuse(linear(1, 0)).contains("0 buckets, not 1 to 1000"));
    assert!(refuse(linear(1, 1001)).contains("1001 buckets, not 1 to 1000"));
    let stats = |n| Action::Stats {
        values: vec![Expr::Arg(0); n],
        key: vec![],
    };
    assert!(refuse(stats(0)).contains("there are 0, not 1 to 16"));
    assert!(refuse(stats(17)).contains("there are 17, not 1 to 16"));
}

#[test]
fn bytes_are_keys_with_their_length() {
    let key = vec![
        KeyPart::Buf {
            addr: Expr::Arg(0),
            len: Expr::Arg(1),
            limit: 6,
        },
        KeyPart::Int(Expr::Const(9)),
    ];
    let layout = Arc::new(KeyLayout::new(&key));
    let mut b = Bench::new(spec(ProbeKind::Entry, Action::Count { key }), true);
    b.machine.kernel(|k| {
        k.user.push((0x20_0000, vec![10, 0, 0, 0, 0, 0, 0, 0]));
        k.table.most = 8;
    });
    // An address that ends with zeros is not a shorter one.
    for (addr, len) in [
        (0x20_0000, 4),
        (0x20_0000, 4),
        (0x20_0000, 1),
        (0x20_0000, 7),
        (0x20_0000, u64::MAX),
        (8, 4),
        (TEXT, 0),
    ] {
        b.hit(&[addr, len]);
    }
    let mut seen: Vec<_> = values(&b)
        .iter()
        .map(|(key, words)| {
            let values = KeyBytes::new(key.clone(), layout.clone()).values();
            assert_eq!(values[1], KeyValue::Int(9));
            (values[0].clone(), words[0])
        })
        .collect();
    seen.sort();
    let bytes = |text: &[u8]| KeyValue::Bytes(text.to_vec());
    assert_eq!(
        seen,
        [
            (bytes(&[]), 1),
            (bytes(&[10]), 1),
            (bytes(&[10, 0, 0, 0]), 2),
            (bytes(&[10, 0, 0, 0, 0, 0]), 2),
            (KeyValue::Unreadable, 1),
        ]
    );
    assert_eq!(b.counters(), [7, 0, 7, 0, 0]);
}

fn sampled(kind: ProbeKind, action: Action) -> ProbeSpec {
    ProbeSpec {
        sample: 10,
        ..spec(kind, action)
    }
}

#[test]
fn hits_that_are_left_out_are_told() {
    let count = Action::Count { key: vec![] };
    let mut b = Bench::new(sampled(ProbeKind::Entry, count), true);
    for random in 0..25 {
        b.machine.kernel(|k| k.random = random);
        b.hit(&[]);
    }
    assert_eq!(b.counters(), [25, 0, 3, 0, 0]);
    assert_eq!(b.counter(Counter::Unsampled), 22);
}

#[test]
fn the_return_of_a_call_that_was_left_out_counts_as_nothing() {
    for name in [FrameName::Stack, FrameName::Running] {
        let kind = ProbeKind::Call {
            saved: vec![],
            filter: None,
            returns: Default::default(),
            frame: name,
        };
        let latency = || Action::Histogram {
            value: Expr::Latency,
            key: vec![],
            scale: Scale::Log,
        };
        let mut b = Bench::new(sampled(kind, latency()), true);
        // One that is left by longjmp: what it left behind must not meet another's return.
        b.hit(&[]);
        b.machine.kernel(|k| k.random = 1);
        b.hit(&[]);
        b.returns(0);
        assert_eq!(b.counters(), [2, 0, 0, 0, 0]);
        assert_eq!(b.counter(Counter::Unsampled), 1);
        assert_eq!(b.counter(Counter::Abandoned), 1);
        b.machine.kernel(|k| k.random = 20);
        b.hit(&[]);
        b.returns(0);
        assert_eq!(b.counters(), [3, 0, 1, 0, 0]);
    }
}

#[test]
fn a_session_skips_the_return_of_a_call_that_was_left_out() {
    let latency = Action::Histogram {
        value: Expr::Latency,
        key: vec![],
        scale: Scale::Log,
    };
    let mut b = Bench::new(sampled(call(vec![]), latency), true);
    b.machine.kernel(|k| k.random = 9);
    assert_eq!(b.part(Part::Session, regs(&[])), 1);
    b.machine.kernel(|k| k.random = 10);
    assert_eq!(b.part(Part::Session, regs(&[])), 0);
    b.machine.kernel(|k| k.is_return = true);
    b.part(Part::Session, regs(&[]));
    assert_eq!(b.counters(), [2, 0, 1, 0, 0]);
    assert_eq!(b.counter(Counter::Unsampled), 1);
}

#[test]
fn what_runs_cannot_be_sampled() {
    let runs = Action::Running {
        value: Expr::Arg(0),
    };
    let s = ProbeSpec {
        on: On::Program,
        ..sampled(call(vec![]), runs)
    };
    let target = target(&s, true);
    let refused = compile(0, &s, Part::Entry, SiteSource::Constant(0), &target).unwrap_err();
    assert!(refused.to_string().contains("sampling"), "{refused}");
}
