//! Calls that end at their exits, the names of frames, and what becomes of frames left behind.

use super::*;
use crate::program::exit;
use crate::site::AttachExit;
use crate::spec::{FrameName, Returns};

const FLAGS: usize = crate::arch::FLAGS as usize / 8;
const RETVAL: usize = crate::arch::RETVAL as usize / 8;
const R14: usize = crate::arch::GOROUTINE as usize / 8;
const STACK_POINTER: usize = crate::arch::SP as usize / 8;
const RET: AttachExit = AttachExit {
    offset: 0,
    condition: None,
    jump: false,
};

fn exits(saved: Vec<Capture>, frame: FrameName) -> ProbeKind {
    ProbeKind::Call {
        saved,
        filter: None,
        returns: Returns::Exits,
        frame,
    }
}

fn latency() -> Action {
    Action::Histogram {
        value: Expr::Latency,
        key: vec![],
        scale: crate::Scale::Log,
    }
}

fn jcc(condition: u8) -> AttachExit {
    AttachExit {
        condition: Some(condition),
        ..RET
    }
}

impl Bench {
    /// Runs the program of an exit.
    fn exits(&mut self, site: u32, exit: &AttachExit, regs: [u64; REGS]) {
        self.machine.kernel(|k| k.cookie = exit::cookie(site, exit));
        self.part(Part::Exit, regs);
    }

    fn open(&self) -> usize {
        self.machine.kernel(|k| k.frames.entries.len())
    }
}

#[test]
fn a_call_ends_at_its_exit_with_the_stack_as_it_was() {
    let mut b = Bench::new(spec(exits(vec![], FrameName::Stack), latency()), true);
    b.hit(&[]);
    b.machine.kernel(|k| k.now += 250);
    let mut deeper = regs(&[]);
    deeper[STACK_POINTER] -= 16;
    b.exits(0, &RET, deeper);
    assert_eq!(b.counters(), [1, 0, 0, 0, 0], "not this call's exit");
    b.exits(0, &RET, regs(&[]));
    b.exits(0, &RET, regs(&[]));
    assert_eq!((b.histogram().min, b.histogram().count), (250, 1));
    assert_eq!(b.counters(), [1, 0, 1, 0, 0]);
    assert_eq!(b.open(), 0);
}

/// Intel SDM volume 1, appendix B, written out.
fn met(condition: u8, flags: u64) -> bool {
    let bit = |n: u32| flags >> n & 1 != 0;
    let (cf, pf, zf, sf, of) = (bit(0), bit(2), bit(6), bit(7), bit(11));
    match condition {
        0 => of,
        1 => !of,
        2 => cf,
        3 => !cf,
        4 => zf,
        5 => !zf,
        6 => cf || zf,
        7 => !cf && !zf,
        8 => sf,
        9 => !sf,
        10 => pf,
        11 => !pf,
        12 => sf != of,
        13 => sf == of,
        14 => zf || sf != of,
        _ => !zf && sf == of,
    }
}

#[test]
fn a_conditional_exit_is_taken_as_the_processor_takes_it() {
    let mut b = Bench::new(spec(exits(vec![], FrameName::Stack), latency()), true);
    let mut ended = 0;
    for condition in 0..16 {
        for bits in 0..32u64 {
            // The five flags in all ways, the others of a real register beside them.
            let spread = [0, 2, 6, 7, 11].iter().enumerate();
            let flags = spread.fold(0x20a | (bits & 1) << 4, |f, (i, at)| {
                f | (bits >> i & 1) << at
            });
            b.hit(&[]);
            let mut regs = regs(&[]);
            regs[FLAGS] = flags;
            b.exits(0, &jcc(condition), regs);
            let taken = met(condition, flags);
            ended += u64::from(taken);
            assert_eq!(
                b.counter(Counter::Aggregated),
                ended,
                "{condition} {flags:#x}"
            );
            assert_eq!(b.open(), usize::from(!taken), "{condition} {flags:#x}");
            b.exits(0, &RET, regs);
            ended += u64::from(!taken);
        }
    }
    assert_eq!(b.counters(), [16 * 32, 0, ended, 0, 0]);
    assert_eq!(b.counter(Counter::Abandoned), 0);
}

