//! Prints what opening, finding, placing and looking for exits cost: `cargo run --release -p uprof-symbols --example timing FILE PATTERN`;
//! without a pattern, what listing all functions costs, and what each source of names has.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use uprof_symbols::site::{ArgSet, ExitKind, Purpose};
use uprof_symbols::{Function, Image, NameSource, Pattern};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let Some(file) = args.next() else {
        return Err("usage: timing FILE [PATTERN]".into());
    };
    match args.next() {
        Some(pattern) => find(&file, &pattern)?,
        None => list(&file)?,
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    println!("{}", peak.unwrap_or_default());
    Ok(())
}

fn list(file: &str) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let image = Image::open(file.as_ref())?;
    let functions = image.functions()?;
    let named = functions.iter().filter(|f| f.source < NameSource::EhFrame);
    println!(
        "{} functions, {} of them with names, listed in {:.1?}",
        functions.len(),
        named.count(),
        start.elapsed()
    );
    for report in image.sources()? {
        println!("{:14} {:?} {:?}", report.source, report.names, report.notes);
    }
    Ok(())
}

fn find(file: &str, pattern: &str) -> Result<(), Box<dyn std::error::Error>> {
    let pattern = Pattern::parse(pattern)?;
    for purpose in [Purpose::Entry, Purpose::EntryReturn] {
        let start = Instant::now();
        let image = Image::open(file.as_ref())?;
        let found = image.find(&pattern)?;
        let opened = start.elapsed();
        let start = Instant::now();
        let (mut costs, mut moved, mut refused) = (BTreeMap::new(), 0, 0);
        for function in &found {
            match image.place(function, purpose, ArgSet::REGISTERS) {
                Ok(site) => {
                    *costs.entry(site.cost).or_insert(0) += 1;
                    moved += u32::from(site.moved > 0);
                }
                Err(_) => refused += 1,
            }
        }
        let placed = start.elapsed();
        println!(
            "{purpose:?}: {} functions found in {opened:.1?}, placed in {placed:.1?}: {costs:?}, {moved} moved, {refused} refused",
            found.len()
        );
        if purpose == Purpose::EntryReturn {
            exits(&image, &found);
        }
    }
    Ok(())
}

fn exits(image: &Image, functions: &[Function]) {
    // The first call reads the call frame information.
    for round in ["first", "again"] {
        let start = Instant::now();
        let (mut count, mut kinds, mut refused) = (0, BTreeMap::new(), BTreeMap::new());
        let mut worst = Duration::ZERO;
        for function in functions {
            let each = Instant::now();
            match image.exits(function) {
                Ok(exits) => {
                    count += exits.len();
                    for exit in exits {
                        let kind = match exit.kind {
                            ExitKind::Return => "returns",
                            ExitKind::Jump => "jumps",
                            ExitKind::JumpIf(_) => "conditional jumps",
                        };
                        *kinds.entry(kind).or_insert(0) += 1;
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    let why = text.split(": ").nth(1).unwrap_or_default();
                    let why: String = why.chars().filter(|c| !c.is_ascii_digit()).collect();
                    refused.entry(why).or_insert_with(Vec::new).push(text);
                }
            }
            worst = worst.max(each.elapsed());
        }
        println!(
            "exits, {round}: {count} in {:.1?}, the slowest function {worst:.1?}: {kinds:?}",
            start.elapsed()
        );
        if round == "again" {
            for errors in refused.values() {
                println!("{} refused as in: {}", errors.len(), errors[0]);
            }
        }
    }
}
