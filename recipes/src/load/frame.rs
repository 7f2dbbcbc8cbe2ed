//! `[frame]`

use toml::de::DeTable;

use super::places::functions;
use super::reader::{Reader, Val};
use crate::expr::{Expr, Kind, Scope};
use crate::model::{FrameKey, Param, Provider};

pub(super) fn read(r: &Reader, top: &DeTable<'_>, params: &[Param]) -> Option<FrameKey> {
    let (key, value) = top.get_key_value("frame")?;
    let t = r.table(value, "frame")?;
    r.known(t, "[frame]", &["function", "running", "about"]);
    if top.get("call").is_none() {
        r.report(
            r.error(
                key.span(),
                "[frame] without [[call]]: only calls have frames",
            )
            .help("add [[call]], or leave [frame] out"),
        );
    }
    let needed = |name: &str, help: &str| {
        let found = t.get(name);
        if found.is_none() {
            let fault = r.error(value.span(), format!("[frame] lacks `{name}`"));
            r.report(fault.help(help));
        }
        found
    };
    let functions = needed(
        "function",
        "the function that runs a coroutine until it yields",
    )
    .map(|v| functions(r, v));
    for f in functions.iter().flatten() {
        if Provider::of(&f.value).0.is_kernel() {
            let fault = r.error(f.span.clone(), "[frame] of a place in the kernel");
            r.report(fault.help("coroutines are run by a function of the program"));
        }
    }
    let running = needed("running", "which coroutine it runs: running = \"arg0\"")
        .and_then(|v| running(r, v, params));
    let about = t.get("about").and_then(|v| r.string(v, "about", "a text"));
    Some(FrameKey {
        functions: functions?,
        running: running?,
        about: about.map(str::to_owned),
    })
}

/// An integer or pointer, made of arguments and constants.
fn running(r: &Reader, value: &Val<'_>, params: &[Param]) -> Option<Expr> {
    // As in a call, so that each word is known, and refused for what it is.
    let scope = Scope {
        call: true,
        params: params
            .iter()
            .map(|p| (p.name.clone(), p.for_check()))
            .collect(),
        ..Scope::default()
    };
    let e = r.expression(value, "running", &scope)?;
    let fault = |e: &Expr, what: String| {
        r.report(
            r.error(e.span.clone(), what)
                .help("running = \"arg0\": the argument that tells coroutines apart"),
        );
    };
    if let Some(other) = other_than_arguments(&e) {
        let what = format!("`running` is made of arguments alone, and `{other}` is none");
        fault(other, what);
        return None;
    }
    if !e.any(&|e| matches!(e.kind, Kind::Arg(_))) {
        fault(&e, format!("`{e}` is the same for every coroutine"));
        return None;
    }
    Some(e)
}

/// The first thing in it that is neither argument nor constant nor computed from them.
fn other_than_arguments(e: &Expr) -> Option<&Expr> {
    match &e.kind {
        Kind::Int(_) | Kind::Arg(_) => None,
        Kind::Unary { .. } | Kind::Binary { .. } | Kind::Cond { .. } | Kind::Cast(_) => {
            e.children().into_iter().find_map(other_than_arguments)
        }
        _ => Some(e),
    }
}
