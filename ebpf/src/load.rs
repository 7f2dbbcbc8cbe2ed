//! Into the kernel: maps by aya, programs by the thin layer, and what is tried in which order.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya::maps::MapData;
use aya_obj::generated::{bpf_map_type, bpf_prog_type};

use crate::asm::{Code, Kfunc, MapRef};
use crate::btf;
use crate::error::Error;
use crate::layout::{
    FrameKind, KeyLayout, RecordLayout, frame_key, hist_words, kept_stack, table_value,
};
use crate::program::{
    CHAIN, Part, SiteSource, TOPS, Target, compile, frame_name, keeps_stacks, returns,
};
use crate::spec::{
    Action, EngineOptions, FrameName, Mechanism, On, ProbeKind, ProbeSpec, Returns, Scale,
};
use crate::sys::{self, attach_type};

const BPF_F_MMAPABLE: u32 = 1 << 10;
/// The most memory that the open calls of a probe may take.
const MAX_FRAME_BYTES: u32 = 16 << 20;
/// The fewest open calls that a probe can hold, whatever their size.
const MIN_FRAMES: u32 = 256;
/// The most memory that a keyed aggregation may take.
const MAX_TABLE_BYTES: u32 = 64 << 20;
/// Bytes of a log-linear histogram.
const LOG_HISTOGRAM: u32 = 8 * hist_words::COUNT as u32;
/// The most memory that stacks in keys may take.
const MAX_STACK_BYTES: u32 = 16 << 20;
/// Processes in which probes on the kernel can count, those that have ended among them.
const MAX_KERNEL_PIDS: u32 = 8192;
/// The verifier's log, when asked for.
const LOG_BYTES: usize = 16 << 20;

/// The maps of an engine.
pub(crate) struct Maps {
    pub state: MapData,
    /// Until userspace maps it.
    pub ring: Option<MapData>,
    /// The same, for programs that are loaded later.
    ring_fd: Option<OwnedFd>,
    pub scratch: Option<MapData>,
    /// Stacks that are parts of keys, by number; see `program::stack`.
    pub stacks: Option<MapData>,
    /// What runs, by thread.
    running: Option<MapData>,
    /// Where open calls are in each other, if a probe asks.
    tops: Option<MapData>,
    chain: Option<MapData>,
    /// The processes in which probes on the kernel count, if there are such probes.
    pub pids: Option<MapData>,
    /// By probe.
    pub frames: Vec<Option<MapData>>,
    pub tables: Vec<Option<MapData>>,
}

/// Creates one map.
pub(crate) fn create_map(
    what: &str,
    kind: bpf_map_type,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
) -> Result<MapData, Error> {
    let map = aya_obj::Map::new_from_params(kind as u32, key, value, entries, flags);
    MapData::create(map, &format!("uprof_{what}"), None).map_err(|e| Error::Map {
        what: what.to_string(),
        bytes: u64::from(key + value) * u64::from(entries),
        source: match e {
            aya::maps::MapError::CreateError { io_error, .. } => io_error,
            other => io::Error::other(other),
        },
    })
}

/// The map of a keyed aggregation, if `probe` is one.
fn create_table(probe: &ProbeSpec, options: &EngineOptions) -> Result<Option<MapData>, Error> {
    let key = match &probe.action {
        Action::Count { key } | Action::Histogram { key, .. } | Action::Stats { key, .. } => {
            KeyLayout::new(key).size
        }
        Action::Event { .. } | Action::Running { .. } => 0,
    };
    if key == 0 {
        return Ok(None);
    }
    let value = table_value(&probe.action);
    let entries = table_entries(&probe.action, value + key, options);
    create_map(
        "keys",
        bpf_map_type::BPF_MAP_TYPE_HASH,
        key,
        value,
        entries,
        0,
    )
    .map(Some)
}

