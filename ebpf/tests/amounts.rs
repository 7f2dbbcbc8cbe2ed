//! Statistics, linear histograms, keys of bytes and sampling in the real kernel.

mod common;

use std::collections::BTreeMap;
use std::hint::black_box;

use common::*;
use uprof_ebpf::expr::{BinOp, Expr};
use uprof_ebpf::{
    Action, Capture, EngineOptions, KeyPart, KeyValue, LinearData, ProbeKind, ProbeSpec, Returns,
    Scale, StatData, StatsData,
};

#[inline(never)]
extern "C" fn add(a: u64, b: u64) -> u64 {
    black_box(a).wrapping_add(black_box(b))
}

std::arch::global_asm!(
    ".balign 16",
    ".globl amounts_leaf, amounts_leaf_ret",
    "amounts_leaf: push rbp; lea rax, [rdi+rsi]; pop rbp; amounts_leaf_ret: ret",
);

unsafe extern "C" {
    safe fn amounts_leaf(a: u64, b: u64) -> u64;
    safe fn amounts_leaf_ret();
}

fn in_threads(threads: u64, work: impl Fn(u64) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let work = &work;
            scope.spawn(move || work(thread));
        }
    });
}

fn expected(values: &[i64]) -> StatData {
    StatData {
        sum: values.iter().fold(0, |sum: i64, v| sum.wrapping_add(*v)),
        min: *values.iter().min().unwrap(),
        max: *values.iter().max().unwrap(),
    }
}

/// Values that go up and down and over zero, with both ends of what a word holds.
fn some_values() -> Vec<i64> {
    let mut values: Vec<i64> = (0..300).map(|i| (i * 7919) % 613 - 306).collect();
    values.extend([i64::MAX, i64::MIN, 0, -1, i64::MAX - 1]);
    values
}

#[test]
fn statistics_are_exact_in_many_threads() {
    let _alone = alone();
    for (way, options) in ways() {
        let values = vec![arg(0), op(BinOp::Sub, int(0), arg(1))];
        let spec = entry(Action::Stats {
            values,
            key: vec![],
        });
        let mut engine = load(spec, &options);
        assert!(engine.stats(0).unwrap().is_empty(), "{way}");
        attach(&mut engine, add as *const () as usize);
        in_threads(4, |thread| {
            for value in some_values() {
                black_box(add(value as u64, thread));
            }
        });
        engine.detach();
        let all: Vec<i64> = (0..4).flat_map(|_| some_values()).collect();
        let threads: Vec<i64> = (0..4).flat_map(|t| vec![-t; some_values().len()]).collect();
        let wanted = StatsData {
            count: all.len() as u64,
            values: vec![expected(&all), expected(&threads)],
        };
        let got = engine.stats(0).unwrap();
        assert_eq!(got.len(), 1, "{way}");
        assert_eq!(got[0].1, wanted, "{way}");
        let c = engine.counters(0);
        assert_eq!(
            (c.hits, c.aggregated),
            (wanted.count, wanted.count),
            "{way}"
        );
        assert!(engine.histograms(0).unwrap().is_empty(), "{way}");
        assert!(engine.linear(0).unwrap().is_empty(), "{way}");
    }
}

#[test]
fn statistics_by_key_at_the_return() {
    let _alone = alone();
    for (way, options) in ways() {
        let action = Action::Stats {
            values: vec![Expr::Retval, Expr::Latency],
            key: vec![KeyPart::Int(op(BinOp::And, Expr::Saved(0), int(3)))],
        };
        let mut engine = load(call(vec![Capture::Int(arg(0))], action), &options);
        attach(&mut engine, add as *const () as usize);
        in_threads(4, |_| {
            for value in some_values() {
                black_box(add(value as u64, 5));
            }
        });
        engine.detach();
        let mut by_key = BTreeMap::<u64, Vec<i64>>::new();
        for value in (0..4).flat_map(|_| some_values()) {
            let key = value as u64 & 3;
            by_key.entry(key).or_default().push(value.wrapping_add(5));
        }
        let mut seen = 0;
        for (key, data) in engine.stats(0).unwrap() {
            let [KeyValue::Int(key)] = key.values()[..] else {
                panic!("{way}: {key:?}");
            };
            assert_eq!(data.values[0], expected(&by_key[&key]), "{way}: {key}");
            assert_eq!(data.count, by_key[&key].len() as u64, "{way}: {key}");
            let latency = data.values[1];
            assert!(0 < latency.min && latency.min <= latency.max, "{way}");
            seen += 1;
        }
        assert_eq!(seen, by_key.len(), "{way}");
        accounted(way, engine.counters(0));
    }
}

#[test]
fn linear_histograms_put_every_value_in_its_bucket() {
    let _alone = alone();
    for (way, options) in ways() {
        for keyed in [false, true] {
            let key = if keyed {
                vec![KeyPart::Int(pid())]
            } else {
                vec![]
            };
            let scale = Scale::Linear {
                from: -100,
                step: 7,
                buckets: 20,
            };
            let value = arg(0);
            let spec = entry(Action::Histogram { value, key, scale });
            let mut engine = load(spec, &options);
            attach(&mut engine, add as *const () as usize);
            for value in some_values() {
                black_box(add(value as u64, 0));
            }
            engine.detach();
            let all = expected(&some_values());
            let mut wanted = LinearData {
                below: 0,
                above: 0,
                buckets: vec![0; 20],
                sum: all.sum,
                min: all.min,
                max: all.max,
            };
            for value in some_values() {
                match (i128::from(value) + 100).div_euclid(7) {
                    at @ 0..20 => wanted.buckets[at as usize] += 1,
                    at if at < 0 => wanted.below += 1,
                    _ => wanted.above += 1,
                }
            }
            let got = engine.linear(0).unwrap();
            assert_eq!(got.len(), 1, "{way}");
            assert_eq!(got[0].1, wanted, "{way}");
            assert_eq!(wanted.count(), engine.counters(0).aggregated, "{way}");
        }
    }
}

