//! Runs programs without the kernel: rbpf interprets, and this plays the kernel's part.
//!
//! rbpf has no atomic instructions; they are replaced by plain ones that do the same, jumps moved
//! accordingly. Everything else is run as it is loaded.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;

use crate::asm::{Code, Insn, Kfunc, MapRef, code};
use crate::expr::{Builtin, Env, Fault};
use crate::layout::RecordLayout;
use crate::spec::{KernelSource, On};

/// Numbers for kernel functions, outside of the helpers'.
const KFUNC_BASE: u32 = 1000;
const RING: u64 = 1;
const FRAMES: u64 = 2;
const TABLE: u64 = 3;
const RUNNING: u64 = 4;
const TOPS: u64 = 5;
const CHAIN: u64 = 6;
const STACKS: u64 = 7;
const PIDS: u64 = 8;
pub const THREADS: u64 = 9;
const KEPT: u64 = 10;

/// A hash map.
#[derive(Default)]
pub struct Table {
    pub entries: HashMap<Vec<u8>, u64>,
    pub key: usize,
    pub value: usize,
    pub most: usize,
}

/// With room for all.
fn hash((key, value): (u32, u32)) -> Table {
    Table {
        key: key as usize,
        value: value as usize,
        most: usize::MAX,
        ..Table::default()
    }
}

/// What programs see and touch besides registers.
pub struct Kernel {
    /// User memory, and the kernel's, whose addresses have the highest bit set: base address, bytes.
    pub user: Vec<(u64, Vec<u8>)>,
    /// What the running program was given: the kernel's memory too, but at an address of this
    /// process.
    given: Range<u64>,
    pub comm: [u8; 16],
    pub pid_tgid: u64,
    pub uid_gid: u64,
    pub cgroup: u64,
    pub cpu: u64,
    pub now: u64,
    pub cookie: u64,
    pub random: u32,
    pub is_return: bool,
    /// Session cookie.
    pub session: Vec<u64>,
    /// Records sent, and how many of their bytes still fit.
    pub records: Vec<Vec<u8>>,
    pub ring_room: usize,
    pub wakes: Vec<u64>,
    pub available: u64,
    pub frames: Table,
    pub table: Table,
    pub stacks: Table,
    /// Frames of the thread's stacks, the kernel's and the program's; none: it has no such.
    pub frames_of: [Option<Vec<u64>>; 2],
    /// What runs, by thread.
    pub running: Table,
    pub tops: Table,
    pub chain: Table,
    /// Processes in which probes on the kernel count.
    pub pids: Table,
    /// Clocks by task.
    pub threads: Table,
    /// What threads wait for, by the number of the system call that they are in.
    pub syscalls: Vec<u64>,
    /// What is kept with threads, by the addresses of their tasks.
    pub kept: Table,
    /// The address of the thread's task, in memory that [`Machine::room`] gave.
    pub task: u64,
    /// Where the registers are that it entered the kernel with.
    pub registers: u64,
    /// Values of hash maps live here.
    arena: Vec<u64>,
    arena_used: usize,
    reserved: Option<(u64, usize)>,
}

impl Default for Kernel {
    fn default() -> Self {
        Kernel {
            user: Vec::new(),
            given: 0..0,
            comm: *b"a thread\0\0\0\0\0\0\0\0",
            pid_tgid: 77 << 32 | 78,
            uid_gid: 4 << 32 | 3,
            cgroup: 5,
            cpu: 1,
            now: 1000,
            cookie: 0,
            random: 0,
            is_return: false,
            session: vec![0],
            records: Vec::new(),
            ring_room: 1 << 20,
            wakes: Vec::new(),
            available: 0,
            frames: Table {
                key: 16,
                most: 8,
                ..Table::default()
            },
            table: Table {
                most: 8,
                ..Table::default()
            },
            stacks: Table {
                key: 8,
                value: crate::layout::kept_stack::SIZE as usize,
                most: 2,
                ..Table::default()
            },
            frames_of: [const { None }; 2],
            running: Table {
                key: 8,
                value: 8,
                most: 2,
                ..Table::default()
            },
            tops: hash(super::TOPS),
            chain: hash(super::CHAIN),
            pids: hash((8, 8)),
            threads: hash((8, crate::layout::thread::SIZE)),
            syscalls: vec![0; crate::syscalls::SYSCALLS as usize / 8],
            kept: hash((8, 0)),
            task: 0,
            registers: 0,
            arena: vec![0; 1 << 16],
            arena_used: 0,
            reserved: None,
        }
    }
}

