//! What names mean where an expression stands.

use super::Expr;
use crate::model::{Context, Provider, Value};

/// What names mean where an expression stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scope {
    /// The probe is a call: `retval`, `latency`, `depth`, `self`, `parent` and `after()` are known.
    pub call: bool,
    /// Only parameters and constants: no probe at all (`when`).
    pub constant: bool,
    /// What provides the place that is probed.
    pub provider: Provider,
    /// What else does: of several places one is probed, and the expression must have a meaning at each.
    pub also: Vec<Provider>,
    /// On whose behalf the kernel runs there.
    pub context: Context,
    /// Captures that may be named.
    pub captures: Vec<(String, Expr)>,
    /// Values of parameters.
    pub params: Vec<(String, Value)>,
}

impl Scope {
    /// At the entry of a function.
    pub fn entry() -> Scope {
        Scope::default()
    }

    /// In a call, entry and return.
    pub fn call() -> Scope {
        Scope {
            call: true,
            ..Scope::default()
        }
    }

    /// At places that these provide.
    pub fn at(mut self, providers: impl IntoIterator<Item = Provider>) -> Scope {
        let mut providers = providers.into_iter();
        self.provider = providers.next().unwrap_or_default();
        self.also.clear();
        for provider in providers {
            if provider != self.provider && !self.also.contains(&provider) {
                self.also.push(provider);
            }
        }
        self
    }

    /// Where the kernel runs on somebody's behalf.
    pub fn in_context(self, context: Context) -> Scope {
        Scope { context, ..self }
    }

    /// With a capture.
    pub fn with_capture(mut self, name: impl Into<String>, e: Expr) -> Scope {
        self.captures.push((name.into(), e));
        self
    }

    /// With a parameter.
    pub fn with_param(mut self, name: impl Into<String>, value: Value) -> Scope {
        self.params.push((name.into(), value));
        self
    }
}
