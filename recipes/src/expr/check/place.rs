//! Parts of a place: memory, a register, or several of them. Errors are plain words to follow a name.

use super::super::{BinOp, Expr, Kind, Type};
use super::debug::typed;
use crate::debug::{BitField, Place, TextLength, TextShape};

/// An address as a plain number: what is added to it counts in bytes.
pub(super) fn word(e: Expr) -> Expr {
    let kind = match e.kind {
        _ if !matches!(e.ty, Type::Ptr { .. }) => return e,
        Kind::Cast(inner) if inner.ty == Type::U64 => return *inner,
        Kind::Load(address) => Kind::Load(address),
        kind => Kind::Cast(Box::new(Expr {
            kind,
            ty: e.ty,
            span: e.span.clone(),
        })),
    };
    Expr {
        kind,
        ty: Type::U64,
        span: e.span,
    }
}

/// `bytes` bytes of a place, `offset` bytes into it; bits above them mean nothing.
pub(super) fn part(place: &Place, offset: u64, bytes: u8) -> Result<Expr, String> {
    match place {
        Place::Memory(address) => Ok(Expr::load(address.clone().plus(offset as i64), bytes)),
        Place::Value(e) if offset == 0 => Ok(e.clone()),
        Place::Value(e) if offset.saturating_add(bytes.into()) <= 8 => {
            let by = Expr::literal(8 * offset);
            Ok(Expr::binary(BinOp::Shr, e.clone(), by))
        }
        Place::Value(_) => Err("is not wholly in the register that begins it".to_owned()),
        Place::Pieces(pieces) => {
            let mut at = 0u64;
            for (len, piece) in pieces {
                let end = at + u64::from(*len);
                if offset >= at && offset.saturating_add(bytes.into()) <= end {
                    return part(piece, offset - at, bytes);
                }
                at = end;
            }
            Err("is spread over several registers".to_owned())
        }
    }
}

/// The place that begins `offset` bytes into a place.
pub(super) fn within(place: &Place, offset: u64) -> Result<Place, String> {
    if offset == 0 {
        return Ok(place.clone());
    }
    match place {
        Place::Memory(address) => Ok(Place::Memory(address.clone().plus(offset as i64))),
        Place::Value(e) if offset < 8 => {
            let by = Expr::literal(8 * offset);
            Ok(Place::Value(Expr::binary(BinOp::Shr, e.clone(), by)))
        }
        Place::Value(_) => Err("lies beyond the register".to_owned()),
        Place::Pieces(pieces) => {
            let mut at = 0u64;
            let mut rest = Vec::new();
            for (len, piece) in pieces {
                let end = at + u64::from(*len);
                if offset <= at {
                    rest.push((*len, piece.clone()));
                } else if offset < end {
                    rest.push(((end - offset) as u8, within(piece, offset - at)?));
                }
                at = end;
            }
            match rest.is_empty() {
                true => Err("lies beyond what is known of it".to_owned()),
                false => Ok(Place::Pieces(rest)),
            }
        }
    }
}

/// A bit field out of its unit; signed ones are extended.
pub(super) fn bit_field(unit: Expr, bits: BitField, signed: bool) -> Result<Expr, String> {
    let (shift, width) = (u64::from(bits.shift), u64::from(bits.bits));
    if width == 0 || shift + width > 64 {
        return Err("is a bit field without sense".to_owned());
    }
    if signed {
        let up = Expr::binary(BinOp::Shl, unit, Expr::literal(64 - shift - width));
        return Ok(Expr::words(BinOp::Shr, true, up, Expr::literal(64 - width)));
    }
    let down = match shift {
        0 => unit,
        _ => Expr::binary(BinOp::Shr, unit, Expr::literal(shift)),
    };
    let mask = u64::MAX >> (64 - width);
    Ok(Expr::binary(BinOp::And, down, Expr::literal(mask)))
}

/// Address and length of the text that a record holds.
pub(super) fn text_record(place: &Place, shape: &TextShape) -> Result<(Expr, Expr), String> {
    let addr = part(place, shape.pointer, 8)?;
    let (len, bytes) = match shape.length {
        TextLength::At { offset, bytes } => (part(place, offset, bytes)?, bytes),
        TextLength::Before { distance, bytes } => {
            let at = addr.clone().plus((distance as i64).wrapping_neg());
            (Expr::load(at, bytes), bytes)
        }
    };
    if !matches!(bytes, 1 | 2 | 4 | 8) {
        return Err(format!("has a length of {bytes} bytes"));
    }
    let ty = Type::Int {
        bits: 8 * bytes,
        signed: false,
    };
    Ok((addr, typed(len, ty, &(0..0))))
}
