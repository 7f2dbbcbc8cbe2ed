//! What the end-to-end tests stand on: the targets they probe (`fixture`, `target`), the binary
//! they drive (`uprof`), what it says (`report`, `json`), and the servers (`servers`).
//!
//! Nothing here skips: a tool that is missing or a test without root fails, and says what is needed.

pub mod fixture;
pub mod json;
pub mod machine;
pub mod report;
pub mod servers;
pub mod target;
pub mod uprof;
#[allow(dead_code, reason = "the tests of the symbols crate build the others")]
pub mod variants;

pub use fixture::Fixture;
pub use machine::turn;
pub use report::Report;
pub use target::Target;
pub use uprof::Uprof;

use std::time::{Duration, Instant};

/// How long anything may take that should be quick, on a busy two-core machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program's arguments as one list, from words and values of any printable type.
#[macro_export]
macro_rules! args {
    ($($word:expr),* $(,)?) => { Vec::<String>::from([$($word.to_string()),*]) };
}

/// Waits until `ready` gives a value; fails with `what` after [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "waited {PATIENCE:?} in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
