//! Jumps back into a function's first instructions: what decides which of them a site may leave behind.

use super::{LOOK_BYTES, LOOK_INSTRUCTIONS};
use crate::arch::{Flow, Instructions, Step};
use crate::image::{CODE_LIMIT, Function};

/// What lies around a function: lets a scan follow the jumps that leave it.
pub(crate) trait Surroundings {
    /// Whether ADDRESS belongs to a function known by name and size, other than split-off `.cold` parts.
    fn is_known(&self, address: u64) -> bool;
    /// Some code from ADDRESS on; empty where there is none.
    fn code_at(&self, address: u64) -> Vec<u8>;
}

/// Knows nothing: every jump out of the function may come back anywhere.
pub(super) struct Nowhere;

impl Surroundings for Nowhere {
    fn is_known(&self, _: u64) -> bool {
        false
    }

    fn code_at(&self, _: u64) -> Vec<u8> {
        Vec::new()
    }
}

/// What a scan of the whole function tells about jumps back into its first instructions.
pub(super) struct Body {
    /// Offsets, past 0 and within the first bytes, that a branch in the function leads to.
    targets: Vec<usize>,
    /// Not all of it is known: no size, too long, or bytes that are no instructions.
    unknown: bool,
    /// It jumps to where its code cannot be followed, and from where it may come back.
    leaves: bool,
}

/// How many instructions outside a function are followed: a `.cold` part is short, and most calls in it do
/// not return, so that what stands behind them is another's.
const FOLLOW_INSTRUCTIONS: usize = 512;

impl Body {
    pub(super) fn scan(function: &Function, code: &[u8], around: &dyn Surroundings) -> Self {
        let len = function.end.saturating_sub(function.address);
        let mut body = Self {
            targets: Vec::new(),
            unknown: function.size == 0 || len > CODE_LIMIT as u64 || len > code.len() as u64,
            leaves: false,
        };
        if body.unknown {
            return body;
        }
        let mut exits = Vec::new();
        for step in Instructions::new(code, function.address) {
            match step.flow {
                Flow::Invalid => body.unknown = true,
                Flow::JumpAnywhere => body.leaves = true,
                Flow::Jump { target, .. } => body.jump(function, target, &mut exits),
                _ => {}
            }
        }
        if !body.unknown && !body.leaves {
            body.follow(function, exits, around);
        }
        body
    }

    fn jump(&mut self, function: &Function, target: u64, exits: &mut Vec<u64>) {
        if (function.address..function.end).contains(&target) {
            let at = target - function.address;
            if at > 0 && at <= LOOK_BYTES as u64 {
                self.targets.push(at as usize);
            }
        } else if !exits.contains(&target) {
            exits.push(target);
        }
    }

    /// Follows the jumps that leave the function. One to another known function is a tail call; the rest go to parts
    /// that the compiler moved out of the way, or to functions without a name.
    fn follow(&mut self, function: &Function, mut exits: Vec<u64>, around: &dyn Surroundings) {
        let mut budget = FOLLOW_INSTRUCTIONS;
        let mut next = 0;
        while let Some(&exit) = exits.get(next) {
            next += 1;
            if around.is_known(exit) {
                continue;
            }
            let code = around.code_at(exit);
            let mut ended = false;
            for step in Instructions::new(&code, exit) {
                budget = budget.saturating_sub(1);
                match step.flow {
                    Flow::Next | Flow::Call => {}
                    Flow::Return | Flow::Trap => ended = true,
                    Flow::Jump {
                        target,
                        conditional,
                    } => {
                        self.jump(function, target, &mut exits);
                        ended = !conditional;
                    }
                    Flow::JumpAnywhere | Flow::Invalid => break,
                }
                // Behind a call that does not return another function may start.
                ended |= around.is_known(exit + (step.at + step.len) as u64);
                if ended || budget == 0 {
                    break;
                }
            }
            if !ended {
                self.leaves = true;
                return;
            }
        }
    }

    /// Whether every call passes STEP exactly once, as far as can be known.
    pub(super) fn allows(&self, step: &Step, passed_only_landing_pad: bool) -> bool {
        if self.targets.iter().any(|target| *target <= step.at) {
            return false;
        }
        // A loop cannot come back to where the stack grows, or to code before it, without unbalancing the stack.
        (!self.unknown || passed_only_landing_pad)
            && (step.takes_stack() || !(self.unknown || self.leaves))
    }
}

/// How many instructions a way back to the function's start may take: registers saved, a call, registers restored.
const DETOUR_INSTRUCTIONS: usize = 64;

/// Whether the code at TARGET, within FUNCTION, does nothing but go back to the function's start, a call on the way
/// and the registers as before: what a branch to it leaves behind is begun anew. Go's functions do so when their stack
/// has to grow. A function that changes its arguments and starts again calls itself. Gives the address of the jump back.
fn leads_back(function: &Function, code: &[u8], target: u64) -> Option<u64> {
    let at = usize::try_from(target.checked_sub(function.address)?).ok()?;
    let rest = code.get(at..)?;
    let mut called = false;
    for step in Instructions::new(rest, target).take(DETOUR_INSTRUCTIONS) {
        match step.flow {
            Flow::Next if step.keeps_registers() => {}
            Flow::Call if !called => called = true,
            Flow::Jump {
                target: back,
                conditional: false,
            } if called && back == function.address => return Some(target + step.at as u64),
            _ => return None,
        }
    }
    None
}

/// A branch among a function's first instructions that only leads back to its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Detour {
    /// Offset of what follows where the branch is not taken.
    pub(super) behind: usize,
    /// Address of the jump back.
    pub(super) back: u64,
}

/// All such branches, in order. Every call passes the place behind the last one once, and what is before it once
/// more for each time that a branch is taken.
pub(super) fn detours(function: &Function, code: &[u8]) -> Vec<Detour> {
    let mut found = Vec::new();
    for step in Instructions::new(code, function.address).take(LOOK_INSTRUCTIONS) {
        match step.flow {
            Flow::Next if step.at <= LOOK_BYTES => {}
            Flow::Jump {
                target,
                conditional: true,
            } => match leads_back(function, code, target) {
                Some(back) => found.push(Detour {
                    behind: step.at + step.len,
                    back,
                }),
                None => break,
            },
            _ => break,
        }
    }
    found
}
