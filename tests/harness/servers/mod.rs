//! Real servers of a test's own: own data, own socket, loopback only, ended when dropped.

mod mariadb;
mod mariadb_client;
mod nginx;
mod postgres;
mod redis;

pub use mariadb::MariaDb;
pub use mariadb_client::MariaDbClient;
pub use nginx::{Logged, Nginx};
pub use postgres::{LoggedStatement, Postgres};
pub use redis::{Redis, RedisClient};

use std::net::TcpListener;
use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A port on the loopback that nothing listens on.
fn free_port() -> u16 {
    let probe = TcpListener::bind(("127.0.0.1", 0)).expect("a port on the loopback");
    probe
        .local_addr()
        .expect("a bound socket has an address")
        .port()
}

/// Asks a server to end, and waits; it is killed when it does not listen.
fn end(child: &mut Child) {
    if matches!(child.try_wait(), Ok(None)) {
        let pid = i32::try_from(child.id()).expect("pids are small");
        // It may end between the look and the signal.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        for _ in 0..2000 {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}
