//! `blazesym-bench name FILE NAME`, `blazesym-bench address FILE 0xADDRESS`, `blazesym-bench list FILE`: once, from cold,
//! as bench/symbols asks uprof's library. Prints what it found and its peak memory.

use std::ops::ControlFlow;
use std::path::Path;

use blazesym::inspect::{self, Inspector};
use blazesym::symbolize::{self, Input, Symbolizer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["name", file, name] => {
            let inspector = Inspector::new();
            let source = inspect::source::Source::Elf(inspect::source::Elf::new(file));
            for found in inspector.lookup(&source, &[name])?.into_iter().flatten() {
                println!("{:#x} {}", found.addr, found.name);
            }
        }
        ["address", file, address] => {
            let address = u64::from_str_radix(address.trim_start_matches("0x"), 16)?;
            let source =
                symbolize::source::Source::Elf(symbolize::source::Elf::new(Path::new(file)));
            for found in Symbolizer::new().symbolize(&source, Input::VirtOffset(&[address]))? {
                if let Some(found) = found.into_sym() {
                    for inlined in found.inlined.iter().rev() {
                        println!("{}", inlined.name);
                    }
                    println!("{}", found.name);
                }
            }
        }
        ["list", file] => {
            let source = inspect::source::Source::Elf(inspect::source::Elf::new(file));
            let mut count = 0;
            Inspector::new().for_each(&source, |_| {
                count += 1;
                ControlFlow::Continue(())
            })?;
            println!("{count} functions");
        }
        _ => return Err("usage: blazesym-bench name|address|list FILE [NAME|0xADDRESS]".into()),
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    println!(
        "{}",
        status
            .lines()
            .find(|line| line.starts_with("VmHWM"))
            .unwrap_or_default()
    );
    Ok(())
}
