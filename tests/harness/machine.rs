//! The machine that the tests run on: who may use it now, what is installed, and root.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{Flock, FlockArg};

/// Where tests keep what they build and write.
pub fn scratch() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// The right to use the machine: counts are exact and `--comm` sees every process, so tests run one at a time.
pub struct Turn {
    _thread: MutexGuard<'static, ()>,
    _process: Flock<File>,
}

/// Waits for this test's turn, among the threads of this run and other runs from this checkout.
pub fn turn() -> Turn {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    // A failed test leaves nothing behind that the next could trip over.
    let thread = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let file = File::create(std::env::temp_dir().join("uprof-tests.lock"))
        .expect("the lock file of the tests");
    let process =
        Flock::lock(file, FlockArg::LockExclusive).unwrap_or_else(|(_, e)| panic!("flock: {e}"));
    Turn {
        _thread: thread,
        _process: process,
    }
}

/// Fails unless this is root: probes need it, and a test that probes nothing shows nothing.
pub fn need_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "root is needed: run `./tests/run`, or cargo test with \
         CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER='sudo -E'"
    );
}

/// The Debian package of each program or library that a test uses.
const PACKAGES: &[(&str, &str)] = &[
    ("as", "binutils"),
    ("chroot", "coreutils"),
    ("g++", "g++"),
    ("gcc", "gcc"),
    ("ip", "iproute2"),
    ("ld", "binutils"),
    ("libjemalloc.so.2", "libjemalloc2"),
    ("libmimalloc.so.2", "libmimalloc2.0"),
    ("libc.so.6", "libc6"),
    ("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4"),
    ("make", "make"),
    ("mariadb", "mariadb-client"),
    ("mariadb-install-db", "mariadb-server"),
    ("mariadbd", "mariadb-server"),
    ("mysqlslap", "mariadb-client"),
    ("nft", "nftables"),
    ("nginx", "nginx"),
    ("ping", "iputils-ping"),
    ("redis-benchmark", "redis-tools"),
    ("redis-cli", "redis-tools"),
    ("redis-server", "redis-server"),
    ("rustc", "Rust, by rustup"),
    ("setpriv", "util-linux"),
    ("sleep", "coreutils"),
    ("ss", "iproute2"),
    ("sysbench", "sysbench"),
    ("unshare", "util-linux"),
];

fn missing(name: &str) -> ! {
    let package = PACKAGES
        .iter()
        .find(|(n, _)| *n == name)
        .map_or("an unknown package", |(_, package)| package);
    panic!(
        "{name} is not installed: it is in {package} (`./tests/run` installs all that the tests need)"
    );
}

/// The path of an installed program.
pub fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| missing(name))
}

/// The path of an installed shared library.
pub fn library(name: &str) -> PathBuf {
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|file| file.exists())
        .unwrap_or_else(|| missing(name))
}
