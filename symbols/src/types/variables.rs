//! The parameters and variables at an instruction, and where their values are.

use gimli::{AttributeValue, Expression};

use super::abi::{self, Convention};
use super::die::{Die, Language, VOID, View};
use super::location::{self, Here};
use super::passing::{convention, passed};
use super::place::{Address, Place, Scope, Variable, VariableKind};
use super::scope::{linkage_name, start_of};
use super::shapes::Linked;
use super::source::Types;
use crate::arch::{EffectsState, Flow, Instructions, effects};
use crate::dwarf::{Reader, ranges_of};
use crate::eh_frame;
use crate::error::{Error, Result};
use crate::image::{CODE_LIMIT, Function, Image};
use crate::site::ArgSet;

const OPTIMISED_OUT: &str = "optimised out here";
/// DW_CC_nocall (DWARF 5, 3.3.1.1): the compiler changed how the function is called.
const NO_CALL: u8 = 3;

impl Image {
    /// The variables of a function, or of a function inlined into it, at the address of an instruction in it:
    /// parameters in order, then the local variables in scope, those of inner blocks last.
    ///
    /// # Errors
    /// There is no debug information, or none for this function ([`Error::NoVariables`]); it cannot be read.
    pub fn variables(
        &self,
        function: &Function,
        at: u64,
        scope: Scope<'_>,
    ) -> Result<Vec<Variable>> {
        match self.types()? {
            Some(types) => types.variables(function, at, scope),
            None => Err(no_variables(
                self,
                function,
                "it has no debug information; its debug package would help",
            )),
        }
    }
}

fn no_variables(image: &Image, function: &Function, why: &str) -> Error {
    Error::NoVariables {
        path: image.path().to_owned(),
        function: function.name().to_owned(),
        why: why.to_owned(),
    }
}

/// What is known of the instruction and its function.
struct Site<'f, 'r, 'a> {
    linked: &'f Linked<'f, 'r, 'a>,
    function: Die<'r, 'a>,
    at: u64,
    /// Where the function starts.
    start: u64,
    cfa: Option<Address>,
    frame_base: Option<Expression<Reader<'a>>>,
    /// What was written to argument registers since the function was entered; `None` when execution may have come
    /// here another way than straight from the entry.
    written: Option<ArgSet>,
    /// Parameters are passed as the source says: no clone, no convention of the compiler's own.
    as_written: bool,
    /// The function has not set up its frame yet.
    in_prologue: bool,
}

