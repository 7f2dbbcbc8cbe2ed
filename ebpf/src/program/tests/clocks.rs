//! The clocks of threads, by events as the scheduler tells them.

use super::super::clocks::{Event, Kernel as Offsets, Ways, compile};
use super::super::{compile as compile_probe, vm};
use super::*;
use crate::expr::Spent;
use crate::layout::thread;
use crate::syscalls;

/// Two tasks, in the kernel's memory.
const TASKS: [u64; 2] = [0xffff_8000_0000_0000, 0xffff_8000_0000_1000];
const FILES: u64 = 0xffff_8000_0001_0000;
const STACK: u64 = 0xffff_8000_0002_0000;
/// What tasks and files look like here.
const OFFSETS: Offsets = Offsets {
    state: 16,
    stack: 24,
    files: 32,
    in_iowait: 8 * 40 + 3,
    fdt: 8,
    max_fds: 0,
    fd: 8,
    f_inode: 24,
    i_mode: 2,
};
const WAYS: [Ways; 3] = [
    Ways {
        told_state: true,
        told_registers: true,
    },
    Ways {
        told_state: false,
        told_registers: true,
    },
    Ways {
        told_state: false,
        told_registers: false,
    },
];

/// The first of the tasks is in the map, at time 1000, running.
struct Scheduler {
    machine: Machine,
    ways: Ways,
}

impl Scheduler {
    fn new(ways: Ways) -> Scheduler {
        let mut kernel = Kernel::default();
        kernel.task = TASKS[0];
        kernel.registers = STACK + u64::from(crate::arch::KERNEL_STACK as u32);
        let table = syscalls::table();
        let words = table
            .chunks_exact(8)
            .map(|w| u64::from_le_bytes(w.try_into().unwrap()));
        kernel.syscalls = words.collect();
        for task in TASKS {
            kernel.user.push((task, vec![0; 64]));
        }
        kernel.user.push((FILES, vec![0; 256]));
        kernel.user.push((STACK, vec![0; 16 << 10]));
        let machine = Machine::new(kernel, 64, 0);
        let mut scheduler = Scheduler { machine, ways };
        scheduler.put(TASKS[0], 24, STACK);
        scheduler.put(TASKS[0], 32, FILES);
        let mut clocks = [0u64; thread::SIZE as usize / 8];
        clocks[0] = 1000;
        scheduler.machine.kernel(|k| {
            k.update(
                vm::THREADS,
                &TASKS[0].to_le_bytes(),
                clocks.as_ptr() as u64,
                0,
            )
        });
        scheduler
    }

    /// Writes a word of the kernel's memory.
    fn put(&mut self, base: u64, at: u64, word: u64) {
        self.machine.kernel(|k| {
            let (from, bytes) = k.user.iter_mut().find(|(b, _)| *b == base).unwrap();
            let at = (base - *from + at) as usize;
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        });
    }

    fn tell(&mut self, event: Event, now: u64, arguments: &[u64]) {
        self.machine.kernel(|k| k.now = now);
        let code = compile(event, &OFFSETS, self.ways).unwrap();
        assert_eq!(self.machine.run(&code, arguments), 0);
    }

    /// The first task goes off in this state (0: it is preempted, or yields), the second one runs.
    fn off(&mut self, now: u64, preempt: bool, state: u64) {
        self.put(TASKS[0], 16, state);
        // Of what is beside a bool or 32 bits nothing is promised.
        let preempt = 0xabc0_0000 | u64::from(preempt);
        self.tell(
            Event::Switch,
            now,
            &[preempt, TASKS[0], TASKS[1], 7 << 32 | state],
        );
    }

    fn on(&mut self, now: u64) {
        self.tell(Event::Switch, now, &[0, TASKS[1], TASKS[0], 1]);
    }

    /// The system call that the first task is in: its number and first two arguments.
    fn call(&mut self, number: i64, arguments: [u64; 2]) {
        let at = u64::from(crate::arch::KERNEL_STACK as u32) + 104;
        let words = [arguments[1], arguments[0], number as u64];
        for (word, at) in words.into_iter().zip([at, at + 8, at + 16]) {
            self.put(STACK, at, word);
        }
    }

