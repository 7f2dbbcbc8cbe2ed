//! Probes on events of the kernel, caused by this very process.

mod common;

use std::ffi::CStr;
use std::io;

use common::*;
use uprof_ebpf::expr::{BinOp, Builtin, Expr, IntType};
use uprof_ebpf::{
    Action, Capture, Engine, EngineOptions, KernelHook, KernelSite, KernelSource, KeyPart,
    KeyValue, On, ProbeKind, ProbeSpec,
};

/// `struct pt_regs` has the first argument of a system call here.
const REGS_RDI: u64 = 112;
const EINVAL: u64 = -22i64 as u64;

/// The number of a tracepoint. Where nobody has mounted tracefs this does, for itself alone.
fn tracepoint_id(group: &str, name: &str) -> u64 {
    const ROOT: &CStr = c"/sys/kernel/tracing";
    let path = format!("{}/events/{group}/{name}/id", ROOT.to_str().unwrap());
    let read = move || {
        if let Ok(text) = std::fs::read_to_string(&path) {
            return text;
        }
        let none: *const libc::c_void = std::ptr::null();
        // SAFETY: names and places are constants. What is mounted is seen by this thread alone.
        let mounted = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(
                    c"none".as_ptr(),
                    c"/".as_ptr(),
                    none.cast(),
                    libc::MS_REC | libc::MS_PRIVATE,
                    none,
                ) == 0
                && libc::mount(
                    c"none".as_ptr(),
                    ROOT.as_ptr(),
                    c"tracefs".as_ptr(),
                    0,
                    none,
                ) == 0
        };
        assert!(mounted, "tracefs: {}", io::Error::last_os_error());
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
    };
    let text = std::thread::spawn(read).join().unwrap();
    text.trim().parse().unwrap()
}

fn syscall(name: &str, end: bool) -> KernelHook {
    let id = tracepoint_id("syscalls", &format!("sys_enter_{name}"));
    let ends = end.then(|| tracepoint_id("syscalls", &format!("sys_exit_{name}")));
    KernelHook::Tracepoint {
        id,
        ends: ends.into_iter().collect(),
    }
}

fn raw(name: &str) -> KernelHook {
    let name = name.into();
    KernelHook::RawTracepoint { name }
}

fn at(hook: KernelHook) -> [KernelSite; 1] {
    [KernelSite { hook, site: 0 }]
}

fn on(source: KernelSource, spec: ProbeSpec) -> ProbeSpec {
    ProbeSpec {
        on: On::Kernel(source),
        ..spec
    }
}

fn field(offset: u16) -> Expr {
    let ty = IntType::U64;
    Expr::Field { offset, ty }
}

fn word(addr: Expr) -> Expr {
    Expr::Load {
        addr: Box::new(addr),
        ty: IntType::U64,
    }
}

fn eq(a: Expr, b: Expr) -> Expr {
    op(BinOp::Eq, a, b)
}

fn event(captures: Vec<Capture>) -> Action {
    Action::Event { captures }
}

fn count() -> Action {
    Action::Count { key: vec![] }
}

fn options(oldest: bool) -> EngineOptions {
    EngineOptions {
        ring_bytes: 1 << 20,
        oldest,
        verifier_log: true,
        ..EngineOptions::default()
    }
}

#[track_caller]
fn hook(engine: &mut Engine, probe: usize, sites: &[KernelSite], pid: Option<u32>) {
    if let Err(e) = engine.attach_kernel(probe, sites, pid) {
        let log = e.verifier_log().unwrap_or_default();
        panic!("{e}\n{}", &log[log.len().saturating_sub(6000)..]);
    }
}

/// All records: their integers (`None` where unreadable).
fn ints(engine: &mut Engine) -> Vec<Vec<Option<u64>>> {
    let mut all = Vec::new();
    engine
        .drain(|r| all.push((0..r.len()).map(|i| r.int(i)).collect()))
        .unwrap();
    all
}

fn me() -> u32 {
    std::process::id()
}

/// A system call that nothing else here makes; `which` beyond 2 is EINVAL.
#[inline(never)]
fn getpriority(which: u32, who: u32) -> i64 {
    // SAFETY: it only asks.
    unsafe { libc::syscall(libc::SYS_getpriority, which, who) }
}