#[test]
fn what_a_function_returns_is_not_known_where_it_jumps_into_another() {
    let captures = vec![
        Capture::Int(Expr::Retval),
        Capture::Int(Expr::binary(BinOp::Add, Expr::Retval, Expr::Const(1))),
        Capture::Int(Expr::binary(BinOp::Add, Expr::Const(1), Expr::Retval)),
        string(Expr::Retval, 20),
        Capture::Int(Expr::Latency),
    ];
    let kind = exits(vec![], FrameName::Stack);
    let mut b = Bench::new(spec(kind, Action::Event { captures }), true);
    let jmp = AttachExit { jump: true, ..RET };
    for exit in [RET, jmp, jcc(3)] {
        b.hit(&[]);
        let mut regs = regs(&[]);
        regs[RETVAL] = TEXT;
        b.exits(0, &exit, regs);
    }
    let ints = b.records(|r| (r.int(0), r.int(1), r.int(2), r.int(4)));
    let jumped = (None, None, None, Some(0));
    let returned = (Some(TEXT), Some(TEXT + 1), Some(TEXT + 1), Some(0));
    assert_eq!(ints, [returned, jumped, jumped]);
    let texts = b.records(|r| (r.bytes(3).data.to_vec(), r.bytes(3).fault));
    let nothing = (vec![], true);
    assert_eq!(
        texts,
        [(b"hello, world".to_vec(), false), nothing.clone(), nothing]
    );
    // A histogram of it takes those that returned only, and says so.
    let value = Action::Histogram {
        value: Expr::Retval,
        key: vec![],
        scale: crate::Scale::Log,
    };
    let mut b = Bench::new(spec(exits(vec![], FrameName::Stack), value), true);
    for exit in [RET, jmp] {
        b.hit(&[]);
        b.exits(0, &exit, regs(&[]));
    }
    assert_eq!(b.counters(), [2, 0, 1, 1, 0]);
    assert_eq!(b.counter(Counter::Unreadable), 1);
}

#[test]
fn an_exit_that_two_functions_share_ends_the_one_that_is_open() {
    let captures = vec![Capture::Saved(0)];
    let kind = exits(vec![Capture::Int(Expr::Arg(0))], FrameName::Stack);
    let mut s = spec(kind, Action::Event { captures });
    s.sites = 3;
    let mut b = Bench::new(s, true);
    for (site, value) in [(1, 10), (2, 20), (1, 11)] {
        b.machine.kernel(|k| k.cookie = site);
        b.hit(&[value]);
        for shared in [0, 1, 2] {
            b.exits(shared, &RET, regs(&[]));
        }
    }
    assert_eq!(
        b.records(|r| (r.site, r.int(0))),
        [(1, Some(10)), (2, Some(20)), (1, Some(11))]
    );
    // A tail call: both are open at one stack pointer.
    for site in [1, 2] {
        b.machine.kernel(|k| k.cookie = site);
        b.hit(&[u64::from(site as u32)]);
    }
    assert_eq!((b.open(), b.counter(Counter::Abandoned)), (2, 0));
    b.exits(2, &RET, regs(&[]));
    b.exits(1, &RET, regs(&[]));
    assert_eq!(b.counters(), [5, 5, 0, 0, 0]);
}

#[test]
fn programs_know_their_site_and_condition_where_there_are_no_cookies() {
    let mut s = spec(exits(vec![], FrameName::Stack), latency());
    s.sites = 4;
    let mut b = Bench::new(s, false);
    b.machine.kernel(|k| k.cookie = u64::MAX);
    let run = |b: &mut Bench, part, cookie, regs: [u64; REGS]| {
        let site = SiteSource::Constant(cookie);
        let code = compile(0, &b.spec, part, site, &b.target).unwrap();
        b.machine.run(&code, &regs)
    };
    run(&mut b, Part::Entry, 3, regs(&[]));
    let mut carry = regs(&[]);
    carry[FLAGS] = 1;
    for (site, condition, regs) in [(2, 2, carry), (3, 3, carry), (3, 2, regs(&[]))] {
        run(
            &mut b,
            Part::Exit,
            exit::cookie(site, &jcc(condition)),
            regs,
        );
        assert_eq!(b.open(), 1);
    }
    run(&mut b, Part::Exit, exit::cookie(3, &jcc(2)), carry);
    assert_eq!((b.open(), b.counters()), (0, [1, 0, 1, 0, 0]));
}

