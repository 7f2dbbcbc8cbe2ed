//! Debug information made by hand: what a redis-like function sees, and a place of which nothing is known.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod kernel;

use uprof_recipes::Expr;
use uprof_recipes::debug::{
    BitField, DebugInfo, Member, Place, TextLength, TextShape, TypeRef, TypeShape, Variable,
};

/// One type: its name, size, shape, members.
struct Known {
    name: &'static str,
    size: Option<u64>,
    shape: TypeShape,
    members: Vec<(&'static str, u64, u64, Option<BitField>)>,
}

/// A place where much is known.
pub struct World {
    types: Vec<Known>,
    /// Whether `argN` are those of a USDT.
    pub usdt: bool,
}

/// A place of which nothing is known.
pub struct Nothing;

pub const INT: u64 = 0;
pub const CHAR: u64 = 1;
pub const CHAR_P: u64 = 2;
pub const U16: u64 = 3;
pub const U32: u64 = 4;
pub const STATE: u64 = 5;
pub const CLIENT: u64 = 6;
pub const CLIENT_P: u64 = 7;
pub const ADDR: u64 = 8;
pub const STRING: u64 = 9;
pub const STRING_REF: u64 = 10;
pub const STR: u64 = 11;
pub const NAME: u64 = 12;
pub const UCHAR: u64 = 13;
pub const MAC: u64 = 14;
pub const DOUBLE: u64 = 15;
pub const COUNTS: u64 = 16;
pub const WIDE: u64 = 17;
pub const HIDDEN: u64 = 18;
pub const HIDDEN_P: u64 = 19;
pub const VOID_P: u64 = 20;
pub const LONG: u64 = 21;
pub const BYTES: u64 = 22;
pub const STRING_P: u64 = 23;
pub const UCHAR_P: u64 = 24;
pub const CHAR_PP: u64 = 25;
pub const LOOP: u64 = 26;
pub const BOOL: u64 = 27;
pub const COW: u64 = 28;
pub const ODD: u64 = 29;
pub const LOOP_REF: u64 = 30;

fn bits(unit: u8, shift: u8, bits: u8) -> Option<BitField> {
    Some(BitField { unit, shift, bits })
}

fn pointer(to: u64) -> TypeShape {
    TypeShape::Pointer {
        to: Some(TypeRef(to)),
        reference: false,
    }
}

fn int(bytes: u8, signed: bool) -> TypeShape {
    TypeShape::Int { bytes, signed }
}

fn text(pointer: u64, length: u64, binary: bool) -> TypeShape {
    TypeShape::Text(TextShape {
        pointer,
        length: TextLength::At {
            offset: length,
            bytes: 8,
        },
        binary,
    })
}

fn array(of: u64, count: Option<u64>) -> TypeShape {
    TypeShape::Array {
        of: TypeRef(of),
        count,
    }
}

impl World {
    pub fn new() -> World {
        let plain = |name, size, shape| Known {
            name,
            size: Some(size),
            shape,
            members: vec![],
        };
        let reference = |to| TypeShape::Pointer {
            to: Some(TypeRef(to)),
            reference: true,
        };
        let mut types = vec![
            plain("int", 4, int(4, true)),
            plain(
                "char",
                1,
                TypeShape::Char {
                    bytes: 1,
                    signed: true,
                },
            ),
            plain("char *", 8, pointer(CHAR)),
            plain("unsigned short", 2, int(2, false)),
            plain("uint32_t", 4, int(4, false)),
            plain(
                "enum state",
                4,
                TypeShape::Enum {
                    bytes: 4,
                    signed: true,
                    values: vec![("NEW".into(), 0), ("OPEN".into(), 1), ("LOST".into(), -1)],
                },
            ),
            plain("struct client", 0x100, TypeShape::Record),
            plain("struct client *", 8, pointer(CLIENT)),
            plain("struct addr", 8, TypeShape::Record),
            plain("std::string", 32, text(0, 8, false)),
            plain("const std::string &", 8, reference(STRING)),
            plain("&str", 16, text(0, 8, false)),
            plain("char [16]", 16, array(CHAR, Some(16))),
            plain(
                "unsigned char",
                1,
                TypeShape::Char {
                    bytes: 1,
                    signed: false,
                },
            ),
            plain("unsigned char [6]", 6, array(UCHAR, Some(6))),
            plain("double", 8, TypeShape::Float { bytes: 8 }),
            plain("uint32_t [4]", 16, array(U32, Some(4))),
            plain("__int128", 16, int(16, true)),
            plain("struct hidden", 0, TypeShape::Record),
            plain("struct hidden *", 8, pointer(HIDDEN)),
            plain(
                "void *",
                8,
                TypeShape::Pointer {
                    to: None,
                    reference: false,
                },
            ),
            plain("long", 8, int(8, true)),
            plain("&[u8]", 16, text(0, 8, true)),
            plain("std::string *", 8, pointer(STRING)),
            plain("unsigned char *", 8, pointer(UCHAR)),
            plain("char **", 8, pointer(CHAR_P)),
            plain("loop", 8, pointer(LOOP)),
            plain("bool", 1, TypeShape::Bool { bytes: 1 }),
            plain(
                "std::string (old)",
                8,
                TypeShape::Text(TextShape {
                    pointer: 0,
                    length: TextLength::Before {
                        distance: 24,
                        bytes: 8,
                    },
                    binary: false,
                }),
            ),
            plain(
                "odd",
                3,
                TypeShape::Unsupported("a member of 3 bytes".into()),
            ),
            plain("loop &", 8, reference(LOOP_REF)),
        ];
        types[HIDDEN as usize].size = None;
        types[ADDR as usize].members = vec![("port", 0, U16, None), ("ip", 4, U32, None)];
        types[STRING as usize].members = vec![("_M_string_length", 8, LONG, None)];
        types[CLIENT as usize].members = vec![
            ("argc", 0x48, INT, None),
            ("argv", 0x50, CHAR_PP, None),
            ("cmd", 0x58, CHAR_P, None),
            ("state", 0x60, STATE, None),
            ("flags", 0x64, U32, bits(4, 2, 3)),
            ("prio", 0x64, INT, bits(4, 5, 5)),
            ("top", 0x68, LONG, bits(8, 0, 64)),
            ("name", 0x80, NAME, None),
            ("mac", 0x90, MAC, None),
            ("title", 0x98, STRING, None),
            ("ratio", 0xb8, DOUBLE, None),
            ("addr", 0xc0, ADDR, None),
            ("next", 0xc8, CLIENT_P, None),
            ("counts", 0xd0, COUNTS, None),
            ("wide", 0xe0, WIDE, None),
            ("open", 0xf0, BOOL, None),
            ("u32", 0xf4, U32, None),
        ];
        World { types, usdt: false }
    }