/// The map of stacks, if one is part of a key.
fn create_stacks(probes: &[ProbeSpec], options: &EngineOptions) -> Result<Option<MapData>, Error> {
    if !probes.iter().any(|p| keeps_stacks(&p.action)) {
        return Ok(None);
    }
    let kind = bpf_map_type::BPF_MAP_TYPE_HASH;
    let entries = options
        .max_keys
        .clamp(1, MAX_STACK_BYTES / kept_stack::SIZE);
    create_map("stacks", kind, 8, kept_stack::SIZE, entries, 0).map(Some)
}

/// A map of chains of open calls, if a probe asks for them. What threads that died left in it
/// goes as others need the room.
fn create_chain(
    what: &str,
    (key, value): (u32, u32),
    target: &Target,
    options: &EngineOptions,
) -> Result<Option<MapData>, Error> {
    if target.chains.is_none() {
        return Ok(None);
    }
    let kind = bpf_map_type::BPF_MAP_TYPE_LRU_HASH;
    let entries = options
        .max_frames
        .clamp(1, MAX_FRAME_BYTES / (key + value + 64));
    create_map(what, kind, key, value, entries, 0).map(Some)
}

impl Maps {
    pub fn create(
        probes: &[ProbeSpec],
        target: &Target,
        options: &EngineOptions,
    ) -> Result<Maps, Error> {
        use bpf_map_type::{BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_RINGBUF};
        let state = create_map(
            "state",
            BPF_MAP_TYPE_ARRAY,
            4,
            target.state.size,
            1,
            BPF_F_MMAPABLE,
        )?;
        let emits = probes
            .iter()
            .any(|p| matches!(p.action, Action::Event { .. }));
        let ring = match emits {
            true => Some(create_map(
                "ring",
                BPF_MAP_TYPE_RINGBUF,
                0,
                0,
                target.ring_bytes,
                0,
            )?),
            false => None,
        };
        let ring_fd = match &ring {
            None => None,
            Some(map) => {
                let fd = map.fd().as_fd().try_clone_to_owned();
                Some(fd.map_err(|source| Error::Map {
                    what: "ring".into(),
                    bytes: target.ring_bytes.into(),
                    source,
                })?)
            }
        };
        let scratch = match target.scratch.slots * target.scratch.size {
            0 => None,
            bytes => Some(create_map("scratch", BPF_MAP_TYPE_ARRAY, 4, bytes, 1, 0)?),
        };
        let running = match probes.iter().any(asks_what_runs) {
            true => Some(create_map(
                "running",
                bpf_map_type::BPF_MAP_TYPE_HASH,
                8,
                8,
                options.max_frames.max(1),
                0,
            )?),
            false => None,
        };
        let tables = probes
            .iter()
            .map(|probe| create_table(probe, options))
            .collect::<Result<_, _>>()?;
        Ok(Maps {
            state,
            ring,
            ring_fd,
            scratch,
            stacks: create_stacks(probes, options)?,
            running,
            tops: create_chain("tops", TOPS, target, options)?,
            chain: create_chain("chain", CHAIN, target, options)?,
            pids: match probes.iter().any(|p| p.on != On::Program) {
                true => {
                    let kind = bpf_map_type::BPF_MAP_TYPE_HASH;
                    Some(create_map("pids", kind, 8, 8, MAX_KERNEL_PIDS, 0)?)
                }
                false => None,
            },
            frames: probes.iter().map(|_| None).collect(),
            tables,
        })
    }

    /// Creates the map of open calls of probe `index`, if the mechanism needs one.
    pub fn need_frames(
        &mut self,
        index: usize,
        spec: &ProbeSpec,
        mechanism: Mechanism,
        options: &EngineOptions,
    ) -> Result<(), Error> {
        let kind = FrameKind::of(spec);
        let in_map = match kind {
            FrameKind::None => false,
            FrameKind::Time => mechanism != Mechanism::Session,
            FrameKind::Running | FrameKind::Record => true,
        };
        if !in_map || self.frames[index].is_some() {
            return Ok(());
        }
        let size = kind.size(&RecordLayout::new(spec));
        let most = (MAX_FRAME_BYTES / (size + 64)).max(MIN_FRAMES);
        let entries = options.max_frames.clamp(1, most);
        let map = create_map(
            "frames",
            bpf_map_type::BPF_MAP_TYPE_HASH,
            frame_key::size(frame_name(spec)),
            size,
            entries,
            0,
        )?;
        self.frames[index] = Some(map);
        Ok(())
    }

