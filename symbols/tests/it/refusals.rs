use std::path::Path;
use std::process::Command;

use uprof_symbols::{Error, Image, Pattern};

use crate::fixtures::{Workshop, run};

fn error(path: &Path) -> Error {
    Image::open(path).expect_err("this should be refused")
}

#[test]
fn what_is_no_program_is_told_for_what_it_is() {
    let workshop = Workshop::new();
    let cases = [
        (
            workshop.write("script", "#!/bin/sh\nexit 0\n"),
            "a script (starts with \"#!/bin/sh\")",
        ),
        (
            workshop.write("text", "hello there, this is text\n"),
            "a text file (starts with \"hello there",
        ),
        (workshop.write("empty", ""), "an empty file"),
        (workshop.write("archive", "!<arch>\nfoo/"), "static library"),
        (
            workshop.write("binary", [0u8, 1, 2, 3, 0xff, 0, 0, 0]),
            "starts with 00 01 02 03",
        ),
    ];
    for (path, word) in cases {
        let error = error(&path);
        assert!(matches!(error, Error::NotElf { .. }), "{error:?}");
        let message = error.to_string();
        assert!(
            message.contains(word) && message.contains(&path.display().to_string()),
            "{message}"
        );
    }
    assert!(matches!(error(&workshop.path("")), Error::Directory(_)));
    assert!(matches!(
        error(Path::new("/dev/null")),
        Error::NotElf { .. }
    ));
    let message = error(&workshop.path("missing")).to_string();
    assert!(
        message.contains("cannot open") && message.contains("No such file"),
        "{message}"
    );
}

#[test]
fn other_processors_and_other_kinds_of_elf() {
    let workshop = Workshop::new();
    let source = workshop.write("small.s", ".text\n.globl _start\n_start: nop\n ret\n");
    let (object, program) = (workshop.path("small.o"), workshop.path("small"));
    run(
        "as",
        Command::new("as")
            .arg("--32")
            .arg("-o")
            .arg(&object)
            .arg(&source),
    );
    run(
        "ld",
        Command::new("ld")
            .args(["-m", "elf_i386", "-o"])
            .arg(&program)
            .arg(&object),
    );
    assert!(matches!(error(&program), Error::WrongClass(_)));
    assert!(error(&program).to_string().contains("32-bit"));

    run("as", Command::new("as").arg("-o").arg(&object).arg(&source));
    let message = error(&object).to_string();
    assert!(message.contains("object file"), "{message}");
    run(
        "ld",
        Command::new("ld").arg("-o").arg(&program).arg(&object),
    );
    let image = Image::open(&program).unwrap();
    assert_eq!(
        image
            .find(&Pattern::parse("_start").unwrap())
            .unwrap()
            .len(),
        1
    );

    let mut bytes = std::fs::read(&program).unwrap();
    bytes[18] = 183; // e_machine: EM_AARCH64
    let foreign = error(&workshop.write("foreign", &bytes));
    assert!(
        matches!(&foreign, Error::ForeignArch { found, .. } if found == "aarch64"),
        "{foreign}"
    );
    bytes[5] = 2; // EI_DATA: big-endian
    assert!(matches!(
        error(&workshop.write("big", &bytes)),
        Error::ForeignArch { .. }
    ));
}

/// Opens and asks everything of a file; what comes is a result or an error, in bounded time.
fn ask_everything(path: &Path) -> Result<(), Error> {
    let image = Image::open(path)?;
    let _ = (
        image.build_id(),
        image.interpreter(),
        image.needed(),
        image.is_static(),
        image.is_go(),
    );
    for function in image.functions()? {
        let _ = image.code(&function, 64);
        let _ = image.place(
            &function,
            uprof_symbols::site::Purpose::Entry,
            Default::default(),
        );
        let _ = image.place_at(&function, 3);
        let _ = image.exits(&function);
    }
    let _ = image.find(&Pattern::parse("m*")?)?;
    let _ = image.find_ifuncs(&Pattern::parse("*")?)?;
    let _ = image.nearest("mian", 3);
    Ok(())
}

fn small_program(workshop: &Workshop) -> Vec<u8> {
    let source = "int f(int x) { return x + 1; }\nint main(void) { return f(2); }\n";
    std::fs::read(workshop.gcc("small", "small.c", source, &["-O1"])).unwrap()
}

#[test]
fn cut_at_any_length_it_is_an_error_and_never_a_panic() {
    let workshop = Workshop::new();
    let whole = small_program(&workshop);
    ask_everything(&workshop.write("whole", &whole)).unwrap();
    let lengths = (0..200)
        .chain((200..whole.len()).step_by(61))
        .chain(whole.len() - 70..whole.len());
    for len in lengths {
        let path = workshop.write("cut", &whole[..len]);
        let error = ask_everything(&path).expect_err("a part of a program is none");
        let told = match &error {
            Error::Truncated { .. } => len > 0,
            Error::NotElf { .. } => len == 0,
            _ => false,
        };
        assert!(told, "{len} of {} bytes: {error:?}", whole.len());
    }
}

#[test]
fn changed_bytes_are_survived() {
    let workshop = Workshop::new();
    let whole = small_program(&workshop);
    let mut seed = 0x5eed_u64;
    let mut next = move || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap()
    };
    let tables = whole.len() - whole.len() / 3;
    let mut refused = 0;
    for round in 0..1500 {
        let mut bytes = whole.clone();
        for _ in 0..=next() % 4 {
            // Mostly where it hurts: the headers at the front and the tables at the back.
            let at = match round % 3 {
                0 => next() % 1024,
                1 => tables + next() % (bytes.len() - tables),
                _ => next() % bytes.len(),
            };
            bytes[at] = if next() % 2 == 0 { 0xff } else { next() as u8 };
        }
        refused += u32::from(ask_everything(&workshop.write("changed", &bytes)).is_err());
    }
    assert!(
        refused > 50,
        "{refused} of 1500: the changes did not reach what is checked"
    );
}
