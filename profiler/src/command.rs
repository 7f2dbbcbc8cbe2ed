//! `-- COMMAND`: starts a program and holds it at its entry point, so that probes can be armed before
//! its first own instruction.
//!
//! The program runs under ptrace up to its ELF entry point: by then the dynamic loader has mapped every
//! library and bound what it binds at start-up, and `main` has not begun. There it waits until it is
//! released; from then on nothing is traced. While it is held it dies with uprof (PTRACE_O_EXITKILL), and so it is
//! never left standing. It keeps uprof's standard streams and process group: Ctrl-C reaches both.

mod program;

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::marker::PhantomData;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;
use tokio::io::{Interest, unix::AsyncFd};

use program::{NOT_A_PROGRAM, cannot_run, find, refuse_other_rights, shebang};

/// Why a command could not be started and held.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was given to run.
    #[error("no command after `--`")]
    Empty,
    /// Not in any directory of PATH.
    #[error("no program \"{name}\": looked in {path}")]
    NotFound {
        /// What was looked for.
        name: String,
        /// PATH.
        path: String,
    },
    /// There is no such file.
    #[error("no program {}: there is no such file", path.display())]
    NoSuchFile {
        /// The file.
        path: PathBuf,
    },
    /// There is a file, but it cannot be run.
    #[error("cannot run {}: {why}", path.display())]
    NotExecutable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file would run with other rights than uprof's.
    #[error(
        "{} is {what}: held by uprof it would run without those rights; start it on its own, then name it with --pid or --comm",
        path.display()
    )]
    Privileged {
        /// The file.
        path: PathBuf,
        /// Which rights: `setuid` ...
        what: &'static str,
    },
    /// It ended before it reached its entry point.
    #[error("{program} ended before its first instruction: it {}", exit.describe())]
    Ended {
        /// The program.
        program: String,
        /// How.
        exit: Exit,
    },
    /// A system call failed.
    #[error("{program}: {what}: {source}")]
    System {
        /// The program.
        program: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// The exit status that a shell gives for this: 127 not found, 126 not executable, else the
    /// program's own, or 1.
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::NotFound { .. } | Error::NoSuchFile { .. } => 127,
            Error::NotExecutable { .. } | Error::Privileged { .. } => 126,
            Error::Ended { exit, .. } => exit.code(),
            Error::Empty | Error::System { .. } => 1,
        }
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(ExitStatus);

impl Exit {
    /// The exit status as shells give it: 128 + the signal for a command that a signal killed.
    pub fn code(&self) -> i32 {
        self.0
            .code()
            .unwrap_or_else(|| 128 + self.0.signal().unwrap_or(0))
    }

    /// `exited with 7`, `was killed by SIGSEGV`.
    pub fn describe(&self) -> String {
        match self.0.signal() {
            Some(signal) => match nix::sys::signal::Signal::try_from(signal) {
                Ok(name) => format!("was killed by {name}"),
                Err(_) => format!("was killed by signal {signal}"),
            },
            None => format!("exited with {}", self.code()),
        }
    }
}

/// Starts commands.
pub struct Command;

impl Command {
    /// Starts a program with its arguments and holds it at its entry point.
    ///
    /// A script is held at the entry point of its interpreter. The thread that calls this has to be the one that
    /// calls [`Held::release`]: ptrace knows threads, not processes.
    pub fn spawn(argv: &[OsString]) -> Result<Held, Error> {
        let (name, arguments) = argv.split_first().ok_or(Error::Empty)?;
        let path = find(name)?;
        refuse_other_rights(&path)?;
        let mut command = std::process::Command::new(&path);
        command.arg0(name).args(arguments);
        // SAFETY: between fork and exec only ptrace(2) is called, which is async-signal-safe and
        // allocates nothing.
        unsafe { command.pre_exec(|| ptrace::traceme().map_err(io::Error::from)) };
        let child = command
            .spawn()
            .map_err(|source| cannot_run(&path, source))?;
        let mut held = Held {
            pid: Pid::from_raw(child.id() as i32),
            program: name.to_string_lossy().into_owned(),
            stop: 0,
            gone: false,
            thread: PhantomData,
        };
        // From here on an early return drops `held`, which kills the child.
        held.run_to_entry(&path)?;
        Ok(held)
    }
}

