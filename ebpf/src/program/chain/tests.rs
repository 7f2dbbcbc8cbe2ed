//! Chains of open calls against what really happened, on random sequences of calls, returns, tail
//! calls and long jumps in several threads.

use super::super::vm::{Kernel, Machine};
use super::super::*;
use crate::expr::Expr;
use crate::record::Record;
use crate::site::AttachExit;
use crate::spec::Capture;
use proptest::prelude::*;

const REGS: usize = crate::arch::REGS_SIZE / 8;
const TRAMPOLINE: u64 = 0x7fff_ffff_f000;
const STACK: u64 = 1 << 13;
const THREADS: usize = 3;
/// The functions: how the returns of each are seen, and by which probes.
const FUNCTIONS: [(Returns, &[usize]); 5] = [
    (Returns::Replaced, &[0]),
    (Returns::Replaced, &[1]),
    (Returns::Exits, &[2]),
    (Returns::Exits, &[3]),
    (Returns::Replaced, &[4, 5]),
];
const PROBES: usize = 6;

fn probe(index: usize) -> ProbeSpec {
    let function = FUNCTIONS.iter().find(|f| f.1.contains(&index)).unwrap();
    ProbeSpec {
        on: On::Program,
        sample: 1,
        name: "test".into(),
        // Each has a site of its own, since the machine has one map of frames.
        sites: PROBES as u32,
        kind: ProbeKind::Call {
            saved: vec![],
            filter: None,
            returns: function.0,
            frame: FrameName::Stack,
        },
        filter: Some(Expr::Arg(0)),
        keep: None,
        action: Action::Event {
            captures: [Expr::Depth, Expr::Parent, Expr::SelfTime]
                .map(Capture::Int)
                .to_vec(),
        },
    }
}

/// What a record says: probe, latency, depth, parent, own time.
type Told = (usize, u64, Option<u64>, Option<u64>, Option<u64>);

struct World {
    machine: Machine,
    /// By probe and part.
    code: Vec<[Code; 2]>,
    layouts: Vec<RecordLayout>,
    threads: Vec<Vec<Frame>>,
    expected: Vec<Told>,
    now: u64,
}

/// A stretch of a stack, and the calls that are to end with it: more than one after tail calls.
struct Frame {
    sp: u64,
    size: u64,
    calls: Vec<Call>,
}

struct Call {
    function: usize,
    began: u64,
    in_callees: u64,
    depth: u64,
    parent: u64,
    cookies: Vec<u64>,
}

#[derive(Clone, Debug)]
enum Step {
    /// A function, or none that is probed; the size of its frame in words; whether it is filtered.
    Call(Option<usize>, u64, bool),
    Tail(usize, bool),
    Return,
    /// To the frame of that number.
    LongJump(usize),
}

impl World {
    fn new() -> World {
        let specs: Vec<ProbeSpec> = (0..PROBES).map(probe).collect();
        let state = StateLayout::new(&specs, 1, true).unwrap();
        let mut kernel = Kernel::default();
        kernel.frames.value = FrameKind::Time.size(&RecordLayout::new(&specs[0])) as usize;
        kernel.frames.most = usize::MAX;
        let stacks = (0..THREADS as u64).map(|t| (STACK * t, vec![0; STACK as usize]));
        kernel.user = stacks.collect();
        let machine = Machine::new(kernel, state.size, 0);
        // A task, its memory, and where that has the trampoline: in one place.
        let task = machine.room(32);
        // SAFETY: room for four words was just taken.
        unsafe { (task as *mut [u64; 4]).write([task, task, TRAMPOLINE, 0]) };
        machine.kernel(|k| k.task = task);
        let target = Target {
            atomics: true,
            pid_test: false,
            task_storage: false,
            chains: Some(Chains {
                trampoline: Some([0, 8, 16]),
            }),
            pending: None,
            ring_bytes: 1 << 20,
            scratch: ScratchLayout::default(),
            state,
            successors: vec![],
        };
        let code = specs.iter().enumerate().map(|(i, spec)| {
            let parts = match returns(spec) {
                Returns::Replaced => [Part::Session, Part::Session],
                Returns::Exits => [Part::Entry, Part::Exit],
            };
            parts.map(|part| compile(i, spec, part, SiteSource::Cookie, &target).unwrap())
        });
        World {
            code: code.collect(),
            layouts: specs.iter().map(RecordLayout::new).collect(),
            machine,
            threads: (0..THREADS).map(|_| Vec::new()).collect(),
            expected: Vec::new(),
            now: 1000,
        }
    }

