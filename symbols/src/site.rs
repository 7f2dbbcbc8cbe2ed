//! Where in a function a probe sits. The kernel emulates some instructions and single-steps the rest, at
//! thirteen times the price, so it pays to go a few instructions past the symbol's address, as long as
//! nothing that the probe reports can have changed on the way and every call passes the place exactly once.

use crate::arch::{self, Flow, Instructions, Kernel, Price, Step};
use crate::error::{Error, Result};
use crate::image::{CODE_LIMIT, Function};

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
/// [`CODE_LIMIT`]): what is jumped to from further down decides what may be passed.
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
        if best.is_some_and(|(_, cost)| cost != Cost::SingleStepped) || step.flow != Flow::Next {
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

/// What lies around a function: lets a scan follow the jumps that leave it.
pub(crate) trait Surroundings {
    /// Whether ADDRESS belongs to a function known by name and size, other than split-off `.cold` parts.
    fn is_known(&self, address: u64) -> bool;
    /// Some code from ADDRESS on; empty where there is none.
    fn code_at(&self, address: u64) -> Vec<u8>;
}

/// Knows nothing: every jump out of the function may come back anywhere.
struct Nowhere;

impl Surroundings for Nowhere {
    fn is_known(&self, _: u64) -> bool {
        false
    }

    fn code_at(&self, _: u64) -> Vec<u8> {
        Vec::new()
    }
}

/// What a scan of the whole function tells about jumps back into its first instructions.
struct Body {
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
    fn scan(function: &Function, code: &[u8], around: &dyn Surroundings) -> Self {
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
    fn allows(&self, step: &Step, passed_only_landing_pad: bool) -> bool {
        if self.targets.iter().any(|target| *target <= step.at) {
            return false;
        }
        // A loop cannot come back to a push, or to code before it, without unbalancing the stack.
        (!self.unknown || passed_only_landing_pad)
            && (step.is_push() || !(self.unknown || self.leaves))
    }
}

/// The site at a user's own offset into a function.
///
/// # Errors
/// [`Error::PastEnd`], [`Error::InsideInstruction`] (naming the offsets beside), [`Error::Unprobeable`], or
/// [`Error::Undecodable`] where the code up to there is not all instructions.
pub fn at_offset(function: &Function, code: &[u8], add: u64) -> Result<Site> {
    let own = &code[..code.len().min(function.code_len())];
    let size = function.end.saturating_sub(function.address);
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

/// File offsets of the function's return instructions, in order.
pub fn returns(function: &Function, code: &[u8]) -> Vec<u64> {
    let own = &code[..code.len().min(function.code_len())];
    Instructions::new(own, function.address)
        .filter(|step| step.flow == Flow::Return)
        .map(|step| function.offset + step.at as u64)
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::NameSource;

    const NEW: &str = "6.18.1";
    const OLD: &str = "6.1.0";
    const ALL: ArgSet = ArgSet::REGISTERS;

    fn function(code: &[u8], size: u64) -> Function {
        let end = 0x401000 + code.len() as u64;
        Function {
            names: vec!["f".into()],
            address: 0x401000,
            offset: 0x1000,
            size,
            end,
            undivided: end,
            source: NameSource::Symtab,
        }
    }

    fn placed(code: &[u8], purpose: Purpose, live: ArgSet, kernel: &str) -> (u64, Cost) {
        let function = function(code, code.len() as u64);
        let site = place_on(
            &function,
            code,
            purpose,
            live,
            &Nowhere,
            Kernel::from_release(kernel),
        )
        .unwrap();
        assert_eq!(site.offset, function.offset + site.moved);
        assert_eq!(site.address, function.address + site.moved);
        (site.moved, site.cost)
    }

    const ENDBR64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];

    fn code(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn the_first_cheap_instruction_is_chosen() {
        use Cost::{Emulated, Nop5, SingleStepped};
        use Purpose::{Entry, EntryReturn};
        let push: &[u8] = &[0x55];
        let ret: &[u8] = &[0xc3];
        let nop5: &[u8] = &[0x0f, 0x1f, 0x44, 0, 0];
        let mov_eax: &[u8] = &[0xb8, 1, 0, 0, 0];
        let sub_rsp: &[u8] = &[0x48, 0x83, 0xec, 0x08];
        let call: &[u8] = &[0xe8, 0, 0, 0, 0];
        let add_rsp: &[u8] = &[0x48, 0x83, 0xc4, 0x08];
        type Case = (
            &'static str,
            Vec<u8>,
            Purpose,
            ArgSet,
            &'static str,
            (u64, Cost),
        );
        let cases: &[Case] = &[
            (
                "push first",
                code(&[push, &[0x5d], ret]),
                EntryReturn,
                ALL,
                NEW,
                (0, Emulated),
            ),
            (
                "endbr64, push",
                code(&[ENDBR64, push, &[0x5d], ret]),
                EntryReturn,
                ALL,
                NEW,
                (4, Emulated),
            ),
            (
                "push r15",
                code(&[ENDBR64, &[0x41, 0x57], &[0x41, 0x5f], ret]),
                EntryReturn,
                ALL,
                NEW,
                (4, Emulated),
            ),
            (
                "a nop that 6.18 turns into a call",
                code(&[nop5, ret]),
                EntryReturn,
                ALL,
                NEW,
                (0, Nop5),
            ),
            (
                "the same, single-stepped before 6.16",
                code(&[nop5, ret]),
                EntryReturn,
                ALL,
                OLD,
                (0, SingleStepped),
            ),
            (
                "old kernels go on to the push",
                code(&[nop5, push, &[0x5d], ret]),
                EntryReturn,
                ALL,
                OLD,
                (5, Emulated),
            ),
            (
                "test, je as in free",
                vec![0x48, 0x85, 0xff, 0x74, 0x01, 0xc3, 0xc3],
                EntryReturn,
                ALL,
                NEW,
                (3, Emulated),
            ),
            (
                "nothing cheap",
                code(&[mov_eax, ret]),
                EntryReturn,
                ALL,
                NEW,
                (0, SingleStepped),
            ),
            (
                "the stack has moved before the call",
                code(&[sub_rsp, call, add_rsp, ret]),
                EntryReturn,
                ALL,
                NEW,
                (0, SingleStepped),
            ),
            (
                "an entry alone does not mind",
                code(&[sub_rsp, call, add_rsp, ret]),
                Entry,
                ALL,
                NEW,
                (4, Emulated),
            ),
            (
                "arguments on the stack do",
                code(&[sub_rsp, call, add_rsp, ret]),
                Entry,
                ArgSet::EMPTY.with(6),
                NEW,
                (0, SingleStepped),
            ),
            (
                "edi written, arg0 wanted",
                code(&[&[0x31, 0xff], push, &[0x5d], ret]),
                Entry,
                ArgSet::EMPTY.with(0),
                NEW,
                (0, SingleStepped),
            ),
            (
                "edi written, arg1 wanted",
                code(&[&[0x31, 0xff], push, &[0x5d], ret]),
                Entry,
                ArgSet::EMPTY.with(1),
                NEW,
                (2, Emulated),
            ),
            (
                "cl is a part of arg3",
                code(&[&[0xb1, 1], push, &[0x5d], ret]),
                Entry,
                ArgSet::EMPTY.with(3),
                NEW,
                (0, SingleStepped),
            ),
            (
                "a store is not passed",
                code(&[&[0xc7, 0x07, 0, 0, 0, 0], push, &[0x5d], ret]),
                Entry,
                ArgSet::EMPTY,
                NEW,
                (0, SingleStepped),
            ),
            (
                "a call through a register is not passed",
                code(&[&[0xff, 0xd0], push, &[0x5d], ret]),
                Entry,
                ArgSet::EMPTY,
                NEW,
                (0, SingleStepped),
            ),
            (
                "only a jump, as in musl's malloc",
                vec![0xe9, 0, 0, 0x10, 0],
                EntryReturn,
                ALL,
                NEW,
                (0, Emulated),
            ),
            (
                "a vector move is refused, the push is not",
                code(&[&[0xc5, 0xf9, 0x6f, 0xc1], push, &[0x5d], ret]),
                Entry,
                ALL,
                NEW,
                (4, Emulated),
            ),
        ];
        for (what, bytes, purpose, live, kernel, expected) in cases {
            assert_eq!(placed(bytes, *purpose, *live, kernel), *expected, "{what}");
        }
    }

    #[test]
    fn nothing_that_a_loop_comes_back_to_is_passed() {
        // mov eax, [rdi]; L: test eax, eax; je +3; dec eax; jmp L; ret
        let looped = [
            0x8b, 0x07, 0x85, 0xc0, 0x74, 0x04, 0xff, 0xc8, 0xeb, 0xf8, 0xc3,
        ];
        assert_eq!(
            placed(&looped, Purpose::Entry, ALL, NEW),
            (0, Cost::SingleStepped)
        );
        // without the jump back the je is fine
        let straight = [
            0x8b, 0x07, 0x85, 0xc0, 0x74, 0x04, 0xff, 0xc8, 0x90, 0x90, 0xc3,
        ];
        assert_eq!(
            placed(&straight, Purpose::Entry, ALL, NEW),
            (4, Cost::Emulated)
        );
        // je to outside: a cold part that may jump back anywhere
        let cold = [0x8b, 0x07, 0x85, 0xc0, 0x0f, 0x84, 0, 0, 0x10, 0, 0xc3];
        assert_eq!(
            placed(&cold, Purpose::Entry, ALL, NEW),
            (0, Cost::SingleStepped)
        );
        // a jump back to behind endbr64
        let tail = code(&[ENDBR64, &[0x55, 0x5d, 0xeb, 0xfc]]);
        assert_eq!(
            placed(&tail, Purpose::EntryReturn, ALL, NEW),
            (0, Cost::SingleStepped)
        );
    }

    #[test]
    fn without_bounds_only_the_landing_pad_is_passed() {
        let bytes = code(&[ENDBR64, &[0x55, 0x5d, 0xc3]]);
        let site = place(&function(&bytes, 0), &bytes, Purpose::EntryReturn, ALL).unwrap();
        assert_eq!(site.moved, 4);
        let bytes = [0xb8, 1, 0, 0, 0, 0x55, 0x5d, 0xc3];
        let site = place(&function(&bytes, 0), &bytes, Purpose::EntryReturn, ALL).unwrap();
        assert_eq!((site.moved, site.cost), (0, Cost::SingleStepped));
    }

    #[test]
    fn another_symbol_inside_is_not_crossed() {
        let bytes = code(&[ENDBR64, &[0x55, 0x5d, 0xc3]]);
        let mut function = function(&bytes, bytes.len() as u64);
        function.undivided = function.address + 4;
        let site = place(&function, &bytes, Purpose::EntryReturn, ALL).unwrap();
        assert_eq!(site.moved, 0);
    }

    #[test]
    fn what_the_kernel_refuses_is_refused_with_a_reason() {
        for (bytes, word) in [
            (&[0xf0, 0x0f, 0xb1, 0x07, 0xc3][..], "prefix"),
            (
                &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, 0xc3],
                "prefix",
            ),
            (&[0xcc, 0xc3], "does not probe"),
            (&[0x49, 0x90, 0xc3], "nop"),
        ] {
            let function = function(bytes, bytes.len() as u64);
            let error = at_offset(&function, bytes, 0).unwrap_err();
            assert!(matches!(error, Error::Unprobeable { .. }), "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn an_offset_inside_an_instruction_names_its_neighbours() {
        let bytes = [0x55, 0xb8, 1, 0, 0, 0, 0x5d, 0xc3];
        let function = function(&bytes, bytes.len() as u64);
        let at = |add| at_offset(&function, &bytes, add);
        assert_eq!(at(1).unwrap().offset, 0x1001);
        let message = at(3).unwrap_err().to_string();
        assert!(
            message.contains("f+0x3") && message.contains("+0x1") && message.contains("+0x6"),
            "{message}"
        );
        assert!(message.contains("mov eax"), "{message}");
        assert!(matches!(at(8), Err(Error::PastEnd { size: 8, .. })));
        assert!(matches!(at(u64::MAX), Err(Error::PastEnd { .. })));
        // code that was given only in part
        assert!(matches!(
            at_offset(&function, &bytes[..3], 6),
            Err(Error::Undecodable { .. })
        ));
        assert_eq!(returns(&function, &bytes), [0x1007]);
    }

    #[test]
    fn any_bytes_are_survived() {
        // A fixed linear congruence: the same bytes in every run.
        let mut seed = 1u64;
        let mut next = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as u8
        };
        for len in 0..4000usize {
            let bytes: Vec<u8> = (0..len % 80).map(|_| next()).collect();
            let function = function(&bytes, bytes.len() as u64);
            if let Ok(site) = place(&function, &bytes, Purpose::Entry, ALL) {
                assert!(site.moved < bytes.len() as u64);
            }
            let _ = at_offset(&function, &bytes, u64::from(next()) % 80);
            returns(&function, &bytes);
        }
        let empty = function(&[], 0);
        assert!(place(&empty, &[], Purpose::Entry, ALL).is_err());
    }
}
