//! Each program shape in the real kernel, by each mechanism, on functions of this binary.

mod common;

use std::ffi::c_char;
use std::hint::black_box;

use common::*;
use uprof_ebpf::expr::{BinOp, BytesSource, Expr};
use uprof_ebpf::{
    Action, Capture, Engine, EngineOptions, KeyPart, KeyValue, Mechanism, ProbeKind, hist,
};

#[inline(never)]
extern "C" fn add(a: u64, b: u64) -> u64 {
    black_box(a).wrapping_add(black_box(b))
}

#[inline(never)]
extern "C" fn other(a: u64, b: u64) -> u64 {
    black_box(a) ^ black_box(b)
}

#[inline(never)]
extern "C" fn takes_text(text: *const c_char, len: u64) -> u64 {
    black_box(text) as u64 ^ black_box(len)
}

#[inline(never)]
extern "C" fn fib(n: u64) -> u64 {
    if n < 2 {
        return black_box(n);
    }
    fib(black_box(n - 1)) + fib(black_box(n - 2))
}

fn run_add(times: u64) {
    for i in 0..times {
        black_box(add(black_box(i), 7));
    }
}

fn addr_of(function: extern "C" fn(u64, u64) -> u64) -> usize {
    function as usize
}

fn in_threads(threads: u64, work: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(&work);
        }
    });
}

#[test]
fn an_entry_count_is_exact_with_one_thread_and_eight() {
    let _alone = alone();
    for (way, options) in ways() {
        for threads in [1, 8] {
            let mut engine = load(entry(Action::Count { key: vec![] }), &options);
            attach(&mut engine, addr_of(add));
            in_threads(threads, || run_add(500));
            engine.detach();
            let c = engine.counters(0);
            assert_eq!(
                (c.hits, c.aggregated),
                (500 * threads, 500 * threads),
                "{way}"
            );
            assert_eq!(engine.site_hits(0), [500 * threads], "{way}");
            accounted(way, c);
            // Detached means detached.
            run_add(10);
            assert_eq!(engine.counters(0).hits, 500 * threads, "{way}");
        }
    }
}

#[test]
fn a_latency_histogram_pairs_every_call() {
    let _alone = alone();
    for (way, options) in ways() {
        for threads in [1, 8] {
            let spec = call(
                vec![],
                Action::Histogram {
                    value: Expr::Latency,
                    key: vec![],
                    scale: uprof_ebpf::Scale::Log,
                },
            );
            let mut engine = load(spec, &options);
            attach(&mut engine, addr_of(add));
            in_threads(threads, || run_add(300));
            engine.detach();
            let c = engine.counters(0);
            assert_eq!(
                (c.hits, c.aggregated, c.unpaired),
                (300 * threads, 300 * threads, 0),
                "{way}"
            );
            let all = engine.histograms(0).unwrap();
            let h = &all[0].1;
            assert_eq!(h.count, 300 * threads, "{way}");
            assert!(
                h.min > 0 && h.min <= h.max && h.max < 10_000_000_000,
                "{way}: {} {}",
                h.min,
                h.max
            );
            assert!(h.sum >= u128::from(h.min) * u128::from(h.count), "{way}");
            accounted(way, c);
        }
    }
}

/// Whether this kernel has what sums of more than 64 bits take.
fn can_exchange() -> bool {
    let features = uprof_ebpf::features::probe();
    let exchange = features.iter().find(|f| f.name.contains("exchange"));
    exchange.expect("it is tried").works.is_ok()
}