thread_local! {
    static KERNEL: RefCell<Kernel> = RefCell::default();
}

impl Kernel {
    fn take_arena(&mut self, bytes: usize) -> u64 {
        let words = bytes.div_ceil(8);
        let at = self.arena.as_ptr() as u64 + 8 * self.arena_used as u64;
        self.arena_used += words;
        assert!(
            self.arena_used <= self.arena.len(),
            "the test's arena is too small"
        );
        at
    }

    pub fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), Fault> {
        if self.given.contains(&addr) {
            if self.given.end - addr < buf.len() as u64 {
                return Err(Fault);
            }
            buf.copy_from_slice(bytes(addr, buf.len()));
            return Ok(());
        }
        let (base, bytes) = self
            .user
            .iter()
            .find(|(base, bytes)| (*base..*base + bytes.len() as u64).contains(&addr))
            .ok_or(Fault)?;
        let from = (addr - base) as usize;
        buf.copy_from_slice(bytes.get(from..from + buf.len()).ok_or(Fault)?);
        Ok(())
    }

    /// As strncpy_from_user: what was read, with its NUL if it got to it.
    fn read_str(&self, addr: u64, size: usize) -> Result<Vec<u8>, Fault> {
        let mut text = Vec::new();
        while text.len() < size {
            let mut byte = [0];
            self.read(addr.wrapping_add(text.len() as u64), &mut byte)?;
            text.push(byte[0]);
            if byte[0] == 0 {
                break;
            }
        }
        Ok(text)
    }

    fn map(&mut self, id: u64) -> &mut Table {
        match id {
            FRAMES => &mut self.frames,
            TABLE => &mut self.table,
            STACKS => &mut self.stacks,
            RUNNING => &mut self.running,
            TOPS => &mut self.tops,
            CHAIN => &mut self.chain,
            PIDS => &mut self.pids,
            THREADS => &mut self.threads,
            KEPT => &mut self.kept,
            other => panic!("map {other} is no hash map"),
        }
    }

    pub fn update(&mut self, id: u64, key: &[u8], value: u64, flags: u64) -> u64 {
        let (size, room, known) = {
            let map = self.map(id);
            (
                map.value,
                map.entries.len() < map.most,
                map.entries.get(key).copied(),
            )
        };
        if known.is_some() && flags == 1 {
            return -17i64 as u64;
        }
        if known.is_none() && !room {
            return -7i64 as u64;
        }
        // A new element each time, as the kernel has it.
        let at = self.take_arena(size);
        // SAFETY: both are memory of this test, of at least `size` bytes.
        unsafe { std::ptr::copy_nonoverlapping(value as *const u8, at as *mut u8, size) };
        self.map(id).entries.insert(key.to_vec(), at);
        0
    }
}

/// Bytes that a helper was given.
fn bytes<'a>(addr: u64, len: usize) -> &'a [u8] {
    // SAFETY: programs pass their own stack, or memory of this test.
    unsafe { std::slice::from_raw_parts(addr as *const u8, len) }
}

fn write(addr: u64, data: &[u8]) {
    // SAFETY: as in `bytes`.
    unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), addr as *mut u8, data.len()) };
}

fn with<R>(f: impl FnOnce(&mut Kernel) -> R) -> R {
    KERNEL.with(|k| f(&mut k.borrow_mut()))
}

/// Whether an address is one of the kernel's on x86-64.
fn is_kernels(addr: u64) -> bool {
    addr >> 63 != 0
}

fn read_memory(to: u64, len: u64, from: u64, may: bool) -> u64 {
    let mut data = vec![0; len as usize];
    let read = with(|k| k.read(from, &mut data));
    if len > 0 && (read.is_err() || !may) {
        data.fill(0);
        write(to, &data);
        return -14i64 as u64;
    }
    write(to, &data);
    0
}