/// A command that stands at its entry point. Dropped without [`Held::release`], it is killed: a program
/// that could not be probed is not run at all.
#[derive(Debug)]
pub struct Held {
    pid: Pid,
    program: String,
    /// A signal that asked the command to stop, on its way to the entry point: given to it at release.
    stop: i32,
    gone: bool,
    /// Not `Send`: see [`Command::spawn`].
    thread: PhantomData<*const ()>,
}

impl Held {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw() as u32
    }

    /// Lets it run, untraced. Signals that came while it was held are delivered now. One that was
    /// killed meanwhile is no error: [`Running::wait`] tells.
    pub fn release(mut self) -> Result<Running, Error> {
        let pidfd = pidfd_open(self.pid).map_err(|e| self.system("pidfd_open", e))?;
        // SAFETY: the descriptor is ours alone and stays as it is while the waiter owns it.
        let waiter = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }
            .map_err(|e| self.system("wait for its end", e.into()))?;
        match resume(libc::PTRACE_DETACH, self.pid, self.stop) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(self.system("let it run", errno.into())),
        }
        self.gone = true;
        Ok(Running {
            pid: self.pid,
            program: std::mem::take(&mut self.program),
            waiter,
            exit: None,
        })
    }

    fn run_to_entry(&mut self, path: &Path) -> Result<(), Error> {
        // The first stop is the one that PTRACE_TRACEME makes of the exec itself.
        self.wait_for_stop()?;
        if is_shell_for(self.pid, path) {
            let why = NOT_A_PROGRAM.to_string();
            return Err(Error::NotExecutable {
                path: path.into(),
                why,
            });
        }
        ptrace::setoptions(
            self.pid,
            ptrace::Options::PTRACE_O_EXITKILL | ptrace::Options::PTRACE_O_TRACEEXEC,
        )
        .map_err(|e| self.system("trace it", e.into()))?;
        let mut breakpoint = self.plant(path)?;
        let mut signal = 0;
        loop {
            match resume(libc::PTRACE_CONT, self.pid, signal) {
                // Killed between its stop and here: the next wait tells.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => {
                    return Err(self.system("let it run to its entry point", errno.into()));
                }
            }
            let status = self.wait_for_stop()?;
            signal = libc::WSTOPSIG(status);
            if status >> 8 == libc::SIGTRAP | (libc::PTRACE_EVENT_EXEC << 8) {
                // A library's constructor ran another program in its place: all memory is new.
                breakpoint = self.plant(path)?;
                signal = 0;
            } else if signal == libc::SIGTRAP && self.is_at(&breakpoint)? {
                return self.restore(&breakpoint);
            } else if [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&signal)
            {
                self.stop = signal;
                signal = 0;
            }
        }
    }

    fn wait_for_stop(&mut self) -> Result<i32, Error> {
        let status = wait(self.pid, libc::__WALL).map_err(|e| self.system("wait for it", e))?;
        match status {
            Some(status) if libc::WIFSTOPPED(status) => Ok(status),
            status => {
                self.gone = true;
                let exit = Exit(ExitStatus::from_raw(status.unwrap_or(0)));
                Err(Error::Ended {
                    program: self.program.clone(),
                    exit,
                })
            }
        }
    }

    fn plant(&self, path: &Path) -> Result<Breakpoint, Error> {
        refuse_foreign(self.pid, path)?;
        let entry = entry_point(self.pid).map_err(|e| self.system("find its entry point", e))?;
        // An aligned word never crosses into a page that is not there.
        let address = entry & !7;
        let word = ptrace::read(self.pid, address as ptrace::AddressType)
            .map_err(|e| self.system("read its entry point", e.into()))?;
        let shift = 8 * (entry & 7);
        let armed = (word as u64 & !(0xff << shift)) | (BREAKPOINT << shift);
        ptrace::write(self.pid, address as ptrace::AddressType, armed as i64)
            .map_err(|e| self.system("stop it at its entry point", e.into()))?;
        Ok(Breakpoint {
            entry,
            address,
            word,
        })
    }

    fn is_at(&self, breakpoint: &Breakpoint) -> Result<bool, Error> {
        let registers =
            ptrace::getregs(self.pid).map_err(|e| self.system("read its registers", e.into()))?;
        Ok(registers.rip == breakpoint.entry + 1)
    }

    fn restore(&self, breakpoint: &Breakpoint) -> Result<(), Error> {
        ptrace::write(
            self.pid,
            breakpoint.address as ptrace::AddressType,
            breakpoint.word,
        )
        .map_err(|e| self.system("restore its entry point", e.into()))?;
        let mut registers =
            ptrace::getregs(self.pid).map_err(|e| self.system("read its registers", e.into()))?;
        registers.rip = breakpoint.entry;
        ptrace::setregs(self.pid, registers).map_err(|e| self.system("set its registers", e.into()))
    }

    fn system(&self, what: &'static str, source: io::Error) -> Error {
        Error::System {
            program: self.program.clone(),
            what,
            source,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.gone {
            let _ = nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGKILL);
            let _ = wait(self.pid, libc::__WALL);
        }
    }
}

