//! A probe at one place of one binary: its deferred expressions bound to what debug information knows there.

use crate::debug::DebugInfo;
use crate::error::Error;
use crate::expr::{Expr, Kind, Type};
use crate::model::{Action, At, Probe, Provider, Recipe, Stat};

/// What bytes and constant texts are told that would be keys.
pub(crate) const NO_KEY: &str =
    "a key is a number, a text, a function, a stack or an address of the network";

impl At {
    /// Whether something here can only be told by debug information.
    pub fn needs_debug_info(&self) -> bool {
        self.capture.iter().any(|(_, e)| e.is_deferred())
            || self.where_.as_ref().is_some_and(Expr::is_deferred)
    }

    /// The place with captures and filter bound; each capture knows those before it.
    ///
    /// # Errors
    /// As [`Expr::bind`].
    pub fn bind(&self, info: &dyn DebugInfo) -> Result<At, Error> {
        let mut here = Here::new(info, self.provider());
        for (name, e) in &self.capture {
            let bound = here.bind(e)?;
            if matches!(bound.kind, Kind::Str(_)) {
                return Err(e.error("a constant text is not captured"));
            }
            here.captures.push((name.clone(), bound));
        }
        let where_ = here.condition(self.where_.as_ref())?.filter(says_no);
        Ok(At {
            functions: self.functions.clone(),
            only_in: self.only_in.clone(),
            has: self.has.clone(),
            capture: here.captures,
            where_,
            uncaught: self.uncaught,
        })
    }
}

impl Probe {
    /// Whether something in it can only be told by debug information.
    pub fn needs_debug_info(&self) -> bool {
        let own = |e: &Option<Expr>| e.as_ref().is_some_and(Expr::is_deferred);
        let keys = self.action.by().iter().map(|(_, e)| e);
        let action = self.action.values().into_iter().chain(keys);
        own(&self.where_)
            || own(&self.keep)
            || action.into_iter().any(Expr::is_deferred)
            || self.at.iter().any(At::needs_debug_info)
    }

    /// The probe at its place number `at` alone, with all expressions bound to what is known there. It may be
    /// bound at many places: each function has its own variables.
    ///
    /// # Errors
    /// As [`Expr::bind`]. A number that is none gives a probe without a place.
    pub fn bind(&self, at: usize, info: &dyn DebugInfo) -> Result<Probe, Error> {
        let Some(place) = self.at.get(at) else {
            return Ok(Probe {
                at: vec![],
                ..self.clone()
            });
        };
        let place = place.bind(info)?;
        let here = Here {
            captures: place.capture.clone(),
            ..Here::new(info, place.provider())
        };
        let action = match &self.action {
            Action::Event => Action::Event,
            Action::Count { by } => Action::Count { by: here.keys(by)? },
            Action::Histogram {
                value,
                by,
                unit,
                scale,
            } => Action::Histogram {
                value: here.number(value, "a histogram is of numbers")?,
                by: here.keys(by)?,
                unit: unit.clone(),
                scale: *scale,
            },
            Action::Stats { values, by } => Action::Stats {
                values: here.stats(values)?,
                by: here.keys(by)?,
            },
        };
        Ok(Probe {
            where_: here.condition(self.where_.as_ref())?.filter(says_no),
            keep: here.condition(self.keep.as_ref())?,
            action,
            at: vec![place],
            ..self.clone()
        })
    }
}

impl Recipe {
    /// Whether something in it can only be told by debug information.
    pub fn needs_debug_info(&self) -> bool {
        self.probes.iter().any(Probe::needs_debug_info)
    }
}

/// What is always true filters nothing.
fn says_no(e: &Expr) -> bool {
    e.as_int().is_none_or(|v| v == 0)
}

const CONDITION: &str = "a condition is a number";

/// One place, and what is known there.
struct Here<'a> {
    info: &'a dyn DebugInfo,
    provider: Provider,
    captures: Vec<(String, Expr)>,
}

impl<'a> Here<'a> {
    fn new(info: &'a dyn DebugInfo, provider: Provider) -> Here<'a> {
        let captures = Vec::new();
        Here {
            info,
            provider,
            captures,
        }
    }

    fn bind(&self, e: &Expr) -> Result<Expr, Error> {
        e.bind_at(self.info, &self.captures, Some(self.provider))
    }

    fn number(&self, e: &Expr, what: &str) -> Result<Expr, Error> {
        let bound = self.bind(e)?;
        if bound.ty.is_scalar() {
            return Ok(bound);
        }
        let fault = e.error(format!("{what}, and this is {}", bound.ty.describe()));
        Err(match bound.ty == Type::Str && what == CONDITION {
            true => fault.help("compare it: name == \"King\""),
            false => fault,
        })
    }

    fn stats(&self, values: &[Stat]) -> Result<Vec<Stat>, Error> {
        let bound = values.iter().map(|stat| {
            Ok(Stat {
                value: self.number(&stat.value, "sums are of numbers")?,
                ..stat.clone()
            })
        });
        bound.collect()
    }

    fn condition(&self, e: Option<&Expr>) -> Result<Option<Expr>, Error> {
        let Some(e) = e else { return Ok(None) };
        self.number(e, CONDITION).map(Some)
    }

    fn keys(&self, by: &[(String, Expr)]) -> Result<Vec<(String, Expr)>, Error> {
        let mut keys = Vec::new();
        for (name, e) in by {
            let bound = self.bind(e)?;
            if bound.ty == Type::Bytes || matches!(bound.kind, Kind::Str(_)) {
                return Err(e.error(NO_KEY));
            }
            keys.push((name.clone(), bound));
        }
        Ok(keys)
    }
}
