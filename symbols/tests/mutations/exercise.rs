//! Everything that is public, on one file.

use std::path::Path;

use uprof_symbols::dwarf::Dwarf;
use uprof_symbols::resolve::FileSymbols;
use uprof_symbols::site::{ArgSet, Purpose};
use uprof_symbols::types::{Scope, TypeModel};
use uprof_symbols::{Function, Image, OpenOptions, Pattern, eh_frame};

/// What users ask for: each way to name a place.
pub const PATTERNS: &[&str] = &[
    "main",
    "global_work",
    "*work*",
    "/^.*_user$/",
    "shop::price(int)",
    "shop::*",
    "memcpy@GLIBC_2.14",
    "malloc@plt",
    "main.GlobalWork",
    "main.(*ledger).Add",
    "0x1234",
    "0x401234",
    "global_work+4",
    "fn_0x401000",
    "ways.c:66",
    "targets/ways.c:79",
    "usdt:uprof_ways:*",
    "inlined_work@inlined",
    "inlined_work",
];

/// How many functions of a file are looked at closely.
const CLOSELY: usize = 12;

/// Asks everything; the answers do not matter. Returns how many functions were found.
pub fn image(path: &Path, options: OpenOptions) -> usize {
    let Ok(image) = Image::open_with(path, options) else {
        return 0;
    };
    let _ = (
        image.build_id(),
        image.interpreter(),
        image.needed(),
        image.soname(),
    );
    let _ = (
        image.is_static(),
        image.is_pie(),
        image.is_go(),
        image.entry_point(),
    );
    let _ = image
        .offset_of(image.entry_point())
        .and_then(|offset| image.address_of(offset));
    let _ = image.debug_file();
    let _ = image.sources();
    if let Ok(Some(frames)) = eh_frame::read(&image) {
        for range in frames.ranges().iter().take(200) {
            let _ = frames.cfa_at(range.address);
        }
    }
    let functions = image.functions().unwrap_or_default();
    for function in functions.iter().step_by(functions.len() / CLOSELY + 1) {
        let _ = function.display_name();
        let _ = image.versions(function);
        let _ = image.place(function, Purpose::EntryReturn, ArgSet::REGISTERS);
        let _ = image.place_at(function, 1);
        let _ = image.exits(function);
    }
    for text in PATTERNS {
        let Ok(pattern) = Pattern::parse(text) else {
            continue;
        };
        let _ = image.find(&pattern);
        let _ = image.find_ifuncs(&pattern);
        let _ = image.sites(&pattern, Purpose::Entry, ArgSet::REGISTERS);
    }
    let _ = image.nearest("globl_work", 3);
    let _ = (
        image.defines("main"),
        image.exports("main"),
        image.imports("strlen"),
    );
    if let Ok(Some(dwarf)) = image.dwarf() {
        debug_information(dwarf, image.entry_point());
    }
    types(&image, &functions);
    let _ = image.usdt();
    let count = functions.len();
    let file = FileSymbols::new(image);
    for function in functions.iter().step_by(count / CLOSELY + 1) {
        let _ = file.frames(function.address);
        let _ = file.frames(function.end.saturating_sub(1));
    }
    count
}

/// What only debug information tells.
fn debug_information(dwarf: &Dwarf, entry: u64) {
    let _ = dwarf.functions();
    for text in ["inlined_work", "*work*", "/^say$/"] {
        let Ok(pattern) = Pattern::parse(text) else {
            continue;
        };
        let _ = dwarf.functions_named(&pattern);
        let _ = dwarf.inlined(&pattern);
    }
    for line in [1, 66, 79, u32::MAX] {
        let _ = dwarf.places_of_line("ways.c", line);
    }
    for address in [0, entry, entry.wrapping_add(0x100), u64::MAX - 1] {
        let _ = dwarf.frames(address);
    }
    let _ = dwarf.notes();
}

/// Parameters, variables and their types.
fn types(image: &Image, functions: &[Function]) {
    let Ok(Some(types)) = image.types() else {
        return;
    };
    for function in functions.iter().step_by(functions.len() / CLOSELY + 1) {
        let at = [function.address, function.address + function.size / 2];
        let found = at.map(|at| types.variables(function, at, Scope::Function));
        for variable in found.into_iter().flatten().flatten() {
            let _ = (
                types.shape(variable.ty),
                types.size(variable.ty),
                types.type_name(variable.ty),
            );
            let _ = types.members(variable.ty);
        }
        let _ = types.returned(function);
    }
    for name in [
        "struct worker",
        "shop::Square",
        "unsigned int",
        "main.ledger",
    ] {
        let _ = types.named(name);
    }
    let _ = types.global("truth_argc");
}