/// `int3` on x86-64; after it the instruction pointer is one further.
const BREAKPOINT: u64 = 0xcc;

struct Breakpoint {
    entry: u64,
    address: u64,
    word: i64,
}

/// A command that runs.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    program: String,
    waiter: AsyncFd<OwnedFd>,
    exit: Option<Exit>,
}

impl Running {
    /// Its process.
    #[cfg(test)]
    fn pid(&self) -> u32 {
        self.pid.as_raw() as u32
    }

    /// Waits for its end. May be cancelled and called again.
    pub async fn wait(&mut self) -> Result<Exit, Error> {
        let failed = |program: &str, source| Error::System {
            program: program.into(),
            what: "wait for its end",
            source,
        };
        loop {
            if let Some(exit) = self.exit {
                return Ok(exit);
            }
            let mut ended = self
                .waiter
                .readable()
                .await
                .map_err(|e| failed(&self.program, e))?;
            match wait(self.pid, libc::WNOHANG).map_err(|e| failed(&self.program, e))? {
                Some(status) => self.exit = Some(Exit(ExitStatus::from_raw(status))),
                None => ended.clear_ready(),
            }
        }
    }
}

/// glibc's execvp gives a file that the kernel does not know to /bin/sh, which then reads an ELF file of another
/// machine, or any text, as commands.
fn is_shell_for(pid: Pid, path: &Path) -> bool {
    let file = |path: &Path| {
        std::fs::metadata(path)
            .map(|meta| (meta.dev(), meta.ino()))
            .ok()
    };
    let running = file(Path::new(&format!("/proc/{pid}/exe")));
    running == file(Path::new("/bin/sh")) && running != file(path) && shebang(path).is_none()
}

/// The kernel may run 32-bit programs; uprof cannot probe them.
fn refuse_foreign(pid: Pid, path: &Path) -> Result<(), Error> {
    let mut head = [0; 20];
    let read = std::fs::File::open(format!("/proc/{pid}/exe"))
        .and_then(|mut file| file.read_exact(&mut head));
    // ELFCLASS64 and EM_X86_64. A file that cannot be read is left to the probes to complain about.
    if read.is_ok() && (head[4] != 2 || head[18..20] != 62u16.to_le_bytes()) {
        let why = "it is not a 64-bit x86 program".to_string();
        return Err(Error::NotExecutable {
            path: path.into(),
            why,
        });
    }
    Ok(())
}

