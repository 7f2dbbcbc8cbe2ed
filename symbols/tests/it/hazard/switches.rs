//! Programs that leave one stack for another, under all names and under none.

use std::path::{Path, PathBuf};
use std::process::Command;

use uprof_symbols::Image;
use uprof_symbols::hazard::{HazardKind, Survey};
use uprof_symbols::image::Part;

use super::{kind, of_program};
use crate::fixtures::{Workshop, run};

/// Two stacks that take turns, as ucontext does it.
pub(super) const UCONTEXT: &str = r#"
#include <stdio.h>
#include <ucontext.h>
static ucontext_t here, there;
static char stack[64 << 10];
__attribute__((noinline)) int work(int n) { swapcontext(&there, &here); return n + 1; }
static void other(void) { work(1); }
int main(void) {
    getcontext(&there);
    there.uc_stack.ss_sp = stack; there.uc_stack.ss_size = sizeof stack; there.uc_link = &here;
    makecontext(&there, other, 0);
    swapcontext(&here, &there); swapcontext(&here, &there);
    puts("done");
    return 0;
}
"#;

/// The same by hand: no library, no known name, no call frame information.
const BY_HAND: &str = r#"
#include <stdio.h>
void turn(void **from, void *to);
__asm__(".text\n.globl turn\n.type turn, @function\nturn:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n.size turn, . - turn\n");
static void *here, *there;
static long stack[8192];
__attribute__((noinline)) int work(int n) { turn(&there, here); return n + 1; }
static void other(void) { for (;;) work(1); }
int main(void) {
    there = &stack[8000]; stack[8006] = (long)other;
    turn(&here, there); turn(&here, there);
    puts("done");
    return 0;
}
"#;

/// Within a C function, as `asm` statements.
const INLINE: &str = r#"
#include <stdio.h>
struct context { long before; void *sp; };
static struct context here, there;
static long stack[8192];
__attribute__((noinline, noclone)) void turn(struct context *from, struct context *to) {
    void **save = &from->sp, **load = &to->sp;
    __asm__ volatile("lea 1f(%%rip), %%rax\n push %%rbp\n push %%rbx\n push %%rax\n mov %%rsp, (%0)\n mov (%1), %%rsp\n ret\n1: pop %%rbx\n pop %%rbp\n"
        : "+D"(save), "+S"(load) : : "rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory");
}
__attribute__((noinline)) int work(int n) { turn(&there, &here); return n + 1; }
static void other(void) { for (;;) work(1); }
int main(void) {
    there.sp = &stack[8000]; stack[8000] = (long)other;
    turn(&here, &there); turn(&here, &there);
    puts("done");
    return 0;
}
"#;

/// Compilers write the stack pointer too.
const ALLOCA: &str = r#"
#include <alloca.h>
#include <stdio.h>
#include <string.h>
__attribute__((noinline)) long use(char *p, long n) { memset(p, 1, n); return p[n - 1]; }
__attribute__((noinline)) long work(int n) {
    long sum = 0;
    for (int i = 1; i < n; i++) {
        char room[i * 3];
        sum += use(room, sizeof room);
        if (sum % 7 == 0) { int more[i]; more[i - 1] = 2; sum += use((char *)more, sizeof more); continue; }
        if (sum % 1000 == 999) break;
    }
    char *last = alloca(sum + 1);
    return use(last, sum + 1) + sum;
}
__attribute__((noinline)) int aligned(int n) { _Alignas(64) char room[n + 64]; return (int)use(room, n + 64); }
int main(int argc, char **argv) { (void)argv; printf("%ld %d\n", work(argc + 40), aligned(argc)); return 0; }
"#;

pub(super) fn strip(program: &Path) -> PathBuf {
    let stripped = program.with_extension("stripped");
    run(
        "strip",
        Command::new("strip").arg("-o").arg(&stripped).arg(program),
    );
    stripped
}

/// Of any function that can be called: the stripped ones have no names.
pub(super) fn of_any(program: &Path) -> Option<HazardKind> {
    let image = Image::open(program).unwrap();
    let survey = Survey::of_file(&image, program).unwrap();
    let functions = image.functions().unwrap();
    let mut hazards = functions
        .iter()
        .filter(|f| f.part == Part::Whole)
        .map(|f| kind(survey.hazard(&image, f, false)));
    let mut kinds = hazards
        .by_ref()
        .filter(|kind| *kind != Some(HazardKind::NotCalled));
    kinds
        .next()
        .unwrap_or_else(|| panic!("{}: no function is called", program.display()))
}

fn runs(program: &Path) {
    assert!(run("the program", &mut Command::new(program)).contains("done"));
}

