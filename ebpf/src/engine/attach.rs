//! Attaching and letting go.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::Engine;
use crate::error::Error;
use crate::layout::{MAX_PIDS, PIDS};
use crate::link::{self, FileSites, Link, PerfSource, Places};
use crate::load::{Loader, uses_cookie};
use crate::program::{Part, SiteSource};
use crate::site::AttachSite;
use crate::spec::Mechanism;

impl Engine {
    /// Attaches a probe, with `pid` in that process only. It may be called again for other
    /// processes and files. Sites of one file share a link, where the kernel can do that.
    pub fn attach(
        &mut self,
        probe: usize,
        sites: &[AttachSite],
        pid: Option<u32>,
    ) -> Result<(), Error> {
        let Some(spec) = self.probes.get(probe) else {
            return Err(Error::Usage(format!("there is no probe {probe}")));
        };
        if let Some(site) = sites.iter().find(|s| s.site >= spec.sites.max(1)) {
            return Err(Error::Usage(format!(
                "probe {}: there is no site {} among its {}",
                spec.name, site.site, spec.sites
            )));
        }
        let Some(mechanism) = self.programs_of(probe).map(|l| l.mechanism) else {
            return Err(Error::Usage(format!(
                "probe {} is on the kernel, and has no place in a file",
                spec.name
            )));
        };
        if self.target.pid_test {
            self.allow(pid)?;
        }
        for file in link::by_file(sites) {
            let done = match mechanism {
                Mechanism::Session | Mechanism::Multi => self.attach_multi(probe, &file, pid),
                Mechanism::Perf => self.attach_perf(probe, &file, pid)?,
            };
            done.map_err(|source| Error::Attach {
                probe: self.probes[probe].name.clone(),
                path: file.path.clone(),
                count: file.entries.offsets.len(),
                mechanism,
                source,
            })?;
        }
        self.remember(probe, sites, pid);
        Ok(())
    }

    /// Programs test the process themselves: tells them which ones are wanted. Once all are,
    /// there is no way back.
    fn allow(&mut self, pid: Option<u32>) -> Result<(), Error> {
        match (pid, &mut self.pids) {
            (None, pids) => *pids = None,
            (Some(pid), Some(pids)) if !pids.contains(&pid) => {
                if pids.len() >= MAX_PIDS as usize {
                    return Err(Error::Usage(format!(
                        "this kernel cannot tell processes apart, and only {MAX_PIDS} can be named"
                    )));
                }
                pids.push(pid);
            }
            _ => {}
        }
        let pids = self.pids.as_deref().unwrap_or_default();
        for i in 0..MAX_PIDS as usize {
            let pid = pids.get(i).copied().unwrap_or(0);
            self.state.set_word(PIDS as usize + 8 * i, pid.into());
        }
        Ok(())
    }

    /// The programs of a probe and where in a file each goes. The return first: a call that
    /// begins in between has no entry, and is no hit. Also, where a function's first instruction
    /// is its last, the kernel runs first what was attached last (`consumer_add` in
    /// kernel/events/uprobes.c, the same from Linux 3.10 to 6.18).
    fn places<'a>(&self, probe: usize, file: &'a FileSites) -> Vec<(Part, &'a Places)> {
        let parts = Part::of(&self.probes[probe], self.mechanism(probe));
        let place = |part: &Part| match part {
            Part::Exit => (*part, &file.exits),
            _ => (*part, &file.entries),
        };
        let places = parts.iter().rev().map(place);
        places.filter(|(_, at)| !at.offsets.is_empty()).collect()
    }

    fn attach_multi(&mut self, probe: usize, file: &FileSites, pid: Option<u32>) -> io::Result<()> {
        // Before Linux 6.10 the kernel's filter lets one thread through only: the program tests.
        let pid = pid.filter(|_| !self.target.pid_test);
        let mut links = Vec::new();
        for (part, places) in self.places(probe, file) {
            let prog = self.program(probe, part)?;
            let cookies = uses_cookie(&self.probes[probe], part);
            let link = link::multi(prog.as_fd(), &file.path, places, cookies, pid, part)?;
            links.push((part, link));
        }
        for (part, link) in links {
            self.keep(probe, part, link);
        }
        Ok(())
    }

    fn program(&self, probe: usize, part: Part) -> io::Result<&OwnedFd> {
        let loaded = self.programs_of(probe);
        let none = || io::Error::other("it has no programs");
        loaded.map(|l| l.program(part)).ok_or_else(none)
    }

    fn keep(&mut self, probe: usize, part: Part, link: Link) {
        match part {
            Part::Entry | Part::Session => self.entry_links.push((probe, link)),
            Part::Return | Part::Exit => self.return_links.push((probe, link)),
        }
    }

    fn attach_perf(
        &mut self,
        probe: usize,
        file: &FileSites,
        pid: Option<u32>,
    ) -> Result<io::Result<()>, Error> {
        let source = match self.perf {
            Some(source) => source,
            None => match PerfSource::find() {
                Ok(source) => *self.perf.insert(source),
                Err(e) => return Ok(Err(e)),
            },
        };
        for (part, places) in self.places(probe, file) {
            for (i, (&offset, &word)) in places.offsets.iter().zip(&places.cookies).enumerate() {
                let place = (offset, places.semaphores.get(i).copied().unwrap_or(0));
                let uses = uses_cookie(&self.probes[probe], part);
                let own = uses && self.programs_of(probe).is_some_and(|l| l.per_site);
                if own {
                    self.own_program(probe, word, part)?;
                }
                let prog = match self.per_site.get(&(probe, word, part)) {
                    Some(prog) if own => prog,
                    _ => match self.program(probe, part) {
                        Ok(prog) => prog,
                        Err(e) => return Ok(Err(e)),
                    },
                };
                let cookie = (uses && !own).then_some(word);
                let at_return = part == Part::Return;
                let link = source.attach(prog.as_fd(), &file.path, place, pid, at_return, cookie);
                match link {
                    Ok(link) => self.keep(probe, part, link),
                    Err(e) => return Ok(Err(e)),
                }
            }
        }
        Ok(Ok(()))
    }

    /// Loads a program that knows its cookie, for kernels without.
    fn own_program(&mut self, probe: usize, cookie: u64, part: Part) -> Result<(), Error> {
        if self.per_site.contains_key(&(probe, cookie, part)) {
            return Ok(());
        }
        let mut loader = Loader {
            target: &self.target,
            options: &self.options,
            found: &mut self.found,
        };
        let source = SiteSource::Constant(cookie);
        let spec = &self.probes[probe];
        let prog = loader.program(Mechanism::Perf, part, source, probe, spec, &self.maps)?;
        self.per_site.insert((probe, cookie, part), prog);
        Ok(())
    }

    /// Detaches everything; entries first, so that open calls can still end. Afterwards the
    /// counters are final.
    pub fn detach(&mut self) {
        self.unhook();
        for links in [&mut self.entry_links, &mut self.return_links] {
            let links = std::mem::take(links).into_iter();
            link::close(links.map(|(_, link)| link).collect());
        }
        self.lingering.drain(..).for_each(link::Lingering::close);
        self.attached.clear();
        if let Some(mut clocks) = self.clocks.take() {
            clocks.stop();
        }
    }
}