fn read_text(to: u64, size: u64, from: u64, may: bool) -> u64 {
    match with(|k| k.read_str(from, size as usize)) {
        Ok(mut text) if may => {
            if let Some(last) = text.last_mut() {
                *last = 0;
            }
            write(to, &text);
            text.len() as u64
        }
        _ => {
            write(to, &vec![0; size as usize]);
            -14i64 as u64
        }
    }
}

type Helper = fn(u64, u64, u64, u64, u64) -> u64;

fn helpers() -> Vec<(u32, Helper)> {
    use crate::helper::*;
    vec![
        (MAP_LOOKUP, |map, key, _, _, _| {
            with(|k| {
                let map = k.map(map);
                map.entries.get(bytes(key, map.key)).copied().unwrap_or(0)
            })
        }),
        (MAP_UPDATE, |map, key, value, flags, _| {
            with(|k| {
                let len = k.map(map).key;
                k.update(map, bytes(key, len), value, flags)
            })
        }),
        (MAP_DELETE, |map, key, _, _, _| {
            with(|k| {
                let map = k.map(map);
                let found = map.entries.remove(bytes(key, map.key)).is_some();
                if found { 0 } else { -2i64 as u64 }
            })
        }),
        (TASK_STORAGE_GET, |map, task, value, create, _| {
            assert_eq!((value, create & !1), (0, 0));
            with(|k| {
                let (key, bytes) = (task.to_le_bytes().to_vec(), k.map(map).value);
                let known = k.kept.entries.get(&key).copied();
                if known.is_some() || create == 0 || k.kept.entries.len() >= k.kept.most {
                    return known.unwrap_or(0);
                }
                let at = k.take_arena(bytes);
                k.kept.entries.insert(key, at);
                at
            })
        }),
        (KTIME_GET_NS, |_, _, _, _, _| with(|k| k.now)),
        (GET_SMP_PROCESSOR_ID, |_, _, _, _, _| with(|k| k.cpu)),
        (GET_STACK, |_, to, size, flags, _| {
            assert!(size % 8 == 0 && flags & !256 == 0);
            with(|k| match &k.frames_of[usize::from(flags != 0)] {
                None => -14i64 as u64,
                Some(frames) => {
                    let frames = &frames[..frames.len().min(size as usize / 8).min(127)];
                    let bytes: Vec<u8> = frames.iter().flat_map(|f| f.to_le_bytes()).collect();
                    write(to, &bytes);
                    bytes.len() as u64
                }
            })
        }),
        (GET_PRANDOM_U32, |_, _, _, _, _| {
            // Of the register's upper half nothing is promised.
            with(|k| 0xabcd_ef00_0000_0000 | u64::from(k.random))
        }),
        (GET_CURRENT_PID_TGID, |_, _, _, _, _| with(|k| k.pid_tgid)),
        (GET_CURRENT_UID_GID, |_, _, _, _, _| with(|k| k.uid_gid)),
        (GET_CURRENT_CGROUP_ID, |_, _, _, _, _| with(|k| k.cgroup)),
        (GET_CURRENT_TASK, |_, _, _, _, _| with(|k| k.task)),
        (GET_CURRENT_TASK_BTF, |_, _, _, _, _| with(|k| k.task)),
        (TASK_PT_REGS, |task, _, _, _, _| {
            with(|k| {
                assert_eq!(task, k.task);
                k.registers
            })
        }),
        (PROBE_READ_KERNEL, |to, len, from, _, _| {
            let start = with(|k| k.arena.as_ptr() as u64);
            let end = start + 8 * with(|k| k.arena.len()) as u64;
            // (Of its stack a program reads what it then overwrites.)
            if from == to {
                return 0;
            }
            if (start..=end - len).contains(&from) {
                write(to, bytes(from, len as usize));
                return 0;
            }
            let here = with(|k| k.given.contains(&from));
            read_memory(to, len, from, here || is_kernels(from))
        }),
        (PROBE_READ_KERNEL_STR, |to, size, from, _, _| {
            let here = with(|k| k.given.contains(&from));
            read_text(to, size, from, here || is_kernels(from))
        }),
        (GET_ATTACH_COOKIE, |_, _, _, _, _| with(|k| k.cookie)),
        (GET_CURRENT_COMM, |to, len, _, _, _| {
            with(|k| write(to, &k.comm[..len as usize]));
            0
        }),
        (PROBE_READ_USER, |to, len, from, _, _| {
            read_memory(to, len, from, !is_kernels(from))
        }),
        (PROBE_READ_USER_STR, |to, size, from, _, _| {
            read_text(to, size, from, !is_kernels(from))
        }),
        (RINGBUF_OUTPUT, |ring, from, len, flags, _| {
            assert_eq!(ring, RING);
            with(|k| {
                k.wakes.push(flags);
                if k.ring_room < len as usize {
                    return -11i64 as u64;
                }
                k.ring_room -= len as usize;
                k.records.push(bytes(from, len as usize).to_vec());
                0
            })
        }),
        (RINGBUF_RESERVE, |ring, len, flags, _, _| {
            assert_eq!((ring, flags), (RING, 0));
            with(|k| {
                if k.ring_room < len as usize {
                    return 0;
                }
                k.ring_room -= len as usize;
                let at = k.take_arena(len as usize);
                assert!(
                    k.reserved.replace((at, len as usize)).is_none(),
                    "two reserved"
                );
                at
            })
        }),
        (RINGBUF_SUBMIT, |at, flags, _, _, _| {
            with(|k| {
                let (reserved, len) = k.reserved.take().expect("nothing is reserved");
                assert_eq!(reserved, at);
                k.wakes.push(flags);
                k.records.push(bytes(at, len).to_vec());
                0
            })
        }),
        (RINGBUF_QUERY, |ring, what, _, _, _| {
            assert_eq!((ring, what), (RING, 0));
            with(|k| k.available)
        }),
        (
            KFUNC_BASE + Kfunc::SessionIsReturn as u32,
            |_, _, _, _, _| {
                // A bool: the rest of the register is whatever it is.
                with(|k| 0xffff_ff00 | u64::from(k.is_return))
            },
        ),
        (KFUNC_BASE + Kfunc::SessionCookie as u32, |_, _, _, _, _| {
            with(|k| k.session.as_ptr() as u64)
        }),
    ]
}

