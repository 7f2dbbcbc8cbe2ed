//! `uprof doctor`: what this kernel and this user can do, by trying.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

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

/// Runs all trials and prints what they found.
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let features = uprof_ebpf::features::probe();
    if args.format == Format::Json {
        for f in &features {
            let (works, reason) = match &f.works {
                Ok(()) => (true, None),
                Err(reason) => (false, Some(reason)),
            };
            println!(
                "{}",
                serde_json::json!({"type": "feature", "name": f.name, "works": works, "reason": reason, "advice": f.advice})
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!("kernel {}, {}", release.trim(), std::env::consts::ARCH);
    let width = features.iter().map(|f| f.name.len()).max().unwrap_or(0);
    for f in &features {
        match &f.works {
            Ok(()) => println!("  yes  {:width$}", f.name),
            Err(reason) => {
                println!("  no   {:width$}  {reason}", f.name);
                if !f.advice.is_empty() {
                    println!("       {:width$}  -> {}", "", f.advice);
                }
            }
        }
    }
    match check_privileges() {
        Ok(()) => println!("this user may probe every process"),
        Err(e) => println!("{e}"),
    }
    for r in uprof_recipes::builtin() {
        println!(
            "recipe {}: {}",
            r.name,
            crate::recipe::load(r.name).map_or_else(|e| e.to_string(), |r| r.about)
        );
    }
    Ok(ExitCode::SUCCESS)
}
