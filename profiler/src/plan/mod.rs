//! The plan: a recipe, brought down to sites in files and to programs for the engine.
//!
//! - `lower`: the recipe's expressions to the engine's
//! - `place`: function patterns to sites, in the files of the processes
//! - `debug`: names in expressions that only debug information knows, bound at a site
//! - `indirect`: IFUNCs, followed to what a process bound
//! - `variant`: one place of one probe, as what the engine loads
//! - `returns`: how the returns of a function's calls are seen without harm
//! - `kernel`: places in the kernel, and what is known there
//! - `models`: types, from whoever knows them
//! - `missing`: what to say when nothing is found
//! - `explain`: the plan for people

mod debug;
mod explain;
mod indirect;
mod kernel;
mod lower;
mod missing;
mod models;
mod place;
mod returns;
mod variant;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use uprof_ebpf::{Action, FrameName, KernelSite, ProbeKind, ProbeSpec, Returns};
use uprof_recipes as recipes;
use uprof_recipes::{Recipe, Type};
use uprof_symbols::site::{Exit, Site};
use uprof_symbols::{FileId, Image, Pattern};

use crate::target::TargetSpec;
use lower::Lowering;

pub use kernel::{is_kernel, trial};
pub use place::Attachment;
pub use returns::Pairing;

/// What the command line adds to a recipe.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// `--uid`
    pub uid: Option<u32>,
    /// `--cgroup`: the inode number of its folder.
    pub cgroup: Option<u64>,
    /// `--comm` beside `--all`: every process is hit, and the program tells by the thread's name.
    pub comm: Option<String>,
    /// `--return`: before what the recipe says.
    pub returns: recipes::Returns,
    /// The one process that can be hit, if there is just one: then `pid` is known beforehand.
    pub only_pid: Option<u32>,
}

/// One value that a record carries, and what it means.
#[derive(Debug, Clone)]
pub struct Field {
    /// The capture's name.
    pub name: Arc<str>,
    /// Its type.
    pub ty: Type,
    /// Where it comes from.
    pub from: FieldSource,
}

/// Where a field of an event comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldSource {
    /// The record's capture of this index.
    Capture(usize),
    /// The thread's name, which every record carries.
    Comm,
    /// The probed function's name.
    Function,
    /// An address of the network: the record's captures with its bytes and its port.
    Address {
        /// 4 or 16 bytes.
        bytes: usize,
        /// In the host's byte order.
        port: Option<usize>,
    },
    /// What of a call's latency went to something: the record's capture of this index.
    Spent(usize),
    /// A stack: the record's capture of this index.
    Stack {
        /// Its index.
        index: usize,
        /// The program's.
        user: bool,
    },
}

/// One part of a key.
#[derive(Debug, Clone)]
pub struct KeyField {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// Known beforehand: it is no part of the kernel's key.
    pub constant: Option<u64>,
    /// What it is in the kernel's key.
    pub parts: KeyParts,
}

/// The parts of the kernel's key that make one of the report's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyParts {
    /// One of them.
    One,
    /// The bytes of an address of the network, then its port if it has one.
    Address {
        /// Whether it has.
        port: bool,
    },
    /// A stack; of a program its process first.
    Stack {
        /// The program's.
        user: bool,
    },
}

/// One place of one probe (`[[call.at]]`): a program of its own, since captures differ. A place whose expressions
/// need debug information has one for each form that they take in the files.
#[derive(Debug)]
pub struct Variant {
    /// Tells variants apart; never used twice in a plan.
    pub id: u32,
    /// Index of the probe in the recipe.
    pub probe: usize,
    /// Index of the place in the probe.
    pub at: usize,
    /// The probe with this one place, its expressions bound to the types and arguments that were found.
    pub bound: Option<recipes::Probe>,
    /// What the engine loads.
    pub spec: ProbeSpec,
    /// What its records carry.
    pub fields: Vec<Field>,
    /// What its keys mean.
    pub key: Vec<KeyField>,
    /// Arguments that must be intact where the probe sits.
    pub args: Vec<u8>,
    /// Names of the probed functions as they stand in the file; a record's site is an index into them.
    /// People are shown them by [`shown_name`].
    pub functions: Vec<String>,
    /// The sites in programs.
    pub sites: Vec<PlannedSite>,
    /// Those in the kernel, which has no others.
    pub kernel: Vec<KernelSite>,
    /// Of a call: how its end is seen, and what tells it from others.
    pub pairing: Pairing,
}

/// A function's name for people: demangled. Done when it is shown, since a glob may name many thousands.
pub fn shown_name(name: &str) -> String {
    uprof_symbols::demangle(name).unwrap_or_else(|| name.to_owned())
}

/// A site that was chosen.
#[derive(Debug, Clone)]
pub struct PlannedSite {
    /// The file as people know it.
    pub display: PathBuf,
    /// Its identity.
    pub file: FileId,
    /// Index into [`Variant::functions`].
    pub function: u32,
    /// The place.
    pub site: Site,
    /// Of a call: the instructions by which the function is left; empty where they are not needed.
    pub exits: Vec<Exit>,
}