/// Memory that programs address directly, and the kernel behind the helpers.
pub struct Machine {
    pub state: Vec<u64>,
    scratch: Vec<u64>,
    /// What programs are given, always at the same address.
    given: Vec<u8>,
}

impl Machine {
    pub fn new(kernel: Kernel, state_bytes: u32, scratch_bytes: u32) -> Machine {
        KERNEL.with(|k| *k.borrow_mut() = kernel);
        Machine {
            state: vec![0; state_bytes as usize / 8],
            scratch: vec![0; (scratch_bytes as usize).div_ceil(8)],
            given: Vec::with_capacity(256),
        }
    }

    pub fn kernel<R>(&self, f: impl FnOnce(&mut Kernel) -> R) -> R {
        with(f)
    }

    pub fn scratch_free(&self, slot_bytes: u32) -> bool {
        self.scratch
            .iter()
            .step_by(slot_bytes as usize / 8)
            .all(|claimed| *claimed == 0)
    }

    /// Claims all slots of scratch memory.
    pub fn claim_all(&mut self, slot_bytes: u32) {
        let slots = self.scratch.iter_mut().step_by(slot_bytes as usize / 8);
        slots.for_each(|claimed| *claimed = 1);
    }

    /// Takes room where programs may write.
    pub fn room(&self, bytes: usize) -> u64 {
        with(|k| k.take_arena(bytes))
    }

