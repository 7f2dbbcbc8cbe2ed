//! How a function is left: every instruction at which a call of it ends, with the stack pointer at the return
//! address. A probe on each of them sees the ends of calls without touching what the program returns by.
//!
//! A function is looked at as a whole: its own range, and the pieces that the compiler moved elsewhere (`f.cold`,
//! `f.part.0`) or that it runs into. What must be told apart is
//!
//! - a jump to such a piece from a call in the place of a return (a tail call). By name, where pieces have one. By
//!   call frame information otherwise: at a tail call nothing is on the stack but the return address. Where a piece
//!   starts like that too, it is one if it jumps back, never returns, or is reached by no other function.
//! - a `switch` from a tail call through a pointer: by the frame again, and where that is empty by the table that
//!   the target is read from.
//!
//! The kernel single-steps a return, and no place beside it is cheaper: of the returns of Debian's redis, nginx and
//! libc 1 to 8 in 100 stand behind a conditional jump that the kernel emulates, fewer than 1 in 200 behind a nop, the
//! rest behind `pop`, `mov`, `add` and the like, which cost as much and mostly move the stack pointer.
//!
//! What remains undecided counts as an exit. That is harmless as long as the stack pointer at run time tells
//! that the call goes on; with an empty frame it ends the call early.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::ops::Range;

use super::track::{number_of, track};
use super::{Cost, body, unprobeable, words};
use crate::arch::{self, Flow, Instructions, JumpTable, Kernel, Price, Stack, Step};
use crate::error::{Error, Result};
use crate::image::{Bounds, Function};

/// An instruction by which a call of the function ends. The place may be that of the entry's probe as well: a
/// function may be a single jump, or a single return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Offset in the file: what a uprobe wants.
    pub offset: u64,
    /// Virtual address in the file's own terms.
    pub address: u64,
    /// How the function is left there.
    pub kind: ExitKind,
    /// What a probe costs there.
    pub cost: Cost,
}

/// How a function is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitKind {
    /// By a return: the value is in the registers for it.
    Return,
    /// By a jump to another function, which returns in its place (a tail call). No value has been returned yet.
    Jump,
    /// The same on a condition, as in the low four bits of the jump's opcode (Intel SDM volume 1, appendix B). Where
    /// it is not met the call goes on.
    JumpIf(u8),
}

/// What lies around a function, asked for as its exits are looked for.
pub(crate) trait Neighbours {
    /// What is at an address outside of FUNCTION that it jumps to.
    fn target(&self, function: &Function, address: u64) -> Target;
    /// Where the frame's base is, as [`EhFrame::cfa_at`](crate::eh_frame::EhFrame::cfa_at).
    fn frame_at(&self, address: u64) -> Option<(u16, i64)>;
    /// The code in a range; shorter where the file ends.
    fn code(&self, range: &Range<u64>) -> Vec<u8>;
    /// The 8 bytes of data at an address, as the program has them once it is loaded.
    fn word(&self, address: u64) -> Option<u64>;
    /// The file offset of an address.
    fn offset(&self, address: u64) -> Option<u64>;
}

/// What a jump leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The start of another function, or of a stub for one: all of it.
    Function(Range<u64>),
    /// Code of the function itself, or that it runs into: all of the piece around.
    Piece(Range<u64>),
    /// Code without a name that starts as functions do.
    Nameless(Range<u64>),
    /// Code of which nobody tells where it starts and ends.
    Unknown,
}

/// How much code of a function is looked at for its exits, in bytes for each piece: the largest that people write or
/// generate (parsers) have some hundred kilobytes.
pub(crate) const EXITS_LIMIT: usize = 1 << 20;
/// A function that is split in more pieces than this is none.
const MAX_PIECES: usize = 64;

