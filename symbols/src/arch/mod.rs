//! What depends on the processor, behind one interface: one file per architecture with the same items.
//!
//! - `NAME`, `MACHINE`: the architecture and its ELF number; `relocation`: the kinds of relocations that bind functions;
//! - `Instructions`: decodes code in order, giving `Step`s;
//! - `stub_slot`: what a stub of the procedure linkage table jumps through;
//! - `effects`, `cost`, `text`: one instruction's side effects, its price under a probe, its words;
//! - `Stack`, `jump_table`: where the stack pointer stands behind an instruction, and where a computed jump gets its
//!   target from.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{
    EffectsState, Instructions, JumpTable, MACHINE, NAME, Stack, Step, cost, effects, jump_table,
    relocation, stub_slot, text,
};
#[cfg(not(target_arch = "x86_64"))]
compile_error!(
    "uprof-symbols knows x86-64 only; a new architecture is one more file beside x86_64.rs"
);

use crate::site::{ArgSet, Cost};

/// Where execution goes after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// To the next one.
    Next,
    /// A jump to this virtual address; `conditional` may also fall through.
    Jump { target: u64, conditional: bool },
    /// A jump through a register or memory.
    JumpAnywhere,
    /// A call (also a system call): control leaves and comes back.
    Call,
    /// `ret`.
    Return,
    /// A trap, halt or the like.
    Trap,
    /// No instruction.
    Invalid,
}

/// What an instruction does to what a probe needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effects {
    /// Argument registers it writes, wholly or in part.
    pub(crate) args_written: ArgSet,
    /// The stack pointer moves.
    pub(crate) moves_stack: bool,
    /// It stores to memory: what a captured pointer leads to may have changed.
    pub(crate) writes_memory: bool,
}

/// Which of the kernel's shortcuts a probed instruction takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Price {
    /// The probe can sit here at this cost.
    Cost(Cost),
    /// The kernel refuses it, or mistakes it for something else.
    Refused(&'static str),
}

/// The kernel's abilities that change a price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// Major and minor version.
    version: (u32, u32),
}

impl Kernel {
    /// The running kernel's, by its version: what instructions it emulates cannot be asked for.
    pub(crate) fn running() -> Self {
        static RUNNING: std::sync::OnceLock<Kernel> = std::sync::OnceLock::new();
        *RUNNING.get_or_init(|| {
            let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
            Self::from_release(&release)
        })
    }

    pub(crate) fn from_release(release: &str) -> Self {
        let mut numbers = release
            .split(|c: char| !c.is_ascii_digit())
            .map_while(|n| n.parse().ok());
        Self {
            version: (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)),
        }
    }

    pub(crate) fn at_least(self, major: u32, minor: u32) -> bool {
        self.version >= (major, minor)
    }
}
