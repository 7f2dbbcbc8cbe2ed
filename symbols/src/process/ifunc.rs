//! Indirect functions (IFUNC): the symbol `strlen` of glibc is a resolver, which picks the implementation for this
//! processor once, when a process binds it. Calls never come past the resolver, so a probe belongs on what it picked.
//! That is read from the process's memory, from the slots that the dynamic linker (or a static program's start-up)
//! filled.

use std::path::{Path, PathBuf};

use object::elf;
use procfs::process::MMapPath;

use super::memory::Memory;
use super::{Object, Process};
use crate::arch::relocation;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::pattern::Pattern;
use crate::raw_symbols::{RawSymbol, RawSymbols};

/// What an indirect function came to in a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IfuncTarget {
    /// Virtual address of the implementation, in the terms of the file that defines the indirect function.
    pub address: u64,
    /// Its name, where the file (or its debug file) names it: `__strlen_avx2`.
    pub function: Option<String>,
    /// How it was found.
    pub found: IfuncFound,
}

/// Where it was seen what a process bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IfuncFound {
    /// In the slot through which the defining file itself calls it.
    OwnSlot,
    /// In the slot through which another object calls it.
    ImportOf(PathBuf),
    /// The same file is loaded in this very process too, where the dynamic linker was asked.
    AskedHere,
}

/// What a slot holds.
enum Slot {
    /// An implementation, at this address of the defining file.
    Bound(u64),
    /// The kernel's vDSO.
    Vdso,
    /// Nothing yet, or something of another object.
    Other,
}

/// What the slots together say.
#[derive(Default)]
struct Seen {
    bound: Option<(u64, IfuncFound)>,
    slots: usize,
    in_vdso: bool,
}

impl Seen {
    fn add(&mut self, slot: &Slot, found: impl FnOnce() -> IfuncFound) {
        self.slots += 1;
        match slot {
            Slot::Bound(address) if self.bound.is_none() => self.bound = Some((*address, found())),
            Slot::Vdso => self.in_vdso = true,
            Slot::Bound(_) | Slot::Other => {}
        }
    }

    fn why_unknown(&self) -> &'static str {
        match (self.in_vdso, self.slots) {
            (true, _) => {
                "it is bound to code that the kernel provides (the vDSO), which is in no file and cannot be probed"
            }
            (false, 0) => {
                "nothing in the process calls it so far, so nobody chose; name the implementation itself instead"
            }
            (false, _) => {
                "the process has not bound it yet: that is done at the first call, or at the start when LD_BIND_NOW=1 is set, and in static programs by their start-up code"
            }
        }
    }
}

/// One look at a process.
struct Look<'a> {
    process: &'a Process,
    object: &'a Object,
    image: &'a Image,
    objects: Vec<Object>,
    memory: Memory,
    vdso: Option<(u64, u64)>,
    /// What was added to the file's addresses when it was loaded.
    bias: u64,
}

impl Process {
    /// What an indirect function (STT_GNU_IFUNC) of a mapped file came to in this process. NAME may carry a version
    /// (`memcpy@GLIBC_2.2.5`); without one the default's is meant. IMAGE is the file of OBJECT.
    ///
    /// It is known from the moment when the dynamic linker has relocated the libraries, so also while the process
    /// stands at its program's entry point; static programs do it a little later, in their start-up code.
    ///
    /// # Errors
    /// [`Error::Ifunc`] with the reason where it is not known (yet), or leads out of the file; the process is gone or
    /// may not be read; a file cannot be read.
    pub fn ifunc_target(&self, object: &Object, image: &Image, name: &str) -> Result<IfuncTarget> {
        let (name, version) = match name.split_once('@') {
            Some((name, version)) => (name, Some(version.trim_start_matches('@'))),
            None => (name, None),
        };
        let failed = |why: &str| Error::Ifunc {
            pid: self.pid,
            name: name.to_owned(),
            path: object.path.clone(),
            why: why.to_owned(),
        };
        let resolver = resolver(image, name, version)?
            .ok_or_else(|| failed("the file has no such indirect function"))?;
        let maps = self.maps()?;
        let vdso = maps.iter().find(|map| map.pathname == MMapPath::Vdso);
        let look = Look {
            process: self,
            object,
            image,
            objects: self.objects_in(&maps),
            memory: Memory::open(self.pid)?,
            vdso: vdso.map(|map| map.address),
            bias: image.bias_of(object.base),
        };
        let seen = look.all_slots(name, &resolver)?;
        let Some((address, found)) = seen.bound else {
            return Err(failed(seen.why_unknown()));
        };
        let around = image.find(&Pattern::Address(address)).unwrap_or_default();
        let named = around.first().filter(|f| f.address == address);
        Ok(IfuncTarget {
            address,
            function: named.map(|function| function.name().to_owned()),
            found,
        })
    }
}

