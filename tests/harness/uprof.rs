//! Drives the binary: starts it, waits until it is armed, stops it, reads what it said.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::machine::{need_root, tool};
use super::{PATIENCE, Report};

/// The binary under test.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_uprof"))
}

/// A run of uprof to be made.
pub struct Uprof {
    args: Vec<OsString>,
    deadline: Duration,
    nobody: bool,
    env: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
}

impl Uprof {
    /// With these arguments.
    pub fn new<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        let args = args
            .into_iter()
            .map(|word| word.as_ref().to_owned())
            .collect();
        Self {
            args,
            deadline: PATIENCE,
            nobody: false,
            env: Vec::new(),
            folder: None,
        }
    }

    /// With an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Started in this folder.
    pub fn within(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// With `--format json` after these arguments, which must not end in `-- COMMAND`.
    pub fn json<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        let mut this = Self::new(args);
        this.args.extend(["--format".into(), "json".into()]);
        this
    }

    /// Followed by `-- COMMAND ARGS...`.
    pub fn command<S: AsRef<OsStr>>(
        mut self,
        program: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        self.args.push("--".into());
        self.args.push(program.into());
        self.args
            .extend(args.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Killed, and the test failed, after this long.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Without any privilege: as user 65534.
    pub fn unprivileged(mut self) -> Self {
        self.nobody = true;
        self
    }

    /// Starts it and does not wait.
    pub fn spawn(self) -> Running {
        need_root();
        let mut command = if self.nobody {
            let mut command = Command::new(tool("setpriv"));
            command
                .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
                .arg(public_copy());
            command
        } else {
            Command::new(binary())
        };
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut out = child.stdout.take().expect("the pipe asked for");
        let stdout = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            out.read_to_end(&mut bytes)
                .expect("read uprof's standard output");
            bytes
        });
        let stderr = Heard::listen(child.stderr.take().expect("the pipe asked for"));
        Running {
            child,
            stdout: Some(stdout),
            stderr,
            deadline: begun + self.deadline,
            begun,
            said: self.args,
        }
    }

    /// Starts it and waits until its probes are armed.
    pub fn start(self) -> Running {
        let mut running = self.spawn();
        running.wait_armed();
        running
    }

    /// Runs it to its end.
    pub fn run(self) -> Finished {
        self.spawn().finish()
    }
}

/// A copy of the binary where every user can reach it: checkouts are often below a home that others may not enter.
fn public_copy() -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    static COPY: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    let folder = COPY.get_or_init(|| {
        let folder = tempfile::Builder::new()
            .prefix("uprof-tests-")
            .tempdir()
            .expect("a temporary folder");
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))
            .expect("open the temporary folder");
        std::fs::copy(binary(), folder.path().join("uprof")).expect("copy uprof");
        folder
    });
    folder.path().join("uprof")
}

/// The lines that a process wrote so far, read by a thread.
#[derive(Clone)]
struct Heard(Arc<(Mutex<HeardSoFar>, Condvar)>);

#[derive(Default)]
struct HeardSoFar {
    text: String,
    armed: Option<Instant>,
    ended: bool,
}

impl Heard {
    fn listen(from: impl Read + Send + 'static) -> Self {
        let heard = Self(Arc::default());
        let teller = heard.clone();
        std::thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while matches!(from.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                teller.change(|so_far| {
                    if line.starts_with(b"uprof: armed") {
                        so_far.armed.get_or_insert_with(Instant::now);
                    }
                    so_far.text.push_str(&String::from_utf8_lossy(&line));
                });
                line.clear();
            }
            teller.change(|so_far| so_far.ended = true);
        });
        heard
    }

    fn change(&self, change: impl FnOnce(&mut HeardSoFar)) {
        change(&mut self.0.0.lock().expect("no reader panics"));
        self.0.1.notify_all();
    }

    /// Waits until `enough` gives something, the process closes its side, or the deadline comes.
    fn wait<T>(&self, deadline: Instant, enough: impl Fn(&HeardSoFar) -> Option<T>) -> Option<T> {
        let mut so_far = self.0.0.lock().expect("no reader panics");
        loop {
            let got = enough(&so_far);
            let left = deadline.saturating_duration_since(Instant::now());
            if got.is_some() || so_far.ended || left.is_zero() {
                return got;
            }
            so_far = self
                .0
                .1
                .wait_timeout(so_far, left)
                .expect("no reader panics")
                .0;
        }
    }

    fn text(&self) -> String {
        self.0.0.lock().expect("no reader panics").text.clone()
    }
}