    fn known(&self, ty: TypeRef) -> &Known {
        &self.types[ty.0 as usize]
    }
}

impl DebugInfo for World {
    fn variable(&self, name: &str) -> Result<Option<Variable>, String> {
        let two = |a, b| Place::Pieces(vec![(8, Place::Value(a)), (8, Place::Value(b))]);
        let (place, ty) = match name {
            "client" => (Place::Value(Expr::arg(0)), CLIENT_P),
            "size" => (Place::Value(Expr::arg(1)), INT),
            "path" => (Place::Value(Expr::arg(2)), CHAR_P),
            "title" => (Place::Value(Expr::arg(3)), STRING_REF),
            "state" => (Place::Value(Expr::arg(4)), STATE),
            "data" => (Place::Value(Expr::arg(5)), UCHAR_P),
            "slice" => (two(Expr::reg(5), Expr::reg(4)), STR),
            "raw" => (two(Expr::reg(5), Expr::reg(4)), BYTES),
            "peer" => (Place::Value(Expr::reg(2)), ADDR),
            "label" => (Place::Value(Expr::reg(3)), STRING_P),
            "old" => (Place::Value(Expr::reg(3)), COW),
            "hidden" => (Place::Value(Expr::arg(6)), HIDDEN_P),
            "pointer" => (Place::Value(Expr::arg(6)), VOID_P),
            "circle" => (Place::Value(Expr::arg(6)), LOOP),
            "endless" => (Place::Value(Expr::arg(6)), LOOP_REF),
            "total" => (
                Place::Memory(Expr::reg(16).plus(-0x1000).plus(0x4010)),
                LONG,
            ),
            "local" => (Place::Memory(Expr::reg(7).plus(16)), CLIENT),
            "odd" => (Place::Memory(Expr::reg(7)), ODD),
            "seven" => (Place::Value(Expr::int(7)), INT),
            "buf" => (Place::Value(Expr::arg(7)), CHAR_P),
            "gone" => return Err("optimised out here".to_owned()),
            _ => return Ok(None),
        };
        let ty = TypeRef(ty);
        Ok(Some(Variable { place, ty }))
    }

