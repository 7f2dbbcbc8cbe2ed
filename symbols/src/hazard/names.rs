//! Names that tell what a file does.

/// Functions that leave one stack for another. Whoever defines or imports one of these (the C library aside) switches.
const SWITCHERS: &[&str] = &[
    // ucontext of glibc, and libucontext for musl
    "swapcontext",
    "setcontext",
    "makecontext",
    "libucontext_swapcontext",
    // boost.context, and those that took its assembler code
    "jump_fcontext",
    "make_fcontext",
    "ontop_fcontext",
    "bthread_jump_fcontext",
    "bthread_make_fcontext",
    "zend_fiber_switch_context",
    "tb_context_jump",
    // coroutine libraries: NtyCo, libco (Tencent's and higan's), libaco, minicoro, libcoro, state threads, libtask
    "nty_coroutine_resume",
    "nty_coroutine_yield",
    "coctx_swap",
    "co_switch",
    "co_swap",
    "co_resume",
    "acosw",
    "aco_resume",
    "mco_switch",
    "_mco_switch",
    "mco_resume",
    "coro_transfer",
    "_st_md_cxt_save",
    "_st_md_cxt_restore",
    "st_thread_create",
    "taskswitch",
    "qemu_coroutine_switch",
    "coroutine_transfer",
    "jl_switchto",
    "slp_switch",
    "PyInit__greenlet",
    "mill_go_prologue",
    "dill_prologue",
    "_photon_switch_context",
    // GNU Pth, and Rust's stacker
    "pth_mctx_switch",
    "rust_psm_on_stack",
    "rust_psm_replace_stack",
];

/// OpenSSL keeps a second stack for jobs that wait for an accelerator, and switches to it when a program asks for that,
/// directly or by SSL_MODE_ASYNC: such a program, and the engine, use one of these.
const OPENSSL_ASYNC: &[&str] = &[
    "ASYNC_start_job",
    "ASYNC_pause_job",
    "SSL_waiting_for_async",
    "SSL_get_all_async_fds",
    "SSL_get_changed_async_fds",
];

/// Machines that walk over calls by their return addresses, known by a function that they define.
const WALKERS: &[(&str, &str)] = &[
    ("JNI_CreateJavaVM", "the Java machine"),
    ("coreclr_initialize", "the .NET machine"),
    ("mono_jit_init", "the Mono machine"),
    ("caml_call_gc", "the OCaml runtime"),
];
/// V8 has too many names that change.
const V8: &[u8] = b"_ZN2v8";

/// Names that only code uses which throws.
const THROW: &[&str] = &[
    "__cxa_throw",
    "__cxa_rethrow",
    "__cxa_throw_bad_array_new_length",
    "_ZSt17rethrow_exceptionNSt15__exception_ptr13exception_ptrE",
    "_d_throw_exception",
    "_d_throwdwarf",
    "objc_exception_throw",
    "__gnat_raise_exception",
];
/// The same, where it is imported: C programs that are linked statically define it, for the cancelling of threads.
const UNWINDER: &[&str] = &["_Unwind_RaiseException"];
/// Names that only code uses which catches.
const CATCH: &[&str] = &[
    "__cxa_begin_catch",
    "__gnat_begin_handler",
    "objc_begin_catch",
];
/// Names that only code uses which exceptions may cross.
const CROSSED: &[&str] = &[
    "__gxx_personality_v0",
    "__gnat_personality_v0",
    "__gdc_personality_v0",
    "__objc_personality_v0",
    "__gnu_objc_personality_v0",
];

/// What the names of a file come to.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) switcher: Option<String>,
    pub(super) walker: Option<&'static str>,
    /// A name that tells that it throws, or that it catches.
    pub(super) throws: Option<String>,
    pub(super) catches: Option<String>,
    /// A name that tells that exceptions may cross its functions.
    pub(super) crossed: Option<String>,
    /// It cancels threads, or ends them from within.
    pub(super) cancels: bool,
    /// It gives signal handlers a stack of their own.
    pub(super) signal_stack: bool,
    /// C with clean-ups that a thread runs when it is ended (gcc -fexceptions).
    pub(super) cleans: bool,
    /// It makes streams, or formats, that call its own functions.
    pub(super) hooks_streams: bool,
    /// It is there to give memory: `malloc` and the C++ operators.
    pub(super) allocates: [bool; 2],
    /// It is OpenSSL: it switches stacks, but only for those who ask for it.
    pub(super) openssl: bool,
    /// A sanitizer's runtime, which stands before functions of the C library and passes their calls on.
    pub(super) intercepts: bool,
    /// It has the Go runtime.
    pub(super) go: bool,
}