#[test]
fn a_frame_left_behind_is_counted_when_a_call_takes_its_place() {
    for saved in [vec![], vec![Capture::Int(Expr::Arg(0))]] {
        for kind in [call(saved.clone()), exits(saved.clone(), FrameName::Stack)] {
            let mut s = spec(kind, latency());
            s.filter = Some(Expr::Arg(0));
            let mut b = Bench::new(s, true);
            let abandoned = |b: &Bench| (b.counter(Counter::Abandoned), b.open());
            b.hit(&[1]);
            assert_eq!(abandoned(&b), (0, 1));
            b.machine.kernel(|k| k.now += 100);
            b.hit(&[1]);
            assert_eq!(abandoned(&b), (1, 1));
            b.hit(&[0]);
            assert_eq!(abandoned(&b), (2, 0), "a filtered call clears the place");
            b.hit(&[0]);
            assert_eq!(abandoned(&b), (2, 0));
            b.hit(&[1]);
            b.machine.kernel(|k| k.now += 7);
            match b.spec.kind {
                ProbeKind::Call {
                    returns: Returns::Exits,
                    ..
                } => b.exits(0, &RET, regs(&[])),
                _ => b.returns(0),
            }
            assert_eq!((b.histogram().max, abandoned(&b)), (7, (2, 0)));
            assert_eq!(b.counters(), [5, 0, 1, 2, 0]);
            // A full map is no call that was left.
            b.machine.kernel(|k| k.frames.most = 0);
            b.hit(&[1]);
            assert_eq!(abandoned(&b), (2, 0));
            assert_eq!(b.counters(), [6, 0, 1, 2, 1]);
        }
    }
}

#[test]
fn frames_say_who_made_the_call() {
    let caller = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7]);
    for (saved, at) in [(vec![], 0), (vec![Capture::Int(Expr::Arg(0))], 1)] {
        let mut b = Bench::new(spec(call(saved), latency()), true);
        b.hit(&[]);
        let mut lost = regs(&[]);
        lost[STACK_POINTER] = 16;
        b.part(Part::Entry, lost);
        let mut seen = b.machine.kernel(|k| {
            let mut keys: Vec<_> = k.frames.entries.iter().collect();
            keys.sort();
            keys.iter()
                .map(|(_, value)| {
                    // SAFETY: the value lies in the machine's arena, and has that many words.
                    let words = unsafe { std::slice::from_raw_parts(**value as *const u64, 5) };
                    match at {
                        0 => [words[0], words[1], words[2]],
                        _ => [words[1], words[2], words[4]],
                    }
                })
                .collect::<Vec<_>>()
        });
        seen.sort();
        let thread = 77 << 32 | 78;
        assert_eq!(seen, [[1000, thread, 0], [1000, thread, caller]]);
    }
}

#[test]
fn a_goroutines_frame_is_found_after_its_stack_has_moved() {
    const G: u64 = 0x20_0000;
    for kind in [exits(vec![], FrameName::Goroutine), {
        let ProbeKind::Call {
            saved,
            filter,
            returns,
            ..
        } = call(vec![])
        else {
            panic!()
        };
        ProbeKind::Call {
            saved,
            filter,
            returns,
            frame: FrameName::Goroutine,
        }
    }] {
        let mut b = Bench::new(spec(kind.clone(), latency()), true);
        let world = |b: &Bench, hi: [u64; 2]| {
            let g = |i: usize| {
                [7u64, hi[i], 9]
                    .iter()
                    .flat_map(|w| w.to_le_bytes())
                    .collect()
            };
            b.machine
                .kernel(|k| k.user = vec![(G, g(0)), (G + 0x100, g(1))]);
        };
        let at = |g: u64, sp: u64| {
            let mut regs = regs(&[]);
            regs[R14] = g;
            regs[STACK_POINTER] = sp;
            regs
        };
        let (part, popped) = match kind {
            ProbeKind::Call {
                returns: Returns::Exits,
                ..
            } => (Part::Exit, 0),
            _ => (Part::Return, 8),
        };
        b.machine.kernel(|k| k.cookie = exit::cookie(0, &RET));
        world(&b, [0x9000, 0x5000]);
        b.part(Part::Entry, at(G, 0x8f00));
        // Another goroutine as far from the top of its own stack.
        b.machine.kernel(|k| k.now += 10);
        b.part(Part::Entry, at(G + 0x100, 0x4f00));
        assert_eq!((b.open(), b.counter(Counter::Abandoned)), (2, 0));
        world(&b, [0x7_0000, 0x5000]);
        b.machine.kernel(|k| k.now += 90);
        b.part(part, at(G, 0x8f00 + popped));
        assert_eq!(b.open(), 2, "the stack is not there any more");
        b.part(part, at(G, 0x6_ff00 + popped));
        b.part(part, at(G + 0x100, 0x4f00 + popped));
        assert_eq!((b.histogram().max, b.histogram().min), (100, 90));
        // A g that cannot be read names no frame.
        b.part(Part::Entry, at(1, 0x4f00));
        b.part(part, at(1, 0x4f00 + popped));
        assert_eq!(b.counters(), [3, 0, 2, 1, 0]);
        assert_eq!((b.counter(Counter::Unreadable), b.open()), (1, 0));
    }
}