#[test]
fn values_land_in_their_buckets_with_exact_sum_and_extremes() {
    let _alone = alone();
    for (way, options) in ways() {
        let spec = entry(Action::Histogram {
            value: arg(0),
            key: vec![],
            scale: uprof_ebpf::Scale::Log,
        });
        let mut engine = load(spec, &options);
        attach(&mut engine, addr_of(add));
        let mut values: Vec<u64> = (0..64).map(|i| 1u64 << i).collect();
        values.extend([
            3,
            15,
            16,
            17,
            31,
            100,
            1000,
            123_456_789,
            u64::MAX,
            u64::MAX - 1,
        ]);
        for v in &values {
            black_box(add(*v, 0));
        }
        engine.detach();
        let all = engine.histograms(0).unwrap();
        let h = &all[0].1;
        let mut buckets = vec![0; hist::BUCKETS];
        values.iter().for_each(|v| buckets[hist::index(*v)] += 1);
        assert_eq!(h.buckets, buckets, "{way}");
        assert_eq!(
            (h.min, h.max, h.count),
            (1, u64::MAX, values.len() as u64),
            "{way}"
        );
        let sum: u128 = values.iter().map(|v| u128::from(*v)).sum();
        // The oldest kernels cannot fetch and add: there the sum wraps, as documented.
        let expected = if options.oldest || !can_exchange() {
            sum & u128::from(u64::MAX)
        } else {
            sum
        };
        assert_eq!(h.sum, expected, "{way}");
        accounted(way, engine.counters(0));
    }
}

#[test]
fn filters_at_entry_and_at_return_are_accounted() {
    let _alone = alone();
    for (way, options) in ways() {
        let mut spec = call(
            vec![Capture::Int(arg(0))],
            Action::Histogram {
                value: Expr::Retval,
                key: vec![],
                scale: uprof_ebpf::Scale::Log,
            },
        );
        spec.filter = Some(op(BinOp::Lt, arg(0), int(60)));
        spec.kind = ProbeKind::Call {
            saved: vec![Capture::Int(arg(0))],
            filter: Some(op(BinOp::Ge, Expr::Saved(0), int(10))),
            returns: Default::default(),
            frame: Default::default(),
        };
        let mut engine = load(spec, &options);
        attach(&mut engine, addr_of(add));
        run_add(100);
        engine.detach();
        let c = engine.counters(0);
        assert_eq!(
            (c.hits, c.aggregated, c.filtered, c.unpaired),
            (100, 50, 50, 0),
            "{way}"
        );
        let h = &engine.histograms(0).unwrap()[0].1;
        assert_eq!((h.min, h.max), (17, 66), "{way}");
        accounted(way, c);
    }
}

#[test]
fn events_carry_what_was_captured() {
    let _alone = alone();
    for (way, options) in ways() {
        let spec = call(
            vec![Capture::Int(arg(0)), Capture::Int(load_i32(int(16)))],
            Action::Event {
                captures: vec![
                    Capture::Saved(0),
                    Capture::Int(Expr::Retval),
                    Capture::Saved(1),
                    Capture::Int(load_i32(int(8))),
                    Capture::Int(Expr::Saved(1)),
                ],
            },
        );
        let mut engine = load(spec, &options);
        attach(&mut engine, addr_of(add));
        let before = uprof_ebpf::monotonic_ns();
        run_add(50);
        let after = uprof_ebpf::monotonic_ns();
        engine.detach();
        let mut seen = 0;
        let (pid, tid) = (std::process::id(), unsafe_tid());
        engine
            .drain(|r| {
                assert_eq!((r.int(0), r.int(1)), (Some(seen), Some(seen + 7)), "{way}");
                assert_eq!((r.int(2), r.int(3), r.int(4)), (None, None, None), "{way}");
                assert_eq!((r.pid, r.tid, r.site, r.probe), (pid, tid, 0, 0), "{way}");
                assert!(
                    (before..after).contains(&r.time_ns) && r.latency_ns > 0,
                    "{way}: {r:?}"
                );
                assert!(r.time_ns - r.latency_ns > before, "{way}");
                seen += 1;
            })
            .unwrap();
        assert_eq!(seen, 50, "{way}");
        let c = engine.counters(0);
        assert_eq!((c.hits, c.emitted), (50, 50), "{way}");
        accounted(way, c);
    }
}

fn unsafe_tid() -> u32 {
    // SAFETY: it only asks.
    unsafe { libc::gettid() as u32 }
}

