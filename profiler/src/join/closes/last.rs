//! What was done last before a close: on its socket, on its thread, or with a value in common.

use std::collections::{BTreeMap, HashMap};

use uprof_recipes::LastBy;

use crate::join::sockets::Fields;
use crate::report::model::Event;

/// How many threads and values are remembered with what they did last.
const MOST: usize = 65_536;

/// What an event is known by, where that is not its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// The thread.
    Thread(u32),
    /// The value of a capture, in a process.
    Value(u32, u64),
}

/// The last events before a close, by the probe's place in `last`: when, and what was captured.
pub type Last = BTreeMap<usize, (u64, Fields)>;

/// The last events that are not known by their sockets.
pub struct Lasts {
    by: LastBy,
    events: HashMap<(usize, Key), (u64, Fields)>,
}

impl Lasts {
    /// As a recipe has it.
    pub fn new(by: &LastBy) -> Self {
        Self {
            by: by.clone(),
            events: HashMap::new(),
        }
    }

    /// The capture by which events are known.
    pub fn capture(by: &LastBy) -> Option<&str> {
        match by {
            LastBy::Capture(name) => Some(name),
            _ => None,
        }
    }

    /// Takes FIELDS of an event of probe number PROBE; gives them back where its socket is what it is known by.
    pub fn took(&mut self, probe: usize, event: &Event, fields: Fields) -> Option<Fields> {
        let Some(key) = self.key(event) else {
            return Some(fields);
        };
        if self.events.len() >= MOST {
            self.events.clear();
        }
        self.events.insert((probe, key), (event.time_ns, fields));
        None
    }

    /// What was done before a close, of so many probes. Each event is told once.
    pub fn before(&mut self, close: &Event, probes: usize) -> Last {
        let Some(key) = self.key(close) else {
            return Last::new();
        };
        let keys = [key, Key::Thread(close.tid)];
        let mut of = |probe| {
            keys.iter()
                .find_map(|key| self.events.remove(&(probe, *key)))
        };
        (0..probes)
            .filter_map(|probe| Some((probe, of(probe)?)))
            .collect()
    }

    /// `None`: its socket.
    fn key(&self, event: &Event) -> Option<Key> {
        let value = match &self.by {
            LastBy::Socket => return None,
            LastBy::Thread => None,
            LastBy::Capture(name) => event.fields.iter().find(|(n, _)| **n == **name),
        };
        let value = value.and_then(|(_, value)| value.as_u64());
        Some(value.map_or(Key::Thread(event.tid), |value| Key::Value(event.pid, value)))
    }
}