impl Types<'_> {
    /// As [`Image::variables`].
    ///
    /// # Errors
    /// As [`Image::variables`].
    pub fn variables(
        &self,
        function: &Function,
        at: u64,
        scope: Scope<'_>,
    ) -> Result<Vec<Variable>> {
        self.with_site(function, at, |site| {
            let view = site.linked.view;
            let missing = "no such inlined copy is there";
            let found = view.scope(&site.function, at, scope).ok_or(missing)?;
            let (parameters, locals) = view.declared(&found, at);
            let parameters = parameters
                .into_iter()
                .filter(|die| !is_result(die))
                .collect::<Vec<_>>();
            let passed = match scope {
                Scope::Function => site.at_entry(&parameters),
                Scope::Inlined(_) => Vec::new(),
            };
            let mut variables = Vec::new();
            for (index, die) in parameters.iter().enumerate() {
                let entry = passed.get(index).cloned();
                variables.push(site.variable(die, VariableKind::Parameter { index }, entry));
            }
            variables.extend(
                locals
                    .iter()
                    .map(|die| site.variable(die, VariableKind::Local, None)),
            );
            Ok(variables)
        })
    }

    /// What a function returns, where it is just after the return; several for Go, none for `void`.
    ///
    /// # Errors
    /// As [`Image::variables`].
    pub fn returned(&self, function: &Function) -> Result<Vec<Variable>> {
        self.with_site(function, function.address, |site| {
            let view = site.linked.view;
            let results: Vec<(String, super::TypeId)> = if site.function.language() == Language::Go
            {
                let (parameters, _) = view.declared(&site.function, site.at);
                let results = parameters.iter().filter(|die| is_result(die));
                results
                    .map(|die| {
                        (
                            view.inherited(die, Die::name).unwrap_or_default(),
                            view.type_id_of(die),
                        )
                    })
                    .collect()
            } else {
                let ty = view.type_of(&site.function).and_then(|ty| ty.id(0));
                ty.map(|ty| (String::new(), ty)).into_iter().collect()
            };
            let shapes: Option<Vec<_>> = results
                .iter()
                .map(|(_, ty)| passed(site.linked, *ty))
                .collect();
            let places = match shapes {
                _ if !site.as_written => vec![
                    Place::Unavailable(
                        "returned by a copy of the function that the compiler changed".into()
                    );
                    results.len()
                ],
                Some(shapes) => abi::returned(site.convention(), &shapes),
                None => vec![Place::Unavailable("of a type of unknown size".into()); results.len()],
            };
            let variable = |((name, ty), place)| Variable {
                name,
                ty,
                place,
                kind: VariableKind::Return,
            };
            Ok(results.into_iter().zip(places).map(variable).collect())
        })
    }

    fn with_site<T>(
        &self,
        function: &Function,
        at: u64,
        ask: impl for<'f, 'r, 'a> FnOnce(&Site<'f, 'r, 'a>) -> Result<T, &'static str>,
    ) -> Result<T> {
        let units = self.units_at(at);
        let written = self.written_before(function, at);
        let cfa = self.cfa(function, at)?;
        let answer = self.linked(|linked| {
            let die = linked
                .view
                .function_at(&units, function, at)
                .ok_or("its debug information describes no function there")?;
            let start = start_of(&die).unwrap_or(function.address);
            let site = Site {
                at,
                start,
                cfa,
                frame_base: frame_base(linked.view, &die, at),
                written: written.filter(|_| start == function.address),
                as_written: is_as_written(function, &die),
                in_prologue: at == start || prologue_end(&die, start).is_some_and(|end| at < end),
                function: die,
                linked: &linked,
            };
            ask(&site)
        });
        answer.map_err(|why| no_variables(self.image, function, why))
    }

    /// The units of the main file that have code at an address.
    fn units_at(&self, at: u64) -> Vec<usize> {
        let known = self.ranges.get_or_init(|| {
            self.dwarf.with(|readers| {
                let mut known = Vec::new();
                for index in 0..readers.units().len() {
                    let Some(unit) = readers.units().here(index) else {
                        continue;
                    };
                    let unit = unit.unit_ref();
                    let mut entries = unit.entries();
                    if !matches!(entries.next_dfs(), Ok(Some(_))) {
                        continue;
                    }
                    if let Some(root) = entries.current() {
                        let ranges = ranges_of(unit, root).into_iter();
                        known.extend(ranges.map(|(low, high)| (low, high, index)));
                    }
                }
                known
            })
        });
        let mut units: Vec<usize> = known
            .iter()
            .filter(|(start, end, _)| (*start..*end).contains(&at))
            .map(|(.., unit)| *unit)
            .collect();
        units.dedup();
        units
    }

    /// The argument registers written between a function's entry and an instruction that follows it in a straight line.
    fn written_before(&self, function: &Function, at: u64) -> Option<ArgSet> {
        let until = usize::try_from(at.checked_sub(function.address)?).ok()?;
        if until == 0 {
            return Some(ArgSet::EMPTY);
        }
        let code = self.image.code(function, until.min(CODE_LIMIT)).ok()?;
        let mut state = EffectsState::new();
        let mut written = ArgSet::EMPTY;
        let mut reached = 0;
        for step in Instructions::new(&code, function.address) {
            if step.at >= until {
                break;
            }
            if !matches!(step.flow, Flow::Next) {
                return None;
            }
            written = written.union(effects(&step, &mut state).args_written);
            reached = step.at + step.len;
        }
        (reached == until).then_some(written)
    }

    /// The canonical frame address at an instruction.
    fn cfa(&self, function: &Function, at: u64) -> Result<Option<Address>> {
        if at == function.address {
            return Ok(Some(abi::cfa_at_entry()));
        }
        if self.frames.get().is_none() {
            // A damaged table costs the variables on the stack, not the others.
            let _ = self.frames.set(eh_frame::read(self.image).ok().flatten());
        }
        let frames = self.frames.get().and_then(Option::as_ref);
        let cfa = frames.and_then(|frames| frames.cfa_at(at));
        Ok(cfa.map(|(register, offset)| Address::Register(register).plus(offset)))
    }
}

