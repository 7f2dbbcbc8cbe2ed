//! x86-64: operands in AT&T syntax, as GCC and Clang print them for the constraint "nor".

use super::Operand;

/// The instruction pointer's DWARF number (the return address column, psABI figure 3.36).
const RIP: u8 = 16;

/// What an operand means; SYMBOL gives the addresses of the file's symbols.
pub(super) fn operand(
    text: &str,
    probe: u64,
    symbol: &mut dyn FnMut(&str) -> Option<u64>,
) -> Operand {
    parse(text, probe, symbol).unwrap_or_else(Operand::Unreadable)
}

fn parse(
    text: &str,
    probe: u64,
    symbol: &mut dyn FnMut(&str) -> Option<u64>,
) -> Result<Operand, String> {
    if text.is_empty() || text == "$" {
        return Err(format!("\"{text}\" cannot be understood"));
    }
    if let Some(constant) = text.strip_prefix('$') {
        return sum(constant, symbol).map(|sum| Operand::Constant(sum.total));
    }
    // "*" marks the targets of indirect calls; here it says nothing.
    let text = text.strip_prefix('*').unwrap_or(text);
    if let Some(name) = text.strip_prefix('%') {
        if name.contains(':') {
            return Err(format!("it is in thread-local memory ({text})"));
        }
        return match register(name) {
            Some((register, shift)) => Ok(Operand::Register { register, shift }),
            None => Err(format!("%{name} is no general register")),
        };
    }
    let (displacement, inside) = match text.split_once('(') {
        None => (text, None),
        Some((before, rest)) => {
            let inside = rest.strip_suffix(')');
            let inside = inside.ok_or_else(|| format!("\"{text}\" has no closing bracket"))?;
            (before, Some(inside))
        }
    };
    let sum = match displacement {
        "" => Sum::default(),
        text => sum(text, symbol)?,
    };
    let Some(inside) = inside else {
        return Ok(Operand::Memory {
            base: None,
            index: None,
            displacement: sum.total,
        });
    };
    let mut parts = inside.split(',').map(str::trim);
    let base = parts.next().unwrap_or_default();
    let (index, scale) = (parts.next().unwrap_or_default(), parts.next());
    if base == "%rip" {
        // Of a symbol, its address is meant: the distance is counted from the probe, whose address the
        // instruction pointer is then. A bare number is a distance from the next instruction: a nop is one byte.
        let total = if sum.symbolic {
            sum.total.wrapping_sub(probe.cast_signed())
        } else {
            sum.total.wrapping_add(1)
        };
        return Ok(Operand::Memory {
            base: Some(RIP),
            index: None,
            displacement: total,
        });
    }
    Ok(Operand::Memory {
        base: address_register(base)?,
        index: match address_register(index)? {
            Some(register) => Some((register, factor(scale)?)),
            None => None,
        },
        displacement: sum.total,
    })
}

fn factor(scale: Option<&str>) -> Result<u8, String> {
    match scale.unwrap_or("1") {
        "1" => Ok(1),
        "2" => Ok(2),
        "4" => Ok(4),
        "8" => Ok(8),
        other => Err(format!("\"{other}\" is no scale")),
    }
}

/// A register within an address; it has to be a whole one.
fn address_register(text: &str) -> Result<Option<u8>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let name = text.strip_prefix('%').unwrap_or(text);
    // rax, r8 and r15, not eax, r8d or r15b.
    let numbered = |rest: &str| rest.bytes().all(|b| b.is_ascii_digit());
    let whole = (name.strip_prefix('r'))
        .is_some_and(|rest| numbered(rest) || !rest.starts_with(|c: char| c.is_ascii_digit()));
    match register(name).filter(|_| whole) {
        Some((register, _)) => Ok(Some(register)),
        None => Err(format!("{text} cannot be part of an address here")),
    }
}

/// The DWARF number of a general register of any width, and the bits below the part that is meant.
fn register(name: &str) -> Option<(u8, u8)> {
    /// In the order of their DWARF numbers.
    const NAMES: [[&str; 4]; 8] = [
        ["rax", "eax", "ax", "al"],
        ["rdx", "edx", "dx", "dl"],
        ["rcx", "ecx", "cx", "cl"],
        ["rbx", "ebx", "bx", "bl"],
        ["rsi", "esi", "si", "sil"],
        ["rdi", "edi", "di", "dil"],
        ["rbp", "ebp", "bp", "bpl"],
        ["rsp", "esp", "sp", "spl"],
    ];
    const HIGH: [&str; 4] = ["ah", "dh", "ch", "bh"];
    let position = |found: Option<usize>| u8::try_from(found?).ok();
    if let Some(number) = position(NAMES.iter().position(|names| names.contains(&name))) {
        return Some((number, 0));
    }
    if let Some(number) = position(HIGH.iter().position(|high| *high == name)) {
        return Some((number, 8));
    }
    // r8 to r15, with a letter for the width (Intel's manuals write r8l for what AT&T calls r8b).
    let number = name.strip_prefix('r')?;
    let number = number.strip_suffix(['d', 'w', 'b', 'l']).unwrap_or(number);
    let number: u8 = number.parse().ok()?;
    (8..=15).contains(&number).then_some((number, 0))
}

/// A sum of numbers and symbols: `-8`, `counter+4`, `4+counter`, `table-16+8`.
#[derive(Default)]
struct Sum {
    total: i64,
    /// A symbol is in it.
    symbolic: bool,
}

fn sum(text: &str, symbol: &mut dyn FnMut(&str) -> Option<u64>) -> Result<Sum, String> {
    let mut sum = Sum::default();
    let mut rest = text;
    while !rest.is_empty() {
        let negative = rest.starts_with('-');
        let term = rest.strip_prefix(['-', '+']).unwrap_or(rest);
        let end = term.find(['-', '+']).unwrap_or(term.len());
        let (term, after) = term.split_at(end);
        let value = match number(term) {
            Some(value) => value,
            None if term.contains('@') => {
                // foo@GOTPCREL, foo@tpoff: not where the argument is, but where to ask for it.
                return Err(format!("\"{term}\" is known to the linker only"));
            }
            None if term.is_empty() || negative => {
                return Err(format!("\"{text}\" cannot be understood"));
            }
            None => {
                sum.symbolic = true;
                let found = symbol(term);
                let missing = || format!("the file does not name the symbol \"{term}\" (stripped)");
                found.ok_or_else(missing)?.cast_signed()
            }
        };
        let value = if negative {
            value.wrapping_neg()
        } else {
            value
        };
        sum.total = sum.total.wrapping_add(value);
        rest = after;
    }
    Ok(sum)
}

/// Decimal or hexadecimal; large ones are negative ones in two's complement.
fn number(text: &str) -> Option<i64> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
    .map(u64::cast_signed)
}
