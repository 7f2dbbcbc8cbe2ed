//! Where things lie in memory that programs and userspace share: records, keys and the state blob.

use crate::expr::Expr;
use crate::hist;
use crate::spec::{Action, Capture, KeyPart, ProbeKind, ProbeSpec, Scale};

mod clocks;

pub(crate) use clocks::{breakdown_words, spent, thread};

/// A record's header. A call's frame has the same layout: it is the record under construction.
pub(crate) mod header {
    /// u16: index of the probe; after the flags, at 4, a u32: index of the site.
    pub const PROBE: i16 = 0;
    /// u16: [`KEPT`], [`DEFERRED`].
    pub const FLAGS: i16 = 2;
    /// u64: monotonic time; in a frame the time of the entry.
    pub const TIME: i16 = 8;
    /// u64: tgid in the high half, thread in the low.
    pub const PID_TGID: i16 = 16;
    /// u64: nanoseconds; in a frame the end of the bytes captured so far.
    pub const LATENCY: i16 = 24;
    /// [u8; 16]: the thread's name; in a frame its first word is the word at the stack pointer at
    /// entry.
    pub const COMM: i16 = 32;
    /// u64: one bit per slot that could not be read (whole).
    pub const FAULTS: i16 = 48;
    /// u64: one bit per slot that was cut at its limit.
    pub const CUTS: i16 = 56;
    /// Bytes of the header.
    pub const SIZE: u32 = 64;

    /// The filter said no, `keep` said yes.
    pub const KEPT: u16 = 1;
    /// In a frame: the entry's filter said no, the return is to ask `keep`.
    pub const DEFERRED: u16 = 2;
}

/// A call's frame where it is not a record: words.
pub(crate) mod open {
    /// The monotonic time of the entry.
    pub const TIME: i16 = 0;
    /// tgid in the high half, thread in the low.
    pub const PID_TGID: i16 = 8;
    /// The word at the stack pointer at entry: the return address.
    pub const CALLER: i16 = 16;
    /// Bytes of a frame.
    pub const SIZE: u32 = 24;
    /// Of a call that says what runs: what ran on the thread before.
    pub const FORMER: i16 = 24;
    /// Bytes of such a frame.
    pub const RUNNING_SIZE: u32 = 32;
}

/// The key of a call's frame.
pub(crate) mod frame_key {
    /// u64: tgid in the high half, index of the site in the low.
    pub const PROCESS: i16 = 0;
    /// u64: the stack pointer at entry; of goroutines its distance from the top of their stack.
    pub const PLACE: i16 = 8;
    /// u64, where frames are not named by the stack alone: the goroutine, or what runs.
    pub const OWNER: i16 = 16;

    /// Bytes of a key.
    pub fn size(name: crate::FrameName) -> u32 {
        match name {
            crate::FrameName::Stack | crate::FrameName::Thread => 16,
            crate::FrameName::Goroutine | crate::FrameName::Running => 24,
        }
    }
}

/// What is kept of an open call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FrameKind {
    /// Nothing: an entry probe.
    None,
    /// The time of the entry.
    Time,
    /// The same, and what ran before.
    Running,
    /// The record as far as entry could build it.
    Record,
}

impl FrameKind {
    pub fn of(spec: &ProbeSpec) -> FrameKind {
        match &spec.kind {
            ProbeKind::Entry => FrameKind::None,
            _ if matches!(spec.action, Action::Running { .. }) => FrameKind::Running,
            ProbeKind::Call { saved, .. }
                if !saved.is_empty() || defers(spec) || spec.asks_for_spent() =>
            {
                FrameKind::Record
            }
            ProbeKind::Call { .. } => FrameKind::Time,
        }
    }

    /// Bytes of a frame.
    pub fn size(self, layout: &RecordLayout) -> u32 {
        match self {
            FrameKind::None => 0,
            FrameKind::Time => open::SIZE,
            FrameKind::Running => open::RUNNING_SIZE,
            FrameKind::Record => layout.size(),
        }
    }
}

/// The entry's filter does not decide alone: `keep` is asked at the return.
pub(crate) fn defers(spec: &ProbeSpec) -> bool {
    matches!(spec.kind, ProbeKind::Call { .. })
        && spec.keep.is_some()
        && spec.filter.is_some()
        && matches!(spec.action, Action::Event { .. })
}

