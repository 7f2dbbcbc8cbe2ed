//! PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use super::super::wait_for;

/// A running PostgreSQL that logs every statement with its duration. It does not run as root: its user is `nobody`.
pub struct Postgres {
    child: Child,
    folder: TempDir,
    programs: PathBuf,
}

/// What the log says of one statement.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedStatement {
    /// The process that served it.
    pub pid: u32,
    /// The statement's text.
    pub sql: String,
    /// How long it took, with parsing and planning.
    pub took_ns: u64,
}

impl Postgres {
    /// Makes a data folder and starts the server on a socket in it.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("uprof-pg-")
            .tempdir()
            .expect("a temporary folder");
        let nobody = nix::unistd::User::from_name("nobody")
            .ok()
            .flatten()
            .expect("a user nobody");
        nix::unistd::chown(folder.path(), Some(nobody.uid), Some(nobody.gid))
            .expect("give the folder to nobody");
        let programs = programs();
        let data = folder.path().join("data");
        let made = as_nobody(&programs.join("initdb"))
            .args([
                "--auth=trust",
                "--username=postgres",
                "--no-sync",
                "--locale=C",
            ])
            .arg("-D")
            .arg(&data)
            .current_dir(folder.path())
            .output()
            .expect("run initdb");
        succeeded("initdb", made);
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let mut server = as_nobody(&programs.join("postgres"));
        server.arg("-D").arg(&data).arg("-k").arg(folder.path());
        for setting in [
            "listen_addresses=",
            "fsync=off",
            "autovacuum=off",
            "max_connections=20",
            "shared_buffers=16MB",
            "log_min_duration_statement=0",
            "log_line_prefix=%p|",
        ] {
            server.args(["-c", setting]);
        }
        let child = server
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start postgres");
        let mut server = Self {
            child,
            folder,
            programs,
        };
        wait_for("PostgreSQL to answer", || {
            assert!(
                matches!(server.child.try_wait(), Ok(None)),
                "postgres ended: {}",
                server.log()
            );
            let asked = server.psql("SELECT 1").output().expect("run psql");
            asked.status.success().then_some(())
        });
        server
    }

    /// The text of its log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The log's statements so far: those executed, not their parsing and binding.
    pub fn statements(&self) -> Vec<LoggedStatement> {
        self.log().lines().filter_map(statement).collect()
    }

    fn psql(&self, sql: &str) -> Command {
        let mut psql = self.client("psql");
        psql.args(["-X", "-q", "-A", "-t", "-d", "postgres", "-c", sql]);
        psql
    }

    fn client(&self, name: &str) -> Command {
        let mut client = Command::new(self.programs.join(name));
        client
            .arg("-h")
            .arg(self.folder.path())
            .args(["-U", "postgres"]);
        client
    }

    /// Runs a string of statements in a session of its own and returns what it printed.
    pub fn sql(&self, sql: &str) -> String {
        succeeded("psql", self.psql(sql).output().expect("run psql"))
    }

    /// Runs a string of statements of which one fails.
    pub fn sql_fails(&self, sql: &str) {
        let output = self.psql(sql).output().expect("run psql");
        assert!(!output.status.success(), "{sql} did not fail");
    }

    /// Runs pgbench.
    pub fn bench(&self, args: &[&str]) -> String {
        let output = self.client("pgbench").args(args).arg("postgres").output();
        succeeded("pgbench", output.expect("run pgbench"))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        super::end(&mut self.child);
    }
}

/// `11556|LOG:  duration: 0.378 ms  statement: select 1`, or `execute NAME: select 1` in the extended protocol.
fn statement(line: &str) -> Option<LoggedStatement> {
    let (pid, rest) = line.split_once("|LOG:  duration: ")?;
    let (took, rest) = rest.split_once(" ms  ")?;
    let (what, sql) = rest.split_once(": ")?;
    if what != "statement" && !what.starts_with("execute ") {
        return None;
    }
    let took: f64 = took.parse().expect("a duration");
    Some(LoggedStatement {
        pid: pid.parse().expect("a pid"),
        sql: sql.to_owned(),
        took_ns: (took * 1e6).round() as u64,
    })
}

/// Debian keeps each version's programs in a folder of its own.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut found: Vec<PathBuf> = versions
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|folder| folder.join("initdb").is_file())
        .collect();
    found.sort();
    found
        .pop()
        .expect("PostgreSQL is not installed: apt-get install postgresql, or run tests/run")
}

fn as_nobody(program: &Path) -> Command {
    let mut command = Command::new(super::super::machine::tool("setpriv"));
    command
        .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
        .arg(program);
    command
}

fn succeeded(program: &str, output: Output) -> String {
    assert!(
        output.status.success(),
        "{program}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