    /// Where the next call's return address goes.
    fn below(&self, thread: usize) -> u64 {
        let top = STACK * (thread as u64 + 1) - 64;
        let bottom = self.threads[thread].last().map_or(top, |f| f.sp - f.size);
        bottom - 8
    }

    fn write(&mut self, address: u64, word: u64) {
        let (at, within) = ((address / STACK) as usize, (address % STACK) as usize);
        self.machine
            .kernel(|k| k.user[at].1[within..within + 8].copy_from_slice(&word.to_le_bytes()));
    }

    fn read(&self, address: u64) -> u64 {
        let mut word = [0; 8];
        self.machine.kernel(|k| k.read(address, &mut word)).unwrap();
        u64::from_le_bytes(word)
    }

    fn run(&mut self, thread: usize, probe: usize, end: usize, regs: [u64; REGS]) -> u64 {
        let now = self.now;
        self.machine.kernel(|k| {
            k.now = now;
            k.pid_tgid = 77 << 32 | (100 + thread as u64);
            k.is_return = end == 1;
            k.cookie = probe as u64;
            if end == 1 && returns(&super::tests::probe(probe)) == Returns::Exits {
                let exit = AttachExit {
                    offset: 0,
                    condition: None,
                    jump: false,
                };
                k.cookie = exit::cookie(probe as u32, &exit);
            }
        });
        self.machine.run(&self.code[probe][end].clone(), &regs)
    }

    /// A probed function begins at `sp`.
    fn enter(&mut self, thread: usize, function: usize, sp: u64, filtered: bool) {
        let (how, probes) = FUNCTIONS[function];
        let mut regs = [0; REGS];
        regs[crate::arch::SP as usize / 8] = sp;
        regs[crate::arch::DWARF_REGS[16] as usize / 8] = 1000 + function as u64;
        regs[crate::arch::ARGS[0] as usize / 8] = u64::from(!filtered);
        let mut cookies = Vec::new();
        for probe in probes {
            let skip = self.run(thread, *probe, 0, regs);
            assert_eq!(skip, u64::from(filtered && how == Returns::Replaced));
            cookies.push(self.machine.kernel(|k| k.session[0]));
        }
        if filtered {
            return;
        }
        if how == Returns::Replaced {
            self.write(sp, TRAMPOLINE);
        }
        // What is around it: the calls of the nearest frame below that has any. (Those of its own
        // frame tail-called it.)
        let (own, below) = self.threads[thread].split_last_mut().unwrap();
        let around = below.iter().rev().find_map(|f| f.calls.last());
        own.calls.push(Call {
            function,
            began: self.now,
            in_callees: 0,
            depth: around.map_or(0, |c| c.depth + 1),
            parent: around.map_or(0, |c| {
                let probe = FUNCTIONS[c.function].1[0] as u64;
                1 + (probe << 32 | probe)
            }),
            cookies,
        });
    }

    /// The last call of the last frame ends.
    fn end(&mut self, thread: usize) {
        let frame = self.threads[thread].last_mut().unwrap();
        let (call, sp) = (frame.calls.pop().unwrap(), frame.sp);
        let latency = self.now - call.began;
        let (how, probes) = FUNCTIONS[call.function];
        let mut regs = [0; REGS];
        regs[crate::arch::SP as usize / 8] = match how {
            Returns::Replaced => sp + 8,
            Returns::Exits => sp,
        };
        for (probe, cookie) in probes.iter().zip(&call.cookies) {
            self.machine.kernel(|k| k.session[0] = *cookie);
            self.run(thread, *probe, 1, regs);
            self.expected.push((
                *probe,
                latency,
                Some(call.depth),
                Some(call.parent),
                Some(latency - call.in_callees),
            ));
        }
        // The one that tail-called it, else the one around it.
        let frames = self.threads[thread].iter_mut().rev();
        if let Some(outer) = frames.flat_map(|f| f.calls.last_mut()).next() {
            outer.in_callees += latency;
        }
    }

