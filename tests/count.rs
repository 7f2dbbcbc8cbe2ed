//! `uprof count`: hits equal the target's own count, exactly.

use std::time::Duration;

use crate::args;
use crate::harness::machine::{need_root, tool};
use crate::harness::servers::MariaDb;
use crate::harness::{Fixture, Report, Target, Uprof, turn};

/// Counts FUNCTION of a gated run of `calls` (or its static build) with more flags; returns report and truth.
fn count(
    fixture: Fixture,
    function: &str,
    target_args: Vec<String>,
    flags: Vec<String>,
) -> (Report, serde_json::Value) {
    let program = fixture.path();
    let mut target = Target::gated(&program, target_args);
    let probe = format!("{}:{function}", program.display());
    let mut words = args!["count", probe, "--pid", target.pid()];
    words.extend(flags);
    let uprof = Uprof::json(words).start();
    let truth = target.truth();
    let report = uprof.stop().report();
    assert!(target.end().success());
    (report, truth)
}

fn assert_exact(report: &Report, truth: &serde_json::Value) {
    let probe = report.only();
    assert_eq!(probe.hits, truth["calls"].as_u64().unwrap(), "{probe:?}");
    assert_eq!(probe.aggregated, probe.hits, "{probe:?}");
}

#[test]
fn a_million_calls_on_one_thread() {
    let _turn = turn();
    let (report, truth) = count(Fixture::Calls, "work", args!["--calls", 1_000_000], args![]);
    assert_eq!(truth["calls"], 1_000_000);
    assert_exact(&report, &truth);
    assert_eq!(report.only().sites, 1);
}

#[test]
fn a_million_calls_on_eight_threads() {
    let _turn = turn();
    let (report, truth) = count(
        Fixture::Calls,
        "work",
        args!["--calls", 125_000, "--threads", 8],
        args![],
    );
    assert_eq!(truth["calls"], 1_000_000);
    assert_exact(&report, &truth);
}

#[test]
fn every_mechanism_counts_the_same() {
    let _turn = turn();
    for mechanism in ["multi", "perf"] {
        let flags = args!["--mechanism", mechanism];
        let (report, truth) = count(
            Fixture::Calls,
            "work",
            args!["--calls", 25_000, "--threads", 8],
            flags,
        );
        assert_exact(&report, &truth);
    }
}

#[test]
fn a_static_program() {
    let _turn = turn();
    let (report, truth) = count(
        Fixture::CallsStatic,
        "work",
        args!["--calls", 10_000],
        args![],
    );
    assert_exact(&report, &truth);
}

#[test]
fn functions_that_begin_with_endbr64_and_with_push() {
    let _turn = turn();
    for fixture in [Fixture::EndbrFull, Fixture::EndbrNone] {
        let (report, truth) = count(
            fixture,
            "probed",
            args!["--calls", 10_000, "--rounds", 3],
            args![],
        );
        assert_eq!(truth["calls"], 30_000);
        assert_exact(&report, &truth);
    }
}

#[test]
fn two_names_of_one_place_count_once() {
    let _turn = turn();
    let (report, truth) = count(Fixture::Calls, "work*", args!["--calls", 1000], args![]);
    assert_exact(&report, &truth);
    assert_eq!(
        report.only().sites,
        1,
        "work and work_alias are one place: {:?}",
        report.only()
    );
}

#[test]
fn recursion() {
    let _turn = turn();
    let target = args!["--function", "recurse", "--calls", 100, "--depth", 200];
    let (report, truth) = count(Fixture::Calls, "recurse", target, args![]);
    assert_eq!(truth["calls"], 100 * 201);
    assert_exact(&report, &truth);
}

#[test]
fn a_rust_function_by_its_demangled_name() {
    let _turn = turn();
    let program = Fixture::RustCalls.path();
    let mut target = Target::gated(&program, args![500]);
    let uprof = Uprof::json(args![
        "count",
        format!("{}:rust_calls::ledger::total", program.display())
    ])
    .start();
    assert_eq!(target.truth()["calls"], 500);
    assert_eq!(uprof.stop().report().only().hits, 500);
}

#[test]
fn where_counts_what_it_turned_down() {
    let _turn = turn();
    let (report, _) = count(
        Fixture::Calls,
        "work",
        args!["--calls", 10_000],
        args!["--where", "arg0 % 10 == 7"],
    );
    let probe = report.only();
    assert_eq!(
        (probe.hits, probe.aggregated, probe.filtered),
        (10_000, 1000, 9000),
        "{probe:?}"
    );
}

#[test]
fn by_counts_each_key() {
    let _turn = turn();
    let target = args!["--calls", 10_000, "--threads", 4];
    let (report, truth) = count(
        Fixture::Calls,
        "work",
        target,
        args!["--by", "digit=arg0 % 10"],
    );
    assert_exact(&report, &truth);
    let counts = &report.summary.counts;
    let mut digits: Vec<u64> = counts
        .iter()
        .map(|c| c.key["digit"].as_u64().unwrap())
        .collect();
    digits.sort_unstable();
    assert_eq!(digits, (0..10).collect::<Vec<_>>());
    assert!(counts.iter().all(|c| c.count == 4000), "{counts:?}");
}

