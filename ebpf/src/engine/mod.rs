//! The engine: programs loaded, attached, and read.

mod attach;
pub(crate) mod clocks;
mod kernel;
mod open;
mod read;
mod switch;

pub use open::OpenCall;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use aya::maps::{Map, MapData, RingBuf};

use crate::error::Error;
use crate::features;
use crate::layout::{KeyLayout, MAX_VALUE, RecordLayout, StateLayout};
use crate::link::{Lingering, Link, PerfSource};
use crate::load::{Found, Loaded, Loader};
use crate::maps::Maps;
use crate::object_file;
use crate::program::{
    Chains, Part, Pending, ScratchLayout, SiteSource, Target, array_bytes, returns,
};
use crate::spec::{Action, EngineOptions, Mechanism, On, ProbeSpec, Returns};
use crate::sys;

/// What attaches and is read. Dropping it detaches.
pub struct Engine {
    probes: Vec<ProbeSpec>,
    layouts: Vec<RecordLayout>,
    keys: Vec<Option<Arc<KeyLayout>>>,
    options: EngineOptions,
    target: Target,
    found: Found,
    /// By probe.
    entry_links: Vec<(usize, Link)>,
    return_links: Vec<(usize, Link)>,
    /// Where others have taken over: until calls that have passed their exits have returned.
    lingering: Vec<Lingering>,
    /// What was attached, of calls that could end at their exits.
    attached: Vec<switch::Attached>,
    /// Probes with sites attached whose exits are not known.
    without_exits: HashSet<usize>,
    /// None of probes on the kernel: their programs are made when they are attached.
    loaded: Vec<Option<Loaded>>,
    /// What is attached to events of the kernel.
    hooked: Vec<kernel::Hooked>,
    /// By probe: misses of programs that it has no more.
    retired: Vec<u64>,
    /// Programs for one site or exit each, where cookies do not work: by probe, cookie and part.
    per_site: HashMap<(usize, u64, Part), OwnedFd>,
    pids: Option<Vec<u32>>,
    perf: Option<PerfSource>,
    state: sys::Mapping,
    ring: Option<RingBuf<MapData>>,
    maps: Maps,
    /// If a probe asks where the time of its calls goes.
    clocks: Option<clocks::Clocks>,
}

/// Lays out everything that the programs share.
fn target(probes: &[ProbeSpec], options: &EngineOptions, atomics: bool) -> Result<Target, Error> {
    let too_big = |what: &str| {
        Error::Usage(format!(
            "{what} do not fit into {MAX_VALUE} bytes: use fewer probes or smaller limits"
        ))
    };
    let cpus = possible_cpus();
    // Without atomics a shard must be one CPU's alone.
    let state = StateLayout::new(probes, cpus, atomics)
        .ok_or_else(|| too_big("the probes' counters and histograms"))?;
    let scratch = ScratchLayout::new(probes, cpus, atomics)
        .ok_or_else(|| too_big("the buffers for captured strings"))?;
    // A record must leave the ring room for others.
    let largest = probes.iter().map(|p| RecordLayout::new(p).size()).max();
    let least = largest.unwrap_or(0).saturating_mul(4).max(4096);
    let ring_bytes = options
        .ring_bytes
        .clamp(least.min(1 << 30), 1 << 30)
        .next_power_of_two();
    let kept = probes.iter().filter_map(array_bytes).max();
    Ok(Target {
        atomics,
        chains: Chains::of(probes),
        pending: Pending::find(),
        pid_test: options.oldest || !features::kernel_filters_pid(),
        task_storage: atomics && kept.is_some_and(features::has_task_storage),
        ring_bytes,
        scratch,
        state,
        successors: Vec::new(),
    })
}

/// CPUs that the system can have: the highest number in the list, plus one.
fn possible_cpus() -> u32 {
    std::fs::read_to_string("/sys/devices/system/cpu/possible")
        .ok()
        .and_then(|list| {
            let last = list.trim().rsplit([',', '-']).next()?.parse::<u32>().ok()?;
            last.checked_add(1)
        })
        .unwrap_or(16)
}

fn key_layout(spec: &ProbeSpec) -> Option<Arc<KeyLayout>> {
    match &spec.action {
        Action::Event { .. } | Action::Running { .. } => None,
        Action::Count { key }
        | Action::Histogram { key, .. }
        | Action::Stats { key, .. }
        | Action::Breakdown { key, .. } => Some(Arc::new(KeyLayout::new(key))),
    }
}

impl Engine {
    /// Compiles and loads `specs`; nothing is attached yet.
    pub fn load(specs: Vec<ProbeSpec>, options: &EngineOptions) -> Result<Engine, Error> {
        if specs.len() > usize::from(u16::MAX) {
            return Err(Error::Usage(format!("{} probes are too many", specs.len())));
        }
        // Programs on the kernel are not loaded here, so that their failure would come too late.
        let kernel = specs.iter().any(|s| s.on != On::Program);
        if options.oldest || kernel && !features::has_cmpxchg() {
            return Engine::load_for(specs, options, false);
        }
        match Engine::load_for(specs.clone(), options, true) {
            Err(Error::Load { .. }) if !features::has_cmpxchg() => {
                Engine::load_for(specs, options, false)
            }
            other => other,
        }
    }