    fn step(&mut self, thread: usize, step: &Step) {
        self.now += 7;
        match step {
            Step::Call(function, words, filtered) => {
                let sp = self.below(thread);
                if sp % STACK < 1024 {
                    return;
                }
                // A frame calls one function from one place; what is not probed is called from
                // many. (A return address that is there again is no sign of a call that was left.)
                let caller = self.threads[thread].len() as u64;
                let place = function.map_or(16 * self.now, |f| f as u64);
                self.write(sp, 0x40_0000 + 16 * caller + place);
                let size = 8 * words;
                for word in 1..=*words {
                    self.write(sp - 8 * word, self.now);
                }
                let calls = Vec::new();
                self.threads[thread].push(Frame { sp, size, calls });
                if let Some(function) = function {
                    self.enter(thread, *function, sp, *filtered);
                }
            }
            Step::Tail(function, filtered) => {
                let Some(frame) = self.threads[thread].last() else {
                    return;
                };
                let sp = frame.sp;
                let exits = |c: &Call| FUNCTIONS[c.function].0 == Returns::Exits;
                if frame.calls.last().is_some_and(exits) {
                    self.end(thread);
                    self.now += 7;
                }
                self.enter(thread, *function, sp, *filtered);
            }
            Step::Return => {
                let Some(frame) = self.threads[thread].last() else {
                    return;
                };
                let replaced = self.read(frame.sp) == TRAMPOLINE;
                assert_eq!(
                    replaced,
                    frame
                        .calls
                        .iter()
                        .any(|c| FUNCTIONS[c.function].0 == Returns::Replaced)
                );
                for _ in 0..frame.calls.len() {
                    self.end(thread);
                }
                self.threads[thread].pop();
            }
            Step::LongJump(to) => self.threads[thread].truncate(*to),
        }
    }

    fn told(&self) -> Vec<Told> {
        self.machine.kernel(|k| {
            let decode = |data: &Vec<u8>| {
                let r = Record::decode(data, &self.layouts).unwrap();
                (
                    usize::from(r.probe),
                    r.latency_ns,
                    r.int(0),
                    r.int(1),
                    r.int(2),
                )
            };
            k.records.iter().map(decode).collect()
        })
    }
}

