//! Exits against what a program does: it is run instruction by instruction, and each call of each function in it has
//! to end at an exit, and not before.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use uprof_symbols::site::ExitKind;
use uprof_symbols::{Function, Image};

use crate::fixtures::Workshop;

/// A child of this test that is run step by step.
struct Stepped(libc::pid_t);

impl Stepped {
    /// ARGUMENTS: how many words its command line has.
    fn start(program: &Path, arguments: usize) -> Self {
        let path = CString::new(program.as_os_str().as_bytes()).unwrap();
        let mut words = vec![path.as_ptr(); arguments];
        words.push(std::ptr::null());
        // SAFETY: between fork and exec the child makes system calls alone.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "cannot fork");
        if pid == 0 {
            // SAFETY: pointers to NUL-terminated text and null-terminated lists that outlive the calls.
            unsafe {
                libc::close(1);
                libc::close(2);
                libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
                libc::execve(path.as_ptr(), words.as_ptr(), [std::ptr::null()].as_ptr());
                libc::_exit(127);
            }
        }
        let child = Self(pid);
        assert!(child.is_stopped(), "{} does not start", program.display());
        child
    }

    fn is_stopped(&self) -> bool {
        let mut status = 0;
        // SAFETY: the kernel writes one number.
        let waited = unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL) };
        assert_eq!(waited, self.0);
        assert!(
            !libc::WIFSTOPPED(status) || libc::WSTOPSIG(status) == libc::SIGTRAP,
            "status {status:#x}"
        );
        libc::WIFSTOPPED(status)
    }

    /// Runs one instruction: the instruction pointer and the stack pointer behind it, or `None` where it was the last.
    fn step(&self) -> Option<(u64, u64)> {
        // SAFETY: only numbers are passed.
        let done = unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, self.0, 0, 0) };
        assert_eq!(done, 0);
        if !self.is_stopped() {
            return None;
        }
        // SAFETY: registers are plain numbers, and the kernel writes one struct of this type.
        let registers = unsafe {
            let mut registers: libc::user_regs_struct = std::mem::zeroed();
            let got = libc::ptrace(libc::PTRACE_GETREGS, self.0, 0, &raw mut registers);
            assert_eq!(got, 0);
            registers
        };
        Some((registers.rip, registers.rsp))
    }
}

/// A call that has begun.
struct Call {
    function: usize,
    stack: u64,
    ended: bool,
}

/// What was seen of a program's calls.
#[derive(Default)]
struct Seen {
    ended: usize,
    /// Calls that were over without an exit, or went on behind one, in words.
    wrong: Vec<String>,
}

/// The program has to be static and at a fixed address.
fn watch(program: &Path, arguments: usize) -> Seen {
    let image = Image::open(program).unwrap();
    let mut functions: Vec<Function> = Vec::new();
    let mut exits: HashMap<u64, Vec<(usize, ExitKind)>> = HashMap::new();
    for function in image.functions().unwrap() {
        if let Ok(found) = image.exits(&function) {
            for exit in found {
                let at = exits.entry(exit.address).or_default();
                at.push((functions.len(), exit.kind));
            }
            functions.push(function);
        }
    }
    let starts: HashMap<u64, usize> = (functions.iter().enumerate())
        .map(|(number, function)| (function.address, number))
        .collect();
    let child = Stepped::start(program, arguments);
    let mut seen = Seen::default();
    let mut calls: Vec<Call> = Vec::new();
    let mut on_condition: Option<(u64, Vec<usize>)> = None;
    while let Some((at, stack)) = child.step() {
        if let Some((jump, ending)) = on_condition.take() {
            // The jump has 2 or 6 bytes, perhaps behind a prefix: it was taken if it led elsewhere than past them.
            let taken = ![2, 3, 6, 7].contains(&at.wrapping_sub(jump));
            for call in ending {
                calls[call].ended |= taken;
            }
        }
        while let Some(over) = calls.pop_if(|call| stack > call.stack) {
            match over.ended {
                true => seen.ended += 1,
                false => {
                    let name = functions[over.function].name();
                    seen.wrong
                        .push(format!("{name} was left unseen, to {at:#x}"));
                }
            }
        }
        if let Some(&function) = starts.get(&at) {
            calls.push(Call {
                function,
                stack,
                ended: false,
            });
        } else if let Some(call) = calls.last() {
            let own = &functions[call.function];
            if call.ended && (own.address..own.end).contains(&at) {
                let name = own.name();
                seen.wrong
                    .push(format!("{name} goes on at {at:#x} behind an exit"));
            }
        }
        for (function, kind) in exits.get(&at).into_iter().flatten() {
            for (number, call) in calls.iter_mut().enumerate().rev() {
                if call.stack != stack {
                    break;
                }
                if call.function != *function {
                    continue;
                }
                match kind {
                    ExitKind::Return | ExitKind::Jump => call.ended = true,
                    ExitKind::JumpIf(_) => {
                        let waiting = on_condition.get_or_insert((at, Vec::new()));
                        waiting.1.push(number);
                    }
                }
            }
        }
    }
    seen
}

const CXX: &str = "#include <algorithm>\n#include <cstdio>\n#include <map>\n#include <string>\n#include <vector>\n\
    int main(int c, char **v) { std::map<std::string, int> m; std::vector<std::string> all;\n\
    for (int i = 0; i < 20 * c; i++) { char b[32]; std::snprintf(b, 32, \"%d-%s\", i * 7919 % 101, v[i % c]); m[b] += i; all.push_back(b); }\n\
    std::sort(all.begin(), all.end(), [&](auto &a, auto &b) { return m[a] < m[b]; });\n\
    return all.front() == all.back(); }\n";

#[test]
fn every_call_ends_at_an_exit_and_none_before() {
    let workshop = Workshop::new();
    let c = ("exits.c", include_str!("exits.c"));
    for (level, (name, source), arguments, least) in [
        ("-O0", c, 1, 500),
        ("-O2", c, 6, 500),
        ("-O2", ("sorts.cc", CXX), 2, 1000),
    ] {
        let path = workshop.gcc("ways", name, source, &[level, "-static", "-no-pie"]);
        let seen = watch(&path, arguments);
        (seen.wrong.iter()).for_each(|wrong| eprintln!("{name} {level}: {wrong}"));
        eprintln!("{name} {level}: {} calls ended", seen.ended);
        assert!(
            seen.wrong.is_empty(),
            "{name} {level}: {} wrong",
            seen.wrong.len()
        );
        assert!(seen.ended > least, "{name} {level}: {}", seen.ended);
    }
}