    /// The kind of the file that descriptor 3 of 4 is.
    fn file(&mut self, mode: u64) {
        for (at, word) in [
            (8, FILES + 32),
            (32, 4),
            (32 + 8, FILES + 64),
            (64 + 24, FILES + 128),
            (128 + 24, FILES + 192),
            (192, mode << 16),
        ] {
            self.put(FILES, at, word);
        }
    }

    fn clocks(&self) -> [u64; 7] {
        let at = self
            .machine
            .kernel(|k| k.threads.entries[&TASKS[0].to_le_bytes()[..]]);
        // SAFETY: the value of the map that `new` put there.
        unsafe { ((at + thread::NS as u64) as *const [u64; 7]).read() }
    }
}

/// What a sleep in this system call is.
fn sleep_in(ways: Ways, prepare: impl FnOnce(&mut Scheduler)) -> Spent {
    let mut scheduler = Scheduler::new(ways);
    prepare(&mut scheduler);
    scheduler.off(1100, false, 1);
    scheduler.tell(Event::Wakeup, 1300, &[TASKS[0]]);
    scheduler.on(1350);
    let clocks = scheduler.clocks();
    assert_eq!(&clocks[..2], [100, 50], "{ways:?}");
    assert_eq!(clocks.iter().sum::<u64>(), 350);
    let at = clocks.iter().position(|ns| *ns == 200).unwrap();
    Spent::ALL[at]
}

#[test]
fn a_sleep_is_what_its_system_call_waits_for() {
    for ways in WAYS {
        let kind = |call: i64, arguments: [u64; 2]| sleep_in(ways, |s| s.call(call, arguments));
        assert_eq!(kind(libc::SYS_futex, [0; 2]), Spent::Lock);
        assert_eq!(kind(libc::SYS_clock_nanosleep, [0; 2]), Spent::Sleep);
        assert_eq!(kind(libc::SYS_recvfrom, [3, 0]), Spent::Network);
        assert_eq!(kind(libc::SYS_fsync, [3, 0]), Spent::Disk);
        assert_eq!(kind(libc::SYS_wait4, [3, 0]), Spent::Other);
        assert_eq!(kind(libc::SYS_poll, [1, 2]), Spent::Network);
        assert_eq!(kind(libc::SYS_poll, [1, 0]), Spent::Sleep);
        assert_eq!(kind(libc::SYS_select, [0, 1]), Spent::Sleep);
        assert_eq!(kind(libc::SYS_select, [1, 0]), Spent::Network);
        assert_eq!(kind(-1, [0; 2]), Spent::Other, "no system call");
        assert_eq!(kind(100_000, [0; 2]), Spent::Other);
    }
}

#[test]
fn a_read_is_by_its_file() {
    for ways in WAYS {
        let read = |fd, mode| {
            sleep_in(ways, |s| {
                s.file(mode);
                s.call(libc::SYS_read, [fd, 0]);
            })
        };
        assert_eq!(read(3, 0o140777), Spent::Network);
        assert_eq!(read(3, 0o100644), Spent::Disk);
        assert_eq!(read(3, 0o060644), Spent::Disk);
        assert_eq!(read(3, 0o010644), Spent::Other);
        assert_eq!(read(4, 0o140777), Spent::Other, "beyond the table");
        assert_eq!(read(u64::MAX, 0o140777), Spent::Other);
    }
}

#[test]
fn waiting_for_io_is_the_disk_unless_it_is_a_ring() {
    for ways in WAYS {
        let wait = |call| {
            sleep_in(ways, |s| {
                s.put(TASKS[0], 40, 1 << 3);
                s.call(call, [0; 2]);
            })
        };
        assert_eq!(wait(-1), Spent::Disk);
        assert_eq!(wait(libc::SYS_mmap), Spent::Disk);
        assert_eq!(wait(libc::SYS_io_uring_enter), Spent::Other);
    }
}

