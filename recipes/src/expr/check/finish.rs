//! What an expression is where it stands alone or beside a text: pointers to characters become texts, arrays
//! pointers, and what no probe can carry is an error.

use super::super::parse::Node;
use super::super::{Expr, Fault, Kind, Type};
use super::debug::{listed, pointee, typed};
use super::place::{part, text_record, word};
use super::{Checked, Checker, Result, shown};
use crate::debug::{DebugInfo, Place, TypeShape};
use crate::model::MAX_TEXT_LIMIT;

impl Checker<'_> {
    /// The whole expression.
    pub(super) fn finish(&self, n: &Node, c: Checked) -> Result<Expr> {
        if c.is_deferred() {
            return Ok(c.e);
        }
        if let Some(text) = self.text_of(n, &c)? {
            return Ok(text);
        }
        let c = match c.place {
            Some(_) => self.decayed_whole(n, c)?,
            None => c,
        };
        Ok(c.e)
    }

    /// The text that a value of debug information is as it stands: a `char*`, an array of characters, a record
    /// that holds one.
    pub(super) fn text_of(&self, n: &Node, c: &Checked) -> Result<Option<Expr>> {
        let Some(info) = self.info.filter(|_| c.debug) else {
            return Ok(None);
        };
        let made = |kind, ty| Expr {
            kind,
            ty,
            span: n.span.clone(),
        };
        if let Kind::After(inner) = &c.e.kind {
            let inner = Checked {
                debug: true,
                ..Checked::plain((**inner).clone())
            };
            let text = self.text_of(n, &inner)?;
            return Ok(text.map(|text| {
                let ty = text.ty.clone();
                made(Kind::After(Box::new(text)), ty)
            }));
        }
        let (place, record) = match (&c.place, &c.e.ty) {
            (Some(place), Type::Named(record)) => (place.clone(), record.clone()),
            (None, Type::Ptr { to }) => match &**to {
                Type::Int {
                    bits: 8,
                    signed: true,
                } => {
                    let addr = Box::new(c.e.clone());
                    return Ok(Some(made(Kind::ReadStr { addr, len: None }, Type::Str)));
                }
                Type::Named(record) if matches!(info.shape(record.ty), TypeShape::Text(_)) => {
                    (Place::Memory(word(c.e.clone())), record.clone())
                }
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        match info.shape(record.ty) {
            TypeShape::Text(shape) => match text_record(&place, &shape) {
                Ok((addr, len)) => {
                    let addr = Box::new(typed(addr, Type::U64, &n.span));
                    let len = Box::new(typed(len, Type::U64, &n.span));
                    Ok(Some(match shape.binary {
                        true => made(Kind::ReadBuf { addr, len }, Type::Bytes),
                        false => made(
                            Kind::ReadStr {
                                addr,
                                len: Some(len),
                            },
                            Type::Str,
                        ),
                    }))
                }
                Err(why) => Err(Fault::new(
                    n.span.clone(),
                    format!("the text of {} {why}", shown(&self.quote(n))),
                )),
            },
            TypeShape::Array { of, count } => {
                let Place::Memory(addr) = place else {
                    return Ok(None);
                };
                let signed = match info.shape(of) {
                    TypeShape::Char { bytes: 1, signed } => signed,
                    _ => return Ok(None),
                };
                let addr = Box::new(typed(addr, Type::U64, &n.span));
                let size = count.map(|n| n.min(MAX_TEXT_LIMIT.into()) as u32);
                Ok(match (size, signed) {
                    (Some(0), _) | (None, false) => None,
                    (None, true) => Some(made(Kind::ReadStr { addr, len: None }, Type::Str)),
                    (Some(size), true) => Some(made(Kind::ReadChars { addr, size }, Type::Str)),
                    (Some(size), false) => {
                        let len = Box::new(Expr::literal(size.into()));
                        Some(made(Kind::ReadBuf { addr, len }, Type::Bytes))
                    }
                })
            }
            _ => Ok(None),
        }
    }

    /// As C has it: an array is the address of its first element.
    pub(super) fn decayed(&self, n: &Node, c: Checked) -> Result<Checked> {
        let (Some(place), Some(info), Type::Named(array)) = (&c.place, self.info, &c.e.ty) else {
            return Ok(c);
        };
        if let (TypeShape::Array { of, .. }, Place::Memory(addr)) = (info.shape(array.ty), place) {
            let ty = Type::Ptr {
                to: Box::new(pointee(info, Some(of), 0)),
            };
            return Ok(Checked {
                debug: true,
                ..Checked::plain(typed(addr.clone(), ty, &n.span))
            });
        }
        Err(self.no_value(n, info, &c))
    }

    /// An array of anything but characters is no value to capture.
    fn decayed_whole(&self, n: &Node, c: Checked) -> Result<Checked> {
        let quote = self.quote(n);
        if let (Some(info), Type::Named(array)) = (self.info, &c.e.ty)
            && let TypeShape::Array { .. } = info.shape(array.ty)
        {
            return Err(Fault::new(
                n.span.clone(),
                format!("`{quote}` is an array ({})", array.name),
            )
            .help(format!(
                "name an element, as in {quote}[0], or take its bytes: buf({quote}, n)"
            )));
        }
        self.decayed(n, c)
    }

    /// Why a value of debug information is no number.
    fn no_value(&self, n: &Node, info: &dyn DebugInfo, c: &Checked) -> Fault {
        let (quote, what) = (self.quote(n), c.e.ty.describe());
        let fault = |why: String| Fault::new(n.span.clone(), format!("`{quote}` is {why}"));
        let Type::Named(ty) = &c.e.ty else {
            return fault(what);
        };
        match info.shape(ty.ty) {
            TypeShape::Record => {
                let known = info.member(ty.ty, "").err().unwrap_or_default();
                let fault = fault(format!("a whole {}", ty.name));
                match known.is_empty() {
                    true => fault.help("the debug information has no members of it"),
                    false => fault.help(format!("name a member: {}", listed(&known))),
                }
            }
            TypeShape::Text(_) => fault(format!("a text ({})", ty.name)).help(
                "a text can be captured, be a key, or be compared by == and != with a text in quotes",
            ),
            TypeShape::Float { bytes } => fault(format!(
                "a fraction ({}), with which the kernel cannot compute",
                ty.name
            ))
            .help(format!("(u{}){quote} has its bits", 8 * u32::from(bytes))),
            TypeShape::Int { bytes, .. } => fault(format!("an integer of {bytes} bytes; 8 are the most")),
            TypeShape::Void => fault("nothing: it is void".to_owned()),
            TypeShape::Unsupported(why) => fault(why),
            _ => fault(what),
        }
    }

    /// The bits of a fraction, for a cast to an integer.
    pub(super) fn bits(&self, c: &Checked) -> Option<Expr> {
        let (Some(info), Some(place), Type::Named(ty)) = (self.info, &c.place, &c.e.ty) else {
            return None;
        };
        match info.shape(ty.ty) {
            TypeShape::Float {
                bytes: bytes @ (4 | 8),
            } => {
                let word = Type::Int {
                    bits: 8 * bytes,
                    signed: false,
                };
                Some(typed(part(place, 0, bytes).ok()?, word, &c.e.span))
            }
            _ => None,
        }
    }
}
