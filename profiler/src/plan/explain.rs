//! The plan for people: `--explain`.

use std::collections::HashSet;
use std::fmt::Write;

use uprof_ebpf::ProbeKind;
use uprof_recipes::{self as recipes, Action};
use uprof_symbols::site::Cost;

use super::returns::explained;
use super::{Attachment, Plan, Variant, shown_name};
use crate::cli::MechanismChoice;

/// How many sites of one probe are listed.
const LISTED: usize = 20;

impl Plan {
    /// What would be probed where, what is captured, by which mechanism, and what a hit costs.
    pub fn explain(&self, attachments: &[Attachment], mechanism: MechanismChoice) -> String {
        let mut text = String::new();
        let name = &self.recipe.name;
        let _ = writeln!(
            text,
            "recipe {name}{}",
            match self.recipe.about.as_str() {
                "" => String::new(),
                about => format!(": {about}"),
            }
        );
        for v in &self.variants {
            self.explain_variant(&mut text, v, attachments);
        }
        let how = match mechanism {
            MechanismChoice::Auto => {
                "the best that the kernel takes, tried in order: session, uprobe_multi, perf event"
            }
            MechanismChoice::Session => "session",
            MechanismChoice::Multi => "uprobe_multi",
            MechanismChoice::Perf => "one perf event for each site",
        };
        if self.variants.iter().any(|v| !v.in_kernel()) {
            let _ = writeln!(text, "\nmechanism: {how}");
        }
        for note in self.recipe.notes.iter().chain(&self.notes) {
            let _ = writeln!(text, "note: {note}");
        }
        let _ = writeln!(text, "nothing was attached (--explain)");
        text
    }

    fn explain_variant(&self, text: &mut String, v: &Variant, attachments: &[Attachment]) {
        let probe = self.probe(v);
        let kind = match v.spec.kind {
            ProbeKind::Entry => "entry",
            ProbeKind::Call { .. } => "entry and return",
        };
        let _ = writeln!(text, "\nprobe {} ({kind})", probe.name);
        // As the recipe has them: bound to a place, sock() alone fills a screen.
        let written = &self.recipe.probes[v.probe];
        let place = &written.at[v.at];
        for ((name, e), (_, bound)) in place.capture.iter().zip(&self.place_of(v).capture) {
            let _ = writeln!(text, "  capture  {name} = {e}   ({})", type_name(&bound.ty));
        }
        for (what, e) in [
            ("where", &place.where_),
            ("where", &written.where_),
            ("keep", &written.keep),
        ] {
            if let Some(e) = e {
                let _ = writeln!(text, "  {what:8} {e}");
            }
        }
        let by = |by: &[(String, recipes::Expr)]| {
            by.iter()
                .map(|(n, e)| format!("{n} = {e}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let _ = match &probe.action {
            _ if probe.sample > 1 => writeln!(text, "  sample   1 hit in {}", probe.sample),
            _ => Ok(()),
        };
        let _ = match &probe.action {
            Action::Event => writeln!(text, "  then     send an event"),
            Action::Count { by: keys } if keys.is_empty() => {
                writeln!(text, "  then     count in the kernel")
            }
            Action::Count { by: keys } => {
                writeln!(text, "  then     count in the kernel by {}", by(keys))
            }
            Action::Stats { values, by: keys } => {
                let names: Vec<String> = values.iter().map(|s| s.value.to_string()).collect();
                let keys = if keys.is_empty() {
                    String::new()
                } else {
                    format!(", by {}", by(keys))
                };
                writeln!(
                    text,
                    "  then     sums in the kernel of {}{keys}",
                    names.join(", ")
                )
            }
            Action::Histogram {
                value,
                by: keys,
                unit,
                ..
            } => {
                let keys = if keys.is_empty() {
                    String::new()
                } else {
                    format!(", by {}", by(keys))
                };
                writeln!(
                    text,
                    "  then     histogram in the kernel of {value} ({unit}){keys}"
                )
            }
        };
        if probe.breakdown {
            let _ = writeln!(
                text,
                "  and      where the time goes, by the scheduler's events"
            );
        }
        if v.in_kernel() {
            for name in &v.functions {
                let _ = writeln!(text, "  at       {name}  by {}", v.mechanism());
            }
            return;
        }
        if !v.sites.is_empty() && matches!(v.spec.kind, ProbeKind::Call { .. }) {
            let _ = writeln!(text, "  returns  {}", explained(v));
        }
        if v.sites.is_empty() {
            let wanted: Vec<&str> = self
                .place_of(v)
                .functions
                .iter()
                .map(|f| f.value.as_str())
                .collect();
            let _ = writeln!(
                text,
                "  sites    none yet: {} is looked for when a process starts",
                wanted.join(", ")
            );
        }
        for s in v.sites.iter().take(LISTED) {
            let moved = if s.site.moved > 0 {
                format!("+{:#x}", s.site.moved)
            } else {
                String::new()
            };
            let _ = writeln!(
                text,
                "  site     {}:{}{moved}  offset {:#x}  `{}`  {}",
                s.display.display(),
                shown_name(&v.functions[s.function as usize]),
                s.site.offset,
                s.site.instruction(),
                cost(s.site.cost)
            );
        }
        if v.sites.len() > LISTED {
            let stepped = v
                .sites
                .iter()
                .filter(|s| s.site.cost == Cost::SingleStepped)
                .count();
            let _ = writeln!(
                text,
                "  ... and {} more sites; {stepped} of all are single-stepped",
                v.sites.len() - LISTED
            );
        }
        let pids: HashSet<Option<u32>> = attachments
            .iter()
            .filter(|a| a.variant == v.id)
            .flat_map(|a| match &a.pids {
                None => vec![None],
                Some(pids) => pids.iter().copied().map(Some).collect(),
            })
            .collect();
        if !pids.is_empty() {
            let mut shown: Vec<String> = pids
                .iter()
                .map(|p| p.map_or("every process that runs the file".into(), |p| p.to_string()))
                .collect();
            shown.sort();
            let _ = writeln!(text, "  process  {}", shown.join(", "));
        }
    }
}

fn cost(cost: Cost) -> &'static str {
    match cost {
        Cost::Nop5 => "cheap (5-byte nop, which new kernels turn into a call)",
        Cost::Emulated => "cheap (emulated by the kernel)",
        Cost::SingleStepped => "dear (single-stepped: up to ten times the cost of an emulated one)",
    }
}

fn type_name(ty: &recipes::Type) -> String {
    match ty {
        recipes::Type::Int { bits, signed } => format!("{}{bits}", if *signed { "i" } else { "u" }),
        recipes::Type::Ptr { .. } => "pointer".into(),
        recipes::Type::Enum(e) => e.name.clone(),
        recipes::Type::Named(named) => named.name.clone(),
        recipes::Type::Deferred => "by debug information".into(),
        recipes::Type::Void => "void".into(),
        recipes::Type::Str => "text".into(),
        recipes::Type::Bytes => "bytes".into(),
        recipes::Type::Function => "function".into(),
        recipes::Type::Stack => "stack".into(),
        recipes::Type::Address => "address".into(),
    }
}
