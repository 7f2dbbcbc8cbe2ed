//! How the returns of a function's calls are seen without harm to the program.
//!
//! The kernel's own way (a session, or a return probe) replaces the return address on the stack: cheap, and deadly
//! where a program moves, reads or unwinds its stacks. Probes on the instructions by which the function is left change
//! nothing there, at the price of a probe for each of them.

use std::collections::HashMap;

use anyhow::bail;
use uprof_ebpf::{AttachExit, EngineOptions, FrameName, Mechanism, Returns};
use uprof_recipes as recipes;
use uprof_symbols::hazard::{Hazard, HazardKind, Survey};
use uprof_symbols::image::Function;
use uprof_symbols::site::{Cost, Exit, ExitKind};
use uprof_symbols::{FileId, Image, go};

use super::{Limits, Plan, Variant};
use crate::target::TargetFile;

/// With more functions than this, exits are looked for only where they are needed.
const FEW: usize = 64;
/// Functions named in one line.
const NAMED: usize = 3;

/// How the end of a call is seen, and what tells it from other open ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Pairing {
    /// By what its end is seen.
    pub returns: Returns,
    /// What names its frame.
    pub frame: FrameName,
}

/// What was decided for the calls of one function.
#[derive(Debug, Default)]
pub struct Ending {
    pub pairing: Pairing,
    /// Where the function is left; empty where that is not needed, or not known.
    pub exits: Vec<Exit>,
}

/// What is known of the processes; each is looked at once.
#[derive(Default)]
pub struct Safety {
    surveys: HashMap<Whose, Result<Survey, String>>,
    /// A program switches stacks, so that calls of several may be open at one stack pointer.
    switches: bool,
    /// By reason: functions, how many exits they have together.
    chosen: Vec<(String, Vec<String>, usize)>,
}

#[derive(PartialEq, Eq, Hash)]
enum Whose {
    Process(u32),
    File(FileId),
}

impl std::fmt::Debug for Safety {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Safety").finish_non_exhaustive()
    }
}

impl Safety {
    /// Why a return address of FUNCTION must not be replaced in one of the file's processes.
    fn hazard(&mut self, file: &TargetFile, function: &Function, uncaught: bool) -> Option<Hazard> {
        let processes: Vec<Whose> = match &file.pids {
            Some(pids) => pids.iter().copied().map(Whose::Process).collect(),
            None => vec![Whose::File(file.image.file_id())],
        };
        processes.into_iter().find_map(|whose| {
            let survey = self.surveys.entry(whose).or_insert_with_key(|whose| {
                match whose {
                    Whose::Process(pid) => Survey::of_process(*pid),
                    Whose::File(_) => Survey::of_file(&file.image, &file.open_path),
                }
                .map_err(|e| e.to_string())
            });
            match survey {
                Ok(survey) => survey.hazard(&file.image, function, uncaught),
                Err(e) => Some(Hazard {
                    kind: HazardKind::UnknownProcess,
                    why: format!("what runs there cannot be looked at ({e})"),
                }),
            }
        })
    }

    fn choose(&mut self, why: &str, function: &Function, exits: usize) {
        let name = function.display_name();
        match self.chosen.iter_mut().find(|(known, ..)| known == why) {
            Some((_, names, count)) => {
                if !names.contains(&name) {
                    names.push(name);
                    *count += exits;
                }
            }
            None => self.chosen.push((why.to_owned(), vec![name], exits)),
        }
    }
}

impl Limits {
    /// How the returns of a probe's calls shall be seen: by --return, else by the recipe.
    fn returns_of(&self, probe: &recipes::Probe) -> recipes::Returns {
        match self.returns {
            recipes::Returns::Auto => probe.returns,
            chosen => chosen,
        }
    }
}

