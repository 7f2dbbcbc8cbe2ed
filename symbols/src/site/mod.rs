//! Where in a function a probe sits. The kernel emulates some instructions and single-steps the rest, at
//! thirteen times the price, so it pays to go a few instructions past the symbol's address, as long as
//! nothing that the probe reports can have changed on the way and every call passes the place exactly once.

mod body;
mod exits;
#[cfg(test)]
mod tests;
mod track;

use crate::arch::{self, Flow, Instructions, Kernel, Price, Step};
use crate::error::{Error, Result};
use crate::image::Function;
use body::{Body, Nowhere};

pub(crate) use body::Surroundings;
pub(crate) use exits::{EXITS_LIMIT, Neighbours, Target, exits};
pub use exits::{Exit, ExitKind};

/// How far past the function's address a site is looked for, in bytes and instructions: prologues are short.
const LOOK_BYTES: usize = 64;
const LOOK_INSTRUCTIONS: usize = 16;

/// What the probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Only entries are seen: the arguments that are captured must be intact.
    Entry,
    /// Entry and return: the stack pointer must stand at the return address as well.
    EntryReturn,
}

/// What a probe costs at a place, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cost {
    /// A 5-byte nop, which newer kernels (6.18) turn into a call: no trap at all.
    Nop5,
    /// The kernel emulates the instruction: one trap.
    Emulated,
    /// The kernel single-steps a copy of the instruction: a trap and a debug exception.
    SingleStepped,
}

/// Which arguments a probe captures: registers by number, or those on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ArgSet(u8);

impl ArgSet {
    /// No argument.
    pub const EMPTY: Self = Self(0);
    /// All register arguments (0 to 5).
    pub const REGISTERS: Self = Self(0x3f);
    /// The arguments past the sixth, which lie on the stack.
    pub const STACK: Self = Self(0x40);

    /// This set and argument NUMBER, counted from 0; from 6 on it is on the stack.
    #[must_use]
    pub const fn with(self, number: u8) -> Self {
        Self(
            self.0
                | if number < 6 {
                    1 << number
                } else {
                    Self::STACK.0
                },
        )
    }

    /// All that are in one of the two.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the two have an argument in common.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// A place for a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Offset in the file: what a uprobe wants.
    pub offset: u64,
    /// Virtual address in the file's own terms.
    pub address: u64,
    /// Bytes past the function's address.
    pub moved: u64,
    /// What a probe costs here.
    pub cost: Cost,
    /// File offset of the 16-bit counter that the kernel raises while the probe is armed (its `ref_ctr_offset`):
    /// a USDT probe's semaphore, without which the program skips the probe.
    pub semaphore: Option<u64>,
    /// The probed instruction: the longest has 15 bytes.
    bytes: [u8; 15],
    len: u8,
}

impl Site {
    fn new(function: &Function, code: &[u8], step: &Step, cost: Cost) -> Self {
        let mut bytes = [0; 15];
        let source = &code[step.at..][..step.len.min(15)];
        bytes[..source.len()].copy_from_slice(source);
        Self {
            offset: function.offset + step.at as u64,
            address: function.address + step.at as u64,
            moved: step.at as u64,
            cost,
            semaphore: None,
            bytes,
            len: source.len() as u8,
        }
    }

    /// The probed instruction, in words.
    pub fn instruction(&self) -> String {
        arch::text(&self.bytes[..usize::from(self.len)], self.address)
    }
}

/// Chooses the place for a probe on a function's entry. CODE starts at the function; give all of it (up to
/// [`CODE_LIMIT`](crate::image::CODE_LIMIT)): what is jumped to from further down decides what may be passed.
///
/// # Errors
/// [`Error::Unprobeable`]: the kernel refuses every place that would do.
pub fn place(
    function: &Function,
    code: &[u8],
    purpose: Purpose,
    live_args: ArgSet,
) -> Result<Site> {
    place_on(
        function,
        code,
        purpose,
        live_args,
        &Nowhere,
        Kernel::running(),
    )
}

/// [`place`] with what lies around the function.
pub(crate) fn place_in(
    around: &dyn Surroundings,
    function: &Function,
    code: &[u8],
    purpose: Purpose,
    live_args: ArgSet,
) -> Result<Site> {
    place_on(
        function,
        code,
        purpose,
        live_args,
        around,
        Kernel::running(),
    )
}