#[test]
fn an_entry_event_without_strings_is_sent_in_place() {
    let _alone = alone();
    for (way, options) in ways() {
        let captures = vec![Capture::Int(arg(1)), Capture::Int(load_i32(int(1)))];
        let mut engine = load(entry(Action::Event { captures }), &options);
        attach(&mut engine, addr_of(add));
        run_add(20);
        engine.detach();
        let mut seen = 0;
        engine
            .drain(|r| {
                assert_eq!(
                    (r.int(0), r.int(1), r.latency_ns),
                    (Some(7), None, 0),
                    "{way}"
                );
                seen += 1;
            })
            .unwrap();
        assert_eq!((seen, engine.counters(0).emitted), (20, 20), "{way}");
    }
}

#[test]
fn recursion_pairs_each_return_with_its_own_entry() {
    let _alone = alone();
    for (way, options) in ways() {
        let spec = call(
            vec![Capture::Int(arg(0))],
            Action::Event {
                captures: vec![Capture::Saved(0), Capture::Int(Expr::Retval)],
            },
        );
        let mut engine = load(spec, &options);
        attach(&mut engine, fib as *const () as usize);
        let begun = std::time::Instant::now();
        assert_eq!(fib(black_box(10)), 55);
        let took = begun.elapsed().as_nanos() as u64;
        engine.detach();
        let mut calls = Vec::new();
        engine
            .drain(|r| {
                calls.push((
                    r.int(0).unwrap(),
                    r.int(1).unwrap(),
                    r.time_ns,
                    r.latency_ns,
                ))
            })
            .unwrap();
        let fibs = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55];
        assert_eq!(calls.len(), 177, "{way}");
        for (n, result, _, latency) in &calls {
            assert_eq!(*result, fibs[*n as usize], "{way}");
            assert!(*latency < took, "{way}");
        }
        // The outermost returns last, and contains all others.
        let (n, _, end, latency) = *calls.last().unwrap();
        assert_eq!(n, 10, "{way}");
        assert!(calls.iter().all(|c| c.2 - c.3 >= end - latency), "{way}");
        let c = engine.counters(0);
        assert_eq!((c.hits, c.emitted, c.unpaired), (177, 177, 0), "{way}");
        accounted(way, c);
    }
}

#[test]
fn keyed_histograms_and_counts_are_exact_per_key() {
    let _alone = alone();
    for (way, options) in ways() {
        let key = vec![KeyPart::Int(op(BinOp::Rem, arg(0), int(5))), KeyPart::Comm];
        for kind in ["histogram", "count"] {
            let action = match kind {
                "count" => Action::Count { key: key.clone() },
                _ => Action::Histogram {
                    value: arg(0),
                    key: key.clone(),
                    scale: uprof_ebpf::Scale::Log,
                },
            };
            let mut engine = load(entry(action), &options);
            attach(&mut engine, addr_of(add));
            std::thread::scope(|s| {
                for _ in 0..8 {
                    std::thread::Builder::new()
                        .name("worker".into())
                        .spawn_scoped(s, || run_add(100))
                        .unwrap();
                }
            });
            engine.detach();
            let mut found: Vec<(Vec<KeyValue>, u64)> = if kind == "count" {
                engine
                    .counts(0)
                    .unwrap()
                    .into_iter()
                    .map(|(k, n)| (k.values(), n))
                    .collect()
            } else {
                let all = engine.histograms(0).unwrap();
                for (k, h) in &all {
                    let KeyValue::Int(k) = k.values()[0] else {
                        panic!()
                    };
                    assert_eq!((h.min, h.max), (k, 95 + k), "{way}");
                    let one: u64 = (0..20).map(|i| 5 * i + k).sum();
                    assert_eq!(h.sum, u128::from(8 * one), "{way}");
                }
                all.into_iter()
                    .map(|(k, h)| (k.values(), h.count))
                    .collect()
            };
            found.sort();
            let expected: Vec<_> = (0..5)
                .map(|k| {
                    (
                        vec![KeyValue::Int(k), KeyValue::Bytes(b"worker".to_vec())],
                        160,
                    )
                })
                .collect();
            assert_eq!(found, expected, "{way} {kind}");
            let c = engine.counters(0);
            assert_eq!((c.hits, c.aggregated), (800, 800), "{way}");
        }
    }
}

