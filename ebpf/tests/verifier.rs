//! Random expressions in the real kernel: the verifier takes each, and each gives what the
//! reference evaluator gives.

mod common;

use std::hint::black_box;

use common::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use uprof_ebpf::expr::{BinOp, Builtin, BytesSource, Env, Expr, Fault, IntType, UnOp, eval};
use uprof_ebpf::{
    Action, Capture, EngineOptions, FrameName, KeyPart, ProbeKind, ProbeSpec, Returns, Scale,
};

static TEXT: [u8; 33] = *b"abab\0aabbaabb\0babababababababab\0b";

#[inline(never)]
extern "C" fn target(a: u64, b: u64, c: u64) -> u64 {
    black_box(a) ^ black_box(b).wrapping_add(black_box(c))
}

/// This process, as the probe sees it.
struct Here {
    args: [u64; 3],
}

/// DWARF numbers of the registers that carry the first three arguments.
const ARG_REGS: [u8; 3] = [5, 4, 1];

impl Env for Here {
    fn arg(&self, n: u8) -> Result<u64, Fault> {
        Ok(self.args[usize::from(n)])
    }
    fn reg(&self, n: u8) -> u64 {
        // rdi, rsi, rdx by their DWARF numbers carry the arguments.
        let arg = ARG_REGS.iter().position(|r| *r == n).expect("one of them");
        self.args[arg]
    }
    fn retval(&self) -> u64 {
        target(self.args[0], self.args[1], self.args[2])
    }
    fn latency(&self) -> u64 {
        unreachable!("it is not the same twice")
    }
    fn builtin(&self, which: Builtin) -> u64 {
        // SAFETY: these only ask.
        unsafe {
            match which {
                Builtin::Pid => u64::from(std::process::id()),
                Builtin::Tid => libc::gettid() as u64,
                Builtin::Uid => libc::getuid().into(),
                _ => libc::getgid().into(),
            }
        }
    }
    fn saved(&self, index: u16) -> Result<u64, Fault> {
        self.arg(index as u8)
    }
    fn comm(&self) -> [u8; 16] {
        let mut comm = [0u8; 16];
        // SAFETY: PR_GET_NAME writes at most 16 bytes.
        unsafe { libc::prctl(libc::PR_GET_NAME, comm.as_mut_ptr()) };
        comm
    }
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let base = TEXT.as_ptr() as u64;
        let from = addr.checked_sub(base).ok_or(Fault)? as usize;
        let bytes = from
            .checked_add(buf.len())
            .and_then(|end| TEXT.get(from..end));
        buf.copy_from_slice(bytes.ok_or(Fault)?);
        Ok(())
    }
    fn read_str(&self, addr: u64, max: usize) -> Result<Vec<u8>, Fault> {
        let mut text = Vec::new();
        let mut byte = [0];
        while text.len() < max {
            self.read(addr.wrapping_add(text.len() as u64), &mut byte)?;
            if byte[0] == 0 {
                break;
            }
            text.push(byte[0]);
        }
        Ok(text)
    }
}

fn ty() -> impl Strategy<Value = IntType> {
    (prop::sample::select(vec![8u8, 16, 32, 64]), any::<bool>())
        .prop_map(|(bits, signed)| IntType { bits, signed })
}

fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0u64..70,
        Just(u64::MAX),
        Just(1 << 63),
        Just(i64::MAX as u64)
    ]
}

fn bin_op() -> impl Strategy<Value = BinOp> {
    use BinOp::*;
    prop::sample::select(vec![
        Add, Sub, Mul, Div, Rem, And, Or, Xor, Shl, Shr, Eq, Ne, Lt, Le, Gt, Ge, LogAnd, LogOr,
    ])
}

