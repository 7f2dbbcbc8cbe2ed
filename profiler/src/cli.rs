//! The command line: what may be typed, and the help that explains it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use uprof_recipes as recipes;

use crate::debug_args::DebugArgs;

/// Ask a running Linux program what it is doing, and why it is slow.
#[derive(Parser, Debug)]
#[command(
    name = "uprof",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "Start with:\n  uprof demo                                   a small workload, profiled; needs nothing\n  \
                  uprof malloc --pid 1234                      what a process allocates\n  \
                  uprof latency redis-server:call              how long each call of a function takes\n  \
                  uprof recipe mysql-queries --min-latency 10ms\n  \
                  uprof doctor                                 what this kernel and this user can do"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a recipe, built in or from a file; without a name, list them
    Recipe(RecipeArgs),
    /// Count and size a process's allocations, in the allocator that it really uses
    Malloc(MallocArgs),
    /// Measure how long each call of a function takes, as a histogram
    Latency(ProbeArgs),
    /// Print each hit of a probe, with what it captured
    Trace(ProbeArgs),
    /// Count the hits of probes
    Count(ProbeArgs),
    /// List the functions of a file or process, and the site that a probe would use
    Symbols(SymbolsArgs),
    /// Tell what this kernel and this user can do, by trying
    Doctor(DoctorArgs),
    /// Profile a small built-in workload: works on any machine with nothing installed
    Demo(DemoArgs),
    /// The demo's workload
    #[command(name = "__king", hide = true)]
    King {
        /// How long it runs, in seconds.
        seconds: f64,
    },
}

/// Which processes, for how long, and where the report goes.
#[derive(Args, Debug, Clone, Default)]
pub struct Common {
    /// Only this process (may be given several times)
    #[arg(long, value_name = "PID", help_heading = "Filters")]
    pub pid: Vec<u32>,
    /// Only processes of this name (of the main thread), also those that start later; with --all, threads of this name
    #[arg(long, value_name = "NAME", help_heading = "Filters")]
    pub comm: Option<String>,
    /// Only processes of this user (name or number)
    #[arg(long, value_name = "USER", help_heading = "Filters")]
    pub uid: Option<String>,
    /// Only processes in this cgroup (a folder below /sys/fs/cgroup)
    #[arg(long, value_name = "PATH", help_heading = "Filters")]
    pub cgroup: Option<PathBuf>,
    /// Probe a shared library in every process that uses it; slows all of them
    #[arg(long, help_heading = "Filters")]
    pub all: bool,
    /// Stop after this time (500ms, 10s, 5m)
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Output")]
    pub duration: Option<Duration>,
    /// Show the summary so far every so often (default on a terminal: 1s)
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Output")]
    pub interval: Option<Duration>,
    /// How to print: a table for people, JSON lines, or a picture at the end
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "table",
        help_heading = "Output"
    )]
    pub format: ReportFormat,
    /// Write the report to this file
    #[arg(
        short = 'o',
        long = "output",
        value_name = "FILE",
        help_heading = "Output"
    )]
    pub output: Option<PathBuf>,
    /// See DebugArgs.
    #[command(flatten)]
    pub debug: DebugArgs,
    /// Show the plan (sites, captures, mechanism, cost) and stop; nothing is attached
    #[arg(long, help_heading = "Output")]
    pub explain: bool,
    /// Write the generated BPF programs to this file as an ELF object, and stop
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub dump_bpf: Option<PathBuf>,
    /// Say more (the kernel verifier's log when a program is refused)
    #[arg(short, long, help_heading = "Output")]
    pub verbose: bool,
    /// Room for events on their way from the kernel (a power of two)
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = parse_size, help_heading = "Limits")]
    pub buffer: u64,
    /// How many different keys a histogram or count may have [default: 256 and 8192]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20), help_heading = "Limits")]
    pub max_keys: Option<u32>,
    /// The kernel mechanism for probes
    #[arg(
        long,
        value_name = "MECHANISM",
        default_value = "auto",
        help_heading = "Limits"
    )]
    pub mechanism: MechanismChoice,
    /// How the returns of calls are seen
    #[arg(
        long = "return",
        value_name = "HOW",
        default_value = "auto",
        help_heading = "Limits"
    )]
    pub return_: ReturnChoice,
}