#[test]
fn keys_without_room_are_dropped_and_counted() {
    let _turn = turn();
    let flags = args!["--by", "n=arg0", "--max-keys", 64];
    let (report, _) = count(Fixture::Calls, "work", args!["--calls", 10_000], flags);
    let probe = report.only();
    assert_eq!(probe.hits, 10_000);
    assert_eq!(
        probe.aggregated,
        report.summary.counts.iter().map(|c| c.count).sum::<u64>()
    );
    assert!(
        report.summary.counts.len() >= 32,
        "room for 64 keys held {}",
        report.summary.counts.len()
    );
    assert_eq!(probe.dropped, 10_000 - probe.aggregated, "{probe:?}");
}

#[test]
fn several_probes_keep_their_own_counts() {
    let _turn = turn();
    let program = Fixture::Calls.path();
    let mut target = Target::gated(&program, args!["--function", "text", "--calls", 300]);
    let path = program.display();
    let uprof = Uprof::json(args![
        "count",
        format!("{path}:work"),
        format!("{path}:greet"),
        "--pid",
        target.pid()
    ]);
    let uprof = uprof.start();
    target.truth();
    let report = uprof.stop().report();
    let mut hits: Vec<u64> = report
        .summary
        .probes
        .iter()
        .map(|probe| probe.hits)
        .collect();
    hits.sort_unstable();
    assert_eq!(hits, [0, 300], "{:?}", report.summary.probes);
}

#[test]
fn a_process_that_is_not_named_is_not_probed() {
    let _turn = turn();
    let program = Fixture::Calls.path();
    let mut named = Target::gated(&program, args!["--calls", 1000]);
    let mut other = Target::gated(&program, args!["--calls", 5000]);
    let uprof = Uprof::json(args![
        "count",
        format!("{}:work", program.display()),
        "--pid",
        named.pid()
    ])
    .start();
    other.truth();
    named.truth();
    let report = uprof.stop().report();
    assert_eq!(
        report.only().hits,
        1000,
        "only the named process's calls: {:?}",
        report.only()
    );
}

#[test]
fn two_processes_that_are_named() {
    let _turn = turn();
    let program = Fixture::Calls.path();
    let mut one = Target::gated(&program, args!["--calls", 1000]);
    let mut two = Target::gated(&program, args!["--calls", 5000]);
    let probe = format!("{}:work", program.display());
    let uprof = Uprof::json(args![
        "count",
        probe,
        "--pid",
        one.pid(),
        "--pid",
        two.pid(),
        "--by",
        "pid"
    ])
    .start();
    let (one_pid, two_pid) = (one.pid(), two.pid());
    one.truth();
    two.truth();
    let report = uprof.stop().report();
    assert_eq!(report.only().hits, 6000);
    let of = |pid: u32| {
        report
            .summary
            .counts
            .iter()
            .find(|c| c.key["pid"] == pid)
            .map(|c| c.count)
    };
    assert_eq!((of(one_pid), of(two_pid)), (Some(1000), Some(5000)));
}

#[test]
fn without_a_process_every_process_that_runs_the_program_counts() {
    let _turn = turn();
    let program = Fixture::Calls.path();
    let mut before = Target::gated(&program, args!["--calls", 1000]);
    let uprof = Uprof::json(args!["count", format!("{}:work", program.display())]).start();
    let mut after = Target::gated(&program, args!["--calls", 5000]);
    before.truth();
    after.truth();
    assert_eq!(uprof.stop().report().only().hits, 6000);
}

#[test]
fn a_process_by_the_name_it_gives_itself() {
    let _turn = turn();
    let program = Fixture::Calls.path();
    let mut named = Target::gated(&program, args!["--calls", 1000, "--name", "Caller"]);
    let mut other = Target::gated(&program, args!["--calls", 5000, "--name", "Other"]);
    let uprof = Uprof::json(args![
        "count",
        format!("{}:work", program.display()),
        "--comm",
        "Caller"
    ])
    .start();
    other.truth();
    named.truth();
    let report = uprof.stop().report();
    assert_eq!(
        report.only().hits - report.only().filtered,
        1000,
        "{:?}",
        report.only()
    );
}

#[test]
fn only_processes_of_a_user() {
    let _turn = turn();
    for (user, counted) in [("0", 1000), ("root", 1000), ("65534", 0)] {
        let (report, _) = count(
            Fixture::Calls,
            "work",
            args!["--calls", 1000],
            args!["--uid", user],
        );
        let probe = report.only();
        assert_eq!(probe.aggregated, counted, "--uid {user}: {probe:?}");
    }
}

/// The version 2 cgroups, mounted for a test; what was made in them goes with it.
struct Cgroups(tempfile::TempDir);

impl Cgroups {
    fn mount() -> Self {
        need_root();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let done = std::process::Command::new(tool("mount"))
            .args(["-t", "cgroup2", "none"])
            .arg(folder.path())
            .status();
        assert!(
            done.expect("mount").success(),
            "cannot mount the cgroup2 file system"
        );
        Self(folder)
    }