fn place_on(
    function: &Function,
    code: &[u8],
    purpose: Purpose,
    live_args: ArgSet,
    around: &dyn Surroundings,
    kernel: Kernel,
) -> Result<Site> {
    let own = &code[..code.len().min(function.code_len())];
    let look = |first| look(function, own, purpose, live_args, around, kernel, first);
    // What a call may begin anew is left behind, if there is a place after it.
    let first = body::detours(function, own).last().map(|way| way.behind);
    first
        .and_then(|first| look(first).ok())
        .map_or_else(|| look(0), Ok)
}

/// The best place from the offset FIRST on.
fn look(
    function: &Function,
    own: &[u8],
    purpose: Purpose,
    live_args: ArgSet,
    around: &dyn Surroundings,
    kernel: Kernel,
    first: usize,
) -> Result<Site> {
    let undivided =
        usize::try_from(function.undivided.saturating_sub(function.address)).unwrap_or(usize::MAX);
    let keep_stack = purpose == Purpose::EntryReturn || live_args.meets(ArgSet::STACK);
    let mut best: Option<(Step, Cost)> = None;
    let mut first_refusal: Option<(Step, &'static str)> = None;
    let mut passed_only_landing_pad = true;
    let mut body: Option<Body> = None;
    let mut state = arch::EffectsState::new();
    for step in Instructions::new(own, function.address).take(LOOK_INSTRUCTIONS) {
        if step.at > 0 && (step.at >= undivided || step.at > LOOK_BYTES) {
            break;
        }
        match arch::cost(
            &step,
            &own[step.at..],
            function.address + step.at as u64,
            kernel,
        ) {
            _ if step.at < first => {}
            Price::Refused(why) => first_refusal = first_refusal.or(Some((step, why))),
            Price::Cost(cost) if best.is_none_or(|(_, known)| cost < known) => {
                let reachable = step.at == 0
                    || body
                        .get_or_insert_with(|| Body::scan(function, own, around))
                        .allows(&step, passed_only_landing_pad);
                if reachable {
                    best = Some((step, cost));
                }
            }
            Price::Cost(_) => {}
        }
        if best.is_some_and(|(_, cost)| cost != Cost::SingleStepped)
            || (step.flow != Flow::Next && step.at >= first)
        {
            break;
        }
        let effects = arch::effects(&step, &mut state);
        if effects.writes_memory
            || effects.args_written.meets(live_args)
            || (effects.moves_stack && keep_stack)
        {
            break;
        }
        passed_only_landing_pad &= step.is_landing_pad();
    }
    if let Some((step, cost)) = best {
        return Ok(Site::new(function, own, &step, cost));
    }
    Err(match first_refusal {
        Some((step, why)) => unprobeable(function, own, &step, why),
        None => Error::Undecodable {
            function: function.display_name(),
            offset: 0,
            at: 0,
        },
    })
}

/// The site at a user's own offset into a function.
///
/// # Errors
/// [`Error::PastEnd`], [`Error::InsideInstruction`] (naming the offsets beside), [`Error::Unprobeable`], or
/// [`Error::Undecodable`] where the code up to there is not all instructions.
pub fn at_offset(function: &Function, code: &[u8], add: u64) -> Result<Site> {
    let size = function.end.saturating_sub(function.address);
    let own = &code[..code.len().min(usize::try_from(size).unwrap_or(usize::MAX))];
    let name = || function.display_name();
    let wanted = match usize::try_from(add) {
        Ok(wanted) if add < size => wanted,
        _ => {
            return Err(Error::PastEnd {
                function: name(),
                offset: add,
                size,
            });
        }
    };
    for step in Instructions::new(own, function.address) {
        if step.flow == Flow::Invalid {
            return Err(Error::Undecodable {
                function: name(),
                offset: add,
                at: step.at as u64,
            });
        }
        if step.at == wanted {
            let address = function.address + add;
            return match arch::cost(&step, &own[step.at..], address, Kernel::running()) {
                Price::Cost(cost) => Ok(Site::new(function, own, &step, cost)),
                Price::Refused(why) => Err(unprobeable(function, own, &step, why)),
            };
        }
        if step.at + step.len > wanted {
            return Err(Error::InsideInstruction {
                function: name(),
                offset: add,
                before: step.at as u64,
                after: (step.at + step.len) as u64,
                instruction: words(function, own, &step),
            });
        }
    }
    Err(Error::Undecodable {
        function: name(),
        offset: add,
        at: own.len() as u64,
    })
}

fn words(function: &Function, code: &[u8], step: &Step) -> String {
    arch::text(&code[step.at..], function.address + step.at as u64)
}

fn unprobeable(function: &Function, code: &[u8], step: &Step, why: &'static str) -> Error {
    Error::Unprobeable {
        function: function.display_name(),
        offset: step.at as u64,
        instruction: words(function, code, step),
        why,
    }
}
