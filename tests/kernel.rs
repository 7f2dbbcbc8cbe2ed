//! Places in the kernel, from the command line: system calls, tracepoints, raw tracepoints; sums, samples and stacks of
//! them. What a program asked for is compared with its own count.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::args;
use crate::harness::{Fixture, Report, Target, Uprof, turn};

const CALLS: u64 = 400;

/// Runs uprof on a program that makes CALLS opens and writes, and gives its report and the program's truth.
fn asks(calls: u64, words: Vec<String>) -> (Report, Value) {
    let (finished, truth) = asked(calls, words, true);
    (Report::parse(&finished), truth)
}

fn asked(calls: u64, mut words: Vec<String>, json: bool) -> (String, Value) {
    let mut target = Target::gated(&Fixture::Asks.path(), args!["--calls", calls]);
    words.extend(args!["--pid", target.pid()]);
    let uprof = match json {
        true => Uprof::json(words),
        false => Uprof::new(words),
    };
    let uprof = uprof.start();
    let truth = target.truth();
    let text = uprof.stop().text();
    assert!(target.end().success());
    (text, truth)
}

fn number(truth: &Value, name: &str) -> u64 {
    truth[name]
        .as_u64()
        .unwrap_or_else(|| panic!("no {name} in {truth}"))
}

#[test]
fn system_calls_are_counted_as_often_as_they_are_made() {
    let _turn = turn();
    let (report, truth) = asks(CALLS, args!["count", "syscall:openat", "syscall:write"]);
    assert_eq!(report.probe("syscall:openat").hits, CALLS);
    // The line of truth is a write, too.
    let writes = number(&truth, "writes") + 1;
    assert_eq!(report.probe("syscall:write").hits, writes);
}

#[test]
fn errors_are_keys_by_their_names() {
    let _turn = turn();
    let words = args!["count", "syscall:openat", "--by", "result=errno(retval)"];
    let (report, truth) = asks(CALLS, words);
    let counts: BTreeMap<String, u64> = report
        .summary
        .counts
        .iter()
        .map(|c| (c.key["result"].to_string(), c.count))
        .collect();
    assert_eq!(counts.len(), 2, "{counts:?}");
    assert_eq!(counts["\"ENOENT\""], number(&truth, "missing"));
    let opened: u64 = counts.values().sum::<u64>() - counts["\"ENOENT\""];
    assert_eq!(opened, number(&truth, "opened"));
}

#[test]
fn what_calls_return_is_summed_up() {
    let _turn = turn();
    let words = args![
        "count",
        "syscall:write",
        "--sum",
        "bytes=retval",
        "--where",
        "fd != 1"
    ];
    let (report, truth) = asks(CALLS, words);
    let [row] = report.summary.stats.as_slice() else {
        panic!("{:?}", report.summary.stats)
    };
    assert_eq!(row.count, number(&truth, "writes"));
    let bytes = &row.values["bytes"];
    let of = |name: &str| bytes[name];
    assert_eq!(of("sum"), number(&truth, "bytes") as f64);
    assert_eq!(of("max"), number(&truth, "most") as f64);
    assert_eq!(of("min"), 1.0);
    assert_eq!(report.only().filtered, 1, "the line of truth");
}

#[test]
fn a_histogram_of_an_argument() {
    let _turn = turn();
    let words = args![
        "count",
        "tracepoint:syscalls:sys_enter_write",
        "--hist",
        "count",
        "--where",
        "fd != 1"
    ];
    let (report, truth) = asks(CALLS, words);
    let [h] = report.summary.histograms.as_slice() else {
        panic!("{:?}", report.summary.histograms)
    };
    assert_eq!((h.count, h.max), (CALLS, number(&truth, "most")));
}

