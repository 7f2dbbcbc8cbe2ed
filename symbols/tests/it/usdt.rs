use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use uprof_symbols::usdt::Operand;
use uprof_symbols::{Image, Usdt};

use crate::fixtures::{Workshop, installed, run};

/// (provider, name, address, semaphore, arguments) as readelf prints the notes.
fn by_readelf(path: &Path) -> Vec<(String, String, u64, u64, String)> {
    let text = run("readelf", Command::new("readelf").args(["-nW"]).arg(path));
    let mut notes = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(provider) = line.split("Provider: ").nth(1) else {
            continue;
        };
        let name = lines.next().unwrap().strip_prefix("Name: ").unwrap();
        let places = lines.next().unwrap();
        let hex = |what: &str| {
            let text = places
                .split(what)
                .nth(1)
                .unwrap()
                .split([',', ' '])
                .next()
                .unwrap();
            u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap()
        };
        let args = lines
            .next()
            .unwrap()
            .strip_prefix("Arguments:")
            .unwrap()
            .trim();
        notes.push((
            provider.to_owned(),
            name.to_owned(),
            hex("Location: "),
            hex("Semaphore: "),
            args.to_owned(),
        ));
    }
    notes.sort_by(|a, b| (a.2, &a.0, &a.1).cmp(&(b.2, &b.0, &b.1)));
    notes
}

#[test]
fn probes_are_those_that_readelf_prints() {
    for (path, package, count) in [
        ("/usr/bin/python3.11", "python3.11", 8),
        ("/usr/lib/x86_64-linux-gnu/libstdc++.so.6", "libstdc++6", 3),
    ] {
        let path = installed(path, package);
        let image = Image::open(&path).unwrap();
        let probes = image.usdt().unwrap();
        assert!(
            probes.len() >= count,
            "{}: {}",
            path.display(),
            probes.len()
        );
        let bytes = std::fs::read(&path).unwrap();
        let ours: Vec<_> = probes
            .iter()
            .map(|p| {
                // Each stands on a nop.
                assert_eq!(bytes[p.offset as usize], 0x90, "{p:?}");
                let args: Vec<&str> = p.args.iter().map(|arg| arg.text.as_str()).collect();
                for arg in &p.args {
                    assert!(!matches!(arg.operand, Operand::Unreadable(_)), "{p:?}");
                }
                let semaphore = p.semaphore.map_or(0, |s| s.address);
                (
                    p.provider.clone(),
                    p.name.clone(),
                    p.address,
                    semaphore,
                    args.join(" "),
                )
            })
            .collect();
        assert_eq!(ours, by_readelf(&path));
        for semaphore in probes.iter().filter_map(|p| p.semaphore) {
            let offset = semaphore.offset.unwrap() as usize;
            assert_eq!(bytes[offset..offset + 2], [0, 0], "{semaphore:?}");
        }
    }
    let python = Image::open(Path::new("/usr/bin/python3.11")).unwrap();
    assert!(python.usdt().unwrap().iter().any(|p| p.semaphore.is_some()));
    assert!(crate::fixtures::mariadbd().usdt().unwrap().is_empty());
}

/// A program that stops at its own probes: it puts breakpoints there, and prints the registers and the stack.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#define SDT_USE_VARIADIC
#define _SDT_HAS_SEMAPHORES 1
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#define SEMAPHORE(n) __extension__ unsigned short shop_##n##_semaphore __attribute__((unused, section(".probes")))
SEMAPHORE(sizes); SEMAPHORE(places); SEMAPHORE(globals); SEMAPHORE(none); SEMAPHORE(twice); SEMAPHORE(floats);
#include <sys/sdt.h>
static volatile long counter = 1234567;
static int table[4] = {10, -20, 30, -40};
struct room { char first; short second; int third; long fourth; };

/* Registers at each SIGTRAP, DWARF order, then the memory that operands lead to is read by the parent. */
static void on_trap(int n, siginfo_t *info, void *context) {
    (void)n; (void)info;
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    static const int order[] = {REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP,
        REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP};
    for (int i = 0; i < 17; i++) printf("%lx ", (unsigned long)(i == 16 ? r[order[i]] - 1 : r[order[i]]));
    /* the stack around, for what lies there */
    unsigned char *from = (unsigned char *)((r[REG_RSP] - 128) & ~7ul);
    printf("%lx ", (unsigned long)from);
    for (int i = 0; i < 512; i++) printf("%02x", from[i]);
    printf("\n");
    fflush(stdout);
}

