//! From replaced return addresses to exits, while probes are attached.

use std::path::Path;

use super::{AttachSite, Engine};
use crate::error::Error;
use crate::link::{self, Link};
use crate::load::Loader;
use crate::program::returns;
use crate::spec::{ProbeKind, ProbeSpec, Returns};

/// A call of [`Engine::attach`], to be made again.
pub(super) struct Attached {
    probe: usize,
    sites: Vec<AttachSite>,
    pid: Option<u32>,
}

impl Engine {
    /// From here on the ends of the calls of `probe` are seen at their functions' exits, where
    /// until now their return addresses were replaced: there the kernel's limit of 64 pending
    /// returns does not hold. For what is attached already and for what will be. Counters go on.
    /// Calls that begin in the milliseconds that it takes are not seen; those that are open are
    /// unpaired in the end, except where their frames are in a map.
    ///
    /// False, and nothing has changed: it is no call, its exits are what is probed already, or a
    /// site that is attached has none. After an error the probe may be attached in part.
    pub fn use_exits(&mut self, probe: usize) -> Result<bool, Error> {
        let Some(spec) = self.probes.get(probe) else {
            return Err(Error::Usage(format!("there is no probe {probe}")));
        };
        if !replaces(spec) || self.without_exits.contains(&probe) {
            return Ok(false);
        }
        let mut spec = spec.clone();
        if let ProbeKind::Call { returns, .. } = &mut spec.kind {
            *returns = Returns::Exits;
        }
        let mut loader = Loader {
            target: &self.target,
            options: &self.options,
            found: &mut self.found,
        };
        let loaded = loader.probe(probe, &spec, &mut self.maps)?;
        link::close(of(&mut self.entry_links, probe));
        link::close(of(&mut self.return_links, probe));
        self.retired[probe] = self.missed(probe).unwrap_or(0);
        self.per_site.retain(|(of, ..), _| *of != probe);
        self.loaded[probe] = loaded;
        self.probes[probe] = spec;
        let (again, others) = std::mem::take(&mut self.attached)
            .into_iter()
            .partition(|a: &Attached| a.probe == probe);
        self.attached = others;
        for Attached { sites, pid, .. } in again {
            let gone = || pid.is_some_and(|pid| !is_alive(pid));
            if gone() {
                continue;
            }
            match self.attach(probe, &sites, pid) {
                Err(_) if gone() => {}
                other => other?,
            }
        }
        Ok(true)
    }

    /// Remembers what [`Engine::use_exits`] is to attach again.
    pub(super) fn remember(&mut self, probe: usize, sites: &[AttachSite], pid: Option<u32>) {
        if !replaces(&self.probes[probe]) {
            return;
        }
        if sites.iter().any(|site| site.exits.is_empty()) {
            self.without_exits.insert(probe);
            self.attached.retain(|a| a.probe != probe);
        }
        if !self.without_exits.contains(&probe) {
            let sites = sites.to_vec();
            self.attached.push(Attached { probe, sites, pid });
        }
    }
}

/// Whether the kernel replaces the return addresses of the probe's calls.
fn replaces(spec: &ProbeSpec) -> bool {
    matches!(spec.kind, ProbeKind::Call { .. }) && returns(spec) == Returns::Replaced
}

/// Takes out the links of a probe.
fn of(links: &mut Vec<(usize, Link)>, probe: usize) -> Vec<Link> {
    let (out, rest) = std::mem::take(links)
        .into_iter()
        .partition(|(of, _)| *of == probe);
    *links = rest;
    let out: Vec<(usize, Link)> = out;
    out.into_iter().map(|(_, link)| link).collect()
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
