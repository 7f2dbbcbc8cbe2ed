//! What is settled before a run: the processes, the filters, the engine's options.

use std::path::Path;

use anyhow::{Context, Result, bail};
use uprof_ebpf::{EngineOptions, Mechanism};
use uprof_recipes::Returns;
use uprof_symbols::process::{self, Process};

use super::Job;
use crate::cli::{Common, MechanismChoice, ReturnChoice};
use crate::command::{Command, Held};
use crate::plan::Limits;
use crate::target::Selection;

/// The processes that the user named; the command is started, and held before its first instruction.
pub fn select(job: &Job) -> Result<(Selection, Option<Held>)> {
    let common = &job.common;
    common.debug.check()?;
    let mut selection = Selection {
        pids: common.pid.clone(),
        comm: common.comm.clone(),
        command: !job.command.is_empty(),
        all: common.all,
        debug: common.debug.clone(),
    };
    for &pid in &common.pid {
        Process::open(pid)?;
    }
    if let Some(name) = &common.comm
        && !common.all
    {
        let own = std::process::id();
        let running = process::by_comm(name);
        selection
            .pids
            .extend(running.iter().map(|p| p.pid).filter(|pid| *pid != own));
    }
    selection.pids.sort_unstable();
    selection.pids.dedup();
    if job.command.is_empty() {
        return Ok((selection, None));
    }
    if selection.named() {
        bail!(
            "--pid and --comm name running processes; with `-- {}` the command itself is the one",
            job.command[0].display()
        );
    }
    if !common.explain && common.dump_bpf.is_none() {
        crate::doctor::check_privileges()?;
    }
    let held = Command::spawn(&job.command)?;
    selection.pids.push(held.pid());
    Ok((selection, Some(held)))
}

pub fn limits(common: &Common, selection: &Selection) -> Result<Limits> {
    let uid = common.uid.as_deref().map(user_id).transpose()?;
    let cgroup = common.cgroup.as_deref().map(cgroup_id).transpose()?;
    let only_pid = match selection.pids.as_slice() {
        [pid] if selection.comm.is_none() => Some(*pid),
        _ => None,
    };
    Ok(Limits {
        uid,
        cgroup,
        comm: common.comm.clone().filter(|_| common.all),
        returns: returns(common.return_),
        only_pid,
    })
}

fn returns(choice: ReturnChoice) -> Returns {
    match choice {
        ReturnChoice::Auto => Returns::Auto,
        ReturnChoice::Session => Returns::Session,
        ReturnChoice::Uretprobe => Returns::Uretprobe,
        ReturnChoice::Ret => Returns::Ret,
        ReturnChoice::None => Returns::None,
    }
}

fn user_id(user: &str) -> Result<u32> {
    if let Ok(uid) = user.parse() {
        return Ok(uid);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let found = passwd.lines().find_map(|line| {
        let mut parts = line.split(':');
        (parts.next() == Some(user))
            .then(|| parts.nth(1)?.parse().ok())
            .flatten()
    });
    found.with_context(|| format!("no user named {user} in /etc/passwd: give --uid a number"))
}

/// The id of a cgroup is the inode number of its folder: in the version 2 hierarchy, the only one whose ids
/// programs are told.
fn cgroup_id(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;

    use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
    let below = path.strip_prefix("/").unwrap_or(path);
    let places = [
        Path::new("/sys/fs/cgroup").join(below),
        Path::new("/sys/fs/cgroup/unified").join(below),
        path.to_owned(),
    ];
    for place in &places {
        if statfs(place).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC) {
            let meta = std::fs::metadata(place)
                .with_context(|| format!("cannot read {}", place.display()))?;
            return Ok(meta.ino());
        }
    }
    bail!(
        "no cgroup {} in the version 2 hierarchy (looked at {})\nA process's own is the line 0:: in /proc/PID/cgroup; \
         version 1 cgroups cannot be told apart by a probe",
        path.display(),
        places
            .each_ref()
            .map(|p| p.display().to_string())
            .join(", ")
    )
}

pub fn options(common: &Common) -> Result<EngineOptions> {
    let ring = u32::try_from(common.buffer)
        .ok()
        .filter(|b| (4096..=1 << 30).contains(b));
    let Some(ring_bytes) = ring else {
        bail!("--buffer must be between 4KiB and 1GiB")
    };
    let standard = EngineOptions::default();
    Ok(EngineOptions {
        ring_bytes,
        max_keys: common.max_keys.unwrap_or(standard.max_keys),
        max_histograms: common.max_keys.unwrap_or(standard.max_histograms),
        mechanism: match common.mechanism {
            MechanismChoice::Auto => None,
            MechanismChoice::Session => Some(Mechanism::Session),
            MechanismChoice::Multi => Some(Mechanism::Multi),
            MechanismChoice::Perf => Some(Mechanism::Perf),
        },
        verifier_log: common.verbose,
        ..standard
    })
}

/// Why the kernel refused: first of all, whether a capability is missing.
pub fn explain_load(e: uprof_ebpf::Error, verbose: bool) -> anyhow::Error {
    if let Err(missing) = crate::doctor::check_privileges() {
        return missing;
    }
    if verbose && let Some(log) = e.verifier_log() {
        eprintln!("uprof: the kernel verifier says:\n{log}");
    }
    anyhow::Error::new(e)
}

/// What was not permitted, told as the capabilities that are missing.
pub fn for_want_of_privileges(e: anyhow::Error) -> anyhow::Error {
    let refused = e.chain().any(|cause| {
        let text = cause.to_string();
        text.contains("ermission denied") || text.contains("not permitted")
    });
    match crate::doctor::check_privileges() {
        Err(missing) if refused => missing,
        _ => e,
    }
}
