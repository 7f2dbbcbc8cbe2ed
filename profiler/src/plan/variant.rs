//! One place of one probe, as what the engine loads.

use anyhow::{Result, bail};
use uprof_ebpf::expr as b;
use uprof_ebpf::{Action, Expr as B, KeyPart, ProbeKind, ProbeSpec};
use uprof_recipes as recipes;
use uprof_recipes::{Builtin, Expr, Kind};

use super::lower::{self, Lowering};
use super::{Field, FieldSource, KeyField, KeyParts, Limits, Pairing, Variant};

/// The program of a probe's place; it has no sites yet.
pub(super) fn of_place(
    index: usize,
    probe: &recipes::Probe,
    at_index: usize,
    at: &recipes::At,
    pairing: Pairing,
    limits: &Limits,
) -> Result<Variant> {
    let call = probe.kind == recipes::ProbeKind::Call;
    let mut low = Lowering {
        call,
        text_limit: probe.text_limit,
        ..Lowering::default()
    };
    let inlined = |e: &Expr| e.with_captures(&at.capture);
    let mut fields = Vec::new();
    let mut key = Vec::new();
    let action = match &probe.action {
        recipes::Action::Event => {
            let captures = captures(&mut low, &at.capture, &mut fields);
            Action::Event { captures }
        }
        recipes::Action::Count { by } => Action::Count {
            key: keys(&mut low, at, by, limits, &mut key)?,
        },
        recipes::Action::Histogram { value, by, .. } if probe.breakdown => Action::Breakdown {
            value: low.scalar(&inlined(value)),
            key: keys(&mut low, at, by, limits, &mut key)?,
        },
        recipes::Action::Histogram {
            value, by, scale, ..
        } => Action::Histogram {
            value: low.scalar(&inlined(value)),
            key: keys(&mut low, at, by, limits, &mut key)?,
            scale: lower::scale(*scale),
        },
        recipes::Action::Stats { values, by } => Action::Stats {
            values: values
                .iter()
                .map(|s| low.scalar(&inlined(&s.value)))
                .collect(),
            key: keys(&mut low, at, by, limits, &mut key)?,
        },
    };
    let wheres: Vec<Expr> = [&at.where_, &probe.where_]
        .into_iter()
        .flatten()
        .map(inlined)
        .collect();
    let keep = probe.keep.as_ref().map(inlined);
    // On anybody's thread a filter by thread means nothing; a join asks those of its probes that run on the right one.
    let nobody = Limits::default();
    let limits = match probe.context {
        recipes::Context::Thread => limits,
        recipes::Context::Any | recipes::Context::Either => &nobody,
    };
    let (early, late, keep) = filters(&mut low, &wheres, keep.as_ref(), limits);
    let exprs = expressions(probe, at);
    let mut args: Vec<u8> = exprs
        .iter()
        .flat_map(|e| lower::args_of(&inlined(e)))
        .collect();
    args.sort_unstable();
    args.dedup();
    let kind = if call {
        ProbeKind::Call {
            saved: low.saved,
            filter: late,
            returns: pairing.returns,
            frame: pairing.frame,
        }
    } else {
        ProbeKind::Entry
    };
    Ok(Variant {
        id: 0,
        probe: index,
        at: at_index,
        bound: None,
        spec: ProbeSpec {
            on: uprof_ebpf::On::Program,
            sample: probe.sample,
            name: probe.name.clone(),
            sites: 1,
            kind,
            filter: early,
            keep,
            action,
        },
        fields,
        key,
        args,
        functions: Vec::new(),
        sites: Vec::new(),
        kernel: Vec::new(),
        pairing,
    })
}

fn expressions<'a>(probe: &'a recipes::Probe, at: &'a recipes::At) -> Vec<&'a Expr> {
    let mut all: Vec<&Expr> = [&at.where_, &probe.where_, &probe.keep]
        .into_iter()
        .flatten()
        .collect();
    match &probe.action {
        recipes::Action::Event => all.extend(at.capture.iter().map(|(_, e)| e)),
        action => {
            all.extend(action.values());
            all.extend(action.by().iter().map(|(_, e)| e));
        }
    }
    all
}

