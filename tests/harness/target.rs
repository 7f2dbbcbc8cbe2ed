//! A target that runs: a fixture behind its gate, and the truth that it prints.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use super::PATIENCE;

/// A running fixture. It is killed when dropped.
pub struct Target {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Target {
    /// Starts a program that is set up and waits at its gate, and will stand still after its counted phase.
    pub fn gated<S: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = S>) -> Self {
        Self::gated_with(program, args, &[])
    }

    /// The same, with environment variables.
    pub fn gated_with<S: AsRef<OsStr>>(
        program: &Path,
        args: impl IntoIterator<Item = S>,
        env: &[(&str, &Path)],
    ) -> Self {
        let mut command = Command::new(program);
        command.args(args).args(["--gate", "--hold"]);
        for (name, value) in env {
            command.env(name, value);
        }
        let mut target = Self::spawn(command);
        let ready = target.line();
        assert_eq!(
            ready["ready"],
            true,
            "{} did not wait at its gate: {ready}",
            program.display()
        );
        target
    }

    /// Starts a program that runs at once.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("the pipe asked for");
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            stdin,
            lines,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Opens the gate.
    pub fn go(&mut self) {
        let stdin = self.stdin.as_mut().expect("a target is let go once");
        stdin
            .write_all(b"go\n")
            .and_then(|()| stdin.flush())
            .expect("a target that waits reads its standard input");
    }

    /// The next line it prints.
    pub fn line(&mut self) -> Value {
        let text = self
            .lines
            .recv_timeout(PATIENCE)
            .expect("the target prints a line");
        serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("not JSON from the target: {e}: {text}"))
    }

    /// The truth: the first line with a `pid`. What came before it is given too.
    pub fn lines_and_truth(&mut self) -> (Vec<Value>, Value) {
        let mut before = Vec::new();
        loop {
            let line = self.line();
            if line.get("pid").is_some() {
                return (before, line);
            }
            before.push(line);
        }
    }

    /// Opens the gate and waits for the truth; the target then stands still.
    pub fn truth(&mut self) -> Value {
        self.go();
        self.lines_and_truth().1
    }

    /// Lets it end, and waits until it has.
    pub fn end(mut self) -> ExitStatus {
        self.stdin = None;
        super::wait_for("the target to end", || {
            self.child.try_wait().expect("wait for the target")
        })
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // It may have ended already: then there is nothing to kill and wait gives its status again.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
