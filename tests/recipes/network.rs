//! Network namespaces of the tests' own: what happens in them is nobody else's, and their counters count it alone.

use std::fs::File;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

use crate::harness::machine::tool;

/// A namespace with its loopback. It goes with all that is in it when dropped.
pub struct Namespace(String);

impl Namespace {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let this = Self(format!("uprof-{}-{number}", std::process::id()));
        ip(&["netns", "add", &this.0]);
        ip(&["-n", &this.0, "link", "set", "lo", "up"]);
        this
    }

    /// A program that is to run in it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(tool("ip"));
        command.args(["netns", "exec", &self.0]).arg(tool(program));
        command
    }

    /// Takes the calling thread into it: the sockets that it makes from now on are there.
    pub fn enter(&self) {
        let file = File::open(format!("/run/netns/{}", self.0)).expect("ip(8) keeps it there");
        setns(file, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
    }

    /// Gives it rules of a firewall.
    pub fn rules(&self, rules: &str) {
        let mut nft = self.command("nft");
        done(nft.arg(rules));
    }

    /// The packets that the only `counter` of its rules met.
    pub fn counted(&self) -> u64 {
        let out = done(self.command("nft").args(["list", "ruleset"]));
        let mut words = out.split_whitespace().skip_while(|word| *word != "packets");
        words
            .nth(1)
            .and_then(|n| n.parse().ok())
            .expect("a counter")
    }

    /// A counter of /proc/net/snmp or /proc/net/netstat, by its group and name.
    pub fn counter(&self, group: &str, name: &str) -> u64 {
        let out = done(
            self.command("cat")
                .args(["/proc/net/snmp", "/proc/net/netstat"]),
        );
        let lines: Vec<Vec<&str>> = out.lines().map(|l| l.split(' ').collect()).collect();
        let head = format!("{group}:");
        let of_group: Vec<_> = lines.iter().filter(|line| line[0] == head).collect();
        let [names, values] = of_group.as_slice() else {
            panic!("two lines of {head} were expected: {out}");
        };
        let at = names.iter().position(|n| *n == name);
        let at = at.unwrap_or_else(|| panic!("no counter {name} of {head}"));
        values[at].parse().expect("a number")
    }

    /// A counter of /proc/net/snmp6.
    pub fn counter6(&self, name: &str) -> u64 {
        let out = done(self.command("cat").arg("/proc/net/snmp6"));
        let line = out
            .lines()
            .find(|l| l.split_whitespace().next() == Some(name));
        let value = line.and_then(|l| l.split_whitespace().nth(1));
        value.and_then(|v| v.parse().ok()).expect("a counter")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A namespace that cannot be removed shall not hide why the test failed.
        let _ = Command::new(tool("ip"))
            .args(["netns", "del", &self.0])
            .status();
    }
}

/// Two namespaces and a cable: 192.0.2.1 and 2001:db8::1 in the first, .2 and ::2 in the second.
pub fn cabled() -> [Namespace; 2] {
    let pair = [Namespace::new(), Namespace::new()];
    ip(&[
        "link", "add", "cable", "netns", &pair[0].0, "type", "veth", "peer", "name", "cable",
        "netns", &pair[1].0,
    ]);
    for (i, space) in pair.iter().enumerate() {
        let (v4, v6) = (
            format!("192.0.2.{}/24", i + 1),
            format!("2001:db8::{}/64", i + 1),
        );
        ip(&["-n", &space.0, "addr", "add", &v4, "dev", "cable"]);
        ip(&["-n", &space.0, "addr", "add", &v6, "dev", "cable", "nodad"]);
        // Segments by the handful, so that a lost one is not the whole of a transfer.
        ip(&[
            "-n",
            &space.0,
            "link",
            "set",
            "cable",
            "gso_max_segs",
            "4",
            "up",
        ]);
    }
    pair
}

fn ip(args: &[&str]) {
    done(Command::new(tool("ip")).args(args));
}

/// Runs a program to its good end; returns what it wrote.
pub fn done(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {status}\n{said}");
    String::from_utf8(stdout).expect("text")
}