impl Plan {
    /// Decides for one function. An error is why its calls cannot be measured without harm.
    pub(super) fn ending(
        &mut self,
        (index, at): (usize, usize),
        probe: &recipes::Probe,
        file: &TargetFile,
        (function, among): (&Function, usize),
    ) -> Result<Ending, String> {
        if probe.kind == recipes::ProbeKind::Entry {
            return Ok(Ending::default());
        }
        let choice = self.limits.returns_of(probe);
        let hazard = match choice {
            recipes::Returns::Auto => {
                let uncaught = probe.uncaught || probe.at[at].uncaught;
                self.safety.hazard(file, function, uncaught)
            }
            _ => None,
        };
        let needed = hazard.is_some() || choice == recipes::Returns::Ret;
        let exits = match needed || among <= FEW {
            true => file.image.exits(function).map_err(|e| e.to_string()),
            false => Ok(Vec::new()),
        };
        if !needed {
            return Ok(Ending {
                pairing: Pairing {
                    returns: Returns::Replaced,
                    frame: self.frame_name(index, file, function, Returns::Replaced)?,
                },
                exits: exits.unwrap_or_default(),
            });
        }
        let name = function.display_name();
        let switches = (hazard.as_ref()).is_some_and(|h| h.kind == HazardKind::StackSwitch);
        let why = hazard.map(|hazard| hazard.why);
        let exits = match (exits, &why) {
            (Ok(exits), _) => exits,
            (Err(e), None) => return Err(format!("{name}: probes on its exits: {e}")),
            (Err(e), Some(why)) => {
                return Err(format!(
                    "{name}: no way to see its return is safe: {why}; and its exits cannot be probed: {e}\n\
                     Count or trace its entries instead (uprof count, uprof trace); or insist with --return uretprobe"
                ));
            }
        };
        if let Some(why) = &why {
            self.safety.switches |= switches;
            self.safety.choose(why, function, exits.len());
        }
        Ok(Ending {
            pairing: Pairing {
                returns: Returns::Exits,
                frame: self.frame_name(index, file, function, Returns::Exits)?,
            },
            exits,
        })
    }

    /// What tells calls of one stack pointer apart.
    fn frame_name(
        &self,
        index: usize,
        file: &TargetFile,
        function: &Function,
        returns: Returns,
    ) -> Result<FrameName, String> {
        if returns == Returns::Exits && is_go_code(&file.image, function) {
            return match go_keeps_g_in_r14(&file.image) {
                true => Ok(FrameName::Goroutine),
                false => Err(format!(
                    "{} was built by Go before 1.17, which keeps its goroutine elsewhere: only entries can be seen \
                     (uprof count, uprof trace)",
                    file.display.display()
                )),
            };
        }
        Ok(match (&self.recipe.frame, self.frame_of(index)) {
            (Some(_), None) => FrameName::Running,
            _ => FrameName::Stack,
        })
    }

    /// How the returns of a variant's calls shall be seen.
    pub fn chosen_returns(&self, variant: &Variant) -> recipes::Returns {
        self.limits.returns_of(&self.recipe.probes[variant.probe])
    }

    /// What --return, or else the recipe, says of the kernel's ways to replace return addresses.
    pub fn with_returns(&self, options: EngineOptions) -> EngineOptions {
        let probes = &self.recipe.probes;
        let chosen = |wanted| probes.iter().any(|p| self.limits.returns_of(p) == wanted);
        EngineOptions {
            mechanism: match chosen(recipes::Returns::Session) {
                true => options.mechanism.or(Some(Mechanism::Session)),
                false => options.mechanism,
            },
            no_session: chosen(recipes::Returns::Uretprobe),
            ..options
        }
    }

    /// Whether open calls may have been taken for one another: where stacks are switched, they may also be copied.
    pub fn may_share_stacks(&self, variant: &Variant) -> bool {
        let by_stack = variant.pairing.frame == FrameName::Stack;
        self.safety.switches && by_stack && variant.pairing.returns == Returns::Exits
    }