__attribute__((noipa)) static void sizes(signed char a, unsigned char b, short c, unsigned short d, int e,
        unsigned f, long g, unsigned long h) {
    STAP_PROBE8(shop, sizes, a, b, c, d, e, f, g, h);
}
__attribute__((noipa)) static void places(struct room *r, int *t, long i) {
    STAP_PROBE7(shop, places, r->first, r->second, r->third, r->fourth, t[i], 5, -6);
}
__attribute__((noipa)) static void globals(void) { STAP_PROBE2(shop, globals, counter, table[1]); }
static inline __attribute__((always_inline)) void twice(int n) { STAP_PROBE1(shop, twice, n); }
__attribute__((noipa)) static void floats(double d, float f, int n) { STAP_PROBE3(shop, floats, d, f, n); }

int main(int argc, char **argv) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_trap;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGTRAP, &action, 0);
    printf("%lx\n", (unsigned long)main);
    /* Arguments: distances of probes from main; each nop becomes int3. */
    for (int i = 1; i < argc; i++) {
        unsigned char *at = (unsigned char *)((unsigned long)main + strtol(argv[i], 0, 0));
        mprotect((void *)((unsigned long)at & ~4095ul), 8192, PROT_READ | PROT_WRITE | PROT_EXEC);
        if (*at != 0x90) return 9;
        *at = 0xcc;
    }
    struct room r = {-7, -300, -70000, -5000000000};
    sizes(-1, 200, -300, 60000, -70000, 4000000000u, -5000000000, 18000000000000000000ul);
    places(&r, table, 3);
    globals();
    STAP_PROBE(shop, none);
    twice(111); floats(2.5, 1.5f, 7); twice(222);
    return 0;
}
"#;

/// One hit: the registers by DWARF number, and a stretch of the stack.
struct Hit {
    registers: Vec<u64>,
    stack: u64,
    bytes: Vec<u8>,
}

impl Hit {
    fn parse(line: &str) -> Self {
        let mut words: Vec<&str> = line.split_ascii_whitespace().collect();
        let dump = words.pop().unwrap();
        let number = |word: &&str| u64::from_str_radix(word, 16).unwrap();
        let mut numbers: Vec<u64> = words.iter().map(number).collect();
        let stack = numbers.pop().unwrap();
        let byte = |at: usize| u8::from_str_radix(&dump[at..at + 2], 16).unwrap();
        let bytes = (0..dump.len()).step_by(2).map(byte).collect();
        Self {
            registers: numbers,
            stack,
            bytes,
        }
    }

    /// The value of an argument, as a probe would read it. What lies in the file's data is as the file has it.
    fn value(&self, probe: &Usdt, arg: usize, image: &Image, file: &[u8]) -> i128 {
        let arg = &probe.args[arg];
        let register = |n: u8| self.registers[usize::from(n)];
        let size = usize::from(arg.size);
        let raw = match &arg.operand {
            Operand::Constant(value) => value.cast_unsigned(),
            Operand::Register { register: n, shift } => register(*n) >> shift,
            Operand::Memory {
                base,
                index,
                displacement,
            } => {
                let at = base
                    .map_or(0, register)
                    .wrapping_add(
                        index.map_or(0, |(n, scale)| register(n).wrapping_mul(u64::from(scale))),
                    )
                    .wrapping_add_signed(*displacement);
                let bias = self.registers[16].wrapping_sub(probe.address);
                let bytes = match usize::try_from(at.wrapping_sub(self.stack)) {
                    Ok(at) if at + size <= self.bytes.len() => self.bytes[at..at + size].to_vec(),
                    _ => data_at(image, file, at.wrapping_sub(bias), size),
                };
                let mut word = [0; 8];
                word[..size].copy_from_slice(&bytes);
                u64::from_le_bytes(word)
            }
            Operand::Unreadable(why) => panic!("{why}"),
        };
        let bits = 8 * u32::from(arg.size);
        let raw = raw << (64 - bits);
        match arg.signed {
            true => i128::from(raw.cast_signed() >> (64 - bits)),
            false => i128::from(raw >> (64 - bits)),
        }
    }
}

/// Initialised data, by the program headers.
fn data_at(image: &Image, file: &[u8], address: u64, size: usize) -> Vec<u8> {
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
    let headers = word(32) as usize;
    let count = usize::from(u16::from_le_bytes([file[56], file[57]]));
    for header in (0..count).map(|n| headers + n * 56) {
        let (offset, start, len) = (word(header + 8), word(header + 16), word(header + 32));
        if file[header] == 1 && address >= start && address + size as u64 <= start + len {
            let at = (address - start + offset) as usize;
            return file[at..at + size].to_vec();
        }
    }
    panic!("{address:#x} is not in {}", image.path().display());
}