/// GCC marks the clones that it calls differently; Clang says it of functions.
fn is_as_written(function: &Function, die: &Die<'_, '_>) -> bool {
    let changed = [".isra.", ".constprop.", ".part."];
    let clone = function
        .names
        .iter()
        .any(|name| changed.iter().any(|mark| name.contains(mark)));
    let no_call = matches!(die.attr(gimli::DW_AT_calling_convention), Some(AttributeValue::CallingConvention(how)) if how.0 == NO_CALL);
    !clone && !no_call
}

/// Go lists results among the parameters.
fn is_result(die: &Die<'_, '_>) -> bool {
    die.flag(gimli::DW_AT_variable_parameter)
}

fn frame_base<'r, 'a>(
    view: View<'r, 'a>,
    die: &Die<'r, 'a>,
    at: u64,
) -> Option<Expression<Reader<'a>>> {
    let value = die.attr(gimli::DW_AT_frame_base)?;
    value
        .exprloc_value()
        .or_else(|| listed(view, die, value, at))
}

/// The expression that a location list has for an address.
fn listed<'r, 'a>(
    view: View<'r, 'a>,
    die: &Die<'r, 'a>,
    value: AttributeValue<Reader<'a>>,
    at: u64,
) -> Option<Expression<Reader<'a>>> {
    let unit = die.unit;
    let dwarf = view.readers.with_locations(unit);
    let mut list = dwarf.attr_locations(unit.unit, value).ok()??;
    while let Ok(Some(each)) = list.next() {
        if (each.range.begin..each.range.end).contains(&at) {
            return Some(each.data);
        }
    }
    None
}

/// Where the body of a function starts, by the line table: at the mark, else at the second line.
fn prologue_end(die: &Die<'_, '_>, start: u64) -> Option<u64> {
    let program = die.unit.unit.line_program.clone()?;
    let mut rows = program.rows();
    let mut inside = false;
    while let Ok(Some((_, row))) = rows.next_row() {
        if row.end_sequence() {
            inside = false;
        } else if row.address() == start {
            inside = true;
        } else if inside && row.address() > start && (row.is_stmt() || row.prologue_end()) {
            return Some(row.address());
        }
    }
    None
}