/// Runs `work` in a child process; its id.
fn in_child(work: impl Fn()) -> u32 {
    // SAFETY: the child makes system calls alone, and does not return from here.
    unsafe {
        let pid = libc::fork();
        assert!(pid >= 0);
        if pid == 0 {
            work();
            libc::_exit(0);
        }
        assert_eq!(libc::waitpid(pid, std::ptr::null_mut(), 0), pid);
        pid as u32
    }
}

#[test]
fn every_system_call_of_this_process_is_an_event() {
    let _alone = alone();
    for oldest in [false, true] {
        let way = format!("oldest: {oldest}");
        let captures = vec![Capture::Int(field(16)), Capture::Int(field(24))];
        let spec = ProbeSpec {
            filter: Some(op(BinOp::Ne, field(24), int(7))),
            ..on(KernelSource::Tracepoint, entry(event(captures)))
        };
        let mut engine = load(spec, &options(oldest));
        hook(
            &mut engine,
            0,
            &at(syscall("getpriority", false)),
            Some(me()),
        );
        for who in 0..20 {
            getpriority(9, who);
        }
        in_child(|| {
            getpriority(9, 100);
        });
        engine.detach();
        getpriority(9, 0);
        let expected = (0..20).filter(|who| *who != 7);
        let expected: Vec<_> = expected.map(|who| vec![Some(9), Some(who)]).collect();
        assert_eq!(ints(&mut engine), expected, "{way}");
        let c = engine.counters(0);
        assert_eq!((c.hits, c.emitted, c.filtered), (20, 19, 1), "{way}: {c:?}");
        accounted(&way, c);
    }
}

#[test]
fn a_system_call_takes_its_time_and_returns() {
    let _alone = alone();
    for (oldest, saves) in [(false, false), (true, false), (false, true), (true, true)] {
        let way = format!("oldest: {oldest}, saves: {saves}");
        let mut saved = vec![];
        let mut captures = vec![Capture::Int(Expr::Retval), Capture::Int(Expr::Latency)];
        if saves {
            saved.push(Capture::Int(field(16)));
            captures.push(Capture::Saved(0));
        }
        let spec = on(KernelSource::Tracepoint, call(saved, event(captures)));
        let mut engine = load(spec, &options(oldest));
        let sites = at(syscall("clock_nanosleep", true));
        hook(&mut engine, 0, &sites, Some(me()));
        let sleep = |clock: i32, nanoseconds: i64| {
            let time = libc::timespec {
                tv_sec: 0,
                tv_nsec: nanoseconds,
            };
            // SAFETY: `time` is alive over the call.
            unsafe { libc::clock_nanosleep(clock, 0, &time, std::ptr::null_mut()) };
        };
        sleep(libc::CLOCK_MONOTONIC, 20_000_000);
        sleep(libc::CLOCK_REALTIME, -1);
        engine.detach();
        let records = ints(&mut engine);
        assert_eq!(records.len(), 2, "{way}: {records:?}");
        assert_eq!(records[0][0], Some(0), "{way}");
        assert!(records[0][1] >= Some(20_000_000), "{way}: {records:?}");
        assert_eq!(records[1][0], Some(EINVAL), "{way}");
        if saves {
            assert_eq!(records[0][2], Some(libc::CLOCK_MONOTONIC as u64));
            assert_eq!(records[1][2], Some(libc::CLOCK_REALTIME as u64));
        }
        let c = engine.counters(0);
        assert_eq!((c.hits, c.emitted, c.unpaired), (2, 2, 0), "{way}: {c:?}");
    }
}

/// A system call's text may be on a page that is there only once the call has read it.
#[test]
fn a_text_is_read_at_the_return() {
    let _alone = alone();
    // openat(2): the path is its second argument.
    let text = Capture::Str {
        addr: Expr::Saved(0),
        len: None,
        limit: 1024,
    };
    let spec = call(vec![Capture::Int(field(24))], event(vec![text]));
    let spec = on(KernelSource::Tracepoint, spec);
    for oldest in [false, true] {
        let way = format!("oldest: {oldest}");
        let mut engine = load(spec.clone(), &options(oldest));
        hook(&mut engine, 0, &at(syscall("openat", true)), Some(me()));
        let path = format!("/no/such/file-{oldest}");
        std::fs::File::open(&path).unwrap_err();
        engine.detach();
        let mut all = Vec::new();
        engine
            .drain(|r| all.push(String::from_utf8_lossy(r.bytes(0).data).into_owned()))
            .unwrap();
        assert!(all.contains(&path), "{way}: {all:?}");
        accounted(&way, engine.counters(0));
    }
}

