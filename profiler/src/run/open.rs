//! Calls without a return: are they still open, or were they left (longjmp, exception, end of the thread or process)?
//!
//! A call is open as long as its thread lives and its frame is on the stack: the word at its stack pointer still is the
//! return address, or what the kernel put in its place. That is looked at when the probes go. What a program left
//! behind unchanged on a part of its stack that it has not used since looks open, unless the thread waits in a system
//! call and has its stack pointer above.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use procfs::process::{MMapPath, Process};
use uprof_ebpf::{Engine, FrameName, OpenCall, Returns};

use crate::plan::Plan;

/// More of a stack than this is not searched, in bytes.
const MOST_STACK: u64 = 64 << 20;

/// A call: index of the variant, process, stack pointer, time of the entry.
type Id = (usize, u32, u64, u64);

/// What the look at the stacks found.
pub struct Open {
    /// Calls that were open before the probes went: whether their frames were there.
    seen: HashMap<Id, bool>,
    /// By process: return addresses that the kernel replaced, of calls that are open.
    replaced: HashMap<u32, u64>,
}

/// One process, as far as it must be known.
struct Target {
    memory: File,
    maps: Vec<(u64, u64)>,
    /// Where the kernel lets replaced return addresses lead to.
    trampoline: Option<u64>,
    threads: HashMap<u32, Option<u64>>,
}

impl Target {
    fn look(pid: u32) -> Option<Self> {
        let process = Process::new(pid as i32).ok()?;
        let maps = process.maps().ok()?;
        let trampoline = maps.iter().find_map(|m| match &m.pathname {
            MMapPath::Other(name) if name == "uprobes" => Some(m.address.0),
            _ => None,
        });
        let mut threads = HashMap::new();
        for task in process.tasks().ok()?.flatten() {
            threads.insert(task.tid as u32, stack_pointer(pid, task.tid as u32));
        }
        Some(Self {
            memory: File::open(format!("/proc/{pid}/mem")).ok()?,
            maps: maps.iter().map(|m| m.address).collect(),
            trampoline,
            threads,
        })
    }

    fn word(&self, address: u64) -> Option<u64> {
        let mut word = [0; 8];
        self.memory.read_exact_at(&mut word, address).ok()?;
        Some(u64::from_le_bytes(word))
    }

    fn map_of(&self, address: u64) -> Option<(u64, u64)> {
        self.maps
            .iter()
            .copied()
            .find(|(low, high)| (*low..*high).contains(&address))
    }

    /// Whether the frame of a call is there.
    fn holds(&self, call: &OpenCall, name: FrameName) -> bool {
        let address = match call.goroutine {
            // The second word of `g` is the top of its stack.
            Some(g) => match self.word(g.wrapping_add(8)) {
                Some(top) => top.wrapping_add(call.sp),
                None => return false,
            },
            None if !self.threads.contains_key(&call.tid) => return false,
            None => call.sp,
        };
        // On a stack that coroutines share the frame may be anywhere: its thread lives, more cannot be told.
        if name == FrameName::Running {
            return true;
        }
        if self.is_below(call, address) {
            return false;
        }
        let Some(word) = self.word(address) else {
            return false;
        };
        word == call.caller || Some(word) == self.trampoline
    }

    /// Whether the thread's stack pointer is known, on the same stack, and above the frame.
    fn is_below(&self, call: &OpenCall, address: u64) -> bool {
        let sp = self.threads.get(&call.tid).copied().flatten();
        match (sp, call.goroutine) {
            (Some(sp), None) => sp > address && self.map_of(sp) == self.map_of(address),
            _ => false,
        }
    }

    /// How many replaced return addresses are on the stacks in use.
    fn replaced(&self) -> u64 {
        let Some(trampoline) = self.trampoline else {
            return 0;
        };
        let mut slots = HashSet::new();
        for sp in self.threads.values().flatten() {
            let Some((_, high)) = self.map_of(*sp) else {
                continue;
            };
            let from = sp & !7;
            let mut bytes = vec![0; (high - from).min(MOST_STACK) as usize];
            let Ok(read) = self.memory.read_at(&mut bytes, from) else {
                continue;
            };
            for (at, word) in bytes[..read].chunks_exact(8).enumerate() {
                if word == trampoline.to_le_bytes() {
                    slots.insert(from + 8 * at as u64);
                }
            }
        }
        slots.len() as u64
    }
}

