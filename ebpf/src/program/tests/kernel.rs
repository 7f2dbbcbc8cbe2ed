//! Probes on the kernel: in which processes they count, and what their calls keep.

use super::*;
use crate::layout::EVERYONE;

const SITE: SiteSource = SiteSource::Kernel {
    site: 3,
    arguments: TAKES,
};
const SOURCES: [KernelSource; 4] = [
    KernelSource::Tracepoint,
    KernelSource::RawTracepoint,
    KernelSource::Function,
    KernelSource::Kprobe,
];

fn bench(source: KernelSource, kind: ProbeKind, action: Action, atomics: bool) -> Bench {
    let mut s = spec(kind, action);
    s.on = On::Kernel(source);
    s.sites = 4;
    Bench::new(s, atomics)
}

/// Lets the machine's process through.
fn allow(b: &mut Bench) {
    let value = b.machine.room(8);
    b.machine.kernel(|k| {
        let pid = k.pid_tgid >> 32;
        k.pids.entries.insert(pid.to_le_bytes().to_vec(), value)
    });
}

fn run(b: &mut Bench, part: Part, given: &[u64]) -> u64 {
    let code = compile(0, &b.spec, part, SITE, &b.target).unwrap();
    b.machine.run(&code, given)
}

/// What the program is given: words, or registers with these as arguments.
fn given(source: KernelSource, words: &[u64]) -> Vec<u64> {
    match source {
        KernelSource::Kprobe => regs(words).to_vec(),
        _ => words.iter().copied().chain([0; REGS]).take(REGS).collect(),
    }
}

#[test]
fn a_hit_counts_in_processes_that_are_let_through() {
    for (source, atomics) in SOURCES.into_iter().flat_map(|s| [(s, true), (s, false)]) {
        let action = Action::Count { key: vec![] };
        let mut b = bench(source, ProbeKind::Entry, action, atomics);
        let words = given(source, &[0; 4]);
        assert_eq!(run(&mut b, Part::Entry, &words), 0);
        assert_eq!(b.counters(), [0; 5], "{source:?}");
        allow(&mut b);
        assert_eq!(run(&mut b, Part::Entry, &words), 0);
        assert_eq!(b.counters(), [1, 0, 1, 0, 0], "{source:?}");
        b.machine.kernel(|k| k.pids.entries.clear());
        let everyone = b.target.state.first_shard / 8 + EVERYONE;
        b.machine.state[everyone as usize] = 1;
        run(&mut b, Part::Entry, &words);
        assert_eq!(b.counters(), [2, 0, 2, 0, 0], "{source:?}");
    }
}

#[test]
fn a_call_keeps_what_it_was_given() {
    use KernelSource::*;
    for (source, atomics) in [Tracepoint, Function, Kprobe]
        .map(|s| [(s, true), (s, false)])
        .concat()
    {
        let first = match source {
            Tracepoint => Expr::Field {
                offset: 8,
                ty: IntType::U64,
            },
            _ => Expr::Arg(1),
        };
        let kind = call(vec![Capture::Int(first)]);
        let captures = vec![Capture::Saved(0), Capture::Int(Expr::Retval)];
        let mut b = bench(source, kind, Action::Event { captures }, atomics);
        allow(&mut b);
        b.machine.kernel(|k| k.task = TASK);
        run(&mut b, Part::Entry, &given(source, &[5, 6, 7]));
        let mut end = given(source, &[0, 0, 9]);
        if source == Kprobe {
            end[crate::arch::RETVAL as usize / 8] = 9;
            end[crate::arch::SP as usize / 8] = SP + 8;
        }
        run(&mut b, Part::Return, &end);
        let got = b.records(|r| (r.int(0), r.int(1), r.site));
        assert_eq!(got, [(Some(6), Some(9), 3)], "{source:?}");
        assert_eq!(b.counters(), [1, 1, 0, 0, 0], "{source:?}");
        run(&mut b, Part::Return, &end);
        assert_eq!(
            b.counters(),
            [1, 1, 0, 0, 0],
            "{source:?}: no entry, no hit"
        );
    }
}

#[test]
fn a_system_call_is_its_threads() {
    let latency = Action::Histogram {
        value: Expr::Latency,
        key: vec![],
        scale: crate::Scale::Log,
    };
    let mut b = bench(KernelSource::Tracepoint, call(vec![]), latency, true);
    allow(&mut b);
    let words = given(KernelSource::Tracepoint, &[0; 3]);
    for task in [TASK, TASK + 64] {
        b.machine.kernel(|k| k.task = task);
        run(&mut b, Part::Entry, &words);
    }
    run(&mut b, Part::Return, &words);
    assert_eq!(b.counters(), [2, 0, 1, 0, 0]);
    run(&mut b, Part::Return, &words);
    assert_eq!(b.counters(), [2, 0, 1, 0, 0]);
    b.machine.kernel(|k| k.task = TASK);
    run(&mut b, Part::Return, &words);
    assert_eq!(b.counters(), [2, 0, 2, 0, 0]);
}

/// As an interrupt within a program meets it: the slot that this CPU's programs build records in is
/// taken.
#[test]
fn an_interrupt_finds_the_slot_taken() {
    let captures = vec![string(Expr::Const(TEXT), 8)];
    let action = Action::Event { captures };
    let mut b = bench(KernelSource::RawTracepoint, ProbeKind::Entry, action, false);
    allow(&mut b);
    let words = given(KernelSource::RawTracepoint, &[]);
    run(&mut b, Part::Entry, &words);
    assert!(b.machine.scratch_free(b.target.scratch.size));
    b.machine.claim_all(b.target.scratch.size);
    run(&mut b, Part::Entry, &words);
    assert_eq!(b.counters(), [2, 1, 0, 0, 1]);
}

#[test]
fn what_makes_no_sense_is_told() {
    let wrong = |source, kind, value| {
        let action = Action::Histogram {
            value,
            key: vec![],
            scale: crate::Scale::Log,
        };
        let b = bench(source, kind, action, true);
        let error = compile(0, &b.spec, Part::Entry, SITE, &b.target);
        error.unwrap_err().to_string()
    };
    let entry = |source, value| wrong(source, ProbeKind::Entry, value);
    let field = |offset| Expr::Field {
        offset,
        ty: IntType::U64,
    };
    let tracepoint = KernelSource::Tracepoint;
    let common = entry(tracepoint, field(0));
    assert!(common.contains("not given what is at offset 0"), "{common}");
    let argument = entry(tracepoint, Expr::Arg(0));
    assert!(argument.contains("fields, not arguments"), "{argument}");
    let no_field = entry(KernelSource::Function, field(8));
    assert!(no_field.contains("only a tracepoint"), "{no_field}");
    let many = entry(KernelSource::Function, Expr::Arg(2));
    assert!(many.contains("the function has 2"), "{many}");
    let register = entry(KernelSource::Kprobe, Expr::Reg(0));
    assert!(register.contains("not in the kernel"), "{register}");
    let chain = entry(KernelSource::Kprobe, Expr::Depth);
    assert!(chain.contains("a program's calls"), "{chain}");
    let raw = wrong(KernelSource::RawTracepoint, call(vec![]), Expr::Latency);
    assert!(raw.contains("is no call"), "{raw}");
}
