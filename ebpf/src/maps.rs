//! The maps of an engine, made by aya: what they hold, and how much of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::maps::{MapData, MapError};
use aya_obj::generated::bpf_map_type;

use crate::asm::MapRef;
use crate::error::Error;
use crate::layout::{
    FrameKind, KeyLayout, RecordLayout, frame_key, hist_words, kept_stack, table_value, thread,
};
use crate::program::{CHAIN, TOPS, Target, array_bytes, frame_name, keeps_stacks};
use crate::spec::{Action, EngineOptions, FrameName, Mechanism, On, ProbeSpec, Scale};
use crate::sys;
use crate::syscalls::SYSCALLS;

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
    /// The clocks of threads that have made calls whose time is followed, and what system calls wait for, if a probe
    /// asks for them.
    threads: Option<MapData>,
    pub syscalls: Option<MapData>,
    /// The processes in which probes on the kernel count, if there are such probes.
    pub pids: Option<MapData>,
    /// By probe.
    pub frames: Vec<Option<MapData>>,
    /// Frames that are kept with their threads; see `program::kept`.
    kept: Vec<Option<MapData>>,
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
            MapError::CreateError { io_error, .. } => io_error,
            other => io::Error::other(other),
        },
    })
}

/// Creates memory of so many bytes (a multiple of 8) for each thread that asks for it.
pub(crate) fn create_task_storage(bytes: u32) -> io::Result<MapData> {
    // The kernel wants to know the types of keys and values (Documentation/bpf/btf.rst): number 1 is what userspace calls
    // a thread by, number 2 a structure without members.
    const STRINGS: &[u8] = b"\0int\0frames\0";
    let types = [
        [1, 1 << 24, 4, 1 << 24 | 32].as_slice(),
        &[5, 4 << 24, bytes],
    ]
    .concat();
    let size = 4 * types.len() as u32;
    let header = [0x1_eb9f, 24, 0, size, size, STRINGS.len() as u32];
    let words = header.iter().chain(&types).flat_map(|w| w.to_le_bytes());
    let btf: Vec<u8> = words.chain(STRINGS.iter().copied()).collect();
    let types = sys::btf_load(&btf)?;
    let fd = sys::task_storage("uprof_kept", bytes, types.as_fd(), (1, 2))?;
    MapData::from_fd(fd).map_err(io::Error::other)
}

/// The map of a keyed aggregation, if `probe` is one.
fn create_table(probe: &ProbeSpec, options: &EngineOptions) -> Result<Option<MapData>, Error> {
    let key = match &probe.action {
        Action::Count { key }
        | Action::Histogram { key, .. }
        | Action::Stats { key, .. }
        | Action::Breakdown { key, .. } => KeyLayout::new(key).size,
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
        let spent = probes.iter().any(ProbeSpec::asks_for_spent);
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
            threads: match spent {
                true => {
                    let kind = bpf_map_type::BPF_MAP_TYPE_HASH;
                    let entries = options.max_frames.max(1);
                    Some(create_map("threads", kind, 8, thread::SIZE, entries, 0)?)
                }
                false => None,
            },
            syscalls: match spent {
                true => Some(create_map(
                    "syscalls",
                    BPF_MAP_TYPE_ARRAY,
                    4,
                    SYSCALLS,
                    1,
                    0,
                )?),
                false => None,
            },
            pids: match probes.iter().any(|p| p.on != On::Program) {
                true => {
                    let kind = bpf_map_type::BPF_MAP_TYPE_HASH;
                    Some(create_map("pids", kind, 8, 8, MAX_KERNEL_PIDS, 0)?)
                }
                false => None,
            },
            frames: probes.iter().map(|_| None).collect(),
            kept: probes.iter().map(|_| None).collect(),
            tables,
        })
    }

    /// Creates the map of open calls of probe `index`, if the mechanism needs one.
    pub fn need_frames(
        &mut self,
        index: usize,
        spec: &ProbeSpec,
        mechanism: Mechanism,
        target: &Target,
        options: &EngineOptions,
    ) -> Result<(), Error> {
        let kind = FrameKind::of(spec);
        if let Some(bytes) = array_bytes(spec).filter(|_| target.task_storage)
            && mechanism == Mechanism::Session
        {
            let map = create_task_storage(bytes).map_err(|source| Error::Map {
                what: "open calls of a thread".into(),
                bytes: bytes.into(),
                source,
            })?;
            self.kept[index] = Some(map);
            return Ok(());
        }
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

    pub fn fd(&self, probe: usize, map: MapRef) -> Option<BorrowedFd<'_>> {
        let map = match map {
            MapRef::State => Some(&self.state),
            MapRef::Ring => return self.ring_fd.as_ref().map(AsFd::as_fd),
            MapRef::Scratch => self.scratch.as_ref(),
            MapRef::Stacks => self.stacks.as_ref(),
            MapRef::Running => self.running.as_ref(),
            MapRef::Tops => self.tops.as_ref(),
            MapRef::Chain => self.chain.as_ref(),
            MapRef::Pids => self.pids.as_ref(),
            MapRef::Threads => self.threads.as_ref(),
            MapRef::Syscalls => self.syscalls.as_ref(),
            MapRef::Frames => self.frames.get(probe)?.as_ref(),
            MapRef::Kept => self.kept.get(probe)?.as_ref(),
            MapRef::Table => self.tables.get(probe)?.as_ref(),
        };
        Some(map?.fd().as_fd())
    }
}

/// Says or asks what runs on a thread.
fn asks_what_runs(spec: &ProbeSpec) -> bool {
    matches!(spec.action, Action::Running { .. }) || frame_name(spec) == FrameName::Running
}

/// How many keys a table has room for; `bytes`: of a key and its value.
fn table_entries(action: &Action, bytes: u32, options: &EngineOptions) -> u32 {
    let wanted = match action {
        Action::Histogram {
            scale: Scale::Log, ..
        }
        | Action::Breakdown { .. } => options.max_keys.min(options.max_histograms),
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