/// A recipe with everything found and decided.
#[derive(Debug)]
pub struct Plan {
    /// The recipe.
    pub recipe: Recipe,
    /// Where each of its probes is looked for.
    pub targets: Vec<TargetSpec>,
    /// Its probes' places.
    pub variants: Vec<Variant>,
    /// What the reader of the results should know.
    pub notes: Vec<String>,
    next_id: u32,
    /// The probe that tells what runs on a thread, for `[frame]`.
    frame_probe: Option<usize>,
    /// Functions that may have been inlined elsewhere, too.
    inlined_too: Vec<(Arc<Image>, Pattern)>,
    /// The programs are loaded: there can be no further variants.
    loaded: bool,
    limits: Limits,
    safety: returns::Safety,
}

impl Plan {
    /// Lowers all probes of a recipe, but for what needs debug information; nothing is placed yet.
    pub fn new(mut recipe: Recipe, mut targets: Vec<TargetSpec>, limits: Limits) -> Result<Self> {
        if recipe.probes.is_empty() {
            bail!(
                "the recipe {} has no probe that is switched on",
                recipe.name
            );
        }
        returns::without_returns(&mut recipe, &limits)?;
        let frame_probe = recipe.frame.clone().map(|frame| {
            recipe.probes.push(returns::frame_probe(&frame));
            targets.push(targets[0].clone());
            recipe.probes.len() - 1
        });
        let mut plan = Self {
            recipe,
            targets,
            frame_probe,
            variants: Vec::new(),
            notes: Vec::new(),
            next_id: 0,
            inlined_too: Vec::new(),
            loaded: false,
            limits,
            safety: returns::Safety::default(),
        };
        for index in 0..plan.recipe.probes.len() {
            let probe = plan.recipe.probes[index].clone();
            for at in 0..probe.at.len() {
                if !debug::needed(&probe, at) {
                    plan.add((index, at), None, Pairing::default())?;
                }
            }
        }
        Ok(plan)
    }

    /// Makes the variant of a place of a probe, with its expressions bound if it needs that; gives its index.
    fn add(
        &mut self,
        (index, at): (usize, usize),
        bound: Option<recipes::Probe>,
        pairing: Pairing,
    ) -> Result<usize> {
        let probe = bound.as_ref().unwrap_or(&self.recipe.probes[index]);
        let place = &probe.at[if bound.is_some() { 0 } else { at }];
        let mut made = variant::of_place(index, probe, at, place, pairing, &self.limits)?;
        if let Some(frame) = self.frame_of(index) {
            let value = Lowering::default().entry(&frame.running);
            made.spec.action = Action::Running { value };
            made.args = lower::args_of(&frame.running);
        }
        self.variants.push(Variant {
            id: self.next_id,
            bound,
            ..made
        });
        self.next_id += 1;
        Ok(self.variants.len() - 1)
    }

    /// `[frame]`, if that is the probe's purpose.
    fn frame_of(&self, index: usize) -> Option<&recipes::FrameKey> {
        (self.frame_probe == Some(index))
            .then_some(self.recipe.frame.as_ref())
            .flatten()
    }

    /// Drops the places that no binary matched: their programs would never run.
    pub fn prune(&mut self) {
        self.variants
            .retain(|v| !v.sites.is_empty() || !v.kernel.is_empty());
    }

    /// Whether stacks of programs are shown.
    pub fn shows_user_stacks(&self) -> bool {
        let field = |f: &Field| matches!(f.from, FieldSource::Stack { user: true, .. });
        let key = |k: &KeyField| k.parts == KeyParts::Stack { user: true };
        let mut variants = self.variants.iter();
        variants.any(|v| v.fields.iter().any(field) || v.key.iter().any(key))
    }

    /// From here on there can be no further variants.
    pub fn loaded(&mut self) {
        self.loaded = true;
    }

    /// Says something to whoever reads the results, once.
    pub fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Leaves room for processes that start later: for their functions, and for calls whose return addresses must be
    /// left alone there.
    pub fn reserve(&mut self) -> Result<()> {
        for index in 0..self.variants.len() {
            let v = &self.variants[index];
            if v.in_kernel() {
                continue;
            }
            let (place, call) = ((v.probe, v.at), is_call(&v.spec));
            let frame = match (&self.recipe.frame, self.frame_of(v.probe)) {
                (Some(_), None) => FrameName::Running,
                _ => FrameName::Stack,
            };
            let exits = Pairing {
                returns: Returns::Exits,
                frame,
            };
            let replaced = Pairing {
                returns: Returns::Replaced,
                frame,
            };
            let bound = v.bound.clone();
            for pairing in [replaced, exits] {
                let mut same = self.variants.iter();
                let known = same
                    .any(|o| (o.probe, o.at) == place && o.bound == bound && o.pairing == pairing);
                if call && !known {
                    self.add(place, bound.clone(), pairing)?;
                }
            }
        }
        for v in self.variants.iter_mut().filter(|v| !v.in_kernel()) {
            v.spec.sites = (2 * v.functions.len() as u32).max(64);
        }
        Ok(())
    }

    /// The probe of a variant.
    pub fn probe<'a>(&'a self, variant: &'a Variant) -> &'a recipes::Probe {
        variant
            .bound
            .as_ref()
            .unwrap_or(&self.recipe.probes[variant.probe])
    }

    /// The place of a variant.
    pub fn place_of<'a>(&'a self, variant: &'a Variant) -> &'a recipes::At {
        match &variant.bound {
            Some(bound) => &bound.at[0],
            None => &self.recipe.probes[variant.probe].at[variant.at],
        }
    }
}

fn is_call(spec: &ProbeSpec) -> bool {
    matches!(spec.kind, ProbeKind::Call { .. })
}
