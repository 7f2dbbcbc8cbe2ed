//! One program takes over from another: every entry is counted once, every call ends once.

use super::*;
use crate::layout::TURN;
use crate::program::turn::{CHANGING, FORMER, SUCCESSOR};
use crate::spec::Returns;

/// Both generations of a probe, in one machine.
struct Two {
    bench: Bench,
    /// The parts of the former one.
    entry: Part,
    at_return: Part,
}

impl Two {
    fn new(entry: Part, saved: Vec<Capture>, atomics: bool) -> Two {
        let at_return = match entry {
            Part::Session => Part::Session,
            _ => Part::Return,
        };
        let action = Action::Count { key: vec![] };
        Two {
            bench: Bench::new(spec(call(saved), action), atomics),
            entry,
            at_return,
        }
    }

    fn turn(&mut self, turn: u64) {
        let state = &self.bench.target.state;
        let word = (state.first_shard + state.blocks[0].offset) / 8 + TURN;
        self.bench.machine.state[word as usize] = turn;
    }

    fn generation(&mut self, successor: bool) {
        let ProbeKind::Call { returns, .. } = &mut self.bench.spec.kind else {
            panic!()
        };
        *returns = match successor {
            true => Returns::Exits,
            false => Returns::Replaced,
        };
        self.bench.target.successors = if successor { vec![0] } else { vec![] };
    }

    /// An entry as the kernel has it, the successor first; what the word was for each. Tells
    /// whether the kernel looks after the return.
    fn enter(&mut self, [first, second]: [u64; 2]) -> bool {
        self.generation(true);
        self.turn(first);
        assert_eq!(self.bench.part(Part::Entry, regs(&[])), 0);
        self.generation(false);
        self.turn(second);
        self.bench.machine.kernel(|k| k.is_return = false);
        let result = self.bench.part(self.entry, regs(&[]));
        self.entry == Part::Session && result == 0
    }

    /// The end: the exit, then the return. (A session's only where the entry left it one.)
    fn leave(&mut self, returns: bool) {
        self.generation(true);
        self.bench.machine.kernel(|k| {
            k.cookie = 1 << 49;
            k.now += 10;
        });
        self.bench.part(Part::Exit, regs(&[]));
        self.generation(false);
        if returns || self.at_return == Part::Return {
            self.bench.machine.kernel(|k| k.is_return = true);
            let mut popped = regs(&[]);
            popped[crate::arch::SP as usize / 8] += 8;
            self.bench.part(self.at_return, popped);
        }
    }

    fn open(&self) -> usize {
        self.bench.machine.kernel(|k| k.frames.entries.len())
    }
}

fn each(mut test: impl FnMut(Two)) {
    for atomics in [true, false] {
        for saved in [vec![], vec![Capture::Int(Expr::Arg(0))]] {
            for entry in [Part::Entry, Part::Session] {
                test(Two::new(entry, saved.clone(), atomics));
            }
        }
    }
}

#[test]
fn an_entry_is_a_hit_once_and_a_call_ends_once_whenever_the_turn_goes_over() {
    // (From the first to the last nothing goes over within one entry.)
    let ways = [
        [FORMER, FORMER],
        [FORMER, CHANGING],
        [CHANGING, CHANGING],
        [CHANGING, SUCCESSOR],
        [SUCCESSOR, SUCCESSOR],
    ];
    for way in ways {
        each(|mut two| {
            for n in 1..=2 {
                // A thread that has gone over does not go back.
                if (way, n) == ([FORMER, CHANGING], 2) {
                    two.bench.machine.kernel(|k| k.pid_tgid += 1);
                }
                let returns = two.enter(way);
                let former = way[0] == FORMER;
                assert_eq!(returns, former && two.entry == Part::Session, "{way:?}");
                assert_eq!(two.bench.counters(), [n, 0, n - 1, 0, 0], "{way:?}");
                two.leave(returns);
                assert_eq!(two.bench.counters(), [n, 0, n, 0, 0], "{way:?}");
                assert_eq!(two.open(), 0, "{way:?}");
            }
        });
    }
}

#[test]
fn threads_go_over_each_by_itself() {
    each(|mut two| {
        let thread = |two: &Two, tid: u64| {
            two.bench.machine.kernel(|k| k.pid_tgid = 77 << 32 | tid);
        };
        thread(&two, 78);
        let returns = two.enter([CHANGING, CHANGING]);
        two.leave(returns);
        // This one's entry had begun before.
        thread(&two, 79);
        let returns = two.enter([FORMER, CHANGING]);
        two.leave(returns);
        thread(&two, 78);
        let returns = two.enter([CHANGING, CHANGING]);
        two.leave(returns);
        assert_eq!(two.bench.counters(), [3, 0, 3, 0, 0]);
    });
}

#[test]
fn calls_that_always_ended_at_exits_have_no_turns() {
    let mut two = Two::new(Part::Entry, vec![], true);
    two.generation(true);
    two.bench.target.successors.clear();
    two.bench.hit(&[]);
    assert_eq!(two.bench.counters(), [1, 0, 0, 0, 0]);
}