    /// Tells which functions' returns are seen at their exits, and why: a line for each reason.
    pub(super) fn tell_endings(&mut self) {
        for (why, names, exits) in std::mem::take(&mut self.safety.chosen) {
            let more = match names.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let whose = if names.len() == 1 { "its" } else { "their" };
            let exits = match exits {
                0 => "none is known to return".to_owned(),
                n => n.to_string(),
            };
            self.note(format!(
                "returns of {}{more}: probes on {whose} exits ({exits}), since {why}",
                names[..names.len().min(NAMED)].join(", ")
            ));
        }
    }
}

/// Calls whose returns shall not be looked for begin and are done: entries.
pub(super) fn without_returns(recipe: &mut recipes::Recipe, limits: &Limits) -> anyhow::Result<()> {
    let joined = recipe.join.as_ref().and_then(|join| match join {
        recipes::Join::Statements(s) => Some(s.call.clone()),
        recipes::Join::Sockets(_) => None,
    });
    for probe in &mut recipe.probes {
        if probe.kind != recipes::ProbeKind::Call
            || limits.returns_of(probe) != recipes::Returns::None
        {
            continue;
        }
        if let Some(e) = probe.first_of_return() {
            bail!(
                "{}: {e} is known only at the return, which --return none does not look for",
                probe.name
            );
        }
        if joined.as_ref() == Some(&probe.name) {
            bail!(
                "{}: the recipe joins what happens within this call, so its return must be seen",
                probe.name
            );
        }
        probe.kind = recipes::ProbeKind::Entry;
    }
    Ok(())
}

/// The probe behind `[frame]`: while a call of it is open, its argument is what runs on the thread.
pub(super) fn frame_probe(frame: &recipes::FrameKey) -> recipes::Probe {
    let at = recipes::At {
        functions: frame.functions.clone(),
        ..recipes::At::default()
    };
    recipes::Probe {
        hidden: true,
        ..recipes::Probe::new("frame", recipes::ProbeKind::Call, vec![at])
    }
}

/// For the engine.
pub(super) fn attach_exits(exits: &[Exit]) -> Vec<AttachExit> {
    exits
        .iter()
        .map(|exit| AttachExit {
            offset: exit.offset,
            condition: match exit.kind {
                ExitKind::JumpIf(condition) => Some(condition),
                ExitKind::Return | ExitKind::Jump => None,
            },
            jump: exit.kind != ExitKind::Return,
        })
        .collect()
}

/// How the returns of a variant's calls are seen, for --explain.
pub(super) fn explained(v: &Variant) -> String {
    match v.pairing.returns {
        Returns::Replaced => {
            "the kernel replaces the return address (session, else a return probe)".into()
        }
        Returns::Exits => {
            let exits = v.sites.iter().flat_map(|s| &s.exits);
            let stepped = exits.clone().filter(|e| e.cost == Cost::SingleStepped);
            let (exits, stepped) = (exits.count(), stepped.count());
            let named = match v.pairing.frame {
                FrameName::Stack => "the stack pointer",
                FrameName::Thread => "their thread",
                FrameName::Goroutine => "goroutine and depth of its stack",
                FrameName::Running => "the stack pointer and what runs on the thread ([frame])",
            };
            let exits = match exits {
                1 => "1 exit".to_owned(),
                n => format!("{n} exits"),
            };
            format!("probes on {exits}, {stepped} single-stepped; calls are told apart by {named}")
        }
    }
}

fn is_go_code(image: &Image, function: &Function) -> bool {
    image.is_go() && image.is_go_code(function.address)
}

/// Whether the goroutine is in r14 (Go 1.17, internal ABI of amd64: abi-internal.md in Go's sources).
fn go_keeps_g_in_r14(image: &Image) -> bool {
    let Some(version) = go::version(image) else {
        return true;
    };
    let minor = version
        .strip_prefix("go1.")
        .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next())
        .and_then(|minor| minor.parse::<u32>().ok());
    minor.is_none_or(|minor| minor >= 17)
}
