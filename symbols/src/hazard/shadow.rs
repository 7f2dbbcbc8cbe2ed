//! Shadow stacks: a second stack of return addresses that the processor keeps and compares (Intel CET, AMD).
//! Linux gives them to programs since 6.6, and writes the replaced address there too since 6.11 (`shstk_update_last_frame`
//! in `arch_uretprobe_hijack_return_addr`, arch/x86/kernel/uprobes.c).

use crate::arch::Kernel;

/// Whether this kernel's uretprobes ignore shadow stacks, which it gives to programs.
fn ignored(kernel: Kernel) -> bool {
    kernel.at_least(6, 6) && !kernel.at_least(6, 11)
}

/// Whether a process has one, and the kernel ignores it.
pub(super) fn endangers(pid: u32) -> bool {
    let status = || std::fs::read_to_string(format!("/proc/{pid}/status"));
    ignored(Kernel::running()) && status().is_ok_and(|status| has_one(&status))
}

/// Whether processes of this machine may have one, and the kernel ignores it.
pub(super) fn may_endanger() -> bool {
    let processor = || std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    ignored(Kernel::running()) && can_have_one(&processor())
}

/// `x86_Thread_features:\tshstk wrss` in /proc/PID/status (arch/x86/kernel/cpu/proc.c).
fn has_one(status: &str) -> bool {
    let mut lines = status.lines();
    let features = lines.find_map(|line| line.strip_prefix("x86_Thread_features:"));
    features.is_some_and(|features| features.split_whitespace().any(|word| word == "shstk"))
}

/// `user_shstk` among the flags in /proc/cpuinfo.
fn can_have_one(cpuinfo: &str) -> bool {
    let mut lines = cpuinfo.lines();
    let flags = lines.find_map(|line| line.strip_prefix("flags"));
    flags.is_some_and(|flags| flags.split_whitespace().any(|word| word == "user_shstk"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No machine at hand has one: the texts are those of the kernel's documentation (arch/x86/shstk.rst).
    #[test]
    fn a_shadow_stack_shows_in_the_status() {
        let status = |features: &str| {
            format!(
                "Name:\tcat\nThreads:\t1\nx86_Thread_features:\t{features}\nx86_Thread_features_locked:\tshstk wrss\n"
            )
        };
        assert!(has_one(&status("shstk ")));
        assert!(has_one(&status("shstk wrss ")));
        assert!(!has_one(&status("")));
        assert!(!has_one(&status("wrss ")));
        assert!(!has_one("Name:\tcat\n"));
        assert!(can_have_one(
            "processor\t: 0\nflags\t\t: fpu user_shstk avx\n"
        ));
        assert!(!can_have_one("processor\t: 0\nflags\t\t: fpu avx\n"));
    }

    #[test]
    fn kernels_between_the_two() {
        let is = |release| ignored(Kernel::from_release(release));
        assert!(!is("6.1.0-44-amd64"));
        assert!(!is("6.5.13"));
        assert!(is("6.6.0"));
        assert!(is("6.10.14"));
        assert!(!is("6.11.0-rc1"));
        assert!(!is("6.18.44"));
    }
}
