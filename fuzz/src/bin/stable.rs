//! The fuzz targets without nightly: a seeded mutator instead of libFuzzer's coverage.
//!
//!     cargo run --release --bin stable -- TARGET [MINUTES [SEED]]
//!
//! What panics is kept in `found/`, and the run goes on; what hangs or takes too much memory ends it, and `found/last-*`
//! is that input.

#[path = "../../../symbols/tests/mutations/mutate.rs"]
mod mutate;
#[allow(dead_code, reason = "only some of them are seeds")]
#[path = "../../../tests/harness/variants.rs"]
mod variants;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mutate::{Original, Random};
use object::{Object, ObjectSection};
use variants::Variant;

/// Nothing may take longer.
const PATIENCE: Duration = Duration::from_secs(20);

const TARGETS: &[(&str, fn(&[u8]))] = &[
    ("elf", uprof_fuzz::elf),
    ("dwarf", uprof_fuzz::dwarf),
    ("pclntab", uprof_fuzz::pclntab),
    ("xz", uprof_fuzz::xz),
    ("notes", uprof_fuzz::notes),
    ("patterns", uprof_fuzz::patterns),
    ("recipes", uprof_fuzz::recipes),
    ("expressions", uprof_fuzz::expressions),
];

/// What is mutated: files with their layout, or plain bytes.
enum Seed {
    File(Original),
    Bytes(Vec<u8>),
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let name = args.first().map_or("", String::as_str);
    let Some((name, target)) = TARGETS.iter().find(|(known, _)| *known == name) else {
        eprintln!(
            "usage: stable elf|dwarf|pclntab|xz|notes|patterns|recipes|expressions [MINUTES [SEED]]"
        );
        std::process::exit(2);
    };
    let number = |at: usize, otherwise: u64| {
        args.get(at).map_or(otherwise, |text| {
            text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
        })
    };
    let end = Instant::now() + Duration::from_secs(60 * number(1, 60));
    let (seeds, next) = (seeds(name), AtomicU64::new(number(2, 1) << 32));
    let (runs, found) = (AtomicU64::new(0), AtomicUsize::new(0));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("found");
    std::fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let since: Vec<Mutex<Instant>> = (0..threads).map(|_| Mutex::new(Instant::now())).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| watch(&since, end));
        for (thread, since) in since.iter().enumerate() {
            let (seeds, next, runs, found, folder) = (&seeds, &next, &runs, &found, &folder);
            scope.spawn(move || {
                while Instant::now() < end {
                    let case = next.fetch_add(1, Ordering::Relaxed);
                    let input = mutated(seeds, &mut Random::new(case));
                    let last = folder.join(format!("last-{name}-{thread}"));
                    std::fs::write(&last, &input)
                        .unwrap_or_else(|e| panic!("{}: {e}", last.display()));
                    *since.lock().expect("no thread fails here") = Instant::now();
                    if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
                        found.fetch_add(1, Ordering::Relaxed);
                        let kept = folder.join(format!("{name}-{case}"));
                        std::fs::write(&kept, &input)
                            .unwrap_or_else(|e| panic!("{}: {e}", kept.display()));
                        eprintln!("panic: {}", kept.display());
                    }
                    runs.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    println!(
        "{name}: {} inputs, {} panics",
        runs.into_inner(),
        found.into_inner()
    );
}

fn watch(since: &[Mutex<Instant>], end: Instant) {
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200));
        for (thread, since) in since.iter().enumerate() {
            if since.lock().expect("no thread fails here").elapsed() > PATIENCE {
                eprintln!("hang: found/last-*-{thread}");
                std::process::exit(1);
            }
        }
    }
}

fn seeds(target: &str) -> Vec<Seed> {
    let folder = std::env::temp_dir().join("uprof-fuzz");
    let program =
        |variant: Variant| std::fs::read(variant.build(&folder).program).expect("a built program");
    let section = |variant: Variant, name: &str| {
        let bytes = program(variant);
        let file = object::File::parse(&*bytes).expect("a built program");
        let section = file
            .section_by_name(name)
            .unwrap_or_else(|| panic!("{variant:?} has no {name}"));
        section
            .uncompressed_data()
            .expect("a whole section")
            .into_owned()
    };
    match target {
        "elf" => {
            use Variant::{Compressed, Cpp, MiniDebug, Musl, NonPie, Pie, Semaphores, Static};
            let variants = [
                Pie, NonPie, Semaphores, Cpp, Musl, MiniDebug, Compressed, Static,
            ];
            let file =
                |variant| Seed::File(Original::new(&format!("{variant:?}"), program(variant)));
            variants.into_iter().map(file).collect()
        }
        "dwarf" => [Variant::Pie, Variant::Dwarf4, Variant::Cpp]
            .into_iter()
            .map(|variant| {
                let mut input = Vec::new();
                let names = [".debug_info", ".debug_abbrev", ".debug_line", ".debug_str"];
                for (which, name) in names.iter().enumerate() {
                    let bytes = section(variant, name);
                    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
                    input.extend([which as u8, 0]);
                    input.extend(len.to_le_bytes());
                    input.extend(&bytes[..usize::from(len)]);
                }
                Seed::Bytes(input)
            })
            .collect(),
        "pclntab" => vec![Seed::Bytes(section(Variant::GoStripped, ".gopclntab"))],
        "xz" => vec![Seed::Bytes(section(Variant::MiniDebug, ".gnu_debugdata"))],
        "notes" => vec![Seed::Bytes(section(Variant::Semaphores, ".note.stapsdt"))],
        "recipes" => uprof_fuzz::recipe_seeds()
            .into_iter()
            .map(|text| Seed::Bytes(text.into_bytes()))
            .collect(),
        "expressions" => uprof_fuzz::expression_seeds()
            .into_iter()
            .map(Seed::Bytes)
            .collect(),
        _ => uprof_fuzz::PATTERNS
            .iter()
            .map(|text| Seed::Bytes(text.as_bytes().to_vec()))
            .collect(),
    }
}

fn mutated(seeds: &[Seed], random: &mut Random) -> Vec<u8> {
    match random.pick(seeds) {
        Seed::File(original) => original.damaged(random).0,
        Seed::Bytes(bytes) => changed(bytes.clone(), random),
    }
}

/// Bits flipped, bytes and words set, pieces cut out and doubled.
fn changed(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..1 + random.below(6) {
        if bytes.is_empty() {
            return bytes;
        }
        let at = random.below(bytes.len());
        // Headers come first: half of the changes hit them.
        let at = if random.below(2) == 0 {
            at % 96 % bytes.len()
        } else {
            at
        };
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = *random.pick(&[0, 1, 0x7f, 0x80, 0xff, b'*', b'<', b'(']),
            2 => bytes[at] = random.next() as u8,
            3 => bytes.truncate(at),
            4 => {
                let end = (at + 1 + random.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            5 => {
                let end = (at + 1 + random.below(64)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let word = *random.pick(&[
                    0,
                    u64::MAX,
                    1 << 31,
                    1 << 63,
                    u64::from(u32::MAX),
                    bytes.len() as u64,
                ]);
                let width = *random.pick(&[2, 4, 8]);
                let end = (at + width).min(bytes.len());
                bytes[at..end].copy_from_slice(&word.to_le_bytes()[..end - at]);
            }
        }
    }
    bytes
}
