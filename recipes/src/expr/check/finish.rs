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
        if let Kind::After(inner) = &c.e.kind {
            let inner = Checked {
                debug: true,
                ..Checked::plain((**inner).clone())
            };
            let text = self.text_of(n, &inner)?;
            return Ok(text.map(|text| Expr {
                ty: text.ty.clone(),
                kind: Kind::After(Box::new(text)),
                span: n.span.clone(),
            }));
        }
        let (place, record) = match (&c.place, &c.e.ty) {
            (Some(place), Type::Named(record)) => (place.clone(), record),
            (None, Type::Ptr { to }) => match &**to {
                Type::Int {
                    bits: 8,
                    signed: true,
                } => return Ok(Some(up_to_nul(c.e.clone(), n))),
                Type::Named(record) if matches!(info.shape(record.ty), TypeShape::Text(_)) => {
                    (Place::Memory(word(c.e.clone())), record)
                }
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        match info.shape(record.ty) {
            TypeShape::Text(shape) => {
                let unreadable = |why| {
                    let what = shown(&self.quote(n));
                    Fault::new(n.span.clone(), format!("the text of {what} {why}"))
                };
                let (addr, len) = text_record(&place, &shape).map_err(unreadable)?;
                Ok(Some(sized(addr, len, shape.binary, n)))
            }
            TypeShape::Array { of, count } => match (place, info.shape(of)) {
                (Place::Memory(addr), TypeShape::Char { bytes: 1, signed }) => {
                    Ok(characters(addr, count, signed, n))
                }
                _ => Ok(None),
            },
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

/// The text at an address, up to its NUL.
fn up_to_nul(addr: Expr, n: &Node) -> Expr {
    Expr {
        kind: Kind::ReadStr {
            addr: Box::new(addr),
            len: None,
        },
        ty: Type::Str,
        span: n.span.clone(),
    }
}

/// A text or bytes of a length that the program keeps.
fn sized(addr: Expr, len: Expr, binary: bool, n: &Node) -> Expr {
    let addr = Box::new(typed(addr, Type::U64, &n.span));
    let len = Box::new(typed(len, Type::U64, &n.span));
    let (kind, ty) = match binary {
        true => (Kind::ReadBuf { addr, len }, Type::Bytes),
        false => {
            let len = Some(len);
            (Kind::ReadStr { addr, len }, Type::Str)
        }
    };
    let span = n.span.clone();
    Expr { kind, ty, span }
}

/// An array of characters: a text; of unsigned ones: bytes.
fn characters(addr: Expr, count: Option<u64>, signed: bool, n: &Node) -> Option<Expr> {
    let addr = typed(addr, Type::U64, &n.span);
    let size = match count {
        Some(0) => return None,
        Some(count) => count.min(MAX_TEXT_LIMIT.into()) as u32,
        // As long as what follows the record happens to be.
        None => return signed.then(|| up_to_nul(addr, n)),
    };
    if !signed {
        return Some(sized(addr, Expr::literal(size.into()), true, n));
    }
    let addr = Box::new(addr);
    Some(Expr {
        kind: Kind::ReadChars { addr, size },
        ty: Type::Str,
        span: n.span.clone(),
    })
}
