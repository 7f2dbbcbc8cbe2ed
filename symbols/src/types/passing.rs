//! What calling conventions want to know of a type, from its debug information.

use super::abi::{Convention, Kind, Leaf, Passed};
use super::die::{Die, Language};
use super::model::{Shape, TypeId};
use super::naming::flatten;
use super::shapes::{Linked, is_record};
use super::source::size;

/// No convention passes a value of more scalars than this in registers (Go has 9 general ones and 15 for floats).
const MAX_LEAVES: usize = 24;
/// How many types one value may be made of before it counts as passed in memory: a damaged type can contain itself.
const MAX_STEPS: usize = 256;
/// Nothing larger is passed by value: it would not fit on a stack.
const MAX_SIZE: u64 = 1 << 32;
/// DW_CC_pass_by_reference (DWARF 5, 3.3.1.1): on a class, by DW_AT_calling_convention.
const PASS_BY_REFERENCE: u8 = 4;

/// The convention that a function follows.
pub(super) fn convention(function: &Die<'_, '_>, linkage_name: Option<&str>) -> Convention {
    match function.language() {
        // What other languages can call has a plain name.
        Language::Rust
            if linkage_name
                .is_some_and(|name| name.starts_with("_ZN") || name.starts_with("_R")) =>
        {
            Convention::Rust
        }
        Language::Go => {
            let producer = producer(function).unwrap_or_default();
            // The compiler says so itself: "Go cmd/compile go1.19.8; regabi".
            if producer.contains("regabi") {
                Convention::Go
            } else {
                Convention::GoStack
            }
        }
        _ => Convention::C,
    }
}

fn producer(die: &Die<'_, '_>) -> Option<String> {
    let unit = die.unit.unit_ref();
    let mut entries = unit.entries();
    let root = entries.next_dfs().ok()??;
    let value = root.attr_value(gimli::DW_AT_producer)?;
    Some(unit.attr_string(value).ok()?.to_string_lossy().into_owned())
}

/// A type as a calling convention sees it; `None` where its size is unknown.
pub(super) fn passed(linked: &Linked<'_, '_, '_>, ty: TypeId) -> Option<Passed> {
    let size = size(linked, ty).filter(|size| *size <= MAX_SIZE)?;
    let shape = linked.view.shape(ty, linked.find);
    let mut leaves = Vec::new();
    let mut complete = add_leaves(linked, ty, 0, &mut leaves, &mut { MAX_STEPS }).is_some();
    leaves.sort_by_key(|leaf| (leaf.offset, leaf.bytes));
    leaves.dedup();
    let overlaps = leaves.windows(2).any(|pair| match pair {
        [a, b] => a.offset.saturating_add(a.bytes) > b.offset,
        _ => false,
    });
    complete &= leaves
        .iter()
        .all(|leaf| leaf.offset.saturating_add(leaf.bytes) <= size);
    if !complete {
        leaves.clear();
    }
    let definition = linked.view.defined(ty, linked.find).ok().flatten();
    let align = definition
        .as_ref()
        .and_then(|die| die.number(gimli::DW_AT_alignment));
    let natural = leaves
        .iter()
        .map(|leaf| leaf.bytes.max(1))
        .max()
        .unwrap_or(1)
        .min(16);
    Some(Passed {
        size,
        align: align.unwrap_or(0).max(natural).min(64),
        aggregate: matches!(
            shape,
            Shape::Record { .. } | Shape::Text(_) | Shape::Array { .. }
        ),
        by_reference: definition.is_some_and(|die| by_reference(linked, &die)),
        leaves,
        overlaps,
    })
}

/// Adds the scalars of a type that lies at an offset; `None` when there are too many, or some that nobody described.
fn add_leaves(
    linked: &Linked<'_, '_, '_>,
    ty: TypeId,
    at: u64,
    leaves: &mut Vec<Leaf>,
    left: &mut usize,
) -> Option<()> {
    *left = left.checked_sub(1)?;
    let mut add = |bytes: u64, kind| {
        leaves.push(Leaf {
            offset: at,
            bytes,
            kind,
        });
        (leaves.len() <= MAX_LEAVES * 2).then_some(())
    };
    match linked.view.shape(ty, linked.find) {
        // __int128 is two words in two registers.
        Shape::Int { bytes: 16, .. } => {
            add(8, Kind::Integer)?;
            leaves.push(Leaf {
                offset: at.checked_add(8)?,
                bytes: 8,
                kind: Kind::Integer,
            });
            Some(())
        }
        Shape::Int { bytes, .. }
        | Shape::Bool { bytes }
        | Shape::Char { bytes, .. }
        | Shape::Enum { bytes, .. }
        | Shape::Pointer { bytes, .. } => add(bytes.into(), Kind::Integer),
        Shape::Float {
            bytes: bytes @ (2 | 4 | 8),
        } => add(bytes.into(), Kind::Float),
        Shape::Float { bytes } => add(bytes.into(), Kind::Other),
        Shape::Array { of, count } => {
            let each = size(linked, of)?;
            let count = count.filter(|count| *count <= MAX_LEAVES as u64)?;
            (0..count).try_for_each(|index| {
                add_leaves(
                    linked,
                    of,
                    at.checked_add(index.checked_mul(each)?)?,
                    leaves,
                    left,
                )
            })
        }
        Shape::Record { size: Some(_), .. } | Shape::Text(_) => {
            flatten(linked, ty).into_iter().try_for_each(|member| {
                let at = at.checked_add(member.offset)?;
                match member.bits {
                    None => add_leaves(linked, member.ty, at, leaves, left),
                    Some(bits) => {
                        leaves.push(Leaf {
                            offset: at,
                            bytes: bits.unit.into(),
                            kind: Kind::Integer,
                        });
                        (leaves.len() <= MAX_LEAVES * 2).then_some(())
                    }
                }
            })
        }
        Shape::Record { size: None, .. }
        | Shape::Void
        | Shape::Function
        | Shape::Unsupported(_) => None,
    }
}

/// Whether C++ passes the address of a copy. Compilers say so since DWARF 5; before, a destructor or a virtual table
/// tells.
fn by_reference(linked: &Linked<'_, '_, '_>, die: &Die<'_, '_>) -> bool {
    if !is_record(die.tag()) || die.language() != Language::Cpp {
        return false;
    }
    if let Some(gimli::AttributeValue::CallingConvention(how)) =
        die.attr(gimli::DW_AT_calling_convention)
    {
        return how.0 == PASS_BY_REFERENCE;
    }
    let Some(die) = die.id(0).and_then(|ty| linked.view.die(ty)) else {
        return false;
    };
    linked.view.children(&die).iter().any(|child| {
        let method = child.tag() == gimli::DW_TAG_subprogram;
        let own = child.attr(gimli::DW_AT_defaulted).is_none();
        let destructor = method && own && child.name().is_some_and(|name| name.starts_with('~'));
        destructor || (method && child.attr(gimli::DW_AT_virtuality).is_some())
    })
}
