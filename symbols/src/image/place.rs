//! From patterns to sites: the code of what was found, looked at.

use std::collections::HashSet;

use super::code::Around;
use super::sources::begins_frame;
use super::{CODE_LIMIT, Function, Image, NameSource, Part, Sites};
use crate::error::{Error, Result};
use crate::pattern::Pattern;
use crate::site::{self, ArgSet, Purpose, Site};

/// Instructions that a pattern names, other than the starts of functions.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) at: Vec<Place>,
    pub(super) notes: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Place {
    pub(super) function: Function,
    pub(super) address: u64,
    pub(super) semaphore: Option<u64>,
}

impl Image {
    /// Chooses the site in a function: [`site::place`] with the code read from this file.
    ///
    /// # Errors
    /// As [`Image::code`] and [`site::place`]; [`Error::NoReturn`] for the return of a piece that is jumped to.
    pub fn place(&self, function: &Function, purpose: Purpose, live_args: ArgSet) -> Result<Site> {
        if purpose == Purpose::EntryReturn && self.is_jumped_to(function) {
            return Err(Error::NoReturn {
                place: function.display_name(),
                why: "it is a piece of a function, which is jumped to and not called",
            });
        }
        // What the own tables name is judged by them alone: the same answer, whatever else was read.
        let symbols = match function.source {
            NameSource::Symtab | NameSource::Dynsym => self.own()?,
            _ => self.named()?,
        };
        let around = Around {
            image: self,
            symbols,
        };
        self.with_code(function, CODE_LIMIT, |code| {
            site::place_in(&around, function, code, purpose, live_args)
        })?
    }

    /// Whether a return probe would take something else on the stack for the return address.
    fn is_jumped_to(&self, function: &Function) -> bool {
        let frames = self.frames();
        function.part == Part::Cold && frames.is_none_or(|f| !begins_frame(f, function.address))
    }

    /// The site at a user's function+offset: [`site::at_offset`] with the code read from this file.
    ///
    /// # Errors
    /// As [`Image::code`] and [`site::at_offset`].
    pub fn place_at(&self, function: &Function, add: u64) -> Result<Site> {
        self.with_code(function, CODE_LIMIT, |code| {
            site::at_offset(function, code, add)
        })?
    }

    /// File offsets of a function's `ret` instructions: [`site::returns`] with the code read from this file.
    ///
    /// # Errors
    /// As [`Image::code`].
    pub fn returns(&self, function: &Function) -> Result<Vec<u64>> {
        self.with_code(function, CODE_LIMIT, |code| site::returns(function, code))
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
            let placed = match purpose {
                Purpose::Entry => {
                    self.place_at(&place.function, place.address - place.function.address)
                }
                Purpose::EntryReturn => Err(Error::NoReturn {
                    place: pattern.to_string(),
                    why: match pattern {
                        Pattern::Line { .. } => "a line is passed, and does not return",
                        Pattern::Usdt { .. } => {
                            "a static probe is one instruction, and does not return"
                        }
                        _ => "an inlined copy is part of its caller, and has no return of its own",
                    },
                }),
            };
            match placed {
                Ok(mut site) => {
                    site.semaphore = place.semaphore;
                    sites.placed.push((place.function, site));
                }
                Err(error) => sites.refused.push((place.function, error)),
            }
        }
        Ok(sites)
    }
}

impl Image {
    /// The instructions that a line, a static probe or an inlined function stands for, by address.
    pub(super) fn places(&self, _pattern: &Pattern) -> Result<Places> {
        Ok(Places::default())
    }
}