/// The values that operands lead to are those that the program passed, however it was compiled.
#[test]
fn operands_lead_to_the_arguments() {
    installed(
        "/usr/include/x86_64-linux-gnu/sys/sdt.h",
        "systemtap-sdt-dev",
    );
    let workshop = Workshop::new();
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for compiler in ["gcc", "g++"] {
        for flags in [
            &["-O0"][..],
            &["-O2"],
            &["-O2", "-fno-pie", "-no-pie"],
            &["-Os", "-fomit-frame-pointer"],
        ] {
            let name = format!("{compiler}{}", flags.concat());
            let source = workshop.write(&format!("shop-{compiler}.c"), SOURCE);
            let path = workshop.path(&name);
            run(
                compiler,
                Command::new(compiler)
                    .args(flags)
                    .arg("-w")
                    .arg("-o")
                    .arg(&path)
                    .arg(source),
            );
            let image = Image::open(&path).unwrap();
            let probes = image.usdt().unwrap();
            let readelf: Vec<u64> = by_readelf(&path).into_iter().map(|note| note.2).collect();
            assert_eq!(
                probes.iter().map(|p| p.address).collect::<Vec<_>>(),
                readelf,
                "{name}"
            );
            let main = crate::fixtures::one(&image, "main").address.cast_signed();
            let places = probes
                .iter()
                .map(|p| (p.address.cast_signed() - main).to_string());
            let text = run("shop", Command::new(&path).args(places));
            let (loaded, text) = text.split_once('\n').unwrap();
            let bias = u64::from_str_radix(loaded, 16).unwrap() - main.cast_unsigned();
            let hits: Vec<Hit> = text.lines().map(Hit::parse).collect();
            assert_eq!(hits.len(), 7, "{name}: {text}");
            let file = std::fs::read(&path).unwrap();
            let values: Vec<(&str, Vec<i128>)> = hits
                .iter()
                .map(|hit| {
                    let at = hit.registers[16] - bias;
                    let probe = probes.iter().find(|p| p.address == at).expect("a probe");
                    let readable = (0..probe.args.len())
                        .filter(|n| !probe.args[*n].float)
                        .map(|n| hit.value(probe, n, &image, &file));
                    (probe.name.as_str(), readable.collect())
                })
                .collect();
            let wanted: Vec<(&str, Vec<i128>)> = vec![
                (
                    "sizes",
                    vec![
                        -1,
                        200,
                        -300,
                        60000,
                        -70000,
                        4_000_000_000,
                        -5_000_000_000,
                        18_000_000_000_000_000_000,
                    ],
                ),
                ("places", vec![-7, -300, -70000, -5_000_000_000, -40, 5, -6]),
                ("globals", vec![1_234_567, -20]),
                ("none", vec![]),
                ("twice", vec![111]),
                ("floats", vec![7]),
                ("twice", vec![222]),
            ];
            assert_eq!(values, wanted, "{name}");
            for arg in probes.iter().flat_map(|p| &p.args) {
                let kind = match &arg.operand {
                    Operand::Constant(_) => "constant",
                    Operand::Register { .. } => "register",
                    Operand::Memory { base: Some(16), .. } => "global",
                    Operand::Memory { index: Some(_), .. } => "indexed",
                    Operand::Memory { .. } => "memory",
                    Operand::Unreadable(_) => "unreadable",
                };
                *kinds.entry(kind).or_default() += 1;
            }
            let semaphores: Vec<_> = probes.iter().filter_map(|p| p.semaphore).collect();
            assert_eq!(semaphores.len(), probes.len(), "{name}");
            for semaphore in semaphores {
                let at = semaphore.offset.unwrap() as usize;
                assert_eq!(
                    data_at(&image, &file, semaphore.address, 2),
                    file[at..at + 2]
                );
            }
            assert!(probes.iter().filter(|p| p.name == "twice").count() == 2);
        }
    }
    for kind in ["constant", "register", "global", "memory"] {
        assert!(kinds.contains_key(kind), "{kinds:?}");
    }
    eprintln!("operands: {kinds:?}");
}

/// Damaged notes are left out, or tell less.
#[test]
fn damage_is_survived() {
    let workshop = Workshop::new();
    let source = "#include <sys/sdt.h>\nint main(int n, char **v) { STAP_PROBE2(a, b, n, v[0]); return 0; }\n";
    let path = workshop.gcc("one", "one.c", source, &[]);
    let bytes = std::fs::read(&path).unwrap();
    let start = bytes.windows(8).position(|w| w == b"stapsdt\0").unwrap() - 12;
    for at in start..start + 72 {
        for value in [0x00, 0x24, 0x7f, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            let image = Image::open(&workshop.write("damaged", damaged)).unwrap();
            assert!(image.usdt().unwrap().len() <= 1, "{at} {value}");
        }
    }
}
