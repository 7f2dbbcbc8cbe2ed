//! x86-64: System V ABI (AMD64 Architecture Processor Supplement 1.0, section 3.2.3), Rust and Go on top of it.

use super::{Convention, IN_FLOAT_REGISTER, Kind, Leaf, Passed};
use crate::types::place::{Address, Place};

/// DWARF numbers (figure 3.36) of rdi, rsi, rdx, rcx, r8, r9: integer arguments in order.
pub(in crate::types) const ARGUMENTS: [u16; 6] = [5, 4, 1, 2, 8, 9];
/// rax, rdx: integer results in order.
const RESULTS: [u16; 2] = [0, 1];
/// rax, rbx, rcx, rdi, rsi, r8, r9, r10, r11: Go's arguments, and its results.
const GO: [u16; 9] = [0, 3, 2, 5, 4, 8, 9, 10, 11];
/// xmm0 to xmm7 take arguments, xmm0 and xmm1 results; Go has xmm0 to xmm14 for both.
const FLOATS: usize = 8;
const FLOAT_RESULTS: usize = 2;
const GO_FLOATS: usize = 15;
/// rsp
const STACK_POINTER: u16 = 7;
/// The last general register, r15.
const LAST_GENERAL: u16 = 15;
const WORD: u64 = 8;

/// Whether a probe can read this register.
pub(in crate::types) fn readable(register: u16) -> Result<(), String> {
    match register {
        0..=LAST_GENERAL => Ok(()),
        17..=32 | 67..=82 => Err(IN_FLOAT_REGISTER.into()),
        33..=48 => Err("in an x87 or MMX register, which probes cannot read".into()),
        _ => Err(format!("in register {register}, which probes cannot read")),
    }
}

/// The frame's base when a function is entered: above the return address, which the call has just pushed.
pub(in crate::types) fn cfa_at_entry() -> Address {
    Address::Register(STACK_POINTER).plus(WORD as i64)
}

/// Registers not yet taken.
struct Free<'r> {
    general: &'r [u16],
    floats: usize,
}

impl Free<'_> {
    fn take(&mut self, kind: Kind) -> Option<Place> {
        match kind {
            Kind::Integer => {
                let (first, rest) = self.general.split_first()?;
                self.general = rest;
                Some(Place::Value(Address::Register(*first)))
            }
            Kind::Float => {
                self.floats = self.floats.checked_sub(1)?;
                Some(Place::Unavailable(IN_FLOAT_REGISTER.into()))
            }
            Kind::Other => None,
        }
    }

    /// One register for each part, or none at all.
    fn take_all(&mut self, parts: &[(u8, Kind)]) -> Option<Place> {
        let count = |wanted| parts.iter().filter(|(_, kind)| *kind == wanted).count();
        let enough =
            count(Kind::Integer) <= self.general.len() && count(Kind::Float) <= self.floats;
        if !enough || count(Kind::Other) > 0 {
            return None;
        }
        let mut places: Vec<(u8, Place)> = parts
            .iter()
            .filter_map(|(bytes, kind)| Some((*bytes, self.take(*kind)?)))
            .collect();
        if places.len() == 1 {
            places.pop().map(|(_, place)| place)
        } else {
            Some(Place::Pieces(places))
        }
    }
}

/// The arguments that are passed in memory, one after another above the return address.
struct Stack<'c> {
    cfa: Option<&'c Address>,
    used: u64,
    least: u64,
}

impl Stack<'_> {
    fn next(&mut self, passed: &Passed) -> Place {
        let align = passed.align.max(self.least).max(1);
        let at = self.used.next_multiple_of(align);
        self.used = at.saturating_add(passed.size.next_multiple_of(self.least));
        match (self.cfa, i64::try_from(at)) {
            (Some(cfa), Ok(at)) => Place::Memory(cfa.clone().plus(at)),
            _ => Place::Unavailable(
                "on the stack, but where its frame lies here is not known".into(),
            ),
        }
    }
}

