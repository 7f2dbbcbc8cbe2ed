//! What debug information knows: variables, members, named types.

use std::ops::Range;
use std::sync::Arc;

use super::super::parse::{Node, Syntax, TypeName};
use super::super::{EnumType, Expr, Fault, Kind, NamedType, Type, fold};
use super::names::is_own_record;
use super::place::{bit_field, part, within, word};
use super::{Checked, Checker, Result};
use crate::debug::{DebugInfo, Place, TypeRef, TypeShape};
use crate::suggest;

/// Pointers to pointers that are followed by type; a damaged file may have one that points to itself.
const MAX_POINTERS: u32 = 4;
/// Names that one message lists.
const MOST_LISTED: usize = 24;

impl Checker<'_> {
    /// The value of type `ty` that is at `place`.
    pub(super) fn value(
        &self,
        span: &Range<usize>,
        info: &dyn DebugInfo,
        place: Place,
        ty: TypeRef,
    ) -> Result<Checked> {
        let unreadable = |why: String| {
            Fault::new(
                span.clone(),
                format!("`{}` {why}", self.text.get(span.clone()).unwrap_or("this")),
            )
        };
        let (mut place, mut ty) = (place, ty);
        for _ in 0..MAX_POINTERS {
            match info.shape(ty) {
                // Written as if it were what it refers to.
                TypeShape::Pointer {
                    to: Some(to),
                    reference: true,
                } => {
                    place = Place::Memory(part(&place, 0, 8).map_err(unreadable)?);
                    ty = to;
                }
                shape => {
                    let e = match scalar(info, ty, &shape, 0) {
                        Some(scalar) => {
                            let bytes = scalar.size().unwrap_or(8) as u8;
                            let e = part(&place, 0, bytes).map_err(unreadable)?;
                            let e = typed(e, scalar, span);
                            Checked::plain(match info.network_order(ty) {
                                true => e.swapped(),
                                false => e,
                            })
                        }
                        None => Checked {
                            place: Some(place),
                            ..Checked::plain(Expr {
                                kind: Kind::Int(0),
                                ty: named(info, ty),
                                span: span.clone(),
                            })
                        },
                    };
                    return Ok(Checked { debug: true, ..e });
                }
            }
        }
        Err(unreadable("is a reference to a reference".to_owned()))
    }

    /// `p->x`, `r.x`
    pub(super) fn member(
        &self,
        n: &Node,
        of: &Node,
        operator: &str,
        (name, name_span): (&str, &Range<usize>),
    ) -> Result<Checked> {
        if self.is_own_name(of) {
            return self.debug_name(name, name_span);
        }
        let c = match &of.kind {
            Syntax::Name(name) if !self.scope.constant && is_own_record(of, self.scope) => {
                self.debug_name(name, &of.span)?
            }
            _ => self.node(of)?,
        };
        if c.is_deferred() {
            return Ok(Checked::deferred(&n.span));
        }
        let Some((place, record)) = self.record(&c, operator == ".") else {
            if self.may_be_typed(of) {
                return Ok(Checked::deferred(&n.span));
            }
            return Err(self.no_record(n, of, operator, name, &c.e.ty));
        };
        let Some(info) = self.info else {
            return Ok(Checked::deferred(&n.span));
        };
        if !matches!(
            info.shape(record.ty),
            TypeShape::Record | TypeShape::Text(_)
        ) {
            return Err(self.no_record(n, of, operator, name, &c.e.ty));
        }
        self.member_in(&n.span, info, (&place, &record), (name, name_span))
    }

    /// `name` of the record that a pointer of debug information points to.
    pub(super) fn member_of(
        &self,
        span: &Range<usize>,
        info: &dyn DebugInfo,
        pointer: &Checked,
        name: &str,
    ) -> Result<Checked> {
        match self.record(pointer, false) {
            Some((place, record)) => self.member_in(span, info, (&place, &record), (name, span)),
            None => {
                let what = format!("`{name}` is sought in {}", pointer.e.ty.describe());
                Err(Fault::new(span.clone(), what))
            }
        }
    }

    /// `name` of a record that is at a place.
    fn member_in(
        &self,
        span: &Range<usize>,
        info: &dyn DebugInfo,
        (place, record): (&Place, &NamedType),
        (name, name_span): (&str, &Range<usize>),
    ) -> Result<Checked> {
        let member = info
            .member(record.ty, name)
            .map_err(|known| unknown_member(&record.name, name, name_span, &known))?;
        let unreadable =
            |why: String| Fault::new(span.clone(), format!("`{name}` of {} {why}", record.name));
        let Some(bits) = member.bits else {
            let place = within(place, member.offset).map_err(unreadable)?;
            return self.value(span, info, place, member.ty);
        };
        let unit = part(place, member.offset, bits.unit).map_err(unreadable)?;
        let Some(ty) = scalar(info, member.ty, &info.shape(member.ty), 0) else {
            return Err(unreadable("is a bit field of no integer".to_owned()));
        };
        let signed = ty.as_int().is_some_and(|(_, signed)| signed);
        let e = bit_field(unit, bits, signed).map_err(unreadable)?;
        Ok(Checked {
            debug: true,
            ..Checked::plain(typed(e, ty, span))
        })
    }

    /// `args` in `args.skb`: in the kernel, a way to write arguments and fields that are called like a word of the
    /// language, unless one of them is called that itself.
    fn is_own_name(&self, of: &Node) -> bool {
        let named = matches!(&of.kind, Syntax::Name(name) if name == "args");
        let captured = || self.scope.captures.iter().any(|(n, _)| n == "args");
        named
            && self.scope.provider.is_kernel()
            && !captured()
            && self
                .info
                .is_some_and(|info| info.variable("args") == Ok(None))
    }

    /// The record that a member is taken of, and where it is. A dot serves for pointers, too, as in Go and Rust.
    fn record(&self, c: &Checked, dot: bool) -> Option<(Place, Arc<NamedType>)> {
        match (&c.place, &c.e.ty) {
            (Some(place), Type::Named(record)) if dot => Some((place.clone(), record.clone())),
            (None, Type::Ptr { to }) => match &**to {
                Type::Named(record) => Some((Place::Memory(word(c.e.clone())), record.clone())),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether debug information will say what this points to: `retval` has a type of its own then.
    pub(super) fn may_be_typed(&self, n: &Node) -> bool {
        self.info.is_none() && matches!(&n.kind, Syntax::Name(name) if name == "retval")
    }

    fn no_record(&self, n: &Node, of: &Node, operator: &str, name: &str, ty: &Type) -> Fault {
        let quote = self.quote(of);
        if let (Type::Named(_), "->") = (ty, operator) {
            let what = format!("`->` on {}, which is no pointer", ty.describe());
            return Fault::new(n.span.clone(), what).help(format!("{quote}.{name}"));
        }
        let fault = Fault::new(
            n.span.clone(),
            format!(
                "`{operator}` needs a record with members, and `{quote}` is {}",
                ty.describe()
            ),
        );
        match ty {
            Type::Ptr { to } if matches!(**to, Type::Ptr { .. }) => {
                fault.help(format!("follow it first: (*{quote})->{name}"))
            }
            Type::Int { .. } | Type::Ptr { .. } => fault.help(format!(
                "say what it points to: ((struct NAME *){quote})->{name}"
            )),
            _ => fault,
        }
    }

    /// `&x`
    pub(super) fn address_of(&self, n: &Node, e: &Node) -> Result<Checked> {
        let c = self.node(e)?;
        if c.is_deferred() {
            return Ok(Checked::deferred(&n.span));
        }
        let kind = match c.e.kind {
            Kind::Swap(inner) => inner.kind,
            kind => kind,
        };
        let (address, to) = match (c.place, kind) {
            (Some(Place::Memory(address)), _) => (address, c.e.ty),
            (None, Kind::Load(address)) => (*address, c.e.ty),
            _ => {
                return Err(Fault::new(
                    n.span.clone(),
                    format!("`{}` has no address", self.quote(e)),
                )
                .help("`&` between two values is bitwise and"));
            }
        };
        let ty = Type::Ptr { to: Box::new(to) };
        Ok(Checked::plain(typed(address, ty, &n.span)))
    }

    /// A type that only debug information knows; `None`: there is no debug information yet.
    pub(super) fn named_type(
        &self,
        to: &TypeName,
        name: &str,
        of_kernel: bool,
    ) -> Result<Option<Type>> {
        let Some(info) = self.info else {
            return Ok(None);
        };
        let spellings = [
            name.to_owned(),
            format!("struct {name}"),
            format!("class {name}"),
            format!("union {name}"),
            format!("enum {name}"),
        ];
        let named = |s: &String| match of_kernel {
            true => info.kernel_type(s).ok().flatten(),
            false => info.named(s),
        };
        let Some(ty) = spellings.iter().find_map(named) else {
            let who = match of_kernel || self.scope.provider.is_kernel() {
                true => "this kernel",
                false => "the debug information",
            };
            let fault = Fault::new(to.span.clone(), format!("{who} has no type `{name}`"));
            return Err(match info.remark() {
                remark if remark.is_empty() => fault,
                remark => fault.help(remark),
            });
        };
        if to.stars == 0 {
            return match scalar(info, ty, &info.shape(ty), 0) {
                Some(scalar) => Ok(Some(scalar)),
                None => Err(Fault::new(
                    to.span.clone(),
                    format!("`{name}` is no integer: a cast to it needs a star"),
                )
                .help(format!("({name} *) is a pointer to it"))),
            };
        }
        let mut ty = pointee(info, Some(ty), 0);
        for _ in 0..to.stars {
            ty = Type::Ptr { to: Box::new(ty) };
        }
        Ok(Some(ty))
    }

    /// A name that is one of the values of the enumeration that it is compared with.
    pub(super) fn enumerator(&self, n: &Node, name: &str, ty: &Type) -> Option<Checked> {
        let Type::Enum(e) = ty else { return None };
        let last = name.rsplit("::").next().unwrap_or(name);
        let (value, _) = e.values.iter().find(|(_, n)| n == name || n == last)?;
        Some(Checked {
            debug: true,
            ..Checked::plain(Expr {
                kind: Kind::Int(*value),
                ty: ty.clone(),
                span: n.span.clone(),
            })
        })
    }
}

/// As many names as a message bears.
pub(super) fn listed(names: &[String]) -> String {
    let mut text = names
        .iter()
        .take(MOST_LISTED)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > MOST_LISTED {
        text.push_str(&format!(", ... ({} in all)", names.len()));
    }
    text
}

fn unknown_member(record: &str, name: &str, span: &Range<usize>, known: &[String]) -> Fault {
    let fault = Fault::new(span.clone(), format!("{record} has no member `{name}`"));
    if known.is_empty() {
        return fault.help("the debug information has no members of it");
    }
    match suggest::nearest(name, known.iter().map(String::as_str)) {
        Some(near) => fault.help(format!("did you mean `{near}`? It has: {}", listed(known))),
        None => fault.help(format!("it has: {}", listed(known))),
    }
}

/// An address or a word with a type of its own.
pub(super) fn typed(e: Expr, ty: Type, span: &Range<usize>) -> Expr {
    let kind = match e.kind {
        Kind::Load(address) if e.ty.size() == ty.size() => Kind::Load(address),
        Kind::Int(v) => Kind::Int(fold::extend(v, &ty)),
        kind if e.ty == ty => kind,
        kind => Kind::Cast(Box::new(Expr { kind, ..e })),
    };
    let mut e = Expr {
        kind,
        ty,
        span: span.clone(),
    };
    spread(&mut e, span);
    e
}

/// Parts that debug information made stand where what asked for them does.
fn spread(e: &mut Expr, span: &Range<usize>) {
    if e.span == (0..0) {
        e.span = span.clone();
    }
    for child in e.children_mut() {
        if child.span == (0..0) {
            spread(child, span);
        }
    }
}

fn named(info: &dyn DebugInfo, ty: TypeRef) -> Type {
    Type::Named(Arc::new(NamedType {
        name: info.name(ty),
        ty,
        size: info.size(ty),
    }))
}

/// What fits a register: integers, enumerations, pointers.
fn scalar(info: &dyn DebugInfo, ty: TypeRef, shape: &TypeShape, depth: u32) -> Option<Type> {
    let int = |bytes: u8, signed| match bytes {
        1 | 2 | 4 | 8 => Some(Type::Int {
            bits: 8 * bytes,
            signed,
        }),
        _ => None,
    };
    match shape {
        TypeShape::Int { bytes, signed } | TypeShape::Char { bytes, signed } => {
            int(*bytes, *signed)
        }
        TypeShape::Bool { bytes } => int(*bytes, false),
        TypeShape::Enum {
            bytes,
            signed,
            values,
        } => {
            let int = int(*bytes, *signed)?;
            let value = |v: &i128| fold::extend(*v as u64, &int);
            Some(Type::Enum(Arc::new(EnumType {
                name: info.name(ty),
                bits: 8 * bytes,
                signed: *signed,
                values: values.iter().map(|(n, v)| (value(v), n.clone())).collect(),
            })))
        }
        TypeShape::Pointer { to, .. } => Some(Type::Ptr {
            to: Box::new(pointee(info, *to, depth + 1)),
        }),
        _ => None,
    }
}

/// What a pointer points to.
pub(super) fn pointee(info: &dyn DebugInfo, to: Option<TypeRef>, depth: u32) -> Type {
    let Some(ty) = to.filter(|_| depth < MAX_POINTERS) else {
        return Type::Void;
    };
    match info.shape(ty) {
        TypeShape::Void | TypeShape::Function => Type::Void,
        // Whoever reads it must turn it round.
        _ if info.network_order(ty) => named(info, ty),
        shape => scalar(info, ty, &shape, depth).unwrap_or_else(|| named(info, ty)),
    }
}
