//! What is wrong with a probe can mostly be told before it is compiled.

use super::Wrong;
use crate::layout::{KeyLayout, MAX_VALUE, RecordLayout};
use crate::spec::{
    Action, Capture, FrameName, KernelSource, KeyPart, MAX_CAPTURE, MAX_CAPTURES, MAX_KEY_STRING,
    MAX_LINEAR_BUCKETS, MAX_STACK_FRAMES, MAX_STATS, On, ProbeKind, ProbeSpec, Scale,
};

/// What can be told before compiling.
pub(super) fn check(spec: &ProbeSpec) -> Result<(), Wrong> {
    source(spec).map_err(|why| ("the probe".to_string(), why.to_string()))?;
    if i32::try_from(spec.sample).is_err() {
        let why = format!("one of {} is less than one of 2^31", spec.sample);
        return Err(("its sampling".into(), why));
    }
    if spec.sample > 1 && matches!(spec.action, Action::Running { .. }) {
        let why = "what runs is wrong unless all calls say it";
        return Err(("its sampling".into(), why.into()));
    }
    let mut saved_count = 0;
    if let ProbeKind::Call { saved, .. } = &spec.kind {
        saved_count = saved.len();
        limits("saved capture", saved)?;
    }
    let mut own = 0;
    match &spec.action {
        Action::Event { captures } => own = event(captures, saved_count)?,
        Action::Running { .. } => {
            if saved_count > 0 || spec.kind == ProbeKind::Entry {
                return Err((
                    "the action".into(),
                    "only a call that saves nothing can say what runs".into(),
                ));
            }
        }
        Action::Count { key }
        | Action::Histogram { key, .. }
        | Action::Stats { key, .. }
        | Action::Breakdown { key, .. } => {
            amounts(&spec.action)?;
            for (i, part) in key.iter().enumerate() {
                if let KeyPart::Str { limit, .. } | KeyPart::Buf { limit, .. } = part {
                    bound(format!("key part {i}"), *limit, MAX_KEY_STRING)?;
                }
            }
            if KeyLayout::new(key).size > 256 {
                return Err(("the key".into(), "it takes more than 256 bytes".into()));
            }
        }
    }
    if saved_count + own > MAX_CAPTURES {
        return Err((
            "the captures".into(),
            format!("there are more than {MAX_CAPTURES}"),
        ));
    }
    if RecordLayout::new(spec).size() > MAX_VALUE / 4 {
        return Err((
            "the captures".into(),
            "together they take more than 1 MiB".into(),
        ));
    }
    Ok(())
}

/// Checks how many values or buckets an aggregation has.
fn amounts(action: &Action) -> Result<(), Wrong> {
    let (what, wrong) = match action {
        Action::Stats { values, .. } => (
            "the values",
            (!(1..=MAX_STATS).contains(&values.len()))
                .then(|| format!("there are {}, not 1 to {MAX_STATS}", values.len())),
        ),
        Action::Histogram {
            scale: Scale::Linear { step, buckets, .. },
            ..
        } => {
            let wrong = if *step == 0 {
                Some("a bucket's width is 0".into())
            } else {
                (!(1..=MAX_LINEAR_BUCKETS).contains(buckets))
                    .then(|| format!("there are {buckets} buckets, not 1 to {MAX_LINEAR_BUCKETS}"))
            };
            ("the histogram", wrong)
        }
        _ => return Ok(()),
    };
    wrong.map_or(Ok(()), |why| Err((what.into(), why)))
}

/// Checks that what it sits on can do what it asks for.
fn source(spec: &ProbeSpec) -> Result<(), &'static str> {
    match (spec.on, &spec.kind) {
        (
            On::Program,
            ProbeKind::Call {
                frame: FrameName::Thread,
                ..
            },
        ) => Err("calls of a program are named by their stacks, not by threads"),
        (On::Program, _) => Ok(()),
        (On::Kernel(_), _) if matches!(spec.action, Action::Running { .. }) => {
            Err("only a program's calls can say what runs")
        }
        (On::Kernel(_), _) if spec.any(&|e| e.asks_for_chain()) => {
            Err("depth, own time and parent are those of a program's calls")
        }
        (On::Kernel(KernelSource::RawTracepoint), ProbeKind::Call { .. }) => {
            Err("a raw tracepoint is no call")
        }
        (On::Kernel(_), _) => Ok(()),
    }
}

/// Checks an event's captures; how many of them are not saved ones.
fn event(captures: &[Capture], saved_count: usize) -> Result<usize, Wrong> {
    limits("capture", captures)?;
    let mut own = 0;
    for (i, capture) in captures.iter().enumerate() {
        match capture {
            Capture::Saved(at) if usize::from(*at) >= saved_count => {
                return Err((
                    format!("capture {i}"),
                    format!("nothing is saved at index {at}"),
                ));
            }
            Capture::Saved(_) => {}
            _ => own += 1,
        }
    }
    Ok(own)
}

/// Checks the limits of `list`.
fn limits(what: &str, list: &[Capture]) -> Result<(), Wrong> {
    for (i, capture) in list.iter().enumerate() {
        if let Capture::Stack { frames, .. } = capture
            && !(1..=MAX_STACK_FRAMES).contains(frames)
        {
            let why = format!("{frames} frames are not 1 to {MAX_STACK_FRAMES}");
            return Err((format!("{what} {i}"), why));
        }
        if let Capture::Str { limit, .. } | Capture::Buf { limit, .. } = capture {
            bound(format!("{what} {i}"), *limit, MAX_CAPTURE)?;
        }
    }
    Ok(())
}

fn bound(what: String, limit: u32, most: u32) -> Result<(), Wrong> {
    if (1..=most).contains(&limit) {
        return Ok(());
    }
    Err((
        what,
        format!("its limit of {limit} bytes is not within 1 to {most}"),
    ))
}
