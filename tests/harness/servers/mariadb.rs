//! MariaDB.

use std::collections::BTreeMap;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use super::super::machine::tool;
use super::super::wait_for;

/// A running MariaDB server, empty but for the database `test`.
pub struct MariaDb {
    child: Child,
    port: u16,
    /// Short, because a socket's path has 107 bytes at most.
    folder: TempDir,
}

/// Differences of the server's own counters between two looks.
pub struct Counters(BTreeMap<String, i64>);

impl MariaDb {
    /// Makes a data folder and starts the server.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("uprof-db-")
            .tempdir()
            .expect("a temporary folder");
        let data = folder.path().join("data");
        let small = ["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M"];
        let made = Command::new(tool("mariadb-install-db"))
            .args([
                "--no-defaults",
                "--user=root",
                "--auth-root-authentication-method=normal",
            ])
            .args(small)
            .arg(format!("--datadir={}", data.display()))
            .output()
            .expect("run mariadb-install-db");
        assert!(made.status.success(), "mariadb-install-db: {made:?}");
        let port = super::free_port();
        let child = Command::new(tool("mariadbd"))
            .args([
                "--no-defaults",
                "--user=root",
                "--bind-address=127.0.0.1",
                "--skip-log-bin",
            ])
            .args(small)
            .arg(format!("--port={port}"))
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", folder.path().join("s").display()))
            .arg(format!(
                "--pid-file={}",
                folder.path().join("pid").display()
            ))
            .arg(format!(
                "--log-error={}",
                folder.path().join("log").display()
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start mariadbd");
        let mut server = Self {
            child,
            port,
            folder,
        };
        wait_for("MariaDB to listen", || {
            assert!(
                matches!(server.child.try_wait(), Ok(None)),
                "mariadbd ended: {}",
                server.log()
            );
            server
                .client()
                .args(["-e", "SELECT 1"])
                .output()
                .expect("run mariadb")
                .status
                .success()
                .then_some(())
        });
        server.sql("CREATE DATABASE IF NOT EXISTS test");
        server
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn socket(&self) -> String {
        self.folder.path().join("s").display().to_string()
    }

    /// The command-line client, connected.
    pub fn client(&self) -> Command {
        let mut client = Command::new(tool("mariadb"));
        client
            .args(["--no-defaults", "-NB", "-uroot", "-S"])
            .arg(self.socket());
        client
    }

    /// Runs statements through the client and returns what it printed.
    pub fn sql(&self, statements: &str) -> String {
        let output = self
            .client()
            .args(["-D", "test", "-e", statements])
            .output()
            .expect("run mariadb");
        succeeded("mariadb", output)
    }

    /// Runs statements and returns their error.
    pub fn sql_fails(&self, statements: &str) -> String {
        let output = self
            .client()
            .args(["-D", "test", "-e", statements])
            .output()
            .expect("run mariadb");
        assert!(!output.status.success(), "{statements} did not fail");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs a sysbench workload (`prepare`, or `run` with what `more` adds) on two small tables.
    pub fn sysbench(&self, workload: &str, more: &[&str], step: &str) -> String {
        let output = Command::new(tool("sysbench"))
            .arg(workload)
            .args([
                "--db-driver=mysql",
                "--mysql-user=root",
                "--mysql-db=test",
                "--tables=2",
                "--table-size=1000",
            ])
            .arg(format!("--mysql-socket={}", self.socket()))
            .args(more)
            .arg(step)
            .output()
            .expect("run sysbench");
        succeeded("sysbench", output)
    }

    /// Runs mysqlslap.
    pub fn slap(&self, args: &[&str]) {
        let output = Command::new(tool("mysqlslap"))
            .args(["--no-defaults", "-uroot", "--create-schema=test", "-S"])
            .arg(self.socket())
            .args(args)
            .output()
            .expect("run mysqlslap");
        succeeded("mysqlslap", output);
    }

    /// A counter of the server's own.
    pub fn status(&self, name: &str) -> u64 {
        let shown = self.sql(&format!("SHOW GLOBAL STATUS LIKE '{name}'"));
        let value = shown.trim().split('\t').nth(1).and_then(|v| v.parse().ok());
        value.unwrap_or_else(|| panic!("{name}: {shown}"))
    }

    /// The server's own counters. Looking is itself one statement (`SHOW`) and one `Quit`.
    pub fn counters(&self) -> Counters {
        let text = self.sql("SHOW GLOBAL STATUS WHERE Variable_name LIKE 'Com\\_%' OR Variable_name IN ('Questions')");
        let counters = text.lines().filter_map(|line| {
            let (name, value) = line.split_once('\t')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Counters(counters.collect())
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        super::end(&mut self.child);
    }
}

impl Counters {
    /// How much `name` grew since `before`.
    pub fn grown(&self, before: &Self, name: &str) -> u64 {
        let value = |of: &Self| {
            *of.0
                .get(name)
                .unwrap_or_else(|| panic!("the server has no counter {name}"))
        };
        u64::try_from(value(self) - value(before)).unwrap_or_else(|_| panic!("{name} went back"))
    }

    /// SQL statements executed since `before`, by text (`Query`) or prepared (`Execute`), without the look at
    /// the counters. Everything that is not SQL (the protocol's own commands) is left out.
    pub fn statements(&self, before: &Self) -> u64 {
        let not_sql = |name: &str| name.starts_with("Com_stmt_") || name == "Com_admin_commands";
        let all: u64 = self
            .0
            .keys()
            .filter(|name| name.starts_with("Com_") && !not_sql(name))
            .map(|name| self.grown(before, name))
            .sum();
        // The SHOW that `before` came from counted itself only after it had looked.
        all - 1
    }
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