/// `--format` of a report
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ReportFormat {
    /// Aligned columns, and a summary at the end
    #[default]
    Table,
    /// One JSON object a line; the last is the summary
    Json,
    /// Stacks with their weights for flame graphs (flamegraph.pl, inferno, speedscope); for keys with a stack
    Folded,
    /// A graph for Graphviz (dot -Tsvg); for recipes with one
    Dot,
}

/// `--format`
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// Aligned columns, and a summary at the end
    #[default]
    Table,
    /// One JSON object a line; the last is the summary
    Json,
}

/// `--mechanism`
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MechanismChoice {
    /// The best that this kernel has, found by trying
    #[default]
    Auto,
    /// uprobe session (Linux 6.13)
    Session,
    /// uprobe_multi (Linux 6.6)
    Multi,
    /// One perf event for each site
    Perf,
}

/// `--return`
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ReturnChoice {
    /// What cannot harm the target; of that the cheapest
    #[default]
    Auto,
    /// The kernel pairs entry and return (Linux 6.13); it replaces return addresses, which kills Go and coroutines
    Session,
    /// Return probes whatever the target is; they replace return addresses, which kills Go and coroutines
    Uretprobe,
    /// Probes on the instructions by which the function is left: nothing on the stack changes
    Ret,
    /// Not at all: calls are seen to begin, and have no latency
    None,
}

