//! Memory that is read once for all that ask for it.
//!
//! A read costs some 30 ns, which for a probe that looks into several structures is most of its program. So a load that
//! is written in several places (in the filter, in what is captured, on both sides of a condition) is made where it
//! comes first, and stays on the stack for those that cannot be reached without it; and members of one structure that
//! a filter needs in any case are read together.

use super::compile::{Emitter, Reason, check_type};
use super::{BinOp, BytesSource, Expr, IntType};
use crate::asm::{Cmp, Label, Reg, Size};

use Reg::{R0, R2, R3, R10};

/// The most loads that are kept.
const MAX_SHARED: usize = 8;
/// The most bytes that are read together.
const MAX_BLOCK: i64 = 64;

/// What has been read.
#[derive(Default)]
pub(super) struct Shared {
    /// Loads that are written more than once.
    loads: Vec<Expr>,
    /// Stack slot of the first one; the others lie above it.
    slot: i16,
    /// Those of them that have been made.
    known: Vec<usize>,
    /// Loads of members that were read together, and where on the stack they are.
    members: Vec<(Expr, i16)>,
}

/// How many loads were made where control now is.
#[derive(Clone, Copy)]
pub(crate) struct Scope(usize);

/// The parts of a conjunction, in order.
pub(crate) fn conjuncts(expr: &Expr) -> Vec<&Expr> {
    match expr {
        Expr::Binary {
            op: BinOp::LogAnd,
            a,
            b,
            ..
        } => [conjuncts(a), conjuncts(b)].concat(),
        _ => vec![expr],
    }
}

/// The operands that are evaluated in any case, and those that may be left out.
fn operands(expr: &Expr) -> (Vec<&Expr>, Vec<&Expr>) {
    match expr {
        Expr::Load { addr: e, .. }
        | Expr::Unary(_, e)
        | Expr::Cast { e, .. }
        | Expr::Swap { e, .. } => (vec![e], vec![]),
        Expr::Binary {
            op: BinOp::LogAnd | BinOp::LogOr,
            a,
            b,
            ..
        } => (vec![a], vec![b]),
        Expr::Binary { a, b, .. } => (vec![a, b], vec![]),
        Expr::Cond(c, a, b) => (vec![c], vec![a, b]),
        Expr::BytesEq {
            what: BytesSource::Str { addr },
            ..
        } => (vec![addr], vec![]),
        _ => (vec![], vec![]),
    }
}

/// Counts how often each load is written; what is in one that is there already is not looked at again.
fn count(expr: &Expr, loads: &mut Vec<(Expr, usize)>) {
    if let Expr::Load { .. } = expr {
        if let Some((_, times)) = loads.iter_mut().find(|(load, _)| load == expr) {
            *times += 1;
            return;
        }
        loads.push((expr.clone(), 1));
    }
    let (always, perhaps) = operands(expr);
    always
        .into_iter()
        .chain(perhaps)
        .for_each(|e| count(e, loads));
}

/// The members of structures that `expr` reads in any case: base, offset, type, load.
fn members<'e>(expr: &'e Expr, found: &mut Vec<(&'e Expr, i64, IntType, &'e Expr)>) {
    if let Expr::Load { addr, ty } = expr {
        let place = match &**addr {
            Expr::Binary {
                op: BinOp::Add,
                a,
                b,
                ..
            } => match &**b {
                Expr::Const(offset) => Some((&**a, *offset as i64)),
                _ => None,
            },
            other => Some((other, 0)),
        };
        let known = found.iter().any(|(.., load)| *load == expr);
        if let Some((base @ (Expr::Arg(_) | Expr::Reg(_)), offset)) = place
            && !known
            && check_type(*ty).is_ok()
            && (0..1 << 20).contains(&offset)
            && offset % ty.bytes() as i64 == 0
        {
            found.push((base, offset, *ty, expr));
        }
    }
    operands(expr).0.into_iter().for_each(|e| members(e, found));
}

impl Emitter<'_> {
    /// Says what the program will evaluate: loads that come more than once are shared.
    pub fn share<'e>(&mut self, exprs: impl IntoIterator<Item = &'e Expr>) -> Result<(), Reason> {
        let mut loads = Vec::new();
        exprs.into_iter().for_each(|e| count(e, &mut loads));
        loads.retain(|(_, times)| *times > 1);
        loads.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
        loads.truncate(MAX_SHARED);
        if !loads.is_empty() {
            self.shared.slot = self.take(8 * loads.len() as i16)?;
        }
        self.shared.loads = loads.into_iter().map(|(load, _)| load).collect();
        Ok(())
    }

    /// Reads members of one structure together which `parts`, that all have to be true, need in any case. Where they
    /// cannot be read it goes to `fault`, as it would later.
    pub fn read_members(&mut self, parts: &[&Expr], fault: Label) -> Result<(), Reason> {
        let mut found = Vec::new();
        parts.iter().for_each(|e| members(e, &mut found));
        let Some((base, from, ..)) = found.iter().min_by_key(|(_, at, ..)| *at).copied() else {
            return Ok(());
        };
        let from = from & !7;
        found.retain(|(of, at, ty, _)| *of == base && at + ty.bytes() as i64 <= from + MAX_BLOCK);
        let end = found
            .iter()
            .map(|(_, at, ty, _)| at + ty.bytes() as i64)
            .max();
        let (Some(end), true) = (end, found.len() > 1) else {
            return Ok(());
        };
        let bytes = (end - from) as u64;
        let slot = self.take(bytes.next_multiple_of(8) as i16)?;
        let space = self.space(base);
        self.expr(
            &Expr::binary(BinOp::Add, base.clone(), Expr::Const(from as u64)),
            fault,
        )?;
        self.asm.mov(R3, R0);
        self.asm.constant(R2, bytes);
        self.stack(Reg::R1, slot);
        self.read_memory(space);
        self.asm.jump_if_imm(Cmp::Ne, R0, 0, fault);
        let at = |offset: i64| slot + (offset - from) as i16;
        let known = found
            .iter()
            .map(|(_, offset, _, load)| ((*load).clone(), at(*offset)));
        self.shared.members = known.collect();
        Ok(())
    }

    /// Where a load is that has been made.
    pub(super) fn made(&self, load: &Expr) -> Option<(Reg, i16, IntType)> {
        let Expr::Load { ty, .. } = load else {
            return None;
        };
        let Shared {
            members,
            loads,
            known,
            slot,
        } = &self.shared;
        if let Some((_, at)) = members.iter().find(|(member, _)| member == load) {
            return Some((R10, *at, *ty));
        }
        let known = known.iter().find(|i| loads[**i] == *load);
        known.map(|i| (R10, slot + 8 * *i as i16, IntType::U64))
    }

    /// `load` was just made, R0 is its value: keeps it if it is shared.
    pub(super) fn keep(&mut self, load: &Expr) {
        let Some(index) = self.shared.loads.iter().position(|shared| shared == load) else {
            return;
        };
        let slot = self.shared.slot + 8 * index as i16;
        self.asm.store(Size::DW, R10, slot, R0);
        self.shared.known.push(index);
    }

    /// Begins what may be left out, or left in the middle.
    pub fn scope(&self) -> Scope {
        Scope(self.shared.known.len())
    }

    /// What was read since then may not have been.
    pub fn end_scope(&mut self, Scope(known): Scope) {
        self.shared.known.truncate(known);
    }

    /// Nothing has been read.
    pub fn forget_reads(&mut self) {
        self.shared.known.clear();
        self.shared.members.clear();
    }
}