fn step() -> impl Strategy<Value = Step> {
    let filtered = || prop::bool::weighted(0.1);
    prop_oneof![
        6 => (prop::option::weighted(0.8, 0..FUNCTIONS.len()), 0u64..6, filtered())
            .prop_map(|(f, words, filtered)| Step::Call(f, words, filtered)),
        2 => (0..FUNCTIONS.len(), filtered()).prop_map(|(f, filtered)| Step::Tail(f, filtered)),
        6 => Just(Step::Return),
        1 => (0usize..8).prop_map(Step::LongJump),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn chains_tell_what_happened(
        steps in prop::collection::vec((0..THREADS, step()), 1..80)
    ) {
        let mut world = World::new();
        for (thread, step) in &steps {
            world.step(*thread, step);
        }
        for thread in 0..THREADS {
            while !world.threads[thread].is_empty() {
                world.step(thread, &Step::Return);
            }
        }
        prop_assert_eq!(world.told(), world.expected);
    }
}

/// One probe with two sites whose calls end at their exits, in a name other than the stack's.
struct Lanes {
    machine: Machine,
    code: [Code; 2],
    layouts: Vec<RecordLayout>,
}

impl Lanes {
    fn new(name: FrameName) -> Lanes {
        let mut spec = probe(2);
        spec.filter = None;
        if let ProbeKind::Call { frame, .. } = &mut spec.kind {
            *frame = name;
        }
        let specs = std::slice::from_ref(&spec);
        let state = StateLayout::new(specs, 1, true).unwrap();
        let mut kernel = Kernel::default();
        kernel.frames.key = crate::layout::frame_key::size(name) as usize;
        kernel.frames.value = FrameKind::Time.size(&RecordLayout::new(&spec)) as usize;
        kernel.user = vec![(0, vec![0; STACK as usize])];
        let machine = Machine::new(kernel, state.size, 0);
        let target = Target {
            atomics: true,
            pid_test: false,
            task_storage: false,
            chains: Some(Chains {
                trampoline: Some([0, 8, 16]),
            }),
            pending: None,
            ring_bytes: 1 << 20,
            scratch: ScratchLayout::default(),
            state,
            successors: vec![],
        };
        let part = |part| compile(0, &spec, part, SiteSource::Cookie, &target).unwrap();
        Lanes {
            machine,
            code: [part(Part::Entry), part(Part::Exit)],
            layouts: vec![RecordLayout::new(&spec)],
        }
    }

    fn write(&mut self, address: u64, word: u64) {
        let at = address as usize;
        self.machine
            .kernel(|k| k.user[0].1[at..at + 8].copy_from_slice(&word.to_le_bytes()));
    }

    fn run(&mut self, end: usize, site: u32, sp: u64, owner: u64) {
        let exit = AttachExit {
            offset: 0,
            condition: None,
            jump: false,
        };
        // What every call has: a return address.
        self.write(sp, 0x40_0000);
        self.machine.kernel(|k| {
            k.now += 1;
            k.cookie = match end {
                0 => site.into(),
                _ => exit::cookie(site, &exit),
            };
        });
        let mut regs = [0; REGS];
        regs[crate::arch::SP as usize / 8] = sp;
        regs[crate::arch::DWARF_REGS[16] as usize / 8] = 1000 + u64::from(site);
        regs[crate::arch::GOROUTINE as usize / 8] = owner;
        self.machine.run(&self.code[end].clone(), &regs);
    }

    /// Site, depth and parent, in the order of the ends.
    fn told(&self) -> Vec<(u32, Option<u64>, Option<u64>)> {
        self.machine.kernel(|k| {
            let decode = |data: &Vec<u8>| {
                let r = Record::decode(data, &self.layouts).unwrap();
                (r.site, r.int(0), r.int(1))
            };
            k.records.iter().map(decode).collect()
        })
    }
}

#[test]
fn goroutines_have_chains_of_their_own_that_move_with_their_stacks() {
    let mut lanes = Lanes::new(FrameName::Goroutine);
    let (one, two) = (0x100, 0x200);
    lanes.write(one + 8, 0x1000);
    lanes.write(two + 8, 0x1800);
    lanes.run(0, 0, 0x1000 - 0x40, one);
    // Another goroutine on the same thread, higher up, where a thread's chain would be cut.
    lanes.run(0, 0, 0x1800 - 0x80, two);
    lanes.run(0, 1, 0x1000 - 0x80, one);
    // The first one's stack grows.
    lanes.write(one + 8, 0x1400);
    lanes.write(0x1400 - 0x40, 0x40_0000);
    lanes.run(0, 2, 0x1400 - 0xc0, one);
    lanes.run(1, 2, 0x1400 - 0xc0, one);
    lanes.run(1, 1, 0x1400 - 0x80, one);
    lanes.run(1, 0, 0x1800 - 0x80, two);
    lanes.run(1, 0, 0x1400 - 0x40, one);
    let within = |site, depth, parent| (site, Some(depth), Some(parent));
    assert_eq!(
        lanes.told(),
        [
            within(2, 2, 2),
            within(1, 1, 1),
            within(0, 0, 0),
            within(0, 0, 0)
        ]
    );
}

#[test]
fn what_runs_on_a_thread_has_a_chain_of_its_own() {
    let mut lanes = Lanes::new(FrameName::Running);
    let runs = |lanes: &mut Lanes, value: u64| {
        let at = lanes.machine.room(8);
        // SAFETY: room for a word was just taken.
        unsafe { (at as *mut u64).write(value) };
        lanes.machine.kernel(|k| {
            let thread = k.pid_tgid.to_le_bytes().to_vec();
            k.running.entries.insert(thread, at)
        });
    };
    // Both on one stack.
    runs(&mut lanes, 1);
    lanes.run(0, 0, 0x1000, 0);
    lanes.run(0, 1, 0xf00, 0);
    runs(&mut lanes, 2);
    lanes.run(0, 2, 0x1000, 0);
    runs(&mut lanes, 1);
    lanes.run(1, 1, 0xf00, 0);
    runs(&mut lanes, 2);
    lanes.run(0, 1, 0xe00, 0);
    lanes.run(1, 1, 0xe00, 0);
    lanes.run(1, 2, 0x1000, 0);
    runs(&mut lanes, 1);
    lanes.run(1, 0, 0x1000, 0);
    let within = |site, depth, parent| (site, Some(depth), Some(parent));
    assert_eq!(
        lanes.told(),
        [
            within(1, 1, 1),
            within(1, 1, 3),
            within(2, 0, 0),
            within(0, 0, 0)
        ]
    );
}
