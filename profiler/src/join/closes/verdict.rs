//! Who hung up first: the first transition out of ESTABLISHED tells it, whatever comes after.
//!
//! | transition | verdict |
//! |---|---|
//! | ESTABLISHED -> FIN_WAIT1 | the application, unless CLOSING follows: then both at once |
//! | ESTABLISHED -> CLOSE_WAIT | the peer |
//! | ESTABLISHED -> CLOSE after a reset was received | the peer, by a reset |
//! | ESTABLISHED -> CLOSE, and a reset is sent | the application, by a reset |
//! | ESTABLISHED -> CLOSE with an error | nobody: the kernel gave the connection up |
//!
//! Read from tcp_close(), tcp_fin(), tcp_reset(), tcp_disconnect(), tcp_abort() and tcp_write_err() of Linux 5.10 to 7.2.

use crate::join::state;

/// Errors that a socket ends with (include/uapi/asm-generic/errno.h).
mod error {
    pub const CONNABORTED: u64 = 103;
    pub const CONNRESET: u64 = 104;
}

/// Who hung up first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// The application, by close() or shutdown(), or by its end.
    App,
    /// The peer, by a FIN.
    Peer,
    /// The peer, by a reset.
    PeerReset,
    /// The application, by a reset.
    AppReset,
    /// Both: their FINs crossed.
    Both,
    /// It cannot be told; the cause says why.
    Unknown,
}

impl Verdict {
    /// Its word, as in reports.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::App => "app",
            Verdict::Peer => "peer",
            Verdict::PeerReset => "peer-reset",
            Verdict::AppReset => "app-reset",
            Verdict::Both => "both",
            Verdict::Unknown => "unknown",
        }
    }
}

/// The first transition out of ESTABLISHED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    /// The state it led to.
    pub to: u64,
    /// When, in nanoseconds since the UNIX epoch.
    pub time_ns: u64,
    /// Bytes sent until then, if that is captured.
    pub sent: Option<u64>,
}

/// What was seen of a socket's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// How it left ESTABLISHED.
    pub first: Option<First>,
    /// A reset was received, at any time.
    pub reset_received: bool,
    /// The application sent one.
    pub reset_sent: bool,
    /// It has left FIN_WAIT1: the peer's FIN did not cross this side's, or it went to CLOSING.
    pub left_fin_wait1: bool,
    /// It went to CLOSING.
    pub crossed: bool,
    /// The socket's error when it left ESTABLISHED.
    pub error: u64,
    /// Nothing more will come.
    pub gone: bool,
    /// The earliest state that is known, of a socket that was there before the run.
    pub was: Option<u64>,
}

impl Ending {
    /// Takes a transition.
    pub fn changed(&mut self, from: u64, to: u64, first: First, error: u64) {
        if from == state::ESTABLISHED && self.first.is_none() {
            self.first = Some(first);
            self.error = error;
            self.reset_received |= error == error::CONNRESET;
        }
        self.was_in(from);
        if from == state::FIN_WAIT1 {
            self.left_fin_wait1 = true;
            self.crossed |= to == state::CLOSING;
        }
    }

    /// It was in this state before all that is known of it so far.
    pub fn was_in(&mut self, state: u64) {
        use state::{CLOSE_WAIT, CLOSING, FIN_WAIT1, FIN_WAIT2, LAST_ACK};
        let ends = matches!(
            state,
            FIN_WAIT1 | FIN_WAIT2 | CLOSE_WAIT | LAST_ACK | CLOSING
        );
        self.was = self.was.or(ends.then_some(state));
    }

    /// The verdict, once it is final; AT_CLOSE is the socket's state when the application closed it, for sockets whose
    /// first transition came before the run, where no earlier one is known.
    pub fn verdict(&self, at_close: Option<u64>) -> Option<Verdict> {
        let Some(first) = self.first else {
            return match self.was.or(at_close) {
                Some(state::CLOSE_WAIT | state::LAST_ACK) => Some(Verdict::Peer),
                Some(state::FIN_WAIT2) => Some(Verdict::App),
                Some(state::CLOSING) => Some(Verdict::Both),
                Some(state::FIN_WAIT1) => self.after_fin(),
                Some(state::CLOSE) => Some(Verdict::Unknown),
                _ => self.gone.then_some(Verdict::Unknown),
            };
        };
        match first.to {
            state::CLOSE_WAIT => Some(Verdict::Peer),
            state::FIN_WAIT1 => self.after_fin(),
            _ if self.reset_received => Some(Verdict::PeerReset),
            _ if self.error == error::CONNABORTED => Some(Verdict::AppReset),
            _ if self.error != 0 => Some(Verdict::Unknown),
            _ if self.reset_sent => Some(Verdict::AppReset),
            _ => self.gone.then_some(Verdict::Unknown),
        }
    }

    /// After this side's FIN the peer's may be on its way until this one is acknowledged.
    fn after_fin(&self) -> Option<Verdict> {
        match (self.crossed, self.left_fin_wait1 || self.gone) {
            (true, _) => Some(Verdict::Both),
            (false, true) => Some(Verdict::App),
            (false, false) => None,
        }
    }

