//! Functions of the kernel, by fentry and fexit and by kprobes. Where this kernel has them not, the
//! error must say so; tests/vm runs this on kernels that have (there UPROF_TEST_FUNCTIONS=1 makes
//! it a failure if not).

mod common;

use std::io::{Read, Seek};

use common::*;
use uprof_ebpf::expr::{BinOp, Expr, IntType};
use uprof_ebpf::{
    Action, Capture, Engine, EngineOptions, KernelHook, KernelSite, KernelSource, On, ProbeSpec,
    features,
};

const SOURCES: [KernelSource; 2] = [KernelSource::Function, KernelSource::Kprobe];

/// `ssize_t vfs_read(struct file *, char __user *, size_t, loff_t *)`, which modules can call: it
/// is in every kernel, and not inlined.
fn vfs_read(source: KernelSource) -> [KernelSite; 1] {
    let name = "vfs_read".to_string();
    let hook = match source {
        KernelSource::Function => KernelHook::Function {
            btf_id: features::function_id(&name).unwrap().expect("its number"),
            name,
            arguments: 4,
            module: None,
        },
        _ => KernelHook::Kprobe { name },
    };
    [KernelSite { hook, site: 0 }]
}

/// Those that work here; of the others that they are refused with a reason.
fn sources() -> Vec<KernelSource> {
    let mut works = SOURCES.to_vec();
    works.retain(|source| {
        let Err(why) = features::kernel(*source) else {
            return true;
        };
        let required = std::env::var_os("UPROF_TEST_FUNCTIONS").is_some();
        assert!(!required, "{source:?}: {why}");
        assert!(!why.is_empty());
        let spec = on(*source, entry(Action::Count { key: vec![] }));
        let mut engine = load(spec, &options(false));
        let error = engine
            .attach_kernel(0, &vfs_read(*source), None)
            .unwrap_err();
        let message = error.to_string();
        assert!(message.contains("kernel function vfs_read"), "{message}");
        false
    });
    works
}

fn on(source: KernelSource, spec: ProbeSpec) -> ProbeSpec {
    ProbeSpec {
        on: On::Kernel(source),
        ..spec
    }
}

fn options(oldest: bool) -> EngineOptions {
    EngineOptions {
        ring_bytes: 1 << 20,
        oldest,
        verifier_log: true,
        ..EngineOptions::default()
    }
}

fn cases() -> Vec<(KernelSource, bool)> {
    let sources = sources().into_iter();
    sources.flat_map(|s| [(s, false), (s, true)]).collect()
}

#[track_caller]
fn hook(engine: &mut Engine, source: KernelSource) {
    let sites = vfs_read(source);
    if let Err(e) = engine.attach_kernel(0, &sites, Some(std::process::id())) {
        let log = e.verifier_log().unwrap_or_default();
        panic!("{e}\n{}", &log[log.len().saturating_sub(6000)..]);
    }
}

/// Reads of `SIZE` bytes are this test's own.
const SIZE: usize = 777;

fn of_that_size() -> Option<Expr> {
    Some(op(BinOp::Eq, arg(2), int(SIZE as u64)))
}

/// Reads so often from the middle of a file of 1000 bytes; how many bytes each gave.
fn read(times: usize, from: u64) -> usize {
    let path = std::env::temp_dir().join(format!("uprof-functions-{}", std::process::id()));
    std::fs::write(&path, vec![b'x'; 1000]).unwrap();
    let mut file = std::fs::File::open(&path).unwrap();
    let mut room = vec![0; SIZE];
    let mut got = 0;
    for _ in 0..times {
        file.seek(std::io::SeekFrom::Start(from)).unwrap();
        got = file.read(&mut room).unwrap();
    }
    std::fs::remove_file(&path).unwrap();
    got
}

fn ints(engine: &mut Engine) -> Vec<Vec<Option<u64>>> {
    let mut all = Vec::new();
    engine
        .drain(|r| all.push((0..r.len()).map(|i| r.int(i)).collect()))
        .unwrap();
    all
}

