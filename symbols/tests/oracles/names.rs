//! Names: each that a tool gives for a function is found, at that address.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use uprof_symbols::{Image, NameSource, Pattern};

use super::Tally;
use super::subjects::Subject;
use super::variants::run;

/// How many of a file's names are also asked for one by one.
const ASKED: usize = 100;

/// What a tool says of one symbol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    address: u64,
    name: String,
    /// An IFUNC: what stands there is its resolver.
    resolver: bool,
}

/// Compares the functions of one file with what all tools say.
pub fn compare(subject: &Subject) -> Tally {
    let image = subject.open();
    let mut tally = Tally::default();
    let functions = image.functions().unwrap_or_else(|error| {
        tally.differing.push(error.to_string());
        Vec::new()
    });
    let mut names: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for function in &functions {
        let all = names.entry(function.address).or_default();
        all.extend(function.names.iter().map(String::as_str));
    }
    for (tool, wanted) in oracles(subject) {
        assert!(
            !wanted.is_empty(),
            "{tool} names nothing in {}",
            subject.name
        );
        for named in &wanted {
            tally.compared += 1;
            let here = names.get(&named.address);
            let found = match (named.resolver, subject.stripped) {
                (true, false) => is_resolver(&image, &named.name),
                // Of a stripped file only where its functions are can be known.
                (_, true) => here.is_some() || is_covered(&image, named.address),
                _ => here.is_some_and(|here| here.contains(named.name.as_str())),
            };
            if !found {
                let here = here.map_or_else(|| "nothing".into(), |here| format!("{here:?}"));
                tally.differing.push(format!(
                    "{tool} {:#x} {}: {here} here",
                    named.address, named.name
                ));
            }
        }
        if !subject.stripped {
            ask(&image, tool, &wanted, &mut tally);
        }
    }
    tally
}

/// Some of the names, evenly chosen, asked for by name.
fn ask(image: &Image, tool: &str, wanted: &BTreeSet<Named>, tally: &mut Tally) {
    let plain: Vec<&Named> = wanted.iter().filter(|named| !named.resolver).collect();
    for named in plain.iter().step_by(plain.len() / ASKED + 1) {
        tally.compared += 1;
        let found = image
            .find(&Pattern::Exact(named.name.clone()))
            .unwrap_or_default();
        if found
            .iter()
            .all(|function| function.address != named.address)
        {
            let at: Vec<String> = found.iter().map(|f| format!("{:#x}", f.address)).collect();
            tally.differing.push(format!(
                "find {tool} {:#x} {}: found at {at:?}",
                named.address, named.name
            ));
        }
    }
}

/// Whether the crate knows the name as one whose code is chosen at run time.
fn is_resolver(image: &Image, name: &str) -> bool {
    let known = image.find_ifuncs(&Pattern::Exact(name.to_owned()));
    known.unwrap_or_default().iter().any(|known| known == name)
}

/// Whether an address without a name is in a piece of code that unwinding knows, or in no piece at all as the
/// hand-written code without unwind tables.
fn is_covered(image: &Image, address: u64) -> bool {
    let around = image
        .around(address)
        .unwrap_or_else(|error| panic!("{error}"));
    around.is_some_and(|function| function.source == NameSource::EhFrame)
}

/// What each tool says.
fn oracles(subject: &Subject) -> Vec<(&'static str, BTreeSet<Named>)> {
    let mut all: Vec<(&'static str, BTreeSet<Named>)> = Vec::new();
    let mut add = |tool, names: BTreeSet<Named>| {
        if !names.is_empty() {
            all.push((tool, names));
        }
    };
    for file in &subject.named_by {
        add("nm", nm(file, "--defined-only"));
        if file == &subject.program {
            add("nm -D", nm(file, "--dynamic"));
        }
        add("readelf", readelf("readelf", &["-sW"], file));
        add("eu-readelf", readelf("eu-readelf", &["-s"], file));
    }
    if subject.name.starts_with("Go") {
        // A stripped one has nothing that this tool reads: what it was built from has the same addresses.
        let listing = run(Command::new("go")
            .args(["tool", "nm"])
            .arg(&subject.lines_by));
        add("go tool nm", go_nm(&listing));
    }
    all
}

/// `nm -f sysv`: NAME|ADDRESS|CLASS|TYPE|SIZE|LINE|SECTION.
fn nm(file: &Path, which: &str) -> BTreeSet<Named> {
    let listing = run(Command::new("nm").args(["--format=sysv", which]).arg(file));
    let rows = listing.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        let [name, address, class, kind, ..] = fields.as_slice() else {
            return None;
        };
        let defined = !class.eq_ignore_ascii_case("u") || *class == "u";
        named(name, address, kind).filter(|_| defined && *class != "w" || !address.is_empty())
    });
    rows.collect()
}

/// `readelf -sW`, `eu-readelf -s`: NUMBER: VALUE SIZE TYPE BIND VISIBILITY SECTION NAME.
fn readelf(tool: &str, flags: &[&str], file: &Path) -> BTreeSet<Named> {
    let listing = run(Command::new(tool).args(flags).arg(file));
    let rows = listing.lines().filter_map(|line| {
        // Go's names have spaces in them.
        let mut rest = line.trim_start();
        let mut fields = Vec::new();
        while fields.len() < 7 {
            let (field, behind) = rest.split_once(char::is_whitespace)?;
            fields.push(field);
            rest = behind.trim_start();
        }
        let [number, address, _, kind, _, _, section] = fields.as_slice() else {
            return None;
        };
        let symbol = number.ends_with(':') && !section.starts_with("UND");
        symbol
            .then(|| named(rest.trim_end(), address, kind))
            .flatten()
    });
    rows.collect()
}

/// `go tool nm`: ADDRESS T NAME.
fn go_nm(listing: &str) -> BTreeSet<Named> {
    let rows = listing.lines().filter_map(|line| {
        let (address, rest) = line.trim().split_once(' ')?;
        let (class, name) = rest.trim().split_once(' ')?;
        class
            .eq_ignore_ascii_case("t")
            .then(|| named(name, address, "FUNC"))
            .flatten()
    });
    rows.collect()
}

fn named(name: &str, address: &str, kind: &str) -> Option<Named> {
    let resolver = kind.ends_with("IFUNC") || kind == "LOOS+0";
    let function = resolver || kind == "FUNC";
    // Versions are shown behind an @, which no symbol of these files has in its name.
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    let address = u64::from_str_radix(address, 16).ok()?;
    (function && !name.is_empty()).then(|| Named {
        address,
        name: name.to_owned(),
        resolver,
    })
}