#[test]
fn strings_in_keys_are_read_cut_or_marked() {
    let _alone = alone();
    for (way, options) in ways() {
        let key = vec![
            KeyPart::Str {
                addr: arg(0),
                len: None,
                limit: 5,
            },
            KeyPart::Int(load_i32(arg(0))),
        ];
        let mut engine = load(entry(Action::Count { key }), &options);
        attach(&mut engine, takes_text as *const () as usize);
        for text in [
            resident(c"abc"),
            resident(c"abcdefgh"),
            resident(c""),
            std::ptr::null(),
        ] {
            takes_text(text, 0);
        }
        engine.detach();
        let mut found: Vec<KeyValue> = engine
            .counts(0)
            .unwrap()
            .iter()
            .map(|(k, _)| k.values()[0].clone())
            .collect();
        found.sort();
        let bytes = |b: &[u8]| KeyValue::Bytes(b.to_vec());
        assert_eq!(
            found,
            [
                bytes(b""),
                bytes(b"abc"),
                bytes(b"abcde"),
                KeyValue::Unreadable
            ],
            "{way}"
        );
        accounted(way, engine.counters(0));
    }
}

#[test]
fn texts_of_known_length_are_keys() {
    let _alone = alone();
    for (way, options) in ways() {
        let key = vec![KeyPart::Str {
            addr: arg(0),
            len: Some(arg(1)),
            limit: 8,
        }];
        let mut engine = load(entry(Action::Count { key }), &options);
        attach(&mut engine, takes_text as *const () as usize);
        // No NUL follows: the length alone says where it ends.
        let text = black_box(b"GETSETHGETALLKEYS".to_vec());
        let at = |from: usize| text[from..].as_ptr().cast::<c_char>();
        for (from, len) in [(0, 3), (3, 3), (0, 3), (6, 7), (6, 11), (0, 0)] {
            takes_text(at(from), len);
        }
        engine.detach();
        let mut found: Vec<_> = engine
            .counts(0)
            .unwrap()
            .into_iter()
            .map(|(key, n)| (key.values(), n))
            .collect();
        found.sort();
        let bytes = |text: &[u8]| vec![KeyValue::Bytes(text.to_vec())];
        assert_eq!(
            found,
            [
                (bytes(b""), 1),
                (bytes(b"GET"), 2),
                (bytes(b"HGETALL"), 1),
                (bytes(b"HGETALLK"), 1),
                (bytes(b"SET"), 1)
            ],
            "{way}"
        );
        accounted(way, engine.counters(0));
    }
}

#[test]
fn a_full_table_drops_and_says_so() {
    let _alone = alone();
    for (way, options) in ways() {
        let options = EngineOptions {
            max_keys: 16,
            ..options
        };
        let mut engine = load(
            entry(Action::Count {
                key: vec![KeyPart::Int(arg(0))],
            }),
            &options,
        );
        attach(&mut engine, addr_of(add));
        run_add(100);
        engine.detach();
        let c = engine.counters(0);
        assert_eq!(
            (c.hits, c.aggregated, c.dropped_map),
            (100, 16, 84),
            "{way}"
        );
        let sum: u64 = engine.counts(0).unwrap().iter().map(|(_, n)| n).sum();
        assert_eq!(sum, 16, "{way}");
    }
}

