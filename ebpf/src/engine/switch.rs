//! From replaced return addresses to exits, while probes are attached.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::{Engine, read};
use crate::empty::EmptyProbe;
use crate::error::Error;
use crate::layout::{FrameKind, TURN};
use crate::link::{self, Link};
use crate::load::{Loaded, Loader};
use crate::program::{Part, array_bytes, returns, turn};
use crate::site::AttachSite;
use crate::spec::{Mechanism, On, ProbeKind, ProbeSpec, Returns};

/// A call of [`Engine::attach`], to be made again.
pub(super) struct Attached {
    probe: usize,
    sites: Vec<AttachSite>,
    pid: Option<u32>,
}

/// What an engine has of a probe, and gives up for its successor.
struct Former {
    spec: ProbeSpec,
    loaded: Option<Loaded>,
    per_site: HashMap<(usize, u64, Part), OwnedFd>,
    entries: Vec<Link>,
    returns: Vec<Link>,
    attached: Vec<Attached>,
}

impl Engine {
    /// From here on the ends of the calls of `probe` are seen at their functions' exits, where
    /// until now their return addresses were replaced: there the kernel's limit of 64 pending
    /// returns does not hold. For what is attached already and for what will be. Counters go on,
    /// and every call is a hit once. Those that are open stay so, and end once: at their exits,
    /// or, where the kernel keeps the time of the entry (a session), when they return. (Other than
    /// in a session one that has passed its exit already, in a function that it tail-called, is
    /// unpaired in the end if that takes more than a second.)
    ///
    /// False, and nothing has changed: it is no call, its exits are what is probed already, or a
    /// site that is attached has none. After an error nothing has changed either.
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
        let had_frames = self.keeps_frames(probe);
        self.target.successors.push(probe);
        match self.succeed(probe, spec) {
            Ok(former) => self.hand_over(probe, former),
            Err(e) => {
                self.target.successors.pop();
                if !had_frames {
                    self.maps.frames[probe] = None;
                }
                return Err(e);
            }
        }
        Ok(true)
    }

    /// Attaches `spec` beside what is attached of the probe; it counts nothing yet.
    fn succeed(&mut self, probe: usize, spec: ProbeSpec) -> Result<Former, Error> {
        let mut loader = Loader {
            target: &self.target,
            options: &self.options,
            found: &mut self.found,
        };
        let loaded = loader.probe(probe, &spec, &mut self.maps)?;
        let former = Former {
            spec: std::mem::replace(&mut self.probes[probe], spec),
            loaded: self.loaded[probe].replace(loaded),
            per_site: self
                .per_site
                .extract_if(|(of, ..), _| *of == probe)
                .collect(),
            entries: of(&mut self.entry_links, probe),
            returns: of(&mut self.return_links, probe),
            attached: self.attached.extract_if(.., |a| a.probe == probe).collect(),
        };
        let Err(error) = self.attach_again(probe, &former.attached) else {
            return Ok(former);
        };
        link::close(of(&mut self.entry_links, probe));
        link::close(of(&mut self.return_links, probe));
        self.per_site.retain(|(of, ..), _| *of != probe);
        self.per_site.extend(former.per_site);
        self.probes[probe] = former.spec;
        self.loaded[probe] = former.loaded;
        let back = |links: Vec<Link>| links.into_iter().map(move |link| (probe, link));
        self.entry_links.extend(back(former.entries));
        self.return_links.extend(back(former.returns));
        self.attached.extend(former.attached);
        Err(error)
    }

    fn attach_again(&mut self, probe: usize, again: &[Attached]) -> Result<(), Error> {
        for Attached { sites, pid, .. } in again {
            let gone = || pid.is_some_and(|pid| !is_alive(pid));
            if gone() {
                continue;
            }
            match self.attach(probe, sites, *pid) {
                Err(_) if gone() => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Entries are counted by the probe's new programs from here on, and the former ones go.
    fn hand_over(&mut self, probe: usize, former: Former) {
        let layout = &self.target.state;
        let turn = (layout.first_shard + layout.blocks[probe].offset + 8 * TURN) as usize;
        self.state.set_word(turn, turn::CHANGING);
        // From Linux 6.12 on whoever detaches waits for all entries that are under way
        // (`uprobe_unregister_sync` in kernel/events/uprobes.c). Before, they keep what is
        // attached at their place from being detached (`register_rwsem`).
        if let Some(site) = former.attached.iter().find_map(|a| a.sites.first()) {
            let own = std::process::id();
            drop(EmptyProbe::attach(
                Mechanism::Multi,
                &site.path,
                site.offset,
                own,
            ));
        }
        let mechanism = former.loaded.as_ref().map(|l| l.mechanism);
        let session = mechanism == Some(Mechanism::Session);
        let in_map = FrameKind::of(&former.spec) != FrameKind::Time
            && !(self.target.task_storage && array_bytes(&former.spec).is_some());
        if session && !in_map {
            let links = former.entries.into_iter().map(|link| (probe, link));
            self.return_links.extend(links);
        } else {
            link::close(former.entries);
            self.lingering.extend(link::close_later(former.returns));
        }
        self.state.set_word(turn, turn::SUCCESSOR);
        // What the former programs miss later are no hits.
        let own = former.loaded.iter().flat_map(Loaded::programs);
        let programs = own.chain(former.per_site.values());
        self.retired[probe] += read::misses(programs).unwrap_or(0);
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
    let call = spec.on == On::Program && matches!(spec.kind, ProbeKind::Call { .. });
    call && returns(spec) == Returns::Replaced
}

/// Takes out the links of a probe.
fn of(links: &mut Vec<(usize, Link)>, probe: usize) -> Vec<Link> {
    let own = links.extract_if(.., |(of, _)| *of == probe);
    own.map(|(_, link)| link).collect()
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
