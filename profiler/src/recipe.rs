//! Recipes, found by name.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
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

/// Reads a built-in recipe.
pub fn builtin(builtin: &recipes::BuiltinRecipe) -> Result<Recipe> {
    recipes::parse(builtin.source()).map_err(|errors| rendered(&errors))
}

/// The text of the recipe that NAME means: a file, or one of the user's own folder, the built-in ones, or ./recipes.
pub fn find(name: &str) -> Result<Source> {
    if name.contains('/') || name.ends_with(".toml") {
        return read(Path::new(name));
    }
    let builtin = recipes::builtin::find(name).map(|builtin| builtin.source());
    let file = format!("{name}.toml");
    // What someone put into a folder of recipes is meant; what merely lies where uprof is started hides nothing.
    if let Some(own) = own_folders()
        .into_iter()
        .map(|folder| folder.join(&file))
        .find(|path| path.exists())
    {
        if builtin.is_some() {
            eprintln!(
                "uprof: {name} is {} (in place of the built-in recipe of that name)",
                own.display()
            );
        }
        return read(&own);
    }
    if let Some(source) = builtin {
        return Ok(source);
    }
    let here = Path::new(HERE).join(&file);
    if here.exists() {
        return read(&here);
    }
    if Path::new(name).is_file() {
        return read(Path::new(name));
    }
    let names: Vec<&str> = recipes::builtin().iter().map(|b| b.name).collect();
    let folders: Vec<String> = own_folders()
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
    bail!(
        "no recipe named {name}: the built-in ones are {}\nA recipe of your own is a file (uprof recipe ./{file}), or lies in {} or {HERE}",
        names.join(", "),
        folders.join(", ")
    )
}

fn read(path: &Path) -> Result<Source> {
    let name = path.display().to_string();
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the recipe {name}"))?;
    Ok(Source::new(name, text))
}

/// Recipes of the folder that uprof is started in.
const HERE: &str = "./recipes";

/// Where the user's own recipes are: in the folder for settings, with sudo also in that of who called it.
fn own_folders() -> Vec<PathBuf> {
    let below = |home: PathBuf| home.join(".config");
    let own = std::env::var_os("XDG_CONFIG_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| below(home.into())));
    let caller = std::env::var("SUDO_UID")
        .ok()
        .and_then(|uid| uid.parse().ok())
        .and_then(|uid| nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok()?)
        .map(|user| below(user.dir));
    let mut folders: Vec<PathBuf> = own
        .into_iter()
        .chain(caller)
        .map(|dir| dir.join("uprof/recipes"))
        .collect();
    folders.dedup();
    folders
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

/// Where each of a recipe's probes is looked for.
pub fn targets_of(recipe: &Recipe) -> Vec<TargetSpec> {
    let probes = recipe.probes.iter();
    let own = probes.map(|probe| match crate::plan::is_kernel(probe) {
        true => TargetSpec::Kernel,
        false => target_of(probe.target.as_ref().unwrap_or(&recipe.target)),
    });
    own.collect()
}

fn target_of(t: &recipes::Target) -> TargetSpec {
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
    let mut text = String::from(
        "Built-in recipes (uprof recipe NAME; its --help tells its parameters, --show prints its text):\n\n",
    );
    let builtin = recipes::builtin();
    let width = builtin.iter().map(|b| b.name.len()).max().unwrap_or(0);
    for builtin in builtin {
        let recipe = self::builtin(builtin)?;
        let _ = writeln!(text, "  {:width$}  {}", recipe.name, recipe.about);
    }
    let folders = own_folders().into_iter().chain([PathBuf::from(HERE)]);
    for folder in folders {
        list_folder(&mut text, &folder, width);
    }
    text += "\nA recipe of your own is a TOML file: uprof recipe ./mine.toml; docs/recipes.md has the language\n";
    crate::report::say(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The recipes in a folder, if there are any. One with a mistake does not keep the others from being listed.
fn list_folder(text: &mut String, folder: &Path, width: usize) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    if files.is_empty() {
        return;
    }
    files.sort();
    let _ = writeln!(text, "\nIn {}:\n", folder.display());
    for file in files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let about = read(&file).map_err(|e| e.to_string()).and_then(|source| {
            recipes::parse(source)
                .map(|recipe| recipe.about)
                .map_err(|errors| {
                    let first = errors.first().map(ToString::to_string);
                    format!("has a mistake: {}", first.unwrap_or_default())
                })
        });
        let _ = writeln!(text, "  {name:width$}  {}", about.unwrap_or_else(|e| e));
    }
}
