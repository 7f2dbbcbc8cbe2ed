//! The memory of a process beside the files that it was mapped from: a probe is a byte that differs.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::harness::wait_for;

/// How many bytes of code in PID's memory differ from what the mapped files hold. `None`: the process is gone.
pub fn changed_bytes(pid: u32) -> Option<usize> {
    // One that becomes another program has no code for a moment.
    wait_for("a process to map code", || match compare(pid) {
        Some((_, 0)) if alive(pid) => None,
        Some((changed, _)) => Some(Some(changed)),
        None => Some(None),
    })
}

/// How many bytes of code differ, of how many.
fn compare(pid: u32) -> Option<(usize, usize)> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut changed = 0;
    let mut compared = 0;
    for line in maps.lines() {
        // address perms offset dev inode path (proc_pid_maps(5))
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(range), Some(&"r-xp"), Some(path)) =
            (fields.first(), fields.get(1), fields.get(5))
        else {
            continue;
        };
        if !path.starts_with('/') {
            continue;
        }
        let hex = |text: &str| u64::from_str_radix(text, 16).expect("maps are in hexadecimal");
        let (from, to) = range.split_once('-').expect("a range");
        let (from, to, offset) = (hex(from), hex(to), hex(fields[2]));
        let length = usize::try_from(to - from).expect("a mapping fits in memory");
        let (mut here, mut there) = (vec![0; length], vec![0; length]);
        memory.read_exact_at(&mut here, from).ok()?;
        let file = File::open(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        // The last page of a file is mapped to its end and zero beyond.
        let mut read = 0;
        while let Ok(n @ 1..) = file.read_at(&mut there[read..], offset + read as u64) {
            read += n;
        }
        changed += here.iter().zip(&there).filter(|(a, b)| a != b).count();
        compared += length;
    }
    Some((changed, compared))
}

/// Whether PID runs; a process that nobody has waited for yet does not.
pub fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X']))
    })
}

/// A number of kilobytes that PID's status names.
pub fn status_kib(pid: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}
