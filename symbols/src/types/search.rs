//! Types by name, and the full names of types.

use std::collections::HashMap;

use gimli::{AttributeValue, DwTag, EntriesTreeNode};

use super::die::{Die, Home, Language, View};
use super::model::TypeId;
use super::naming::MAX_DEPTH;
use super::shapes::is_record;
use crate::dwarf::{Reader, UnitAt};

/// A name to look for: `struct client`, `ns::Foo`, `unsigned long`.
pub(super) struct Wanted {
    tag: Option<String>,
    /// The parts between `::`, outermost first; never empty.
    path: Vec<String>,
    /// The words of a C integer type, in order, without the `int` that may be left out.
    integer: Option<Vec<String>>,
}

/// How well a type fits: the least is best. (not defined here, not the whole path, not the likely kind)
type Fit = (bool, bool, u8);

const PERFECT: Fit = (false, false, 0);

impl Wanted {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let name = name.trim();
        let (tag, rest) = match name.split_once(' ') {
            Some((tag @ ("struct" | "class" | "union" | "enum"), rest)) => {
                (Some(tag.to_owned()), rest.trim())
            }
            _ => (None, name),
        };
        let path = split_path(rest);
        (!path.iter().any(String::is_empty)).then(|| Self {
            integer: tag.is_none().then(|| integer(rest)).flatten(),
            tag,
            path,
        })
    }

    fn last(&self) -> &str {
        self.path.last().map_or("", String::as_str)
    }

    /// How well an entry of this tag and name, within PARENTS, fits; `None`: not at all.
    fn fit(&self, tag: DwTag, name: &[u8], parents: &[Vec<u8>], declared: bool) -> Option<Fit> {
        if tag == gimli::DW_TAG_base_type
            && let Some(words) = &self.integer
        {
            let own = integer(std::str::from_utf8(name).ok()?)?;
            return (own == *words).then_some(PERFECT);
        }
        if name != self.last().as_bytes() {
            return None;
        }
        let kind = match (self.tag.as_deref(), tag) {
            (None, gimli::DW_TAG_typedef | gimli::DW_TAG_base_type) => 0,
            (
                None | Some("struct" | "class"),
                gimli::DW_TAG_structure_type
                | gimli::DW_TAG_class_type
                | gimli::DW_TAG_interface_type,
            ) => 0,
            (None | Some("union"), gimli::DW_TAG_union_type) => 1,
            // Rust's enums with data are described as structures.
            (Some("enum"), gimli::DW_TAG_structure_type) => 2,
            (None | Some("enum"), gimli::DW_TAG_enumeration_type) => 1,
            _ => return None,
        };
        let outer = self.path.get(..self.path.len() - 1)?;
        let inside = parents.len() >= outer.len()
            && outer
                .iter()
                .rev()
                .zip(parents.iter().rev())
                .all(|(wanted, own)| wanted.as_bytes() == own);
        // A typedef in C wins over a struct of the same name: the struct has its tag to be called by.
        let untagged = u8::from(self.tag.is_none() && is_record(tag));
        inside.then_some((declared, parents.len() != outer.len(), kind + untagged))
    }
}

/// `a::b<c::d>::e` at the outer `::` only.
fn split_path(name: &str) -> Vec<String> {
    let (mut parts, mut depth, mut part) = (Vec::new(), 0_u32, String::new());
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '<' | '(' | '{' => depth += 1,
            '>' | ')' | '}' => depth = depth.saturating_sub(1),
            ':' if depth == 0 && rest.peek() == Some(&':') => {
                rest.next();
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    parts.push(part);
    parts
}

/// The words of `unsigned long int`, `long unsigned`, ... in one order; `None` for other names.
fn integer(name: &str) -> Option<Vec<String>> {
    let mut words: Vec<&str> = name.split_whitespace().collect();
    let known = |word: &&str| {
        matches!(
            *word,
            "unsigned" | "signed" | "long" | "short" | "int" | "char"
        )
    };
    if words.is_empty() || !words.iter().all(known) {
        return None;
    }
    // "int" says nothing beside others, nor does "signed" except for char.
    let char = words.contains(&"char");
    words.retain(|word| !matches!(*word, "int") && (char || *word != "signed"));
    words.sort_unstable();
    Some(words.into_iter().map(str::to_owned).collect())
}

/// The best type found so far.
struct Search<'w> {
    wanted: &'w Wanted,
    best: Option<(Fit, UnitNumber, usize)>,
}

/// Which unit: of the main file, or of the supplementary one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum UnitNumber {
    Main(usize),
    Supplement(usize),
}

impl<'r, 'a> View<'r, 'a> {
    /// The first perfect fit, else the best.
    pub(super) fn search(&self, wanted: &Wanted) -> Option<TypeId> {
        let mut search = Search { wanted, best: None };
        let main = (0..self.readers.units().len()).map(UnitNumber::Main);
        let supplement = (0..self.readers.sup_units().map_or(0, |units| units.len()))
            .map(UnitNumber::Supplement);
        for number in main.chain(supplement) {
            if let Some(root) = self.unit_root(number) {
                search.unit(number, root.unit);
            }
            if search.best.is_some_and(|(fit, ..)| fit == PERFECT) {
                break;
            }
        }
        let (_, number, offset) = search.best?;
        let root = self.unit_root(number)?;
        let entry = root.unit.unit.entry(gimli::UnitOffset(offset)).ok()?;
        Die { entry, ..root }.id(0)
    }

