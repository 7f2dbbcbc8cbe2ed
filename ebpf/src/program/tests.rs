//! Every shape, run without the kernel, decoded by the crate's own decoder.

mod amounts;
mod calls;
mod clocks;
mod kept;
mod kernel;
mod reads;
mod stacks;
mod turns;

use super::vm::{Kernel, Machine, Reference, Table, frame};
use super::*;
use crate::expr::{BinOp, Builtin, BytesSource, Expr, IntType, UnOp, eval};
use crate::hist::{self, HistData};
use crate::layout::{KeyLayout, frame_key, hist_words, table_value};
use crate::record::Record;
use crate::spec::{Capture, KeyPart};
use proptest::prelude::*;

const TEXT: u64 = 0x10_0000;
const SP: u64 = 0x7fff_0000;
const RING: u32 = 1 << 16;
const REGS: usize = crate::arch::REGS_SIZE / 8;

fn target(spec: &ProbeSpec, atomics: bool) -> Target {
    let specs = std::slice::from_ref(spec);
    Target {
        atomics,
        chains: None,
        pending: None,
        pid_test: false,
        task_storage: false,
        ring_bytes: RING,
        scratch: ScratchLayout::new(specs, 4, atomics).unwrap(),
        state: StateLayout::new(specs, 4, atomics).unwrap(),
        successors: vec![],
    }
}

/// One probe and its machine.
struct Bench {
    spec: ProbeSpec,
    target: Target,
    machine: Machine,
    layouts: Vec<RecordLayout>,
}

fn regs(args: &[u64]) -> [u64; REGS] {
    let mut regs = [0; REGS];
    for (value, at) in args.iter().zip(crate::arch::ARGS) {
        regs[at as usize / 8] = *value;
    }
    regs[crate::arch::SP as usize / 8] = SP;
    regs
}

impl Bench {
    fn new(spec: ProbeSpec, atomics: bool) -> Bench {
        let target = target(&spec, atomics);
        let layout = RecordLayout::new(&spec);
        let mut kernel = Kernel::default();
        kernel.frames.value = FrameKind::of(&spec).size(&layout) as usize;
        kernel.frames.key = frame_key::size(frame_name(&spec)) as usize;
        if let Action::Count { key }
        | Action::Histogram { key, .. }
        | Action::Stats { key, .. }
        | Action::Breakdown { key, .. } = &spec.action
        {
            kernel.table = Table {
                key: KeyLayout::new(key).size as usize,
                value: table_value(&spec.action) as usize,
                most: 4,
                ..Table::default()
            };
        }
        let text = b"hello, world\0".to_vec();
        kernel.user = vec![(TEXT, text), (SP, (0..64u8).collect())];
        let scratch = target.scratch.slots * target.scratch.size;
        let machine = Machine::new(kernel, target.state.size, scratch);
        Bench {
            layouts: vec![layout],
            spec,
            target,
            machine,
        }
    }

    fn part(&mut self, part: Part, regs: [u64; REGS]) -> u64 {
        let site = SiteSource::Cookie;
        let code = compile(0, &self.spec, part, site, &self.target).unwrap();
        self.machine.run(&code, &regs)
    }

    fn hit(&mut self, args: &[u64]) {
        self.part(Part::Entry, regs(args));
    }

    fn returns(&mut self, retval: u64) {
        let mut regs = regs(&[]);
        regs[crate::arch::SP as usize / 8] = SP + 8;
        regs[crate::arch::RETVAL as usize / 8] = retval;
        self.part(Part::Return, regs);
    }

    fn counter(&self, counter: Counter) -> u64 {
        let state = &self.target.state;
        (0..state.shards)
            .map(|s| {
                self.machine.state
                    [(state.first_shard + s * state.stride) as usize / 8 + counter as usize]
            })
            .sum()
    }

    /// hits, emitted, aggregated, filtered, dropped
    fn counters(&self) -> [u64; 5] {
        let dropped = self.counter(Counter::DroppedRing) + self.counter(Counter::DroppedMap);
        [
            self.counter(Counter::Hits),
            self.counter(Counter::Emitted),
            self.counter(Counter::Aggregated),
            self.counter(Counter::Filtered),
            dropped,
        ]
    }

