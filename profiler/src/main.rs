//! The command `uprof`: the command line, targets, plans, and reports over the engine.
//!
//! Each command is a recipe: [`recipe`] reads one, [`flags`] writes one in memory; [`plan`] brings it down to sites
//! and programs, [`run`] arms them and collects, [`report`] writes.

mod calibrate;
mod cli;
mod command;
mod debug_args;
mod decode;
mod demo;
mod doctor;
mod flags;
mod join;
mod plan;
mod recipe;
mod report;
mod run;
mod stacks;
mod symbols;
mod target;
mod watch;

use std::process::ExitCode;

use anyhow::{Result, bail};
use cli::{Cli, Command, MallocArgs, ParamValues, RecipeArgs};
use flags::Mode;
use run::Job;

fn main() -> ExitCode {
    let (cli, params) = cli::parse(std::env::args_os().collect());
    match dispatch(cli, params) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("uprof: {}", chain(&e));
            // A command that could not be started: the status that a shell gives for it.
            let status = e
                .downcast_ref::<command::Error>()
                .map_or(1, command::Error::exit_code);
            ExitCode::from(status as u8)
        }
    }
}

fn dispatch(cli: Cli, params: ParamValues) -> Result<ExitCode> {
    match cli.command {
        Command::Recipe(args) => recipe_command(args, params),
        Command::Malloc(args) => malloc(args),
        Command::Latency(args) => probes(Mode::Latency, args),
        Command::Trace(args) => probes(Mode::Trace, args),
        Command::Count(args) => probes(Mode::Count, args),
        Command::Symbols(args) => symbols::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Demo(args) => run::demo(&args),
        Command::King { seconds } => {
            demo::king(seconds)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn probes(mode: Mode, args: cli::ProbeArgs) -> Result<ExitCode> {
    let (recipe, targets) = flags::from_flags(mode, &args)?;
    run::run(Job {
        recipe,
        targets,
        common: args.common,
        command: args.command,
        quiet_command: false,
    })
}

fn malloc(args: MallocArgs) -> Result<ExitCode> {
    let events = ("events".to_owned(), args.events.to_string());
    let recipe = with_params(recipe::load("malloc")?, &[events])?;
    run::run(Job::of_recipe(recipe, args.common, args.command))
}

fn recipe_command(args: RecipeArgs, mut params: ParamValues) -> Result<ExitCode> {
    let Some(name) = &args.recipe else {
        return recipe::list();
    };
    if args.show {
        report::say(&recipe::find(name)?.text)?;
        return Ok(ExitCode::SUCCESS);
    }
    for set in &args.set {
        let Some((key, value)) = set.split_once('=') else {
            bail!("--set {set}: write KEY=VALUE, as in --set min_latency=10ms");
        };
        params.push((key.replace('-', "_"), value.to_owned()));
    }
    let recipe = with_params(recipe::load(name)?, &params)?;
    run::run(Job::of_recipe(recipe, args.common, args.command))
}

fn with_params(
    recipe: uprof_recipes::Recipe,
    params: &[(String, String)],
) -> Result<uprof_recipes::Recipe> {
    recipe
        .with_params(params)
        .map_err(|errors| recipe::rendered(&errors))
}

/// An error and its causes in one sentence, each said once.
fn chain(e: &anyhow::Error) -> String {
    let mut text = e.to_string();
    for cause in e.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text += &format!(": {cause}");
        }
    }
    text
}
