//! From patterns to sites: the code of what was found, looked at.

use super::code::Around;
use super::{CODE_LIMIT, Function, Image, Sites};
use crate::error::Result;
use crate::pattern::Pattern;
use crate::site::{self, ArgSet, Purpose, Site};

impl Image {
    /// Chooses the site in a function: [`site::place`] with the code read from this file.
    ///
    /// # Errors
    /// As [`Image::code`] and [`site::place`].
    pub fn place(&self, function: &Function, purpose: Purpose, live_args: ArgSet) -> Result<Site> {
        let around = Around {
            image: self,
            symbols: self.symbols()?,
        };
        self.with_code(function, CODE_LIMIT, |code| {
            site::place_in(&around, function, code, purpose, live_args)
        })?
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
    /// pattern gives an offset or an address.
    ///
    /// # Errors
    /// As [`Image::find`]. A function that cannot be probed is no error here: see [`Sites::refused`].
    pub fn sites(&self, pattern: &Pattern, purpose: Purpose, live_args: ArgSet) -> Result<Sites> {
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
}