#[test]
fn a_system_call_that_goes_on_is_open() {
    let _alone = alone();
    let spec = on(KernelSource::Tracepoint, call(vec![], count()));
    let mut engine = load(spec, &options(false));
    hook(&mut engine, 0, &at(syscall("pause", true)), Some(me()));
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // SAFETY: it only asks.
        send.send(unsafe { libc::gettid() }).unwrap();
        // SAFETY: it waits for a signal, which never comes.
        unsafe { libc::pause() };
    });
    let tid = receive.recv().unwrap();
    while engine.counters(0).hits == 0 {
        std::thread::yield_now();
    }
    engine.detach();
    let c = engine.counters(0);
    assert_eq!((c.hits, c.unpaired, c.abandoned), (1, 1, 0), "{c:?}");
    let open = engine.open_calls(0).unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!((open[0].pid, open[0].tid), (me(), tid as u32));
}

#[test]
fn a_raw_tracepoint_has_its_arguments_and_the_kernels_memory() {
    let _alone = alone();
    for oldest in [false, true] {
        let way = format!("oldest: {oldest}");
        let number = libc::SYS_getpriority as u64;
        let first = op(BinOp::Add, arg(0), int(REGS_RDI));
        let spec = ProbeSpec {
            filter: Some(eq(arg(1), int(number))),
            ..on(
                KernelSource::RawTracepoint,
                entry(event(vec![Capture::Int(word(first))])),
            )
        };
        let mut engine = load(spec, &options(oldest));
        hook(&mut engine, 0, &at(raw("sys_enter")), Some(me()));
        for which in 10..20 {
            getpriority(which, 0);
        }
        engine.detach();
        let expected: Vec<_> = (10..20).map(|which| vec![Some(which)]).collect();
        assert_eq!(ints(&mut engine), expected, "{way}");
        let c = engine.counters(0);
        assert_eq!(c.emitted, 10, "{way}");
        accounted(&way, c);
    }
}

/// The thread's new name, from the kernel's memory, beside a text of this program, whole and by
/// its length, and as a key.
#[test]
fn texts_of_the_kernel_and_of_the_program_in_one_record() {
    let _alone = alone();
    let own = resident(c"text of the program") as u64;
    for oldest in [false, true] {
        let way = format!("oldest: {oldest}");
        let text = |addr, len, limit| Capture::Str { addr, len, limit };
        let captures = vec![
            text(arg(1), None, 64),
            text(int(own), None, 64),
            text(arg(1), Some(int(3)), 64),
            text(int(own), Some(int(4)), 64),
            text(arg(1), None, 2),
            text(int(8), None, 16),
            text(int(0xffff_8000_0000_0000), None, 16),
        ];
        let renames = |action| ProbeSpec {
            filter: Some(Expr::BytesEq {
                what: uprof_ebpf::expr::BytesSource::Str {
                    addr: Box::new(arg(1)),
                },
                literal: b"renamed".to_vec(),
            }),
            ..on(KernelSource::RawTracepoint, entry(action))
        };
        let key = |addr| KeyPart::Str {
            addr,
            len: None,
            limit: 16,
        };
        let by = Action::Count {
            key: vec![key(arg(1)), key(int(own))],
        };
        let mut engine = load_all(
            vec![renames(event(captures)), renames(by)],
            &options(oldest),
        );
        for probe in 0..2 {
            hook(&mut engine, probe, &at(raw("task_rename")), Some(me()));
        }
        let rename = || {
            for name in [c"renamed", c"other"] {
                // SAFETY: PR_SET_NAME reads at most 16 bytes.
                unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
            }
        };
        std::thread::spawn(rename).join().unwrap();
        engine.detach();
        let mut all = Vec::new();
        let copy = |b: uprof_ebpf::Bytes| (b.data.to_vec(), b.cut, b.fault);
        engine
            .drain(|r| all.push((0..r.len()).map(|i| copy(r.bytes(i))).collect::<Vec<_>>()))
            .unwrap();
        let whole = |text: &str| (text.as_bytes().to_vec(), false, false);
        let none = (vec![], false, true);
        let expected = vec![
            whole("renamed"),
            whole("text of the program"),
            whole("ren"),
            whole("text"),
            (b"re".to_vec(), true, false),
            none.clone(),
            none,
        ];
        assert_eq!(all, [expected], "{way}");
        let counts = engine.counts(1).unwrap();
        assert_eq!(counts.len(), 1, "{way}");
        assert_eq!(counts[0].1, 1);
        let bytes = |text: &str| KeyValue::Bytes(text.as_bytes().to_vec());
        assert_eq!(
            counts[0].0.values(),
            [bytes("renamed"), bytes("text of the prog")]
        );
        for probe in 0..2 {
            let c = engine.counters(probe);
            let ended = c.emitted + c.aggregated;
            // (Threads of other tests get their names as they begin.)
            assert!(ended == 1 && c.filtered >= 1, "{way}: {c:?}");
            accounted(&way, c);
        }
    }
}

