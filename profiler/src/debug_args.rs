//! The flags that say where debug information is looked for.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use uprof_symbols::image::{Debuginfod, OpenOptions};

/// Where names, lines and types are looked for beside the file itself.
#[derive(Args, Debug, Clone, Default)]
pub struct DebugArgs {
    /// Look for debug files in this folder too, laid out like /usr/lib/debug [env: UPROF_DEBUG_DIRS, separated by colons]
    #[arg(long, value_name = "DIR", help_heading = "Debug information")]
    pub debug_dir: Vec<PathBuf>,
    /// Ask debuginfod servers for debug files that are not here: those of DEBUGINFOD_URLS, or these (which the variable
    /// alone asks for as well)
    #[arg(
        long,
        value_name = "URL",
        num_args = 0..=1,
        default_missing_value = "",
        require_equals = true,
        help_heading = "Debug information"
    )]
    pub debuginfod: Option<String>,
}

impl DebugArgs {
    /// Whether what was asked for can be done.
    pub fn check(&self) -> Result<()> {
        if self.debuginfod.as_deref() == Some("") && Debuginfod::from_environment().is_none() {
            bail!(
                "--debuginfod: which server? Set DEBUGINFOD_URLS, or write --debuginfod=https://debuginfod.debian.net"
            );
        }
        match self.debug_dir.iter().find(|dir| !dir.is_dir()) {
            Some(dir) => bail!("--debug-dir {}: there is no such folder", dir.display()),
            None => Ok(()),
        }
    }

    /// How to open the files of process PID, or those of this system.
    pub fn options(&self, pid: Option<u32>) -> OpenOptions {
        let mut options = OpenOptions::default();
        let named = std::env::var_os("UPROF_DEBUG_DIRS").unwrap_or_default();
        let named = std::env::split_paths(&named).filter(|d| !d.as_os_str().is_empty());
        let own: Vec<PathBuf> = self.debug_dir.iter().cloned().chain(named).collect();
        options.debug_dirs.splice(0..0, own);
        options.debuginfod = match self.debuginfod.as_deref() {
            None | Some("") => Debuginfod::from_environment(),
            Some(url) => Some(Debuginfod::new(vec![url.to_owned()])),
        };
        options.root = pid.map(|pid| PathBuf::from(format!("/proc/{pid}/root")));
        options
    }
}