/// A resolver, as its symbol has it.
struct Resolver {
    address: u64,
    version: Option<String>,
    /// Other versions of the name have other resolvers.
    versioned: bool,
}

fn resolver(image: &Image, name: &str, version: Option<&str>) -> Result<Option<Resolver>> {
    for table in [RawSymbols::dynamic(image)?, RawSymbols::whole(image)?] {
        let Some(table) = table else {
            continue;
        };
        let found: Vec<RawSymbol<'_>> = table
            .iter()
            .filter(|symbol| {
                symbol.kind == elf::STT_GNU_IFUNC
                    && symbol.defined
                    && symbol.name == name.as_bytes()
            })
            .collect();
        let wanted = |symbol: &&RawSymbol<'_>| match version {
            Some(version) => symbol.version == Some(version),
            None => !symbol.hidden,
        };
        // An old name that has no default any more is still meant by its name alone.
        let chosen = found.iter().find(wanted);
        let chosen = chosen.or_else(|| found.first().filter(|_| version.is_none()));
        if let Some(chosen) = chosen {
            return Ok(Some(Resolver {
                address: chosen.address,
                version: chosen.version.map(str::to_owned),
                versioned: found.iter().any(|other| other.address != chosen.address),
            }));
        }
    }
    Ok(None)
}

