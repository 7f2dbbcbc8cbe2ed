//! The calls that are still open: what is left in the map of frames.

use std::os::fd::AsFd;

use super::Engine;
use crate::error::Error;
use crate::layout::{FrameKind, RecordLayout, frame_key, header, open};
use crate::program::frame_name;
use crate::spec::FrameName;
use crate::sys;

/// A call whose end was not seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenCall {
    /// Process, in the initial pid namespace.
    pub pid: u32,
    /// The thread that made the call.
    pub tid: u32,
    /// The stack pointer at entry; of a goroutine how far it is above the top of its stack (a
    /// negative number in two's complement).
    pub sp: u64,
    /// The word at the stack pointer at entry: the return address, or the kernel's trampoline
    /// where another probe has replaced it; 0 where it could not be read.
    pub caller: u64,
    /// Monotonic time of the entry in nanoseconds.
    pub time_ns: u64,
    /// The index that the site was attached with.
    pub site: u32,
    /// The goroutine's `g`, where frames are named by goroutines.
    pub goroutine: Option<u64>,
}

impl Engine {
    /// Whether calls of a probe leave frames: where not, [`Engine::open_calls`] knows of none.
    pub fn keeps_frames(&self, probe: usize) -> bool {
        self.maps.frames.get(probe).is_some_and(Option::is_some)
    }

    /// The open calls of a probe, in no order, once the engine is detached. Where the kernel
    /// pairs entry and return and what is kept of a call is its time, or little with its thread (session
    /// programs that save nothing, or a few integers) nobody tells: the list is empty, whatever
    /// [`crate::Counters`] say.
    /// Calls that were filtered, but kept open for `keep`, are not in it.
    pub fn open_calls(&self, probe: usize) -> Result<Vec<OpenCall>, Error> {
        let (Some(Some(map)), Some(spec)) = (self.maps.frames.get(probe), self.probes.get(probe))
        else {
            return Ok(Vec::new());
        };
        let fd = map.fd().as_fd();
        let failed = |source| Error::Read {
            what: format!("open calls of {}", spec.name),
            source,
        };
        let kind = FrameKind::of(spec);
        let name = frame_name(spec);
        let mut value = vec![0u8; kind.size(&RecordLayout::new(spec)) as usize];
        let mut key: Option<Vec<u8>> = None;
        let mut calls = Vec::new();
        loop {
            let mut next = vec![0u8; frame_key::size(name) as usize];
            if !sys::map_next_key(fd, key.as_deref(), &mut next).map_err(failed)? {
                return Ok(calls);
            }
            if sys::map_lookup(fd, &next, &mut value).map_err(failed)? {
                calls.extend(decode(kind, name, &next, &value));
            }
            key = Some(next);
        }
    }
}

/// `None`: a call that its filter rejected.
fn decode(kind: FrameKind, name: FrameName, key: &[u8], frame: &[u8]) -> Option<OpenCall> {
    let word = |bytes: &[u8], at: i16| {
        let at = at as usize;
        let bytes = bytes.get(at..at + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    let (time, thread, caller) = match kind {
        FrameKind::Record => {
            let flags = word(frame, header::PROBE)? >> (8 * header::FLAGS) as u16;
            if flags as u16 & header::DEFERRED != 0 {
                return None;
            }
            (header::TIME, header::PID_TGID, header::COMM)
        }
        _ => (open::TIME, open::PID_TGID, open::CALLER),
    };
    let thread = word(frame, thread)?;
    Some(OpenCall {
        pid: (thread >> 32) as u32,
        tid: thread as u32,
        sp: word(key, frame_key::PLACE)?,
        caller: word(frame, caller)?,
        time_ns: word(frame, time)?,
        site: word(key, frame_key::PROCESS)? as u32,
        goroutine: match name {
            FrameName::Goroutine => Some(word(key, frame_key::OWNER)?),
            _ => None,
        },
    })
}
