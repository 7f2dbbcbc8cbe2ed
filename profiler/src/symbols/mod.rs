//! `uprof symbols`: what can be probed in a file, a process or the kernel, and what can be captured there.
//!
//! - `functions`: functions, and the site that a probe on each would use
//! - `arguments`: parameters, variables and fields with their types
//! - `usdt`: probes that the program's authors put in
//! - `address`: from an address back to a name, file and line
//! - `kernel`: kernel functions and tracepoints
//! - `spinner`: for what takes long

mod address;
mod arguments;
mod functions;
mod kernel;
mod spinner;
mod usdt;

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use uprof_symbols::{Image, Pattern, Process};

use crate::cli::{Format, SymbolsArgs};

/// `uprof symbols`
pub fn run(args: &SymbolsArgs) -> Result<ExitCode> {
    args.debug.check()?;
    if let Some(place) = kernel::Place::parse(&args.target)? {
        return finish(kernel::list(&place, args));
    }
    let place = File::find(args)?;
    let image = Image::open_with(&place.path, args.debug.options(place.pid))?;
    if let Some(name) = &args.type_ {
        return finish(arguments::list_type(&image, name, args.format));
    }
    if args.usdt {
        return finish(usdt::list(&image, args));
    }
    match args.pattern.as_deref().map(Pattern::parse).transpose()? {
        Some(Pattern::Address(address)) => finish(address::show(&place, image, address, args)),
        pattern => finish(functions::list(&image, pattern.as_ref(), args)),
    }
}

/// A reader who leaves early is a quiet end.
fn finish(result: Result<()>) -> Result<ExitCode> {
    match result {
        Err(e)
            if e.downcast_ref::<io::Error>()
                .is_none_or(|e| e.kind() != io::ErrorKind::BrokenPipe) =>
        {
            Err(e)
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The file that the user named.
struct File {
    path: PathBuf,
    pid: Option<u32>,
}

impl File {
    fn find(args: &SymbolsArgs) -> Result<Self> {
        let target = args.target.as_str();
        if let Ok(pid) = target.parse() {
            let process = Process::open(pid)?;
            return Ok(Self {
                path: process.exe(),
                pid: Some(pid),
            });
        }
        let file = |path| Self { path, pid: None };
        if target.contains('/') || Path::new(target).exists() {
            return Ok(file(PathBuf::from(target)));
        }
        match uprof_symbols::find_program(target) {
            Ok(path) => Ok(file(path)),
            Err(e) => match uprof_symbols::find_library_file(target) {
                Ok(path) => Ok(file(path)),
                Err(_) => bail!(
                    "{e}, and no library is called so\nWrite a path (./{target}), a program on PATH, a library (libc), or a process's number"
                ),
            },
        }
    }
}

/// Where the list goes: standard output, in one form or the other.
struct Out {
    to: BufWriter<io::StdoutLock<'static>>,
    format: Format,
}

impl Out {
    fn new(format: Format) -> Self {
        Self {
            to: BufWriter::with_capacity(64 << 10, io::stdout().lock()),
            format,
        }
    }

    fn json(&self) -> bool {
        self.format == Format::Json
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) -> io::Result<()> {
        self.to.write_fmt(text)?;
        self.to.write_all(b"\n")
    }

    fn object(&mut self, value: &serde_json::Value) -> io::Result<()> {
        self.line(format_args!("{value}"))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
