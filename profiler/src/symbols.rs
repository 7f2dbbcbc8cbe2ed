//! `uprof symbols`: the functions of a file or process, and the site that a probe would use.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use uprof_symbols::site::{ArgSet, Cost, Purpose};
use uprof_symbols::{Image, Pattern, Process};

use crate::cli::{Format, SymbolsArgs};

/// Lists functions: address, size, cost of a probe, name.
pub fn list(args: &SymbolsArgs) -> Result<ExitCode> {
    let path = file_of(&args.target)?;
    let image = Image::open(&path)?;
    let pattern = Pattern::parse(args.pattern.as_deref().unwrap_or("*"))?;
    let sites = image.sites(&pattern, Purpose::EntryReturn, ArgSet::EMPTY)?;
    if sites.placed.is_empty() && sites.refused.is_empty() {
        let near = image.nearest(&pattern.text(), 5);
        let near = if near.is_empty() {
            String::new()
        } else {
            format!("\nNearest names: {}", near.join(", "))
        };
        bail!("no function {pattern} in {}{near}", args.target);
    }
    match write(&sites, args.format) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn file_of(target: &str) -> Result<PathBuf> {
    if let Ok(pid) = target.parse() {
        return Ok(Process::open(pid)?.exe());
    }
    if target.contains('/') || Path::new(target).exists() {
        return Ok(PathBuf::from(target));
    }
    match uprof_symbols::find_program(target) {
        Ok(path) => Ok(path),
        Err(e) => uprof_symbols::find_library_file(target).map_err(|_| e.into()),
    }
}

fn write(sites: &uprof_symbols::image::Sites, format: Format) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    if format == Format::Table {
        writeln!(
            out,
            "{:>18} {:>8} {:>6} {:10} NAME",
            "ADDRESS", "SIZE", "SITE", "PROBE"
        )?;
    }
    for (f, site) in &sites.placed {
        let cost = match site.cost {
            Cost::Nop5 | Cost::Emulated => "cheap",
            Cost::SingleStepped => "dear",
        };
        match format {
            Format::Table => {
                writeln!(
                    out,
                    "{:#18x} {:>8} {:>+6} {cost:10} {}",
                    f.address,
                    f.size,
                    site.moved,
                    f.display_name()
                )?;
            }
            Format::Json => {
                let line = serde_json::json!({"type": "function", "name": f.name(), "names": f.names,
                    "demangled": f.display_name(), "address": f.address, "offset": f.offset, "size": f.size,
                    "site_offset": site.offset, "instruction": site.instruction(), "cost": cost});
                writeln!(out, "{line}")?;
            }
        }
    }
    for (f, why) in &sites.refused {
        match format {
            Format::Table => writeln!(
                out,
                "{:#18x} {:>8} {:>6} {:10} {}: {why}",
                f.address,
                f.size,
                "-",
                "none",
                f.display_name()
            )?,
            Format::Json => {
                let line = serde_json::json!({"type": "function", "name": f.name(), "address": f.address,
                    "offset": f.offset, "size": f.size, "refused": why.to_string()});
                writeln!(out, "{line}")?;
            }
        }
    }
    out.flush()
}
