//! A spinner on the terminal for what takes more than half a second.

use std::io::IsTerminal;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// What is done sooner than this shows nothing.
const PATIENCE: Duration = Duration::from_millis(500);

/// Does WORK; when it takes long, standard error shows WHAT with the time gone by, and the count that SO_FAR gives.
/// Nothing is shown where standard error is no terminal.
pub fn with<T>(what: &str, so_far: &(dyn Fn() -> u64 + Sync), work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    thread::scope(|scope| {
        let (done, waiting) = mpsc::channel::<()>();
        scope.spawn(move || {
            if !matches!(
                waiting.recv_timeout(PATIENCE),
                Err(RecvTimeoutError::Timeout)
            ) {
                return;
            }
            let bar = ProgressBar::new_spinner();
            bar.set_style(
                ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            while let Err(RecvTimeoutError::Timeout) =
                waiting.recv_timeout(Duration::from_millis(100))
            {
                bar.set_message(match so_far() {
                    0 => what.to_owned(),
                    count => format!("{what}: {count}"),
                });
                bar.tick();
            }
            bar.finish_and_clear();
        });
        let result = work();
        drop(done);
        result
    })
}
