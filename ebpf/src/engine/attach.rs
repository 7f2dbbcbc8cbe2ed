//! Attaching and letting go.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::{AttachSite, Engine};
use crate::error::Error;
use crate::layout::{MAX_PIDS, PIDS};
use crate::link::{self, FileSites, PerfSource};
use crate::load::Loader;
use crate::program::{Part, SiteSource};
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
        if self.target.pid_test {
            self.allow(pid)?;
        }
        for file in link::by_file(sites) {
            let mechanism = self.loaded[probe].mechanism;
            let done = match mechanism {
                Mechanism::Session | Mechanism::Multi => self.attach_multi(probe, &file, pid),
                Mechanism::Perf => self.attach_perf(probe, &file, pid)?,
            };
            done.map_err(|source| Error::Attach {
                probe: self.probes[probe].name.clone(),
                path: file.path.clone(),
                count: file.offsets.len(),
                mechanism,
                source,
            })?;
        }
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

    /// The return first: a call that begins in between has no entry, and is no hit.
    fn attach_multi(&mut self, probe: usize, file: &FileSites, pid: Option<u32>) -> io::Result<()> {
        let loaded = &self.loaded[probe];
        let cookies = self.probes[probe].sites > 1;
        let session = loaded.mechanism == Mechanism::Session;
        // Before Linux 6.10 the kernel's filter lets one thread through only: the program tests.
        let pid = pid.filter(|_| !self.target.pid_test);
        if let Some(prog) = &loaded.at_return {
            let link = link::multi(prog.as_fd(), file, cookies, pid, true, false)?;
            self.return_links.push(link);
        }
        let entry = link::multi(loaded.entry.as_fd(), file, cookies, pid, false, session);
        match entry {
            Ok(link) => self.entry_links.push(link),
            Err(e) => {
                if loaded.at_return.is_some() {
                    self.return_links.pop();
                }
                return Err(e);
            }
        }
        Ok(())
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
        for (i, (&offset, &index)) in file.offsets.iter().zip(&file.indexes).enumerate() {
            let place = (offset, file.semaphores.get(i).copied().unwrap_or(0));
            let has_return = self.loaded[probe].at_return.is_some();
            let per_site = self.loaded[probe].per_site;
            if per_site {
                self.site_programs(probe, index as u32, has_return)?;
            }
            let loaded = &self.loaded[probe];
            let own = |part| self.per_site.get(&(probe, index as u32, part));
            let cookie = (self.probes[probe].sites > 1 && !per_site).then_some(index);
            let attach = |prog: &OwnedFd, at_return| {
                source.attach(prog.as_fd(), &file.path, place, pid, at_return, cookie)
            };
            let at_return = match own(Part::Return).or(loaded.at_return.as_ref()) {
                Some(prog) => match attach(prog, true) {
                    Ok(link) => Some(link),
                    Err(e) => return Ok(Err(e)),
                },
                None => None,
            };
            match attach(own(Part::Entry).unwrap_or(&loaded.entry), false) {
                Ok(link) => self.entry_links.push(link),
                Err(e) => return Ok(Err(e)),
            }
            self.return_links.extend(at_return);
        }
        Ok(Ok(()))
    }

    /// Loads the programs of one site.
    fn site_programs(&mut self, probe: usize, site: u32, has_return: bool) -> Result<(), Error> {
        for part in [Part::Entry, Part::Return] {
            if (part == Part::Return && !has_return)
                || self.per_site.contains_key(&(probe, site, part))
            {
                continue;
            }
            let mut loader = Loader {
                target: &self.target,
                options: &self.options,
                found: &mut self.found,
            };
            let source = SiteSource::Constant(site);
            let spec = &self.probes[probe];
            let prog = loader.program(Mechanism::Perf, part, source, probe, spec, &self.maps)?;
            self.per_site.insert((probe, site, part), prog);
        }
        Ok(())
    }

    /// Detaches everything; entries first, so that open calls can still end. Afterwards the
    /// counters are final.
    pub fn detach(&mut self) {
        link::close(std::mem::take(&mut self.entry_links));
        link::close(std::mem::take(&mut self.return_links));
    }
}
