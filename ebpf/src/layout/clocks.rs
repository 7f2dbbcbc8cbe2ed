//! Where the time of calls goes: of a thread, of a call, of a probe's calls together.

/// Where the time of a call went, in its frame after the slots: words. At entry what the thread's clocks said, from
/// the return on what they ran within the call.
pub(crate) mod spent {
    use crate::expr::Spent;

    /// Not 0 if the rest is known.
    pub const KNOWN: i16 = 0;
    /// A word of nanoseconds for each of [`Spent::ALL`].
    pub const NS: i16 = 8;
    /// Bytes of all.
    pub const SIZE: u32 = 8 + 8 * Spent::ALL.len() as u32;

    /// The offset of one.
    pub fn of(on: Spent) -> i16 {
        NS + 8 * on as i16
    }
}

/// The clocks of a thread, in a map by the address of its task: words.
pub(crate) mod thread {
    /// The monotonic time at which they were brought up to date.
    pub const LAST: i16 = 0;
    /// What the thread is at since then, by its number in [`crate::expr::Spent::ALL`].
    pub const AT: i16 = 8;
    /// A word of nanoseconds for each, and one that is never used: indexes are cut off at 7.
    pub const NS: i16 = 16;
    /// Bytes of all.
    pub const SIZE: u32 = 80;
}

/// What follows a histogram whose calls are broken down, as words.
pub(crate) mod breakdown_words {
    /// Calls of which it is known where their time went.
    pub const KNOWN: usize = super::super::hist_words::COUNT;
    /// A sum of nanoseconds for each of [`crate::expr::Spent::ALL`].
    pub const NS: usize = KNOWN + 1;
    /// All words.
    pub const COUNT: usize = 1 + crate::expr::Spent::ALL.len();
}

const _: () = assert!(thread::SIZE as i16 == thread::NS + 64 && crate::expr::Spent::ALL.len() < 8);