/// A record of the kernel has a text elsewhere in it (`__data_loc`): by the record's address.
#[test]
fn a_text_in_the_record() {
    let _alone = alone();
    let place = Expr::Field {
        offset: 8,
        ty: IntType {
            bits: 32,
            signed: false,
        },
    };
    let low = op(BinOp::And, place, int(0xffff));
    let addr = op(BinOp::Add, Expr::Context, low);
    let text = |addr| Capture::Str {
        addr,
        len: None,
        limit: 100,
    };
    let spec = on(KernelSource::Tracepoint, entry(event(vec![text(addr)])));
    for oldest in [false, true] {
        let mut engine = load(spec.clone(), &options(oldest));
        let id = tracepoint_id("sched", "sched_process_exec");
        let hooks = at(KernelHook::Tracepoint { id, ends: vec![] });
        hook(&mut engine, 0, &hooks, None);
        let status = std::process::Command::new("/bin/true").status().unwrap();
        assert!(status.success());
        engine.detach();
        let mut names = Vec::new();
        engine
            .drain(|r| names.push(String::from_utf8_lossy(r.bytes(0).data).into_owned()))
            .unwrap();
        assert!(names.contains(&"/bin/true".to_string()), "{names:?}");
        accounted("exec", engine.counters(0));
    }
}

/// `struct task_struct` by way of Expr::Task: somewhere in it the thread's number stands before
/// the process's.
#[test]
fn the_running_thread_is_found_in_every_kind_of_probe() {
    let _alone = alone();
    let task = || {
        event(vec![Capture::Buf {
            addr: Expr::Task,
            len: int(16384),
            limit: 16384,
        }])
    };
    let specs = vec![
        on(KernelSource::Tracepoint, entry(task())),
        on(KernelSource::RawTracepoint, entry(task())),
        entry(task()),
    ];
    for oldest in [false, true] {
        let mut engine = load_all(specs.clone(), &options(oldest));
        let sites = at(syscall("getpriority", false));
        hook(&mut engine, 0, &sites, Some(me()));
        hook(&mut engine, 1, &at(raw("task_rename")), Some(me()));
        let probed = [site(getpriority as *const () as usize, 0)];
        engine.attach(2, &probed, Some(me())).unwrap();
        let act = || {
            getpriority(9, 0);
            // SAFETY: PR_SET_NAME reads at most 16 bytes; the other only asks.
            unsafe {
                libc::prctl(libc::PR_SET_NAME, c"some thread".as_ptr());
                libc::gettid()
            }
        };
        let tid = std::thread::spawn(act).join().unwrap() as u32;
        engine.detach();
        let ids: Vec<u8> = [tid, me()].iter().flat_map(|n| n.to_le_bytes()).collect();
        let mut found = Vec::new();
        engine
            .drain(|r| {
                // (Threads of other tests get their names as they begin.)
                if r.tid != tid {
                    return;
                }
                let data = r.bytes(0).data;
                assert!(data.len() > 4000, "{} bytes", data.len());
                let own = data.windows(8).step_by(4).any(|w| w == ids);
                found.push((r.probe, own));
            })
            .unwrap();
        found.sort_unstable();
        assert_eq!(found, [(0, true), (1, true), (2, true)], "oldest: {oldest}");
    }
}