/// One capture's place in a record: a word; for bytes it holds offset (low half) and length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Slot {
    Int,
    Bytes {
        limit: u32,
    },
    /// Bytes that are whole words.
    Stack {
        limit: u32,
    },
}

impl Slot {
    fn of(capture: &Capture) -> Slot {
        match capture {
            Capture::Int(_) | Capture::Saved(_) => Slot::Int,
            Capture::Str { limit, .. } | Capture::Buf { limit, .. } => {
                Slot::Bytes { limit: *limit }
            }
            Capture::Stack { frames, .. } => Slot::Stack {
                limit: 8 * u32::from(*frames),
            },
        }
    }

    /// The most bytes that it has beside its word.
    fn limit(self) -> u32 {
        match self {
            Slot::Int => 0,
            Slot::Bytes { limit } | Slot::Stack { limit } => limit,
        }
    }

    /// The room that reading it takes: a string's NUL, and a byte that tells "cut"; a frame that
    /// does.
    pub fn room(self) -> u32 {
        match self {
            Slot::Int => 0,
            Slot::Bytes { limit } => limit + 2,
            Slot::Stack { limit } => limit + 8,
        }
    }
}

/// A probe's record (and frame).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RecordLayout {
    /// Saved captures first, then the action's own.
    pub slots: Vec<Slot>,
    /// How many of the slots are filled at entry.
    pub saved: usize,
    /// Capture index of the action -> slot.
    pub captures: Vec<usize>,
    /// Whether [`spent`] follows the slots.
    has_spent: bool,
}

impl RecordLayout {
    pub fn new(spec: &ProbeSpec) -> RecordLayout {
        let mut slots: Vec<Slot> = match &spec.kind {
            ProbeKind::Entry => Vec::new(),
            ProbeKind::Call { saved, .. } => saved.iter().map(Slot::of).collect(),
        };
        let saved = slots.len();
        let mut captures = Vec::new();
        if let Action::Event { captures: own } = &spec.action {
            for capture in own {
                if let Capture::Saved(i) = capture {
                    captures.push(usize::from(*i));
                } else {
                    captures.push(slots.len());
                    slots.push(Slot::of(capture));
                }
            }
        }
        RecordLayout {
            slots,
            saved,
            captures,
            has_spent: spec.asks_for_spent(),
        }
    }

    /// Offset of [`spent`], if it is there.
    pub fn spent(&self) -> Option<i16> {
        self.has_spent.then(|| self.slot(self.slots.len()))
    }

    /// Offset of a slot's word.
    pub fn slot(&self, index: usize) -> i16 {
        (header::SIZE as usize + 8 * index) as i16
    }

    /// Where captured bytes begin.
    pub fn fixed(&self) -> u32 {
        let spent = if self.has_spent { spent::SIZE } else { 0 };
        header::SIZE + 8 * self.slots.len() as u32 + spent
    }

    /// The most bytes before slot `index` is read: what bounds its offset.
    pub fn before(&self, index: usize) -> u32 {
        let before = self.slots[..index].iter();
        self.fixed() + before.map(|s| s.limit()).sum::<u32>()
    }

    /// The memory that building it takes.
    pub fn size(&self) -> u32 {
        let room: u32 = self.slots.iter().map(|s| s.room()).sum();
        (self.fixed() + room).next_multiple_of(8)
    }

    pub fn has_bytes(&self) -> bool {
        self.slots.iter().any(|s| *s != Slot::Int)
    }
}

