//! Records as they come out of the ring buffer.

use crate::layout::{RecordLayout, Slot, header};

/// One record, borrowed from the ring buffer.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// Index of the probe.
    pub probe: u16,
    /// Its filter said no, `keep` said yes: for joins only.
    pub kept: bool,
    /// Monotonic time in nanoseconds of the hit; of the return for calls. See
    /// [`crate::unix_offset_ns`].
    pub time_ns: u64,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Nanoseconds from entry to return; 0 for entry probes.
    pub latency_ns: u64,
    /// The index that the site was attached with.
    pub site: u32,
    /// The thread's name, padded with NULs.
    pub comm: &'a [u8; 16],
    data: &'a [u8],
    layout: &'a RecordLayout,
}

impl std::fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("probe", &self.probe)
            .field("kept", &self.kept)
            .field("time_ns", &self.time_ns)
            .field("pid", &self.pid)
            .field("tid", &self.tid)
            .field("latency_ns", &self.latency_ns)
            .field("site", &self.site)
            .field("bytes", &self.data.len())
            .finish_non_exhaustive()
    }
}

/// Captured bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bytes<'a> {
    /// What was read; with `fault` what lay before the memory that could not be read.
    pub data: &'a [u8],
    /// There was more: it was cut at the capture's limit.
    pub cut: bool,
    /// Memory could not be read.
    pub fault: bool,
}

impl Bytes<'_> {
    /// A stack's frames, innermost first.
    pub fn frames(&self) -> impl Iterator<Item = u64> {
        let words = self.data.chunks_exact(8);
        words.map(|w| u64::from_le_bytes(w.try_into().unwrap_or_default()))
    }
}

fn word(data: &[u8], at: usize) -> Option<u64> {
    let bytes = data.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

impl<'a> Record<'a> {
    /// Decodes a record; `layouts` by probe. `None`: too short, or no such probe.
    pub(crate) fn decode(data: &'a [u8], layouts: &'a [RecordLayout]) -> Option<Record<'a>> {
        let first = word(data, header::PROBE as usize)?;
        let probe = first as u16;
        let layout = layouts.get(usize::from(probe))?;
        if data.len() < layout.fixed() as usize {
            return None;
        }
        let pid_tgid = word(data, header::PID_TGID as usize)?;
        let comm = header::COMM as usize;
        Some(Record {
            probe,
            kept: (first >> 16) as u16 & header::KEPT != 0,
            time_ns: word(data, header::TIME as usize)?,
            pid: (pid_tgid >> 32) as u32,
            tid: pid_tgid as u32,
            latency_ns: word(data, header::LATENCY as usize)?,
            site: (first >> 32) as u32,
            comm: data.get(comm..comm + 16)?.try_into().ok()?,
            data,
            layout,
        })
    }

    fn bit(&self, mask: i16, slot: usize) -> bool {
        word(self.data, mask as usize).unwrap_or(0) >> (slot & 63) & 1 != 0
    }

    /// How many captures the record has.
    pub fn len(&self) -> usize {
        self.layout.captures.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.layout.captures.is_empty()
    }

    /// Capture `index` as a word. `None`: unreadable, or not a word.
    pub fn int(&self, index: usize) -> Option<u64> {
        let slot = *self.layout.captures.get(index)?;
        if self.layout.slots.get(slot) != Some(&Slot::Int) || self.bit(header::FAULTS, slot) {
            return None;
        }
        word(self.data, self.layout.slot(slot) as usize)
    }

    /// Capture `index` as bytes; marked unreadable if it is none.
    pub fn bytes(&self, index: usize) -> Bytes<'a> {
        self.find_bytes(index).unwrap_or(Bytes {
            data: &[],
            cut: false,
            fault: true,
        })
    }

    fn find_bytes(&self, index: usize) -> Option<Bytes<'a>> {
        let slot = *self.layout.captures.get(index)?;
        if *self.layout.slots.get(slot)? == Slot::Int {
            return None;
        }
        let place = word(self.data, self.layout.slot(slot) as usize)?;
        let (from, len) = (place as u32 as usize, (place >> 32) as usize);
        Some(Bytes {
            data: self.data.get(from..from + len)?,
            cut: self.bit(header::CUTS, slot),
            fault: self.bit(header::FAULTS, slot),
        })
    }
}
