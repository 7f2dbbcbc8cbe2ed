//! The clocks of threads: their programs loaded and attached, if a probe asks where the time of its calls goes.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya_obj::generated::bpf_prog_type;

use crate::btf;
use crate::error::Error;
use crate::link::{self, Link};
use crate::load::Loader;
use crate::maps::Maps;
use crate::program::clocks::{Event, Kernel, Ways, compile};
use crate::sys::{self, attach_type};
use crate::syscalls;

/// What keeps the clocks going.
pub(super) struct Clocks {
    links: Vec<Link>,
    /// Programs end with their links.
    _programs: Vec<OwnedFd>,
}

impl Clocks {
    /// Loads and attaches all; after an error nothing is attached.
    pub fn start(loader: &mut Loader<'_>, maps: &Maps) -> Result<Clocks, Error> {
        let kernel = find()?;
        if let Some(map) = &maps.syscalls {
            let key = 0u32.to_ne_bytes();
            sys::map_update(map.fd().as_fd(), &key, &syscalls::table()).map_err(|source| {
                Error::Clocks {
                    what: "say what system calls wait for".into(),
                    source,
                    log: None,
                }
            })?;
        }
        let mut clocks = Clocks {
            links: Vec::new(),
            _programs: Vec::new(),
        };
        for event in Event::ALL {
            // Newest first.
            let mut ways = [(true, true), (false, true), (false, false)].iter();
            let newest = loader.options.oldest;
            let mut ways = ways.by_ref().skip(if newest { 2 } else { 0 }).peekable();
            while let Some(&(told_state, told_registers)) = ways.next() {
                let ways_here = Ways {
                    told_state,
                    told_registers,
                };
                match clocks.add(event, &kernel, ways_here, loader, maps) {
                    Ok(()) => break,
                    Err(_) if event == Event::Switch && ways.peek().is_some() => {}
                    Err(e) => {
                        clocks.stop();
                        return Err(e);
                    }
                }
            }
        }
        Ok(clocks)
    }

    fn add(
        &mut self,
        event: Event,
        kernel: &Kernel,
        ways: Ways,
        loader: &mut Loader<'_>,
        maps: &Maps,
    ) -> Result<(), Error> {
        let name = event.tracepoint();
        let failed = |doing: &str, source, log| Error::Clocks {
            what: format!("{doing} the raw tracepoint {name}"),
            source,
            log,
        };
        let code = compile(event, kernel, ways)
            .map_err(|why| failed("compile the program on", io::Error::other(why), None))?;
        let kind = (
            bpf_prog_type::BPF_PROG_TYPE_RAW_TRACEPOINT,
            attach_type::NONE,
            0,
        );
        let program = loader
            .compiled_as(code, kind, 0, name, maps)
            .map_err(|(source, log)| failed("load the program on", source, log))?;
        let tracepoint = CString::new(name).map_err(|e| failed("attach to", e.into(), None))?;
        let link = sys::raw_tracepoint(program.as_fd(), Some(&tracepoint))
            .map_err(|source| failed("attach to", source, None))?;
        self.links.push(Link::new(link));
        self._programs.push(program);
        Ok(())
    }

    /// Detaches.
    pub fn stop(&mut self) {
        link::close(std::mem::take(&mut self.links));
    }
}

/// Where this kernel keeps what the programs read.
pub(crate) fn find() -> Result<Kernel, Error> {
    let failed = |source| Error::Clocks {
        what: "find out where the kernel keeps why a thread sleeps (/sys/kernel/btf/vmlinux)"
            .into(),
        source,
        log: None,
    };
    const NAMES: [(&str, &str); 10] = [
        ("task_struct", "__state"),
        ("task_struct", "state"),
        ("task_struct", "stack"),
        ("task_struct", "files"),
        ("task_struct", "in_iowait"),
        ("files_struct", "fdt"),
        ("fdtable", "max_fds"),
        ("fdtable", "fd"),
        ("file", "f_inode"),
        ("inode", "i_mode"),
    ];
    let found = btf::member_bits(NAMES).map_err(failed)?;
    let bits = |at: usize| {
        let (of, member) = NAMES[at];
        let missing = || failed(io::Error::other(format!("there is no {of}.{member}")));
        found[at].ok_or_else(missing)
    };
    let bytes = |at: usize| bits(at).map(|bits| bits / 8);
    Ok(Kernel {
        state: bytes(0).or_else(|_| bytes(1))?,
        stack: bytes(2)?,
        files: bytes(3)?,
        in_iowait: bits(4)?,
        fdt: bytes(5)?,
        max_fds: bytes(6)?,
        fd: bytes(7)?,
        f_inode: bytes(8)?,
        i_mode: bytes(9)?,
    })
}
