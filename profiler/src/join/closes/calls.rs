//! Closes as the application makes them, and the sockets that are named within them.

use super::socket::{Pending, Socket};
use super::{Closes, MOST_STEPS, MOST_THREADS, add, of_event};
use crate::join::sockets::Fields;
use crate::report::model::Event;

impl Closes {
    /// A socket was named on a thread, within a call that closes it.
    pub fn inside(&mut self, socket: u64, event: &Event) {
        if let Some(mut close) = self.begun.remove(&event.tid) {
            add(&mut close.event, event.fields.iter().cloned());
            match socket {
                0 => self.unjoined(close),
                socket => self.close_of(socket, close),
            }
            return;
        }
        if self.inside.len() >= MOST_THREADS {
            self.inside.clear();
        }
        let named = self.inside.entry(event.tid).or_default();
        named.push_back((event.time_ns, socket, event.fields.clone()));
        if named.len() > 16 {
            named.pop_front();
        }
    }

    /// The application closes a socket, or what it takes for one.
    pub fn close(&mut self, socket: Option<u64>, variant: usize, event: Event) {
        let mut socket = socket.filter(|s| *s != 0);
        let mut close = Pending::new(variant, event, None);
        if let Some((named, fields)) = self.named_inside(&close.event) {
            add(&mut close.event, fields);
            socket = socket.or(Some(named).filter(|s| *s != 0));
        }
        if let Some(socket) = socket {
            self.close_of(socket, close);
            return;
        }
        // Whatever comes on this thread until its socket is named is the next one's.
        close.last = self.last.before(&close.event, self.spec.last.len());
        if close.event.latency_ns.is_some() || self.spec.inside.is_empty() {
            self.unjoined(close);
        } else if let Some(earlier) = self.begun.insert(close.event.tid, close) {
            self.unjoined(earlier);
        }
    }

    /// A close whose socket is not known is shown as it is.
    pub(super) fn unjoined(&mut self, mut close: Pending) {
        let why = match self.spec.inside.is_empty() {
            true => "no TCP socket was found",
            false => "no TCP socket was named within the call",
        };
        *self.unjoined.entry(why).or_default() += 1;
        close.why = Some(why);
        let shown = close.joined(&Socket::default(), false, &self.taken);
        self.show(None, shown);
    }

    fn close_of(&mut self, socket: u64, close: Pending) {
        let earlier = self.sockets.get(&socket);
        if earlier.is_some_and(|s| s.pending.is_some()) {
            self.force(socket);
        }
        let timeline = self.spec.timeline;
        let known = self.socket(socket, close.event.time_ns);
        if timeline {
            // A call of several steps begins them.
            let began = close.event.time_ns - close.event.latency_ns.unwrap_or(0);
            known.step(of_event(&close.event, began), MOST_STEPS);
        }
        self.pend(socket, close);
        self.settle(socket);
    }

    /// The socket that was named within a call, and what was captured there.
    fn named_inside(&mut self, call: &Event) -> Option<(u64, Fields)> {
        let began = call.time_ns - call.latency_ns.unwrap_or(0);
        let named = self.inside.get_mut(&call.tid)?;
        let within = named.iter_mut().rev().find(|(time, ..)| *time >= began)?;
        Some((within.1, std::mem::take(&mut within.2)))
    }
}
