//! The ELF object that `--dump-bpf` writes; no root needed.

mod common;

use common::*;
use object::{Object, ObjectSection, ObjectSymbol};
use uprof_ebpf::expr::Expr;
use uprof_ebpf::{Action, Capture, EngineOptions, FrameName, KeyPart, Mechanism, dump_object};

#[test]
fn the_object_has_a_section_per_program_and_relocations_for_maps() {
    let text = Capture::Str {
        addr: arg(0),
        len: None,
        limit: 64,
    };
    let latency = Action::Histogram {
        value: Expr::Latency,
        key: vec![],
        scale: uprof_ebpf::Scale::Log,
    };
    let specs = vec![
        entry(Action::Event {
            captures: vec![text],
        }),
        call(vec![], latency.clone()),
        exits(vec![], FrameName::Running, latency),
        exits(vec![], FrameName::Stack, Action::Running { value: arg(0) }),
    ];
    let dir = std::env::temp_dir().join(format!("uprof-object-{}", std::process::id()));
    for (mechanism, expected) in [
        (
            None,
            vec![
                "uprobe.multi/entry",
                "uprobe.session/call",
                "uprobe.multi/exits",
                "uprobe.multi/exits/exit",
                "uprobe.multi/exits",
                "uprobe.multi/exits/exit",
            ],
        ),
        (
            Some(Mechanism::Perf),
            vec![
                "uprobe/entry",
                "uprobe/call",
                "uretprobe/call",
                "uprobe/exits",
                "uprobe/exits/exit",
                "uprobe/exits",
                "uprobe/exits/exit",
            ],
        ),
    ] {
        let options = EngineOptions {
            mechanism,
            ..EngineOptions::default()
        };
        dump_object(specs.clone(), &options, &dir).unwrap();
        let bytes = std::fs::read(&dir).unwrap();
        std::fs::remove_file(&dir).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        assert_eq!(file.architecture(), object::Architecture::Bpf);
        let programs: Vec<_> = file
            .sections()
            .filter(|s| s.kind() == object::SectionKind::Text)
            .map(|s| s.name().unwrap().to_string())
            .collect();
        assert_eq!(programs, expected);
        for section in file
            .sections()
            .filter(|s| s.kind() == object::SectionKind::Text)
        {
            let data = section.data().unwrap();
            assert!(
                data.len() % 8 == 0 && data[data.len() - 8] == 0x95,
                "it ends with exit"
            );
            assert!(section.relocations().count() > 0);
            for (at, _) in section.relocations() {
                assert!(
                    [0x18, 0x85].contains(&data[at as usize]),
                    "a load of a map or a call"
                );
            }
        }
        let maps: Vec<_> = file
            .symbols()
            .filter_map(|s| s.name().ok().map(str::to_string))
            .collect();
        for map in ["state", "ring", "scratch", "running", "frames_2"] {
            assert!(maps.iter().any(|m| m == map), "{map} in {maps:?}");
        }
    }
    let depth = call(
        vec![],
        Action::Count {
            key: vec![KeyPart::Int(Expr::Depth)],
        },
    );
    dump_object(vec![depth], &EngineOptions::default(), &dir).unwrap();
    let bytes = std::fs::read(&dir).unwrap();
    std::fs::remove_file(&dir).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let names: Vec<_> = file.symbols().filter_map(|s| s.name().ok()).collect();
    assert!(
        names.contains(&"tops") && names.contains(&"chain"),
        "{names:?}"
    );
    let nowhere = dump_object(specs, &EngineOptions::default(), "/nonexistent/x".as_ref());
    assert!(nowhere.unwrap_err().to_string().contains("/nonexistent/x"));
}
