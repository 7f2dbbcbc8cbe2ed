//! The engine: programs loaded, attached, and read.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::{Map, MapData, RingBuf};

use crate::error::Error;
use crate::features;
use crate::hist::{self, HistData};
use crate::key::KeyBytes;
use crate::layout::{
    Counter, KeyLayout, MAX_PIDS, MAX_VALUE, PIDS, RecordLayout, StateLayout, WAKE_SENT,
    hist_words, table_value,
};
use crate::link::{self, FileSites, Link, PerfSource};
use crate::load::{Found, Loaded, Loader, Maps};
use crate::object_file;
use crate::program::{Part, ScratchLayout, SiteSource, Target, needs_scratch};
use crate::record::Record;
use crate::spec::{Action, EngineOptions, Mechanism, ProbeKind, ProbeSpec};
use crate::stats::Counters;
use crate::sys;

/// A place to attach a probe to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttachSite {
    /// The file, by a path that this process can open.
    pub path: PathBuf,
    /// Offset in the file.
    pub offset: u64,
    /// Its index, below the probe's `sites`.
    pub site: u32,
}

/// What attaches and is read. Dropping it detaches.
pub struct Engine {
    probes: Vec<ProbeSpec>,
    layouts: Vec<RecordLayout>,
    keys: Vec<Option<Arc<KeyLayout>>>,
    options: EngineOptions,
    target: Target,
    found: Found,
    entry_links: Vec<Link>,
    return_links: Vec<Link>,
    loaded: Vec<Loaded>,
    /// Programs for one site each, where cookies do not work.
    per_site: HashMap<(usize, u32, Part), OwnedFd>,
    pids: Option<Vec<u32>>,
    perf: Option<PerfSource>,
    state: sys::Mapping,
    ring: Option<RingBuf<MapData>>,
    maps: Maps,
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
    Ok(Target {
        atomics,
        pid_test: options.oldest || !features::kernel_filters_pid(),
        ring_bytes,
        scratch,
        state,
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
        Action::Event { .. } => None,
        Action::Count { key } | Action::Histogram { key, .. } => {
            Some(Arc::new(KeyLayout::new(key)))
        }
    }
}

impl Engine {
    /// Compiles and loads `specs`; nothing is attached yet.
    pub fn load(specs: Vec<ProbeSpec>, options: &EngineOptions) -> Result<Engine, Error> {
        if specs.len() > usize::from(u16::MAX) {
            return Err(Error::Usage(format!("{} probes are too many", specs.len())));
        }
        if options.oldest {
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
            let site = SiteSource::Cookie;
            match spec.kind {
                ProbeKind::Entry => {
                    crate::program::compile(index, spec, Part::Entry, site, &target)?
                }
                ProbeKind::Call { .. } => {
                    crate::program::compile(index, spec, Part::Session, site, &target)?
                }
            };
        }
        let mut maps = Maps::create(&probes, &target, options)?;
        let mut found = Found::default();
        let mut loaded = Vec::new();
        for (index, spec) in probes.iter().enumerate() {
            let mut loader = Loader {
                target: &target,
                options,
                found: &mut found,
            };
            loaded.push(loader.probe(index, spec, &mut maps)?);
        }
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
            probes,
            options: options.clone(),
            target,
            found,
            entry_links: Vec::new(),
            return_links: Vec::new(),
            loaded,
            per_site: HashMap::new(),
            pids: Some(Vec::new()),
            perf: None,
            state,
            ring,
            maps,
        })
    }

    /// How many probes there are.
    pub fn probes(&self) -> usize {
        self.probes.len()
    }

    /// How probe `probe` is attached. Of an unknown probe: perf event.
    pub fn mechanism(&self, probe: usize) -> Mechanism {
        self.loaded
            .get(probe)
            .map_or(Mechanism::Perf, |l| l.mechanism)
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

    /// Attaches a probe, with `pid` in that process only. It may be called again for other
    /// processes and files. Sites of one file share a link, where the kernel can do that.
    pub fn attach(
        &mut self,
        probe: usize,
        sites: &[AttachSite],
        pid: Option<u32>,
    ) -> Result<(), Error> {
        let Some(spec) = self.probes.get(probe) else {
            return Err(Error::Usage(format!("there is no probe {probe}")));
        };
        if let Some(site) = sites.iter().find(|s| s.site >= spec.sites.max(1)) {
            return Err(Error::Usage(format!(
                "probe {}: there is no site {} among its {}",
                spec.name, site.site, spec.sites
            )));
        }
        if self.target.pid_test {
            self.allow(pid)?;
        }
        for file in link::by_file(sites) {
            let mechanism = self.loaded[probe].mechanism;
            let done = match mechanism {
                Mechanism::Session | Mechanism::Multi => self.attach_multi(probe, &file, pid),
                Mechanism::Perf => self.attach_perf(probe, &file, pid)?,
            };
            done.map_err(|source| Error::Attach {
                probe: self.probes[probe].name.clone(),
                path: file.path.clone(),
                count: file.offsets.len(),
                mechanism,
                source,
            })?;
        }
        Ok(())
    }

    /// Programs test the process themselves: tells them which ones are wanted. Once all are,
    /// there is no way back.
    fn allow(&mut self, pid: Option<u32>) -> Result<(), Error> {
        match (pid, &mut self.pids) {
            (None, pids) => *pids = None,
            (Some(pid), Some(pids)) if !pids.contains(&pid) => {
                if pids.len() >= MAX_PIDS as usize {
                    return Err(Error::Usage(format!(
                        "this kernel cannot tell processes apart, and only {MAX_PIDS} can be named"
                    )));
                }
                pids.push(pid);
            }
            _ => {}
        }
        let pids = self.pids.as_deref().unwrap_or_default();
        for i in 0..MAX_PIDS as usize {
            let pid = pids.get(i).copied().unwrap_or(0);
            self.state.set_word(PIDS as usize + 8 * i, pid.into());
        }
        Ok(())
    }

    /// The return first: a call that begins in between has no entry, and is no hit.
    fn attach_multi(&mut self, probe: usize, file: &FileSites, pid: Option<u32>) -> io::Result<()> {
        let loaded = &self.loaded[probe];
        let cookies = self.probes[probe].sites > 1;
        let session = loaded.mechanism == Mechanism::Session;
        // Before Linux 6.10 the kernel's filter lets one thread through only: the program tests.
        let pid = pid.filter(|_| !self.target.pid_test);
        if let Some(prog) = &loaded.at_return {
            let link = link::multi(prog.as_fd(), file, cookies, pid, true, false)?;
            self.return_links.push(link);
        }
        let entry = link::multi(loaded.entry.as_fd(), file, cookies, pid, false, session);
        match entry {
            Ok(link) => self.entry_links.push(link),
            Err(e) => {
                if loaded.at_return.is_some() {
                    self.return_links.pop();
                }
                return Err(e);
            }
        }
        Ok(())
    }

    fn attach_perf(
        &mut self,
        probe: usize,
        file: &FileSites,
        pid: Option<u32>,
    ) -> Result<io::Result<()>, Error> {
        let source = match self.perf {
            Some(source) => source,
            None => match PerfSource::find() {
                Ok(source) => *self.perf.insert(source),
                Err(e) => return Ok(Err(e)),
            },
        };
        for (&offset, &index) in file.offsets.iter().zip(&file.indexes) {
            let has_return = self.loaded[probe].at_return.is_some();
            let per_site = self.loaded[probe].per_site;
            if per_site {
                self.site_programs(probe, index as u32, has_return)?;
            }
            let loaded = &self.loaded[probe];
            let own = |part| self.per_site.get(&(probe, index as u32, part));
            let cookie = (self.probes[probe].sites > 1 && !per_site).then_some(index);
            let attach = |prog: &OwnedFd, at_return| {
                source.attach(prog.as_fd(), &file.path, offset, pid, at_return, cookie)
            };
            let at_return = match own(Part::Return).or(loaded.at_return.as_ref()) {
                Some(prog) => match attach(prog, true) {
                    Ok(link) => Some(link),
                    Err(e) => return Ok(Err(e)),
                },
                None => None,
            };
            match attach(own(Part::Entry).unwrap_or(&loaded.entry), false) {
                Ok(link) => self.entry_links.push(link),
                Err(e) => return Ok(Err(e)),
            }
            self.return_links.extend(at_return);
        }
        Ok(Ok(()))
    }

    /// Loads the programs of one site.
    fn site_programs(&mut self, probe: usize, site: u32, has_return: bool) -> Result<(), Error> {
        for part in [Part::Entry, Part::Return] {
            if (part == Part::Return && !has_return)
                || self.per_site.contains_key(&(probe, site, part))
            {
                continue;
            }
            let mut loader = Loader {
                target: &self.target,
                options: &self.options,
                found: &mut self.found,
            };
            let source = SiteSource::Constant(site);
            let spec = &self.probes[probe];
            let prog = loader.program(Mechanism::Perf, part, source, probe, spec, &self.maps)?;
            self.per_site.insert((probe, site, part), prog);
        }
        Ok(())
    }

    /// Detaches everything; entries first, so that open calls can still end. Afterwards the
    /// counters are final.
    pub fn detach(&mut self) {
        link::close(std::mem::take(&mut self.entry_links));
        link::close(std::mem::take(&mut self.return_links));
    }

    fn words(&self, probe: usize) -> impl Iterator<Item = usize> + '_ {
        let layout = &self.target.state;
        let block = layout.blocks.get(probe).map(|b| b.offset);
        (0..layout.shards).filter_map(move |shard| {
            Some((layout.first_shard + shard * layout.stride + block?) as usize)
        })
    }

    fn counter(&self, probe: usize, counter: Counter) -> u64 {
        self.words(probe)
            .map(|base| self.state.word(base + 8 * counter as usize))
            .sum()
    }

    /// The accounting of a probe; zeros for an unknown one.
    pub fn counters(&self, probe: usize) -> Counters {
        // Outcomes before hits: while attached, a hit may not have ended yet, never the reverse.
        let mut counters = Counters {
            emitted: self.counter(probe, Counter::Emitted),
            aggregated: self.counter(probe, Counter::Aggregated),
            filtered: self.counter(probe, Counter::Filtered),
            dropped_ring: self.counter(probe, Counter::DroppedRing),
            dropped_map: self.counter(probe, Counter::DroppedMap),
            unreadable: self.counter(probe, Counter::Unreadable),
            missed: self.missed(probe),
            ..Counters::default()
        };
        counters.hits = self.counter(probe, Counter::Hits);
        let ended = counters.emitted + counters.aggregated + counters.filtered + counters.dropped();
        if let Some(ProbeKind::Call { .. }) = self.probes.get(probe).map(|p| &p.kind) {
            counters.unpaired = counters.hits.saturating_sub(ended);
        }
        counters
    }

    fn missed(&self, probe: usize) -> Option<u64> {
        let loaded = self.loaded.get(probe)?;
        let own = self
            .per_site
            .iter()
            .filter(|(of, _)| of.0 == probe)
            .map(|(_, prog)| prog);
        let mut sum = 0;
        for prog in own.chain([&loaded.entry]).chain(&loaded.at_return) {
            sum += sys::prog_info(prog.as_fd()).ok()?.recursion_misses;
        }
        Some(sum)
    }

    /// Hits per site index; for a count without a key, what its filters let through.
    pub fn site_hits(&self, probe: usize) -> Vec<u64> {
        let Some(spec) = self.probes.get(probe) else {
            return Vec::new();
        };
        let Some(sites) = self.target.state.blocks[probe].sites else {
            let counts = matches!(&spec.action, Action::Count { key } if key.is_empty());
            let which = if counts {
                Counter::Aggregated
            } else {
                Counter::Hits
            };
            return vec![self.counter(probe, which)];
        };
        let mut hits = vec![0u64; spec.sites as usize];
        for base in self.words(probe) {
            for (i, hit) in hits.iter_mut().enumerate() {
                *hit += self.state.word(base + sites as usize + 8 * i);
            }
        }
        hits
    }

    /// Every key and value of a keyed aggregation.
    fn entries(&self, probe: usize, mut each: impl FnMut(KeyBytes, &[u8])) -> Result<(), Error> {
        let (Some(Some(map)), Some(Some(layout))) =
            (self.maps.tables.get(probe), self.keys.get(probe))
        else {
            return Ok(());
        };
        let fd = map.fd().as_fd();
        let failed = |source| Error::Read {
            what: format!("keys of {}", self.probes[probe].name),
            source,
        };
        let mut value = vec![0u8; table_value(&self.probes[probe].action) as usize];
        let mut key: Option<Vec<u8>> = None;
        loop {
            let mut next = vec![0u8; layout.size as usize];
            if !sys::map_next_key(fd, key.as_deref(), &mut next).map_err(failed)? {
                return Ok(());
            }
            if sys::map_lookup(fd, &next, &mut value).map_err(failed)? {
                each(KeyBytes::new(next.clone(), Arc::clone(layout)), &value);
            }
            key = Some(next);
        }
    }

    /// The histograms of a probe by key; without a key one with an empty key, if it has values.
    pub fn histograms(&self, probe: usize) -> Result<Vec<(KeyBytes, HistData)>, Error> {
        let Some(Action::Histogram { key, .. }) = self.probes.get(probe).map(|p| &p.action) else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        if key.is_empty() {
            let mut sum = HistData::default();
            let at = self.target.state.blocks[probe].hist.unwrap_or(0) as usize;
            for base in self.words(probe) {
                sum.merge(&decode_hist(|word| self.state.word(base + at + 8 * word)));
            }
            if let (true, Some(Some(layout))) = (sum.count > 0, self.keys.get(probe)) {
                all.push((KeyBytes::new(Vec::new(), Arc::clone(layout)), sum));
            }
            return Ok(all);
        }
        self.entries(probe, |key, value| {
            let word = |i: usize| {
                let bytes = value[8 * i..8 * i + 8].try_into().unwrap_or_default();
                u64::from_ne_bytes(bytes)
            };
            all.push((key, decode_hist(word)));
        })?;
        Ok(all)
    }

    /// The counts of a probe by key; without a key see [`Engine::site_hits`].
    pub fn counts(&self, probe: usize) -> Result<Vec<(KeyBytes, u64)>, Error> {
        let mut all = Vec::new();
        if let Some(Action::Count { .. }) = self.probes.get(probe).map(|p| &p.action) {
            self.entries(probe, |key, value| {
                let count = value.try_into().map_or(0, u64::from_ne_bytes);
                all.push((key, count));
            })?;
        }
        Ok(all)
    }

    /// The ring buffer's descriptor to poll: readable when much has piled up. Drain it every
    /// 20 ms or so besides. `None`: no probe sends events.
    pub fn ring_fd(&self) -> Option<RawFd> {
        self.ring.as_ref().map(|ring| ring.as_raw_fd())
    }

    /// Hands out the records that have piled up; returns how many there were.
    pub fn drain(&mut self, mut each: impl FnMut(Record<'_>)) -> Result<usize, Error> {
        let Some(ring) = &mut self.ring else {
            return Ok(0);
        };
        let mut count = 0;
        while let Some(item) = ring.next() {
            if let Some(record) = Record::decode(&item, &self.layouts) {
                each(record);
                count += 1;
            }
        }
        self.state.set_word(WAKE_SENT as usize, 0);
        Ok(count)
    }

    /// Whether the records of `probe` are built in scratch memory.
    pub fn uses_scratch(&self, probe: usize) -> bool {
        self.probes.get(probe).is_some_and(needs_scratch)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.detach();
    }
}

fn decode_hist(word: impl Fn(usize) -> u64) -> HistData {
    let buckets: Vec<u64> = (0..hist::BUCKETS)
        .map(|i| word(hist_words::BUCKETS + i))
        .collect();
    let count = buckets.iter().sum();
    HistData {
        count,
        sum: u128::from(word(hist_words::CARRY)) << 64 | u128::from(word(hist_words::SUM)),
        min: if count == 0 {
            0
        } else {
            !word(hist_words::NOT_MIN)
        },
        max: word(hist_words::MAX),
        buckets,
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