/// A keyed aggregation's key: its parts in order, then a word of fault bits if one can fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct KeyLayout {
    pub parts: Vec<KeySlot>,
    pub faults: Option<u32>,
    pub size: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct KeySlot {
    pub offset: u32,
    pub kind: KeyKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KeyKind {
    Int,
    Comm,
    /// The stack's number.
    Stack,
    /// A word that is the length, then the bytes, padded with zeros.
    Buf {
        limit: u32,
    },
    Str {
        limit: u32,
    },
}

impl KeyLayout {
    pub fn new(parts: &[KeyPart]) -> KeyLayout {
        let mut offset = 0;
        let slots = parts
            .iter()
            .map(|part| {
                let (kind, size) = match part {
                    KeyPart::Int(_) => (KeyKind::Int, 8),
                    KeyPart::Stack { .. } => (KeyKind::Stack, 8),
                    KeyPart::Buf { limit, .. } => (
                        KeyKind::Buf { limit: *limit },
                        8 + limit.next_multiple_of(8),
                    ),
                    KeyPart::Comm => (KeyKind::Comm, 16),
                    KeyPart::Str { limit, .. } => (
                        KeyKind::Str { limit: *limit },
                        (limit + 1).next_multiple_of(8),
                    ),
                };
                let slot = KeySlot { offset, kind };
                offset += size;
                slot
            })
            .collect();
        let faults = parts.iter().any(KeyPart::can_fault).then(|| {
            offset += 8;
            offset - 8
        });
        KeyLayout {
            parts: slots,
            faults,
            size: offset,
        }
    }
}

impl KeyPart {
    pub(crate) fn can_fault(&self) -> bool {
        match self {
            KeyPart::Int(e) => Expr::can_fault(e),
            KeyPart::Comm | KeyPart::Stack { .. } => false,
            KeyPart::Buf { .. } | KeyPart::Str { .. } => true,
        }
    }
}

/// A histogram in memory, as words.
pub(crate) mod hist_words {
    /// The sum's low word.
    pub const SUM: usize = 0;
    /// The sum's high word.
    pub const CARRY: usize = 1;
    /// `!min`, so that zeroed memory means none.
    pub const NOT_MIN: usize = 2;
    /// The largest value.
    pub const MAX: usize = 3;
    /// The first bucket.
    pub const BUCKETS: usize = 4;
    /// All words.
    pub const COUNT: usize = BUCKETS + crate::hist::BUCKETS;
}

/// Sum and extremes of signed values in memory, as words. The extremes have their sign flipped, so
/// that they order as unsigned words do, and zeroed memory is the least.
pub(crate) mod signed_words {
    /// The sum; it wraps.
    pub const SUM: usize = 0;
    /// `!min`.
    pub const NOT_MIN: usize = 1;
    /// The largest value.
    pub const MAX: usize = 2;
    /// All words.
    pub const COUNT: usize = 3;
    /// What flips the sign.
    pub const FLIP: u64 = 1 << 63;
}

/// Statistics in memory, as words.
pub(crate) mod stats_words {
    /// Hits; last to be added.
    pub const COUNT: usize = 0;
    /// [`super::signed_words`] of each value.
    pub const VALUES: usize = 1;
}

/// A linear histogram in memory, as words: [`signed_words`] of its value, then these.
pub(crate) mod linear_words {
    /// Values below the first bucket, the buckets, values above the last.
    pub const BELOW: usize = super::signed_words::COUNT;
}

/// A stack that is part of a key, by its number: how many bytes of frames there are, then they.
pub(crate) mod kept_stack {
    /// The most bytes of frames.
    pub const FRAMES: u32 = 8 * crate::spec::MAX_STACK_FRAMES as u32;
    /// All bytes.
    pub const SIZE: u32 = 8 + FRAMES;
}

/// Counters of a probe in one shard, as words of its block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Counter {
    Hits = 0,
    Emitted = 1,
    Aggregated = 2,
    Filtered = 3,
    DroppedRing = 4,
    DroppedMap = 5,
    /// Of the filtered: those whose filter, value or key could not be read.
    Unreadable = 6,
    /// Calls whose frame a later call found in its place.
    Abandoned = 7,
    /// Calls whose return the kernel does not see: too many are pending on the thread.
    Nested = 8,
    /// Left out by sampling.
    Unsampled = 9,
}

