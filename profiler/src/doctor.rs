//! `uprof doctor`: what this kernel and this user can do, by trying.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;
use uprof_ebpf::features::Feature;

use crate::cli::{DoctorArgs, Format};

/// The capabilities that probing needs, by number (linux/capability.h) and purpose.
const NEEDED: [(u8, &str, &str); 3] = [
    (39, "CAP_BPF", "to load programs"),
    (38, "CAP_PERFMON", "to attach them to other processes"),
    (19, "CAP_SYS_PTRACE", "to look into other users' processes"),
];
/// Stands for the first two on every kernel.
const CAP_SYS_ADMIN: u8 = 21;

/// Fails with the names of the capabilities that are missing.
pub fn check_privileges() -> Result<()> {
    let status = procfs::process::Process::myself()
        .and_then(|p| p.status())
        .context("cannot read /proc/self/status")?;
    let has = |cap: u8| status.capeff & (1 << cap) != 0;
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(cap, _, _)| !has(*cap) && (*cap < CAP_SYS_ADMIN || !has(CAP_SYS_ADMIN)))
        .map(|(_, name, why)| format!("{name} ({why})"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "not permitted: this needs {}, which user {} lacks\nRun it as root: sudo uprof ...",
        missing.join(", "),
        status.euid
    )
}

/// What can be said of a recipe without running it.
struct Verdict {
    name: &'static str,
    /// What it works by; or why it does not, or not yet.
    works: Result<String, String>,
    /// What to do about it.
    advice: String,
}

/// Runs all trials and prints what they found.
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let mut features = uprof_ebpf::features::probe();
    features.push(Feature {
        name: "formats of tracepoints".to_owned(),
        works: uprof_symbols::kernel::tracepoint("sched", "sched_switch")
            .map(drop)
            .map_err(|e| e.to_string()),
        advice: "tracepoints and system calls cannot be probed: they are described in tracefs, which needs root".to_owned(),
    });
    let verdicts: Vec<Verdict> = uprof_recipes::builtin().iter().map(verdict).collect();
    let mut text = String::new();
    if args.format == Format::Json {
        for f in &features {
            let reason = f.works.as_ref().err();
            let _ = writeln!(
                text,
                "{}",
                json!({"type": "feature", "name": f.name, "works": f.works.is_ok(), "reason": reason, "advice": f.advice})
            );
        }
        for v in &verdicts {
            let _ = writeln!(
                text,
                "{}",
                json!({"type": "recipe", "name": v.name, "works": v.works.is_ok(), "by": v.works.as_ref().ok(),
                    "reason": v.works.as_ref().err(), "advice": v.advice})
            );
        }
        crate::report::say(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let _ = writeln!(
        text,
        "kernel {}, {}",
        release.trim(),
        std::env::consts::ARCH
    );
    let width = features.iter().map(|f| f.name.len()).max().unwrap_or(0);
    for f in &features {
        line(
            &mut text,
            &f.name,
            width,
            &f.works.clone().map(|()| String::new()),
            &f.advice,
        );
    }
    match check_privileges() {
        Ok(()) => text += "this user may probe every process\n",
        Err(e) => text += &format!("{e}\n"),
    }
    text += "\nrecipes\n";
    let width = verdicts.iter().map(|v| v.name.len()).max().unwrap_or(0);
    for v in &verdicts {
        line(&mut text, v.name, width, &v.works, &v.advice);
    }
    crate::report::say(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn line(out: &mut String, name: &str, width: usize, works: &Result<String, String>, advice: &str) {
    let text = match works {
        Ok(by) => format!("  yes  {name:width$}  {by}"),
        Err(reason) => format!("  no   {name:width$}  {}", reason.replace('\n', " ")),
    };
    let _ = writeln!(out, "{}", text.trim_end());
    if works.is_err() && !advice.is_empty() {
        let _ = writeln!(out, "       {:width$}  -> {advice}", "");
    }
}

/// Tries what a recipe needs of the kernel, and looks for the programs that it is about.
fn verdict(builtin: &uprof_recipes::BuiltinRecipe) -> Verdict {
    let done = |works, advice: String| Verdict {
        name: builtin.name,
        works,
        advice,
    };
    let recipe = match crate::recipe::builtin(builtin) {
        Ok(recipe) => recipe,
        Err(e) => return done(Err(e.to_string()), String::new()),
    };
    let mut by: Vec<String> = Vec::new();
    for probe in recipe.probes.iter().filter(|p| crate::plan::is_kernel(p)) {
        match crate::plan::trial(probe) {
            Ok(place) if !by.contains(&place) => by.push(place),
            Ok(_) => {}
            Err(_) if probe.optional => {}
            Err(why) => {
                let advice = "the lines above tell what this kernel has".to_owned();
                return done(Err(format!("{}: {why}", probe.name)), advice);
            }
        }
    }
    if recipe.probes.iter().all(crate::plan::is_kernel) {
        return done(Ok(format!("by {}", by.join(", "))), String::new());
    }
    let wanted = &recipe.target.program;
    if wanted.is_empty() {
        return done(Ok("in the process that you name".to_owned()), String::new());
    }
    let running: Vec<u32> = wanted
        .iter()
        .flat_map(|name| uprof_symbols::process::running_program(name))
        .map(|p| p.pid)
        .collect();
    match running.as_slice() {
        [] => done(
            Err(format!("no {} runs here", wanted.join(" or "))),
            format!(
                "start it, or name it: uprof recipe {} --pid PID, or -- COMMAND",
                builtin.name
            ),
        ),
        [pid] => done(Ok(format!("in process {pid}")), String::new()),
        more => done(Ok(format!("in {} processes", more.len())), String::new()),
    }
}
