//! A probe at one place of one binary: its deferred expressions bound to what debug information knows there.

use crate::debug::DebugInfo;
use crate::error::Error;
use crate::expr::{Expr, Kind, Type};
use crate::model::{Action, At, Probe, Recipe, Stat};

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
        let mut capture: Vec<(String, Expr)> = Vec::new();
        for (name, e) in &self.capture {
            let bound = e.bind_with(info, &capture)?;
            if matches!(bound.kind, Kind::Str(_)) {
                return Err(e.error("a constant text is not captured"));
            }
            capture.push((name.clone(), bound));
        }
        let where_ = condition(self.where_.as_ref(), info, &capture)?.filter(says_no);
        Ok(At {
            functions: self.functions.clone(),
            only_in: self.only_in.clone(),
            capture,
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
        let captures = &place.capture;
        let action = match &self.action {
            Action::Event => Action::Event,
            Action::Count { by } => Action::Count {
                by: keys(by, info, captures)?,
            },
            Action::Histogram {
                value,
                by,
                unit,
                scale,
            } => Action::Histogram {
                value: number(value, info, captures, "a histogram is of numbers")?,
                by: keys(by, info, captures)?,
                unit: unit.clone(),
                scale: *scale,
            },
            Action::Stats { values, by } => Action::Stats {
                values: stats(values, info, captures)?,
                by: keys(by, info, captures)?,
            },
        };
        Ok(Probe {
            where_: condition(self.where_.as_ref(), info, captures)?.filter(says_no),
            keep: condition(self.keep.as_ref(), info, captures)?,
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

fn number(
    e: &Expr,
    info: &dyn DebugInfo,
    captures: &[(String, Expr)],
    what: &str,
) -> Result<Expr, Error> {
    let bound = e.bind_with(info, captures)?;
    if bound.ty.is_scalar() {
        return Ok(bound);
    }
    Err(e.error(format!("{what}, and this is {}", bound.ty.describe())))
}

fn stats(
    values: &[Stat],
    info: &dyn DebugInfo,
    captures: &[(String, Expr)],
) -> Result<Vec<Stat>, Error> {
    let bound = values.iter().map(|stat| {
        Ok(Stat {
            value: number(&stat.value, info, captures, "sums are of numbers")?,
            ..stat.clone()
        })
    });
    bound.collect()
}

fn condition(
    e: Option<&Expr>,
    info: &dyn DebugInfo,
    captures: &[(String, Expr)],
) -> Result<Option<Expr>, Error> {
    let Some(e) = e else { return Ok(None) };
    let bound = number(e, info, captures, "a condition is a number").map_err(|f| match f.help {
        None if e.ty != Type::Function => f.help("compare it: name == \"King\""),
        _ => f,
    })?;
    Ok(Some(bound))
}

fn keys(
    by: &[(String, Expr)],
    info: &dyn DebugInfo,
    captures: &[(String, Expr)],
) -> Result<Vec<(String, Expr)>, Error> {
    let mut keys = Vec::new();
    for (name, e) in by {
        let bound = e.bind_with(info, captures)?;
        if bound.ty == Type::Bytes || matches!(bound.kind, Kind::Str(_)) {
            return Err(e.error("a key is a number, a text or a function"));
        }
        keys.push((name.clone(), bound));
    }
    Ok(keys)
}