/// Words of counters before a block's other parts: two cache lines.
const COUNTER_WORDS: u32 = 16;
/// Word of a probe's block in the first shard: see [`crate::program::turn`]. It lies apart from
/// what every hit counts.
pub(crate) const TURN: u32 = 15;
/// Word of a kernel probe's block in the first shard: not 0 where it counts in every process.
pub(crate) const EVERYONE: u32 = 14;
/// Words in which threads are marked that have gone over to other programs; a power of two.
pub(crate) const MARKS: u32 = 512;
/// The blob's control area: the wake-up word, then process ids.
const CONTROL: u32 = 128;
/// Where the wake-up word lies: 1 from a wake-up until userspace has drained.
pub(crate) const WAKE_SENT: u32 = 0;
/// Where process ids to probe lie, as words; none: all processes.
pub(crate) const PIDS: u32 = 64;
/// How many.
pub(crate) const MAX_PIDS: u32 = 8;
/// The largest value of an ARRAY map on every supported kernel.
pub(crate) const MAX_VALUE: u32 = 4 << 20;

/// A probe's block in each shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Block {
    /// Offset in the shard.
    pub offset: u32,
    /// Offset in the block of what is aggregated without a key.
    pub unkeyed: Option<u32>,
    /// Offset in the block of the site counters.
    pub sites: Option<u32>,
    pub size: u32,
}

/// The state blob: control words, a zeroed template, marks, then a block per probe and shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StateLayout {
    /// Offset of memory that stays zero, from which map values are inserted.
    pub zeros: u32,
    /// Offset of [`MARKS`] words.
    pub marks: u32,
    pub first_shard: u32,
    pub shards: u32,
    pub stride: u32,
    pub blocks: Vec<Block>,
    pub size: u32,
}

impl StateLayout {
    /// Lays out the blob for `probes`; `cpus` is what the system can have. `None`: it does not
    /// fit into the largest value of a map.
    pub fn new(probes: &[ProbeSpec], cpus: u32, cap_shards: bool) -> Option<StateLayout> {
        let mut zero_bytes = 0;
        let mut offset = 0u32;
        let mut blocks = Vec::new();
        for spec in probes {
            let value = table_value(&spec.action);
            let mut size = 8 * COUNTER_WORDS;
            let mut unkeyed = None;
            match &spec.action {
                Action::Histogram { key, .. }
                | Action::Stats { key, .. }
                | Action::Breakdown { key, .. }
                    if key.is_empty() =>
                {
                    unkeyed = Some(size);
                    size += value;
                }
                _ => zero_bytes = zero_bytes.max(value),
            }
            let frame = FrameKind::of(spec).size(&RecordLayout::new(spec));
            zero_bytes = zero_bytes.max(frame);
            let sites = (spec.sites > 1).then_some(size);
            if sites.is_some() {
                size = size.checked_add(spec.sites.checked_mul(8)?)?;
            }
            size = size.checked_next_multiple_of(64)?;
            blocks.push(Block {
                offset,
                unkeyed,
                sites,
                size,
            });
            offset = offset.checked_add(size)?;
        }
        let zeros = CONTROL;
        let marks = (CONTROL + zero_bytes).next_multiple_of(64);
        let first_shard = marks + 8 * MARKS;
        let mut shards = cpus.max(1).next_power_of_two();
        if cap_shards {
            shards = shards.min(16);
        }
        loop {
            let size = offset.checked_mul(shards)?.checked_add(first_shard);
            match size {
                Some(size) if size <= MAX_VALUE => {
                    return Some(StateLayout {
                        zeros,
                        marks,
                        first_shard,
                        shards,
                        stride: offset,
                        blocks,
                        size: size.max(64),
                    });
                }
                _ if shards == 1 => return None,
                _ => shards /= 2,
            }
        }
    }
}

/// Bytes of an aggregation's value.
pub(crate) fn table_value(action: &Action) -> u32 {
    let words = match action {
        Action::Histogram {
            scale: Scale::Linear { buckets, .. },
            ..
        } => linear_words::BELOW as u32 + buckets.saturating_add(2).min(MAX_VALUE),
        Action::Histogram { .. } => hist_words::COUNT as u32,
        Action::Breakdown { .. } => (hist_words::COUNT + breakdown_words::COUNT) as u32,
        Action::Stats { values, .. } => {
            (stats_words::VALUES + signed_words::COUNT * values.len()) as u32
        }
        _ => 1,
    };
    8 * words
}

const _: () = assert!(hist_words::COUNT == hist::BUCKETS + 4);
const _: () =
    assert!(MARKS.is_power_of_two() && TURN > Counter::Unsampled as u32 && TURN < COUNTER_WORDS);
