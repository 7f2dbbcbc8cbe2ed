//! Processes that come and go while uprof runs: starts by name, and the end of those that were named.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use tokio::io::unix::AsyncFd;

/// From linux/connector.h and linux/cn_proc.h (UAPI; the kernel's names).
mod uapi {
    pub const NETLINK_CONNECTOR: i32 = 11;
    pub const CN_IDX_PROC: u32 = 1;
    pub const CN_VAL_PROC: u32 = 1;
    pub const PROC_CN_MCAST_LISTEN: u32 = 1;
    pub const PROC_EVENT_EXEC: u32 = 0x0000_0002;
    pub const PROC_EVENT_COMM: u32 = 0x0000_0200;
    /// struct nlmsghdr (16 bytes), then struct cn_msg (20 bytes), then struct proc_event.
    pub const NLMSG_HDR: usize = 16;
    pub const CN_MSG: usize = 20;
    /// struct proc_event: what (4), cpu (4), timestamp_ns (8), then the union; exec and comm begin with pid, tgid.
    pub const EVENT_DATA: usize = 16;
}

/// A program that was started, or a process that was renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The process (thread group).
    pub pid: u32,
    /// When, in ns of CLOCK_MONOTONIC.
    pub time_ns: u64,
}

/// Tells of every program started and every process renamed, by the kernel's process event connector.
pub struct Starts {
    fd: AsyncFd<OwnedFd>,
}

impl Starts {
    /// Starts to listen. Needs CAP_NET_ADMIN in the first user namespace and CONFIG_PROC_EVENTS.
    pub fn listen() -> io::Result<Self> {
        // SAFETY: plain socket(2); the result is checked before it is owned.
        let raw = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                uapi::NETLINK_CONNECTOR,
            )
        };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: raw is a descriptor that socket(2) has just given us and nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: sockaddr_nl is plain data for which all zeroes is a valid value.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = uapi::CN_IDX_PROC;
        // SAFETY: address is a live sockaddr_nl and its true size is given.
        let bound = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_nl>() as u32,
            )
        };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        send(fd.as_raw_fd(), &listen_message())?;
        Ok(Self {
            fd: registered(fd)?,
        })
    }

    /// The next process that ran exec or changed its main thread's name.
    /// After an overflow of the socket's queue, `None`: look at all processes anew.
    pub async fn next(&self) -> io::Result<Option<Start>> {
        loop {
            let mut ready = self.fd.readable().await?;
            match ready.try_io(|fd| receive(fd.as_raw_fd())) {
                Ok(Ok(Some(start))) => return Ok(Some(start)),
                Ok(Ok(None)) => {}
                Ok(Err(e)) if e.raw_os_error() == Some(libc::ENOBUFS) => return Ok(None),
                Ok(Err(e)) => return Err(e),
                Err(_would_block) => {}
            }
        }
    }
}

/// nlmsghdr + cn_msg + the operation PROC_CN_MCAST_LISTEN.
fn listen_message() -> Vec<u8> {
    let length = uapi::NLMSG_HDR + uapi::CN_MSG + 4;
    let mut m = Vec::with_capacity(length);
    m.extend((length as u32).to_ne_bytes());
    m.extend((libc::NLMSG_DONE as u16).to_ne_bytes());
    m.extend([0; 2]); // flags
    m.extend(0u32.to_ne_bytes()); // seq
    m.extend(0u32.to_ne_bytes()); // port: the kernel fills it in
    m.extend(uapi::CN_IDX_PROC.to_ne_bytes());
    m.extend(uapi::CN_VAL_PROC.to_ne_bytes());
    m.extend([0; 8]); // seq, ack
    m.extend(4u16.to_ne_bytes()); // length of what follows cn_msg
    m.extend([0; 2]); // flags
    m.extend(uapi::PROC_CN_MCAST_LISTEN.to_ne_bytes());
    m
}