    fn fd(&self, probe: usize, map: MapRef) -> Option<BorrowedFd<'_>> {
        let map = match map {
            MapRef::State => Some(&self.state),
            MapRef::Ring => return self.ring_fd.as_ref().map(AsFd::as_fd),
            MapRef::Scratch => self.scratch.as_ref(),
            MapRef::Stacks => self.stacks.as_ref(),
            MapRef::Running => self.running.as_ref(),
            MapRef::Tops => self.tops.as_ref(),
            MapRef::Chain => self.chain.as_ref(),
            MapRef::Pids => self.pids.as_ref(),
            MapRef::Frames => self.frames.get(probe)?.as_ref(),
            MapRef::Table => self.tables.get(probe)?.as_ref(),
        };
        Some(map?.fd().as_fd())
    }
}

/// Says or asks what runs on a thread.
fn asks_what_runs(spec: &ProbeSpec) -> bool {
    matches!(spec.action, Action::Running { .. }) || frame_name(spec) == FrameName::Running
}

/// What has been found out about this kernel, each once and only when needed.
#[derive(Default)]
pub(crate) struct Found {
    kfuncs: Option<[Option<u32>; 2]>,
    session: Option<bool>,
    multi: Option<bool>,
}

impl Found {
    /// The BTF id of a kernel function.
    pub fn kfunc(&mut self, which: Kfunc) -> Option<u32> {
        self.kfuncs.get_or_insert_with(|| {
            btf::function_ids(Kfunc::ALL.map(Kfunc::name)).unwrap_or([None; 2])
        })[which as usize]
    }

    /// Whether the kernel makes links of this kind with `prog`. An attach type that it does not
    /// know is EINVAL; one that it knows gets as far as looking at the path, and a directory is
    /// EBADF. (The attach type at load is no proof: older kernels do not look at it.)
    fn links(&mut self, mechanism: Mechanism, prog: BorrowedFd<'_>) -> bool {
        let (known, attach_type) = match mechanism {
            Mechanism::Session => (&mut self.session, attach_type::UPROBE_SESSION),
            Mechanism::Multi => (&mut self.multi, attach_type::UPROBE_MULTI),
            Mechanism::Perf => return true,
        };
        *known.get_or_insert_with(|| {
            let link = sys::MultiLink {
                path: Path::new("/"),
                offsets: &[1],
                cookies: &[],
                semaphores: &[],
                pid: None,
                at_return: false,
                attach_type,
            };
            matches!(sys::link_multi(prog, &link), Err(e) if e.raw_os_error() == Some(libc::EBADF))
        })
    }
}

/// The programs of a probe.
pub(crate) struct Loaded {
    pub mechanism: Mechanism,
    /// The entry, or the whole call in a session.
    pub entry: OwnedFd,
    /// At the return, or at the exits.
    pub at_return: Option<OwnedFd>,
    /// Cookies do not work: where programs need one (see [`uses_cookie`]), each site and exit
    /// has programs of its own, made when it is attached.
    pub per_site: bool,
}

impl Loaded {
    /// The program of a part; of one that the probe does not have the entry's.
    pub fn program(&self, part: Part) -> &OwnedFd {
        match (part, &self.at_return) {
            (Part::Return | Part::Exit, Some(program)) => program,
            _ => &self.entry,
        }
    }

    /// All that it has.
    pub fn programs(&self) -> impl Iterator<Item = &OwnedFd> {
        [&self.entry].into_iter().chain(&self.at_return)
    }
}

