//! Types and variables asked of damaged debug information.

use std::process::Command;

use uprof_symbols::Image;
use uprof_symbols::types::{Scope, TypeModel};

use crate::fixtures::{Workshop, one, run};

/// Debug information with some bytes changed gives other answers or errors; it never ends the reader.
#[test]
fn damaged_types_do_no_harm() {
    let shop = Workshop::new();
    let source = "#include <string>\nstruct A { int x; A *next; }; struct B : A { std::string s; union { long l; char c[8]; }; };\n\
        __attribute__((noinline)) long takes(B b, const A &a, int n) { return b.l + a.x + n; }\nint main() { return takes(B(), B(), 3); }\n";
    let mut asked = 0;
    for flags in [["-gdwarf-5", "-O2"], ["-gdwarf-4", "-O0"]] {
        let program = shop.gcc("whole", "whole.cc", source, &flags);
        let whole = std::fs::read(&program).unwrap();
        let sections = run("readelf", Command::new("readelf").arg("-SW").arg(&program));
        let ranges: Vec<(usize, usize)> = sections
            .lines()
            .filter_map(|line| {
                let words: Vec<&str> = line.split(']').nth(1)?.split_whitespace().collect();
                let number = |at: usize| usize::from_str_radix(words.get(at)?, 16).ok();
                let wanted = [
                    ".debug_info",
                    ".debug_abbrev",
                    ".debug_loclists",
                    ".debug_loc",
                    ".debug_str",
                    ".debug_line",
                ];
                wanted
                    .contains(words.first()?)
                    .then(|| Some((number(3)?, number(4)?)))?
            })
            .collect();
        assert!(ranges.len() >= 4, "{sections}");
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % below as u64) as usize
        };
        for round in 0..250 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random(12) {
                let (start, len) = ranges[random(ranges.len())];
                bytes[start + random(len)] = [0, 0xff, 0x80, 1, random(256) as u8][random(5)];
            }
            let path = shop.write(&format!("damaged{round}"), bytes);
            asked += ask_everything(&path);
            std::fs::remove_file(path).unwrap();
        }
    }
    println!("500 damaged programs, {asked} answers");
}

fn ask_everything(program: &std::path::Path) -> usize {
    let image = Image::open(program).unwrap();
    let Ok(Some(types)) = image.types() else {
        return 0;
    };
    let mut answers = 0;
    for name in [
        "B",
        "A",
        "struct B",
        "std::string",
        "unsigned long",
        "nothing",
    ] {
        let Ok(Some(ty)) = types.named(name) else {
            continue;
        };
        for member in types.members(ty) {
            answers += 1 + types.type_name(member.ty).len().min(1);
            types.shape(member.ty);
            types.size(member.ty);
        }
    }
    let function = one(&image, "takes");
    for at in function.address..function.end {
        for scope in [Scope::Function, Scope::Inlined("basic_string")] {
            answers += types
                .variables(&function, at, scope)
                .map_or(0, |variables| variables.len());
        }
    }
    answers + types.returned(&function).map_or(0, |results| results.len())
}
