//! Functions of the C library: most run nothing of the program's while they are open.

use uprof_symbols::Image;
use uprof_symbols::hazard::{HazardKind, Survey};

use super::switches::UCONTEXT;
use super::{kind, of_libc, of_program};
use crate::fixtures::{Workshop, libc, one};

#[test]
fn what_runs_nothing_is_safe_beside_switches() {
    let workshop = Workshop::new();
    let program = workshop.gcc("context", "context.c", UCONTEXT, &[]);
    for name in [
        "malloc",
        "free",
        "read",
        "write",
        "puts",
        "printf",
        "getenv",
        "clock_gettime",
    ] {
        assert_eq!(of_libc(&program, name), None, "{name}");
    }
    for name in [
        "qsort",
        "bsearch",
        "pthread_once",
        "getaddrinfo",
        "dlclose",
        "fork",
        "exit",
    ] {
        let hazard = kind(of_libc(&program, name));
        assert_eq!(hazard, Some(HazardKind::StackSwitch), "{name}");
    }
    let streams = "#define _GNU_SOURCE\n#include <stdio.h>\ncookie_io_functions_t f;\n\
        int main(void) { return !fopencookie(0, \"r\", f); }\n";
    let both = format!("{UCONTEXT}\n").replace("int main", "int other_main");
    let program = workshop.gcc("both", "both.c", &(streams.to_owned() + &both), &[]);
    assert_eq!(
        kind(of_libc(&program, "fwrite")),
        Some(HazardKind::StackSwitch)
    );
    assert_eq!(of_libc(&program, "malloc"), None);
}

#[test]
fn what_no_process_bears() {
    let workshop = Workshop::new();
    let program = workshop.gcc("plain", "plain.c", "int main(void) { return 0; }\n", &[]);
    for (name, expected) in [
        ("_setjmp", HazardKind::ReturnsTwice),
        ("__sigsetjmp", HazardKind::ReturnsTwice),
        ("getcontext", HazardKind::ReturnsTwice),
        ("swapcontext", HazardKind::ReturnsTwice),
        ("vfork", HazardKind::ReturnsTwice),
        ("dlsym", HazardKind::ReadsReturnAddress),
        ("dlopen", HazardKind::ReadsReturnAddress),
        ("backtrace", HazardKind::ReadsReturnAddress),
    ] {
        assert_eq!(kind(of_libc(&program, name)), Some(expected), "{name}");
    }
    assert_eq!(of_libc(&program, "qsort"), None);
    assert_eq!(of_program(&program, "main", false), None);
    assert_eq!(
        kind(of_program(&program, "_start", false)),
        Some(HazardKind::NotCalled)
    );
}

#[test]
fn cancelled_threads_of_cpp() {
    let workshop = Workshop::new();
    let source = |body: &str| {
        format!(
            "#include <pthread.h>\n#include <string>\nvoid f(std::string);\n\
             int main(int n, char **) {{ try {{ if (n > 9) throw 1; }} catch (int) {{}} {body} }}\n"
        )
    };
    let cancels = source("return pthread_cancel(pthread_self());");
    let cancels = workshop.gcc("cancels", "cancels.cc", &cancels, &[]);
    let throws = workshop.gcc("throws", "throws.cc", &source("return 0;"), &[]);
    assert_eq!(
        kind(of_libc(&cancels, "read")),
        Some(HazardKind::Exceptions)
    );
    assert_eq!(of_libc(&cancels, "malloc"), None);
    assert_eq!(of_libc(&throws, "read"), None);
    // C cleans up by calls that the C library knows of (which survive, as was seen), unless it is told otherwise.
    let source = "#include <pthread.h>\n#include <stdio.h>\n\
        void clean(void *p) { puts(p); }\n__attribute__((noinline)) int work(int n) { \
        pthread_cleanup_push(clean, \"clean\"); if (n) pthread_exit(0); pthread_cleanup_pop(1); return n; }\n\
        int main(int n, char **v) { (void)v; return work(n - 1); }\n";
    let plain = workshop.gcc("plain", "cleans.c", source, &["-O1"]);
    assert_eq!(of_libc(&plain, "read"), None);
    assert_eq!(of_program(&plain, "work", false), None);
    let unwound = workshop.gcc("unwound", "cleans.c", source, &["-O1", "-fexceptions"]);
    assert_eq!(
        kind(of_libc(&unwound, "read")),
        Some(HazardKind::Exceptions)
    );
    assert_eq!(
        kind(of_program(&unwound, "work", false)),
        Some(HazardKind::Exceptions)
    );
}

#[test]
fn in_all_processes() {
    let libc = libc();
    let survey = Survey::of_file(&libc, libc.path()).unwrap();
    let hazard = |name: &str| kind(survey.hazard(&libc, &one(&libc, name), true));
    assert_eq!(hazard("malloc"), None);
    assert_eq!(hazard("qsort"), Some(HazardKind::UnknownProcess));
    assert_eq!(hazard("read"), Some(HazardKind::UnknownProcess));
    let libz = uprof_symbols::find_library_file("libz").unwrap();
    let image = Image::open(&libz).unwrap();
    let survey = Survey::of_file(&image, &libz).unwrap();
    let hazard = survey.hazard(&image, &one(&image, "deflate"), true);
    assert_eq!(kind(hazard), Some(HazardKind::UnknownProcess));
}
