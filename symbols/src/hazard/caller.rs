//! Functions that look at their own return address (`__builtin_return_address`), by their code.

use crate::arch::Instructions;
use crate::eh_frame::Lookup;
use crate::image::{Function, Image};
use crate::site::EXITS_LIMIT;

/// How far below a frame's base the return address is (System V ABI, x86-64 supplement, figure 3.3).
const RETURN_ADDRESS: i64 = 8;

/// Whether FUNCTION itself reads or writes the word of the stack where its return address is, as far as the call frame
/// information tells which one that is.
pub(super) fn is_looked_at(frames: &Lookup, image: &Image, function: &Function) -> bool {
    let Ok(code) = image.code(function, EXITS_LIMIT) else {
        return false;
    };
    Instructions::new(&code, function.address).any(|step| {
        let address = function.address + step.at as u64;
        step.stack_word().is_some_and(|(register, offset)| {
            // Above the stack pointer, so that only few have to be looked up.
            let base = (register, offset.saturating_add(RETURN_ADDRESS));
            offset >= 0 && frames.cfa_at(address) == Some(base)
        })
    })
}