#[test]
fn texts_of_system_calls_are_read_at_their_return() {
    let _turn = turn();
    let words = args![
        "trace",
        "syscall:openat",
        "--capture",
        "path=after(str(filename))",
        "--capture",
        "result=retval",
        "--capture",
        "flags=flags"
    ];
    let (report, _) = asks(40, words);
    assert_eq!(report.events.len(), 40);
    for (i, event) in report.events.iter().enumerate() {
        let missing = i % 4 == 0;
        let expected = match missing {
            true => format!("/nonexistent/{i}"),
            false => "/dev/null".to_owned(),
        };
        assert_eq!(event.text("path"), expected);
        let result = event.fields["result"].as_i64().expect("a number");
        assert_eq!(result == -2, missing, "{event:?}");
        // O_CLOEXEC, and O_RDONLY is 0.
        assert_eq!(event.number("flags") & 0o2_000_000, 0o2_000_000);
        assert!(event.latency_ns.is_some());
    }
}

#[test]
fn raw_tracepoints_hand_over_what_the_kernel_does() {
    let _turn = turn();
    // The number of write(2) on x86-64 is 1 (arch/x86/entry/syscalls/syscall_64.tbl).
    let words = args!["count", "rawtracepoint:sys_enter", "--where", "id == 1"];
    let (report, truth) = asks(CALLS, words);
    assert_eq!(report.only().aggregated, number(&truth, "writes") + 1);
}

#[test]
fn a_program_s_probe_reads_the_kernel_s_task() {
    let _turn = turn();
    let program = Fixture::Calls.path();
    let mut target = Target::gated(&program, args!["--calls", 20]);
    let words = args![
        "trace",
        format!("{}:work", program.display()),
        "--pid",
        target.pid(),
        "--capture",
        "group=curtask->tgid",
        "--capture",
        "name=curtask->comm",
        "--capture",
        "parent=curtask->real_parent->tgid"
    ];
    let uprof = Uprof::json(words).start();
    target.truth();
    let report = uprof.stop().report();
    assert_eq!(report.events.len(), 20);
    for event in &report.events {
        assert_eq!(event.number("group"), u64::from(target.pid()));
        assert_eq!(event.text("name"), event.comm);
        assert_eq!(event.number("parent"), u64::from(std::process::id()));
    }
}

#[test]
fn stacks_of_the_kernel_as_flame_graphs_want_them() {
    let _turn = turn();
    let words = args![
        "count",
        "syscall:write",
        "--by",
        "kstack",
        "--format",
        "folded"
    ];
    let (text, truth) = asked(CALLS, words, false);
    let mut total = 0;
    for line in text.lines() {
        let (frames, count) = line.rsplit_once(' ').expect("frames and a count");
        assert!(frames.contains("do_syscall_64"), "{line}");
        total += count.parse::<u64>().expect("a count");
    }
    assert_eq!(total, number(&truth, "writes") + 1);
}

#[test]
fn samples_are_scaled_and_accounted_for() {
    let _turn = turn();
    const MANY: u64 = 20_000;
    const ONE_IN: u64 = 10;
    let words = args!["count", "syscall:write", "--sample", ONE_IN];
    let (report, _) = asks(MANY, words);
    let probe = report.only();
    assert_eq!(
        (probe.hits, u64::from(probe.sample)),
        (MANY + 1, ONE_IN),
        "{probe:?}"
    );
    assert_eq!(probe.aggregated + probe.unsampled, probe.hits);
    let [count] = report.summary.counts.as_slice() else {
        panic!("{:?}", report.summary.counts)
    };
    assert_eq!(count.count, probe.aggregated * ONE_IN);
    // Seven times the standard deviation of so many draws: once in 10^11 runs by chance.
    let deviation = (MANY as f64 * 0.1 * 0.9).sqrt();
    let off = (probe.aggregated as f64 - MANY as f64 / ONE_IN as f64).abs();
    assert!(off < 7.0 * deviation, "{probe:?}");
}

#[test]
fn places_that_are_not_there_are_told_with_the_nearest() {
    let _turn = turn();
    for (probe, words) in [
        (
            "tracepoint:sock:inet_sock_set_stat",
            &["inet_sock_set_state"][..],
        ),
        ("syscall:opnat", &["sys_enter_opnat", "openat"]),
        ("rawtracepoint:sched_swich", &["sched_switch"]),
        ("kretprobe:tcp_sendmsg", &["kernel:tcp_sendmsg", "retval"]),
    ] {
        let finished = Uprof::new(args!["count", probe]).run();
        finished.refused(1, words);
    }
    let finished = Uprof::new(args!["latency", "tracepoint:sched:sched_switch"]).run();
    finished.refused(1, &["no return", "syscall:NAME"]);
    let unknown = args!["trace", "syscall:openat", "--capture", "x=filname"];
    let finished = Uprof::new(unknown).run();
    finished.refused(1, &["filname", "filename"]);
}

