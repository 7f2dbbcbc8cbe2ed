//! Expressions kept until debug information is there, and bound to it then.

use std::sync::Arc;

use super::check::{is_of_return, is_own_record};
use super::parse::{Node, Syntax, parse};
use super::{Expr, Kind, Scope, TextMap, check, place};
use crate::debug::DebugInfo;
use crate::error::{Error, Source};
use crate::model::Provider;

/// An expression with names in it that only debug information can know: its text and what is known without.
#[derive(Clone, Debug, PartialEq)]
pub struct Deferred {
    source: Arc<Source>,
    text: String,
    map: TextMap,
    scope: Scope,
    needs_return: bool,
}

impl Deferred {
    pub(super) fn new(
        source: &Arc<Source>,
        text: &str,
        map: &TextMap,
        scope: &Scope,
        tree: &Node,
    ) -> Deferred {
        Deferred {
            source: source.clone(),
            text: text.to_owned(),
            map: map.clone(),
            scope: scope.clone(),
            needs_return: returns(tree, scope),
        }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn needs_return(&self) -> bool {
        self.needs_return
    }

    /// Checks it again, with the names that `info` knows and the captures as they are bound.
    fn bind(
        &self,
        info: &dyn DebugInfo,
        captures: &[(String, Expr)],
        provider: Option<Provider>,
    ) -> Result<Expr, Error> {
        let scope = Scope {
            captures: captures.to_vec(),
            ..self.scope.clone()
        };
        let scope = scope.at([provider.unwrap_or(self.scope.provider)]);
        let bound = parse(&self.text)
            .and_then(|tree| check::check(&tree, &self.text, &scope, Some(info)))
            .map_err(|f| f.at(&self.source, &self.map))?;
        let mut bound = bound;
        place(&mut bound, &self.map);
        Ok(bound)
    }
}

/// Whether it has something in it that is known at the return alone.
fn returns(tree: &Node, scope: &Scope) -> bool {
    let own = match &tree.kind {
        Syntax::Name(name) => {
            let capture = scope.captures.iter().find(|(n, _)| n == name);
            match capture {
                Some((_, e)) => e.needs_return(),
                None => is_of_return(name),
            }
        }
        Syntax::Call { name, .. } => name == "after",
        Syntax::Member { of, .. } if is_own_record(of, scope) => return false,
        _ => false,
    };
    own || tree.children().iter().any(|n| returns(n, scope))
}

impl Expr {
    /// Whether it has names in it that only debug information can know: it needs [`Expr::bind`].
    pub fn is_deferred(&self) -> bool {
        matches!(self.kind, Kind::Deferred(_))
    }

    /// The expression with everything known: what was deferred is checked again with the types of `info`, and
    /// arguments are those of the place ([`DebugInfo::argument`]). The result is made of the ordinary kinds.
    ///
    /// # Errors
    /// A name that nothing knows, a variable that cannot be read here, an operation that its types do not allow:
    /// with the place in the recipe or flag.
    pub fn bind(&self, info: &dyn DebugInfo) -> Result<Expr, Error> {
        let mut captures: Vec<(String, Expr)> = Vec::new();
        if let Kind::Deferred(deferred) = &self.kind {
            for (name, e) in &deferred.scope.captures {
                let bound = e.bind_with(info, &captures)?;
                captures.push((name.clone(), bound));
            }
        }
        self.bind_with(info, &captures)
    }

    /// The same, with the captures that it may name as they are bound.
    ///
    /// # Errors
    /// As [`Expr::bind`].
    pub fn bind_with(
        &self,
        info: &dyn DebugInfo,
        captures: &[(String, Expr)],
    ) -> Result<Expr, Error> {
        self.bind_at(info, captures, None)
    }

    /// The same at a place of this provider; `None`: of the one that it was read for.
    pub(crate) fn bind_at(
        &self,
        info: &dyn DebugInfo,
        captures: &[(String, Expr)],
        provider: Option<Provider>,
    ) -> Result<Expr, Error> {
        match &self.kind {
            Kind::Deferred(deferred) => deferred.bind(info, captures, provider),
            _ => rebind_args(self, &|n| info.argument(n)).map_err(|why| self.error(why)),
        }
    }

    /// An error about the whole expression, in its source where that is known.
    pub(crate) fn error(&self, message: impl Into<String>) -> Error {
        match &self.kind {
            Kind::Deferred(deferred) => {
                Error::new(&deferred.source, self.span.clone(), message.into())
            }
            _ => {
                let text = self.to_string();
                let span = 0..text.len();
                let source = Arc::new(Source::new("the expression", text));
                Error::new(&source, span, message.into())
            }
        }
    }
}

/// The expression with each `argN` replaced by what `argument` says it is, as a 64-bit word.
///
/// # Errors
/// What `argument` says, after "argN is ".
pub fn rebind_args(
    e: &Expr,
    argument: &dyn Fn(u8) -> Result<Expr, String>,
) -> Result<Expr, String> {
    let mut e = e.clone();
    rebind(&mut e, argument)?;
    Ok(e)
}

fn rebind(e: &mut Expr, argument: &dyn Fn(u8) -> Result<Expr, String>) -> Result<(), String> {
    if let Kind::Arg(n) = e.kind {
        let own = argument(n).map_err(|why| format!("`arg{n}` is {why}"))?;
        e.kind = match own.ty == e.ty {
            true => own.kind,
            false => Kind::Cast(Box::new(own)),
        };
        return Ok(());
    }
    e.children_mut()
        .into_iter()
        .try_for_each(|child| rebind(child, argument))
}
