//! The list of USDT probes: those that a program's authors put in.

use anyhow::{Context, Result, bail};
use serde_json::json;
use uprof_symbols::Image;
use uprof_symbols::usdt::Usdt;

use super::Out;
use crate::cli::SymbolsArgs;

/// Lists the USDT probes of IMAGE, those whose `PROVIDER:NAME` or name the user's pattern takes.
pub fn list(image: &Image, args: &SymbolsArgs) -> Result<()> {
    let wanted = args.pattern.as_deref().unwrap_or("*");
    let (provider, name) = wanted.split_once(':').unwrap_or(("*", wanted));
    let glob = |text: &str| {
        glob::Pattern::new(text).with_context(|| format!("cannot read the pattern \"{text}\""))
    };
    let (provider, name) = (glob(provider)?, glob(name)?);
    let all = image.usdt()?;
    let found: Vec<&Usdt> = all
        .iter()
        .filter(|u| provider.matches(&u.provider) && name.matches(&u.name))
        .collect();
    if found.is_empty() {
        match all.is_empty() {
            true => bail!("{} has no USDT probes", args.target),
            false => bail!(
                "no USDT probe {wanted} in {}: `uprof symbols {0} --usdt` lists all {}",
                args.target,
                all.len()
            ),
        }
    }
    let mut out = Out::new(args.format);
    if !out.json() {
        out.line(format_args!(
            "{:>18} {:9} {:40} ARGUMENTS",
            "ADDRESS", "GUARDED", "PROBE"
        ))?;
    }
    for usdt in found {
        if out.json() {
            let arguments: Vec<_> = usdt
                .args
                .iter()
                .map(|a| json!({"text": a.text, "bytes": a.size, "signed": a.signed, "float": a.float}))
                .collect();
            out.object(&json!({"type": "usdt", "provider": usdt.provider, "name": usdt.name, "address": usdt.address,
                "offset": usdt.offset, "semaphore_offset": usdt.semaphore.and_then(|s| s.offset), "arguments": arguments}))?;
            continue;
        }
        let arguments: Vec<String> = usdt
            .args
            .iter()
            .enumerate()
            .map(|(n, a)| format!("arg{n}={}", kind(a.size, a.signed, a.float)))
            .collect();
        out.line(format_args!(
            "{:#18x} {:9} {:40} {}",
            usdt.address,
            if usdt.semaphore.is_some() {
                "semaphore"
            } else {
                "-"
            },
            format!("{}:{}", usdt.provider, usdt.name),
            arguments.join(" ")
        ))?;
    }
    Ok(out.flush()?)
}

fn kind(bytes: u8, signed: bool, float: bool) -> String {
    let letter = match (float, signed) {
        (true, _) => 'f',
        (_, true) => 'i',
        _ => 'u',
    };
    format!("{letter}{}", u32::from(bytes) * 8)
}
