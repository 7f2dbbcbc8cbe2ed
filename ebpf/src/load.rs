//! Into the kernel: programs by the thin layer, and what is tried in which order.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya_obj::generated::bpf_prog_type;

use crate::asm::{Code, Kfunc};
use crate::btf;
use crate::error::Error;
use crate::maps::Maps;
use crate::program::{Part, SiteSource, Target, compile, returns};
use crate::spec::{EngineOptions, Mechanism, ProbeKind, ProbeSpec, Returns};
use crate::sys::{self, attach_type};

/// The verifier's log, when asked for.
const LOG_BYTES: usize = 16 << 20;

/// What has been found out about this kernel, each once and only when needed.
#[derive(Default)]
pub(crate) struct Found {
    kfuncs: Option<[Option<u32>; 2]>,
    session: Option<bool>,
    multi: Option<bool>,
}

impl Found {
    /// The BTF id of a kernel function.
    pub fn kfunc(&mut self, which: Kfunc) -> Option<u32> {
        self.kfuncs.get_or_insert_with(|| {
            btf::function_ids(Kfunc::ALL.map(Kfunc::name)).unwrap_or([None; 2])
        })[which as usize]
    }

    /// Whether the kernel makes links of this kind with `prog`. An attach type that it does not
    /// know is EINVAL; one that it knows gets as far as looking at the path, and a directory is
    /// EBADF. (The attach type at load is no proof: older kernels do not look at it.)
    fn links(&mut self, mechanism: Mechanism, prog: BorrowedFd<'_>) -> bool {
        let (known, attach_type) = match mechanism {
            Mechanism::Session => (&mut self.session, attach_type::UPROBE_SESSION),
            Mechanism::Multi => (&mut self.multi, attach_type::UPROBE_MULTI),
            Mechanism::Perf => return true,
        };
        *known.get_or_insert_with(|| {
            let link = sys::MultiLink {
                path: Path::new("/"),
                offsets: &[1],
                cookies: &[],
                semaphores: &[],
                pid: None,
                at_return: false,
                attach_type,
            };
            matches!(sys::link_multi(prog, &link), Err(e) if e.raw_os_error() == Some(libc::EBADF))
        })
    }
}

/// The programs of a probe.
pub(crate) struct Loaded {
    pub mechanism: Mechanism,
    /// The entry, or the whole call in a session.
    pub entry: OwnedFd,
    /// At the return, or at the exits.
    pub at_return: Option<OwnedFd>,
    /// Cookies do not work: where programs need one (see [`uses_cookie`]), each site and exit
    /// has programs of its own, made when it is attached.
    pub per_site: bool,
}

impl Loaded {
    /// The program of a part; of one that the probe does not have the entry's.
    pub fn program(&self, part: Part) -> &OwnedFd {
        match (part, &self.at_return) {
            (Part::Return | Part::Exit, Some(program)) => program,
            _ => &self.entry,
        }
    }

    /// All that it has.
    pub fn programs(&self) -> impl Iterator<Item = &OwnedFd> {
        [&self.entry].into_iter().chain(&self.at_return)
    }
}

/// Whether a program needs its link's cookie.
pub(crate) fn uses_cookie(spec: &ProbeSpec, part: Part) -> bool {
    spec.sites > 1 || part == Part::Exit
}

/// Loads programs.
pub(crate) struct Loader<'a> {
    pub target: &'a Target,
    pub options: &'a EngineOptions,
    pub found: &'a mut Found,
}

