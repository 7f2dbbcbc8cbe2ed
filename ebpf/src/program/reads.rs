//! What a program reads at a hit: its filter, and the loads that the filter shares with what is read after it.

use super::{Program, Wrong, part_of};
use crate::asm::{Cmp, Label};
use crate::expr::Expr;
use crate::expr::share::conjuncts;
use crate::layout::Counter;
use crate::spec::{Action, Capture, KeyPart, ProbeKind, ProbeSpec};

use crate::asm::Reg::R0;

impl Program<'_> {
    /// Shares the loads of the filter and of what is read after it at an entry.
    pub(super) fn share(&mut self) -> Result<(), Wrong> {
        if !self.shares {
            return Ok(());
        }
        let spec = self.spec;
        part_of("the program", self.emit.share(at_entry(spec)))
    }

    /// Goes on if `filter` says yes, else to `reject`.
    pub(super) fn filter(
        &mut self,
        what: &str,
        filter: &Option<Expr>,
        reject: Label,
    ) -> Result<(), Wrong> {
        let Some(filter) = filter else {
            return Ok(());
        };
        let (fault, pass) = (self.emit.asm.label(), self.emit.asm.label());
        let parts = conjuncts(filter);
        if self.shares {
            part_of(what, self.emit.read_members(&parts, fault))?;
        }
        for part in parts {
            let holds = self.emit.asm.label();
            part_of(what, self.emit.expr(part, fault))?;
            self.emit.asm.jump_if_imm(Cmp::Ne, R0, 0, holds);
            self.emit.asm.jump(reject);
            self.emit.asm.bind(holds);
        }
        self.emit.asm.jump(pass);
        self.emit.asm.bind(fault);
        if filter.can_fault() {
            self.count(Counter::Unreadable);
            self.emit.asm.jump(reject);
        }
        self.emit.asm.bind(pass);
        Ok(())
    }
}

fn at_entry(spec: &ProbeSpec) -> Vec<&Expr> {
    let mut exprs: Vec<&Expr> = spec.filter.iter().collect();
    match (&spec.kind, &spec.action) {
        (ProbeKind::Call { saved, .. }, _) => exprs.extend(saved.iter().flat_map(of_capture)),
        (_, Action::Event { captures }) => exprs.extend(captures.iter().flat_map(of_capture)),
        (_, Action::Count { key }) => exprs.extend(key.iter().flat_map(of_key)),
        (_, Action::Histogram { value, key, .. } | Action::Breakdown { value, key }) => {
            exprs.push(value);
            exprs.extend(key.iter().flat_map(of_key));
        }
        (_, Action::Stats { values, key }) => {
            exprs.extend(values);
            exprs.extend(key.iter().flat_map(of_key));
        }
        (_, Action::Running { value }) => exprs.push(value),
    }
    exprs
}

fn of_capture(capture: &Capture) -> Vec<&Expr> {
    match capture {
        Capture::Int(e) => vec![e],
        Capture::Str { addr, len, .. } => std::iter::once(addr).chain(len).collect(),
        Capture::Buf { addr, len, .. } => vec![addr, len],
        Capture::Saved(_) | Capture::Stack { .. } => vec![],
    }
}

fn of_key(part: &KeyPart) -> Vec<&Expr> {
    match part {
        KeyPart::Int(e) => vec![e],
        KeyPart::Str { addr, len, .. } => std::iter::once(addr).chain(len).collect(),
        KeyPart::Buf { addr, len, .. } => vec![addr, len],
        KeyPart::Comm | KeyPart::Stack { .. } => vec![],
    }
}