#[test]
fn a_full_ring_drops_and_says_so() {
    let _alone = alone();
    for (way, options) in ways() {
        let options = EngineOptions {
            ring_bytes: 4096,
            ..options
        };
        for bytes in [false, true] {
            let mut captures = vec![Capture::Int(arg(0))];
            if bytes {
                captures.push(Capture::Buf {
                    addr: Expr::Arg(1),
                    len: int(8),
                    limit: 8,
                });
            }
            let mut engine = load(entry(Action::Event { captures }), &options);
            attach(&mut engine, addr_of(add));
            run_add(1000);
            engine.detach();
            let c = engine.counters(0);
            let drained = engine.drain(|_| {}).unwrap() as u64;
            assert_eq!(
                (c.hits, c.emitted, c.dropped_ring),
                (1000, drained, 1000 - drained),
                "{way}"
            );
            assert!(drained > 20, "{way}: {drained}");
            accounted(way, c);
        }
    }
}

#[test]
fn full_frames_drop_at_entry_and_count_once() {
    let _alone = alone();
    for (way, options) in ways() {
        if options.mechanism == Some(Mechanism::Session) {
            continue;
        }
        let options = EngineOptions {
            max_frames: 4,
            ..options
        };
        let spec = call(
            vec![],
            Action::Histogram {
                value: Expr::Latency,
                key: vec![],
                scale: uprof_ebpf::Scale::Log,
            },
        );
        let mut engine = load(spec, &options);
        attach(&mut engine, fib as *const () as usize);
        fib(black_box(9));
        engine.detach();
        let c = engine.counters(0);
        assert_eq!(c.hits, 109, "{way}");
        assert!(c.dropped_map > 0 && c.aggregated > 0, "{way}: {c:?}");
        assert_eq!(c.unpaired, 0, "{way}: {c:?}");
        accounted(way, c);
    }
}