impl Loader<'_> {
    /// Loads probe `index` by the first mechanism that works.
    pub fn probe(
        &mut self,
        index: usize,
        spec: &ProbeSpec,
        maps: &mut Maps,
    ) -> Result<Loaded, Error> {
        let replaced =
            matches!(spec.kind, ProbeKind::Call { .. }) && returns(spec) == Returns::Replaced;
        let order: &[Mechanism] = match (self.options.mechanism, replaced) {
            (Some(Mechanism::Session), true) => &[Mechanism::Session],
            (Some(Mechanism::Session | Mechanism::Multi), _) => &[Mechanism::Multi],
            (Some(Mechanism::Perf), _) => &[Mechanism::Perf],
            (None, _) if self.options.oldest => &[Mechanism::Perf],
            (None, true) if self.options.no_session => &[Mechanism::Multi, Mechanism::Perf],
            (None, true) => &[Mechanism::Session, Mechanism::Multi, Mechanism::Perf],
            (None, false) => &[Mechanism::Multi, Mechanism::Perf],
        };
        let mut last = None;
        for &mechanism in order {
            match self.by(mechanism, index, spec, maps) {
                Ok(loaded) => return Ok(loaded),
                Err(e @ Error::Load { .. }) => last = Some(e),
                Err(other) => return Err(other),
            }
        }
        Err(last.unwrap_or_else(|| Error::Usage("no mechanism to try".into())))
    }

    fn by(
        &mut self,
        mechanism: Mechanism,
        index: usize,
        spec: &ProbeSpec,
        maps: &mut Maps,
    ) -> Result<Loaded, Error> {
        maps.need_frames(index, spec, mechanism, self.target, self.options)?;
        let parts = Part::of(spec, mechanism);
        let without = mechanism == Mechanism::Perf && parts.iter().any(|p| uses_cookie(spec, *p));
        if without && self.options.oldest {
            return self.parts(mechanism, parts, SiteSource::Constant(0), index, spec, maps);
        }
        match self.parts(mechanism, parts, SiteSource::Cookie, index, spec, maps) {
            Err(Error::Load { .. }) if without => {
                self.parts(mechanism, parts, SiteSource::Constant(0), index, spec, maps)
            }
            other => other,
        }
    }

    /// Loads the programs of a probe.
    fn parts(
        &mut self,
        mechanism: Mechanism,
        parts: &[Part],
        site: SiteSource,
        index: usize,
        spec: &ProbeSpec,
        maps: &Maps,
    ) -> Result<Loaded, Error> {
        let mut programs = Vec::new();
        for &part in parts {
            let program = self.program(mechanism, part, site, index, spec, maps)?;
            if !self.found.links(mechanism, program.as_fd()) {
                return Err(Error::Load {
                    probe: spec.name.clone(),
                    part: part.name(),
                    mechanism,
                    source: io::Error::new(
                        io::ErrorKind::Unsupported,
                        "this kernel has no such links",
                    ),
                    log: None,
                });
            }
            programs.push(program);
        }
        let mut programs = programs.into_iter();
        let (Some(entry), at_return) = (programs.next(), programs.next()) else {
            return Err(Error::Usage(format!(
                "probe {}: it has no program",
                spec.name
            )));
        };
        Ok(Loaded {
            mechanism,
            entry,
            at_return,
            per_site: site != SiteSource::Cookie,
        })
    }

    /// Compiles and loads one program.
    pub fn program(
        &mut self,
        mechanism: Mechanism,
        part: Part,
        site: SiteSource,
        index: usize,
        spec: &ProbeSpec,
        maps: &Maps,
    ) -> Result<OwnedFd, Error> {
        let code = compile(index, spec, part, site, self.target)?;
        let attach_type = match mechanism {
            Mechanism::Session => attach_type::UPROBE_SESSION,
            Mechanism::Multi => attach_type::UPROBE_MULTI,
            Mechanism::Perf => attach_type::NONE,
        };
        let kind = (bpf_prog_type::BPF_PROG_TYPE_KPROBE, attach_type, 0);
        let loaded = self.compiled(code, kind, index, spec, maps);
        loaded.map_err(|(source, log)| Error::Load {
            probe: spec.name.clone(),
            part: part.name(),
            mechanism,
            source,
            log,
        })
    }

    /// Loads a compiled program; with an error comes the verifier's log, if it is asked for.
    pub fn compiled(
        &mut self,
        code: Code,
        kind: (bpf_prog_type, u32, u32),
        index: usize,
        spec: &ProbeSpec,
        maps: &Maps,
    ) -> Result<OwnedFd, (io::Error, Option<String>)> {
        self.compiled_as(code, kind, index, &spec.name, maps)
    }

    /// The same under any name.
    pub fn compiled_as(
        &mut self,
        mut code: Code,
        (kind, attach_type, btf_id): (bpf_prog_type, u32, u32),
        index: usize,
        name: &str,
        maps: &Maps,
    ) -> Result<OwnedFd, (io::Error, Option<String>)> {
        self.resolve(&mut code, index, maps)
            .map_err(|why| (io::Error::new(io::ErrorKind::Unsupported, why), None))?;
        let load = sys::ProgLoad {
            kind,
            name,
            insns: &code.insns,
            attach_type,
            btf_id,
        };
        sys::prog_load(&load, None).map_err(|source| {
            let log = self.options.verifier_log.then(|| {
                let mut log = vec![0; LOG_BYTES];
                let _ = sys::prog_load(&load, Some(&mut log));
                String::from_utf8_lossy(&log).into_owned()
            });
            (source, log)
        })
    }

    /// Puts in descriptors of maps and ids of kernel functions.
    fn resolve(&mut self, code: &mut Code, index: usize, maps: &Maps) -> Result<(), String> {
        for &(at, map) in &code.maps {
            let Some(fd) = maps.fd(index, map) else {
                return Err(format!("it needs the map {map:?}, which was not created"));
            };
            // (An address in a value has its offset in the second half.)
            code.insns[at].imm = fd.as_raw_fd();
        }
        for &(at, kfunc) in &code.kfuncs {
            let Some(id) = self.found.kfunc(kfunc) else {
                return Err(format!("this kernel has no function {}", kfunc.name()));
            };
            code.insns[at].imm = id as i32;
        }
        Ok(())
    }
}