    fn variables(&self) -> Vec<String> {
        ["client", "size", "path", "title", "state", "gone"]
            .map(str::to_owned)
            .to_vec()
    }

    fn returned(&self) -> Option<Variable> {
        Some(Variable {
            place: Place::Value(Expr::retval()),
            ty: TypeRef(CLIENT_P),
        })
    }

    fn argument(&self, n: u8) -> Result<Expr, String> {
        match (self.usdt, n) {
            (false, _) => Ok(Expr::arg(n)),
            (true, 0) => Ok(Expr::reg(0)),
            (true, 1) => Ok(Expr::load(Expr::reg(7).plus(8), 4)),
            (true, _) => Err("not among the 2 arguments of app:request".to_owned()),
        }
    }

    fn named(&self, name: &str) -> Option<TypeRef> {
        let found = self.types.iter().position(|t| t.name == name)?;
        Some(TypeRef(found as u64))
    }

    fn shape(&self, ty: TypeRef) -> TypeShape {
        if kernel::has(ty) {
            return kernel::shape(ty);
        }
        self.known(ty).shape.clone()
    }

    fn size(&self, ty: TypeRef) -> Option<u64> {
        if kernel::has(ty) {
            return Some(kernel::size(ty));
        }
        self.known(ty).size
    }

    fn member(&self, ty: TypeRef, name: &str) -> Result<Member, Vec<String>> {
        if kernel::has(ty) {
            return kernel::member(ty, name);
        }
        let members = &self.known(ty).members;
        let found = members.iter().find(|m| m.0 == name);
        found
            .map(|(_, offset, ty, bits)| Member {
                offset: *offset,
                ty: TypeRef(*ty),
                bits: *bits,
            })
            .ok_or_else(|| members.iter().map(|m| m.0.to_owned()).collect())
    }

    fn name(&self, ty: TypeRef) -> String {
        if kernel::has(ty) {
            return kernel::type_name(ty);
        }
        self.known(ty).name.to_owned()
    }

    fn network_order(&self, ty: TypeRef) -> bool {
        kernel::has(ty) && kernel::network_order(ty)
    }

    fn kernel_type(&self, name: &str) -> Result<Option<TypeRef>, String> {
        Ok(kernel::named(name))
    }
}

impl DebugInfo for Nothing {
    fn variable(&self, _: &str) -> Result<Option<Variable>, String> {
        Ok(None)
    }
    fn variables(&self) -> Vec<String> {
        vec![]
    }
    fn returned(&self) -> Option<Variable> {
        None
    }
    fn named(&self, _: &str) -> Option<TypeRef> {
        None
    }
    fn shape(&self, _: TypeRef) -> TypeShape {
        TypeShape::Void
    }
    fn size(&self, _: TypeRef) -> Option<u64> {
        None
    }
    fn member(&self, _: TypeRef, _: &str) -> Result<Member, Vec<String>> {
        Err(vec![])
    }
    fn name(&self, _: TypeRef) -> String {
        "void".to_owned()
    }
    fn remark(&self) -> String {
        "app has no debug information".to_owned()
    }
}
