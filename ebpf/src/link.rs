//! From a loaded program to places in files.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::program::{Part, exit};
use crate::site::AttachSite;
use crate::sys::{self, attach_type};

/// What keeps a program attached: closing it detaches. The order of the fields is that of
/// closing: the link before the event it is on.
pub(crate) struct Link {
    _link: Option<OwnedFd>,
    _event: Option<OwnedFd>,
}

impl Link {
    /// A link by itself.
    pub fn new(link: OwnedFd) -> Link {
        Link {
            _link: Some(link),
            _event: None,
        }
    }

    /// Puts a program on a perf event.
    pub fn on_event(prog: BorrowedFd<'_>, event: OwnedFd, cookie: Option<u64>) -> io::Result<Link> {
        let link = match sys::link_perf(prog, event.as_fd(), cookie.unwrap_or(0)) {
            Ok(link) => Some(link),
            // Before Linux 5.15 there are no such links, nor cookies.
            Err(e) if cookie.is_none() && e.raw_os_error() == Some(libc::EINVAL) => {
                sys::set_bpf(event.as_fd(), prog)?;
                None
            }
            Err(e) => return Err(e),
        };
        sys::perf_enable(event.as_fd())?;
        Ok(Link {
            _link: link,
            _event: Some(event),
        })
    }
}

/// Sites of one file.
#[derive(Default)]
pub(crate) struct FileSites {
    pub path: PathBuf,
    pub entries: Places,
    pub exits: Places,
}

/// Places in a file, in the order of their offsets. One place may be there several times, with
/// different cookies: the kernel then runs the program for each.
#[derive(Default)]
pub(crate) struct Places {
    pub offsets: Vec<u64>,
    pub cookies: Vec<u64>,
    /// Offsets of semaphores, 0 for none; empty when no site has one.
    pub semaphores: Vec<u64>,
}

/// An offset, its cookie and its semaphore.
type Place = (u64, u64, u64);

impl Places {
    fn new(mut list: Vec<Place>) -> Places {
        list.sort_unstable();
        list.dedup();
        Places {
            offsets: list.iter().map(|s| s.0).collect(),
            cookies: list.iter().map(|s| s.1).collect(),
            semaphores: match list.iter().any(|s| s.2 != 0) {
                true => list.iter().map(|s| s.2).collect(),
                false => Vec::new(),
            },
        }
    }
}

/// Sorts sites by file.
pub(crate) fn by_file(sites: &[AttachSite]) -> Vec<FileSites> {
    let mut files: BTreeMap<&Path, [Vec<Place>; 2]> = BTreeMap::new();
    for site in sites {
        let [entries, exits] = files.entry(&site.path).or_default();
        // The kernel takes offset 0, where the ELF header is, for none.
        entries.push((site.offset, site.site.into(), site.semaphore.unwrap_or(0)));
        exits.extend(
            site.exits
                .iter()
                .map(|e| (e.offset, exit::cookie(site.site, e), 0)),
        );
    }
    files
        .into_iter()
        .map(|(path, [entries, exits])| FileSites {
            path: path.to_path_buf(),
            entries: Places::new(entries),
            exits: Places::new(exits),
        })
        .collect()
}

/// One link for all places of a file that run the same program.
pub(crate) fn multi(
    prog: BorrowedFd<'_>,
    path: &Path,
    places: &Places,
    cookies: bool,
    pid: Option<u32>,
    part: Part,
) -> io::Result<Link> {
    let link = sys::MultiLink {
        path,
        offsets: &places.offsets,
        cookies: if cookies { &places.cookies } else { &[] },
        semaphores: &places.semaphores,
        pid,
        at_return: part == Part::Return,
        attach_type: match part {
            Part::Session => attach_type::UPROBE_SESSION,
            _ => attach_type::UPROBE_MULTI,
        },
    };
    sys::link_multi(prog, &link).map(Link::new)
}

/// The kernel's numbers for uprobes or kprobes as perf events.
#[derive(Clone, Copy)]
pub(crate) struct PerfSource {
    kind: u32,
    retprobe_bit: u32,
    /// Where a semaphore's offset goes in the event's config; from Linux 4.20.
    semaphore_shift: Option<u32>,
}