/// Whether a program needs its link's cookie.
pub(crate) fn uses_cookie(spec: &ProbeSpec, part: Part) -> bool {
    spec.sites > 1 || part == Part::Exit
}

/// Loads programs.
pub(crate) struct Loader<'a> {
    pub target: &'a Target,
    pub options: &'a EngineOptions,
    pub found: &'a mut Found,
}

impl Loader<'_> {
    /// Loads probe `index` by the first mechanism that works.
    pub fn probe(
        &mut self,
        index: usize,
        spec: &ProbeSpec,
        maps: &mut Maps,
    ) -> Result<Loaded, Error> {
        let replaced =
            matches!(spec.kind, ProbeKind::Call { .. }) && returns(spec) == Returns::Replaced;
        let order: &[Mechanism] = match (self.options.mechanism, replaced) {
            (Some(Mechanism::Session), true) => &[Mechanism::Session],
            (Some(Mechanism::Session | Mechanism::Multi), _) => &[Mechanism::Multi],
            (Some(Mechanism::Perf), _) => &[Mechanism::Perf],
            (None, _) if self.options.oldest => &[Mechanism::Perf],
            (None, true) if self.options.no_session => &[Mechanism::Multi, Mechanism::Perf],
            (None, true) => &[Mechanism::Session, Mechanism::Multi, Mechanism::Perf],
            (None, false) => &[Mechanism::Multi, Mechanism::Perf],
        };
        let mut last = None;
        for &mechanism in order {
            match self.by(mechanism, index, spec, maps) {
                Ok(loaded) => return Ok(loaded),
                Err(e @ Error::Load { .. }) => last = Some(e),
                Err(other) => return Err(other),
            }
        }
        Err(last.unwrap_or_else(|| Error::Usage("no mechanism to try".into())))
    }

    fn by(
        &mut self,
        mechanism: Mechanism,
        index: usize,
        spec: &ProbeSpec,
        maps: &mut Maps,
    ) -> Result<Loaded, Error> {
        maps.need_frames(index, spec, mechanism, self.options)?;
        let parts = Part::of(spec, mechanism);
        let without = mechanism == Mechanism::Perf && parts.iter().any(|p| uses_cookie(spec, *p));
        if without && self.options.oldest {
            return self.parts(mechanism, parts, SiteSource::Constant(0), index, spec, maps);
        }
        match self.parts(mechanism, parts, SiteSource::Cookie, index, spec, maps) {
            Err(Error::Load { .. }) if without => {
                self.parts(mechanism, parts, SiteSource::Constant(0), index, spec, maps)
            }
            other => other,
        }
    }

    /// Loads the programs of a probe.
    fn parts(
        &mut self,
        mechanism: Mechanism,
        parts: &[Part],
        site: SiteSource,
        index: usize,
        spec: &ProbeSpec,
        maps: &Maps,
    ) -> Result<Loaded, Error> {
        let mut programs = Vec::new();
        for &part in parts {
            let program = self.program(mechanism, part, site, index, spec, maps)?;
            if !self.found.links(mechanism, program.as_fd()) {
                return Err(Error::Load {
                    probe: spec.name.clone(),
                    part: part.name(),
                    mechanism,
                    source: io::Error::new(
                        io::ErrorKind::Unsupported,
                        "this kernel has no such links",
                    ),
                    log: None,
                });
            }
            programs.push(program);
        }
        let mut programs = programs.into_iter();
        let (Some(entry), at_return) = (programs.next(), programs.next()) else {
            return Err(Error::Usage(format!(
                "probe {}: it has no program",
                spec.name
            )));
        };
        Ok(Loaded {
            mechanism,
            entry,
            at_return,
            per_site: site != SiteSource::Cookie,
        })
    }

    /// Compiles and loads one program.
    pub fn program(
        &mut self,
        mechanism: Mechanism,
        part: Part,
        site: SiteSource,
        index: usize,
        spec: &ProbeSpec,
        maps: &Maps,
    ) -> Result<OwnedFd, Error> {
        let code = compile(index, spec, part, site, self.target)?;
        let attach_type = match mechanism {
            Mechanism::Session => attach_type::UPROBE_SESSION,
            Mechanism::Multi => attach_type::UPROBE_MULTI,
            Mechanism::Perf => attach_type::NONE,
        };
        let kind = (bpf_prog_type::BPF_PROG_TYPE_KPROBE, attach_type, 0);
        let loaded = self.compiled(code, kind, index, spec, maps);
        loaded.map_err(|(source, log)| Error::Load {
            probe: spec.name.clone(),
            part: part.name(),
            mechanism,
            source,
            log,
        })
    }

    /// Loads a compiled program; with an error comes the verifier's log, if it is asked for.
    pub fn compiled(
        &mut self,
        mut code: Code,
        (kind, attach_type, btf_id): (bpf_prog_type, u32, u32),
        index: usize,
        spec: &ProbeSpec,
        maps: &Maps,
    ) -> Result<OwnedFd, (io::Error, Option<String>)> {
        self.resolve(&mut code, index, maps)
            .map_err(|why| (io::Error::new(io::ErrorKind::Unsupported, why), None))?;
        let load = sys::ProgLoad {
            kind,
            name: &spec.name,
            insns: &code.insns,
            attach_type,
            btf_id,
        };
        sys::prog_load(&load, None).map_err(|source| {
            let log = self.options.verifier_log.then(|| {
                let mut log = vec![0; LOG_BYTES];
                let _ = sys::prog_load(&load, Some(&mut log));
                String::from_utf8_lossy(&log).into_owned()
            });
            (source, log)
        })
    }

    /// Puts in descriptors of maps and ids of kernel functions.
    fn resolve(&mut self, code: &mut Code, index: usize, maps: &Maps) -> Result<(), String> {
        for &(at, map) in &code.maps {
            let Some(fd) = maps.fd(index, map) else {
                return Err(format!("it needs the map {map:?}, which was not created"));
            };
            // (An address in a value has its offset in the second half.)
            code.insns[at].imm = fd.as_raw_fd();
        }
        for &(at, kfunc) in &code.kfuncs {
            let Some(id) = self.found.kfunc(kfunc) else {
                return Err(format!("this kernel has no function {}", kfunc.name()));
            };
            code.insns[at].imm = id as i32;
        }
        Ok(())
    }
}