/// `uprof recipe`
#[derive(Args, Debug)]
pub struct RecipeArgs {
    /// A built-in recipe's name, or a file (`uprof recipe` lists them)
    #[arg(value_name = "NAME|FILE")]
    pub recipe: Option<String>,
    /// Set a parameter of the recipe
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print the recipe's text, to be copied and changed
    #[arg(long)]
    pub show: bool,
    /// See Common.
    #[command(flatten)]
    pub common: Common,
    /// A program to start and profile, until it ends
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `uprof malloc`
#[derive(Args, Debug)]
pub struct MallocArgs {
    /// Print each call: size and returned pointer, or pointer freed
    #[arg(long)]
    pub events: bool,
    /// See Common.
    #[command(flatten)]
    pub common: Common,
    /// A program to start and profile, until it ends
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `uprof latency|trace|count`
#[derive(Args, Debug)]
#[command(
    after_help = "PROBE is TARGET:FUNCTION[+OFFSET]. TARGET is a path, a program on PATH, a running program's name, or a\n\
    library (libc) of the process that --pid, --comm or COMMAND names; without TARGET: that process's program.\n\
    FUNCTION is a name, a glob ('_ZN*'), a regular expression (/^ngx_/), a C++ or Rust name ('ns::f' or 'ns::f(int)'),\n\
    NAME@VERSION, NAME@inlined, or FILE.c:LINE. USDT probes are usdt:TARGET:PROVIDER:NAME.\n\
    In the kernel: syscall:NAME, kernel:FUNCTION, tracepoint:GROUP:NAME, rawtracepoint:NAME, with arguments and fields\n\
    by name.\n\
    `uprof symbols TARGET` shows what is there.\n\n\
    EXPR is C-like: arg0.. retval latency pid tid comm uid nsecs cpu str(p) str(p,n) buf(p,n) *(u32*)(arg1+4),\n\
    of a call depth, self (time) and parent, as to the probed calls around and within it,\n\
    and cpu_ns runq_ns disk_ns network_ns lock_ns sleep_ns other_ns, what its latency is made of,\n\
    arithmetic, comparison, && || ?:, 10ms, 4KiB; with debug information also parameters and fields by name:\n\
    size, client->argc. docs/recipes.md has the whole language.\n\n\
    Examples:\n  \
    uprof latency mariadbd:dispatch_command --where 'latency > 10ms'\n  \
    uprof latency redis-server:call redis-server:lookupKey --self --by parent\n  \
    uprof latency mariadbd:dispatch_command --breakdown\n  \
    uprof trace libc:malloc --pid 1234 --capture size=arg0 --where 'arg0 > 1MiB'\n  \
    uprof count 'mariadbd:_ZN*' --duration 5s\n  \
    uprof count libc:malloc --by size=arg0 -- ./a.out\n  \
    uprof trace ./a.out:serve --capture 'argc=client->argc'\n  \
    uprof count usdt:python3:python:gc__start\n  \
    uprof trace syscall:openat --capture 'file=after(str(filename))' --capture 'result=errno(retval)' -- cat /etc/motd\n  \
    uprof count syscall:write --sum bytes=retval --where 'retval > 0' --by comm --duration 5s\n  \
    uprof count tracepoint:sched:sched_switch --by kstack --format folded --duration 1s"
)]
pub struct ProbeArgs {
    /// Where: TARGET:FUNCTION[+OFFSET], TARGET:FILE:LINE, usdt:TARGET:PROVIDER:NAME, or a place in the kernel (below)
    #[arg(required = true, value_name = "PROBE")]
    pub probes: Vec<String>,
    /// Only hits for which this is true
    #[arg(long = "where", value_name = "EXPR")]
    pub where_: Option<String>,
    /// What to record with each hit
    #[arg(long, value_name = "NAME=EXPR")]
    pub capture: Vec<String>,
    /// Count or measure separately for each value of this
    #[arg(long, value_name = "[NAME=]EXPR")]
    pub by: Vec<String>,
    /// Sum up this value (count only; may be given several times)
    #[arg(long, value_name = "[NAME=]EXPR")]
    pub sum: Vec<String>,
    /// Make a histogram of this value (count only)
    #[arg(long, value_name = "EXPR")]
    pub hist: Option<String>,
    /// Look at one hit in N, picked at random; counts and sums are scaled up
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub sample: u32,
    /// Measure self time: of each call's latency what was not spent in probed calls made from it (latency only)
    #[arg(long = "self")]
    pub self_time: bool,
    /// Tell where the time of the calls went: CPU, waiting for a CPU, disk, network, locks, sleep (latency and trace)
    #[arg(long)]
    pub breakdown: bool,
    /// The most bytes of a string or buffer to capture (up to 64KiB)
    #[arg(long, value_name = "SIZE", default_value = "1KiB", value_parser = parse_size)]
    pub str_limit: u64,
    /// See Common.
    #[command(flatten)]
    pub common: Common,
    /// A program to start and profile, until it ends
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `uprof symbols`
#[derive(Args, Debug)]
#[command(
    after_help = "PATTERN is a name, a glob ('*alloc*'), a regular expression (/^ngx_/), a C++ or Rust name ('ns::f' or 'ns::f(int)'),\n\
    a versioned name (memcpy@GLIBC_2.14), FILE.c:LINE, NAME@inlined, NAME+OFFSET, or an address (0x401136).\n\n\
    SITE is how many bytes past the function's address a probe would sit, PROBE what the kernel does with the\n\
    instruction there: a `nop` costs least, `emulated` little more, `single-stepped` about ten times as much.\n\n\
    Examples:\n  \
    uprof symbols nginx '*close*'\n  \
    uprof symbols libc malloc --args\n  \
    uprof symbols python3 --usdt\n  \
    uprof symbols ./a.out --type 'struct client'\n  \
    uprof symbols 1234 0x7f52a1c3e0b4\n  \
    uprof symbols --args kernel:tcp_sendmsg\n  \
    uprof symbols --args tracepoint:syscalls:sys_enter_execve"
)]
pub struct SymbolsArgs {
    /// A file, a program on PATH, a library, a process's number, kernel:FUNCTION, or tracepoint:GROUP:NAME
    #[arg(value_name = "FILE|PID")]
    pub target: String,
    /// Which functions; all without it
    #[arg(value_name = "PATTERN")]
    pub pattern: Option<String>,
    /// Show parameters and variables with their types, as far as debug information tells
    #[arg(long)]
    pub args: bool,
    /// List USDT probes: those that the program's authors put in
    #[arg(long, conflicts_with_all = ["args", "type_"])]
    pub usdt: bool,
    /// Show the fields of this type, such as 'struct client', with their offsets
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "pattern")]
    pub type_: Option<String>,
    /// Tell first where names were looked for and how many came from where
    #[arg(long)]
    pub sources: bool,
    /// See DebugArgs.
    #[command(flatten)]
    pub debug: DebugArgs,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

