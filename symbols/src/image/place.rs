//! From patterns to sites: the code of what was found, looked at.

use std::collections::HashSet;

use super::code::Around;
use super::places::Places;
use super::sources::begins_frame;
use super::{CODE_LIMIT, Function, Image, NameSource, Part, Sites};
use crate::error::{Error, Result};
use crate::pattern::Pattern;
use crate::site::{self, ArgSet, Purpose, Site};

/// A line of a large function may be far from its start; no function is larger than this many bytes.
const LARGEST: usize = 8 << 20;

impl Image {
    /// Chooses the site in a function: [`site::place`] with the code read from this file.
    ///
    /// # Errors
    /// As [`Image::code`] and [`site::place`]; [`Error::NoReturn`] for the return of a piece that is jumped to.
    pub fn place(&self, function: &Function, purpose: Purpose, live_args: ArgSet) -> Result<Site> {
        if purpose == Purpose::EntryReturn {
            self.check_is_called(function)?;
        }
        let around = self.around_function(function)?;
        self.with_code(function, CODE_LIMIT, |code| {
            site::place_in(&around, function, code, purpose, live_args)
        })?
    }

    /// What is known of the code around a function.
    pub(super) fn around_function(&self, function: &Function) -> Result<Around<'_>> {
        // What the own tables name is judged by them alone: the same answer, whatever else was read.
        let symbols = match function.source {
            NameSource::Symtab | NameSource::Dynsym => self.own()?,
            _ => self.named()?,
        };
        Ok(Around {
            image: self,
            symbols,
        })
    }

    /// Fails for what is no function of its own, and so does not return.
    pub(super) fn check_is_called(&self, function: &Function) -> Result<()> {
        match self.is_jumped_to(function) {
            false => Ok(()),
            true => Err(Error::NoReturn {
                place: function.display_name(),
                why: "it is a piece of a function, which is jumped to and not called",
            }),
        }
    }

    /// Whether a return probe would take something else on the stack for the return address.
    fn is_jumped_to(&self, function: &Function) -> bool {
        let starts = || {
            let frames = self.frames();
            frames.is_some_and(|frames| begins_frame(frames, function.address))
        };
        function.part == Part::Cold && !starts()
    }

    /// The site at a user's function+offset: [`site::at_offset`] with the code read from this file.
    ///
    /// # Errors
    /// As [`Image::code`] and [`site::at_offset`].
    pub fn place_at(&self, function: &Function, add: u64) -> Result<Site> {
        // Whether an instruction starts there shows only by decoding from the function's start.
        let reach = usize::try_from(add.saturating_add(16)).unwrap_or(LARGEST);
        let max = reach.clamp(CODE_LIMIT, LARGEST);
        self.with_code(function, max, |code| site::at_offset(function, code, add))?
    }

    /// Everything that a pattern names, placed: found, then [`Image::place`], or [`Image::place_at`] where the
    /// pattern gives an offset, an address, a line, a static probe or an inlined function. No place comes twice.
    ///
    /// # Errors
    /// As [`Image::find`]. A function that cannot be probed is no error here: see [`Sites::refused`].
    pub fn sites(&self, pattern: &Pattern, purpose: Purpose, live_args: ArgSet) -> Result<Sites> {
        let mut sites = match pattern {
            Pattern::Line { .. } | Pattern::Usdt { .. } | Pattern::Inlined(_) => {
                self.sites_within(pattern, purpose)?
            }
            _ => self.sites_of_functions(pattern, purpose, live_args)?,
        };
        let mut known = HashSet::new();
        sites.placed.retain(|(_, site)| known.insert(site.offset));
        Ok(sites)
    }

    fn sites_of_functions(
        &self,
        pattern: &Pattern,
        purpose: Purpose,
        live_args: ArgSet,
    ) -> Result<Sites> {
        let mut sites = Sites::default();
        for function in self.find(pattern)? {
            let add = match pattern {
                Pattern::Address(address) => Some(address - function.address),
                other => other.offset(),
            };
            let placed = match add {
                None => self.place(&function, purpose, live_args),
                Some(add) => self.place_at(&function, add),
            };
            match placed {
                Ok(site) => sites.placed.push((function, site)),
                Err(error) => sites.refused.push((function, error)),
            }
        }
        Ok(sites)
    }

    fn sites_within(&self, pattern: &Pattern, purpose: Purpose) -> Result<Sites> {
        let Places { at, notes } = self.places(pattern)?;
        let mut sites = Sites {
            notes,
            ..Sites::default()
        };
        for place in at {
            let function = &place.function;
            let placed = match (purpose, place.semaphore) {
                (Purpose::EntryReturn, _) => Err(no_return(pattern)),
                (_, Some(None)) => Err(Error::NoSemaphore(pattern.to_string())),
                _ => self.place_at(function, place.address.saturating_sub(function.address)),
            };
            match placed {
                Ok(mut site) => {
                    site.semaphore = place.semaphore.flatten();
                    sites.placed.push((place.function, site));
                }
                Err(error) => sites.refused.push((place.function, error)),
            }
        }
        Ok(sites)
    }
}

/// What is passed on the way, and not called, has no return.
fn no_return(pattern: &Pattern) -> Error {
    Error::NoReturn {
        place: pattern.to_string(),
        why: match pattern {
            Pattern::Line { .. } => "a line is passed, and not called",
            Pattern::Usdt { .. } => "a static probe is one instruction",
            _ => "an inlined copy is a part of its caller",
        },
    }
}