#[test]
fn a_filter_on_another_pid_leaves_this_process_alone() {
    let _alone = alone();
    for (way, options) in ways() {
        let mut child = std::process::Command::new("sleep")
            .arg("30")
            .spawn()
            .unwrap();
        let mut engine = load(entry(Action::Count { key: vec![] }), &options);
        engine
            .attach(0, &[site(addr_of(add), 0)], Some(child.id()))
            .unwrap();
        run_add(100);
        assert_eq!(engine.counters(0).hits, 0, "{way}");
        // Another process may be added later.
        engine
            .attach(0, &[site(addr_of(add), 0)], Some(std::process::id()))
            .unwrap();
        in_threads(2, || run_add(100));
        engine.detach();
        // Where the program tests the process, both links see it.
        let expected = if options.oldest && options.mechanism != Some(Mechanism::Perf) {
            400
        } else {
            200
        };
        assert_eq!(engine.counters(0).hits, expected, "{way}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn sites_are_told_apart() {
    let _alone = alone();
    for (way, options) in ways() {
        let specs = vec![
            entry(Action::Count { key: vec![] }),
            call(vec![], Action::Event { captures: vec![] }),
            call(
                vec![Capture::Int(arg(0))],
                Action::Histogram {
                    value: Expr::Latency,
                    key: vec![],
                    scale: uprof_ebpf::Scale::Log,
                },
            ),
        ];
        let specs = specs
            .into_iter()
            .map(|s| uprof_ebpf::ProbeSpec { sites: 3, ..s })
            .collect();
        let mut engine = load_all(specs, &options);
        let sites = [site(addr_of(add), 2), site(addr_of(other), 0)];
        for probe in 0..3 {
            engine
                .attach(probe, &sites, Some(std::process::id()))
                .unwrap();
        }
        run_add(30);
        (0..20).for_each(|i| {
            black_box(other(i, 1));
        });
        engine.detach();
        for probe in 0..3 {
            assert_eq!(engine.site_hits(probe), [20, 0, 30], "{way} probe {probe}");
            assert_eq!(engine.counters(probe).hits, 50, "{way}");
            accounted(way, engine.counters(probe));
        }
        let mut seen = [0; 3];
        engine.drain(|r| seen[r.site as usize] += 1).unwrap();
        assert_eq!(seen, [20, 0, 30], "{way}");
        let wrong = engine.attach(0, &[site(addr_of(add), 3)], None);
        assert!(
            wrong.unwrap_err().to_string().contains("no site 3"),
            "{way}"
        );
    }
}

#[test]
fn kept_records_are_marked_and_counted_as_filtered() {
    let _alone = alone();
    for (way, options) in ways() {
        for at_entry in [true, false] {
            let captures = vec![Capture::Int(arg(0))];
            let (mut spec, value) = if at_entry {
                (entry(Action::Event { captures }), arg(0))
            } else {
                let action = Action::Event {
                    captures: vec![Capture::Saved(0)],
                };
                (call(captures, action), Expr::Saved(0))
            };
            spec.filter = Some(op(BinOp::Lt, arg(0), int(10)));
            spec.keep = Some(op(BinOp::Ge, value, int(90)));
            let mut engine = load(spec, &options);
            attach(&mut engine, addr_of(add));
            run_add(100);
            engine.detach();
            let mut seen = Vec::new();
            engine
                .drain(|r| seen.push((r.int(0).unwrap(), r.kept)))
                .unwrap();
            let expected: Vec<_> = (0..10)
                .map(|i| (i, false))
                .chain((90..100).map(|i| (i, true)))
                .collect();
            assert_eq!(seen, expected, "{way}");
            let c = engine.counters(0);
            assert_eq!((c.hits, c.emitted, c.filtered), (100, 10, 90), "{way}");
            accounted(way, c);
        }
    }
}

#[test]
fn what_a_filter_cannot_read_is_filtered_and_told() {
    let _alone = alone();
    for (way, options) in ways() {
        let mut spec = entry(Action::Count { key: vec![] });
        spec.filter = Some(Expr::BytesEq {
            what: BytesSource::Str {
                addr: Box::new(arg(0)),
            },
            literal: b"yes".to_vec(),
        });
        let mut engine = load(spec, &options);
        attach(&mut engine, takes_text as *const () as usize);
        for text in [
            resident(c"yes"),
            resident(c"yesterday"),
            resident(c"ye"),
            std::ptr::null(),
        ] {
            takes_text(text, 0);
        }
        engine.detach();
        let c = engine.counters(0);
        assert_eq!(
            (c.hits, c.aggregated, c.filtered, c.unreadable),
            (4, 1, 3, 1),
            "{way}"
        );
    }
}

#[test]
fn without_a_forced_mechanism_the_newest_is_taken() {
    let _alone = alone();
    let specs = vec![
        entry(Action::Count { key: vec![] }),
        call(
            vec![],
            Action::Histogram {
                value: Expr::Latency,
                key: vec![],
                scale: uprof_ebpf::Scale::Log,
            },
        ),
    ];
    let engine = load_all(specs, &EngineOptions::default());
    let features = uprof_ebpf::features::probe();
    let works = |name: &str| {
        features
            .iter()
            .find(|f| f.name == name)
            .unwrap()
            .works
            .is_ok()
    };
    let entry = if works("uprobe_multi") {
        Mechanism::Multi
    } else {
        Mechanism::Perf
    };
    let call = if works("uprobe session") {
        Mechanism::Session
    } else {
        entry
    };
    assert_eq!((engine.mechanism(0), engine.mechanism(1)), (entry, call));
    assert!(engine.ring_fd().is_none(), "no probe sends events");
}

#[test]
fn errors_name_the_probe_and_the_expression() {
    let _alone = alone();
    let load = |spec| {
        Engine::load(vec![spec], &EngineOptions::default())
            .err()
            .unwrap()
            .to_string()
    };
    let mut spec = entry(Action::Count { key: vec![] });
    spec.filter = Some(Expr::Retval);
    assert_eq!(
        load(spec.clone()),
        "probe entry: the filter: there is no return value or latency at entry"
    );
    let mut deep = arg(0);
    for n in 0..70 {
        // (One that came twice would be made once.)
        let side = Expr::Load {
            addr: Box::new(op(BinOp::Add, arg(1), Expr::Const(n))),
            ty: uprof_ebpf::expr::IntType::U64,
        };
        deep = op(BinOp::Add, side, deep);
    }
    spec.filter = Some(deep);
    assert!(load(spec).contains("too deep"));
}