impl PerfSource {
    /// Of uprobes.
    pub fn find() -> io::Result<PerfSource> {
        Self::of("uprobe")
    }

    /// Asks sysfs; `which` is `uprobe` or `kprobe`.
    pub fn of(which: &str) -> io::Result<PerfSource> {
        let read = |name: &str| {
            let path = format!("/sys/bus/event_source/devices/{which}/{name}");
            std::fs::read_to_string(&path)
                .map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))
        };
        let odd = |what: &str, text: &str| {
            io::Error::other(format!("the {which} event source's {what} is {text:?}"))
        };
        let kind = read("type")?;
        let bit = read("format/retprobe")?;
        // "config:32-63"
        let semaphore_shift = read("format/ref_ctr_offset").ok().and_then(|text| {
            let (low, _) = text.trim().strip_prefix("config:")?.split_once('-')?;
            low.parse().ok().filter(|b| *b < 64)
        });
        Ok(PerfSource {
            semaphore_shift,
            kind: kind.trim().parse().map_err(|_| odd("type", &kind))?,
            retprobe_bit: bit
                .trim()
                .strip_prefix("config:")
                .and_then(|b| b.parse().ok())
                .filter(|b| *b < 64)
                .ok_or_else(|| odd("retprobe bit", &bit))?,
        })
    }

    /// The event's config: whether it is at the return, and where the semaphore is (0: none).
    fn config(self, at_return: bool, semaphore: u64) -> io::Result<u64> {
        let mut config = u64::from(at_return) << self.retprobe_bit;
        if semaphore != 0 {
            let shift = self.semaphore_shift.ok_or_else(|| {
                io::Error::other("this kernel knows no semaphores of USDT probes (Linux 4.20 does)")
            })?;
            let placed = semaphore << shift;
            if placed >> shift != semaphore {
                return Err(io::Error::other(format!(
                    "the semaphore at offset {semaphore:#x} is beyond what a perf event can name"
                )));
            }
            config |= placed;
        }
        Ok(config)
    }

    /// One function of the kernel.
    pub fn attach_kprobe(
        self,
        prog: BorrowedFd<'_>,
        function: &CStr,
        at_return: bool,
    ) -> io::Result<Link> {
        let config = self.config(at_return, 0)?;
        let event = sys::perf_probe(self.kind, function, 0, None, config)?;
        Link::on_event(prog, event, None)
    }

    /// One site, by a perf event of its own.
    pub fn attach(
        self,
        prog: BorrowedFd<'_>,
        path: &Path,
        (offset, semaphore): (u64, u64),
        pid: Option<u32>,
        at_return: bool,
        cookie: Option<u64>,
    ) -> io::Result<Link> {
        let config = self.config(at_return, semaphore)?;
        let path = CString::new(path.as_os_str().as_bytes())?;
        let event = sys::perf_probe(self.kind, &path, offset, pid, config)?;
        Link::on_event(prog, event, cookie)
    }
}

/// Detaches. A perf event waits for all CPUs to pass a grace period (up to 0.1 s), each by
/// itself: many are closed side by side.
pub(crate) fn close(mut links: Vec<Link>) {
    const THREADS: usize = 16;
    if links.len() <= 2 {
        return;
    }
    let share = links.len().div_ceil(THREADS);
    std::thread::scope(|scope| {
        while !links.is_empty() {
            let some = links.split_off(links.len().saturating_sub(share));
            scope.spawn(move || drop(some));
        }
    });
}

/// How long links linger: a thread can wait for a processor between a function's last instruction
/// and the kernel's look at its return.
const LINGER: Duration = Duration::from_secs(1);

/// Links that are closed before long.
pub(crate) struct Lingering {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

/// Detaches, but not yet.
pub(crate) fn close_later(links: Vec<Link>) -> Option<Lingering> {
    if links.is_empty() {
        return None;
    }
    let (stop, stopped) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        // Nothing is ever sent: it is the time, or the other end is gone.
        let _ = stopped.recv_timeout(LINGER);
        close(links);
    });
    Some(Lingering { stop, thread })
}

impl Lingering {
    /// Detaches now.
    pub fn close(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}