/// The instructions by which a function is left, by address. CODE is the function's.
pub(crate) fn exits(
    function: &Function,
    code: &[u8],
    around: &dyn Neighbours,
    kernel: Kernel,
) -> Result<Vec<Exit>> {
    let range = function.address..function.end;
    let len = range.end.saturating_sub(range.start);
    if function.bounds == Bounds::Next || len == 0 {
        return Err(unknown(
            function,
            "nobody tells where it ends: its symbol has no size, and no unwind information covers it",
        ));
    }
    let mut walk = Walk {
        function,
        around,
        kernel,
        detours: (body::detours(function, code).iter())
            .map(|way| way.back)
            .collect(),
        pieces: Vec::new(),
        decided: HashMap::new(),
        exits: Vec::new(),
    };
    walk.add(range, code.to_vec(), Some((function.address, Stack::ENTRY)))?;
    let mut next = 0;
    while next < walk.pieces.len() {
        walk.look_through(next)?;
        next += 1;
    }
    walk.exits.sort_unstable_by_key(|exit| exit.address);
    walk.exits.dedup_by_key(|exit| exit.address);
    Ok(walk.exits)
}

fn unknown(function: &Function, why: impl Into<String>) -> Error {
    Error::UnknownExits {
        function: function.display_name(),
        why: why.into(),
    }
}

/// Whether the stack pointer stands at the return address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AtReturn {
    Yes,
    No,
    Unknown,
}

/// A contiguous range of the function's code.
struct Piece {
    range: Range<u64>,
    code: Vec<u8>,
    steps: Vec<Step>,
    /// Where it is entered first, and with what on the stack.
    entry: Option<(u64, Stack)>,
    stacks: OnceCell<Vec<Option<Stack>>>,
}

impl Piece {
    fn stack_at(&self, number: usize) -> Option<Stack> {
        let stacks = self.stacks.get_or_init(|| {
            let entered = self.entry.and_then(|(address, stack)| {
                let number = number_of(&self.steps, address.checked_sub(self.range.start)?)?;
                Some(track(&self.steps, self.range.start, number, stack))
            });
            entered.unwrap_or_default()
        });
        stacks.get(number).copied().flatten()
    }

    fn address(&self, step: &Step) -> u64 {
        self.range.start + step.at as u64
    }
}

struct Walk<'a> {
    function: &'a Function,
    around: &'a dyn Neighbours,
    kernel: Kernel,
    /// Jumps to the function's start that no call passes after its entry was seen.
    detours: Vec<u64>,
    pieces: Vec<Piece>,
    /// What was found out about places that are jumped to: whether another function starts there.
    decided: HashMap<u64, Target>,
    exits: Vec<Exit>,
}

