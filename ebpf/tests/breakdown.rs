//! Where the time of calls goes, of functions of this very binary that spin, sleep and wait, against what each of them
//! has measured of itself meanwhile.

mod common;

use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use common::*;
use uprof_ebpf::expr::{Expr, Spent};
use uprof_ebpf::{Action, BreakdownData, Capture, Engine, ProbeSpec};

/// How long each call is at what it is about.
const SPAN: Duration = Duration::from_millis(20);
/// What may be off: the probes and what of the call is outside of its own measurement, in nanoseconds.
const SLACK: u64 = 100_000;

fn clock(which: libc::clockid_t) -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is valid for writing.
    unsafe { libc::clock_gettime(which, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn monotonic() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

fn cpu() -> u64 {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// How long this thread has waited for a CPU, as the scheduler accounts it.
fn run_queue() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

/// What a call has measured of itself, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Truth {
    wall: u64,
    cpu: u64,
    run_queue: u64,
}

impl Truth {
    fn of(work: &mut dyn FnMut()) -> Truth {
        let (queue, wall, busy) = (run_queue(), monotonic(), cpu());
        work();
        let (busy, wall) = (cpu() - busy, monotonic() - wall);
        Truth {
            wall,
            cpu: busy,
            run_queue: run_queue() - queue,
        }
    }

    fn asleep(self) -> u64 {
        self.wall.saturating_sub(self.cpu + self.run_queue)
    }
}

/// The probed function.
#[inline(never)]
fn work(what: &mut dyn FnMut(), truth: &mut Option<Truth>) -> u64 {
    *truth = Some(Truth::of(what));
    black_box(truth.map_or(0, |t| t.wall))
}

fn spin() {
    let end = cpu() + SPAN.as_nanos() as u64;
    while cpu() < end {}
}

/// Waits for what another thread does a while later.
fn later(wait: impl FnOnce(), act: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(SPAN);
            act();
        });
        wait();
    });
}

fn socket() {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    let wait = || assert_eq!(ours.read(&mut [0]).unwrap(), 1);
    later(wait, || theirs.write_all(b"x").unwrap());
}

fn ready() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let wait = || {
        use std::os::fd::AsRawFd;
        let mut wanted = libc::pollfd {
            fd: ours.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one descriptor, as said.
        assert_eq!(unsafe { libc::poll(&mut wanted, 1, -1) }, 1);
    };
    later(wait, || theirs.write_all(b"x").unwrap());
}

fn pipe() {
    let (mut ours, mut theirs) = std::io::pipe().unwrap();
    let wait = || assert_eq!(ours.read(&mut [0]).unwrap(), 1);
    later(wait, || theirs.write_all(b"x").unwrap());
}

fn futex() {
    let (say, hear) = mpsc::channel();
    later(move || hear.recv().unwrap(), move || say.send(()).unwrap());
}

fn poll_for_nothing() {
    // SAFETY: no descriptors.
    unsafe { libc::poll(std::ptr::null_mut(), 0, SPAN.as_millis() as i32) };
}

const KINDS: [(&str, fn(), Spent); 7] = [
    ("spins", spin, Spent::Cpu),
    ("sleeps", || std::thread::sleep(SPAN), Spent::Sleep),
    ("polls for nothing", poll_for_nothing, Spent::Sleep),
    ("waits for a channel", futex, Spent::Lock),
    ("waits for a socket", socket, Spent::Network),
    ("waits for readiness", ready, Spent::Network),
    ("waits for a pipe", pipe, Spent::Other),
];

fn events() -> ProbeSpec {
    let spent = Spent::ALL.map(|on| Capture::Int(Expr::Spent(on)));
    call(
        vec![],
        Action::Event {
            captures: spent.to_vec(),
        },
    )
}

fn near(told: u64, truth: u64) -> bool {
    told.abs_diff(truth) <= SLACK.max(truth / 20)
}

/// The parts and latencies of the calls since the last time.
fn drained(engine: &mut Engine) -> Vec<([u64; 7], u64)> {
    let mut all = Vec::new();
    engine
        .drain(|r| {
            let parts = std::array::from_fn(|i| r.int(i).expect("it is known"));
            all.push((parts, r.latency_ns));
        })
        .unwrap();
    all
}

#[test]
fn each_call_is_told_as_it_has_measured_itself() {
    let _alone = alone();
    for (way, options) in ways() {
        let mut engine = load(events(), &options);
        attach(&mut engine, work as *const () as usize);
        for (what, body, on) in KINDS {
            let mut best = None;
            // A thread that is preempted outside of its measurement has measured something else.
            for _ in 0..10 {
                let mut truth = None;
                work(&mut || body(), &mut truth);
                let truth = truth.unwrap();
                let all = drained(&mut engine);
                let [(parts, latency)] = all[..] else {
                    panic!("{way}: {what}: {all:?}")
                };
                assert_eq!(
                    parts.iter().fold(0u64, |a, b| a.wrapping_add(*b)),
                    latency,
                    "{way}: {what}: {parts:?}"
                );
                assert!(
                    parts.iter().all(|part| *part <= latency),
                    "{way}: {what}: {parts:?}"
                );
                let asleep = match on {
                    Spent::Cpu => 0,
                    on => parts[on as usize],
                };
                let others: u64 = parts[2..].iter().sum::<u64>() - asleep;
                let right = near(parts[0], truth.cpu)
                    && near(parts[1], truth.run_queue)
                    && near(asleep, truth.asleep())
                    && near(latency, truth.wall)
                    && (on == Spent::Cpu || others < 2 * SLACK);
                best = Some((parts, truth));
                if right {
                    best = None;
                    break;
                }
            }
            assert_eq!(best.map(|b| format!("{b:?}")), None, "{way}: {what}");
        }
        engine.detach();
        accounted(way, engine.counters(0));
    }
}