/// How many keys a table has room for; `bytes`: of a key and its value.
fn table_entries(action: &Action, bytes: u32, options: &EngineOptions) -> u32 {
    let wanted = match action {
        Action::Histogram {
            scale: Scale::Log, ..
        } => options.max_keys.min(options.max_histograms),
        // As much memory as those take.
        Action::Histogram { .. } => {
            let room = u64::from(options.max_histograms) * u64::from(LOG_HISTOGRAM);
            let fit = u32::try_from(room / u64::from(bytes)).unwrap_or(u32::MAX);
            options.max_keys.min(fit)
        }
        _ => options.max_keys,
    };
    wanted.clamp(1, MAX_TABLE_BYTES / bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::Expr;

    #[test]
    fn tables_of_histograms_are_small_unless_asked_for() {
        let histogram = Action::Histogram {
            value: Expr::Arg(0),
            key: vec![],
            scale: Scale::Log,
        };
        let count = Action::Count { key: vec![] };
        let standard = EngineOptions::default();
        assert_eq!(table_entries(&histogram, 7848, &standard), 256);
        assert_eq!(table_entries(&count, 16, &standard), 8192);
        let more = EngineOptions {
            max_keys: 2000,
            max_histograms: 2000,
            ..standard
        };
        assert_eq!(table_entries(&histogram, 7848, &more), 2000);
        assert_eq!(table_entries(&histogram, MAX_TABLE_BYTES / 3, &more), 3);
    }
}
