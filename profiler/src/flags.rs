//! The flags of `uprof latency`, `trace` and `count`, written as a recipe in memory.

use anyhow::{Result, anyhow, bail};
use uprof_recipes as recipes;
use uprof_recipes::{
    Action, At, Expr, Probe, ProbeKind, Provider, Recipe, Scale, Scope, Source, Stat, StatKind,
    Type,
};

use crate::cli::ProbeArgs;
use crate::recipe::rendered;
use crate::target::TargetSpec;

/// What `uprof latency`, `trace` and `count` do with a hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Latency histogram.
    Latency,
    /// An event for each hit.
    Trace,
    /// Counts.
    Count,
}

/// Writes the recipe that the flags of `uprof latency|trace|count` mean, with the target of each probe.
pub fn from_flags(mode: Mode, args: &ProbeArgs) -> Result<(Recipe, Vec<TargetSpec>)> {
    check(mode, args)?;
    let places = args
        .probes
        .iter()
        .map(|text| ProbeText::parse(text))
        .collect::<Result<Vec<_>>>()?;
    let providers: Vec<Provider> = places
        .iter()
        .map(|place| Provider::of(&place.function).0)
        .collect();
    let kind = kind(mode, args, &providers)?;
    let scope = match kind {
        ProbeKind::Call => Scope::call(),
        ProbeKind::Entry => Scope::entry(),
    };
    let mut scope = scope.at(providers.iter().copied());
    let mut captures = Vec::new();
    for c in &args.capture {
        let (name, text) = split_named("--capture", c)?;
        let e = flag_expr("--capture", text, &scope)?;
        scope = scope.with_capture(name, e.clone());
        captures.push((name.to_owned(), e));
    }
    let where_ = args
        .where_
        .as_deref()
        .map(|t| flag_expr("--where", t, &scope))
        .transpose()?;
    let action = action(mode, args, &scope)?;
    let mut recipe = Recipe {
        name: "probes".into(),
        ..Recipe::default()
    };
    let mut targets = Vec::new();
    for ((text, place), provider) in args.probes.iter().zip(places).zip(providers) {
        if kind == ProbeKind::Call
            && matches!(provider, Provider::Tracepoint | Provider::RawTracepoint)
        {
            bail!(
                "{text}: a tracepoint has no return, and so no latency and no retval: use uprof count or trace, or \
                 syscall:NAME for a system call"
            );
        }
        let at = At {
            capture: captures.clone(),
            ..At::function(place.function)
        };
        let mut probe = Probe {
            where_: where_.clone(),
            action: action.clone(),
            text_limit: args.str_limit as u32,
            sample: args.sample,
            ..Probe::new(text.as_str(), kind, vec![at])
        };
        if args.breakdown {
            probe.break_down();
        }
        if recipe.probes.iter().any(|p| p.name == probe.name) {
            bail!("the probe {text} is given twice");
        }
        targets.push(match place.target {
            _ if provider != Provider::Program => TargetSpec::Kernel,
            Some(word) => TargetSpec::Word(word),
            None => TargetSpec::Own,
        });
        recipe.probes.push(probe);
    }
    Ok((recipe, targets))
}

/// What flags cannot be given together.
fn check(mode: Mode, args: &ProbeArgs) -> Result<()> {
    if !(1..=u64::from(recipes::model::MAX_TEXT_LIMIT)).contains(&args.str_limit) {
        bail!("--str-limit {} is not between 1 and 64KiB", args.str_limit);
    }
    if args.self_time && mode != Mode::Latency {
        bail!(
            "--self is for uprof latency: elsewhere self time is captured (--capture self=self) or a condition"
        );
    }
    if args.breakdown && mode == Mode::Count {
        bail!(
            "--breakdown is for uprof latency and trace: here --sum wait=lock_ns and the like do it for one part"
        );
    }
    if args.breakdown && args.self_time {
        bail!("--breakdown tells where latency went, not self time: one of --self and --breakdown");
    }
    let amounts = args.hist.is_some() || !args.sum.is_empty();
    if amounts && mode != Mode::Count {
        bail!("--sum and --hist are for uprof count");
    }
    if args.hist.is_some() && !args.sum.is_empty() {
        bail!("--sum and --hist: one of them, or the probe in two runs");
    }
    if mode == Mode::Trace && !args.by.is_empty() {
        bail!("trace prints each hit: --by is for count and latency");
    }
    let unused = args.where_.is_none() && args.by.is_empty() && !amounts;
    if mode != Mode::Trace && !args.capture.is_empty() && unused {
        bail!(
            "--capture names a value for --where or --by here; to see it for each hit, use uprof trace"
        );
    }
    Ok(())
}