#[test]
fn addresses_are_keys() {
    let _alone = alone();
    let v4: Vec<u8> = black_box(vec![127, 0, 0, 0]);
    let v6: Vec<u8> = black_box((0..16).rev().collect());
    for (way, options) in ways() {
        let key = vec![KeyPart::Buf {
            addr: arg(0),
            len: arg(1),
            limit: 16,
        }];
        let mut engine = load(entry(Action::Count { key }), &options);
        attach(&mut engine, add as *const () as usize);
        for _ in 0..3 {
            add(v4.as_ptr() as u64, 4);
        }
        add(v6.as_ptr() as u64, 16);
        add(v4.as_ptr() as u64, 1);
        add(8, 4);
        engine.detach();
        let mut counts: Vec<_> = engine
            .counts(0)
            .unwrap()
            .iter()
            .map(|(key, count)| (key.values().remove(0), *count))
            .collect();
        counts.sort();
        assert_eq!(
            counts,
            [
                (KeyValue::Bytes(v6.clone()), 1),
                (KeyValue::Bytes(vec![127]), 1),
                (KeyValue::Bytes(v4.clone()), 3),
                (KeyValue::Unreadable, 1),
            ],
            "{way}"
        );
    }
}

/// `k` of `n` hits went on, one in `of`: within six standard deviations (a chance of 2e-9).
fn plausible(way: &str, k: u64, n: u64, of: u64) {
    let (n, p) = (n as f64, 1.0 / of as f64);
    let deviation = (n * p * (1.0 - p)).sqrt();
    let off = (k as f64 - n * p) / deviation;
    assert!(off.abs() < 6.0, "{way}: {k} of {n}, {off} deviations off");
}

/// Where the function begins, and its `ret`.
const LEAF: [fn() -> usize; 2] = [
    || amounts_leaf as *const () as usize,
    || amounts_leaf_ret as *const () as usize,
];

const HITS: u64 = 4000;
const OF: u32 = 4;

fn run_in_turn() {
    // As malloc and free: every other call is of the one kind.
    in_threads(2, |_| {
        for i in 0..HITS / 2 {
            black_box(amounts_leaf(i & 1, 0));
        }
    });
}

#[test]
fn a_sample_keeps_its_share_of_each_kind_of_hit() {
    let _alone = alone();
    for (way, options) in ways() {
        let key = vec![KeyPart::Int(arg(0))];
        let spec = ProbeSpec {
            sample: OF,
            ..entry(Action::Count { key })
        };
        let mut engine = load(spec, &options);
        attach(&mut engine, LEAF[0]());
        run_in_turn();
        engine.detach();
        let c = engine.counters(0);
        assert_eq!(c.hits, HITS, "{way}");
        assert_eq!(c.hits, c.aggregated + c.unsampled, "{way}: {c:?}");
        for (key, count) in engine.counts(0).unwrap() {
            let way = format!("{way}: {:?}", key.values());
            plausible(&way, count, HITS / 2, OF.into());
        }
    }
}

fn sampled_calls(way: &str, options: &EngineOptions, returns: Returns, saved: Vec<Capture>) {
    let mut spec = ProbeSpec {
        sample: OF,
        filter: Some(op(BinOp::Eq, arg(0), int(0))),
        ..call(
            vec![],
            Action::Stats {
                values: vec![Expr::Latency],
                key: vec![],
            },
        )
    };
    spec.kind = ProbeKind::Call {
        saved,
        filter: None,
        returns,
        frame: Default::default(),
    };
    let mut engine = load(spec, options);
    let site = exit_site(LEAF[0](), 0, &[LEAF[1]()]);
    engine.attach(0, &[site], Some(std::process::id())).unwrap();
    run_in_turn();
    engine.detach();
    let c = engine.counters(0);
    assert_eq!((c.hits, c.unpaired), (HITS, 0), "{way}: {c:?}");
    assert_eq!(c.hits, c.aggregated + c.filtered + c.unsampled, "{way}");
    plausible(way, c.aggregated + c.filtered, HITS, OF.into());
    plausible(way, c.aggregated, HITS / 2, OF.into());
    assert_eq!(engine.stats(0).unwrap()[0].1.count, c.aggregated, "{way}");
    assert!(engine.open_calls(0).unwrap().is_empty(), "{way}");
}

#[test]
fn a_sampled_call_is_so_from_its_entry_to_its_return() {
    let _alone = alone();
    for (way, options) in ways() {
        for saved in [vec![], vec![Capture::Int(arg(0))]] {
            sampled_calls(way, &options, Returns::Replaced, saved);
        }
    }
    for (way, options) in exit_ways() {
        for saved in [vec![], vec![Capture::Int(arg(0))]] {
            sampled_calls(way, &options, Returns::Exits, saved);
        }
    }
}