/// The stack pointer of a thread that waits in a system call; of one that runs it cannot be had.
fn stack_pointer(pid: u32, tid: u32) -> Option<u64> {
    // A thread that runs may wait a moment later.
    const TRIES: usize = 5;
    for attempt in 0..TRIES {
        if attempt > 0 {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).ok()?;
        let words: Vec<&str> = text.split_whitespace().collect();
        if let [.., sp, _pc] = words.as_slice() {
            return u64::from_str_radix(sp.trim_start_matches("0x"), 16).ok();
        }
    }
    None
}

impl Open {
    /// Looks before the probes go, so that a call that ends right after is not taken for one that was left.
    pub fn look(engine: &Engine, plan: &Plan, pids: &HashSet<u32>) -> Self {
        let mut targets = HashMap::new();
        let mut open = Self {
            seen: HashMap::new(),
            replaced: HashMap::new(),
        };
        for (index, id, call) in calls(engine, plan) {
            let target = targets
                .entry(call.pid)
                .or_insert_with(|| Target::look(call.pid));
            let name = plan.variants[index].pairing.frame;
            let there = target.as_ref().is_some_and(|t| t.holds(&call, name));
            open.seen.insert(id, there);
        }
        let without_frames = |v: usize| {
            let c = engine.counters(v);
            plan.variants[v].pairing.returns == Returns::Replaced
                && !engine.keeps_frames(v)
                && c.unpaired > c.nested
        };
        if (0..plan.variants.len()).any(without_frames) {
            // Probed in every process that runs the file: all are looked at.
            let everywhere: Vec<u32> = match pids.is_empty() {
                true => procfs::process::all_processes()
                    .map(|all| all.flatten().map(|p| p.pid as u32).collect())
                    .unwrap_or_default(),
                false => Vec::new(),
            };
            for pid in pids.iter().chain(&everywhere) {
                let target = targets.entry(*pid).or_insert_with(|| Target::look(*pid));
                let replaced = target.as_ref().map_or(0, Target::replaced);
                open.replaced.insert(*pid, replaced);
            }
        }
        open
    }

    /// By variant: how many of its calls without a return are still open, now that the probes are gone; and what cannot
    /// be told of that.
    pub fn unfinished(&self, engine: &Engine, plan: &Plan) -> (Vec<u64>, Option<String>) {
        let mut counts = vec![0; plan.variants.len()];
        for (index, id, call) in calls(engine, plan) {
            // One that began after the look is open, if its process is.
            let there = self.seen.get(&id).copied();
            counts[index] += u64::from(there.unwrap_or_else(|| crate::target::alive(call.pid)));
        }
        let all: u64 = self.replaced.values().sum();
        let mut left = all;
        let mut shared = Vec::new();
        for (index, count) in counts.iter_mut().enumerate() {
            let c = engine.counters(index);
            let rest = c.unpaired.saturating_sub(c.nested);
            if plan.variants[index].pairing.returns == Returns::Replaced
                && !engine.keeps_frames(index)
            {
                *count = rest.min(left);
                left -= *count;
                if rest > 0 {
                    shared.push((
                        plan.recipe.probes[plan.variants[index].probe].name.as_str(),
                        rest,
                    ));
                }
            }
            *count = (*count).min(rest);
        }
        // A replaced return address does not tell of which function's call it is.
        let wanted: u64 = shared.iter().map(|(_, rest)| rest).sum();
        let doubtful = shared.len() > 1 && (1..wanted).contains(&all);
        let names: Vec<&str> = shared.into_iter().map(|(name, _)| name).collect();
        let note = doubtful.then(|| {
            format!(
                "{all} of the {wanted} calls of {} that have not returned are still open; of which of them cannot be told",
                names.join(", ")
            )
        });
        (counts, note)
    }
}

/// The calls whose frames the engine still has.
fn calls<'a>(
    engine: &'a Engine,
    plan: &'a Plan,
) -> impl Iterator<Item = (usize, Id, OpenCall)> + 'a {
    (0..plan.variants.len()).flat_map(move |index| {
        // What cannot be read counts as left.
        let calls = engine.open_calls(index).unwrap_or_default();
        calls.into_iter().map(move |call| {
            let id = (index, call.pid, call.sp, call.time_ns);
            (index, id, call)
        })
    })
}