#[test]
fn sums_are_those_of_the_calls() {
    let _alone = alone();
    for (way, options) in ways() {
        let value = Expr::Latency;
        let spec = call(vec![], Action::Breakdown { value, key: vec![] });
        let mut engine = load(spec, &options);
        attach(&mut engine, work as *const () as usize);
        let mut truths = Vec::new();
        for (_, body, _) in KINDS {
            let mut truth = None;
            work(&mut || body(), &mut truth);
            truths.extend(truth);
        }
        engine.detach();
        accounted(way, engine.counters(0));
        let [(_, sums)] = engine.breakdowns(0).unwrap()[..] else {
            panic!("{way}: one sum")
        };
        let [(_, hist)] = &engine.histograms(0).unwrap()[..] else {
            panic!("{way}: one histogram")
        };
        let BreakdownData { calls, known, ns } = sums;
        assert_eq!((calls, known, hist.count), (7, 7, 7), "{way}");
        assert_eq!(u128::from(ns.iter().sum::<u64>()), hist.sum, "{way}");
        let span = SPAN.as_nanos() as u64;
        for (on, spans) in [(Spent::Sleep, 2), (Spent::Lock, 1), (Spent::Network, 2)] {
            assert!(
                ns[on as usize] > spans * span * 9 / 10,
                "{way}: {sums:?} {truths:?}"
            );
        }
    }
}

/// The innermost of calls in each other, and a call that began before another, have their own shares.
#[inline(never)]
fn outer(truth: &mut Option<Truth>) -> u64 {
    std::thread::sleep(SPAN);
    work(&mut || std::thread::sleep(SPAN), truth)
}

#[test]
fn calls_in_each_other_and_threads_beside_each_other() {
    let _alone = alone();
    for (way, options) in ways() {
        let mut engine = load_all(vec![events(), events()], &options);
        attach(&mut engine, work as *const () as usize);
        let site = site(outer as *const () as usize, 0);
        engine.attach(1, &[site], Some(std::process::id())).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        black_box(outer(&mut None));
                    }
                });
            }
        });
        let mut sleeps = [Vec::new(), Vec::new()];
        engine
            .drain(|r| {
                let parts: Vec<u64> = (0..7).map(|i| r.int(i).unwrap()).collect();
                let sum = parts.iter().fold(0u64, |a, b| a.wrapping_add(*b));
                assert_eq!(sum, r.latency_ns, "{way}: {parts:?}");
                let within = parts.iter().all(|part| *part <= r.latency_ns);
                assert!(within, "{way}: {parts:?}");
                sleeps[usize::from(r.probe)].push(parts[Spent::Sleep as usize]);
            })
            .unwrap();
        for (probe, spans) in [(0, 1), (1, 2)] {
            let least = spans * SPAN.as_nanos() as u64;
            assert_eq!(sleeps[probe].len(), 20, "{way}");
            // (A sleep may be long, never short; that of the timer's is a bit before the wake-up.)
            assert!(
                sleeps[probe].iter().all(|ns| *ns > least - SLACK),
                "{way}: {sleeps:?}"
            );
        }
    }
}

#[test]
fn threads_on_one_cpu_wait_for_each_other() {
    let _alone = alone();
    for (way, options) in ways() {
        let mut engine = load(events(), &options);
        attach(&mut engine, work as *const () as usize);
        let truths: Vec<Truth> = std::thread::scope(|scope| {
            let run = || {
                // SAFETY: plain data, of which zeros are a value.
                let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
                // SAFETY: CPU 0 is in every set's range, and the set is as large as said.
                unsafe {
                    libc::CPU_SET(0, &mut set);
                    libc::sched_setaffinity(0, size_of_val(&set), &set);
                }
                let mut truth = None;
                work(&mut || (0..5).for_each(|_| spin()), &mut truth);
                truth.unwrap()
            };
            let threads = [(); 2].map(|()| scope.spawn(run));
            threads.map(|t| t.join().unwrap()).to_vec()
        });
        engine.detach();
        let all = drained(&mut engine);
        assert_eq!(all.len(), 2, "{way}");
        let sum = |f: &dyn Fn(&[u64; 7]) -> u64| all.iter().map(|(parts, _)| f(parts)).sum::<u64>();
        let truth = |f: fn(&Truth) -> u64| truths.iter().map(f).sum::<u64>();
        let told = (sum(&|p| p[0]), sum(&|p| p[1]));
        let measured = (truth(|t| t.cpu), truth(|t| t.run_queue));
        assert!(measured.1 > SPAN.as_nanos() as u64, "{way}: {truths:?}");
        let right = near(told.0, measured.0) && near(told.1, measured.1);
        assert!(right, "{way}: {told:?} {measured:?}");
    }
}
