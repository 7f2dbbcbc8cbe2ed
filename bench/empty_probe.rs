//! `empty_probe PATH OFFSET session|entry PID`: keeps a program that does nothing at one place until Ctrl-C, so that
//! `bench/run` can time the floor under every probe. Says `armed` on standard error.

use std::path::Path;
use std::process::ExitCode;

use uprof_ebpf::{EmptyProbe, Mechanism};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [path, offset, kind, pid] = words.as_slice() else {
        eprintln!("usage: empty_probe PATH OFFSET session|entry PID");
        return ExitCode::from(2);
    };
    let offset = offset
        .strip_prefix("0x")
        .map_or_else(|| offset.parse(), |digits| u64::from_str_radix(digits, 16));
    let (Ok(offset), Ok(pid)) = (offset, pid.parse()) else {
        eprintln!("OFFSET and PID are numbers");
        return ExitCode::from(2);
    };
    let mechanism = match kind.as_str() {
        "session" => Mechanism::Session,
        "entry" => Mechanism::Multi,
        _ => {
            eprintln!("`{kind}` is neither session nor entry");
            return ExitCode::from(2);
        }
    };
    match EmptyProbe::attach(mechanism, Path::new(path), offset, pid) {
        Ok(_probe) => {
            eprintln!("armed");
            loop {
                std::thread::park();
            }
        }
        Err(e) => {
            eprintln!("{path} at {offset:#x}: {e}");
            ExitCode::FAILURE
        }
    }
}
