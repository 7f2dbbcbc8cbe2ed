//! Stacks with names: each address is looked up once.

use std::collections::HashMap;

use uprof_symbols::resolve::{Frame, Module, Symbolizer};

/// Names for the addresses of stacks.
#[derive(Default)]
pub struct Stacks {
    symbolizer: Symbolizer,
    /// By process (0: the kernel) and address: innermost first, where functions were inlined.
    known: HashMap<(u32, u64), Vec<String>>,
}

impl Stacks {
    /// Has a look at a process while it is there: it may have ended when its stacks are to be shown.
    pub fn meet(&mut self, pid: u32) {
        // What it has mapped is read on the way to any address.
        let _ = self.symbolizer.frames(pid, 0);
    }

    /// The frames of a stack, innermost first; of the kernel without a process.
    pub fn frames(&mut self, pid: Option<u32>, addresses: &[u64]) -> Vec<String> {
        let mut frames = Vec::new();
        for (depth, &address) in addresses.iter().enumerate() {
            // All but the first are return addresses, behind the call that they belong to.
            let call = address.wrapping_sub(u64::from(depth > 0));
            let place = (pid.unwrap_or(0), call);
            if !self.known.contains_key(&place) {
                let names = self.named(pid, call);
                self.known.insert(place, names);
            }
            frames.extend(self.known[&place].iter().cloned());
        }
        frames
    }

    fn named(&mut self, pid: Option<u32>, address: u64) -> Vec<String> {
        let found = match pid {
            Some(pid) => self.symbolizer.frames(pid, address).ok(),
            None => match self.symbolizer.kernel_function(address) {
                Ok(Some(frame)) => Some(vec![frame]),
                _ => None,
            },
        };
        let unknown = || vec![format!("{address:#x}")];
        found.map_or_else(unknown, |frames| {
            frames.iter().map(|f| shown(f, address)).collect()
        })
    }
}

/// `main (a.out)`, `tcp_sendmsg+0x1b`.
fn shown(frame: &Frame, address: u64) -> String {
    let name = frame.display_name();
    let of = match &frame.module {
        Module::File(path) => path
            .file_name()
            .map(|name| format!(" ({})", name.to_string_lossy())),
        Module::Kernel | Module::KernelModule(_) => frame
            .offset
            .filter(|offset| *offset > 0)
            .map(|offset| format!("+{offset:#x}")),
        other => Some(format!(" ({other})")),
    };
    let name = name.unwrap_or_else(|| format!("{address:#x}"));
    format!("{name}{}", of.unwrap_or_default())
}