    fn records<R>(&self, each: impl Fn(&Record<'_>) -> R) -> Vec<R> {
        self.machine.kernel(|k| {
            k.records
                .iter()
                .map(|data| each(&Record::decode(data, &self.layouts).unwrap()))
                .collect()
        })
    }

    fn histogram(&self) -> HistData {
        let state = &self.target.state;
        let mut sum = HistData::default();
        for shard in 0..state.shards {
            let at = state.first_shard + shard * state.stride + state.blocks[0].unkeyed.unwrap();
            let words = &self.machine.state[at as usize / 8..];
            sum.merge(&decode(words));
        }
        sum
    }
}

fn decode(words: &[u64]) -> HistData {
    let buckets = words[hist_words::BUCKETS..hist_words::COUNT].to_vec();
    HistData {
        count: buckets.iter().sum(),
        sum: u128::from(words[hist_words::CARRY]) << 64 | u128::from(words[hist_words::SUM]),
        min: !words[hist_words::NOT_MIN],
        max: words[hist_words::MAX],
        buckets,
    }
}

fn spec(kind: ProbeKind, action: Action) -> ProbeSpec {
    ProbeSpec {
        on: On::Program,
        sample: 1,
        name: "test".into(),
        sites: 1,
        kind,
        filter: None,
        keep: None,
        action,
    }
}

fn call(saved: Vec<Capture>) -> ProbeKind {
    ProbeKind::Call {
        saved,
        filter: None,
        returns: Default::default(),
        frame: Default::default(),
    }
}

fn unreadable() -> Expr {
    Expr::Load {
        addr: Box::new(Expr::Const(8)),
        ty: IntType::U64,
    }
}

fn string(addr: Expr, limit: u32) -> Capture {
    Capture::Str {
        addr,
        len: None,
        limit,
    }
}

#[test]
fn an_event_of_integers_is_reserved_and_submitted() {
    let captures = vec![
        Capture::Int(Expr::Arg(1)),
        Capture::Int(unreadable()),
        Capture::Int(Expr::Arg(7)),
    ];
    let mut b = Bench::new(spec(ProbeKind::Entry, Action::Event { captures }), true);
    b.hit(&[1, 2]);
    let stack_word = u64::from_le_bytes([16, 17, 18, 19, 20, 21, 22, 23]);
    assert_eq!(
        b.records(|r| (r.int(0), r.int(1), r.int(2))),
        [(Some(2), None, Some(stack_word))]
    );
    assert_eq!(
        b.records(|r| (r.pid, r.tid, r.time_ns, r.latency_ns, r.kept)),
        [(77, 78, 1000, 0, false)]
    );
    assert_eq!(b.records(|r| *r.comm), [*b"a thread\0\0\0\0\0\0\0\0"]);
    b.machine.kernel(|k| k.ring_room = 10);
    b.hit(&[1, 2]);
    assert_eq!(b.counters(), [2, 1, 0, 0, 1]);
    assert_eq!(
        b.machine.kernel(|k| k.wakes.clone()),
        [1],
        "nobody is woken for one record"
    );
}

#[test]
fn userspace_is_woken_once_when_much_has_piled_up() {
    let mut b = Bench::new(
        spec(ProbeKind::Entry, Action::Event { captures: vec![] }),
        true,
    );
    b.machine.kernel(|k| k.available = u64::from(RING / 8) + 1);
    b.hit(&[]);
    b.hit(&[]);
    assert_eq!(b.machine.kernel(|k| k.wakes.clone()), [2, 1]);
}

#[test]
fn strings_are_built_in_scratch_and_the_slot_is_given_back() {
    for atomics in [true, false] {
        let captures = vec![
            string(Expr::Arg(0), 100),
            string(Expr::Arg(0), 5),
            string(Expr::Arg(0), 12),
            Capture::Buf {
                addr: Expr::Arg(0),
                len: Expr::Arg(1),
                limit: 6,
            },
            string(Expr::Const(8), 9),
            string(unreadable(), 9),
            Capture::Buf {
                addr: Expr::Arg(0),
                len: unreadable(),
                limit: 6,
            },
        ];
        let mut b = Bench::new(spec(ProbeKind::Entry, Action::Event { captures }), atomics);
        b.hit(&[TEXT, 3]);
        b.hit(&[TEXT, 7]);
        let seen = b.records(|r| {
            (0..7)
                .map(|i| {
                    let b = r.bytes(i);
                    (b.data.to_vec(), b.cut, b.fault)
                })
                .collect::<Vec<_>>()
        });
        let ok = |t: &[u8]| (t.to_vec(), false, false);
        let cut = |t: &[u8]| (t.to_vec(), true, false);
        let fault = (vec![], false, true);
        let whole = ok(b"hello, world");
        let mut expected = vec![
            whole.clone(),
            cut(b"hello"),
            whole,
            ok(b"hel"),
            fault.clone(),
            fault.clone(),
            fault,
        ];
        assert_eq!(seen[0], expected);
        expected[3] = cut(b"hello,");
        assert_eq!(seen[1], expected);
        assert!(b.machine.scratch_free(b.target.scratch.size));
        assert_eq!(b.counters(), [2, 2, 0, 0, 0]);
    }
}

#[test]
fn a_string_that_runs_into_unreadable_memory_is_given_up_to_there() {
    let captures = vec![string(Expr::Arg(0), 9000)];
    for n in [1usize, 100, 4096, 4097, 8192] {
        let mut b = Bench::new(
            spec(
                ProbeKind::Entry,
                Action::Event {
                    captures: captures.clone(),
                },
            ),
            true,
        );
        let end = 0x40_0000u64;
        b.machine
            .kernel(|k| k.user = vec![(end - n as u64, vec![b'x'; n])]);
        b.hit(&[end - n as u64]);
        let seen = b.records(|r| (r.bytes(0).data.len(), r.bytes(0).cut, r.bytes(0).fault));
        assert_eq!(seen, [(n, false, true)]);
    }
}

#[test]
fn filters_say_no_or_cannot_tell() {
    let mut s = spec(ProbeKind::Entry, Action::Count { key: vec![] });
    s.filter = Some(Expr::binary(BinOp::LogOr, Expr::Arg(0), unreadable()));
    let mut b = Bench::new(s, true);
    b.hit(&[1]);
    b.hit(&[0]);
    assert_eq!(b.counters(), [2, 0, 1, 1, 0]);
    assert_eq!(b.counter(Counter::Unreadable), 1);
}

#[test]
fn a_histogram_has_exact_sum_and_extremes() {
    for atomics in [true, false] {
        let value = Expr::Arg(0);
        let action = Action::Histogram {
            value,
            key: vec![],
            scale: crate::Scale::Log,
        };
        let mut b = Bench::new(spec(ProbeKind::Entry, action), atomics);
        let values = [5, 0, 16, 1 << 40, u64::MAX - 3, 17, 31, 32, u64::MAX];
        let mut buckets = vec![0; hist::BUCKETS];
        for v in values {
            b.machine.kernel(|k| k.cpu = v % 4);
            b.hit(&[v]);
            buckets[hist::index(v)] += 1;
        }
        let h = b.histogram();
        assert_eq!(h.buckets, buckets);
        assert_eq!((h.min, h.max, h.count), (0, u64::MAX, values.len() as u64));
        let sum: u128 = values.iter().map(|v| u128::from(*v)).sum();
        assert!(h.sum == sum || !atomics);
        assert_eq!(b.counters(), [9, 0, 9, 0, 0]);
    }
}

#[test]
fn keyed_aggregations_insert_find_and_fill_up() {
    let key = vec![
        KeyPart::Int(Expr::Arg(0)),
        KeyPart::Str {
            addr: Expr::Arg(1),
            len: None,
            limit: 5,
        },
    ];
    let action = Action::Histogram {
        value: Expr::Arg(2),
        key,
        scale: crate::Scale::Log,
    };
    let mut b = Bench::new(spec(ProbeKind::Entry, action.clone()), true);
    for i in 0..6 {
        b.hit(&[i % 5, TEXT, 100 + i]);
    }
    assert_eq!(b.counters(), [6, 0, 5, 0, 1]);
    let Action::Histogram { key, .. } = &action else {
        panic!()
    };
    let layout = std::sync::Arc::new(KeyLayout::new(key));
    let mut seen = b.machine.kernel(|k| {
        let decode_one = |(key, at): (&Vec<u8>, &u64)| {
            // SAFETY: the value lies in the machine's arena.
            let words = unsafe { std::slice::from_raw_parts(*at as *const u64, hist_words::COUNT) };
            let h = decode(words);
            (
                crate::key::KeyBytes::new(key.clone(), layout.clone()).values(),
                h.count,
                h.min,
                h.max,
            )
        };
        k.table.entries.iter().map(decode_one).collect::<Vec<_>>()
    });
    seen.sort();
    let key = |k| {
        vec![
            crate::KeyValue::Int(k),
            crate::KeyValue::Bytes(b"hello".to_vec()),
        ]
    };
    assert_eq!(
        seen,
        [
            (key(0), 2, 100, 105),
            (key(1), 1, 101, 101),
            (key(2), 1, 102, 102),
            (key(3), 1, 103, 103)
        ]
    );
}

#[test]
fn a_text_of_known_length_is_a_key() {
    let key = vec![KeyPart::Str {
        addr: Expr::Arg(0),
        len: Some(Expr::Arg(1)),
        limit: 6,
    }];
    let layout = std::sync::Arc::new(KeyLayout::new(&key));
    let mut b = Bench::new(spec(ProbeKind::Entry, Action::Count { key }), true);
    // Whole, cut, empty, of a length that is none, and where nothing is.
    for (addr, len) in [
        (TEXT, 4),
        (TEXT, 4),
        (TEXT, 7),
        (TEXT, 0),
        (TEXT, u64::MAX),
        (8, 4),
    ] {
        b.hit(&[addr, len]);
    }
    let mut seen: Vec<_> = b.machine.kernel(|k| {
        let keys = k.table.entries.keys();
        keys.map(|key| crate::key::KeyBytes::new(key.clone(), layout.clone()).values())
            .collect()
    });
    seen.sort();
    let bytes = |text: &[u8]| vec![crate::KeyValue::Bytes(text.to_vec())];
    assert_eq!(
        seen,
        [
            bytes(b""),
            bytes(b"hell"),
            bytes(b"hello,"),
            vec![crate::KeyValue::Unreadable]
        ]
    );
    assert_eq!(b.counters(), [6, 0, 6, 0, 0]);
}

#[test]
fn an_unreadable_value_is_filtered_and_told_an_unreadable_key_is_a_key() {
    let action = Action::Histogram {
        value: unreadable(),
        key: vec![],
        scale: crate::Scale::Log,
    };
    let mut b = Bench::new(spec(ProbeKind::Entry, action), true);
    b.hit(&[]);
    assert_eq!(b.counters(), [1, 0, 0, 1, 0]);
    assert_eq!(b.counter(Counter::Unreadable), 1);
    let key = vec![KeyPart::Comm, KeyPart::Int(unreadable())];
    let layout = std::sync::Arc::new(KeyLayout::new(&key));
    let mut b = Bench::new(spec(ProbeKind::Entry, Action::Count { key }), true);
    b.hit(&[]);
    let keys = b
        .machine
        .kernel(|k| k.table.entries.keys().cloned().collect::<Vec<_>>());
    let values = crate::key::KeyBytes::new(keys[0].clone(), layout).values();
    assert_eq!(
        values,
        [
            crate::KeyValue::Bytes(b"a thread".to_vec()),
            crate::KeyValue::Unreadable
        ]
    );
    assert_eq!(b.counters(), [1, 0, 1, 0, 0]);
}

#[test]
fn a_call_keeps_its_time_in_a_frame_and_removes_it() {
    let action = Action::Histogram {
        value: Expr::Latency,
        key: vec![],
        scale: crate::Scale::Log,
    };
    let mut b = Bench::new(spec(call(vec![]), action), true);
    b.hit(&[]);
    b.machine.kernel(|k| k.now += 250);
    b.returns(0);
    // Whose entry was not seen.
    b.returns(0);
    assert_eq!((b.histogram().min, b.histogram().count), (250, 1));
    assert_eq!(b.counters(), [1, 0, 1, 0, 0]);
    assert!(b.machine.kernel(|k| k.frames.entries.is_empty()));
}

#[test]
fn a_call_builds_its_record_in_its_frame() {
    let saved = vec![
        string(Expr::Arg(0), 8),
        Capture::Int(Expr::Arg(1)),
        Capture::Int(unreadable()),
    ];
    let captures = vec![
        Capture::Int(Expr::Retval),
        Capture::Saved(0),
        string(Expr::Retval, 40),
        Capture::Saved(1),
        Capture::Saved(2),
        Capture::Int(Expr::Saved(2)),
        Capture::Int(Expr::binary(BinOp::Add, Expr::Saved(1), Expr::Latency)),
    ];
    let mut b = Bench::new(spec(call(saved), Action::Event { captures }), true);
    b.hit(&[TEXT, 42]);
    b.machine.kernel(|k| k.now += 9);
    b.returns(TEXT + 7);
    assert_eq!(
        b.records(|r| (r.int(0), r.int(3), r.int(4), r.int(5), r.int(6))),
        [(Some(TEXT + 7), Some(42), None, None, Some(51))]
    );
    assert_eq!(
        b.records(|r| (r.bytes(1).data.to_vec(), r.bytes(1).cut)),
        [(b"hello, w".to_vec(), true)]
    );
    assert_eq!(
        b.records(|r| (r.bytes(2).data.to_vec(), r.bytes(2).cut)),
        [(b"world".to_vec(), false)]
    );
    assert_eq!(b.records(|r| (r.time_ns, r.latency_ns)), [(1009, 9)]);
    assert!(b.machine.kernel(|k| k.frames.entries.is_empty()));
    assert_eq!(b.counters(), [1, 1, 0, 0, 0]);
}

#[test]
fn full_frames_are_dropped_at_entry_and_a_filtered_entry_leaves_no_stale_frame() {
    let action = Action::Histogram {
        value: Expr::Latency,
        key: vec![],
        scale: crate::Scale::Log,
    };
    let mut s = spec(call(vec![]), action);
    s.filter = Some(Expr::Arg(0));
    let mut b = Bench::new(s, true);
    // A call that leaves by longjmp, then one at the same place that is filtered.
    b.hit(&[1]);
    b.hit(&[0]);
    b.returns(0);
    assert_eq!(b.counters(), [2, 0, 0, 1, 0]);
    b.machine.kernel(|k| k.frames.most = 0);
    b.hit(&[1]);
    b.returns(0);
    assert_eq!(b.counters(), [3, 0, 0, 1, 1]);
}

#[test]
fn a_session_pairs_by_the_kernels_cookie() {
    let action = Action::Histogram {
        value: Expr::Latency,
        key: vec![],
        scale: crate::Scale::Log,
    };
    let mut s = spec(call(vec![]), action);
    s.filter = Some(Expr::Arg(0));
    let mut b = Bench::new(s, true);
    assert_eq!(b.part(Part::Session, regs(&[1])), 0);
    b.machine.kernel(|k| {
        k.now += 33;
        k.is_return = true
    });
    assert_eq!(b.part(Part::Session, regs(&[0])), 0);
    assert_eq!((b.histogram().max, b.counters()), (33, [1, 0, 1, 0, 0]));
    b.machine.kernel(|k| k.is_return = false);
    assert_eq!(
        b.part(Part::Session, regs(&[0])),
        1,
        "the return is not wanted"
    );
    assert_eq!(b.counters(), [2, 0, 1, 1, 0]);
}

/// A process that is forked within a call returns from it too, with the same cookie.
#[test]
fn a_forked_process_returns_from_no_call() {
    let action = Action::Histogram {
        value: Expr::Latency,
        key: vec![],
        scale: crate::Scale::Log,
    };
    let mut b = Bench::new(spec(call(vec![]), action), true);
    b.part(Part::Session, regs(&[]));
    let parent = b.machine.kernel(|k| {
        k.now += 20;
        k.is_return = true;
        let forked = k.pid_tgid + (1 << 32);
        std::mem::replace(&mut k.pid_tgid, forked)
    });
    b.part(Part::Session, regs(&[]));
    assert_eq!(b.counters(), [1, 0, 0, 0, 0]);
    b.machine.kernel(|k| k.pid_tgid = parent);
    b.part(Part::Session, regs(&[]));
    assert_eq!((b.histogram().max, b.counters()), (20, [1, 0, 1, 0, 0]));
}

#[test]
fn a_rejected_call_may_be_kept_at_its_return() {
    let mut s = spec(
        call(vec![Capture::Int(Expr::Arg(0))]),
        Action::Event {
            captures: vec![Capture::Saved(0)],
        },
    );
    s.filter = Some(Expr::binary(BinOp::Eq, Expr::Arg(0), Expr::Const(3)));
    s.keep = Some(Expr::binary(BinOp::Eq, Expr::Saved(0), Expr::Const(22)));
    let mut b = Bench::new(s, true);
    for value in [3, 22, 4] {
        b.hit(&[value]);
        b.returns(0);
    }
    assert_eq!(
        b.records(|r| (r.int(0), r.kept)),
        [(Some(3), false), (Some(22), true)]
    );
    assert_eq!(b.counters(), [3, 1, 0, 2, 0]);
}

#[test]
fn sites_are_told_by_cookie() {
    let mut s = spec(ProbeKind::Entry, Action::Event { captures: vec![] });
    s.sites = 3;
    let mut b = Bench::new(s, true);
    for site in [2, 0, 2, 9] {
        b.machine.kernel(|k| k.cookie = site);
        b.hit(&[]);
    }
    assert_eq!(b.records(|r| r.site), [2, 0, 2, 9]);
    let state = &b.target.state;
    let words: Vec<u64> = (0..3)
        .map(|i| {
            let at = |s| {
                (state.first_shard + s * state.stride + state.blocks[0].sites.unwrap()) as usize / 8
            };
            (0..state.shards).map(|s| b.machine.state[at(s) + i]).sum()
        })
        .collect();
    assert_eq!(words, [1, 0, 2], "an index out of range counts nowhere");
}

#[test]
fn processes_not_asked_for_are_no_hits() {
    let s = spec(ProbeKind::Entry, Action::Count { key: vec![] });
    let mut b = Bench::new(s, true);
    b.target.pid_test = true;
    b.hit(&[]);
    assert_eq!(b.counters()[0], 1, "none is named: all");
    b.machine.state[PIDS as usize / 8] = 5;
    b.hit(&[]);
    assert_eq!(b.counters()[0], 1);
    b.machine.state[PIDS as usize / 8 + 1] = 77;
    b.hit(&[]);
    assert_eq!(b.counters()[0], 2);
}

#[test]
fn what_cannot_be_compiled_is_named() {
    let why = |s: ProbeSpec| {
        compile(0, &s, Part::Return, SiteSource::Cookie, &target(&s, true))
            .unwrap_err()
            .to_string()
    };
    let limit = string(Expr::Const(0), 0);
    assert_eq!(
        why(spec(
            ProbeKind::Entry,
            Action::Event {
                captures: vec![limit]
            }
        )),
        "probe test: capture 0: its limit of 0 bytes is not within 1 to 65536"
    );
    let action = Action::Event {
        captures: vec![Capture::Saved(1)],
    };
    assert!(why(spec(call(vec![]), action)).contains("nothing is saved at index 1"));
    let action = Action::Event {
        captures: vec![Capture::Int(Expr::Arg(0))],
    };
    assert!(why(spec(call(vec![]), action)).contains("capture it at entry"));
    let literal = vec![b'x'; 64];
    let eq = Expr::BytesEq {
        what: BytesSource::Comm,
        literal,
    };
    let action = Action::Histogram {
        value: eq,
        key: vec![],
        scale: crate::Scale::Log,
    };
    assert!(why(spec(ProbeKind::Entry, action)).contains("at most 63"));
}

fn int_type() -> impl Strategy<Value = IntType> {
    (prop::sample::select(vec![8u8, 16, 32, 64]), any::<bool>())
        .prop_map(|(bits, signed)| IntType { bits, signed })
}

fn bin_op() -> impl Strategy<Value = BinOp> {
    use BinOp::*;
    prop::sample::select(vec![
        Add, Sub, Mul, Div, Rem, And, Or, Xor, Shl, Shr, Eq, Ne, Lt, Le, Gt, Ge, LogAnd, LogOr,
    ])
}

/// Words that meet edges more often than chance would.
fn edge_word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (-2i64..3).prop_map(|v| v as u64),
        prop::sample::select(vec![
            i64::MIN as u64,
            i64::MAX as u64,
            u64::from(u32::MAX),
            1 << 31,
            63,
            64,
            65
        ]),
    ]
}