impl<'r, 'a> Site<'_, 'r, 'a> {
    fn convention(&self) -> Convention {
        convention(
            &self.function,
            self.linked
                .view
                .inherited(&self.function, linkage_name)
                .as_deref(),
        )
    }

    /// Whether a register still has what it had when the function was entered.
    fn intact(&self, register: u16) -> bool {
        if self.at == self.start {
            return true;
        }
        let argument = abi::ARGUMENTS.iter().position(|each| *each == register);
        match (
            self.written,
            argument.and_then(|number| u8::try_from(number).ok()),
        ) {
            (Some(written), Some(number)) => !written.meets(ArgSet::EMPTY.with(number)),
            _ => false,
        }
    }

    /// Where the calling convention puts the parameters.
    fn at_entry(&self, parameters: &[Die<'r, 'a>]) -> Vec<Place> {
        let view = self.linked.view;
        let all: Option<Vec<_>> = parameters
            .iter()
            .map(|die| passed(self.linked, view.type_id_of(die)))
            .collect();
        let Some(all) = all else { return Vec::new() };
        let returns = view
            .type_of(&self.function)
            .and_then(|ty| passed(self.linked, ty.id(0)?));
        abi::parameters(self.convention(), &all, returns.as_ref(), self.cfa.as_ref())
    }

    fn variable(&self, die: &Die<'r, 'a>, kind: VariableKind, entry: Option<Place>) -> Variable {
        let view = self.linked.view;
        let ty = view.type_id_of(die);
        let place = match kind {
            _ if ty == VOID => Place::Unavailable("of an unknown type".into()),
            _ => self.place(die, entry.filter(|_| self.as_written)),
        };
        Variable {
            name: view.inherited(die, Die::name).unwrap_or_default(),
            ty,
            place,
            kind,
        }
    }

    /// Where a variable is; ENTRY is where the calling convention put it.
    fn place(&self, die: &Die<'r, 'a>, entry: Option<Place>) -> Place {
        let view = self.linked.view;
        let intact = |register| self.intact(register);
        let here = Here {
            die,
            frame_base: self.frame_base,
            cfa: self.cfa.as_ref(),
            intact: &intact,
        };
        let entry = entry.filter(|place| self.still_there(place));
        let otherwise = |why: &str| {
            entry
                .clone()
                .unwrap_or_else(|| Place::Unavailable(why.into()))
        };
        if let Some(value) = view.inherited(die, |die| die.attr(gimli::DW_AT_const_value)) {
            return constant(&value);
        }
        let Some(value) = die.attr(gimli::DW_AT_location) else {
            return otherwise(OPTIMISED_OUT);
        };
        let expression = match value.exprloc_value() {
            // It holds throughout, but in the prologue the value has yet to be stored there.
            Some(expression) if self.in_prologue && location::uses_frame(&expression, die) => {
                return otherwise("not yet where it will be: the function has just been entered");
            }
            Some(expression) => Some(expression),
            None => listed(view, die, value, self.at),
        };
        match expression.filter(|expression| !expression.0.is_empty()) {
            Some(expression) => match location::place(expression, &here) {
                Place::Unavailable(why) => otherwise(&why),
                place => place,
            },
            None => otherwise(OPTIMISED_OUT),
        }
    }

    /// Whether a parameter still is where the calling convention put it.
    fn still_there(&self, place: &Place) -> bool {
        match place {
            Place::Value(address) | Place::Memory(address) => self.address_intact(address),
            Place::Pieces(pieces) => pieces.iter().all(|(_, place)| self.still_there(place)),
            Place::Constant(_) => true,
            Place::Unavailable(_) => self.at == self.start || self.written.is_some(),
        }
    }

    fn address_intact(&self, address: &Address) -> bool {
        match address {
            Address::Register(register) => self.intact(*register),
            // The stack's arguments are found from the frame's base, which is that of the instruction asked about.
            Address::Add(base, _)
                if self.cfa.as_ref().is_some_and(|cfa| shares_base(cfa, base)) =>
            {
                self.written.is_some()
            }
            Address::Add(base, _) => self.address_intact(base),
            Address::Load { at, .. } => self.address_intact(at),
            Address::Binary { left, right, .. } => {
                self.address_intact(left) && self.address_intact(right)
            }
            Address::Constant(_) | Address::PcRelative(_) => true,
        }
    }
}

fn shares_base(cfa: &Address, base: &Address) -> bool {
    match cfa {
        Address::Add(of, _) => **of == *base,
        other => other == base,
    }
}

fn constant(value: &AttributeValue<Reader<'_>>) -> Place {
    if let Some(number) = value.udata_value() {
        return Place::Constant(number);
    }
    if let Some(number) = value.sdata_value() {
        return Place::Constant(number.cast_unsigned());
    }
    match value {
        AttributeValue::Block(bytes) if bytes.len() <= 8 => {
            let number = bytes
                .slice()
                .iter()
                .rev()
                .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
            Place::Constant(number)
        }
        AttributeValue::Addr(address) => Place::Value(Address::PcRelative(*address)),
        _ => Place::Unavailable("a constant of more than 8 bytes".into()),
    }
}