    /// What is beside the verdict; SENT are the bytes sent until the application closed at TIME_NS. Empty: nothing.
    pub fn cause(&self, verdict: Verdict, sent: Option<u64>, time_ns: u64) -> &'static str {
        let first = self.first;
        let before = first.is_some_and(|f| f.time_ns < time_ns);
        match verdict {
            Verdict::App if before => "lingering",
            Verdict::AppReset if self.error == error::CONNABORTED => "aborted",
            Verdict::Peer if self.reset_received => "reset after FIN",
            Verdict::Peer
                if first
                    .and_then(|f| f.sent)
                    .zip(sent)
                    .is_some_and(|(a, b)| b > a) =>
            {
                "half-close"
            }
            Verdict::Unknown => self.unknown(),
            _ => "",
        }
    }

    /// Why there is no verdict.
    fn unknown(&self) -> &'static str {
        // ETIMEDOUT, EHOSTUNREACH, ENETUNREACH: see include/uapi/asm-generic/errno.h.
        match (self.first, self.error) {
            (Some(_), 110) => "timed out",
            (Some(_), 113 | 101) => "no route to the peer",
            (Some(_), _) => "ended without FIN or reset",
            (None, _) => "ended before uprof looked",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(changes: &[(u64, u64)], error: u64) -> Ending {
        let mut ending = Ending::default();
        for (n, (from, to)) in changes.iter().enumerate() {
            let first = First {
                to: *to,
                time_ns: n as u64,
                sent: Some(10),
            };
            ending.changed(*from, *to, first, error);
        }
        ending
    }

    #[test]
    fn the_first_transition_decides() {
        let app = after(&[(1, 4), (4, 5), (5, 7)], 0);
        assert_eq!(app.verdict(Some(1)), Some(Verdict::App));
        let peer = after(&[(1, 8), (8, 9), (9, 7)], 0);
        assert_eq!(peer.verdict(Some(8)), Some(Verdict::Peer));
        let both = after(&[(1, 4), (4, 11), (11, 7)], 0);
        assert_eq!(both.verdict(Some(1)), Some(Verdict::Both));
    }

    #[test]
    fn a_fin_that_is_not_acknowledged_may_still_cross_the_peer_s() {
        let mut sent = after(&[(1, 4)], 0);
        assert_eq!(sent.verdict(Some(1)), None);
        sent.gone = true;
        assert_eq!(sent.verdict(Some(1)), Some(Verdict::App));
    }

    #[test]
    fn resets_are_whose_they_are() {
        let mut peer = after(&[(1, 7)], 0);
        peer.reset_received = true;
        assert_eq!(peer.verdict(Some(7)), Some(Verdict::PeerReset));
        // Without the tracepoint the error tells it.
        assert_eq!(
            after(&[(1, 7)], 104).verdict(Some(7)),
            Some(Verdict::PeerReset)
        );
        let mut app = after(&[(1, 7)], 0);
        assert_eq!(app.verdict(Some(1)), None);
        app.reset_sent = true;
        assert_eq!(app.verdict(Some(1)), Some(Verdict::AppReset));
        // A reset after the peer's FIN is not the first.
        let mut late = after(&[(1, 8), (8, 7)], 0);
        late.reset_received = true;
        assert_eq!(late.verdict(Some(7)), Some(Verdict::Peer));
        assert_eq!(late.cause(Verdict::Peer, None, 9), "reset after FIN");
    }

    #[test]
    fn what_the_kernel_gave_up_is_nobody_s() {
        // A keepalive that is not answered ends with a reset of this side's.
        let mut timed_out = after(&[(1, 7)], 110);
        timed_out.reset_sent = true;
        assert_eq!(timed_out.verdict(Some(7)), Some(Verdict::Unknown));
        assert_eq!(timed_out.cause(Verdict::Unknown, None, 9), "timed out");
        let killed = after(&[(1, 7)], 103);
        assert_eq!(killed.verdict(Some(7)), Some(Verdict::AppReset));
    }

    #[test]
    fn the_state_tells_what_happened_before_the_run() {
        let old = Ending::default();
        assert_eq!(old.verdict(Some(8)), Some(Verdict::Peer));
        assert_eq!(old.verdict(Some(5)), Some(Verdict::App));
        assert_eq!(old.verdict(Some(11)), Some(Verdict::Both));
        assert_eq!(old.verdict(Some(1)), None);
        assert_eq!(old.verdict(Some(7)), Some(Verdict::Unknown));
        // What was seen of it before the close tells more.
        let half = after(&[(5, 7)], 0);
        assert_eq!(half.verdict(Some(7)), Some(Verdict::App));
        let asked = Ending {
            was: Some(8),
            ..Ending::default()
        };
        assert_eq!(asked.verdict(Some(7)), Some(Verdict::Peer));
    }

    #[test]
    fn the_cause_tells_a_half_close_from_a_close() {
        let peer = after(&[(1, 8)], 0);
        assert_eq!(peer.cause(Verdict::Peer, Some(500), 9), "half-close");
        assert_eq!(peer.cause(Verdict::Peer, Some(10), 9), "");
        let app = after(&[(1, 4), (4, 5)], 0);
        assert_eq!(app.cause(Verdict::App, None, 9), "lingering");
        assert_eq!(app.cause(Verdict::App, None, 0), "");
    }
}