#[test]
fn who_could_run_waits_for_a_cpu() {
    for ways in WAYS {
        for (preempt, state) in [(true, 0), (true, 1), (false, 0)] {
            let mut scheduler = Scheduler::new(ways);
            scheduler.call(libc::SYS_futex, [0; 2]);
            scheduler.off(1100, preempt, state);
            // (Told of one that could run already.)
            scheduler.tell(Event::Wakeup, 1200, &[TASKS[0]]);
            scheduler.on(1300);
            scheduler.tell(Event::Wakeup, 1350, &[TASKS[0]]);
            scheduler.off(1400, true, 0);
            assert_eq!(scheduler.clocks(), [200, 200, 0, 0, 0, 0, 0]);
        }
    }
}

#[test]
fn a_wakeup_that_was_not_seen_is_sleep() {
    let mut scheduler = Scheduler::new(WAYS[0]);
    scheduler.call(libc::SYS_futex, [0; 2]);
    scheduler.off(1100, false, 2);
    scheduler.on(1600);
    assert_eq!(scheduler.clocks(), [100, 0, 0, 0, 500, 0, 0]);
    // A thread that is stopped does not wait for its system call.
    scheduler.off(1700, false, 4);
    scheduler.on(1800);
    assert_eq!(scheduler.clocks(), [200, 0, 0, 0, 500, 0, 100]);
}

#[test]
fn a_thread_that_ends_is_forgotten() {
    let mut scheduler = Scheduler::new(WAYS[0]);
    scheduler.tell(Event::Exit, 1100, &[TASKS[0], 1]);
    scheduler.off(1200, false, 128);
    assert!(scheduler.machine.kernel(|k| k.threads.entries.is_empty()));
}

/// A call that is told by events; its thread comes into the map by itself.
#[test]
fn a_call_has_what_the_clocks_ran() {
    for (part, atomics) in [
        (Part::Session, true),
        (Part::Entry, true),
        (Part::Entry, false),
    ] {
        let captures = Spent::ALL.map(|on| Capture::Int(Expr::Spent(on))).to_vec();
        let spec = ProbeSpec {
            on: On::Program,
            sample: 1,
            name: "test".into(),
            sites: 1,
            kind: ProbeKind::Call {
                saved: vec![],
                filter: None,
                returns: Returns::Replaced,
                frame: FrameName::Stack,
            },
            filter: None,
            keep: None,
            action: Action::Event { captures },
        };
        let target = target(&spec, atomics);
        let layouts = vec![RecordLayout::new(&spec)];
        let mut scheduler = Scheduler::new(WAYS[0]);
        scheduler.machine.state = vec![0; target.state.size as usize / 8];
        scheduler.machine.kernel(|k| {
            k.threads.entries.clear();
            k.frames.value = layouts[0].size() as usize;
            k.now = 5000;
        });
        let run = |scheduler: &mut Scheduler, part, now| {
            let code = compile_probe(0, &spec, part, SiteSource::Cookie, &target).unwrap();
            scheduler.machine.kernel(|k| {
                k.now = now;
                k.is_return = now > 5000;
            });
            let at_return = now > 5000;
            let mut regs = regs(&[]);
            regs[crate::arch::SP as usize / 8] = SP + if at_return { 8 } else { 0 };
            scheduler.machine.run(&code, &regs);
        };
        run(&mut scheduler, part, 5000);
        scheduler.call(libc::SYS_futex, [0; 2]);
        scheduler.off(5100, false, 1);
        scheduler.tell(Event::Wakeup, 5300, &[TASKS[0]]);
        // The switch to it is not told.
        let returns = if part == Part::Entry {
            Part::Return
        } else {
            part
        };
        run(&mut scheduler, returns, 5350);
        scheduler.machine.kernel(|k| {
            let record = Record::decode(&k.records[0], &layouts).unwrap();
            let parts: Vec<u64> = (0..7).map(|i| record.int(i).unwrap()).collect();
            assert_eq!(parts, [100, 50, 0, 0, 200, 0, 0], "{part:?} {atomics}");
            assert_eq!(record.latency_ns, 350);
        });
        // It returns on another thread.
        run(&mut scheduler, part, 5000);
        scheduler.machine.kernel(|k| k.pid_tgid += 1);
        run(&mut scheduler, returns, 5350);
        scheduler.machine.kernel(|k| {
            let record = Record::decode(&k.records[1], &layouts).unwrap();
            assert_eq!(record.int(0), None);
        });
    }
}