    /// Runs a program with `regs`: the task's registers, or what else it is given.
    pub fn run(&mut self, program: &Code, regs: &[u64]) -> u64 {
        let insns = plain(&self.resolve(program));
        let text: Vec<u8> = insns.iter().flat_map(|i| i.bytes()).collect();
        let mut vm = rbpf::EbpfVmRaw::new(Some(&text)).expect("rbpf takes the program");
        for (number, helper) in helpers() {
            vm.register_helper(number, helper).expect("a new helper");
        }
        let range = |v: &[u64]| {
            let from = v.as_ptr() as u64;
            from..from + 8 * v.len() as u64
        };
        vm.register_allowed_memory(range(&self.state));
        vm.register_allowed_memory(range(&self.scratch));
        with(|k| {
            vm.register_allowed_memory(range(&k.arena));
            vm.register_allowed_memory(range(&k.session));
            vm.register_allowed_memory(range(&k.syscalls));
        });
        self.given.clear();
        self.given.extend(regs.iter().flat_map(|r| r.to_le_bytes()));
        let start = self.given.as_ptr() as u64;
        with(|k| k.given = start..start + self.given.len() as u64);
        let result = vm.execute_program(&mut self.given).expect("it runs");
        with(|k| {
            assert!(
                k.reserved.is_none(),
                "a record was reserved and never submitted"
            )
        });
        result
    }

    fn resolve(&self, program: &Code) -> Vec<Insn> {
        let mut insns = program.insns.clone();
        for (at, map) in &program.maps {
            let offset = insns[at + 1].imm as u32 as u64;
            let address = match map {
                MapRef::State => self.state.as_ptr() as u64 + offset,
                MapRef::Scratch => self.scratch.as_ptr() as u64 + offset,
                MapRef::Ring => RING,
                MapRef::Frames => FRAMES,
                MapRef::Kept => KEPT,
                MapRef::Table => TABLE,
                MapRef::Stacks => STACKS,
                MapRef::Running => RUNNING,
                MapRef::Tops => TOPS,
                MapRef::Chain => CHAIN,
                MapRef::Pids => PIDS,
                MapRef::Threads => THREADS,
                MapRef::Syscalls => with(|k| k.syscalls.as_ptr() as u64) + offset,
            };
            insns[*at].regs &= 15;
            insns[*at].imm = address as i32;
            insns[at + 1].imm = (address >> 32) as i32;
        }
        for (at, kfunc) in &program.kfuncs {
            insns[*at].regs = 0;
            insns[*at].imm = (KFUNC_BASE + *kfunc as u32) as i32;
        }
        insns
    }
}

/// Replaces atomic instructions by plain ones. The last word of the stack keeps the register that
/// they need.
fn plain(insns: &[Insn]) -> Vec<Insn> {
    let mut blocks: Vec<Vec<Insn>> = Vec::new();
    let mut wide = false;
    for insn in insns {
        let atomic = insn.code == code::ATOMIC64 && !wide;
        blocks.push(if atomic { unlocked(*insn) } else { vec![*insn] });
        wide = insn.code == code::LD_IMM64 && !wide;
    }
    let mut starts = vec![0];
    for block in &blocks {
        starts.push(starts[starts.len() - 1] + block.len());
    }
    let mut wide = false;
    for (at, insn) in insns.iter().enumerate() {
        let class = insn.code & 7;
        let jump = (class == 5 || class == 6) && insn.code != code::CALL && insn.code != code::EXIT;
        if jump && !wide {
            let target = (at as i64 + 1 + i64::from(insn.off)) as usize;
            blocks[at][0].off = (starts[target] as i64 - starts[at] as i64 - 1) as i16;
        }
        wide = insn.code == code::LD_IMM64 && !wide;
    }
    blocks.concat()
}

fn unlocked(insn: Insn) -> Vec<Insn> {
    let (dst, src) = (insn.regs & 15, insn.regs >> 4);
    let make = |code, dst: u8, src: u8, off| Insn {
        code,
        regs: dst | src << 4,
        off,
        imm: 0,
    };
    let free = (1..6).find(|r| *r != dst && *r != src).expect("a register");
    let keep = make(0x7b, 10, free, -512);
    let old = make(0x79, free, dst, insn.off);
    let put = |reg| make(0x7b, dst, reg, insn.off);
    let add = |to, from| make(0x0f, to, from, 0);
    let copy = |to, from| make(0xbf, to, from, 0);
    let restore = make(0x79, free, 10, -512);
    let body = match insn.imm {
        code::ADD => vec![add(free, src), put(free)],
        code::XCHG => vec![put(src), copy(src, free)],
        code::CMPXCHG => vec![make(0x5d, free, 0, 1), put(src), copy(0, free)],
        imm if imm == code::ADD | code::FETCH => vec![add(src, free), put(src), copy(src, free)],
        other => panic!("atomic {other:#x}"),
    };
    [vec![keep, old], body, vec![restore]].concat()
}