    fn load_for(
        probes: Vec<ProbeSpec>,
        options: &EngineOptions,
        atomics: bool,
    ) -> Result<Engine, Error> {
        let target = target(&probes, options, atomics)?;
        // What cannot be compiled is told before the kernel is asked for anything.
        for (index, spec) in probes.iter().enumerate() {
            let site = match spec.on {
                On::Program => SiteSource::Cookie,
                On::Kernel(_) => SiteSource::ANY_KERNEL,
            };
            for part in Part::of(spec, Mechanism::Session) {
                crate::program::compile(index, spec, *part, site, &target)?;
            }
        }
        let mut maps = Maps::create(&probes, &target, options)?;
        let mut found = Found::default();
        let mut loaded = Vec::new();
        for (index, spec) in probes.iter().enumerate() {
            if spec.on != On::Program {
                maps.need_frames(index, spec, Mechanism::Perf, &target, options)?;
                loaded.push(None);
                continue;
            }
            let mut loader = Loader {
                target: &target,
                options,
                found: &mut found,
            };
            loaded.push(Some(loader.probe(index, spec, &mut maps)?));
        }
        let clocks = match probes.iter().any(ProbeSpec::asks_for_spent) {
            true => {
                let mut loader = Loader {
                    target: &target,
                    options,
                    found: &mut found,
                };
                Some(clocks::Clocks::start(&mut loader, &maps)?)
            }
            false => None,
        };
        let failed = |what: &str| {
            let what = what.to_string();
            move |source| Error::Read { what, source }
        };
        let state = sys::Mapping::new(maps.state.fd().as_fd(), target.state.size as usize)
            .map_err(failed("state"))?;
        let ring = match maps.ring.take() {
            None => None,
            Some(map) => Some(
                RingBuf::try_from(Map::RingBuf(map))
                    .map_err(io::Error::other)
                    .map_err(failed("ring"))?,
            ),
        };
        Ok(Engine {
            layouts: probes.iter().map(RecordLayout::new).collect(),
            keys: probes.iter().map(key_layout).collect(),
            retired: probes.iter().map(|_| 0).collect(),
            probes,
            options: options.clone(),
            target,
            found,
            entry_links: Vec::new(),
            return_links: Vec::new(),
            lingering: Vec::new(),
            attached: Vec::new(),
            without_exits: HashSet::new(),
            loaded,
            hooked: Vec::new(),
            per_site: HashMap::new(),
            pids: Some(Vec::new()),
            perf: None,
            state,
            ring,
            maps,
            clocks,
        })
    }

    /// How many probes there are.
    pub fn probes(&self) -> usize {
        self.probes.len()
    }

    /// How probe `probe` is attached. Of an unknown one, and of one on the kernel: perf event.
    pub fn mechanism(&self, probe: usize) -> Mechanism {
        self.programs_of(probe)
            .map_or(Mechanism::Perf, |l| l.mechanism)
    }

    fn programs_of(&self, probe: usize) -> Option<&Loaded> {
        self.loaded.get(probe)?.as_ref()
    }

    /// How the end of the calls of probe `probe` is seen. Of an entry or unknown probe:
    /// replaced.
    pub fn returns(&self, probe: usize) -> Returns {
        self.probes.get(probe).map(returns).unwrap_or_default()
    }

    /// Whether [`crate::Counters::nested`] is told: without BTF of the running kernel it stays 0, and such calls are
    /// among the other unpaired ones.
    pub fn tells_nested(&self) -> bool {
        self.target.pending.is_some()
    }

    /// Bytes of kernel memory that the maps take, about.
    pub fn map_bytes(&self) -> u64 {
        let ring = self
            .ring
            .as_ref()
            .map_or(0, |_| u64::from(self.target.ring_bytes));
        let scratch = u64::from(self.target.scratch.slots) * u64::from(self.target.scratch.size);
        u64::from(self.target.state.size) + ring + scratch
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.detach();
    }
}

/// Writes the programs of `specs` as a BPF ELF object, for llvm-objdump and bpftool. Nothing is
/// loaded; without a forced mechanism it is the newest (session, `uprobe_multi`).
pub fn dump_object(
    specs: Vec<ProbeSpec>,
    options: &EngineOptions,
    path: &Path,
) -> Result<(), Error> {
    let target = target(&specs, options, !options.oldest)?;
    let bytes = object_file::write(&specs, options, &target)?;
    std::fs::write(path, bytes).map_err(|source| Error::Dump {
        path: path.to_path_buf(),
        source,
    })
}

/// The monotonic clock of records, in nanoseconds.
pub fn monotonic_ns() -> u64 {
    sys::clock_ns(libc::CLOCK_MONOTONIC)
}

/// What to add to a record's time to get UNIX time, in nanoseconds. It changes when the system's
/// clock is set.
pub fn unix_offset_ns() -> i64 {
    // The shorter the way from one reading to the next, the better the offset.
    let reading = || {
        let before = monotonic_ns();
        let unix = sys::clock_ns(libc::CLOCK_REALTIME);
        let after = monotonic_ns();
        let middle = before + (after - before) / 2;
        (after - before, unix.wrapping_sub(middle) as i64)
    };
    let (first, second) = (reading(), reading());
    first.min(second).1
}
