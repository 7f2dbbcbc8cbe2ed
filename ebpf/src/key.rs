//! Keys of aggregations, as the programs write them and as userspace reads them.

use std::sync::Arc;

use crate::layout::{KeyKind, KeyLayout};

/// One part of a key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum KeyValue {
    /// A word.
    Int(u64),
    /// A stack, by its number: see `Engine::stack`.
    Stack(u64),
    /// Bytes, or a string without its NUL.
    Bytes(Vec<u8>),
    /// It could not be read.
    Unreadable,
}

/// A key's bytes; compare and hash freely, decode when needed.
#[derive(Clone, Debug)]
pub struct KeyBytes {
    bytes: Vec<u8>,
    layout: Arc<KeyLayout>,
}

impl PartialEq for KeyBytes {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for KeyBytes {}

impl std::hash::Hash for KeyBytes {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

impl KeyBytes {
    pub(crate) fn new(bytes: Vec<u8>, layout: Arc<KeyLayout>) -> KeyBytes {
        KeyBytes { bytes, layout }
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The parts, in the order of the probe's key.
    pub fn values(&self) -> Vec<KeyValue> {
        let faults = self.layout.faults.map_or(0, |at| self.word(at as usize));
        self.layout
            .parts
            .iter()
            .enumerate()
            .map(|(i, part)| {
                if faults & (1 << (i & 63)) != 0 {
                    return KeyValue::Unreadable;
                }
                let at = part.offset as usize;
                let string = |max: usize| {
                    let bytes = self.bytes.get(at..at + max).unwrap_or_default();
                    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
                    KeyValue::Bytes(bytes[..end].to_vec())
                };
                match part.kind {
                    KeyKind::Int => KeyValue::Int(self.word(at)),
                    KeyKind::Comm => string(16),
                    KeyKind::Stack => KeyValue::Stack(self.word(at)),
                    KeyKind::Buf { limit } => {
                        let len = (self.word(at) as usize).min(limit as usize);
                        let bytes = self.bytes.get(at + 8..at + 8 + len).unwrap_or_default();
                        KeyValue::Bytes(bytes.to_vec())
                    }
                    KeyKind::Str { limit } => string(limit as usize),
                }
            })
            .collect()
    }

    fn word(&self, at: usize) -> u64 {
        self.bytes
            .get(at..at + 8)
            .map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap_or_default()))
    }
}