fn leaf(on: On, at_return: bool) -> BoxedStrategy<Expr> {
    use Builtin::*;
    let common = prop_oneof![
        edge_word().prop_map(Expr::Const),
        Just(Expr::Task),
        prop::sample::select(vec![Pid, Tid, Uid, Gid, Cgroup, Nsecs, Cpu]).prop_map(Expr::Builtin),
        prop::collection::vec(prop::sample::select(b"ab\0".to_vec()), 0..4).prop_map(|literal| {
            Expr::BytesEq {
                what: BytesSource::Comm,
                literal,
            }
        }),
    ];
    if at_return {
        prop_oneof![
            common,
            Just(Expr::Retval),
            Just(Expr::Latency),
            (0u16..3).prop_map(Expr::Saved)
        ]
        .boxed()
    } else {
        let own = match on {
            On::Program => {
                prop_oneof![(0u8..10).prop_map(Expr::Arg), (0u8..17).prop_map(Expr::Reg)].boxed()
            }
            On::Kernel(KernelSource::Tracepoint) => {
                let fields = (int_type(), 8u16..100);
                let field = fields.prop_map(|(ty, offset)| Expr::Field { offset, ty });
                prop_oneof![field, Just(Expr::Context)].boxed()
            }
            On::Kernel(KernelSource::RawTracepoint) => (0u8..12).prop_map(Expr::Arg).boxed(),
            On::Kernel(KernelSource::Function) => (0..TAKES).prop_map(Expr::Arg).boxed(),
            On::Kernel(KernelSource::Kprobe) => (0u8..10).prop_map(Expr::Arg).boxed(),
        };
        prop_oneof![common, own].boxed()
    }
}

