//! Programs of every kind, made here or shipped, and what stands in the way of replacing return addresses in them.

mod exceptions;
mod installed;
mod libc;
mod switches;

use std::path::Path;

use uprof_symbols::hazard::{Hazard, HazardKind, Survey};
use uprof_symbols::{Image, Pattern};

use crate::fixtures::one;

/// The hazard for calls of FUNCTION (of the program itself) in every process that runs PROGRAM.
fn of_program(program: &Path, function: &str, uncaught: bool) -> Option<Hazard> {
    let image = Image::open(program).unwrap();
    let survey = Survey::of_file(&image, program).unwrap();
    survey.hazard(&image, &one(&image, function), uncaught)
}

fn kind(hazard: Option<Hazard>) -> Option<HazardKind> {
    hazard.map(|hazard| hazard.kind)
}

/// The hazard for a function of the C library in every process that runs PROGRAM.
fn of_libc(program: &Path, function: &str) -> Option<Hazard> {
    let image = Image::open(program).unwrap();
    let survey = Survey::of_file(&image, program).unwrap();
    let libc = crate::fixtures::libc();
    let mut found = libc.find(&Pattern::parse(function).unwrap()).unwrap();
    assert_eq!(found.len(), 1, "{function}: {found:?}");
    survey.hazard(&libc, &found.remove(0), false)
}

/// What else there is than signal handlers on a stack of their own, which every Rust program has.
fn besides_signals(hazard: Option<Hazard>) -> Option<Hazard> {
    hazard.filter(|hazard| !hazard.why.contains("(sigaltstack)"))
}
