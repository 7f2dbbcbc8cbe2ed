//! `/proc/kallsyms`: the kernel's symbols and those of its modules.

use super::{Frame, Module};
use crate::error::{Error, Result};

/// The kernel's symbols, by address.
#[derive(Debug)]
pub struct KernelSymbols {
    text: String,
    /// Of each address: whether it is code, the range of its name in the text, that of its module's.
    symbols: Vec<Symbol>,
}

#[derive(Clone, Copy, Debug)]
struct Symbol {
    address: u64,
    code: bool,
    /// Exported names before others, then those with fewer underscores: of aliases, the one that people know.
    rank: (bool, u8),
    name: (u32, u32),
    module: (u32, u32),
}

impl KernelSymbols {
    /// Reads the list.
    ///
    /// # Errors
    /// [`Error::Kallsyms`]: it cannot be read, or the kernel hides the addresses.
    pub fn read() -> Result<Self> {
        let text = std::fs::read("/proc/kallsyms").map_err(|error| Error::Kallsyms {
            why: format!("{error} (a kernel without CONFIG_KALLSYMS?)"),
        })?;
        Self::parse(String::from_utf8_lossy(&text).into_owned())
    }

    fn parse(text: String) -> Result<Self> {
        let start = text.as_ptr() as usize;
        let range = |part: &str| {
            let at = u32::try_from(part.as_ptr() as usize - start).unwrap_or(u32::MAX);
            (
                at,
                at.saturating_add(u32::try_from(part.len()).unwrap_or(0)),
            )
        };
        let mut symbols: Vec<Symbol> = text
            .lines()
            .filter_map(|line| {
                // ffffffff81000000 T name	[module]
                let (address, rest) = line.split_once(' ')?;
                let (kind, rest) = rest.split_once(' ')?;
                let (name, module) = rest
                    .split_once(['\t', ' '])
                    .unwrap_or(rest.split_at(rest.len()));
                let module = module.trim().trim_start_matches('[').trim_end_matches(']');
                let underscores = name.bytes().take_while(|b| *b == b'_').count();
                Some(Symbol {
                    address: u64::from_str_radix(address, 16).ok()?,
                    code: matches!(kind, "t" | "T" | "w" | "W"),
                    rank: (
                        !matches!(kind, "T" | "W"),
                        u8::try_from(underscores).unwrap_or(u8::MAX),
                    ),
                    name: range(name),
                    module: range(module),
                })
            })
            .collect();
        if symbols.iter().all(|symbol| symbol.address == 0) {
            let why = match symbols.is_empty() {
                true => "it lists nothing",
                false => {
                    "the kernel hides its addresses; run as root, with kernel.kptr_restrict (sysctl) at 0 or 1"
                }
            };
            return Err(Error::Kallsyms { why: why.into() });
        }
        symbols.sort_by_key(|symbol| (symbol.address, !symbol.code, symbol.rank));
        symbols.dedup_by_key(|symbol| symbol.address);
        Ok(Self { text, symbols })
    }

    /// The function at an address; `None` where there is none (data, or no kernel address).
    pub fn frame(&self, address: u64) -> Option<Frame> {
        /// The last symbol has no end; no function is that long.
        const LONGEST: u64 = 1 << 20;
        let past = self
            .symbols
            .partition_point(|symbol| symbol.address <= address);
        let symbol = self.symbols.get(past.checked_sub(1)?)?;
        let offset = address - symbol.address;
        if !symbol.code || symbol.address == 0 || offset > LONGEST {
            return None;
        }
        let part = |(start, end): (u32, u32)| self.text.get(start as usize..end as usize);
        let module = part(symbol.module).filter(|module| !module.is_empty());
        Some(Frame {
            function: Some(part(symbol.name)?.to_owned()),
            offset: Some(offset),
            ..Frame::nameless(module.map_or(Module::Kernel, |module| {
                Module::KernelModule(module.to_owned())
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "0000000000000000 A fixed_percpu_data\n\
        ffffffff81000000 T _stext\n\
        ffffffff81000000 T _text\n\
        ffffffff81000100 t __do_thing\n\
        ffffffff81000100 T do_thing\n\
        ffffffff81000200 D some_data\n\
        ffffffffc0000000 t nf_hook\t[nf_tables]\n";

    #[test]
    fn functions_and_modules() {
        let kernel = KernelSymbols::parse(LIST.to_owned()).unwrap();
        let named = |address| {
            let frame = kernel.frame(address)?;
            Some(format!(
                "{} {}+{:#x}",
                frame.module, frame.function?, frame.offset?
            ))
        };
        assert_eq!(
            named(0xffff_ffff_8100_0101).as_deref(),
            Some("[kernel] do_thing+0x1")
        );
        assert_eq!(
            named(0xffff_ffff_8100_00ff).as_deref(),
            Some("[kernel] _stext+0xff")
        );
        assert_eq!(named(0xffff_ffff_8100_0200), None);
        assert_eq!(
            named(0xffff_ffff_c000_0010).as_deref(),
            Some("[nf_tables] nf_hook+0x10")
        );
        assert_eq!(named(0xffff_ffff_ffff_ff00), None);
        assert_eq!(named(0x1000), None);
    }

    #[test]
    fn hidden_addresses_are_told() {
        let hidden: String = LIST
            .lines()
            .map(|line| format!("{:016x}{}\n", 0, &line[16..]))
            .collect();
        let message = KernelSymbols::parse(hidden).unwrap_err().to_string();
        assert!(message.contains("kptr_restrict"), "{message}");
        let message = KernelSymbols::parse(String::new()).unwrap_err().to_string();
        assert!(message.contains("lists nothing"), "{message}");
    }
}