/// How many arguments the kernel's function takes.
const TAKES: u8 = 2;

fn anywhere() -> impl Strategy<Value = On> {
    use KernelSource::*;
    let kernel = [Tracepoint, RawTracepoint, Function, Kprobe].map(On::Kernel);
    prop::sample::select([&[On::Program; 2][..], &kernel].concat())
}

fn expr(on: On, at_return: bool) -> BoxedStrategy<Expr> {
    leaf(on, at_return)
        .prop_recursive(6, 60, 3, |inner| {
            let boxed = || inner.clone().prop_map(Box::new);
            let near = inner.clone().prop_map(|e| {
                // An address that is sometimes readable.
                let offset = Expr::binary(BinOp::And, e, Expr::Const(31));
                Box::new(Expr::binary(BinOp::Add, Expr::Const(TEXT), offset))
            });
            let kernels = inner.clone().prop_map(|e| {
                // The same in the kernel's memory.
                let offset = Expr::binary(BinOp::And, e, Expr::Const(31));
                Box::new(Expr::binary(BinOp::Add, Expr::Const(TASK), offset))
            });
            let tasks = inner.clone().prop_map(|e| {
                let offset = Expr::binary(BinOp::And, e, Expr::Const(31));
                Box::new(Expr::binary(BinOp::Add, Expr::Task, offset))
            });
            let address = prop_oneof![near, kernels, tasks, boxed()];
            let literal = prop::collection::vec(prop::sample::select(b"ab\0".to_vec()), 0..20);
            prop_oneof![
                (bin_op(), any::<bool>(), boxed(), boxed())
                    .prop_map(|(op, signed, a, b)| Expr::Binary { op, signed, a, b }),
                (bin_op(), any::<bool>(), boxed(), edge_word()).prop_map(|(op, signed, a, b)| {
                    Expr::Binary {
                        op,
                        signed,
                        a,
                        b: Box::new(Expr::Const(b)),
                    }
                }),
                (
                    prop::sample::select(vec![UnOp::Neg, UnOp::BitNot, UnOp::LogNot]),
                    boxed()
                )
                    .prop_map(|(op, e)| Expr::Unary(op, e)),
                (int_type(), boxed()).prop_map(|(ty, e)| Expr::Cast { ty, e }),
                (prop::sample::select(vec![16, 32, 64]), boxed())
                    .prop_map(|(bits, e)| Expr::Swap { bits, e }),
                (int_type(), address.clone()).prop_map(|(ty, addr)| Expr::Load { addr, ty }),
                (boxed(), boxed(), boxed()).prop_map(|(c, a, b)| Expr::Cond(c, a, b)),
                // Loads that come more than once.
                (boxed(), boxed()).prop_map(|(c, a)| Expr::Cond(c, a.clone(), a)),
                (bin_op(), boxed()).prop_map(|(op, a)| Expr::Binary {
                    op,
                    signed: false,
                    a: a.clone(),
                    b: a,
                }),
                (address, literal).prop_map(|(addr, literal)| Expr::BytesEq {
                    what: BytesSource::Str { addr },
                    literal
                }),
            ]
        })
        .boxed()
}

