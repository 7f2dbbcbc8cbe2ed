//! Versions of Go's table that no Go at hand writes.

use uprof_symbols::{Image, go};

use crate::fixtures::Workshop;

/// The other versions' layouts, written by the assembler: a program of two functions, `main.f` with `main.g` inlined
/// at its bytes 4 to 8, lines 10 and 20 of two files.
fn handmade(layout: &str) -> String {
    let old = layout < "18";
    let magic = match layout {
        "12" => "0xfffffffb",
        "16" => "0xfffffffa",
        "18" => "0xfffffff0",
        _ => "0xfffffff1",
    };
    let start_line = if layout == "20" { ".long 9\n" } else { "" };
    let row = |function: &str, record: &str| match old {
        true => format!(".quad {function}, {record}\n"),
        false => format!(".long {function} - code, {record}\n"),
    };
    let record = |function: &str, name: &str, data: &str| {
        let entry = match old {
            true => format!(".quad {function}"),
            false => format!(".long {function} - code"),
        };
        let counts = match layout {
            "12" => ".long 0".into(),
            _ => format!(
                ".long 1\n{start_line}.byte 0, 0, 0, {}",
                if data.is_empty() { 0 } else { 4 }
            ),
        };
        format!(
            "record_{function}: {entry}\n.long {name} - names, 0, 0, 0, file_of - pcs, line_of - pcs, 3\n{counts}\n\
             .long 0, 0, tree_of - pcs\n{data}"
        )
    };
    let data = match layout {
        "12" => String::new(),
        "16" => ".balign 8\n.quad 0, 0, 0, tree\n".into(),
        _ => ".long -1, -1, -1, tree - data_base\n".into(),
    };
    let node = match layout {
        "20" => ".byte 0, 0, 0, 0\n.long name_g - names, 2, 20\n",
        _ => ".short -1, 0\n.long 0, 10, name_g - names, 2\n",
    };
    let base = if layout == "12" { "table" } else { "rows" };
    let names = if layout == "12" { "table" } else { "names" };
    let header = match layout {
        "12" => ".quad 2\n".into(),
        "16" => ".quad 2, 2, names - table, units - table, files - table, pcs - table, rows - table\n".to_owned(),
        _ => ".quad 2, 2, code, names - table, units - table, files - table, pcs - table, rows - table\n".into(),
    };
    let last = if old {
        ".quad code_end\n"
    } else {
        ".long code_end - code\n"
    };
    let file_table = if layout == "12" {
        ".long file_table - table\nfile_table: .long 3, file_a - table, file_b - table\n"
    } else {
        ""
    };
    let rows = format!(
        "rows: {}{}{last}{file_table}{}{}",
        row("main", &format!("record_main - {base}")),
        row("f", &format!("record_f - {base}")),
        record("main", "name_main", ""),
        record("f", "name_f", &data),
    )
    .replace("- names", &format!("- {names}"))
    .replace("- pcs", if layout == "12" { "- table" } else { "- pcs" });
    // The first file and line to byte 4, the second from there to the end; no inlined call, then the first node.
    let number = if layout == "12" { [4, 2] } else { [2, 2] };
    let names_part = "names: .byte 0\nname_main: .asciz \"main.main\"\nname_f: .asciz \"main.f\"\nname_g: .asciz \"main.g\"\n\
        .balign 4\nunits: .long -1, file_a - files, file_b - files\nfiles: .byte 0\nfile_a: .asciz \"/src/a.go\"\nfile_b: .asciz \"/src/b.go\"\n";
    let pcs = format!(
        "pcs: .byte 0\nfile_of: .byte {}, 4, {}, 4, 0\nline_of: .byte 22, 4, 20, 4, 0\ntree_of: .byte 0, 4, 2, 4, 0\n.balign 8\n",
        number[0], number[1]
    );
    let (before, after) = match layout {
        "12" => (rows, format!("{names_part}{pcs}")),
        _ => (format!("{names_part}{pcs}"), rows),
    };
    format!(
        ".text\n.globl main\ncode:\nmain: nop; nop; nop; nop; nop; nop; nop; ret\nf: nop; nop; nop; nop; nop; nop; nop; ret\ncode_end:\n\
         .section .gopclntab,\"a\"\n.balign 32\ntable: .long {magic}\n.byte 0, 0, 1, 8\n{header}{before}{after}\n\
         .section .rodata\n.balign 8\ndata_base: .long 0, 0\ntree: {node}\n\
         .data\n.balign 8\nmodule: .quad table, {first}\n.fill 20, 8, 0\n.quad code, code_end\n.fill {fill}, 8, 0\n.quad data_base\n.fill 16, 8, 0\n\
         .section .note.GNU-stack,\"\",@progbits\n",
        first = if layout == "12" { "0" } else { "names" },
        fill = if layout == "20" { 16 } else { 14 },
    )
}

#[test]
fn all_versions_of_the_table_are_read() {
    let workshop = Workshop::new();
    for layout in ["12", "16", "18", "20"] {
        for flags in [&["-no-pie"][..], &["-pie", "-Wl,-z,notext"]] {
            let path = workshop.gcc(layout, "table.s", &handmade(layout), flags);
            let image = Image::open(&path).unwrap();
            let table = go::read(&image).unwrap().expect(".gopclntab");
            let main = crate::fixtures::one(&image, "main").address;
            let found: Vec<_> = table
                .functions()
                .map(|f| (f.name, f.address, f.end))
                .collect();
            let wanted = [
                ("main.main".to_owned(), main, main + 8),
                ("main.f".to_owned(), main + 8, main + 16),
            ];
            assert_eq!(found, wanted, "{layout} {flags:?}");
            let frames = |at| -> Vec<String> {
                let frames = table.frames(&image, at).into_iter();
                frames
                    .map(|f| {
                        format!(
                            "{} {}:{} {}",
                            f.function,
                            f.file.unwrap(),
                            f.line.unwrap(),
                            f.inlined
                        )
                    })
                    .collect()
            };
            assert_eq!(
                frames(main + 1),
                ["main.main /src/a.go:10 false"],
                "{layout}"
            );
            assert_eq!(frames(main + 8), ["main.f /src/a.go:10 false"], "{layout}");
            let inner: &[&str] = match layout {
                "12" => &["main.f /src/b.go:20 false"],
                _ => &["main.g /src/b.go:20 true", "main.f /src/a.go:10 false"],
            };
            assert_eq!(frames(main + 13), inner, "{layout} {flags:?}");
            assert!(frames(main + 16).is_empty() && frames(main - 1).is_empty());
        }
    }
}

/// Damaged tables give fewer functions, never more than their bytes hold.
#[test]
fn damage_is_survived() {
    let workshop = Workshop::new();
    for layout in ["12", "16", "18", "20"] {
        let path = workshop.gcc(layout, "table.s", &handmade(layout), &["-no-pie"]);
        let bytes = std::fs::read(&path).unwrap();
        let start = (bytes.windows(4).position(|four| four == [0, 0, 1, 8])).unwrap() - 4;
        for at in start..start + 400 {
            for value in [0x00, 0x7f, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                let image = Image::open(&workshop.write("damaged", damaged)).unwrap();
                let Some(table) = go::read(&image).unwrap() else {
                    continue;
                };
                let functions: Vec<_> = table.functions().collect();
                assert!(functions.len() < 200, "{at} {value}");
                for function in functions {
                    for address in [function.address, function.address + 5, function.end] {
                        assert!(table.frames(&image, address).len() < 200);
                    }
                }
            }
        }
    }
}
