//! From an address back to functions, inlined calls, files and lines.

use anyhow::{Result, bail};
use serde_json::json;
use uprof_symbols::resolve::{FileSymbols, Frame, Symbolizer};
use uprof_symbols::{Image, Pattern};

use super::{File, Out, functions};
use crate::cli::{Format, SymbolsArgs};

/// The kernel's half of the address space on x86-64.
const KERNEL: u64 = 1 << 63;

/// Shows what is at ADDRESS: of the process's memory, of the kernel, or of the file.
pub fn show(place: &File, image: Image, address: u64, args: &SymbolsArgs) -> Result<()> {
    let mut out = Out::new(args.format);
    if let Some(pid) = place.pid {
        let mut symbolizer = Symbolizer::with_options(args.debug.options(Some(pid)));
        let frames = match address {
            KERNEL.. => symbolizer.kernel_function(address)?.into_iter().collect(),
            _ => symbolizer.frames(pid, address)?,
        };
        if frames.is_empty() {
            bail!("process {pid} has nothing mapped at {address:#x}: see /proc/{pid}/maps");
        }
        write(&frames, address, &mut out)?;
        return Ok(out.flush()?);
    }
    let symbols = FileSymbols::new(image);
    let frames = symbols.frames(address);
    if frames.is_empty() && symbols.image().offset_of(address).is_none() {
        bail!(
            "{} has no code at {address:#x}; addresses are those in the file (for one of a running process, name it: \
             uprof symbols PID {address:#x})",
            args.target
        );
    }
    write(&frames, address, &mut out)?;
    out.flush()?;
    if args.format == Format::Table {
        out.line(format_args!(""))?;
        out.flush()?;
        // The next list takes standard output for itself.
        drop(out);
        let pattern = Pattern::Address(address);
        let sites = functions::find(symbols.image(), Some(&pattern), args)?;
        if !sites.placed.is_empty() || !sites.refused.is_empty() {
            functions::write(symbols.image(), &sites, args)?;
        }
    }
    Ok(())
}

fn write(frames: &[Frame], address: u64, out: &mut Out) -> Result<()> {
    if out.json() {
        let list: Vec<_> = frames
            .iter()
            .map(|f| {
                json!({"function": f.function, "demangled": f.display_name(), "offset": f.offset, "file": f.file,
                    "line": f.line, "inlined": f.inlined, "module": f.module.to_string()})
            })
            .collect();
        return Ok(out.object(&json!({"type": "address", "address": address, "frames": list}))?);
    }
    let module = frames
        .first()
        .map_or_else(String::new, |f| format!("  in {}", f.module));
    out.line(format_args!("{address:#x}{module}"))?;
    for f in frames {
        let mut name = f.display_name().unwrap_or_else(|| "(no name known)".into());
        if let Some(offset) = f.offset.filter(|o| *o > 0) {
            name += &format!("+{offset:#x}");
        }
        let line = match (&f.file, f.line) {
            (Some(file), Some(line)) => format!("  {file}:{line}"),
            (Some(file), None) => format!("  {file}"),
            _ => String::new(),
        };
        let inlined = if f.inlined { "  (inlined)" } else { "" };
        out.line(format_args!("    {name}{line}{inlined}"))?;
    }
    Ok(())
}