/// Compiles `e`, runs it and says what came out.
fn compiled(
    on: On,
    e: &Expr,
    regs: &[u64; REGS],
    kernel: Kernel,
    saved: Option<&[Option<u64>]>,
) -> Result<Result<u64, crate::expr::Fault>, String> {
    let saving = spec(
        call(vec![Capture::Int(Expr::Const(0)); 3]),
        Action::Count { key: vec![] },
    );
    let layout = RecordLayout::new(&saving);
    let mut machine = Machine::new(kernel, 64, 0);
    let phase = if saved.is_some() {
        Phase::Return
    } else {
        Phase::Entry
    };
    let mut emit = Emitter::new(on, phase);
    emit.asm.mov(R6, R1);
    if on == On::Kernel(KernelSource::Function) {
        match phase {
            Phase::Entry => emit.copy_given(0, TAKES)?,
            Phase::Return => emit.copy_given(TAKES, 1)?,
        }
    }
    if let Some(saved) = saved {
        let words = frame(&layout, saved);
        let at = machine.room(8 * words.len());
        // SAFETY: room of that size was just taken.
        unsafe { std::ptr::copy_nonoverlapping(words.as_ptr(), at as *mut u64, words.len()) };
        emit.asm.constant(R8, at);
        emit.frame = Some(&layout);
        let slot = emit.take(8)?;
        emit.asm.constant(R0, LATENCY);
        emit.asm.store(Size::DW, R10, slot, R0);
        emit.latency = Some(slot);
    }
    let (fault, end) = (emit.asm.label(), emit.asm.label());
    emit.share([e])?;
    emit.expr(e, fault)?;
    emit.asm.map_value(R1, MapRef::State, 0);
    emit.asm.store(Size::DW, R1, 8, R0);
    emit.asm.constant(R0, 1);
    emit.asm.jump(end);
    emit.asm.bind(fault);
    emit.asm.constant(R0, 2);
    emit.asm.bind(end);
    emit.asm.exit();
    let code = emit.asm.finish()?;
    Ok(match machine.run(&code, regs) {
        1 => Ok(machine.state[1]),
        _ => Err(crate::expr::Fault),
    })
}

