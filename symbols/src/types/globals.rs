//! Variables of the file: those that are in no function.

use super::die::{Die, View};
use super::location::{self, Here};
use super::place::{Variable, VariableKind};
use super::scope::linkage_name;
use super::source::Types;
use crate::error::Result;

impl Types<'_> {
    /// A variable of the file by its name (as its declaration or the linker has it): global, static, or in a namespace.
    ///
    /// # Errors
    /// The debug information cannot be read.
    pub fn global(&self, name: &str) -> Result<Option<Variable>> {
        Ok(self.linked(|linked| {
            let units = linked.view.readers.units().len();
            (0..units)
                .filter_map(|unit| linked.view.root(unit))
                .find_map(|root| global_in(linked.view, &root, name))
        }))
    }
}

fn global_in<'r, 'a>(view: View<'r, 'a>, root: &Die<'r, 'a>, name: &str) -> Option<Variable> {
    let last = name.rsplit("::").next().unwrap_or(name);
    let mut scopes = vec![root.clone()];
    while let Some(scope) = scopes.pop() {
        for child in view.children(&scope) {
            match child.tag() {
                gimli::DW_TAG_namespace | gimli::DW_TAG_module => scopes.push(child),
                gimli::DW_TAG_variable if child.attr(gimli::DW_AT_location).is_some() => {
                    let linked_as = view
                        .inherited(&child, linkage_name)
                        .is_some_and(|own| own == name);
                    if linked_as
                        || view
                            .inherited(&child, Die::name)
                            .is_some_and(|own| own == name || own == last)
                    {
                        let here = Here {
                            die: &child,
                            frame_base: None,
                            cfa: None,
                            intact: &|_| false,
                        };
                        let location = child.attr(gimli::DW_AT_location)?.exprloc_value()?;
                        return Some(Variable {
                            name: view.inherited(&child, Die::name).unwrap_or_default(),
                            ty: view.type_id_of(&child),
                            place: location::place(location, &here),
                            kind: VariableKind::Global,
                        });
                    }
                }
                _ => {}
            }
        }
    }
    None
}
