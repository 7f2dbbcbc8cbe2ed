//! What is read once, or together, is what would have been read each time.

use super::*;

/// Memory that an argument of a call in [`decided`] leads to; some of its words lead into it again.
const MEMBERS: [u64; 12] = [
    1,
    TEXT,
    0,
    TEXT + 16,
    7,
    u64::MAX,
    TEXT + 80,
    0x1_0000_0001,
    8,
    TEXT + 8,
    0,
    3,
];

fn load(base: Expr, offset: u64, bits: u8) -> Expr {
    Expr::Load {
        addr: Box::new(Expr::binary(BinOp::Add, base, Expr::Const(offset))),
        ty: IntType {
            bits,
            signed: false,
        },
    }
}

/// Expressions of a few members, so that they meet.
fn of_members() -> BoxedStrategy<Expr> {
    let bits = prop::sample::select(vec![8u8, 32, 64]);
    // Some lie beyond the memory.
    let offsets = prop::sample::select(vec![0u64, 4, 8, 24, 32, 48, 72, 88, 92, 96, 200]);
    let member = (0u8..2, offsets, bits);
    let member = member.prop_map(|(arg, offset, bits)| load(Expr::Arg(arg), offset, bits));
    let leaf = prop_oneof![8 => member, 1 => (0u64..3).prop_map(Expr::Const)];
    leaf.prop_recursive(4, 20, 3, |inner| {
        let boxed = || inner.clone().prop_map(Box::new);
        let op = prop::sample::select(vec![
            BinOp::LogAnd,
            BinOp::LogOr,
            BinOp::Add,
            BinOp::Ne,
            BinOp::Le,
        ]);
        prop_oneof![
            (op, inner.clone(), inner.clone()).prop_map(|(op, a, b)| Expr::binary(op, a, b)),
            (inner.clone(), Just(())).prop_map(|(base, ())| load(base, 8, 64)),
            // The same in two places.
            (inner.clone(), inner.clone()).prop_map(|(a, b)| {
                let choice = Expr::Cond(Box::new(b), Box::new(a.clone()), Box::new(Expr::Const(5)));
                Expr::binary(BinOp::Add, choice, a)
            }),
            (boxed(), boxed(), boxed()).prop_map(|(c, a, b)| Expr::Cond(c, a, b)),
        ]
    })
    .boxed()
}

/// A call of a probe with that filter: what is captured, `None` where it is filtered.
fn decided(filter: &Expr, captures: &[Expr], args: [u64; 2]) -> Option<Vec<Option<u64>>> {
    let own = captures.iter().cloned().map(Capture::Int).collect();
    let mut s = spec(ProbeKind::Entry, Action::Event { captures: own });
    s.filter = Some(filter.clone());
    let mut b = Bench::new(s, true);
    let bytes = MEMBERS.iter().flat_map(|w| w.to_le_bytes()).collect();
    b.machine.kernel(|k| k.user = vec![(TEXT, bytes)]);
    b.hit(&args);
    let filtered = b.counter(Counter::Filtered);
    let mut records = b.records(|r| (0..captures.len()).map(|i| r.int(i)).collect::<Vec<_>>());
    assert_eq!(records.len() as u64 + filtered, 1);
    records.pop()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn filters_and_captures_that_share_reads_agree_with_the_reference(
        parts in prop::collection::vec(of_members(), 1..4),
        more in prop::collection::vec(of_members(), 0..3),
        // Of the second argument nothing can be read.
        unreadable: bool,
    ) {
        let args = [TEXT, if unreadable { 64 } else { TEXT + 8 }];
        let whole = parts.iter().cloned();
        let filter = whole.reduce(|a, b| Expr::binary(BinOp::LogAnd, a, b)).unwrap();
        let captures: Vec<Expr> = parts.iter().chain(&more).cloned().collect();
        let got = decided(&filter, &captures, args);
        // The reference reads the memory of the machine that is still there.
        let reference = Reference { on: On::Program, regs: regs(&args), latency: 0, saved: &[] };
        let passes = matches!(eval(&filter, &reference), Ok(word) if word != 0);
        let expected = passes.then(|| captures.iter().map(|e| eval(e, &reference).ok()).collect());
        prop_assert_eq!(got, expected);
    }
}

#[test]
fn a_load_in_filter_and_capture_is_made_once() {
    let reads = |captures: usize| {
        let name = load(load(Expr::Arg(0), 24, 64), 8, 64);
        let test = |e: &Expr| Expr::binary(BinOp::Ne, e.clone(), Expr::Const(99));
        let members = [0, 8, 16].map(|at| test(&load(Expr::Arg(0), at, 64)));
        let filter = members.into_iter().chain([test(&name)]);
        let filter = filter.reduce(|a, b| Expr::binary(BinOp::LogAnd, a, b));
        let own = vec![Capture::Int(name); captures];
        let mut s = spec(ProbeKind::Entry, Action::Event { captures: own });
        s.filter = filter;
        let target = target(&s, true);
        let code = compile(0, &s, Part::Entry, SiteSource::Cookie, &target).unwrap();
        let reads = |i: &&crate::asm::Insn| {
            (i.code, i.imm) == (crate::asm::code::CALL, helper::PROBE_READ_USER as i32)
        };
        code.insns.iter().filter(reads).count()
    };
    // The four members together, and what one of them leads to.
    assert_eq!([reads(0), reads(3)], [2, 2]);
}
