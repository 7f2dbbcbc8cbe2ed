//! Versions of exported names: `.gnu.version` has a number for each symbol, `.gnu.version_d` the numbers' names
//! (Linux Standard Base, "Symbol Versioning"). Versions of imported names are another file's matter.

use std::borrow::Cow;

use object::LittleEndian as LE;
use object::elf::{VERSYM_HIDDEN, VERSYM_VERSION, Verdaux, Verdef};
use object::pod;

/// No library has as many versions; what goes on beyond is damage that leads in circles.
const MAX_VERSIONS: usize = 0x8000;

#[derive(Debug, Default)]
pub(crate) struct Versions {
    /// Two bytes for each symbol.
    numbers: Vec<u8>,
    /// By number. 0 (local) and 1 (global, without a version) have none.
    names: Vec<Option<String>>,
}

impl Versions {
    /// From the two sections and the strings that the second refers to. What is damaged there has no version.
    pub(crate) fn read(numbers: Vec<u8>, definitions: &[u8], strings: &[u8]) -> Self {
        let mut names = Vec::new();
        let mut rest = definitions;
        for _ in 0..MAX_VERSIONS {
            let Ok((definition, _)) = pod::from_bytes::<Verdef<LE>>(rest) else {
                break;
            };
            let number = usize::from(definition.vd_ndx.get(LE).0 & VERSYM_VERSION);
            let first = rest.get(definition.vd_aux.get(LE) as usize..);
            if let Some((name, _)) = first.and_then(|r| pod::from_bytes::<Verdaux<LE>>(r).ok()) {
                let text = strings.get(name.vda_name.get(LE) as usize..);
                let text = text.and_then(|t| std::ffi::CStr::from_bytes_until_nul(t).ok());
                if names.len() <= number {
                    names.resize(number + 1, None);
                }
                // The first definition names the file itself.
                names[number] = text
                    .filter(|_| number > 1)
                    .map(|t| t.to_string_lossy().into_owned());
            }
            match definition.vd_next.get(LE) as usize {
                0 => break,
                next => rest = rest.get(next..).unwrap_or_default(),
            }
        }
        Self { numbers, names }
    }

    /// The version of a symbol, and whether it is the one that new programs are linked with.
    pub(crate) fn of(&self, row: u32) -> Option<(Cow<'_, str>, bool)> {
        let at = row as usize * 2;
        let number = u16::from_le_bytes(self.numbers.get(at..at + 2)?.try_into().ok()?);
        let name = self.names.get(usize::from(number & VERSYM_VERSION))?;
        let default = number & VERSYM_HIDDEN.0 == 0;
        Some((Cow::Borrowed(name.as_deref()?), default))
    }
}
