//! The function, inlined copy and blocks that an instruction belongs to.

use gimli::{AttributeValue, EntriesTreeNode};

use super::die::{Die, View};
use super::naming::MAX_DEPTH;
use super::place::Scope;
use crate::demangle::without_parameters;
use crate::dwarf::{Reader, is_scope, ranges_of};
use crate::image::Function;

/// No function at hand has more than 60 parameters; a damaged one may seem to have millions.
const MAX_PARAMETERS: usize = 1024;

impl<'r, 'a> View<'r, 'a> {
    /// The function that has code at an address; where several do (folded into one by the linker), the one that
    /// FUNCTION names.
    pub(super) fn function_at(
        &self,
        units: &[usize],
        function: &Function,
        at: u64,
    ) -> Option<Die<'r, 'a>> {
        let mut found: Option<Die<'r, 'a>> = None;
        for unit in units {
            let Some(root) = self.root(*unit) else {
                continue;
            };
            let mut inside = Vec::new();
            self.functions_in(&root, at, &mut inside);
            for die in inside {
                let named = self
                    .inherited(&die, linkage_name)
                    .or_else(|| self.inherited(&die, Die::name));
                if named.is_some_and(|name| function.names.contains(&name)) {
                    return Some(die);
                }
                found.get_or_insert(die);
            }
        }
        found
    }

    fn functions_in(&self, root: &Die<'r, 'a>, at: u64, found: &mut Vec<Die<'r, 'a>>) {
        let Ok(mut tree) = root.unit.unit.entries_tree(None) else {
            return;
        };
        if let Ok(node) = tree.root() {
            functions_below(root, node, at, 0, found);
        }
    }

    /// Whether an entry has code at an address.
    fn covers(&self, die: &Die<'r, 'a>, at: u64) -> bool {
        covers(die, at)
    }

    /// The scope that was asked for: the function itself, or an inlined copy in it.
    pub(super) fn scope(
        &self,
        function: &Die<'r, 'a>,
        at: u64,
        scope: Scope<'_>,
    ) -> Option<Die<'r, 'a>> {
        match scope {
            Scope::Function => Some(function.clone()),
            Scope::Inlined(name) => self.inlined(function, at, name, 0),
        }
    }

    /// The innermost inlined copy of NAME at an address.
    fn inlined(&self, die: &Die<'r, 'a>, at: u64, name: &str, depth: usize) -> Option<Die<'r, 'a>> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut found = None;
        for child in self.children(die) {
            let copy = child.tag() == gimli::DW_TAG_inlined_subroutine;
            if (copy || is_block(child.tag())) && self.covers(&child, at) {
                let inner = self.inlined(&child, at, name, depth + 1);
                found = inner
                    .or_else(|| (copy && self.is_called(&child, name)).then_some(child))
                    .or(found);
            }
        }
        found
    }

    fn is_called(&self, die: &Die<'r, 'a>, name: &str) -> bool {
        let last = without_parameters(name)
            .rsplit("::")
            .next()
            .unwrap_or(name)
            .trim();
        self.inherited(die, linkage_name)
            .is_some_and(|own| own == name)
            || self
                .inherited(die, Die::name)
                .is_some_and(|own| own == name || own == last)
    }

    /// The parameters of a scope, and the variables of the blocks that an instruction is in, outermost first.
    pub(super) fn declared(
        &self,
        scope: &Die<'r, 'a>,
        at: u64,
    ) -> (Vec<Die<'r, 'a>>, Vec<Die<'r, 'a>>) {
        let (mut parameters, mut locals) = (Vec::new(), Vec::new());
        self.declared_in(scope, at, 0, &mut parameters, &mut locals);
        parameters.truncate(MAX_PARAMETERS);
        (self.complete(scope, parameters), locals)
    }

    fn declared_in(
        &self,
        die: &Die<'r, 'a>,
        at: u64,
        depth: usize,
        parameters: &mut Vec<Die<'r, 'a>>,
        locals: &mut Vec<Die<'r, 'a>>,
    ) {
        if depth > MAX_DEPTH {
            return;
        }
        for child in self.children(die) {
            match child.tag() {
                gimli::DW_TAG_formal_parameter => parameters.push(child),
                gimli::DW_TAG_GNU_formal_parameter_pack => {
                    self.declared_in(&child, at, depth + 1, parameters, locals)
                }
                gimli::DW_TAG_variable if !child.flag(gimli::DW_AT_declaration) => {
                    locals.push(child)
                }
                tag if is_block(tag) && self.covers(&child, at) => {
                    self.declared_in(&child, at, depth + 1, parameters, locals);
                }
                _ => {}
            }
        }
    }

    /// A copy lists only the parameters that are left of it: those of the function in the source, in its order.
    fn complete(&self, scope: &Die<'r, 'a>, own: Vec<Die<'r, 'a>>) -> Vec<Die<'r, 'a>> {
        let Some(origin) = self.follow(scope, gimli::DW_AT_abstract_origin) else {
            return own;
        };
        let mut all = Vec::new();
        self.declared_in(&origin, u64::MAX, 0, &mut all, &mut Vec::new());
        all.truncate(MAX_PARAMETERS);
        let from = |die: &Die<'r, 'a>| {
            self.follow(die, gimli::DW_AT_abstract_origin)
                .and_then(|origin| origin.id(0))
        };
        all.into_iter()
            .map(|source| {
                let number = source.id(0);
                own.iter()
                    .find(|die| number.is_some() && from(die) == number)
                    .cloned()
                    .unwrap_or(source)
            })
            .collect()
    }
}

fn functions_below<'r, 'a>(
    root: &Die<'r, 'a>,
    node: EntriesTreeNode<'_, '_, Reader<'a>>,
    at: u64,
    depth: usize,
    found: &mut Vec<Die<'r, 'a>>,
) {
    if depth > MAX_DEPTH {
        return;
    }
    let mut children = node.children();
    while let Ok(Some(child)) = children.next() {
        let entry = child.entry();
        let tag = entry.tag();
        if tag == gimli::DW_TAG_subprogram {
            let die = Die {
                unit: root.unit,
                home: root.home,
                entry: entry.clone(),
            };
            if covers(&die, at) {
                found.push(die);
            }
        }
        let holds_functions = is_scope(tag)
            || matches!(
                tag,
                gimli::DW_TAG_enumeration_type | gimli::DW_TAG_subprogram
            );
        if holds_functions && entry.has_children() {
            functions_below(root, child, at, depth + 1, found);
        }
    }
}

fn covers(die: &Die<'_, '_>, at: u64) -> bool {
    ranges_of(die.unit.unit_ref(), &die.entry)
        .iter()
        .any(|(low, high)| (*low..*high).contains(&at))
}

fn is_block(tag: gimli::DwTag) -> bool {
    matches!(
        tag,
        gimli::DW_TAG_lexical_block | gimli::DW_TAG_try_block | gimli::DW_TAG_catch_block
    )
}

/// The name that the linker knows.
pub(super) fn linkage_name(die: &Die<'_, '_>) -> Option<String> {
    die.text(gimli::DW_AT_linkage_name)
        .or_else(|| die.text(gimli::DW_AT_MIPS_linkage_name))
}

/// The first address of a function.
pub(super) fn start_of(die: &Die<'_, '_>) -> Option<u64> {
    match die.attr(gimli::DW_AT_low_pc)? {
        AttributeValue::Addr(address) => Some(address),
        AttributeValue::DebugAddrIndex(index) => die.unit.unit_ref().address(index).ok(),
        _ => None,
    }
}