const LATENCY: u64 = 123_456;
/// Memory of the kernel.
const TASK: u64 = 0xffff_8880_1234_5000;

fn world(text: &[u8]) -> Kernel {
    let mut kernel = Kernel::default();
    let stack = (0..40u8).map(|i| i.wrapping_mul(37)).collect();
    let kernels = text.iter().rev().copied().collect();
    kernel.user = vec![(TEXT, text.to_vec()), (SP, stack), (TASK, kernels)];
    kernel.task = TASK;
    kernel.comm = *b"ab\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    kernel
}

fn agree(
    on: On,
    e: &Expr,
    words: &[u64],
    text: &[u8],
    saved: Option<&[Option<u64>]>,
) -> Result<(), TestCaseError> {
    let mut regs = regs(&words[..6]);
    regs[crate::arch::RETVAL as usize / 8] = words[6];
    if !matches!(on, On::Program | On::Kernel(KernelSource::Kprobe)) {
        regs = std::array::from_fn(|i| words[i % words.len()]);
    }
    match compiled(on, e, &regs, world(text), saved) {
        // Stack is finite, and it says so.
        Err(reason) => prop_assert!(
            reason.contains("too deep") || reason.contains("too long"),
            "{reason}"
        ),
        Ok(got) => {
            let reference = Reference {
                on,
                regs,
                latency: LATENCY,
                saved: saved.unwrap_or_default(),
            };
            prop_assert_eq!(got, eval(e, &reference));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn compiled_and_reference_agree_at_entry(
        (on, e) in anywhere().prop_flat_map(|on| (Just(on), expr(on, false))),
        words in prop::collection::vec(edge_word(), 7),
        text in prop::collection::vec(prop::sample::select(b"abab\0".to_vec()), 1..40),
    ) {
        agree(on, &e, &words, &text, None)?;
    }

    #[test]
    fn compiled_and_reference_agree_at_return(
        // (A raw tracepoint does not return.)
        (on, e) in anywhere()
            .prop_filter("a call", |on| *on != On::Kernel(KernelSource::RawTracepoint))
            .prop_flat_map(|on| (Just(on), expr(on, true))),
        words in prop::collection::vec(edge_word(), 7),
        text in prop::collection::vec(prop::sample::select(b"abab\0".to_vec()), 1..40),
        saved in prop::collection::vec(prop::option::of(edge_word()), 3),
    ) {
        agree(on, &e, &words, &text, Some(&saved))?;
    }

    #[test]
    fn every_operation_agrees_on_edges(op in bin_op(), signed: bool, a in edge_word(), b in edge_word()) {
        let e = Expr::Binary { op, signed, a: Box::new(Expr::Arg(0)), b: Box::new(Expr::Arg(1)) };
        agree(On::Program, &e, &[a, b, 0, 0, 0, 0, 0], b"\0", None)?;
    }

    #[test]
    fn a_record_never_panics_the_decoder(data in prop::collection::vec(any::<u8>(), 0..200)) {
        let captures = vec![Capture::Int(Expr::Const(0)), string(Expr::Const(0), 9)];
        let layouts = [RecordLayout::new(&spec(ProbeKind::Entry, Action::Event { captures }))];
        let mut data = data;
        data.iter_mut().take(2).for_each(|b| *b = 0);
        if let Some(r) = Record::decode(&data, &layouts) {
            let _ = (r.int(0), r.int(1), r.int(2), r.bytes(0), r.bytes(1), r.bytes(9));
        }
    }
}