fn captures(
    low: &mut Lowering,
    captures: &[(String, Expr)],
    fields: &mut Vec<Field>,
) -> Vec<uprof_ebpf::Capture> {
    let mut lowered = Vec::new();
    // Those that only others are made of take no room in records.
    let shown = |name: &str| !name.starts_with('_');
    for (at, (name, e)) in captures
        .iter()
        .enumerate()
        .filter(|(_, (name, _))| shown(name))
    {
        // One may name those before it.
        let e = &e.with_captures(&captures[..at]);
        let from = if e.kind == Kind::Builtin(Builtin::Comm) {
            FieldSource::Comm
        } else if let Some((bytes, port)) = low.address(e) {
            let at = lowered.len();
            let port_at = port.as_ref().map(|_| at + 1);
            lowered.push(bytes);
            lowered.extend(port);
            FieldSource::Address {
                bytes: at,
                port: port_at,
            }
        } else {
            lowered.push(low.capture(e));
            let index = lowered.len() - 1;
            match e.kind {
                Kind::Stack { user } => FieldSource::Stack { index, user },
                Kind::Spent(_) => FieldSource::Spent(index),
                _ => FieldSource::Capture(index),
            }
        };
        fields.push(Field {
            name: name.as_str().into(),
            ty: e.ty.clone(),
            from,
        });
    }
    lowered
}

fn keys(
    low: &mut Lowering,
    at: &recipes::At,
    by: &[(String, Expr)],
    limits: &Limits,
    key: &mut Vec<KeyField>,
) -> Result<Vec<KeyPart>> {
    let mut parts = Vec::new();
    for (name, e) in by {
        let constant = limits
            .only_pid
            .filter(|_| e.kind == Kind::Builtin(Builtin::Pid))
            .map(u64::from);
        if constant.is_none() {
            let Some(own) = low.key(&e.with_captures(&at.capture)) else {
                bail!("--by {e}: a key is a number or a text");
            };
            parts.extend(own);
        }
        key.push(KeyField {
            name: name.clone(),
            ty: e.ty.clone(),
            constant,
            parts: match &e.with_captures(&at.capture).kind {
                Kind::Address { port, .. } => KeyParts::Address {
                    port: port.is_some(),
                },
                Kind::Stack { user } => KeyParts::Stack { user: *user },
                _ => KeyParts::One,
            },
        });
    }
    Ok(parts)
}

/// The filters at entry and at return, and what is kept for joins of the filtered.
fn filters(
    low: &mut Lowering,
    wheres: &[Expr],
    keep: Option<&Expr>,
    limits: &Limits,
) -> (Option<B>, Option<B>, Option<B>) {
    let equals = |what, value| B::Binary {
        op: b::BinOp::Eq,
        signed: false,
        a: Box::new(B::Builtin(what)),
        b: Box::new(B::Const(value)),
    };
    let mut early = limits
        .uid
        .map(|uid| equals(b::Builtin::Uid, u64::from(uid)));
    if let Some(cgroup) = limits.cgroup {
        early = Some(lower::and(early, equals(b::Builtin::Cgroup, cgroup)));
    }
    if let Some(comm) = &limits.comm {
        let kept = comm.len().min(uprof_symbols::process::COMM_LEN);
        let named = B::BytesEq {
            what: b::BytesSource::Comm,
            literal: comm.as_bytes()[..kept].to_vec(),
        };
        early = Some(lower::and(early, named));
    }
    let mut late = None;
    for e in wheres {
        if low.call && keep.is_some() {
            // What is kept is decided where the record is sent: a hit turned down at entry would never get there.
            let all = low.scalar(e);
            late = Some(lower::and(late, all));
        } else if low.call {
            let (first, then) = low.split_filter(e);
            early = first.map(|f| lower::and(early.take(), f)).or(early);
            late = then.map(|t| lower::and(late.take(), t)).or(late);
        } else {
            early = Some(lower::and(early.take(), low.entry(e)));
        }
    }
    let keep = keep.map(|e| low.scalar(e));
    (early, late, keep)
}