#[test]
fn processes_are_let_through_one_by_one_and_then_all() {
    let _alone = alone();
    let key = vec![KeyPart::Int(Expr::Builtin(Builtin::Pid))];
    let spec = on(KernelSource::Tracepoint, entry(Action::Count { key }));
    let mut engine = load(spec, &options(false));
    let sites = at(syscall("getpriority", false));
    let ask = || {
        getpriority(9, 0);
    };
    hook(&mut engine, 0, &sites, Some(me()));
    let foreign = in_child(ask);
    ask();
    // Once more for another process: it is attached as before, not twice.
    let child = |engine: &mut Engine, allow: fn(&mut Engine, u32)| {
        let mut pipe = [0; 2];
        // SAFETY: as in `in_child`; the pipe tells the child when to go on.
        unsafe {
            assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
            let pid = libc::fork();
            assert!(pid >= 0);
            let mut byte = 0u8;
            if pid == 0 {
                libc::read(pipe[0], (&raw mut byte).cast(), 1);
                getpriority(9, 0);
                getpriority(9, 0);
                libc::_exit(0);
            }
            allow(engine, pid as u32);
            libc::write(pipe[1], (&raw const byte).cast(), 1);
            assert_eq!(libc::waitpid(pid, std::ptr::null_mut(), 0), pid);
            libc::close(pipe[0]);
            libc::close(pipe[1]);
            pid as u32
        }
    };
    let again = child(&mut engine, |e, pid| {
        hook(e, 0, &at(syscall("getpriority", false)), Some(pid));
    });
    let allowed = child(&mut engine, |e, pid| e.allow_kernel(pid).unwrap());
    hook(&mut engine, 0, &sites, None);
    let any = in_child(ask);
    engine.detach();
    let counts = engine.counts(0).unwrap();
    let of = |pid: u32| {
        let found = counts
            .iter()
            .find(|c| c.0.values() == [KeyValue::Int(pid.into())]);
        found.map(|c| c.1)
    };
    assert_eq!(of(me()), Some(1));
    assert_eq!(of(foreign), None);
    assert_eq!(of(again), Some(2));
    assert_eq!(of(allowed), Some(2));
    assert_eq!(of(any), Some(1));
    accounted("pids", engine.counters(0));
}

#[test]
fn sites_are_told_apart() {
    let _alone = alone();
    let spec = ProbeSpec {
        sites: 2,
        ..on(KernelSource::Tracepoint, entry(count()))
    };
    let mut engine = load(spec, &options(false));
    let [first] = at(syscall("getpriority", false));
    let [second] = at(syscall("sched_getparam", false));
    let second = KernelSite { site: 1, ..second };
    hook(&mut engine, 0, &[first, second], Some(me()));
    for _ in 0..3 {
        getpriority(9, 0);
    }
    // SAFETY: a null pointer is refused.
    unsafe { libc::syscall(libc::SYS_sched_getparam, 0, 0) };
    engine.detach();
    assert_eq!(engine.site_hits(0), [3, 1]);
    assert_eq!(engine.counters(0).missed, Some(0));
}

#[test]
fn what_cannot_be_is_an_error_that_says_so() {
    let _alone = alone();
    let error = |source, action, hook| {
        let mut engine = load(on(source, entry(action)), &options(false));
        let message = engine.attach_kernel(0, &at(hook), None).unwrap_err();
        message.to_string()
    };
    let unknown = error(KernelSource::RawTracepoint, count(), raw("no_such_event"));
    assert!(
        unknown.contains("raw tracepoint no_such_event"),
        "{unknown}"
    );
    assert!(unknown.contains("no tracepoint of this name"), "{unknown}");
    let beyond = event(vec![Capture::Int(arg(11))]);
    let beyond = error(KernelSource::RawTracepoint, beyond, raw("task_rename"));
    assert!(beyond.contains("beyond its last"), "{beyond}");
    let no_number = KernelHook::Tracepoint {
        id: 65535,
        ends: vec![],
    };
    let no_number = error(KernelSource::Tracepoint, count(), no_number);
    assert!(no_number.contains("tracepoint number 65535"), "{no_number}");
    let long = event(vec![Capture::Int(field(1024))]);
    let long = error(
        KernelSource::Tracepoint,
        long,
        syscall("getpriority", false),
    );
    assert!(long.contains("beyond the record's end"), "{long}");
    let other = error(KernelSource::Tracepoint, count(), raw("task_rename"));
    assert!(other.contains("is not made for raw tracepoint"), "{other}");
}