fn expr(at_return: bool) -> BoxedStrategy<Expr> {
    let task = prop::sample::select(vec![Builtin::Pid, Builtin::Tid, Builtin::Uid, Builtin::Gid]);
    let input = match at_return {
        false => prop_oneof![
            (0u8..3).prop_map(Expr::Arg),
            prop::sample::select(ARG_REGS.to_vec()).prop_map(Expr::Reg)
        ]
        .boxed(),
        true => prop_oneof![Just(Expr::Retval), (0u16..3).prop_map(Expr::Saved)].boxed(),
    };
    prop_oneof![
        word().prop_map(Expr::Const),
        task.prop_map(Expr::Builtin),
        input
    ]
    .prop_recursive(5, 40, 3, |inner| {
        let boxed = || inner.clone().prop_map(Box::new);
        let base = TEXT.as_ptr() as u64;
        // Inside the text, or where nothing is mapped.
        let address = (inner.clone(), any::<bool>()).prop_map(move |(e, inside)| {
            let offset = Expr::binary(BinOp::And, e, Expr::Const(15));
            let base = if inside { base } else { 16 };
            Box::new(Expr::binary(BinOp::Add, Expr::Const(base), offset))
        });
        let literal = prop::collection::vec(prop::sample::select(b"ab".to_vec()), 0..9);
        prop_oneof![
            (bin_op(), any::<bool>(), boxed(), boxed())
                .prop_map(|(op, signed, a, b)| Expr::Binary { op, signed, a, b }),
            (bin_op(), any::<bool>(), boxed(), word()).prop_map(|(op, signed, a, b)| {
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
            (ty(), boxed()).prop_map(|(ty, e)| Expr::Cast { ty, e }),
            (prop::sample::select(vec![16, 32, 64]), boxed())
                .prop_map(|(bits, e)| Expr::Swap { bits, e }),
            (ty(), address.clone()).prop_map(|(ty, addr)| Expr::Load { addr, ty }),
            (boxed(), boxed(), boxed()).prop_map(|(c, a, b)| Expr::Cond(c, a, b)),
            (address, literal.clone()).prop_map(|(addr, literal)| Expr::BytesEq {
                what: BytesSource::Str { addr },
                literal
            }),
            literal.prop_map(|literal| Expr::BytesEq {
                what: BytesSource::Comm,
                literal
            }),
        ]
    })
    .boxed()
}

/// Captures all of `exprs` in one hit, and compares.
fn agree(
    exprs: &[Expr],
    args: [u64; 3],
    at_return: bool,
    options: &EngineOptions,
) -> Result<(), TestCaseError> {
    let captures: Vec<Capture> = exprs.iter().cloned().map(Capture::Int).collect();
    let spec = match at_return {
        false => entry(Action::Event { captures }),
        true => call(
            (0..3).map(|n| Capture::Int(Expr::Arg(n))).collect(),
            Action::Event { captures },
        ),
    };
    let mut engine = match uprof_ebpf::Engine::load(vec![spec], options) {
        Ok(engine) => engine,
        // Stack is finite, and it says so.
        Err(e) if e.to_string().contains("too deep") => return Ok(()),
        Err(e) => {
            return Err(TestCaseError::fail(format!(
                "{e}\n{}",
                e.verifier_log().unwrap_or_default()
            )));
        }
    };
    attach(&mut engine, target as *const () as usize);
    target(args[0], args[1], args[2]);
    engine.detach();
    let mut got = Vec::new();
    engine
        .drain(|r| got = (0..exprs.len()).map(|i| r.int(i)).collect())
        .unwrap();
    let here = Here { args };
    let expected: Vec<Option<u64>> = exprs.iter().map(|e| eval(e, &here).ok()).collect();
    prop_assert_eq!(got, expected);
    Ok(())
}

#[test]
fn random_expressions_load_and_agree() {
    let _alone = alone();
    for (way, options) in ways() {
        // Detaching a perf event takes a tenth of a second.
        let cases = if way.contains("perf") { 6 } else { 40 };
        for at_return in [false, true] {
            let mut runner = TestRunner::new(Config {
                cases,
                ..Config::default()
            });
            let exprs = prop::collection::vec(expr(at_return), 1..8);
            let args = [word(), word(), word()];
            runner
                .run(&(exprs, args), |(exprs, args)| {
                    agree(&exprs, args, at_return, &options)
                })
                .unwrap_or_else(|e| panic!("{way}: {e}"));
        }
    }
}

/// Statistics and linear histograms, at entry and of sampled calls.
fn amounts(options: &EngineOptions) {
    let address = || KeyPart::Buf {
        addr: arg(0),
        len: load_i32(arg(1)),
        limit: 128,
    };
    let scale = Scale::Linear {
        from: i64::MIN,
        step: u64::MAX,
        buckets: 1000,
    };
    for key in [vec![], vec![address(), KeyPart::Comm]] {
        let stats = |value: Expr| Action::Stats {
            values: vec![value; 16],
            key: key.clone(),
        };
        let linear = |value| Action::Histogram {
            value,
            key: key.clone(),
            scale,
        };
        load(entry(stats(load_i32(arg(2)))), options);
        load(entry(linear(load_i32(arg(2)))), options);
        // (What is at entry is gone at the return.)
        if key.is_empty() {
            for action in [stats(Expr::Latency), linear(Expr::Retval)] {
                for saved in [vec![], vec![Capture::Int(arg(0))]] {
                    let sampled = ProbeSpec {
                        sample: 1000,
                        sites: 1000,
                        ..call(saved, action.clone())
                    };
                    load(sampled, options);
                }
            }
        }
    }
}

/// Stacks in records among texts, and two in a key.
fn stacks(options: &EngineOptions) {
    let stack = |user, frames| Capture::Stack { user, frames };
    let text = Capture::Str {
        addr: arg(0),
        len: None,
        limit: 1000,
    };
    let captures = vec![text.clone(), stack(true, 127), stack(false, 127), text];
    load(
        entry(Action::Event {
            captures: captures.clone(),
        }),
        options,
    );
    let at_return = vec![stack(true, 126), Capture::Saved(1), Capture::Saved(2)];
    load(
        call(
            captures,
            Action::Event {
                captures: at_return,
            },
        ),
        options,
    );
    let key = vec![
        KeyPart::Stack { user: true },
        KeyPart::Comm,
        KeyPart::Stack { user: false },
    ];
    let stats = Action::Stats {
        values: vec![Expr::Latency; 8],
        key: key.clone(),
    };
    for saved in [vec![], vec![Capture::Int(arg(0))]] {
        load(call(saved, stats.clone()), options);
    }
    load(entry(Action::Count { key }), options);
}

#[test]
fn large_probes_pass_the_verifier() {
    let _alone = alone();
    let text = |limit| Capture::Str {
        addr: Expr::Arg(0),
        len: None,
        limit,
    };
    let buffer = |limit| Capture::Buf {
        addr: Expr::Arg(0),
        len: Expr::Arg(1),
        limit,
    };
    let saved = |captures: &[Capture]| {
        (0..captures.len())
            .map(|i| Capture::Saved(i as u16))
            .collect::<Vec<_>>()
    };
    for (_, options) in ways() {
        for captures in [
            vec![text(65536), buffer(65536)],
            (0..16).map(|_| text(1024)).collect(),
            (0..16).map(|_| buffer(5000)).collect(),
            (0..64).map(|i| Capture::Int(Expr::Arg(i % 8))).collect(),
        ] {
            load(
                entry(Action::Event {
                    captures: captures.clone(),
                }),
                &options,
            );
            let both = saved(&captures);
            load(call(captures, Action::Event { captures: both }), &options);
        }
        let key = vec![
            KeyPart::Str {
                addr: Expr::Arg(0),
                len: None,
                limit: 100,
            },
            KeyPart::Str {
                addr: Expr::Arg(0),
                len: Some(load_i32(Expr::Arg(1))),
                limit: 100,
            },
            KeyPart::Int(load_i32(Expr::Arg(1))),
        ];
        let mut spec = ProbeSpec {
            sites: 1000,
            ..entry(Action::Histogram {
                value: load_i32(Expr::Arg(2)),
                key,
                scale: Scale::Log,
            })
        };
        spec.filter = Some(Expr::BytesEq {
            what: BytesSource::Comm,
            literal: b"worker".to_vec(),
        });
        load(spec.clone(), &options);
        amounts(&options);
        stacks(&options);
        spec.action = Action::Histogram {
            value: Expr::Latency,
            key: vec![KeyPart::Int(Expr::Retval), KeyPart::Comm],
            scale: Scale::Log,
        };
        for returns in [Returns::Replaced, Returns::Exits] {
            for frame in [FrameName::Stack, FrameName::Goroutine, FrameName::Running] {
                for saved in [vec![], vec![text(64)]] {
                    spec.kind = ProbeKind::Call {
                        saved,
                        filter: Some(op(BinOp::Gt, Expr::Latency, int(5))),
                        returns,
                        frame,
                    };
                    load(spec.clone(), &options);
                }
                let runs = ProbeSpec {
                    sites: 1000,
                    filter: spec.filter.clone(),
                    ..exits(
                        vec![],
                        frame,
                        Action::Running {
                            value: load_i32(arg(0)),
                        },
                    )
                };
                load(runs, &options);
            }
        }
    }
}