impl Walk<'_> {
    /// Takes a piece in, unless it is there.
    fn add(&mut self, range: Range<u64>, code: Vec<u8>, entry: Option<(u64, Stack)>) -> Result<()> {
        if self.pieces.iter().any(|piece| piece.range == range) {
            return Ok(());
        }
        let len = range.end.saturating_sub(range.start);
        if len > EXITS_LIMIT as u64 || self.pieces.len() >= MAX_PIECES {
            let why = format!(
                "its code is too long: {len} bytes at {:#x}, in piece {}; at most {EXITS_LIMIT} bytes and {MAX_PIECES} pieces are looked at",
                range.start,
                self.pieces.len() + 1
            );
            return Err(unknown(self.function, why));
        }
        if len > code.len() as u64 {
            let why = format!("its code at {:#x} is not in the file", range.start);
            return Err(unknown(self.function, why));
        }
        let steps: Vec<Step> = Instructions::new(&code, range.start).collect();
        let piece = Piece {
            range,
            code,
            steps,
            entry,
            stacks: OnceCell::new(),
        };
        self.check(&piece)?;
        self.pieces.push(piece);
        Ok(())
    }

    /// Fails where PIECE is not instructions throughout: what is data among them must not be probed.
    fn check(&self, piece: &Piece) -> Result<()> {
        let (steps, start) = (&piece.steps, piece.range.start);
        for step in steps {
            let address = piece.address(step);
            match step.flow {
                Flow::Invalid => {
                    let why = format!("the bytes at {address:#x} are no instruction");
                    return Err(unknown(self.function, why));
                }
                Flow::Jump { target, .. } if piece.range.contains(&target) => {
                    let offset = target - start;
                    let skips_lock = || {
                        let before = number_of(steps, offset.checked_sub(1)?)?;
                        Some(steps[before].is_locked())
                    };
                    if number_of(steps, offset).is_none() && skips_lock() != Some(true) {
                        let why = format!(
                            "the jump at {address:#x} leads to {target:#x}, into the middle of an instruction: there is something else among its instructions"
                        );
                        return Err(unknown(self.function, why));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn owns(&self, address: u64) -> bool {
        let mut pieces = self.pieces.iter();
        pieces.any(|piece| piece.range.contains(&address))
    }

    fn look_through(&mut self, at: usize) -> Result<()> {
        for number in 0..self.pieces[at].steps.len() {
            let step = self.pieces[at].steps[number];
            let address = self.pieces[at].address(&step);
            match step.flow {
                Flow::Return => self.exit(at, &step, ExitKind::Return)?,
                Flow::Jump {
                    target,
                    conditional,
                } => {
                    let own_start = target == self.function.address;
                    let leaves = match own_start {
                        true => !self.detours.contains(&address),
                        false => !self.owns(target) && self.leaves(at, number, target)?,
                    };
                    if leaves {
                        let kind = self.kind(at, &step, conditional)?;
                        self.exit(at, &step, kind)?;
                    }
                }
                Flow::JumpAnywhere => {
                    let open = self.at_return(at, number) == AtReturn::No;
                    if !open && !self.is_switch(at, number) {
                        self.exit(at, &step, ExitKind::Jump)?;
                    }
                }
                Flow::Next | Flow::Call | Flow::Trap | Flow::Invalid => {}
            }
        }
        self.run_on(at)
    }

    fn kind(&self, at: usize, step: &Step, conditional: bool) -> Result<ExitKind> {
        match (conditional, step.condition()) {
            (false, _) => Ok(ExitKind::Jump),
            (true, Some(condition)) => Ok(ExitKind::JumpIf(condition)),
            (true, None) => Err(self.refused(
                at,
                step,
                "leaves the function on a condition that a probe cannot see",
            )),
        }
    }

    fn refused(&self, at: usize, step: &Step, why: &'static str) -> Error {
        let piece = &self.pieces[at];
        // The offset is told from the function's start: that of a piece elsewhere would mislead.
        let mut place = self.function.clone();
        if at > 0 {
            place.names = vec![format!(
                "the piece of {} at {:#x}",
                self.function.display_name(),
                piece.range.start
            )];
            place.address = piece.range.start;
        }
        unprobeable(&place, &piece.code, step, why)
    }

    fn exit(&mut self, at: usize, step: &Step, kind: ExitKind) -> Result<()> {
        let piece = &self.pieces[at];
        let address = piece.address(step);
        let cost = match arch::cost(step, &piece.code[step.at..], address, self.kernel) {
            Price::Cost(cost) => cost,
            Price::Refused(why) => return Err(self.refused(at, step, why)),
        };
        let Some(offset) = self.around.offset(address) else {
            let text = words(self.function, &piece.code, step);
            let why = format!("\"{text}\" at {address:#x} is not in the file");
            return Err(unknown(self.function, why));
        };
        self.exits.push(Exit {
            offset,
            address,
            kind,
            cost,
        });
        Ok(())
    }

    fn at_return(&self, at: usize, number: usize) -> AtReturn {
        let piece = &self.pieces[at];
        let address = piece.address(&piece.steps[number]);
        let frame = self.around.frame_at(address);
        if frame == Some(crate::eh_frame::AT_ENTRY) {
            return AtReturn::Yes;
        }
        // Some compilers do not tell of the frame's end: there the instructions do.
        let pointer = piece.stack_at(number).and_then(|stack| stack.pointer);
        match (pointer, frame) {
            (Some(0), _) => AtReturn::Yes,
            (None, None) => AtReturn::Unknown,
            _ => AtReturn::No,
        }
    }

    /// Whether a jump to TARGET, outside of what is known of the function, leaves it. Takes pieces in.
    fn leaves(&mut self, at: usize, number: usize, target: u64) -> Result<bool> {
        let found = match self.decided.get(&target) {
            Some(found) => found.clone(),
            None => {
                let found = match self.around.target(self.function, target) {
                    Target::Nameless(range) => self.judge(range),
                    found => found,
                };
                self.decided.insert(target, found.clone());
                found
            }
        };
        match found {
            Target::Function(_) | Target::Nameless(_) => Ok(true),
            Target::Piece(range) => {
                let stack = self.pieces[at].stack_at(number);
                let code = self.around.code(&range);
                self.add(range, code, stack.map(|stack| (target, stack)))?;
                Ok(false)
            }
            Target::Unknown if self.at_return(at, number) == AtReturn::No => {
                let piece = &self.pieces[at];
                let why = format!(
                    "the jump at {:#x} goes on at {target:#x} with something on the stack, and nobody tells what is there",
                    piece.address(&piece.steps[number])
                );
                Err(unknown(self.function, why))
            }
            Target::Unknown => Ok(true),
        }
    }

    /// Code without a name that starts with an empty frame belongs to the function if it jumps back into it. One that
    /// never returns may as well: there is nothing to see in it.
    fn judge(&self, range: Range<u64>) -> Target {
        if range.end.saturating_sub(range.start) > EXITS_LIMIT as u64 {
            return Target::Function(range);
        }
        let code = self.around.code(&range);
        let mut returns = false;
        for step in Instructions::new(&code, range.start) {
            match step.flow {
                Flow::Jump { target, .. } if range.contains(&target) => {}
                Flow::Jump { target, .. } => {
                    if target != self.function.address && self.owns(target) {
                        return Target::Piece(range);
                    }
                    returns = true;
                }
                Flow::Return | Flow::JumpAnywhere | Flow::Invalid => returns = true,
                Flow::Next | Flow::Call | Flow::Trap => {}
            }
        }
        match returns {
            true => Target::Nameless(range),
            false => Target::Piece(range),
        }
    }

    /// Whether a computed jump, with nothing on the stack, stays in the function.
    fn is_switch(&self, at: usize, number: usize) -> bool {
        let steps = &self.pieces[at].steps;
        let jump = &steps[number];
        if jump.is_untracked() {
            return true;
        }
        match arch::jump_table(&steps[..number], jump) {
            Some(JumpTable::Distances) => true,
            Some(JumpTable::Addresses(table)) => self
                .around
                .word(table)
                .is_some_and(|first| first != self.function.address && self.owns(first)),
            None => false,
        }
    }

    /// Takes in what execution runs into at the end of a piece: hand-written functions share their last part so.
    fn run_on(&mut self, at: usize) -> Result<()> {
        let piece = &self.pieces[at];
        let end = piece.range.end;
        // Behind a call that does not return nothing of this function follows, nor behind padding.
        let runs_on = piece.steps.last().is_some_and(|step| match step.flow {
            Flow::Next => !step.is_nop(),
            Flow::Jump { conditional, .. } => conditional,
            _ => false,
        });
        if !runs_on || self.owns(end) {
            return Ok(());
        }
        // Functions begin at multiples of up to 64: what is between is passed over.
        let code = self.around.code(&(end..end.saturating_add(64 + 15)));
        let mut padding = Instructions::new(&code, end).take_while(Step::is_nop);
        let next = end + padding.by_ref().map(|step| step.len as u64).sum::<u64>();
        if self.owns(next) {
            return Ok(());
        }
        match self.around.target(self.function, next) {
            Target::Function(range) | Target::Piece(range) | Target::Nameless(range) => {
                let code = self.around.code(&range);
                self.add(range, code, None)
            }
            Target::Unknown => {
                let why =
                    format!("it runs on past its end at {end:#x}, and nobody tells what is there");
                Err(unknown(self.function, why))
            }
        }
    }
}