/// The offset is the fourth argument, a pointer into the kernel.
#[test]
fn a_functions_arguments_and_what_they_point_to() {
    let _alone = alone();
    for (source, oldest) in cases() {
        let offset = Expr::Load {
            addr: Box::new(arg(3)),
            ty: IntType::U64,
        };
        let captures = vec![Capture::Int(arg(2)), Capture::Int(offset)];
        let spec = ProbeSpec {
            filter: of_that_size(),
            ..on(source, entry(Action::Event { captures }))
        };
        let mut engine = load(spec, &options(oldest));
        hook(&mut engine, source);
        read(5, 100);
        engine.detach();
        read(5, 100);
        let one = vec![Some(SIZE as u64), Some(100)];
        let way = format!("{source:?}, oldest: {oldest}");
        assert_eq!(ints(&mut engine), vec![one; 5], "{way}");
        accounted(&way, engine.counters(0));
    }
}

#[test]
fn a_functions_return_and_what_was_saved_at_entry() {
    let _alone = alone();
    for (source, oldest) in cases() {
        for saves in [false, true] {
            let way = format!("{source:?}, oldest: {oldest}, saves: {saves}");
            let mut saved = vec![];
            let mut captures = vec![Capture::Int(Expr::Retval), Capture::Int(Expr::Latency)];
            if saves {
                saved.push(Capture::Int(arg(2)));
                captures.push(Capture::Saved(0));
            }
            let spec = ProbeSpec {
                filter: of_that_size(),
                ..on(source, call(saved, Action::Event { captures }))
            };
            let mut engine = load(spec, &options(oldest));
            hook(&mut engine, source);
            let got = read(4, 600);
            engine.detach();
            assert_eq!(got, 400);
            let records = ints(&mut engine);
            assert_eq!(records.len(), 4, "{way}: {records:?}");
            for record in &records {
                assert_eq!(record[0], Some(400), "{way}");
                assert!(record[1] > Some(0), "{way}");
                if saves {
                    assert_eq!(record[2], Some(SIZE as u64), "{way}");
                }
            }
            let c = engine.counters(0);
            assert_eq!((c.emitted, c.unpaired), (4, 0), "{way}: {c:?}");
            accounted(&way, c);
        }
    }
}

/// Threads that wait in the function, side by side: each call has its own return.
#[test]
fn calls_of_many_threads_are_told_apart() {
    let _alone = alone();
    for (source, oldest) in cases() {
        let way = format!("{source:?}, oldest: {oldest}");
        let captures = vec![Capture::Int(Expr::Retval), Capture::Saved(0)];
        let spec = ProbeSpec {
            filter: Some(op(BinOp::Eq, arg(2), int(SIZE as u64))),
            ..on(
                source,
                call(vec![Capture::Int(arg(1))], Action::Event { captures }),
            )
        };
        let mut engine = load(spec, &options(oldest));
        hook(&mut engine, source);
        let threads: Vec<_> = (1..=4usize)
            .map(|bytes| {
                let (mut reader, writer) = std::io::pipe().unwrap();
                let reads = std::thread::spawn(move || {
                    let mut room = vec![0; SIZE];
                    (reader.read(&mut room).unwrap(), room.as_ptr() as u64)
                });
                (bytes, writer, reads)
            })
            .collect();
        while engine.counters(0).hits < 4 + engine.counters(0).filtered {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let mut expected = Vec::new();
        for (bytes, mut writer, reads) in threads {
            std::io::Write::write_all(&mut writer, &vec![b'x'; bytes]).unwrap();
            let (got, room) = reads.join().unwrap();
            assert_eq!(got, bytes);
            expected.push(vec![Some(bytes as u64), Some(room)]);
        }
        engine.detach();
        let mut records = ints(&mut engine);
        records.sort();
        let c = engine.counters(0);
        if source == KernelSource::Kprobe {
            // It waits for as many returns at once as there are CPUs, or some more.
            assert!(!records.is_empty(), "{way}: {c:?}");
            expected.retain(|e| records.contains(e));
        }
        assert_eq!(records, expected, "{way}");
        assert_eq!(c.unpaired, 4 - records.len() as u64, "{way}: {c:?}");
        accounted(&way, c);
    }
}

#[test]
fn a_function_that_is_not_there_is_an_error() {
    let _alone = alone();
    for source in sources() {
        let spec = on(source, entry(Action::Count { key: vec![] }));
        let mut engine = load(spec, &options(false));
        let name = "no_such_function".to_string();
        let hook = match source {
            KernelSource::Function => KernelHook::Function {
                name,
                btf_id: u32::MAX >> 1,
                arguments: 0,
                module: None,
            },
            _ => KernelHook::Kprobe { name },
        };
        let error = engine.attach_kernel(0, &[KernelSite { hook, site: 0 }], None);
        let message = error.unwrap_err().to_string();
        assert!(message.contains("no_such_function"), "{message}");
    }
}
