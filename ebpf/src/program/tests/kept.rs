//! Frames that sessions keep with their thread.

use super::*;
use crate::program::kept::array_bytes;
use crate::program::nesting::MAX_PENDING;

const TASK: u64 = 0xffff_8880_0000_1000;
const STACK_POINTER: usize = crate::arch::SP as usize / 8;

/// A thread that makes calls of a probe that saves its argument, and the kernel that pairs them.
struct Thread {
    bench: Bench,
    /// Cookies of the calls that the kernel follows, with their sites and stack pointers.
    open: Vec<(u64, u32, u64)>,
}

impl Thread {
    fn new(sites: u32) -> Thread {
        let captures = vec![Capture::Saved(0), Capture::Int(Expr::Latency)];
        let mut s = spec(
            call(vec![Capture::Int(Expr::Arg(0))]),
            Action::Event { captures },
        );
        s.sites = sites;
        let bytes = array_bytes(&s).expect("they are kept");
        let mut bench = Bench::new(s, true);
        bench.target.task_storage = true;
        bench.machine.kernel(|k| {
            k.kept.value = bytes as usize;
            k.task = TASK;
        });
        let open = Vec::new();
        Thread { bench, open }
    }

    fn run(&mut self, returns: bool, cookie: u64, site: u32, regs: [u64; REGS]) -> u64 {
        self.bench.machine.kernel(|k| {
            k.now += 10;
            k.is_return = returns;
            k.cookie = site.into();
            k.session[0] = cookie;
        });
        self.bench.part(Part::Session, regs);
        self.bench.machine.kernel(|k| k.session[0])
    }

    fn enter(&mut self, sp: u64, site: u32, argument: u64) {
        let mut regs = regs(&[argument]);
        regs[STACK_POINTER] = sp;
        let cookie = self.run(false, 0, site, regs);
        self.open.push((cookie, site, sp));
    }

    /// The return of the innermost call.
    fn leave(&mut self) {
        let (cookie, site, sp) = self.open.pop().expect("a call is open");
        let mut regs = regs(&[]);
        regs[STACK_POINTER] = sp + 8;
        self.run(true, cookie, site, regs);
    }

    /// What calls had saved, and their sites, in the order of their returns.
    fn told(&self) -> Vec<(u64, u32)> {
        self.bench.records(|r| (r.int(0).unwrap(), r.site))
    }

    /// Hits, returns, abandoned, dropped.
    fn counted(&self) -> [u64; 4] {
        let all = [
            Counter::Hits,
            Counter::Emitted,
            Counter::Abandoned,
            Counter::DroppedMap,
        ];
        all.map(|counter| self.bench.counter(counter))
    }
}

#[test]
fn each_return_meets_its_own_entry() {
    let mut t = Thread::new(1);
    for round in 0..3 {
        for depth in 0..5 {
            t.enter(SP - 64 * depth, 0, 100 * round + depth);
        }
        t.leave();
        t.leave();
        t.enter(SP - 200, 0, 100 * round + 9);
        (0..4).for_each(|_| t.leave());
    }
    let order = [4, 3, 9, 2, 1, 0];
    let expected: Vec<_> = (0..3)
        .flat_map(|round| order.map(|n| (100 * round + n, 0)))
        .collect();
    assert_eq!(t.told(), expected);
    assert_eq!(t.counted(), [18, 18, 0, 0]);
    let latency = t.bench.records(|r| (r.int(1), r.latency_ns));
    assert_eq!(latency[..2], [(Some(10), 10), (Some(30), 30)]);
}

#[test]
fn calls_that_were_left_make_room_and_are_counted() {
    let mut t = Thread::new(1);
    t.enter(SP, 0, 0);
    for n in 1..4 {
        t.enter(SP - 32 * n, 0, n);
    }
    // A jump out of three of them: the next call finds two below it, one at its own place.
    t.open.truncate(1);
    t.enter(SP - 32, 0, 7);
    assert_eq!(t.counted(), [5, 0, 3, 0]);
    t.leave();
    t.enter(SP - 64, 0, 8);
    t.open.truncate(1);
    // The outer one's return finds another.
    t.leave();
    assert_eq!(t.told(), [(7, 0), (0, 0)]);
    assert_eq!(t.counted(), [6, 2, 4, 0]);
}

#[test]
fn functions_that_are_tail_called_share_a_place_but_no_frame() {
    let mut t = Thread::new(3);
    t.enter(SP, 0, 10);
    t.enter(SP, 1, 11);
    t.enter(SP, 2, 12);
    (0..3).for_each(|_| t.leave());
    assert_eq!(t.told(), [(12, 2), (11, 1), (10, 0)]);
    assert_eq!(t.counted(), [3, 3, 0, 0]);
}

#[test]
fn as_many_calls_as_the_kernel_follows_have_room() {
    let most = MAX_PENDING as u64;
    let mut t = Thread::new(1);
    for n in 0..=most {
        t.enter(SP - 16 * n, 0, n);
    }
    assert_eq!(t.counted(), [most + 1, 0, 0, 1]);
    t.open.pop();
    (0..most).for_each(|_| t.leave());
    let expected: Vec<_> = (0..most).rev().map(|n| (n, 0)).collect();
    assert_eq!(t.told(), expected);
}

/// A process that is forked within a call returns from it too, with the same cookie; what it keeps is its own.
#[test]
fn a_forked_process_has_none_of_its_parents_frames() {
    let mut t = Thread::new(1);
    t.enter(SP, 0, 5);
    let parents = t.open.clone();
    t.bench.machine.kernel(|k| k.task = TASK + 4096);
    t.leave();
    assert_eq!(t.counted(), [1, 0, 0, 0]);
    t.open = parents.clone();
    t.enter(SP - 64, 0, 6);
    t.leave();
    // It keeps something now, at the place that the cookie tells.
    t.leave();
    assert_eq!(t.told(), [(6, 0)]);
    t.bench.machine.kernel(|k| k.task = TASK);
    t.open = parents;
    t.leave();
    assert_eq!(t.told(), [(6, 0), (5, 0)]);
    assert_eq!(t.counted(), [2, 2, 0, 0]);
}

#[test]
fn a_thread_without_memory_drops_its_calls() {
    let mut t = Thread::new(1);
    t.bench.machine.kernel(|k| k.kept.most = 0);
    t.enter(SP, 0, 1);
    assert_eq!(t.counted(), [1, 0, 0, 1]);
}

#[test]
fn large_frames_are_not_kept_with_threads() {
    let of = |saved| array_bytes(&spec(call(saved), Action::Count { key: vec![] }));
    let word = || Capture::Int(Expr::Arg(0));
    assert_eq!(of(vec![]), None, "the cookie is enough");
    assert_eq!(of(vec![word()]), Some(8 + 64 * 72));
    assert_eq!(of(vec![word(); 8]), None);
    assert_eq!(of(vec![string(Expr::Arg(0), 64)]), None);
}
