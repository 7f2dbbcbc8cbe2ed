//! Places other than the starts of functions: lines of source files, static probes, inlined copies.

use super::{Bounds, Function, Image, NameSource, Part};
use crate::dwarf::Dwarf;
use crate::error::{Error, Result};
use crate::matcher;
use crate::pattern::{NAMELESS, Pattern};

/// Code without a function around it is looked at for as much as one instruction may take.
const INSTRUCTION: u64 = 15;

/// Instructions that a pattern names.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) at: Vec<Place>,
    /// What the user should know of them.
    pub(super) notes: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Place {
    pub(super) function: Function,
    pub(super) address: u64,
    /// A static probe's counter, as a file offset; `Some(None)`: it has one that cannot be raised.
    pub(super) semaphore: Option<Option<u64>>,
}

impl Image {
    /// The instructions that a line, a static probe or an inlined function stands for, by address.
    ///
    /// # Errors
    /// As [`Image::functions`]; [`Error::NoDebugInfo`]; what the debug information says of the line.
    pub(super) fn places(&self, pattern: &Pattern) -> Result<Places> {
        let mut places = match pattern {
            Pattern::Line { file, line } => self.places_of_line(file, *line)?,
            Pattern::Usdt { provider, name } => self.static_probes(provider, name)?,
            Pattern::Inlined(base) => self.inlined_copies(base)?,
            _ => Places::default(),
        };
        places.at.sort_by_key(|place| place.address);
        places.at.dedup_by_key(|place| place.address);
        Ok(places)
    }

    fn debug_info(&self, wanted: &str) -> Result<&Dwarf> {
        self.dwarf()?.ok_or_else(|| Error::NoDebugInfo {
            path: self.elf.path.clone(),
            wanted: wanted.to_owned(),
            notes: self.located().notes.clone(),
        })
    }

    fn places_of_line(&self, file: &str, line: u32) -> Result<Places> {
        let found = self.debug_info("lines")?.places_of_line(file, line)?;
        let mut places = Places::default();
        if found.line != found.asked {
            places.notes.push(format!(
                "no code comes from {}:{}: the probe sits on the next line that has some, {}",
                found.file, found.asked, found.line
            ));
        }
        for place in found.places {
            let start = place.function_address;
            let name = place.within.last().map(String::as_str);
            self.add(&mut places, place.address, start, name)?;
        }
        Ok(places)
    }

    fn inlined_copies(&self, base: &Pattern) -> Result<Places> {
        let copies = self.debug_info("inlined functions")?.inlined(base)?;
        let mut places = Places::default();
        if !copies.is_empty() {
            places.notes.push(format!(
                "{base} is inlined in {} places: its arguments are not in the registers of a call, but where the debug information says",
                copies.len()
            ));
        }
        for copy in copies {
            let name = copy.within.last().map(String::as_str);
            self.add(&mut places, copy.address, Some(copy.function_address), name)?;
        }
        Ok(places)
    }

    fn static_probes(&self, provider: &str, name: &str) -> Result<Places> {
        let (provider, name) = (matcher::compile(provider)?, matcher::compile(name)?);
        let mut places = Places::default();
        for probe in self.usdt()? {
            if !provider.matches(&probe.provider) || !name.matches(&probe.name) {
                continue;
            }
            self.add(&mut places, probe.address, None, None)?;
            if let Some(place) = places.at.last_mut()
                && place.address == probe.address
            {
                place.semaphore = probe.semaphore.map(|semaphore| semaphore.offset);
            }
        }
        Ok(places)
    }

    /// Adds a place in the function around it: the one that tables know, else the one that starts at START.
    fn add(
        &self,
        places: &mut Places,
        address: u64,
        start: Option<u64>,
        name: Option<&str>,
    ) -> Result<()> {
        if self.offset_of(address).is_none() {
            return Ok(());
        }
        let known = self.around(address)?;
        let start = start.filter(|start| *start <= address && self.offset_of(*start).is_some());
        places.at.push(Place {
            function: known
                .unwrap_or_else(|| self.unknown(start.unwrap_or(address), address, name)),
            address,
            semaphore: None,
        });
        Ok(())
    }

    /// A function that no table knows, from START to the instruction at LAST.
    fn unknown(&self, start: u64, last: u64, name: Option<&str>) -> Function {
        let end = last
            .saturating_add(INSTRUCTION)
            .min(self.elf.headers.code_end(last));
        Function {
            names: vec![name.map_or_else(|| format!("{NAMELESS}{start:#x}"), str::to_owned)],
            address: start,
            offset: self.offset_of(start).unwrap_or(0),
            size: 0,
            end,
            undivided: end,
            source: match name {
                Some(_) => NameSource::Dwarf,
                None => NameSource::EhFrame,
            },
            part: Part::Whole,
            bounds: Bounds::Next,
        }
    }
}