/// A call is entry and return; an entry alone is cheaper, so only what asks for the return gets it.
fn kind(mode: Mode, args: &ProbeArgs, providers: &[Provider]) -> Result<ProbeKind> {
    let mut all = Scope::call().at(providers.iter().copied());
    let mut late = mode == Mode::Latency || args.breakdown;
    for c in &args.capture {
        let (name, text) = split_named("--capture", c)?;
        let e = flag_expr("--capture", text, &all)?;
        late |= e.needs_return();
        all = all.with_capture(name, e);
    }
    let by = args.by.iter().map(|b| ("--by", split_by(b).1));
    let sums = args.sum.iter().map(|s| ("--sum", split_by(s).1));
    let others = [("--where", &args.where_), ("--hist", &args.hist)];
    let others = others
        .into_iter()
        .filter_map(|(flag, text)| Some((flag, text.as_deref()?)));
    for (flag, text) in by.chain(sums).chain(others) {
        late |= flag_expr(flag, text, &all)?.needs_return();
    }
    Ok(match late {
        true => ProbeKind::Call,
        false => ProbeKind::Entry,
    })
}

/// What is done with a hit.
fn action(mode: Mode, args: &ProbeArgs, scope: &Scope) -> Result<Action> {
    let by = args
        .by
        .iter()
        .map(|b| {
            let (name, text) = split_by(b);
            Ok((name.to_owned(), flag_expr("--by", text, scope)?))
        })
        .collect::<Result<Vec<_>>>()?;
    if mode == Mode::Trace {
        return Ok(Action::Event);
    }
    if mode == Mode::Latency {
        return Ok(Action::Histogram {
            value: match args.self_time {
                true => Expr::self_time(),
                false => Expr::latency(),
            },
            by,
            unit: "ns".into(),
            scale: Scale::Log,
        });
    }
    if let Some(text) = &args.hist {
        let value = number("--hist", text, scope)?;
        return Ok(Action::Histogram {
            value,
            by,
            unit: String::new(),
            scale: Scale::Log,
        });
    }
    if args.sum.is_empty() {
        return Ok(Action::Count { by });
    }
    let stat = |s: &String| {
        let (name, text) = split_by(s);
        Ok(Stat {
            name: name.to_owned(),
            value: number("--sum", text, scope)?,
            show: vec![StatKind::Sum, StatKind::Avg, StatKind::Min, StatKind::Max],
            unit: String::new(),
        })
    };
    let values = args.sum.iter().map(stat).collect::<Result<_>>()?;
    Ok(Action::Stats { values, by })
}

/// An expression that must be a number, if that is known yet.
fn number(flag: &str, text: &str, scope: &Scope) -> Result<Expr> {
    let e = flag_expr(flag, text, scope)?;
    if e.ty.is_scalar() || e.ty == Type::Deferred {
        return Ok(e);
    }
    bail!("{flag} {text}: this is no number")
}

fn flag_expr(flag: &str, text: &str, scope: &Scope) -> Result<Expr> {
    recipes::parse_expr(&Source::new(flag, text), scope).map_err(|e| rendered(&[e]))
}

