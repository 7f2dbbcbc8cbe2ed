//! The list of functions, each with the site that a probe on it would use.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, bail};
use serde_json::json;
use uprof_symbols::image::{Function, Part, Sites};
use uprof_symbols::site::{ArgSet, Cost, Purpose, Site};
use uprof_symbols::{Image, Pattern};

use super::{Out, arguments, spinner};
use crate::cli::SymbolsArgs;

/// Lists the functions of IMAGE that PATTERN names; all without one.
pub fn list(image: &Image, pattern: Option<&Pattern>, args: &SymbolsArgs) -> Result<()> {
    let sites = find(image, pattern, args)?;
    if args.sources {
        let mut out = Out::new(args.format);
        sources(image, &mut out)?;
        out.flush()?;
    }
    if sites.placed.is_empty() && sites.refused.is_empty() {
        return nothing(image, pattern, args);
    }
    write(image, &sites, args)
}

/// The functions and their sites; a spinner turns when that takes long.
pub fn find(image: &Image, pattern: Option<&Pattern>, args: &SymbolsArgs) -> Result<Sites> {
    let count = AtomicU64::new(0);
    let what = format!("looking into {}", args.target);
    let found = spinner::with(&what, &|| count.load(Ordering::Relaxed), || match pattern {
        Some(pattern) => image.sites(pattern, Purpose::Entry, ArgSet::REGISTERS),
        None => everything(image, &count),
    });
    Ok(found?)
}

/// Writes what was found, by address.
pub fn write(image: &Image, sites: &Sites, args: &SymbolsArgs) -> Result<()> {
    let mut out = Out::new(args.format);
    let mut rows: Vec<Row> = sites
        .placed
        .iter()
        .map(|(function, site)| Row {
            function,
            site: Ok(site),
        })
        .chain(sites.refused.iter().map(|(function, why)| Row {
            function,
            site: Err(why),
        }))
        .collect();
    rows.sort_by_key(|row| row.function.address);
    if !out.json() {
        out.line(format_args!(
            "{:>18} {:>8} {:>7} {:14} {:14} NAME",
            "ADDRESS", "SIZE", "SITE", "PROBE", "SOURCE"
        ))?;
    }
    for row in &rows {
        row.write(&mut out)?;
        if args.args {
            arguments::of_function(image, row.function, row.site.ok(), &mut out)?;
        }
    }
    for note in &sites.notes {
        eprintln!("uprof: {note}");
    }
    Ok(out.flush()?)
}

fn everything(image: &Image, count: &AtomicU64) -> uprof_symbols::Result<Sites> {
    let mut sites = Sites::default();
    for function in image.functions()? {
        count.fetch_add(1, Ordering::Relaxed);
        match image.place(&function, Purpose::Entry, ArgSet::REGISTERS) {
            Ok(site) => sites.placed.push((function, site)),
            Err(why) => sites.refused.push((function, why)),
        }
    }
    Ok(sites)
}

fn nothing(image: &Image, pattern: Option<&Pattern>, args: &SymbolsArgs) -> Result<()> {
    let Some(pattern) = pattern else {
        bail!("no function is known in {}", args.target);
    };
    let mut text = format!("no function {pattern} in {}", args.target);
    if let Some(name) = image.find_ifuncs(pattern)?.first() {
        text += &format!(
            "\n{name} is an indirect function: each process picks the code to run; a probe on it follows what the process \
             picked (uprof count {}:{name} --pid PID)",
            args.target
        );
    }
    let near = image.nearest(&pattern.text(), 5);
    if !near.is_empty() {
        text += &format!("\nNearest names: {}", near.join(", "));
    }
    bail!(text)
}

/// Where the names came from, and what was looked for in vain.
fn sources(image: &Image, out: &mut Out) -> Result<()> {
    for report in image.sources()? {
        let path = report.path.as_ref().map(|p| p.display().to_string());
        if out.json() {
            out.object(&json!({"type": "source", "source": report.source.to_string(), "functions": report.names,
                "path": path, "notes": report.notes}))?;
            continue;
        }
        let names = report
            .names
            .map_or_else(|| "-".to_owned(), |n| n.to_string());
        out.line(format_args!(
            "{:15} {names:>8} functions  {}",
            report.source.to_string(),
            path.unwrap_or_default()
        ))?;
        for note in &report.notes {
            out.line(format_args!("{:26}{note}", ""))?;
        }
    }
    if !out.json() {
        out.line(format_args!(""))?;
    }
    Ok(())
}

struct Row<'a> {
    function: &'a Function,
    site: Result<&'a Site, &'a uprof_symbols::Error>,
}

impl Row<'_> {
    fn write(&self, out: &mut Out) -> io::Result<()> {
        if out.json() {
            let value = self.json();
            return out.object(&value);
        }
        let f = self.function;
        let (at, probe) = match self.site {
            Ok(site) => (format!("{:+}", site.moved), cost(site.cost)),
            Err(_) => ("-".to_owned(), "none"),
        };
        let why = match self.site {
            Err(why) => format!(": {why}"),
            Ok(_) => String::new(),
        };
        out.line(format_args!(
            "{:#18x} {:>8} {at:>7} {probe:14} {:14} {}{}{why}",
            f.address,
            f.size,
            f.source.to_string(),
            f.display_name(),
            aliases(f),
        ))
    }

    fn json(&self) -> serde_json::Value {
        let f = self.function;
        let mut value = json!({"type": "function", "name": f.name(), "names": f.names, "demangled": f.display_name(),
            "address": f.address, "offset": f.offset, "size": f.size, "source": f.source.to_string(), "part": part(f.part)});
        match self.site {
            Ok(site) => {
                value["site_offset"] = site.offset.into();
                value["site_moved"] = site.moved.into();
                value["instruction"] = site.instruction().into();
                value["cost"] = cost(site.cost).into();
            }
            Err(why) => value["refused"] = why.to_string().into(),
        }
        value
    }
}

/// The other names of the same place.
fn aliases(f: &Function) -> String {
    const SHOWN: usize = 3;
    match f.names.len() {
        0 | 1 => String::new(),
        n => {
            let shown: Vec<&str> = f.names[1..]
                .iter()
                .take(SHOWN)
                .map(String::as_str)
                .collect();
            let more = if n - 1 > SHOWN { ", ..." } else { "" };
            format!("  (also {}{more})", shown.join(", "))
        }
    }
}

fn part(part: Part) -> &'static str {
    match part {
        Part::Whole => "whole",
        Part::Cold => "cold",
        Part::Part => "part",
        Part::Stub => "stub",
    }
}

/// What the kernel does with the probed instruction.
fn cost(cost: Cost) -> &'static str {
    match cost {
        Cost::Nop5 => "nop",
        Cost::Emulated => "emulated",
        Cost::SingleStepped => "single-stepped",
    }
}
