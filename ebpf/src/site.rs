//! Where probes are attached.

use std::path::PathBuf;

/// A place to attach a probe to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttachSite {
    /// The file, by a path that this process can open.
    pub path: PathBuf,
    /// Offset in the file.
    pub offset: u64,
    /// Its index, below the probe's `sites`.
    pub site: u32,
    /// Offset in the file of a USDT probe's semaphore: a counter (u16) that the kernel raises in
    /// every process that maps the file while the site is attached.
    pub semaphore: Option<u64>,
    /// The instructions by which the function is left, in the same file, for a call whose
    /// returns are seen there ([`crate::Returns::Exits`]); none: it never ends. Functions may
    /// share them.
    pub exits: Vec<AttachExit>,
}

/// A place in the kernel to attach a probe to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelSite {
    /// Which event; its kind must be the probe's [`crate::KernelSource`].
    pub hook: KernelHook,
    /// Its index, below the probe's `sites`.
    pub site: u32,
}

/// An event of the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KernelHook {
    /// Tracepoints by their numbers in tracefs (`events/GROUP/NAME/id`).
    Tracepoint {
        /// The event, or a call's entry.
        id: u64,
        /// Where a call ends: at whichever of them its thread comes to first.
        ends: Vec<u64>,
    },
    /// A raw tracepoint, by its name without a group.
    RawTracepoint {
        /// `inet_sock_set_state`
        name: String,
    },
    /// A kernel function for fentry and fexit.
    Function {
        /// Its name, for errors.
        name: String,
        /// Its number in the kernel's BTF.
        btf_id: u32,
        /// How many arguments it takes: the return value stands behind them.
        arguments: u8,
        /// The module that has it; `None`: the kernel itself. Functions of modules are not
        /// supported yet.
        module: Option<String>,
    },
    /// A kernel function for kprobes.
    Kprobe {
        /// Its name.
        name: String,
    },
}

/// An instruction by which a call ends: the stack pointer stands at the return address, as at entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttachExit {
    /// Offset in the file.
    pub offset: u64,
    /// The condition of a conditional jump, as in the low four bits of its opcode (Intel SDM
    /// volume 1, appendix B): the call ends only when it is met. `None`: always.
    pub condition: Option<u8>,
    /// It is a jump into another function, which has yet to compute the return value:
    /// [`crate::Expr::Retval`] faults here. A conditional one is a jump anyway.
    pub jump: bool,
}