/// A run under way. It is killed when dropped.
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Heard,
    deadline: Instant,
    begun: Instant,
    said: Vec<OsString>,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the line that says that probes are armed; returns how long after the start it came.
    pub fn wait_armed(&mut self) -> Duration {
        let armed = self.stderr.wait(self.deadline, |so_far| so_far.armed);
        match armed {
            Some(at) => at - self.begun,
            None => {
                let status = self.child.try_wait();
                self.kill_all();
                panic!(
                    "uprof {:?} was not armed ({status:?}):\n{}",
                    self.said,
                    self.stderr.text()
                );
            }
        }
    }

    /// Presses Ctrl-C.
    pub fn interrupt(&self) {
        let pid = i32::try_from(self.child.id()).expect("pids are small");
        kill(Pid::from_raw(pid), Signal::SIGINT).expect("uprof runs until it is interrupted");
    }

    /// Presses Ctrl-C and waits for the end.
    pub fn stop(self) -> Finished {
        self.interrupt();
        self.finish()
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Finished {
        let stop_began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait for uprof") {
                break status;
            }
            if Instant::now() > self.deadline {
                self.kill_all();
                panic!(
                    "uprof {:?} did not end in time; it said:\n{}",
                    self.said,
                    self.stderr.text()
                );
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let ended = Instant::now();
        // A COMMAND that outlives uprof may hold the pipes; the end of uprof is what counts.
        self.stderr
            .wait(ended + Duration::from_secs(2), |_| None::<()>);
        let stdout = self
            .stdout
            .take()
            .expect("finished once")
            .join()
            .expect("the reader of standard output");
        Finished {
            status,
            stdout,
            stderr: self.stderr.text(),
            took: ended - self.begun,
            waited: ended - stop_began,
            said: std::mem::take(&mut self.said),
        }
    }

    /// Kills uprof and what it started.
    fn kill_all(&mut self) {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        for child in std::fs::read_to_string(children)
            .unwrap_or_default()
            .split_whitespace()
        {
            if let Ok(pid) = child.parse() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill_all();
        }
    }
}

/// A run that ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
    /// From the moment that its end was waited for (after Ctrl-C, in `stop`) to its end.
    pub waited: Duration,
    said: Vec<OsString>,
}

impl Finished {
    /// Fails unless it ended well and without a panic.
    pub fn ok(self) -> Self {
        assert!(
            self.status.success(),
            "uprof {:?}: {}\n{}",
            self.said,
            self.status,
            self.stderr
        );
        self.assert_calm();
        self
    }

    fn assert_calm(&self) {
        assert!(
            self.status.signal().is_none(),
            "uprof {:?} was killed: {}\n{}",
            self.said,
            self.status,
            self.stderr
        );
        assert!(
            !self.stderr.contains("panicked at"),
            "uprof {:?}:\n{}",
            self.said,
            self.stderr
        );
        assert!(
            !self.stderr.contains("RUST_BACKTRACE"),
            "uprof {:?}:\n{}",
            self.said,
            self.stderr
        );
    }

    /// Its standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).expect("uprof writes UTF-8")
    }

    /// The JSON report on its standard output, after a good end.
    pub fn report(self) -> Report {
        Report::parse(&self.ok().text())
    }

    /// Fails unless it ended with `status` and told it on standard error, in the words given (in any case),
    /// starting with `uprof: `, and wrote nothing else.
    pub fn refused(&self, status: i32, words: &[&str]) {
        self.assert_calm();
        assert_eq!(
            self.status.code(),
            Some(status),
            "uprof {:?}:\n{}",
            self.said,
            self.stderr
        );
        if status == 1 {
            assert!(
                self.stderr.starts_with("uprof: "),
                "uprof {:?}:\n{}",
                self.said,
                self.stderr
            );
        }
        let lower = self.stderr.to_lowercase();
        for word in words {
            assert!(
                lower.contains(&word.to_lowercase()),
                "uprof {:?} did not say `{word}`:\n{}",
                self.said,
                self.stderr
            );
        }
        assert!(
            self.stdout.is_empty(),
            "uprof {:?} wrote output beside its error:\n{}",
            self.said,
            self.text()
        );
        assert!(
            !self.stderr.contains("uprof: armed"),
            "uprof {:?} attached first:\n{}",
            self.said,
            self.stderr
        );
    }
}
