//! The running kernel's tracepoints and BTF, against what C programs compiled here know of the same things.

use std::process::Command;

use uprof_symbols::kernel::{self, FieldKind, FieldPlace, KernelTypes, Tracefs};
use uprof_symbols::types::{Shape, TypeModel};

use crate::fixtures::{Workshop, run};

#[test]
fn a_system_calls_arguments_are_fields_of_its_tracepoint() {
    let execve = kernel::tracepoint("syscalls", "sys_enter_execve").unwrap();
    let names: Vec<&str> = execve.own_fields().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["__syscall_nr", "filename", "argv", "envp"]);
    let filename = execve.field("filename").unwrap();
    assert_eq!(
        (filename.offset, filename.size, filename.type_text.as_str()),
        (16, 8, "const char *")
    );
    assert_eq!(filename.kind, FieldKind::Pointer { text: true });
    assert!(execve.id > 0);
    let receive = kernel::tracepoint("net", "netif_receive_skb").unwrap();
    let name = receive.field("name").unwrap();
    assert_eq!(
        (&name.kind, name.place),
        (&FieldKind::Text, FieldPlace::DataLoc)
    );
}

#[test]
fn every_tracepoint_of_this_kernel_can_be_read() {
    let all = kernel::tracepoints("*", "*").unwrap();
    assert!(all.len() > 500, "{}", all.len());
    let mut fields = 0;
    for (group, name) in &all {
        // ftrace's own records are no tracepoints: they have a description and no `enable`.
        let point = kernel::tracepoint(group, name).unwrap_or_else(|error| panic!("{error}"));
        for field in &point.fields {
            fields += 1;
            assert!(
                !field.name.contains([' ', '[', '*']) && !field.type_text.is_empty(),
                "{group}:{name}: {field:?}"
            );
            if let FieldKind::Array {
                each,
                count: Some(count),
            } = field.kind
            {
                assert_eq!(each * count, field.size, "{group}:{name}: {field:?}");
            }
        }
    }
    println!("{} tracepoints with {fields} fields", all.len());
    let sched = kernel::tracepoints("sched", "sched_process_*").unwrap();
    assert!(
        sched.contains(&("sched".into(), "sched_process_exec".into())),
        "{sched:?}"
    );
}

#[test]
fn a_misspelt_tracepoint_is_answered_with_the_nearest() {
    let error = kernel::tracepoint("syscalls", "sys_enter_exceve")
        .unwrap_err()
        .to_string();
    assert!(error.contains("syscalls:sys_enter_execve"), "{error}");
    let error = kernel::tracepoint("../sched", "sched_switch")
        .unwrap_err()
        .to_string();
    assert!(error.contains("no tracepoint"), "{error}");
}

#[test]
fn a_directory_without_tracepoints_says_where_it_looked() {
    let shop = Workshop::new();
    let error = Tracefs::at(shop.path("none"))
        .tracepoints("*", "*")
        .unwrap_err()
        .to_string();
    assert!(error.contains("none/events"), "{error}");
    let error = KernelTypes::open(&shop.path("none"))
        .err()
        .expect("no BTF there")
        .to_string();
    assert!(
        error.contains("vmlinux") && error.contains("CONFIG_DEBUG_INFO_BTF"),
        "{error}"
    );
}

#[test]
fn a_kernel_function_has_typed_parameters() {
    let types = kernel::types().unwrap();
    let sendmsg = types.function("tcp_sendmsg").unwrap();
    let parameters: Vec<(String, String)> = sendmsg
        .parameters
        .iter()
        .map(|p| (p.name.clone(), types.type_name(p.ty)))
        .collect();
    let expected = [
        ("sk", "struct sock *"),
        ("msg", "struct msghdr *"),
        ("size", "size_t"),
    ];
    assert_eq!(
        parameters,
        expected.map(|(n, t)| (n.to_owned(), t.to_owned()))
    );
    assert_eq!(
        sendmsg.returns.map(|ty| types.shape(ty)),
        Some(Shape::Int {
            bytes: 4,
            signed: true
        })
    );
    let error = types.function("tcp_sendmgs").unwrap_err().to_string();
    assert!(error.contains("tcp_sendmsg"), "{error}");
    let all = types.functions("tcp_send*").unwrap();
    assert!(all.contains(&"tcp_sendmsg_locked".to_owned()), "{all:?}");
}

#[test]
fn a_raw_tracepoint_hands_over_its_arguments() {
    let types = kernel::types().unwrap();
    let switch = types.raw_tracepoint("sched_switch").unwrap();
    let parameters: Vec<String> = switch
        .parameters
        .iter()
        .map(|p| types.type_name(p.ty))
        .collect();
    assert_eq!(
        parameters[..3],
        ["bool", "struct task_struct *", "struct task_struct *"]
    );
    assert!(
        types
            .raw_tracepoints("inet_sock_*")
            .unwrap()
            .contains(&"inet_sock_set_state".to_owned())
    );
    let error = types.raw_tracepoint("sched_swich").unwrap_err().to_string();
    assert!(error.contains("sched_switch"), "{error}");
}