fn send(fd: RawFd, message: &[u8]) -> io::Result<()> {
    // SAFETY: the buffer is live for the call and its true length is given.
    let sent = unsafe { libc::send(fd, message.as_ptr().cast(), message.len(), 0) };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn receive(fd: RawFd) -> io::Result<Option<Start>> {
    let mut buffer = [0u8; 1024];
    // SAFETY: the buffer is live for the call and its true length is given.
    let got = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(event_of(&buffer[..got as usize]))
}

/// The process of an exec or rename event; `None` for other events and for renamed threads.
fn event_of(message: &[u8]) -> Option<Start> {
    let event = message.get(uapi::NLMSG_HDR + uapi::CN_MSG..)?;
    let word = |at: usize| Some(u32::from_ne_bytes(event.get(at..at + 4)?.try_into().ok()?));
    let what = word(0)?;
    let time_ns = u64::from_ne_bytes(event.get(8..16)?.try_into().ok()?);
    let (pid, tgid) = (word(uapi::EVENT_DATA)?, word(uapi::EVENT_DATA + 4)?);
    match what {
        uapi::PROC_EVENT_EXEC => Some(Start { pid: tgid, time_ns }),
        uapi::PROC_EVENT_COMM if pid == tgid => Some(Start { pid: tgid, time_ns }),
        _ => None,
    }
}

/// A descriptor that the event loop watches.
pub fn registered(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, is always the same descriptor, and stays open while the AsyncFd owns it.
    unsafe { AsyncFd::register(fd) }.map_err(|e| e.into_parts().1)
}

/// Waits for the end of a process that is not a child (pidfd_open(2), Linux 5.3).
pub struct End {
    /// The process.
    pub pid: u32,
    fd: AsyncFd<OwnedFd>,
}

impl End {
    /// Watches PID. Fails with ESRCH when it has ended already.
    pub fn of(pid: u32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers; the result is checked before it is owned.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::O_NONBLOCK) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: raw is a descriptor that pidfd_open has just given us and nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(raw as RawFd) };
        Ok(Self {
            pid,
            fd: registered(fd)?,
        })
    }

    /// Returns when the process has ended.
    pub async fn wait(&self) {
        // A pidfd is readable from the process's end on, for good.
        let _ = self.fd.readable().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_started_and_processes_renamed_count() {
        let message = |what: u32, pid: u32, tgid: u32| {
            let mut m = vec![0u8; uapi::NLMSG_HDR + uapi::CN_MSG];
            m.extend(what.to_ne_bytes());
            m.extend([0; 4]);
            m.extend(99u64.to_ne_bytes());
            m.extend(pid.to_ne_bytes());
            m.extend(tgid.to_ne_bytes());
            m
        };
        assert_eq!(
            event_of(&message(uapi::PROC_EVENT_EXEC, 7, 7)),
            Some(Start {
                pid: 7,
                time_ns: 99
            })
        );
        assert_eq!(
            event_of(&message(uapi::PROC_EVENT_COMM, 7, 7)),
            Some(Start {
                pid: 7,
                time_ns: 99
            })
        );
        assert_eq!(
            event_of(&message(uapi::PROC_EVENT_COMM, 8, 7)),
            None,
            "a thread's name is not the process's"
        );
        assert_eq!(event_of(&message(1, 7, 7)), None, "fork");
        assert_eq!(
            event_of(&message(uapi::PROC_EVENT_EXEC, 7, 7)[..50]),
            None,
            "cut short"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_real_exec_is_told() {
        let starts = Starts::listen().expect("the process event connector needs root");
        let mut child = std::process::Command::new("sleep")
            .arg("0.2")
            .spawn()
            .expect("sleep");
        let told = tokio::time::timeout(std::time::Duration::from_secs(5), async {
            loop {
                if starts
                    .next()
                    .await
                    .expect("receive")
                    .is_some_and(|s| s.pid == child.id())
                {
                    return;
                }
            }
        });
        told.await.expect("the exec of sleep was told within 5 s");
        let end = End::of(child.id()).expect("pidfd");
        end.wait().await;
        child.wait().expect("wait");
    }
}