/// Where each parameter is when the function is entered; RETURNS is what it returns. CFA is the frame's base where
/// this is asked.
pub(in crate::types) fn parameters(
    convention: Convention,
    passed: &[Passed],
    returns: Option<&Passed>,
    cfa: Option<&Address>,
) -> Vec<Place> {
    match convention {
        Convention::C | Convention::Rust => general(convention, passed, returns, cfa),
        Convention::Go | Convention::GoStack => go(convention, passed, cfa),
    }
}

fn general(
    convention: Convention,
    passed: &[Passed],
    returns: Option<&Passed>,
    cfa: Option<&Address>,
) -> Vec<Place> {
    let mut free = Free {
        general: &ARGUMENTS,
        floats: FLOATS,
    };
    let mut stack = Stack {
        cfa,
        used: 0,
        least: WORD,
    };
    let how = |passed: &Passed| match convention {
        Convention::Rust => rust(passed),
        _ => c(passed),
    };
    // The place for a result that fits in no registers is passed before all else.
    let mut unknown = match returns.map(how) {
        Some(How::Reference | How::Memory) => free.take(Kind::Integer).is_none(),
        Some(How::Unknown) => true,
        _ => false,
    };
    let mut places = Vec::new();
    for each in passed {
        let how = how(each);
        unknown |= how == How::Unknown;
        places.push(match how {
            _ if unknown => Place::Unavailable("passed in a way that Rust does not promise; build it with optimisation, or as extern \"C\"".into()),
            How::Unknown => continue,
            How::Nothing => Place::Unavailable("of a type without any bytes".into()),
            How::Registers(parts) => free.take_all(&parts).unwrap_or_else(|| stack.next(each)),
            How::Memory => stack.next(each),
            How::Reference => match free.take(Kind::Integer) {
                Some(Place::Value(address)) => Place::Memory(address),
                _ => match stack.next(&POINTER) {
                    Place::Memory(address) => Place::Memory(address.load(WORD as u8)),
                    other => other,
                },
            },
        });
    }
    places
}

/// How a value is passed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum How {
    /// Not at all.
    Nothing,
    /// In one register for each part, if enough are left: bytes and kind.
    Registers(Vec<(u8, Kind)>),
    /// By value on the stack.
    Memory,
    /// Its address is passed.
    Reference,
    /// Nobody can tell.
    Unknown,
}

const POINTER: Passed = Passed {
    size: WORD,
    align: WORD,
    leaves: Vec::new(),
    aggregate: false,
    by_reference: false,
    overlaps: false,
};

/// Section 3.2.3, "Classification": each eightbyte has the class of what lies in it.
fn c(passed: &Passed) -> How {
    if passed.by_reference {
        return How::Reference;
    }
    if passed.size == 0 || (passed.leaves.is_empty() && passed.aggregate && passed.size == 1) {
        return How::Nothing;
    }
    let unaligned = passed
        .leaves
        .iter()
        .any(|leaf| leaf.bytes > 0 && !leaf.offset.is_multiple_of(leaf.bytes.min(WORD)));
    if passed.size > 2 * WORD || passed.leaves.is_empty() || unaligned {
        return How::Memory;
    }
    let mut parts = Vec::new();
    for start in (0..passed.size).step_by(WORD as usize) {
        let end = passed.size.min(start + WORD);
        let inside: Vec<Kind> = passed
            .leaves
            .iter()
            .filter(|leaf| leaf.offset < end && leaf.offset.saturating_add(leaf.bytes) > start)
            .map(|leaf| leaf.kind)
            .collect();
        let kind = if inside.contains(&Kind::Other) {
            return How::Memory;
        } else if inside.contains(&Kind::Integer) {
            Kind::Integer
        } else {
            Kind::Float
        };
        parts.push(((end - start) as u8, kind));
    }
    How::Registers(parts)
}