/// What is attached before an error is let go of, and a second try finds nothing in its way.
#[test]
fn a_failed_attachment_leaves_nothing() {
    let _alone = alone();
    let spec = ProbeSpec {
        sites: 2,
        kind: ProbeKind::Entry,
        ..on(KernelSource::Tracepoint, entry(count()))
    };
    let mut engine = load(spec, &options(false));
    let [good] = at(syscall("getpriority", false));
    let bad = KernelSite {
        hook: KernelHook::Tracepoint {
            id: 65535,
            ends: vec![],
        },
        site: 1,
    };
    engine
        .attach_kernel(0, &[good.clone(), bad], Some(me()))
        .unwrap_err();
    getpriority(9, 0);
    assert_eq!(engine.counters(0).hits, 0);
    hook(&mut engine, 0, &[good], Some(me()));
    getpriority(9, 0);
    engine.detach();
    assert_eq!(engine.site_hits(0), [1, 0]);
}

/// Every read picks one of two helpers by its address: twice as many ways for the verifier.
#[test]
fn large_probes_pass_the_verifier() {
    let _alone = alone();
    let text = |limit| Capture::Str {
        addr: arg(1),
        len: None,
        limit,
    };
    let buffer = |limit| Capture::Buf {
        addr: word(Expr::Task),
        len: word(op(BinOp::Add, Expr::Task, int(8))),
        limit,
    };
    for oldest in [false, true] {
        for captures in [
            vec![text(65536), buffer(65536)],
            (0..16).map(|_| text(1024)).collect(),
            (0..8).map(|_| buffer(5000)).collect(),
            (0..64).map(|_| Capture::Int(word(arg(0)))).collect(),
        ] {
            let spec = on(KernelSource::RawTracepoint, entry(event(captures)));
            let mut engine = load(spec, &options(oldest));
            hook(&mut engine, 0, &at(raw("task_rename")), Some(me()));
        }
    }
}

/// One program may interrupt another on the same processor; what the kernel then does not run it
/// tells, and the rest is accounted for.
#[test]
fn interrupts_within_programs_are_accounted_for() {
    let _alone = alone();
    for oldest in [false, true] {
        let own = resident(c"some text to be copied") as u64;
        let captures = || {
            vec![Capture::Str {
                addr: int(own),
                len: None,
                limit: 4096,
            }]
        };
        let specs = vec![
            on(KernelSource::RawTracepoint, entry(event(captures()))),
            on(KernelSource::RawTracepoint, entry(event(captures()))),
            on(KernelSource::RawTracepoint, entry(count())),
        ];
        let mut engine = load_all(specs, &options(oldest));
        for (probe, name) in ["sys_enter", "softirq_entry", "hrtimer_expire_entry"]
            .into_iter()
            .enumerate()
        {
            hook(&mut engine, probe, &at(raw(name)), None);
        }
        let begun = std::time::Instant::now();
        let mut records = 0;
        while begun.elapsed() < std::time::Duration::from_millis(500) {
            for _ in 0..100 {
                getpriority(9, 0);
            }
            records += engine.drain(|_| {}).unwrap();
        }
        engine.detach();
        records += engine.drain(|_| {}).unwrap();
        let counters: Vec<_> = (0..3).map(|probe| engine.counters(probe)).collect();
        for c in &counters {
            assert!(c.hits > 0, "oldest: {oldest}: {counters:?}");
            accounted("interrupts", *c);
            assert!(c.missed.is_some());
        }
        let emitted = counters.iter().map(|c| c.emitted).sum::<u64>();
        assert_eq!(records as u64, emitted, "oldest: {oldest}: {counters:?}");
    }
}
