//! States of a TCP socket (include/net/tcp_states.h, the same from Linux 2.6.12 to 7.2).

/// Data flows.
pub const ESTABLISHED: u64 = 1;
/// This side connects.
pub const SYN_SENT: u64 = 2;
/// The peer connects.
pub const SYN_RECV: u64 = 3;
/// This side has sent its FIN.
pub const FIN_WAIT1: u64 = 4;
/// The peer has acknowledged it.
pub const FIN_WAIT2: u64 = 5;
/// Over, or not begun.
pub const CLOSE: u64 = 7;
/// The peer has sent its FIN.
pub const CLOSE_WAIT: u64 = 8;
/// This side has answered with its own.
pub const LAST_ACK: u64 = 9;
/// It waits for connections.
pub const LISTEN: u64 = 10;
/// The FINs of both have crossed.
pub const CLOSING: u64 = 11;
const NAMES: [&str; 12] = [
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
];

/// Its name; of a number that is none, a question mark.
pub fn name(state: u64) -> &'static str {
    let at = state.checked_sub(1).map(|n| n as usize);
    at.and_then(|n| NAMES.get(n)).copied().unwrap_or("?")
}
