//! Probes on events of the kernel: attaching, and in which processes they count.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::Engine;
use crate::error::Error;
use crate::layout::EVERYONE;
use crate::link::{self, Link};
use crate::load::Loader;
use crate::program::{Part, compile};
use crate::site::KernelSite;
use crate::spec::{Mechanism, On};
use crate::sys;

/// What is attached at one place. Its programs stay for their counts of misses.
pub(super) struct Hooked {
    pub probe: usize,
    site: KernelSite,
    /// The entry's first.
    pub programs: Vec<OwnedFd>,
    links: Vec<Link>,
}

impl Engine {
    /// Attaches a probe on the kernel: all its programs are loaded before the first is attached,
    /// and after an error none of them is. With `pid` it counts in that process, and in those named
    /// for any probe on the kernel; once attached without, in every process. It may be called again:
    /// what is attached already is not attached twice.
    pub fn attach_kernel(
        &mut self,
        probe: usize,
        sites: &[KernelSite],
        pid: Option<u32>,
    ) -> Result<(), Error> {
        let Some(spec) = self.probes.get(probe) else {
            return Err(Error::Usage(format!("there is no probe {probe}")));
        };
        let name = &spec.name;
        for site in sites {
            if spec.on != On::Kernel(site.hook.source()) {
                return Err(Error::Usage(format!(
                    "probe {name} is not made for {}",
                    site.hook
                )));
            }
            if site.site >= spec.sites.max(1) {
                return Err(Error::Usage(format!(
                    "probe {name}: there is no site {} among its {}",
                    site.site, spec.sites
                )));
            }
        }
        let mut new = Vec::new();
        for site in sites {
            let known = self.hooked.iter().chain(&new);
            if known
                .into_iter()
                .all(|h: &Hooked| h.probe != probe || h.site != *site)
            {
                new.push(self.load_hook(probe, site)?);
            }
        }
        if let Some(pid) = pid {
            self.allow_kernel(pid)?;
        }
        for at in 0..new.len() {
            if let Err(e) = self.hook(&mut new[at]) {
                close(&mut new);
                return Err(e);
            }
        }
        if pid.is_none() {
            let layout = &self.target.state;
            let word = layout.first_shard + layout.blocks[probe].offset + 8 * EVERYONE;
            self.state.set_word(word as usize, 1);
        }
        self.hooked.extend(new);
        Ok(())
    }

    /// Lets probes on the kernel count in process `pid` too, beside those that
    /// [`Engine::attach_kernel`] named.
    pub fn allow_kernel(&mut self, pid: u32) -> Result<(), Error> {
        let Some(map) = &self.maps.pids else {
            return Err(Error::Usage("there is no probe on the kernel".into()));
        };
        let fd = map.fd().as_fd();
        let key = u64::from(pid).to_ne_bytes();
        let mut done = sys::map_update(fd, &key, &key);
        if done
            .as_ref()
            .is_err_and(|e| e.raw_os_error() == Some(libc::E2BIG))
        {
            self.forget_ended();
            done = sys::map_update(fd, &key, &key);
        }
        done.map_err(|e| {
            Error::Usage(format!(
                "process {pid} cannot be added to those probed: {e}"
            ))
        })
    }

    /// Takes processes that have ended off the map.
    fn forget_ended(&self) {
        let Some(map) = &self.maps.pids else {
            return;
        };
        let fd = map.fd().as_fd();
        let mut all = Vec::new();
        let mut key: Option<[u8; 8]> = None;
        loop {
            let mut next = [0; 8];
            match sys::map_next_key(fd, key.as_ref().map(|k| &k[..]), &mut next) {
                Ok(true) => all.push(next),
                _ => break,
            }
            key = Some(next);
        }
        for key in all {
            let pid = u64::from_ne_bytes(key);
            if !Path::new(&format!("/proc/{pid}")).exists() {
                // (Gone already is as good.)
                let _ = sys::map_delete(fd, &key);
            }
        }
    }

    fn load_hook(&mut self, probe: usize, site: &KernelSite) -> Result<Hooked, Error> {
        let spec = &self.probes[probe];
        let mut loader = Loader {
            target: &self.target,
            options: &self.options,
            found: &mut self.found,
        };
        let mut programs = Vec::new();
        for part in Part::of(spec, Mechanism::Perf) {
            let code = compile(probe, spec, *part, site.source(), &self.target)?;
            let kind = site.hook.program(*part);
            let loaded = loader.compiled(code, kind, probe, spec, &self.maps);
            programs.push(loaded.map_err(|(source, log)| Error::Kernel {
                probe: spec.name.clone(),
                what: format!("load the {} program for", part.name()),
                meaning: site.hook.explain_load(&source),
                hook: Box::new(site.hook.clone()),
                source,
                log,
            })?);
        }
        Ok(Hooked {
            probe,
            site: site.clone(),
            programs,
            links: Vec::new(),
        })
    }

    /// Attaches; the end of a call first, so that what begins in between has no entry, and is no
    /// hit.
    fn hook(&self, hooked: &mut Hooked) -> Result<(), Error> {
        let spec = &self.probes[hooked.probe];
        let hook = &hooked.site.hook;
        let parts = Part::of(spec, Mechanism::Perf).iter();
        for (part, prog) in parts.zip(&hooked.programs).rev() {
            let links = hook.attach(*part, prog.as_fd());
            let links = links.map_err(|source| Error::Kernel {
                probe: spec.name.clone(),
                what: "attach to".into(),
                meaning: hook.explain(&source),
                hook: Box::new(hook.clone()),
                source,
                log: None,
            })?;
            hooked.links.extend(links);
        }
        Ok(())
    }

    /// Detaches what is on the kernel; entries first, so that open calls can still end.
    pub(super) fn unhook(&mut self) {
        close(&mut self.hooked);
    }
}

fn close(hooked: &mut [Hooked]) {
    // (The links of ends stand before those of entries.)
    for at in [1, 0] {
        let some = hooked.iter_mut().filter(|h| h.links.len() > at);
        link::close(some.filter_map(|h| h.links.pop()).collect());
    }
}
