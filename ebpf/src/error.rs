//! What can go wrong: each error says what was tried, on what, and what the kernel answered.

use std::io;
use std::path::PathBuf;

use crate::site::KernelHook;
use crate::spec::Mechanism;

/// The crate's error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A probe asks for something that cannot be compiled.
    #[error("probe {probe}: {what}: {reason}")]
    Compile {
        /// The probe's name.
        probe: String,
        /// Which part of it: "the filter", "capture 2" ...
        what: String,
        /// Why not.
        reason: String,
    },
    /// The kernel refused a program.
    #[error("probe {probe}: the kernel refused the {part} program ({mechanism}): {source}")]
    Load {
        /// The probe's name.
        probe: String,
        /// "entry", "return" or "call".
        part: &'static str,
        /// For which mechanism.
        mechanism: Mechanism,
        /// What the kernel answered.
        source: io::Error,
        /// The verifier's log, where it was asked for and the kernel wrote one.
        log: Option<String>,
    },
    /// The kernel refused a map.
    #[error("cannot create the {what} map of {bytes} bytes: {source}")]
    Map {
        /// What the map is for.
        what: String,
        /// The memory it asked for.
        bytes: u64,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A map could not be read.
    #[error("cannot read the {what} map: {source}")]
    Read {
        /// What the map is for.
        what: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The kernel refused to attach.
    #[error("probe {probe}: cannot attach {count} sites in {} ({mechanism}): {source}", path.display())]
    Attach {
        /// The probe's name.
        probe: String,
        /// The file.
        path: PathBuf,
        /// How many sites.
        count: usize,
        /// By which mechanism.
        mechanism: Mechanism,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The kernel refused a probe on one of its own events.
    #[error("probe {probe}: cannot {what} {hook}: {source}{meaning}")]
    Kernel {
        /// The probe's name.
        probe: String,
        /// What was tried: "load the entry program for", "attach to" ...
        what: String,
        /// Which event.
        hook: Box<KernelHook>,
        /// What the kernel answered.
        source: io::Error,
        /// What it means by that; empty or begins with a colon.
        meaning: &'static str,
        /// The verifier's log, where it was asked for and the kernel wrote one.
        log: Option<String>,
    },
    /// What says where the time of calls goes cannot be set up.
    #[error("where the time of calls goes cannot be told here: cannot {what}: {source}")]
    Clocks {
        /// What was tried: "attach to the raw tracepoint sched_switch" ...
        what: String,
        /// What the kernel answered.
        source: io::Error,
        /// The verifier's log, where it was asked for and the kernel wrote one.
        log: Option<String>,
    },
    /// A call of this crate that makes no sense: an unknown probe, a site index out of range.
    #[error("{0}")]
    Usage(String),
    /// A file could not be written or an object not be built.
    #[error("cannot write {}: {source}", path.display())]
    Dump {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// The verifier's log, if the error carries one.
    pub fn verifier_log(&self) -> Option<&str> {
        match self {
            Error::Load { log, .. } | Error::Kernel { log, .. } | Error::Clocks { log, .. } => {
                log.as_deref()
            }
            _ => None,
        }
    }
}