/// `uprof doctor`
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

/// `uprof demo`
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// How long the workload runs
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    pub duration: Duration,
}

/// What was typed after `recipe NAME`, for the parameters that the recipe declares.
pub type ParamValues = Vec<(String, String)>;

/// Parses the command line. A recipe's parameters are flags of their own, so the recipe named is looked at first.
pub fn parse(argv: Vec<OsString>) -> (Cli, ParamValues) {
    let params = recipe_named(&argv)
        .and_then(|name| crate::recipe::load(&name).ok())
        .map(|recipe| recipe.params)
        .unwrap_or_default();
    let mut command = Cli::command();
    // One that is called like an option of uprof's own can be set by --set alone.
    let taken: Vec<String> = command
        .find_subcommand("recipe")
        .into_iter()
        .flat_map(clap::Command::get_arguments)
        .filter_map(|a| a.get_long().map(str::to_owned))
        .collect();
    let flag = |p: &recipes::Param| p.name.replace('_', "-");
    let (hidden, params): (Vec<_>, Vec<_>) = params
        .into_iter()
        .partition(|p| taken.contains(&flag(p)) || flag(p) == "help");
    if !hidden.is_empty() {
        let names: Vec<String> = hidden
            .iter()
            .map(|p| {
                format!(
                    "  --set {}={}  {}",
                    p.name,
                    param_value_name(p),
                    param_help(p)
                )
            })
            .collect();
        let help = format!(
            "Parameters of this recipe that are called like options of uprof:\n{}",
            names.join("\n")
        );
        command = command.mut_subcommand("recipe", |c| c.after_help(help));
    }
    if !params.is_empty() {
        command = command.mut_subcommand("recipe", |mut c| {
            for p in &params {
                c = c.arg(
                    clap::Arg::new(format!("param:{}", p.name))
                        .long(flag(p))
                        .value_name(param_value_name(p))
                        .help(param_help(p))
                        .num_args(if matches!(p.kind, recipes::ParamKind::Bool) {
                            0..=1
                        } else {
                            1..=1
                        })
                        .default_missing_value("true")
                        .require_equals(matches!(p.kind, recipes::ParamKind::Bool))
                        .help_heading("Parameters of this recipe"),
                );
            }
            c
        });
    }
    let matches = command.get_matches_from(argv);
    let values = match matches.subcommand() {
        Some(("recipe", m)) => params
            .iter()
            .filter_map(|p| {
                m.get_one::<String>(&format!("param:{}", p.name))
                    .map(|v| (p.name.clone(), v.clone()))
            })
            .collect(),
        _ => Vec::new(),
    };
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    (cli, values)
}

fn param_value_name(p: &recipes::Param) -> &'static str {
    match p.kind {
        recipes::ParamKind::Duration => "TIME",
        recipes::ParamKind::Size => "SIZE",
        recipes::ParamKind::Int => "N",
        recipes::ParamKind::String => "TEXT",
        recipes::ParamKind::Bool => "BOOL",
    }
}

