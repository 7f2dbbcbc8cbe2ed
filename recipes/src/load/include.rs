//! `include` of `[recipe]`

use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::reader::Reader;
use crate::builtin::fragments;
use crate::{Error, Source, suggest};

/// The text with what it includes behind it. Tables of TOML may stand in any order, so that is one recipe. What is no TOML
/// is left as it is: reading it will say so.
///
/// # Errors
/// There is nothing of that name to include.
pub(super) fn expand(source: Source) -> Result<Source, Vec<Error>> {
    let Ok(top) = DeTable::parse(&source.text) else {
        return Ok(source);
    };
    let head = top.get_ref().get("recipe").map(|v| v.get_ref());
    let Some(value) = head
        .and_then(DeValue::as_table)
        .and_then(|t| t.get("include"))
    else {
        return Ok(source);
    };
    let r = Reader::new(Arc::new(source.clone()));
    let mut expanded = source.clone();
    for name in r.strings(value, "include") {
        match fragments().iter().find(|f| f.name == name.value) {
            Some(found) => expanded = expanded.with(found.source()),
            None => {
                let mut e = r.error(
                    name.span,
                    format!("there is no `{}` to include", name.value),
                );
                let known = fragments().iter().map(|f| f.name);
                e.help = suggest::help(&name.value, known);
                r.report(e);
            }
        }
    }
    match r.is_clean() {
        true => Ok(expanded),
        false => Err(r.into_errors()),
    }
}
