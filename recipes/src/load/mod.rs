//! TOML to a checked recipe.
//!
//! - `reader`: tables, keys and values with their places
//! - `params`: `[params]` and values for them
//! - `probes`: `[[probe]]` and `[[call]]`; `places`: where they are; `kernel`: places in the kernel
//! - `action`: what is done with a hit
//! - `frame`: `[frame]`
//! - `report`: `[report]`
//! - `join`: `[join.statements]`

mod action;
mod closes;
mod frame;
mod include;
mod join;
mod kernel;
mod params;
mod places;
mod probes;
mod reader;
mod report;

use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use crate::error::{Error, Source};
use crate::model::{Recipe, Target};
use reader::Reader;

/// The longest recipe, in bytes.
const MAX_TEXT: usize = 1 << 20;

/// Parses and checks a recipe, with the defaults of its parameters. All errors found, in the order of the
/// text.
///
/// A parameter without default does not make it fail: [`Recipe::with_params`] asks for it.
pub fn parse(source: Source) -> Result<Recipe, Vec<Error>> {
    read(&Arc::new(include::expand(source)?), &[])
}

/// See [`Recipe::with_params`].
pub(crate) fn with_params(recipe: &Recipe, set: &[(String, String)]) -> Result<Recipe, Vec<Error>> {
    let values = params::values(&recipe.params, set)?;
    match &recipe.source {
        Some(source) => read(source, &values),
        None => Ok(recipe.clone()),
    }
}

fn read(
    source: &Arc<Source>,
    values: &[(String, crate::model::Value)],
) -> Result<Recipe, Vec<Error>> {
    let text = source.text.as_str();
    if text.len() > MAX_TEXT {
        return Err(vec![Error::new(
            source,
            0..0,
            format!(
                "the recipe has {} bytes; {MAX_TEXT} are allowed",
                text.len()
            ),
        )]);
    }
    let (document, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        return Err(syntax.iter().map(|e| syntax_error(source, e)).collect());
    }
    let r = Reader::new(source.clone());
    let recipe = recipe(&r, document.get_ref(), values);
    if r.is_clean() {
        Ok(recipe)
    } else {
        Err(r.into_errors())
    }
}

fn syntax_error(source: &Arc<Source>, e: &toml::de::Error) -> Error {
    let span = e.span().unwrap_or(0..0);
    Error::new(
        source,
        span,
        e.message().lines().collect::<Vec<_>>().join("; "),
    )
    .label("not TOML")
}

fn recipe(r: &Reader, top: &DeTable<'_>, values: &[(String, crate::model::Value)]) -> Recipe {
    r.known(
        top,
        "a recipe",
        &[
            "recipe", "target", "params", "probe", "call", "frame", "join", "report",
        ],
    );
    let mut recipe = Recipe {
        source: Some(r.source.clone()),
        name: stem(&r.source.name),
        ..Recipe::default()
    };
    if let Some(head) = top.get("recipe").and_then(|v| r.table(v, "recipe")) {
        head_of(r, head, &mut recipe);
    }
    if let Some(target) = top.get("target").and_then(|v| r.table(v, "target")) {
        recipe.target = target_of(r, target, "[target]");
    }
    recipe.params = params::read(r, top, values);
    recipe.probes = probes::read(r, top, &recipe.params);
    recipe.frame = frame::read(r, top, &recipe.params);
    if top.get("probe").is_none() && top.get("call").is_none() {
        r.report(
            r.error(0..0, "the recipe has no probe")
                .help("add [[probe]] (entry) or [[call]] (entry and return)"),
        );
    }
    // What follows names probes and captures: on top of errors in those it would only confuse.
    if r.is_clean() {
        recipe.join = join::read(r, top, &recipe.probes, &recipe.params);
        recipe.report = report::read(r, top, &recipe.probes, recipe.join.as_ref());
    }
    recipe
}

fn head_of(r: &Reader, head: &DeTable<'_>, recipe: &mut Recipe) {
    r.known(head, "[recipe]", &["name", "about", "notes", "include"]);
    if let Some(name) = head.get("name").and_then(|v| r.string(v, "name", "a text")) {
        recipe.name = name.to_owned();
    }
    if let Some(about) = head
        .get("about")
        .and_then(|v| r.string(v, "about", "a text"))
    {
        recipe.about = about.to_owned();
    }
    if let Some(notes) = head.get("notes") {
        recipe.notes = match notes.get_ref() {
            DeValue::Array(list) => list
                .iter()
                .filter_map(|v| {
                    r.string(v, "notes", "a text or a list of texts")
                        .map(str::to_owned)
                })
                .collect(),
            _ => r
                .string(notes, "notes", "a text or a list of texts")
                .map(str::to_owned)
                .into_iter()
                .collect(),
        };
    }
}

/// `[target]`, or a probe's own.
fn target_of(r: &Reader, table: &DeTable<'_>, what: &str) -> Target {
    r.known(table, what, &["program", "library", "binds"]);
    let names = |key: &str| {
        table
            .get(key)
            .map(|v| r.strings(v, key))
            .unwrap_or_default()
            .into_iter()
            .map(|s| s.value)
            .collect::<Vec<_>>()
    };
    let target = Target {
        program: names("program"),
        library: names("library"),
        binds: table
            .get("binds")
            .and_then(|v| r.string(v, "binds", "a symbol's name"))
            .map(str::to_owned),
    };
    if let (Some(_), Some((key, _))) = (&target.binds, table.get_key_value("library")) {
        r.report(r.error(
            key.span(),
            "`library` beside `binds`: the symbol already says which object",
        ));
    }
    target
}

/// `recipes/malloc.toml` -> `malloc`, `builtin:malloc` -> `malloc`
fn stem(name: &str) -> String {
    let file = name.rsplit(['/', ':']).next().unwrap_or(name);
    file.strip_suffix(".toml").unwrap_or(file).to_owned()
}

/// The spelling of names of probes, captures and parameters.
fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && text.len() <= 64
}
