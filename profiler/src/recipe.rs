//! Recipes, found by name.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use uprof_recipes as recipes;
use uprof_recipes::{Recipe, Source};

use crate::target::TargetSpec;

/// Reads the recipe that NAME means: a built-in's name, or a file. Its parameters are not set yet.
pub fn load(name: &str) -> Result<Recipe> {
    let source = find(name)?;
    recipes::parse(source).map_err(|errors| rendered(&errors))
}

/// The text of the recipe that NAME means.
pub fn find(name: &str) -> Result<Source> {
    if let Some(builtin) = recipes::builtin::find(name) {
        return Ok(builtin.source());
    }
    let path = Path::new(name);
    if path.exists() || name.contains('/') || name.ends_with(".toml") {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the recipe {name}"))?;
        return Ok(Source::new(name, text));
    }
    let names: Vec<&str> = recipes::builtin().iter().map(|b| b.name).collect();
    bail!(
        "no recipe named {name}: the built-in ones are {}\nA recipe of your own is a file: uprof recipe ./{name}.toml",
        names.join(", ")
    )
}

/// All errors of a recipe, each with its place in the text.
pub fn rendered(errors: &[recipes::Error]) -> anyhow::Error {
    use std::io::IsTerminal;
    let colour = std::io::stderr().is_terminal();
    let mut text = String::new();
    for e in errors {
        // The snippet's own first line says the message again.
        let snippet = e.render(colour);
        let snippet = snippet.split_once('\n').map_or("", |(_, rest)| rest);
        text += &format!("{e}\n{}\n", snippet.trim_end());
    }
    anyhow!(text.trim_end().to_owned())
}

/// Where a recipe's probes are looked for.
pub fn target_of(recipe: &Recipe) -> TargetSpec {
    let t = &recipe.target;
    if let Some(symbol) = &t.binds {
        TargetSpec::Binds(symbol.clone())
    } else if !t.library.is_empty() {
        TargetSpec::Library(t.library.clone())
    } else if !t.program.is_empty() {
        TargetSpec::Program(t.program.clone())
    } else {
        TargetSpec::Own
    }
}

/// `uprof recipe` without a name: what there is.
pub fn list() -> Result<ExitCode> {
    println!(
        "Built-in recipes (uprof recipe NAME; its --help tells its parameters, --show prints its text):\n"
    );
    let width = recipes::builtin().iter().map(|b| b.name.len()).max();
    let width = width.unwrap_or_default();
    for builtin in recipes::builtin() {
        let recipe = load(builtin.name)?;
        println!("  {:width$}  {}", recipe.name, recipe.about);
    }
    println!("\nA recipe of your own is a TOML file: uprof recipe ./mine.toml");
    Ok(ExitCode::SUCCESS)
}
