//! Programs as a BPF ELF object: to look at, not to load.
//!
//! One section per program, named as libbpf names them; maps are symbols in `.maps`, and each use
//! is a relocation, as is each call of a kernel function.

use std::collections::HashMap;
use std::path::PathBuf;

use object::elf::RelocationType;
use object::write::{Object, Relocation, SectionId, Symbol, SymbolId, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind, SymbolFlags, SymbolKind,
    SymbolScope,
};

use crate::asm::{Code, MapRef};
use crate::error::Error;
use crate::program::{Part, SiteSource, Target, compile};
use crate::spec::{EngineOptions, KernelSource, Mechanism, On, ProbeSpec};

/// R_BPF_64_64 and R_BPF_64_32 of the BPF ABI.
const R_BPF_64_64: u32 = 1;
const R_BPF_64_32: u32 = 10;

/// The object's bytes.
pub(crate) fn write(
    specs: &[ProbeSpec],
    options: &EngineOptions,
    target: &Target,
) -> Result<Vec<u8>, Error> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"GPL\0", 1);
    let maps = object.add_section(Vec::new(), b".maps".to_vec(), SectionKind::Data);
    let mut file = File {
        object,
        maps,
        symbols: HashMap::new(),
    };
    for (index, spec) in specs.iter().enumerate() {
        let mechanism = options.mechanism.unwrap_or(Mechanism::Session);
        for part in Part::of(spec, mechanism) {
            let section = section(spec.on, *part, mechanism);
            // Entry and exits are attached in one way, and told apart by their names.
            let of = match part {
                Part::Exit => "/exit",
                _ => "",
            };
            let site = match spec.on {
                On::Program => SiteSource::Cookie,
                On::Kernel(_) => SiteSource::ANY_KERNEL,
            };
            let code = compile(index, spec, *part, site, target)?;
            let name = format!("{}_{index}_{}", plain(&spec.name), part.name());
            file.program(index, &format!("{section}/{}{of}", spec.name), &name, &code)
                .map_err(broken)?;
        }
    }
    file.object.write().map_err(broken)
}

/// What libbpf calls the sections of such programs.
fn section(on: On, part: Part, mechanism: Mechanism) -> &'static str {
    match (on, part, mechanism) {
        (On::Kernel(KernelSource::Tracepoint), ..) => "tracepoint",
        (On::Kernel(KernelSource::RawTracepoint), ..) => "raw_tp",
        (On::Kernel(KernelSource::Function), Part::Return, _) => "fexit",
        (On::Kernel(KernelSource::Function), ..) => "fentry",
        (On::Kernel(KernelSource::Kprobe), Part::Return, _) => "kretprobe",
        (On::Kernel(KernelSource::Kprobe), ..) => "kprobe",
        (_, Part::Session, _) => "uprobe.session",
        (_, Part::Return, Mechanism::Perf) => "uretprobe",
        (_, Part::Return, _) => "uretprobe.multi",
        (_, _, Mechanism::Perf) => "uprobe",
        _ => "uprobe.multi",
    }
}

fn broken(e: object::write::Error) -> Error {
    Error::Dump {
        path: PathBuf::from("the BPF object"),
        source: std::io::Error::other(e),
    }
}

/// A name that is a C identifier.
fn plain(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect()
}

struct File<'a> {
    object: Object<'a>,
    maps: SectionId,
    symbols: HashMap<String, SymbolId>,
}

impl File<'_> {
    fn program(
        &mut self,
        probe: usize,
        section: &str,
        name: &str,
        code: &Code,
    ) -> object::write::Result<()> {
        let text =
            self.object
                .add_section(Vec::new(), section.as_bytes().to_vec(), SectionKind::Text);
        let bytes: Vec<u8> = code.insns.iter().flat_map(|i| i.bytes()).collect();
        self.object.append_section_data(text, &bytes, 8);
        self.object.add_symbol(Symbol {
            name: name.as_bytes().to_vec(),
            value: 0,
            size: bytes.len() as u64,
            kind: SymbolKind::Text,
            scope: SymbolScope::Dynamic,
            weak: false,
            section: SymbolSection::Section(text),
            flags: SymbolFlags::None,
        });
        for (at, map) in &code.maps {
            let name = match map {
                MapRef::State => "state".to_string(),
                MapRef::Ring => "ring".to_string(),
                MapRef::Scratch => "scratch".to_string(),
                MapRef::Stacks => "stacks".to_string(),
                MapRef::Running => "running".to_string(),
                MapRef::Tops => "tops".to_string(),
                MapRef::Chain => "chain".to_string(),
                MapRef::Pids => "pids".to_string(),
                MapRef::Threads => "threads".to_string(),
                MapRef::Syscalls => "syscalls".to_string(),
                MapRef::Frames => format!("frames_{probe}"),
                MapRef::Kept => format!("kept_{probe}"),
                MapRef::Table => format!("keys_{probe}"),
            };
            let symbol = self.map(name);
            self.relocate(text, *at, symbol, R_BPF_64_64)?;
        }
        for (at, kfunc) in &code.kfuncs {
            let symbol = self.external(kfunc.name());
            self.relocate(text, *at, symbol, R_BPF_64_32)?;
        }
        Ok(())
    }

    fn relocate(
        &mut self,
        section: SectionId,
        at: usize,
        symbol: SymbolId,
        kind: u32,
    ) -> object::write::Result<()> {
        self.object.add_relocation(
            section,
            Relocation {
                offset: 8 * at as u64,
                symbol,
                addend: 0,
                flags: RelocationFlags::Elf {
                    r_type: RelocationType(kind),
                },
            },
        )
    }

    fn map(&mut self, name: String) -> SymbolId {
        if let Some(symbol) = self.symbols.get(&name) {
            return *symbol;
        }
        let section = self.maps;
        let place = self.object.append_section_data(section, &[0; 32], 8);
        let symbol = self.object.add_symbol(Symbol {
            name: name.as_bytes().to_vec(),
            value: place,
            size: 32,
            kind: SymbolKind::Data,
            scope: SymbolScope::Dynamic,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        });
        self.symbols.insert(name, symbol);
        symbol
    }

    fn external(&mut self, name: &str) -> SymbolId {
        if let Some(symbol) = self.symbols.get(name) {
            return *symbol;
        }
        let symbol = self.object.add_symbol(Symbol {
            name: name.as_bytes().to_vec(),
            value: 0,
            size: 0,
            kind: SymbolKind::Text,
            scope: SymbolScope::Unknown,
            weak: false,
            section: SymbolSection::Undefined,
            flags: SymbolFlags::None,
        });
        self.symbols.insert(name.to_string(), symbol);
        symbol
    }
}