fn param_help(p: &recipes::Param) -> String {
    let mut help = p.help.clone();
    if !p.choices.is_empty() {
        help += &format!(" [one of: {}]", p.choices.join(", "));
    }
    match &p.default {
        Some(d) => format!("{help} [default: {}]", value_text(d)),
        None => help,
    }
}

fn value_text(value: &recipes::Value) -> String {
    match value {
        recipes::Value::Duration(ns) => crate::report::units::duration(*ns as f64),
        recipes::Value::Size(bytes) => crate::report::units::size(*bytes as f64),
        recipes::Value::Int(n) => n.to_string(),
        recipes::Value::String(text) => text.clone(),
        recipes::Value::Bool(b) => b.to_string(),
    }
}

/// The recipe that `uprof recipe NAME` names: the first word after `recipe` that is neither a flag nor a flag's value.
fn recipe_named(argv: &[OsString]) -> Option<String> {
    let words: Vec<&str> = argv.iter().map(|a| a.to_str().unwrap_or("")).collect();
    let at = words.iter().position(|w| *w == "recipe")?;
    if at != 1 {
        return None;
    }
    let command = Cli::command();
    let recipe = command.find_subcommand("recipe")?;
    let takes_value = |flag: &str| {
        recipe.get_arguments().any(|a| {
            let named = a.get_long().is_some_and(|l| flag == format!("--{l}"))
                || a.get_short().is_some_and(|s| flag == format!("-{s}"));
            named && a.get_action().takes_values()
        })
    };
    let mut rest = words[2..].iter();
    while let Some(word) = rest.next() {
        if *word == "--" {
            return None;
        }
        if !word.starts_with('-') {
            return Some((*word).to_owned());
        }
        if takes_value(word) {
            rest.next();
        }
    }
    None
}

/// A span of time as people write it: `500ms`, `10s`, `5m`, `1h`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| {
        format!("`{text}` is not a time: write a number and a unit, as in 500ms, 10s, 5m")
    })?;
    let unit = match &text[digits..] {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        other => {
            return Err(format!(
                "`{other}` is not a unit of time: use ns, us, ms, s, m or h"
            ));
        }
    };
    let seconds = number * unit;
    if seconds <= 0.0 || seconds > 366.0 * 86400.0 {
        return Err(format!("`{text}` is not between 1ns and a year"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A size as people write it: `4096`, `64KiB`, `16MiB`, `1M`; powers of 1024.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| {
        format!("`{text}` is not a size: write a number and a unit, as in 64KiB or 16MiB")
    })?;
    let shift = match text[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        other => {
            return Err(format!(
                "`{other}` is not a unit of size: use KiB, MiB or GiB"
            ));
        }
    };
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("`{text}` is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_as_people_write_them() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert!(parse_duration("fast").unwrap_err().contains("not a time"));
        assert!(
            parse_duration("3 weeks")
                .unwrap_err()
                .contains("unit of time")
        );
        assert!(parse_duration("0s").is_err());
        assert_eq!(parse_size("64KiB"), Ok(65536));
        assert_eq!(parse_size("1M"), Ok(1 << 20));
        assert!(
            parse_size("99999999999GiB")
                .unwrap_err()
                .contains("too large")
        );
    }

    #[test]
    fn the_recipe_named_is_found_past_flags() {
        let argv = |s: &str| s.split(' ').map(Into::into).collect::<Vec<OsString>>();
        assert_eq!(
            recipe_named(&argv("uprof recipe --pid 3 mysql-queries")).as_deref(),
            Some("mysql-queries")
        );
        assert_eq!(
            recipe_named(&argv("uprof recipe x.toml --min-latency 3ms")).as_deref(),
            Some("x.toml")
        );
        assert_eq!(recipe_named(&argv("uprof recipe")), None);
        assert_eq!(recipe_named(&argv("uprof count recipe")), None);
    }
}
