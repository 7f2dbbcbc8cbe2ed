//! What to say when a probe matches nothing: why, and what is there instead.

use anyhow::anyhow;
use uprof_recipes as recipes;
use uprof_symbols::Pattern;

use crate::target::TargetFile;

/// Nothing of what PROBE names is in FILES.
pub fn not_found(probe: &recipes::Probe, files: &[TargetFile]) -> anyhow::Error {
    let wanted: Vec<&str> = probe
        .at
        .iter()
        .flat_map(|at| &at.functions)
        .map(|f| f.value.as_str())
        .collect();
    let shown: Vec<String> = files
        .iter()
        .map(|f| f.display.display().to_string())
        .collect();
    let mut text = format!(
        "no function {} in {}",
        wanted.join(", nor "),
        shown.join(", ")
    );
    let beside: Vec<&str> = probe
        .at
        .iter()
        .flat_map(|at| &at.has)
        .map(|f| f.value.as_str())
        .collect();
    if !beside.is_empty() {
        text += &format!(
            ", or not the versions looked for, which have {}",
            beside.join(" or ")
        );
    }
    for file in files {
        for name in &wanted {
            let Ok(pattern) = Pattern::parse(name) else {
                continue;
            };
            match &pattern {
                Pattern::Usdt { .. } => return no_usdt(&pattern, file),
                Pattern::Inlined(base) => {
                    return anyhow!(
                        "{base} was not inlined anywhere in {}; without @inlined its own code is probed",
                        file.display.display()
                    );
                }
                _ => {}
            }
            if file.image.imports(name).unwrap_or(false) {
                text += &format!(
                    "\n{name} is used there but lives in a library: probe it in that library (as in libc:{name} --pid PID)"
                );
                return anyhow!(text);
            }
        }
        let near: Vec<String> = wanted
            .iter()
            .flat_map(|name| file.image.nearest(name, 5))
            .take(5)
            .collect();
        if !near.is_empty() {
            text += &format!("\nNearest names there: {}", near.join(", "));
        }
    }
    if let Some(first) = shown.first() {
        text += &format!("\nList them all with `uprof symbols {first}`");
    }
    anyhow!(text)
}

fn no_usdt(pattern: &Pattern, file: &TargetFile) -> anyhow::Error {
    const SHOWN: usize = 8;
    let path = file.display.display();
    let mut names: Vec<String> = file
        .image
        .usdt()
        .unwrap_or_default()
        .into_iter()
        .map(|usdt| format!("{}:{}", usdt.provider, usdt.name))
        .collect();
    names.dedup();
    if names.is_empty() {
        return anyhow!("{path} has no USDT probes, so there is no {pattern}");
    }
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    names.truncate(SHOWN);
    anyhow!(
        "no {pattern} in {path}; its USDT probes: {}{more}\n`uprof symbols {path} --usdt` lists them with their arguments",
        names.join(", ")
    )
}
