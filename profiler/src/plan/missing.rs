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
    for file in files {
        for name in &wanted {
            let Ok(pattern) = Pattern::parse(name) else {
                continue;
            };
            if let Some(ifunc) = file
                .image
                .find_ifuncs(&pattern)
                .ok()
                .and_then(|names| names.into_iter().next())
            {
                text += &format!(
                    "\n{ifunc} is an indirect function: what stands at its address only picks the code to run, \
                     so a probe there would not count calls\nProbe the variant that this machine uses \
                     (try `uprof symbols {} '*{ifunc}*'`)",
                    file.display.display()
                );
                return anyhow!(text);
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