/// The same kernel for the reference evaluator.
pub struct Reference<'a> {
    pub on: On,
    /// The task's registers, or what else the program is given.
    pub regs: [u64; 21],
    pub latency: u64,
    /// Saved integers; `None` could not be read.
    pub saved: &'a [Option<u64>],
}

impl Env for Reference<'_> {
    fn in_kernel(&self) -> bool {
        self.on != On::Program
    }

    fn context(&self) -> u64 {
        with(|k| k.given.start)
    }

    fn task(&self) -> u64 {
        with(|k| k.task)
    }

    fn arg(&self, n: u8) -> Result<u64, Fault> {
        if !matches!(self.on, On::Program | On::Kernel(KernelSource::Kprobe)) {
            return Ok(self.regs[usize::from(n)]);
        }
        match crate::arch::ARGS.get(usize::from(n)) {
            Some(at) => Ok(self.regs[*at as usize / 8]),
            None => {
                let sp = self.regs[crate::arch::SP as usize / 8];
                let mut word = [0; 8];
                self.read(sp.wrapping_add(crate::arch::stack_arg(n) as u64), &mut word)?;
                Ok(u64::from_le_bytes(word))
            }
        }
    }

    fn reg(&self, n: u8) -> u64 {
        self.regs[crate::arch::DWARF_REGS[usize::from(n)] as usize / 8]
    }

    fn retval(&self) -> u64 {
        match self.on {
            On::Program | On::Kernel(KernelSource::Kprobe) => {
                self.regs[crate::arch::RETVAL as usize / 8]
            }
            // The word at offset 16; behind the arguments of a function that takes two.
            On::Kernel(_) => self.regs[2],
        }
    }

    fn latency(&self) -> u64 {
        self.latency
    }

    fn builtin(&self, which: Builtin) -> u64 {
        with(|k| match which {
            Builtin::Pid => k.pid_tgid >> 32,
            Builtin::Tid => k.pid_tgid & 0xffff_ffff,
            Builtin::Uid => k.uid_gid & 0xffff_ffff,
            Builtin::Gid => k.uid_gid >> 32,
            Builtin::Cgroup => k.cgroup,
            Builtin::Nsecs => k.now,
            Builtin::Cpu => k.cpu,
        })
    }

    fn saved(&self, index: u16) -> Result<u64, Fault> {
        self.saved[usize::from(index)].ok_or(Fault)
    }

    fn comm(&self) -> [u8; 16] {
        with(|k| k.comm)
    }

    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let given = with(|k| k.given.clone());
        if !given.contains(&addr) {
            return with(|k| k.read(addr, buf));
        }
        let from = (addr - given.start) as usize;
        let bytes: Vec<u8> = self.regs.iter().flat_map(|r| r.to_le_bytes()).collect();
        buf.copy_from_slice(bytes.get(from..from + buf.len()).ok_or(Fault)?);
        Ok(())
    }

    fn read_str(&self, addr: u64, max: usize) -> Result<Vec<u8>, Fault> {
        let mut text = with(|k| k.read_str(addr, max))?;
        if text.last() == Some(&0) {
            text.pop();
        }
        Ok(text)
    }
}

/// A frame with saved integers, as entry leaves it.
pub fn frame(layout: &RecordLayout, saved: &[Option<u64>]) -> Vec<u64> {
    let mut words = vec![0u64; layout.size() as usize / 8];
    for (i, value) in saved.iter().enumerate() {
        match value {
            Some(value) => words[layout.slot(i) as usize / 8] = *value,
            None => words[crate::layout::header::FAULTS as usize / 8] |= 1 << i,
        }
    }
    words
}
