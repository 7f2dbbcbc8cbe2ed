//! Which targets a return probe would kill.

use std::path::PathBuf;

use anyhow::{Result, bail};
use uprof_symbols::Image;

use crate::target::{TargetFile, is_library};

/// Functions by which a program moves between stacks: a return address planted on one of them is then
/// returned to on another (FACTS: SIGILL).
const SWITCHERS: [&str; 5] = [
    "swapcontext",
    "makecontext",
    "jump_fcontext",
    "nty_coroutine_resume",
    "co_switch",
];

/// A return probe replaces the return address on the stack: what moves or reads its own stacks dies of it.
pub fn refuse_if_harmful(probe: &str, file: &TargetFile) -> Result<()> {
    let mut programs: Vec<PathBuf> = vec![file.open_path.clone()];
    programs.extend(
        file.pids
            .iter()
            .flatten()
            .map(|pid| PathBuf::from(format!("/proc/{pid}/exe"))),
    );
    for path in programs {
        let Ok(image) = Image::open(&path) else {
            continue;
        };
        if let Some(why) = hazard(&image) {
            let shown = if path.starts_with("/proc") {
                std::fs::read_link(&path).unwrap_or(path)
            } else {
                path
            };
            bail!(
                "{probe}: a return probe could kill {}: {why}\n\
                 Count or trace its entries instead (uprof count, uprof trace); or insist with --return uretprobe",
                shown.display()
            );
        }
    }
    Ok(())
}

fn hazard(image: &Image) -> Option<String> {
    if image.is_go() {
        return Some("it is a Go program, whose stacks move (\"unexpected return pc\")".into());
    }
    if is_library(image) {
        return None;
    }
    let uses =
        |name: &&str| image.imports(name).unwrap_or(false) || image.defines(name).unwrap_or(false);
    let switcher = SWITCHERS.iter().find(|name| uses(name))?;
    Some(format!("it switches stacks ({switcher})"))
}