    fn group(&self) -> std::path::PathBuf {
        let group = self
            .0
            .path()
            .join(format!("uprof-test-{}", std::process::id()));
        std::fs::create_dir(&group).expect("a cgroup of the test's own");
        group
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let group = self
            .0
            .path()
            .join(format!("uprof-test-{}", std::process::id()));
        // Busy until the kernel has seen off the target that was in it.
        for _ in 0..50 {
            if std::fs::remove_dir(&group).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = std::process::Command::new("umount")
            .arg(self.0.path())
            .status();
    }
}

#[test]
fn only_processes_of_a_cgroup() {
    let _turn = turn();
    let cgroups = Cgroups::mount();
    let group = cgroups.group();
    let program = Fixture::Calls.path();
    for (inside, counted) in [(true, 1000), (false, 0)] {
        let mut target = Target::gated(&program, args!["--calls", 1000]);
        if inside {
            std::fs::write(group.join("cgroup.procs"), target.pid().to_string())
                .expect("move the target");
        }
        let probe = format!("{}:work", program.display());
        let flags = args![
            "count",
            probe,
            "--pid",
            target.pid(),
            "--cgroup",
            group.display()
        ];
        let uprof = Uprof::json(flags).start();
        target.truth();
        let report = uprof.stop().report();
        assert!(target.end().success());
        let probe = report.only();
        assert_eq!(
            (probe.hits, probe.aggregated),
            (1000, counted),
            "inside: {inside}, {probe:?}"
        );
    }
}

#[test]
fn a_folder_that_is_no_cgroup_is_refused() {
    let program = Fixture::Calls.path();
    let probe = format!("{}:work", program.display());
    let finished = Uprof::new(args!["count", probe, "--cgroup", "/etc"]).run();
    finished.refused(1, &["/etc", "version 2"]);
}

#[test]
fn looks_in_between_leave_the_counts_alone() {
    let _turn = turn();
    let target = args!["--calls", 200_000, "--threads", 4];
    let flags = args!["--interval", "20ms", "--by", "digit=arg0 % 10"];
    let (report, truth) = count(Fixture::Calls, "work", target, flags);
    assert_exact(&report, &truth);
    assert_eq!(
        report.summary.counts.iter().map(|c| c.count).sum::<u64>(),
        800_000
    );
}

#[test]
fn stopped_in_the_middle_everything_is_accounted_for() {
    let _turn = turn();
    let program = Fixture::Calls.path();
    for flags in [args![], args!["--by", "digit=arg0 % 10"]] {
        let mut target = Target::gated(&program, args!["--calls", 2_000_000, "--threads", 8]);
        let mut words = args![
            "count",
            format!("{}:work", program.display()),
            "--pid",
            target.pid()
        ];
        words.extend(flags);
        let uprof = Uprof::json(words).start();
        target.go();
        std::thread::sleep(Duration::from_millis(400));
        let report = uprof.stop().report();
        let (_, truth) = target.lines_and_truth();
        let probe = report.only();
        assert!(probe.hits > 0, "{probe:?}");
        assert!(
            probe.hits < truth["calls"].as_u64().unwrap(),
            "it was stopped too late to show anything"
        );
        assert_eq!(probe.aggregated, probe.hits, "{probe:?}");
        assert!(target.end().success());
    }
}

#[test]
fn a_duration_ends_it() {
    let _turn = turn();
    let program = Fixture::Calls.path();
    let mut target = Target::gated(&program, args!["--calls", 2_000_000, "--threads", 8]);
    let probe = format!("{}:work", program.display());
    let uprof = Uprof::json(args![
        "count",
        probe,
        "--pid",
        target.pid(),
        "--duration",
        "500ms"
    ])
    .start();
    target.go();
    let finished = uprof.finish();
    assert!(
        finished.took < Duration::from_secs(10),
        "{:?}",
        finished.took
    );
    let report = finished.report();
    let duration = Duration::from_nanos(report.summary.duration_ns);
    assert!(
        duration >= Duration::from_millis(500) && duration < Duration::from_secs(3),
        "{duration:?}"
    );
    assert!(report.only().hits > 0);
    assert_eq!(report.only().hits, report.only().aggregated);
}

#[test]
fn thousands_of_functions_of_a_real_server() {
    let _turn = turn();
    let server = MariaDb::start();
    let uprof = Uprof::json(args!["count", "mariadbd:_ZN*", "--pid", server.pid()]).start();
    assert_eq!(server.sql("SELECT 40 + 2").trim(), "42");
    let finished = uprof.stop();
    assert!(
        finished.waited < Duration::from_secs(5),
        "stopping took {:?}",
        finished.waited
    );
    let report = finished.report();
    let sites: u64 = report.summary.probes.iter().map(|probe| probe.sites).sum();
    assert!(sites > 5000, "{sites} sites");
    assert!(
        report.summary.hits() > 100,
        "{} hits",
        report.summary.hits()
    );
    assert_eq!(server.sql("SELECT 1").trim(), "1", "the server goes on");
}