fn split_named<'a>(flag: &str, text: &'a str) -> Result<(&'a str, &'a str)> {
    let (name, e) = text
        .split_once('=')
        .filter(|(name, e)| is_name(name.trim()) && !e.starts_with('='))
        .ok_or_else(|| anyhow!("{flag} {text}: write NAME=EXPR, as in {flag} size=arg0"))?;
    Ok((name.trim(), e))
}

/// `--by size=arg0`, or `--by arg0`, which is then its own name; so `--sum`.
fn split_by(text: &str) -> (&str, &str) {
    split_named("--by", text).unwrap_or((text.trim(), text))
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A probe as the user writes it.
#[derive(Debug, PartialEq, Eq)]
struct ProbeText {
    target: Option<String>,
    function: String,
}

impl ProbeText {
    /// `TARGET:FUNCTION[+OFFSET]`, `FUNCTION`, `usdt:TARGET:PROVIDER:NAME`, or bpftrace's `uprobe:/path:name`.
    fn parse(text: &str) -> Result<Self> {
        let (kind, rest) = text.split_once(':').unwrap_or(("", text));
        match kind {
            "uprobe" | "u" if rest.contains(':') => return Self::parse(rest),
            "usdt" | "U" if !rest.is_empty() => return Self::usdt(text, rest),
            "uretprobe" | "ur" if rest.contains(':') => bail!(
                "{text}: there is no probe for the return alone: write {rest} and use `retval` or `latency` \
                 in an expression, or `uprof latency`"
            ),
            "kretprobe" | "kr" | "fexit" | "kretfunc" if !rest.is_empty() => bail!(
                "{text}: there is no probe for the return alone: write kernel:{rest} and use `retval` or `latency` \
                 in an expression, or `uprof latency`"
            ),
            _ => {}
        }
        if let Some(place) = Self::kernel(kind, rest) {
            return Ok(place);
        }
        let place = match single_colon(text) {
            // file.c:88 of the process's own program
            Some(_) if is_line(text) => Self {
                target: None,
                function: text.to_owned(),
            },
            Some(at) => Self {
                target: Some(text[..at].to_owned()),
                function: text[at + 1..].to_owned(),
            },
            None => Self {
                target: None,
                function: text.to_owned(),
            },
        };
        if place.function.trim().is_empty() || place.target.as_deref() == Some("") {
            bail!("{text}: write TARGET:FUNCTION, as in libc:malloc or ./a.out:main");
        }
        Ok(place)
    }

    /// A place in the kernel, in uprof's words or in bpftrace's.
    fn kernel(kind: &str, rest: &str) -> Option<Self> {
        let kind = match kind {
            "kernel" | "kprobe" | "k" | "fentry" | "kfunc" => "kernel",
            "tracepoint" | "t" => "tracepoint",
            "rawtracepoint" | "rt" => "rawtracepoint",
            "syscall" => "syscall",
            _ => return None,
        };
        (!rest.is_empty()).then(|| Self {
            target: None,
            function: format!("{kind}:{rest}"),
        })
    }

    /// What stands behind `usdt:`. A provider may be left out, as bpftrace has it.
    fn usdt(text: &str, rest: &str) -> Result<Self> {
        let parts: Vec<&str> = rest.split(':').collect();
        let (target, provider, name) = match parts.as_slice() {
            [target, provider, name] => (Some(*target), *provider, *name),
            [target, name] if target.contains('/') => (Some(*target), "*", *name),
            [provider, name] => (None, *provider, *name),
            _ => bail!(
                "{text}: write usdt:TARGET:PROVIDER:NAME, as in usdt:python3:python:function__entry"
            ),
        };
        if name.is_empty() || provider.is_empty() || target == Some("") {
            bail!(
                "{text}: write usdt:TARGET:PROVIDER:NAME, as in usdt:python3:python:function__entry"
            );
        }
        Ok(Self {
            target: target.map(str::to_owned),
            function: format!("usdt:{provider}:{name}"),
        })
    }
}

/// The first colon that stands alone: C++ and Rust names have colons of their own, in pairs.
fn single_colon(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    (0..bytes.len()).find(|&i| {
        bytes[i] == b':' && bytes.get(i + 1) != Some(&b':') && (i == 0 || bytes[i - 1] != b':')
    })
}

/// `file.c:88`, without a target in front: a name with a dot, one colon, a number.
fn is_line(text: &str) -> bool {
    text.split_once(':').is_some_and(|(file, line)| {
        file.contains('.') && !line.is_empty() && line.bytes().all(|b| b.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The recipe that a command line means.
    fn flags(line: &str) -> Result<Recipe> {
        use crate::cli::{Command, parse};
        let words = line.split_whitespace().map(Into::into).collect();
        let (mode, args) = match parse(words).0.command {
            Command::Latency(args) => (Mode::Latency, args),
            Command::Trace(args) => (Mode::Trace, args),
            Command::Count(args) => (Mode::Count, args),
            other => panic!("{other:?}"),
        };
        Ok(from_flags(mode, &args)?.0)
    }

    #[test]
    fn self_time_takes_the_place_of_latency() {
        let value = |line: &str| match flags(line).expect(line).probes.swap_remove(0).action {
            Action::Histogram { value, unit, .. } => (value.to_string(), unit),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            value("uprof latency f --self"),
            ("self".into(), "ns".into())
        );
        assert_eq!(value("uprof latency f"), ("latency".into(), "ns".into()));
        let e = flags("uprof trace f --self").expect_err("no histogram");
        assert!(e.to_string().contains("--capture self=self"), "{e}");
    }

    #[test]
    fn what_needs_the_return_makes_a_call() {
        for (line, kind) in [
            ("uprof trace f --capture d=depth", ProbeKind::Call),
            (
                "uprof trace f --capture self=self --where self>1ms",
                ProbeKind::Call,
            ),
            ("uprof trace f --capture parent=parent", ProbeKind::Call),
            ("uprof count f --by parent", ProbeKind::Call),
            ("uprof count f --where depth==0", ProbeKind::Call),
            ("uprof trace f --capture a=arg0", ProbeKind::Entry),
            ("uprof trace f --capture a=self->argc", ProbeKind::Entry),
        ] {
            assert_eq!(flags(line).expect(line).probes[0].kind, kind, "{line}");
        }
    }

    #[test]
    fn probes_as_people_write_them() {
        let parse =
            |t: &str| ProbeText::parse(t).map(|p| (p.target.unwrap_or_default(), p.function));
        let ok = |t: &str, target: &str, function: &str| {
            assert_eq!(
                parse(t).expect(t),
                (target.to_owned(), function.to_owned()),
                "{t}"
            );
        };
        ok("libc:malloc", "libc", "malloc");
        ok("malloc", "", "malloc");
        ok("mariadbd:ns::f(int, A::B)", "mariadbd", "ns::f(int, A::B)");
        ok("ns::f", "", "ns::f");
        ok("/opt/x:_ZN*", "/opt/x", "_ZN*");
        ok("uprobe:/bin/bash:readline", "/bin/bash", "readline");
        ok("king.c:88", "", "king.c:88");
        ok("./king:king.c:88", "./king", "king.c:88");
        ok("./king:/^king_/", "./king", "/^king_/");
        ok("libc:memcpy@GLIBC_2.14", "libc", "memcpy@GLIBC_2.14");
        ok(
            "usdt:python3:python:gc__start",
            "python3",
            "usdt:python:gc__start",
        );
        ok(
            "usdt:/usr/bin/python3:gc__start",
            "/usr/bin/python3",
            "usdt:*:gc__start",
        );
        ok("usdt:python:gc__*", "", "usdt:python:gc__*");
        ok("kprobe:tcp_sendmsg", "", "kernel:tcp_sendmsg");
        ok("t:sched:sched_switch", "", "tracepoint:sched:sched_switch");
        ok("syscall:accept4", "", "syscall:accept4");
        for bad in [
            "libc:",
            ":malloc",
            "kretprobe:tcp_sendmsg",
            "usdt:x",
            "usdt:python::",
            "uretprobe:/b:f",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