/// What cannot work here says why; where it works, it counts.
#[test]
fn functions_of_the_kernel_work_or_say_why_not() {
    let _turn = turn();
    let text = Uprof::new(args!["doctor", "--format", "json"])
        .run()
        .ok()
        .text();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON lines"))
        .collect();
    let works = |name: &str| {
        let found = lines.iter().find(|l| l["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {text}"))["works"] == true
    };
    let finished = Uprof::json(args!["count", "kernel:vfs_write", "--duration", "1s"]).run();
    match works("fentry and fexit") || works("kprobe") {
        true => {
            finished.ok();
        }
        false => {
            finished.refused(1, &["kernel:vfs_write", "fentry", "kprobe"]);
        }
    }
    let recipes: Vec<&Value> = lines.iter().filter(|l| l["type"] == "recipe").collect();
    let named = Uprof::new(args!["recipe"]).run().ok().text();
    for recipe in &recipes {
        let name = recipe["name"].as_str().expect("a name");
        assert!(named.contains(&format!("\n  {name} ")), "{name}:\n{named}");
        let reason = if recipe["works"] == true {
            "by"
        } else {
            "reason"
        };
        assert!(recipe[reason].is_string(), "{recipe}");
    }
    assert!(recipes.len() > 5, "{text}");
}

#[test]
fn recipes_of_one_s_own_are_found_by_name() {
    let _turn = turn();
    let home = tempfile::tempdir().unwrap();
    let here = tempfile::tempdir().unwrap();
    let own = home.path().join("uprof/recipes");
    let local = here.path().join("recipes");
    for (folder, name, about) in [
        (&own, "writes", "who writes"),
        (&own, "malloc", "my malloc"),
        (&local, "reads", "who reads"),
        (&local, "mysql-queries", "not this one"),
    ] {
        std::fs::create_dir_all(folder).unwrap();
        let call = if name == "reads" { "read" } else { "write" };
        let text = format!(
            "[recipe]\nabout = \"{about}\"\n[[probe]]\nname = \"{name}\"\nsyscall = \"{call}\"\ncount = true\nby = \"comm\"\n"
        );
        std::fs::write(folder.join(format!("{name}.toml")), text).unwrap();
    }
    std::fs::write(own.join("broken.toml"), "[recipe\n").unwrap();
    let uprof = |words: Vec<String>| {
        Uprof::new(words)
            .env("XDG_CONFIG_HOME", home.path())
            .within(here.path())
            .run()
    };
    let list = uprof(args!["recipe"]).ok().text();
    for words in ["who writes", "who reads", "broken  ", "has a mistake"] {
        assert!(list.contains(words), "{words}:\n{list}");
    }
    let shown = |name: &str| uprof(args!["recipe", name, "--show"]).ok();
    assert!(shown("writes").text().contains("who writes"));
    assert!(shown("reads").text().contains("who reads"));
    let mine = shown("malloc");
    assert!(mine.text().contains("my malloc"));
    assert!(
        mine.stderr.contains("in place of the built-in"),
        "{}",
        mine.stderr
    );
    assert!(!shown("mysql-queries").text().contains("not this one"));
    // A parameter may be called like an option of uprof's own.
    let text = "[recipe]\nabout = \"named badly\"\n[params]\nshow = { type = \"bool\", default = \"false\" }\n\
                [[probe]]\nname = \"w\"\nsyscall = \"write\"\nwhere = \"$show\"\ncount = true\n";
    std::fs::write(own.join("badly.toml"), text).unwrap();
    let help = uprof(args!["recipe", "badly", "--help"]).ok().text();
    assert!(help.contains("--set show=BOOL"), "{help}");
    assert!(shown("badly").text().contains("named badly"));
    let missing = uprof(args!["recipe", "nosuch"]);
    missing.refused(1, &["no recipe named nosuch", "uprof/recipes"]);
}