    pub(super) fn unit_root(&self, number: UnitNumber) -> Option<Die<'r, 'a>> {
        match number {
            UnitNumber::Main(index) => self.root(index),
            UnitNumber::Supplement(index) => self.supplement_root(index),
        }
    }
}

/// What types can be in: their names are parts of the path.
fn is_scope(tag: DwTag) -> bool {
    is_record(tag) || matches!(tag, gimli::DW_TAG_namespace | gimli::DW_TAG_module)
}

fn is_type(tag: DwTag) -> bool {
    is_record(tag)
        || matches!(
            tag,
            gimli::DW_TAG_typedef | gimli::DW_TAG_base_type | gimli::DW_TAG_enumeration_type
        )
}

impl Search<'_> {
    fn unit(&mut self, number: UnitNumber, unit: UnitAt<'_, '_>) {
        let wanted = self.wanted;
        let mut visit = |tag, declared, name: &[u8], parents: &[Vec<u8>], offset| {
            if let Some(fit) = wanted.fit(tag, name, parents, declared)
                && self.best.is_none_or(|(best, ..)| fit < best)
            {
                self.best = Some((fit, number, offset));
            }
        };
        each_type(unit, &mut visit);
    }
}

/// What is told of each type: tag, whether it is only declared, name, the names around it, offset in its unit.
type Visit<'v> = &'v mut dyn FnMut(DwTag, bool, &[u8], &[Vec<u8>], usize);

/// Goes through the types of a unit outside of functions.
fn each_type(unit: UnitAt<'_, '_>, visit: Visit<'_>) {
    let Ok(mut tree) = unit.unit.entries_tree(None) else {
        return;
    };
    if let Ok(root) = tree.root() {
        each_below(unit, root, &mut Vec::new(), visit);
    }
}

fn each_below<'a>(
    unit: UnitAt<'_, 'a>,
    node: EntriesTreeNode<'_, '_, Reader<'a>>,
    parents: &mut Vec<Vec<u8>>,
    visit: Visit<'_>,
) {
    if parents.len() > MAX_DEPTH {
        return;
    }
    let mut children = node.children();
    while let Ok(Some(child)) = children.next() {
        let entry = child.entry();
        let tag = entry.tag();
        if !is_type(tag) && !is_scope(tag) {
            continue;
        }
        let name = entry
            .attr_value(gimli::DW_AT_name)
            .and_then(|value| unit.unit_ref().attr_string(value).ok());
        let name = name.as_ref().map_or(&b""[..], |name| name.slice());
        if is_type(tag) && !name.is_empty() {
            let declared = matches!(
                entry.attr_value(gimli::DW_AT_declaration),
                Some(AttributeValue::Flag(true))
            );
            visit(tag, declared, name, parents, entry.offset().0);
        }
        if is_scope(tag) && entry.has_children() {
            // What an anonymous namespace or union has belongs to those around it.
            let named = !name.is_empty();
            if named {
                parents.push(name.to_vec());
            }
            each_below(unit, child, parents, visit);
            if named {
                parents.pop();
            }
        }
    }
}

/// The names around the types of one unit, by offset: `ns::Outer` for those in it; none for those at the top.
pub(super) fn surroundings(unit: UnitAt<'_, '_>) -> HashMap<usize, String> {
    let mut names = HashMap::new();
    let mut visit = |_, _, _: &[u8], parents: &[Vec<u8>], offset| {
        if !parents.is_empty() {
            let parents: Vec<_> = parents
                .iter()
                .map(|name| String::from_utf8_lossy(name))
                .collect();
            names.insert(offset, parents.join("::"));
        }
    };
    each_type(unit, &mut visit);
    names
}

/// The number of the unit that an entry is in.
pub(super) fn unit_number(die: &Die<'_, '_>) -> UnitNumber {
    match die.home {
        Home::Main => UnitNumber::Main(die.unit.index),
        Home::Split(index) => UnitNumber::Main(index),
        Home::Supplement => UnitNumber::Supplement(die.unit.index),
    }
}

/// A type's own name, with its tag where its language wants one.
pub(super) fn own_name(die: &Die<'_, '_>) -> String {
    let tag = match die.tag() {
        gimli::DW_TAG_union_type => "union",
        gimli::DW_TAG_enumeration_type => "enum",
        tag if is_record(tag) => "struct",
        _ => "",
    };
    match die.name() {
        Some(name)
            if tag.is_empty() || !matches!(die.language(), Language::C | Language::Other) =>
        {
            name
        }
        Some(name) => format!("{tag} {name}"),
        None if tag.is_empty() => "?".to_owned(),
        None => format!("{tag} {{...}}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let path = |name| Wanted::parse(name).map(|w| (w.tag, w.path.join("|")));
        let parts = |tag: Option<&str>, path: &str| Some((tag.map(str::to_owned), path.to_owned()));
        assert_eq!(path("struct client"), parts(Some("struct"), "client"));
        assert_eq!(path("a::b<c::d>::e"), parts(None, "a|b<c::d>|e"));
        assert_eq!(path("struct"), parts(None, "struct"));
        assert_eq!(path(""), None);
        assert_eq!(path("a::"), None);
    }

    #[test]
    fn integers_have_many_names() {
        let same = |a, b| assert_eq!(integer(a), integer(b), "{a} and {b}");
        same("unsigned long", "long unsigned int");
        same("long", "signed long int");
        same("unsigned", "unsigned int");
        assert_ne!(integer("char"), integer("signed char"));
        assert_ne!(integer("long"), integer("long long"));
        assert_eq!(integer("client"), None);
    }
}