/// rustc's own convention: scalars and pairs of scalars go in registers, each in its own; other small aggregates as
/// one integer up to a word; what is larger than two words by reference. In between it has changed over the years.
fn rust(passed: &Passed) -> How {
    if passed.size == 0 {
        return How::Nothing;
    }
    if !passed.aggregate {
        return c(passed);
    }
    if passed.size > 2 * WORD {
        return How::Reference;
    }
    let part = |leaf: &Leaf, end: u64| ((end - leaf.offset).min(WORD) as u8, leaf.kind);
    match passed.leaves.as_slice() {
        _ if passed.overlaps => How::Unknown,
        [] => How::Unknown,
        [one] => How::Registers(vec![part(one, passed.size)]),
        [first, second] if first.kind != Kind::Other && second.kind != Kind::Other => {
            How::Registers(vec![part(first, second.offset), part(second, passed.size)])
        }
        _ if passed.size <= WORD => How::Registers(vec![(passed.size as u8, Kind::Integer)]),
        _ => How::Unknown,
    }
}

/// cmd/compile/abi-internal.md, "Function call argument and result passing".
fn go(convention: Convention, passed: &[Passed], cfa: Option<&Address>) -> Vec<Place> {
    let mut free = Free {
        general: &GO,
        floats: GO_FLOATS,
    };
    let mut stack = Stack {
        cfa,
        used: 0,
        least: 1,
    };
    let mut place = |each: &Passed| {
        if each.size == 0 {
            return Place::Unavailable("of a type without any bytes".into());
        }
        let registers = (convention == Convention::Go)
            .then(|| free.take_all(&go_parts(each)?))
            .flatten();
        registers.unwrap_or_else(|| stack.next(each))
    };
    passed.iter().map(&mut place).collect()
}

/// One register for each scalar; `None` for what Go never passes in registers.
fn go_parts(passed: &Passed) -> Option<Vec<(u8, Kind)>> {
    let ends = passed
        .leaves
        .iter()
        .skip(1)
        .map(|leaf| leaf.offset)
        .chain([passed.size]);
    let parts: Option<Vec<(u8, Kind)>> = passed
        .leaves
        .iter()
        .zip(ends)
        .map(|(leaf, end)| Some((u8::try_from(end.checked_sub(leaf.offset)?).ok()?, leaf.kind)))
        .collect();
    parts.filter(|parts| !parts.is_empty() && !passed.overlaps)
}

/// Where the results are when a function has returned.
pub(in crate::types) fn returned(convention: Convention, results: &[Passed]) -> Vec<Place> {
    match convention {
        Convention::Go => {
            let mut free = Free {
                general: &GO,
                floats: GO_FLOATS,
            };
            let on_stack = || Place::Unavailable("returned on the stack".into());
            let place = |each: &Passed| {
                go_parts(each)
                    .and_then(|parts| free.take_all(&parts))
                    .unwrap_or_else(on_stack)
            };
            results.iter().map(place).collect()
        }
        Convention::GoStack => results
            .iter()
            .map(|_| Place::Unavailable("returned on the stack".into()))
            .collect(),
        Convention::C | Convention::Rust => {
            let mut free = Free {
                general: &RESULTS,
                floats: FLOAT_RESULTS,
            };
            let place = |each: &Passed| match if convention == Convention::Rust {
                rust(each)
            } else {
                c(each)
            } {
                How::Nothing => Place::Unavailable("of a type without any bytes".into()),
                How::Registers(parts) => free
                    .take_all(&parts)
                    .unwrap_or_else(|| Place::Unavailable("not in registers".into())),
                // x87 results are on that unit's own stack; all else in memory has its address in rax.
                How::Memory if !each.aggregate => {
                    Place::Unavailable("in an x87 register, which probes cannot read".into())
                }
                How::Memory | How::Reference => Place::Memory(Address::Register(RESULTS[0])),
                How::Unknown => {
                    Place::Unavailable("returned in a way that Rust does not promise".into())
                }
            };
            results.iter().map(place).collect()
        }
    }
}