#[test]
fn what_runs_is_said_by_a_call_and_taken_back_at_its_end() {
    let resume = spec(
        exits(vec![], FrameName::Running),
        Action::Running {
            value: Expr::Arg(0),
        },
    );
    let mut b = Bench::new(resume, true);
    let thread = b.machine.kernel(|k| k.pid_tgid).to_ne_bytes().to_vec();
    let runs = |b: &Bench| {
        b.machine.kernel(|k| {
            // SAFETY: the value lies in the machine's arena.
            k.running
                .entries
                .get(&thread)
                .map(|at| unsafe { *(*at as *const u64) })
        })
    };
    let inner = |args: &[u64]| {
        let mut regs = regs(args);
        regs[STACK_POINTER] -= 64;
        regs
    };
    b.hit(&[0xc0]);
    assert_eq!(runs(&b), Some(0xc0));
    b.part(Part::Entry, inner(&[0xc1]));
    assert_eq!(runs(&b), Some(0xc1));
    b.exits(0, &RET, inner(&[]));
    assert_eq!(runs(&b), Some(0xc0));
    b.exits(0, &RET, regs(&[]));
    assert_eq!((runs(&b), b.open()), (None, 0));
    assert_eq!(b.counters(), [2, 0, 2, 0, 0]);
    // No room for the thread: nothing stays behind.
    b.machine.kernel(|k| k.running.most = 0);
    b.hit(&[0xc2]);
    assert_eq!((runs(&b), b.open()), (None, 0));
    assert_eq!(b.counters(), [3, 0, 2, 0, 1]);
}

#[test]
fn a_session_says_what_runs_too() {
    let mut s = spec(
        call(vec![]),
        Action::Running {
            value: Expr::Arg(0),
        },
    );
    let ProbeKind::Call { filter, .. } = &mut s.kind else {
        panic!()
    };
    *filter = Some(Expr::binary(BinOp::Eq, Expr::Latency, Expr::Const(33)));
    let mut b = Bench::new(s, true);
    let running = |b: &Bench| b.machine.kernel(|k| k.running.entries.len());
    for latency in [33, 34] {
        b.machine.kernel(|k| k.is_return = false);
        b.part(Part::Session, regs(&[0xc0]));
        assert_eq!((running(&b), b.open()), (1, 1));
        b.machine.kernel(|k| {
            k.is_return = true;
            k.now += latency;
        });
        let mut popped = regs(&[]);
        popped[STACK_POINTER] += 8;
        b.part(Part::Session, popped);
        assert_eq!((running(&b), b.open()), (0, 0));
    }
    assert_eq!(b.counters(), [2, 0, 1, 1, 0]);
}

#[test]
fn frames_are_named_by_what_runs() {
    let mut b = Bench::new(spec(exits(vec![], FrameName::Running), latency()), true);
    let run = |b: &Bench, what: Option<u64>| {
        let at = b.machine.room(8);
        b.machine.kernel(|k| {
            let key = k.pid_tgid.to_ne_bytes().to_vec();
            match what {
                // SAFETY: room for a word was just taken.
                Some(what) => unsafe {
                    *(at as *mut u64) = what;
                    k.running.entries.insert(key, at);
                },
                None => {
                    k.running.entries.remove(&key);
                }
            }
            k.now += 10;
        });
    };
    // Three open at one stack pointer, ended in another order.
    for what in [None, Some(1), Some(2)] {
        run(&b, what);
        b.hit(&[]);
    }
    assert_eq!((b.open(), b.counter(Counter::Abandoned)), (3, 0));
    for (what, left) in [(Some(1), 2), (None, 1), (None, 1), (Some(2), 0)] {
        run(&b, what);
        b.exits(0, &RET, regs(&[]));
        assert_eq!(b.open(), left);
    }
    let h = b.histogram();
    assert_eq!((h.min, h.max, h.sum), (20, 40, 20 + 40 + 40));
    assert_eq!(b.counters(), [3, 0, 3, 0, 0]);
}

#[test]
fn only_a_plain_call_says_what_runs() {
    let why = |kind| {
        let s = spec(
            kind,
            Action::Running {
                value: Expr::Arg(0),
            },
        );
        let error = compile(0, &s, Part::Entry, SiteSource::Cookie, &target(&s, true));
        error.unwrap_err().to_string()
    };
    for kind in [ProbeKind::Entry, call(vec![Capture::Int(Expr::Arg(0))])] {
        assert_eq!(
            why(kind),
            "probe test: the action: only a call that saves nothing can say what runs"
        );
    }
}
