//! The crate beside the tools that everybody trusts: `nm`, `readelf`, `eu-readelf` and `go tool nm` for names,
//! `llvm-symbolizer` and `addr2line` for addresses. Prints what was compared:
//!
//!     cargo test -p uprof-symbols --test oracles -- --nocapture
//!
//! Where the tools and the crate differ, `differences.toml` says why; a difference that it does not explain fails,
//! and so does an explanation that explains nothing any more.

mod addresses;
mod differences;
mod names;
mod subjects;
#[allow(dead_code, reason = "each test builds some of them")]
#[path = "../../../tests/harness/variants.rs"]
mod variants;

use differences::Differences;
use subjects::Subject;

/// What a comparison came to.
#[derive(Default)]
struct Tally {
    /// How many were compared.
    compared: usize,
    /// Those that differ, in words.
    differing: Vec<String>,
}

/// Compares all subjects by COMPARE, on as many threads as there are processors, and prints a line for each.
fn all(what: &str, compare: impl Fn(&Subject) -> Tally + Sync) {
    let subjects = subjects::all();
    let differences = Differences::read(what);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let results = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(subject) =
                    subjects.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    let tally = compare(subject);
                    let mut results = results.lock().expect("no thread failed before");
                    results.push((subject, tally));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no thread failed");
    results.sort_by_key(|(subject, _)| subject.name);
    let mut failures = Vec::new();
    let (mut total, mut explained_total) = (0, 0);
    for (subject, tally) in &results {
        assert!(
            tally.compared > 0,
            "{what} of {}: nothing was compared",
            subject.name
        );
        let (explained, unexplained) = differences.sort(subject.name, &tally.differing);
        println!(
            "{what:9} {:18} {:6} compared, {:6} equal, {explained:4} differ as explained, {:4} differ",
            subject.name,
            tally.compared,
            tally.compared - tally.differing.len(),
            unexplained.len()
        );
        total += tally.compared;
        explained_total += explained;
        let count = unexplained.len();
        let shown = unexplained.iter().take(25);
        failures.extend(shown.map(|text| format!("{}: {text}", subject.name)));
        if count > 25 {
            failures.push(format!("{}: and {} more", subject.name, count - 25));
        }
    }
    println!("{what:9} {total} compared in all, {explained_total} differ as explained");
    failures.extend(differences.unused());
    assert!(failures.is_empty(), "{what}:\n{}", failures.join("\n"));
}

#[test]
fn every_function_that_other_tools_name_is_found() {
    all("names", names::compare);
}

#[test]
fn addresses_are_what_other_tools_say() {
    all("addresses", addresses::compare);
}