impl Told {
    /// Takes in one name.
    pub(super) fn hear(&mut self, name: &[u8], defined: bool) {
        let Ok(text) = std::str::from_utf8(name) else {
            return;
        };
        let keep = |place: &mut Option<String>, list: &[&str]| {
            if place.is_none() && list.contains(&text) {
                *place = Some(text.to_owned());
            }
        };
        keep(&mut self.switcher, SWITCHERS);
        if OPENSSL_ASYNC.contains(&text) {
            match defined {
                true => self.openssl = true,
                false => keep(&mut self.switcher, OPENSSL_ASYNC),
            }
        }
        if UNWINDER.contains(&text) && !defined && self.throws.is_none() {
            self.throws = Some(text.to_owned());
        }
        keep(&mut self.throws, THROW);
        keep(&mut self.catches, CATCH);
        keep(&mut self.crossed, CROSSED);
        if self.throws.is_none() && throws_for_library(text) {
            self.throws = Some(text.to_owned());
        }
        match text {
            "pthread_cancel" | "pthread_exit" | "thrd_exit" => self.cancels |= !defined,
            "fopencookie" | "register_printf_function" | "register_printf_specifier" => {
                self.hooks_streams |= !defined;
            }
            "sigaltstack" => self.signal_stack |= !defined,
            "__gcc_personality_v0" => self.cleans |= !defined,
            "__interceptor_malloc" => self.intercepts |= defined,
            "malloc" => self.allocates[0] |= defined,
            "_Znwm" => self.allocates[1] |= defined,
            "runtime.text" | "runtime.morestack" | "_cgo_init" | "crosscall2" => self.go |= defined,
            _ => {}
        }
        if defined && self.walker.is_none() {
            let known = WALKERS.iter().find(|(name, _)| *name == text);
            self.walker = known.map(|(_, who)| *who);
            if name.starts_with(V8) {
                self.walker = Some("V8");
            }
        }
    }
}

/// The functions by which libstdc++ and libc++ throw: `std::__throw_length_error(char const*)`.
fn throws_for_library(name: &str) -> bool {
    name.starts_with("_ZSt") && name.contains("__throw_")
}

/// Whether a function ends by an exception: it always crosses its frame.
pub(super) fn raises(name: &str) -> bool {
    let raises = [
        "__cxa_throw",
        "__cxa_rethrow",
        "__cxa_bad_cast",
        "__cxa_bad_typeid",
        "__cxa_throw_bad_array_new_length",
        "_ZSt17rethrow_exceptionNSt15__exception_ptr13exception_ptrE",
        "rust_panic",
        "__rust_start_panic",
    ];
    raises.contains(&name) || throws_for_library(name)
}

/// Functions that return more than once, or go on later by the return address that they were called with.
pub(super) fn returns_twice(name: &str) -> bool {
    matches!(
        name.trim_start_matches('_'),
        "setjmp"
            | "sigsetjmp"
            | "savectx"
            | "getcontext"
            | "swapcontext"
            | "vfork"
            | "libc_vfork"
            | "sigsetjmp_cancel"
            | "libucontext_getcontext"
            | "libucontext_swapcontext"
    )
}

/// Functions that look at who called them. glibc: `RETURN_ADDRESS (0)` in dlfcn/dlsym.c, dlvsym.c, dlopen.c, dlmopen.c
/// (dladdr and dlinfo do not). libgcc: `uw_init_context` starts from the return address of the function that an
/// unwinding begins with.
pub(super) fn reads_return_address(name: &str) -> bool {
    matches!(
        name,
        "dlsym"
            | "dlvsym"
            | "dlopen"
            | "dlmopen"
            | "__libc_dlopen_mode"
            | "mcount"
            | "_mcount"
            | "__fentry__"
            | "__cyg_profile_func_enter"
            | "__cyg_profile_func_exit"
            | "_Unwind_RaiseException"
            | "_Unwind_Resume"
            | "_Unwind_Resume_or_Rethrow"
            | "_Unwind_ForcedUnwind"
            | "_Unwind_Backtrace"
            | "backtrace"
            | "__backtrace"
            | "unw_backtrace"
            | "unw_getcontext"
            | "__unw_getcontext"
            | "_Ux86_64_getcontext"
            | "_Ux86_64_getcontext_trace"
    )
}

/// Code that is jumped to, or called by rules of its own.
pub(super) fn is_not_called(name: &str) -> bool {
    let exact = [
        "_start",
        "_dl_start",
        "_dl_start_user",
        "_dlstart",
        "__start_context",
        "__restore",
        "__restore_rt",
        "__morestack",
        "__kernel_rt_sigreturn",
    ];
    let begin = [
        "_dl_runtime_resolve",
        "_dl_runtime_profile",
        "__x86.get_pc_thunk",
        "__x86_indirect_thunk",
        "__x86_return_thunk",
    ];
    exact.contains(&name) || begin.iter().any(|begin| name.starts_with(begin))
}
