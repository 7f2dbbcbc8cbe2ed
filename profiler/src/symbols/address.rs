//! From an address back to a name, file and line.

use anyhow::Result;
use uprof_symbols::{Image, Pattern};

use super::{File, functions};
use crate::cli::SymbolsArgs;

/// Shows what is at ADDRESS of IMAGE.
pub fn show(_place: &File, image: &Image, address: u64, args: &SymbolsArgs) -> Result<()> {
    functions::list(image, Some(&Pattern::Address(address)), args)
}
