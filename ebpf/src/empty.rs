//! A probe that does nothing: the floor against which the cost of others is measured.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use aya_obj::generated::bpf_prog_type;

use crate::asm::{Asm, Reg};
use crate::link::{self, Link, Places};
use crate::program::Part;
use crate::spec::Mechanism;
use crate::sys::{self, attach_type};

/// Attached as long as it lives.
pub struct EmptyProbe {
    _link: Link,
    _prog: OwnedFd,
}

impl EmptyProbe {
    /// Attaches an empty program at `offset` of `path` in process `pid`: at the entry
    /// ([`Mechanism::Multi`]) or at both ends of the call ([`Mechanism::Session`]).
    pub fn attach(
        mechanism: Mechanism,
        path: &Path,
        offset: u64,
        pid: u32,
    ) -> io::Result<EmptyProbe> {
        let session = mechanism == Mechanism::Session;
        let mut asm = Asm::default();
        asm.constant(Reg::R0, 0);
        asm.exit();
        let code = asm.finish().map_err(io::Error::other)?;
        let load = sys::ProgLoad {
            kind: bpf_prog_type::BPF_PROG_TYPE_KPROBE,
            name: "uprof_empty",
            insns: &code.insns,
            attach_type: if session {
                attach_type::UPROBE_SESSION
            } else {
                attach_type::UPROBE_MULTI
            },
            btf_id: 0,
        };
        let prog = sys::prog_load(&load, None)?;
        let places = Places {
            offsets: vec![offset],
            ..Places::default()
        };
        let part = if session { Part::Session } else { Part::Entry };
        let link = link::multi(prog.as_fd(), path, &places, false, Some(pid), part)?;
        Ok(EmptyProbe {
            _link: link,
            _prog: prog,
        })
    }
}