/// Types that the kernel shares with programs have one layout: the C compiler knows it too.
#[test]
fn shared_structs_lie_as_the_c_compiler_lays_them_out() {
    let plain = [
        (
            "struct tcp_info",
            "linux/tcp.h",
            &[
                "tcpi_state",
                "tcpi_rto",
                "tcpi_rtt",
                "tcpi_bytes_acked",
                "tcpi_delivered",
            ][..],
        ),
        (
            "struct iphdr",
            "linux/ip.h",
            &["tos", "tot_len", "saddr", "daddr"],
        ),
        (
            "struct sockaddr_in",
            "linux/in.h",
            &["sin_family", "sin_port", "sin_addr"],
        ),
        ("struct iovec", "linux/uio.h", &["iov_base", "iov_len"]),
        (
            "struct perf_event_attr",
            "linux/perf_event.h",
            &[
                "type",
                "config",
                "sample_period",
                "bp_addr",
                "config1",
                "sample_max_stack",
            ],
        ),
    ];
    let mut source = "#include <stdio.h>\n#include <stddef.h>\n#include <string.h>\n".to_owned();
    for (_, header, _) in plain {
        source += &format!("#include <{header}>\n");
    }
    source += "#define BIT(T, F) { union { T t; unsigned char b[sizeof(T)]; } u; memset(&u, 0, sizeof u); u.t.F = ~0ull; \\\n\
        int first = -1, n = 0; for (int i = 0; i < (int)sizeof(T) * 8; i++) if (u.b[i / 8] >> i % 8 & 1) { if (first < 0) first = i; n++; } \\\n\
        printf(\"bits %d %d\\n\", first, n); }\nint main(void) {\n";
    for (name, _, fields) in plain {
        for field in fields {
            source += &format!(
                "printf(\"%zu %zu\\n\", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));\n"
            );
        }
    }
    let bits = [
        ("struct iphdr", "ihl"),
        ("struct iphdr", "version"),
        ("struct tcphdr", "doff"),
        ("struct tcphdr", "syn"),
        ("struct tcphdr", "cwr"),
        ("struct tcp_info", "tcpi_rcv_wscale"),
        ("struct perf_event_attr", "precise_ip"),
        ("struct perf_event_attr", "sigtrap"),
    ];
    for (name, field) in bits {
        source += &format!("BIT({name}, {field})\n");
    }
    source += "}\n";
    let shop = Workshop::new();
    let program = shop.gcc("layout", "layout.c", &source, &[]);
    let output = run("layout", &mut Command::new(program));
    let mut truth = output.lines();

    let types = kernel::types().unwrap();
    let member = |name: &str, field: &str| {
        let ty = types
            .named(name)
            .unwrap()
            .unwrap_or_else(|| panic!("no {name} in BTF"));
        types
            .member(ty, field)
            .unwrap_or_else(|| panic!("no {field} in {name}"))
    };
    for (name, _, fields) in plain {
        for field in fields {
            let member = member(name, field);
            let size = types.size(member.ty).unwrap();
            assert_eq!(
                Some(format!("{} {size}", member.offset).as_str()),
                truth.next(),
                "{name}.{field}"
            );
        }
    }
    for (name, field) in bits {
        let member = member(name, field);
        let bits = member
            .bits
            .unwrap_or_else(|| panic!("{name}.{field} is no bit field"));
        assert!(bits.shift + bits.bits <= bits.unit * 8);
        let first = member.offset * 8 + u64::from(bits.shift);
        assert_eq!(
            Some(format!("bits {first} {}", bits.bits).as_str()),
            truth.next(),
            "{name}.{field}"
        );
    }
}

#[test]
fn every_kernel_type_can_be_described() {
    let types = kernel::types().unwrap();
    let sock = types.named("struct tcp_sock").unwrap().unwrap();
    let Shape::Record {
        size: Some(size), ..
    } = types.shape(sock)
    else {
        panic!("tcp_sock is no struct")
    };
    let members = types.members(sock);
    let acked = types.member(sock, "bytes_acked").unwrap();
    assert_eq!(
        types.shape(acked.ty),
        Shape::Int {
            bytes: 8,
            signed: false
        }
    );
    assert!(members.iter().all(|m| m.offset < size), "{members:?}");
    println!(
        "struct tcp_sock: {size} bytes, {} members, bytes_acked at {}",
        members.len(),
        acked.offset
    );
    // Anonymous unions are flattened: sock_common's addresses.
    let common = types.named("struct sock_common").unwrap().unwrap();
    let (daddr, pair) = (
        types.member(common, "skc_daddr").unwrap(),
        types.member(common, "skc_addrpair").unwrap(),
    );
    assert_eq!((daddr.offset, pair.offset), (0, 0));
    let states = types.named("enum tcp_ca_state").unwrap().unwrap();
    let Shape::Enum { values, .. } = types.shape(states) else {
        panic!("not an enum")
    };
    assert_eq!(values.last(), Some(&("TCP_CA_Loss".to_owned(), 4)));
    assert_eq!(types.named("struct no_such_thing").unwrap(), None);
    let operations = types.named("struct file_operations").unwrap().unwrap();
    let read = types.member(operations, "read").unwrap();
    assert_eq!(
        types.type_name(read.ty),
        "ssize_t (*)(struct file *, char *, size_t, loff_t *)"
    );
}