#[test]
fn contexts_of_the_c_library() {
    let workshop = Workshop::new();
    for (name, flags) in [("dynamic", &["-O1"][..]), ("static", &["-O1", "-static"])] {
        let program = workshop.gcc(name, "context.c", UCONTEXT, flags);
        runs(&program);
        let hazard = of_program(&program, "work", true).unwrap();
        assert_eq!(hazard.kind, HazardKind::StackSwitch);
        assert!(
            hazard.why.contains("context") && hazard.why.contains(name),
            "{hazard:?}"
        );
        assert_eq!(
            of_any(&strip(&program)),
            Some(HazardKind::StackSwitch),
            "{name}"
        );
    }
}

#[test]
fn switches_that_nobody_has_named() {
    let workshop = Workshop::new();
    for (name, source) in [("hand", BY_HAND), ("inline", INLINE)] {
        for (compiler, flags) in [
            ("gcc", &["-O0"][..]),
            ("gcc", &["-O2"]),
            ("gcc", &["-O2", "-static"]),
            (
                "gcc",
                &["-O2", "-fno-asynchronous-unwind-tables", "-static-pie"],
            ),
            ("musl-gcc", &["-O2", "-static"]),
        ] {
            let source = workshop.write(&format!("{name}.c"), source);
            let program = workshop.compile(compiler, name, &source, flags);
            runs(&program);
            let what = format!("{name} {compiler} {flags:?}");
            let hazard = of_program(&program, "work", true);
            assert_eq!(kind(hazard), Some(HazardKind::StackSwitch), "{what}");
            let stripped = strip(&program);
            if Image::open(&stripped).unwrap().functions().is_ok() {
                assert_eq!(
                    of_any(&stripped),
                    Some(HazardKind::StackSwitch),
                    "{what} stripped"
                );
            }
        }
    }
}

/// By the assembler code of Boost, with its names and without.
const BOOST: &str = r#"
#include <cstdio>
#include <boost/context/detail/fcontext.hpp>
using namespace boost::context::detail;
static char stack[64 << 10];
extern "C" __attribute__((noinline)) int work(int n, fcontext_t *to) { *to = jump_fcontext(*to, 0).fctx; return n + 1; }
static void other(transfer_t from) { for (;;) work(1, &from.fctx); }
int main() {
    fcontext_t there = make_fcontext(stack + sizeof stack, sizeof stack, other);
    there = jump_fcontext(there, 0).fctx;
    jump_fcontext(there, 0);
    std::puts("done");
    return 0;
}
"#;

#[test]
fn contexts_of_boost() {
    let workshop = Workshop::new();
    let source = workshop.write("boost.cc", BOOST);
    let archive = "/usr/lib/x86_64-linux-gnu/libboost_context.a";
    let archive = crate::fixtures::installed(archive, "libboost-context-dev");
    for (name, link) in [
        ("dynamic", &["-lboost_context"][..]),
        ("archive", &[archive.to_str().unwrap()]),
        ("static", &[archive.to_str().unwrap(), "-static"]),
    ] {
        let program = workshop.path(name);
        let mut compiler = Command::new("g++");
        compiler.args(["-O1", "-fno-exceptions", "-o"]);
        run("g++", compiler.arg(&program).arg(&source).args(link));
        runs(&program);
        let hazard = of_program(&program, "work", true).unwrap();
        assert_eq!(hazard.kind, HazardKind::StackSwitch, "{name}");
        assert!(hazard.why.contains("_fcontext"), "{name}: {hazard:?}");
        let image = Image::open(&strip(&program)).unwrap();
        let survey = Survey::of_file(&image, &program).unwrap();
        let start = image.entry_point();
        let functions = image.functions().unwrap();
        let function = functions
            .iter()
            .find(|f| f.part == Part::Whole && f.address != start);
        let hazard = survey.hazard(&image, function.unwrap(), true);
        assert_eq!(
            kind(hazard),
            Some(HazardKind::StackSwitch),
            "{name} stripped"
        );
    }
}

#[test]
fn room_on_the_own_stack_is_no_switch() {
    let workshop = Workshop::new();
    let source = workshop.write("alloca.c", ALLOCA);
    for compiler in ["gcc", "musl-gcc"] {
        for level in ["-O0", "-O1", "-O2", "-O3", "-Os"] {
            for frame in ["-fomit-frame-pointer", "-fno-omit-frame-pointer"] {
                for link in ["-pie", "-static"] {
                    let flags = [level, frame, link];
                    let program = workshop.compile(compiler, "alloca", &source, &flags);
                    assert_eq!(
                        of_program(&program, "work", false),
                        None,
                        "{compiler} {flags:?}"
                    );
                    assert_eq!(of_program(&program, "aligned", false), None, "{flags:?}");
                    assert_eq!(
                        of_any(&strip(&program)),
                        None,
                        "{compiler} {flags:?} stripped"
                    );
                }
            }
        }
    }
}