/// AT_ENTRY: where the kernel says the program itself begins, behind the dynamic loader.
fn entry_point(pid: Pid) -> io::Result<u64> {
    let auxv = std::fs::read(format!("/proc/{pid}/auxv"))?;
    let word = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).unwrap_or(0);
    auxv.chunks_exact(16)
        .find(|pair| word(&pair[..8]) == libc::AT_ENTRY)
        .map(|pair| word(&pair[8..]))
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "no AT_ENTRY in its auxiliary vector",
            )
        })
}

/// PTRACE_CONT or PTRACE_DETACH with any signal. nix has no real-time signals.
fn resume(request: libc::c_uint, pid: Pid, signal: i32) -> Result<(), Errno> {
    // SAFETY: neither request reads or writes memory of this process.
    let done = unsafe { libc::ptrace(request, pid.as_raw(), 0usize, signal as usize) };
    Errno::result(done).map(drop)
}

/// The raw wait status; `None` if there is none yet (WNOHANG).
fn wait(pid: Pid, flags: i32) -> io::Result<Option<i32>> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid place for the status.
        match unsafe { libc::waitpid(pid.as_raw(), &mut status, flags) } {
            0 => return Ok(None),
            -1 if Errno::last() == Errno::EINTR => {}
            -1 => return Err(io::Error::last_os_error()),
            _ => return Ok(Some(status)),
        }
    }
}

fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: takes a number and flags. It becomes readable when the process ends (Linux 5.3).
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, Instant};

    /// Leaves a file behind and exits with 7, or 8 if its own entry point still holds a breakpoint.
    const PROGRAM: &str = r#"
        #include <stdio.h>
        #include <string.h>
        #include <signal.h>
        #include <unistd.h>
        extern unsigned char _start[];
        int main(int argc, char **argv) {
            if (argc > 2 && strcmp(argv[2], "die") == 0) raise(SIGSEGV);
            if (argc > 1) fclose(fopen(argv[1], "w"));
            volatile unsigned char *start = _start;
            return *start == 0xcc ? 8 : 7;
        }"#;

    struct Fixture {
        dir: tempfile::TempDir,
        program: PathBuf,
    }

    impl Fixture {
        fn new(flags: &[&str]) -> Fixture {
            let dir = tempfile::tempdir().unwrap();
            let source = dir.path().join("program.c");
            std::fs::write(&source, PROGRAM).unwrap();
            let program = dir.path().join("program");
            let built = std::process::Command::new("gcc")
                .args(flags)
                .arg("-o")
                .arg(&program)
                .arg(&source)
                .status()
                .unwrap();
            assert!(built.success(), "gcc {flags:?}");
            Fixture { dir, program }
        }

        fn mark(&self) -> PathBuf {
            self.dir.path().join("main-has-run")
        }

        fn argv(&self) -> Vec<OsString> {
            vec![self.program.clone().into(), self.mark().into()]
        }

        fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
            let path = self.dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            path
        }
    }

    fn finish(held: Held) -> Exit {
        runtime().block_on(async { held.release().unwrap().wait().await.unwrap() })
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    /// The state letter in /proc/PID/stat.
    fn state(pid: u32) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(") ").next()?.chars().next()
    }

    fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(10), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_program_stands_before_main_and_then_runs_as_ever() {
        for flags in [&["-O1"][..], &["-no-pie"], &["-static"], &["-static-pie"]] {
            let fixture = Fixture::new(flags);
            let held = Command::spawn(&fixture.argv()).unwrap();
            assert_eq!(state(held.pid()), Some('t'), "{flags:?}");
            let maps = std::fs::read_to_string(format!("/proc/{}/maps", held.pid())).unwrap();
            let is_static = flags[0].starts_with("-static");
            assert_eq!(
                maps.contains("libc.so"),
                !is_static,
                "{flags:?}: libraries are mapped"
            );
            std::thread::sleep(Duration::from_millis(20));
            assert!(!fixture.mark().exists(), "{flags:?}: main has not run");
            assert_eq!(finish(held).code(), 7, "{flags:?}");
            assert!(fixture.mark().exists());
        }
    }

    #[test]
    fn a_script_is_held_at_its_interpreter() {
        let fixture = Fixture::new(&[]);
        let script = fixture.file("script", "#!/bin/sh\ntouch \"$1\"\nexit 3\n");
        let held = Command::spawn(&[script.into(), fixture.mark().into()]).unwrap();
        assert!(!fixture.mark().exists());
        assert_eq!(finish(held).code(), 3);
        assert!(fixture.mark().exists());
    }

    #[test]
    fn a_name_is_looked_up_as_shells_do() {
        let held = Command::spawn(&["sh".into(), "-c".into(), "exit 9".into()]).unwrap();
        assert_eq!(finish(held).code(), 9);
        let error = Command::spawn(&["uprof-no-such-program".into()]).unwrap_err();
        let first = std::env::var("PATH").unwrap();
        let first = first.split(':').next().unwrap();
        assert!(
            error
                .to_string()
                .starts_with("no program \"uprof-no-such-program\": looked in "),
            "{error}"
        );
        assert!(error.to_string().contains(first), "{error}");
        assert_eq!(error.exit_code(), 127);
        assert!(matches!(Command::spawn(&[]), Err(Error::Empty)));
        assert_eq!(Command::spawn(&["".into()]).unwrap_err().exit_code(), 127);
    }

    #[test]
    fn files_that_cannot_be_run_say_why() {
        let fixture = Fixture::new(&[]);
        let plain = fixture.file("plain", "hello\n");
        let says = |path: &Path, why: &str, code: i32| {
            let error = Command::spawn(&[path.into()]).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert_eq!(error.exit_code(), code);
        };
        says(
            &plain,
            "neither a program for this machine nor a script",
            126,
        );
        std::fs::set_permissions(&plain, PermissionsExt::from_mode(0o644)).unwrap();
        says(&plain, "not executable", 126);
        says(fixture.dir.path(), "it is a directory", 126);
        says(
            &fixture.dir.path().join("absent"),
            "there is no such file",
            127,
        );
        says(
            &fixture.file("bad", "#!/no/such/interpreter -x\n"),
            "its interpreter /no/such/interpreter does not",
            126,
        );
    }

    #[test]
    fn a_32_bit_program_is_refused() {
        let fixture = Fixture::new(&[]);
        // The least i386 ELF: one segment, `mov $1, %eax; int $0x80`.
        let mut elf = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        for half in [2u16, 3] {
            elf.extend(half.to_le_bytes());
        }
        for word in [1u32, 0x0804_8054, 52, 0, 0] {
            elf.extend(word.to_le_bytes());
        }
        for half in [52u16, 32, 1, 0, 0, 0] {
            elf.extend(half.to_le_bytes());
        }
        for word in [1u32, 0, 0x0804_8000, 0x0804_8000, 91, 91, 5, 0x1000] {
            elf.extend(word.to_le_bytes());
        }
        elf.extend(b"\xb8\x01\0\0\0\xcd\x80");
        let error = Command::spawn(&[fixture.file("i386", elf).into()]).unwrap_err();
        // A kernel without 32-bit support says the second.
        let text = error.to_string();
        assert!(
            text.contains("not a 64-bit x86 program") || text.contains("neither a program"),
            "{text}"
        );
        assert_eq!(error.exit_code(), 126);
    }

    #[test]
    fn a_signals_death_is_told_as_shells_do() {
        let fixture = Fixture::new(&[]);
        let mut argv = fixture.argv();
        argv.push("die".into());
        let exit = finish(Command::spawn(&argv).unwrap());
        assert_eq!(
            (exit.code(), exit.describe()),
            (139, "was killed by SIGSEGV".to_string())
        );
    }

    #[test]
    fn signals_sent_while_held_come_with_the_release() {
        let fixture = Fixture::new(&[]);
        // The last is a real-time signal, the first cannot be held back.
        for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGRTMIN() + 3] {
            let held = Command::spawn(&fixture.argv()).unwrap();
            // SAFETY: a child of ours, not yet waited for.
            assert_eq!(unsafe { libc::kill(held.pid() as i32, signal) }, 0);
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(finish(held).code(), 128 + signal);
            assert!(!fixture.mark().exists());
        }
        let held = Command::spawn(&fixture.argv()).unwrap();
        let pid = Pid::from_raw(held.pid() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::SIGSTOP).unwrap();
        runtime().block_on(async {
            let mut running = held.release().unwrap();
            eventually("it stops once it runs", || {
                state(running.pid()) == Some('T')
            });
            assert!(!fixture.mark().exists());
            nix::sys::signal::kill(pid, nix::sys::signal::SIGCONT).unwrap();
            assert_eq!(running.wait().await.unwrap().code(), 7);
            // The end is remembered.
            assert_eq!(running.wait().await.unwrap().code(), 7);
        });
    }

    #[test]
    fn a_wait_may_be_cancelled() {
        let held = Command::spawn(&["sleep".into(), "0.2".into()]).unwrap();
        runtime().block_on(async {
            let mut running = held.release().unwrap();
            assert!(
                tokio::time::timeout(Duration::from_millis(20), running.wait())
                    .await
                    .is_err()
            );
            assert_eq!(running.wait().await.unwrap().code(), 0);
        });
    }

    #[test]
    fn a_command_that_is_not_released_never_runs() {
        let fixture = Fixture::new(&[]);
        let held = Command::spawn(&fixture.argv()).unwrap();
        let pid = held.pid();
        drop(held);
        assert_eq!(state(pid), None);
        assert!(!fixture.mark().exists());
    }

    #[test]
    fn a_command_dies_with_uprof_while_held_and_lives_on_once_released() {
        for release in [false, true] {
            let (mut reader, writer) = io::pipe().unwrap();
            // SAFETY: the child makes no use of other threads' state beyond malloc, whose locks glibc
            // makes safe across fork, and ends by _exit or a signal.
            match unsafe { nix::unistd::fork() }.unwrap() {
                nix::unistd::ForkResult::Child => {
                    let held = Command::spawn(&["sleep".into(), "30".into()]).unwrap();
                    let pid = held.pid();
                    let runtime = runtime();
                    let _running = runtime.block_on(async {
                        if release {
                            Ok(held.release().unwrap())
                        } else {
                            Err(held)
                        }
                    });
                    io::Write::write_all(&mut (&writer), &pid.to_ne_bytes()).unwrap();
                    loop {
                        std::thread::sleep(Duration::from_secs(60));
                    }
                }
                nix::unistd::ForkResult::Parent { child } => {
                    drop(writer);
                    let mut pid = [0; 4];
                    reader.read_exact(&mut pid).unwrap();
                    let pid = u32::from_ne_bytes(pid);
                    nix::sys::signal::kill(child, nix::sys::signal::SIGKILL).unwrap();
                    wait(child, 0).unwrap();
                    if release {
                        std::thread::sleep(Duration::from_millis(50));
                        assert_eq!(state(pid), Some('S'));
                        nix::sys::signal::kill(
                            Pid::from_raw(pid as i32),
                            nix::sys::signal::SIGKILL,
                        )
                        .unwrap();
                    } else {
                        eventually("it dies too", || matches!(state(pid), None | Some('Z')));
                    }
                }
            }
        }
    }
}