impl Look<'_> {
    /// The file's own slots, else those of others, else what this process would bind.
    fn all_slots(&self, name: &str, resolver: &Resolver) -> Result<Seen> {
        let mut seen = Seen::default();
        for relocation in self.image.relocations()? {
            if relocation.kind == relocation::IRELATIVE && relocation.addend == resolver.address {
                let slot = self.slot(self.image, self.bias, relocation.at, resolver.address)?;
                seen.add(&slot, || IfuncFound::OwnSlot);
            }
        }
        if seen.bound.is_none() {
            for other in &self.objects {
                for slot in self.imports(other, name, resolver)? {
                    seen.add(&slot, || IfuncFound::ImportOf(other.path.clone()));
                }
            }
        }
        if seen.bound.is_none()
            && !seen.in_vdso
            && let Some(slot) = self.asked_here(name, resolver)
        {
            seen.add(&slot, || IfuncFound::AskedHere);
        }
        Ok(seen)
    }

    /// What stands in the slot at an address (in the terms of the file OWNER, loaded with BIAS).
    fn slot(&self, owner: &Image, bias: u64, at: u64, resolver: u64) -> Result<Slot> {
        let value = self.memory.word(bias.wrapping_add(at))?;
        let initial = owner.loaded_word(at);
        if initial == Some(value) || initial == Some(value.wrapping_sub(bias)) {
            return Ok(Slot::Other);
        }
        Ok(self.judge(value, resolver))
    }

    fn judge(&self, value: u64, resolver: u64) -> Slot {
        if self
            .vdso
            .is_some_and(|(start, end)| (start..end).contains(&value))
        {
            return Slot::Vdso;
        }
        let address = value.wrapping_sub(self.bias);
        let stub = [".plt", ".plt.got", ".plt.sec", ".iplt"]
            .into_iter()
            .any(|name| {
                let section = self.image.headers().section(name);
                section.is_some_and(|s| address.wrapping_sub(s.address) < s.size)
            });
        match self.image.offset_of(address) {
            Some(_) if !stub && address != resolver => Slot::Bound(address),
            _ => Slot::Other,
        }
    }

    /// The slots through which another object calls the function.
    fn imports(&self, other: &Object, name: &str, resolver: &Resolver) -> Result<Vec<Slot>> {
        // What cannot be opened (a font, say, mapped with execute permission) imports nothing.
        let Ok(image) = Image::open(&other.open_path) else {
            return Ok(Vec::new());
        };
        let Ok(Some(symbols)) = RawSymbols::dynamic(&image) else {
            return Ok(Vec::new());
        };
        let rows: Vec<u32> = symbols
            .iter()
            .filter(|symbol| symbol.name == name.as_bytes())
            .filter(|symbol| !resolver.versioned || symbol.version == resolver.version.as_deref())
            .map(|symbol| symbol.row)
            .collect();
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let bias = image.bias_of(other.base);
        let relocations = image.relocations()?.into_iter().filter(|relocation| {
            relocation::SYMBOL.contains(&relocation.kind) && rows.contains(&relocation.symbol)
        });
        relocations
            .map(|relocation| self.slot(&image, bias, relocation.at, resolver.address))
            .collect()
    }

    /// What this process's dynamic linker says, where it has the same file loaded: the choice depends on the
    /// processor and on GLIBC_TUNABLES only.
    #[cfg(target_env = "gnu")]
    fn asked_here(&self, name: &str, resolver: &Resolver) -> Option<Slot> {
        if tunables("self") != tunables(&self.process.pid.to_string()) {
            return None;
        }
        let own = Process::open(std::process::id()).ok()?;
        let objects = own.objects().ok()?;
        let same = objects.iter().find(|object| object.id == self.object.id)?;
        let address = ask_linker(&same.path, name, resolver.version.as_deref())?;
        let own_bias = self.image.bias_of(same.base);
        let moved = address.wrapping_sub(own_bias).wrapping_add(self.bias);
        match self.judge(moved, resolver.address) {
            Slot::Bound(address) => Some(Slot::Bound(address)),
            // Code outside of the file is at another place here than there.
            _ => Some(Slot::Other),
        }
    }

    #[cfg(not(target_env = "gnu"))]
    fn asked_here(&self, _name: &str, _resolver: &Resolver) -> Option<Slot> {
        None
    }
}

/// The setting that may tell glibc to choose otherwise.
#[cfg(target_env = "gnu")]
fn tunables(process: &str) -> Option<Vec<u8>> {
    let environment = std::fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
    let mut settings = environment.split(|byte| *byte == 0);
    settings
        .find(|setting| setting.starts_with(b"GLIBC_TUNABLES="))
        .map(<[u8]>::to_vec)
}

#[cfg(target_env = "gnu")]
fn ask_linker(library: &Path, name: &str, version: Option<&str>) -> Option<u64> {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;

    let library = CString::new(library.as_os_str().as_bytes()).ok()?;
    let name = CString::new(name).ok()?;
    let version = version.map(CString::new).transpose().ok()?;
    // SAFETY: the strings end with NUL and outlive the calls. RTLD_NOLOAD loads nothing, so no code of the library
    // runs by it; the handle is given back. Asking for an indirect function runs its resolver, as any call would.
    let address = unsafe {
        let handle = libc::dlopen(library.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_LAZY);
        if handle.is_null() {
            return None;
        }
        let address = match &version {
            Some(version) => libc::dlvsym(handle, name.as_ptr(), version.as_ptr()),
            None => libc::dlsym(handle, name.as_ptr()),
        };
        libc::dlclose(handle);
        address
    };
    (!address.is_null()).then_some(address as u64)
}
