//! What is known at a place in the kernel: arguments, fields of a record, types.

use uprof_recipes::debug as r;
use uprof_recipes::{BinOp, DebugInfo, Expr, Kind, Type};
use uprof_symbols::kernel::{FieldKind, FieldPlace, KernelFunction, TracepointField};

use crate::plan::models::{Models, PlainType, of_kernel};

/// Arguments that are passed in registers (System V ABI for x86-64, 3.2.3).
const REGISTERS: u8 = 6;

/// What is known at a place in the kernel.
#[derive(Default)]
pub struct Known {
    models: Models<'static>,
    /// Arguments with their names, in order.
    variables: Vec<(String, r::Variable)>,
    /// Fields of a record: only those that are asked for are looked into, as finding a type by its name takes
    /// milliseconds.
    fields: Vec<TracepointField>,
    /// `arg0` ...
    pub arguments: Vec<Expr>,
    returned: Option<r::Variable>,
    /// What is returned is a `long`.
    pub returns_long: bool,
    /// What has no such argument, for errors.
    pub what: String,
}
/// An integer in a tracepoint's record.
pub fn field(offset: u16, bits: u8, signed: bool) -> Expr {
    Expr {
        kind: Kind::Field(offset),
        ty: Type::Int { bits, signed },
        span: 0..0,
    }
}

/// The address of a byte of a tracepoint's record.
fn in_record(offset: u16) -> Expr {
    let context = Expr {
        kind: Kind::Context,
        ty: Type::U64,
        span: 0..0,
    };
    context.plus(i64::from(offset))
}

impl Known {
    /// Of a function that nothing describes: what is passed in registers.
    pub fn undescribed(what: String) -> Self {
        Self {
            arguments: (0..REGISTERS).map(Expr::arg).collect(),
            what,
            ..Self::default()
        }
    }

    pub fn of_function(f: &KernelFunction, what: String) -> Self {
        let value = |e: Expr, ty| r::Variable {
            place: r::Place::Value(e),
            ty: of_kernel(ty),
        };
        let parameters = f.parameters.iter().zip(0u8..);
        Self {
            variables: parameters
                .clone()
                .filter(|(p, _)| !p.name.is_empty())
                .map(|(p, n)| (p.name.clone(), value(Expr::arg(n), p.ty)))
                .collect(),
            arguments: parameters.map(|(_, n)| Expr::arg(n)).collect(),
            returned: f.returns.map(|ty| value(Expr::retval(), ty)),
            what,
            ..Self::default()
        }
    }

    pub fn of_fields<'f>(fields: impl Iterator<Item = &'f TracepointField>, what: String) -> Self {
        Self {
            fields: fields.cloned().collect(),
            what,
            ..Self::default()
        }
    }

    /// Where a field of a tracepoint's record is, and its type.
    fn field(&self, f: &TracepointField) -> Option<r::Variable> {
        let offset = u16::try_from(f.offset).ok()?;
        // What lies elsewhere in the record is told by where it begins: the low half of a word.
        let start = match f.place {
            FieldPlace::Inline => in_record(offset),
            FieldPlace::DataLoc => Expr::binary(
                BinOp::Add,
                in_record(0),
                Expr::binary(BinOp::And, field(offset, 32, false), Expr::int(0xffff)),
            ),
            FieldPlace::RelLoc => Expr::binary(
                BinOp::Add,
                in_record(offset + 4),
                Expr::binary(BinOp::And, field(offset, 32, false), Expr::int(0xffff)),
            ),
        };
        let (place, ty) = match &f.kind {
            FieldKind::Int => {
                let bits = 8 * u8::try_from(f.size).ok()?;
                let value = r::Place::Value(field(offset, bits, f.signed));
                (value, self.integer(&f.type_text, f.size as u8, f.signed))
            }
            FieldKind::Pointer { text } => {
                let to = match text {
                    true => Some(self.character()),
                    false => self.pointee(&f.type_text),
                };
                let value = r::Place::Value(field(offset, 64, false));
                (value, self.pointer(to, &f.type_text))
            }
            FieldKind::Text if f.place == FieldPlace::Inline => {
                let ty = self.array(self.character(), 1, u64::from(f.size), &f.type_text);
                (r::Place::Memory(start), ty)
            }
            FieldKind::Text => (
                r::Place::Value(start),
                self.pointer(Some(self.character()), &f.type_text),
            ),
            FieldKind::Array { each, count } => {
                let of = self.integer(element(&f.type_text), (*each).max(1) as u8, false);
                match count {
                    Some(count) => {
                        let size = u64::from(*each);
                        let ty = self.array(of, size, u64::from(*count), &f.type_text);
                        (r::Place::Memory(start), ty)
                    }
                    None => (r::Place::Value(start), self.pointer(Some(of), &f.type_text)),
                }
            }
            FieldKind::Bytes => {
                let known = self.models.kernel_type(&f.type_text).ok().flatten();
                let byte = self.integer("unsigned char", 1, false);
                let ty =
                    known.unwrap_or_else(|| self.array(byte, 1, u64::from(f.size), &f.type_text));
                (r::Place::Memory(start), ty)
            }
        };
        Some(r::Variable { place, ty })
    }

    /// The kernel's own type of that name: an enumeration has names for its values, and a system call's `int` stands in
    /// 8 bytes of which 4 count. Else a plain integer.
    fn integer(&self, name: &str, bytes: u8, signed: bool) -> r::TypeRef {
        let told = !name.starts_with("enum ") && known_size(name) == Some(bytes);
        if !told
            && let Ok(Some(ty)) = self.models.kernel_type(name)
            && self
                .models
                .size(ty)
                .is_some_and(|size| size <= bytes.into())
        {
            return ty;
        }
        self.plain(name, bytes, signed)
    }

    fn plain(&self, name: &str, bytes: u8, signed: bool) -> r::TypeRef {
        self.models.make(PlainType {
            shape: r::TypeShape::Int { bytes, signed },
            name: name.to_owned(),
            size: Some(bytes.into()),
            network_order: matches!(name, "__be16" | "__be32" | "__be64"),
        })
    }

    fn character(&self) -> r::TypeRef {
        self.models.make(PlainType {
            shape: r::TypeShape::Char {
                bytes: 1,
                signed: true,
            },
            name: "char".to_owned(),
            size: Some(1),
            network_order: false,
        })
    }

    fn pointer(&self, to: Option<r::TypeRef>, name: &str) -> r::TypeRef {
        self.models.make(PlainType {
            shape: r::TypeShape::Pointer {
                to,
                reference: false,
            },
            name: name.to_owned(),
            size: Some(8),
            network_order: false,
        })
    }

    fn array(&self, of: r::TypeRef, each: u64, count: u64, name: &str) -> r::TypeRef {
        self.models.make(PlainType {
            shape: r::TypeShape::Array {
                of,
                count: Some(count),
            },
            name: name.to_owned(),
            size: Some(each * count),
            network_order: false,
        })
    }

    /// What a field like `struct sock *` or `const void *` points to.
    fn pointee(&self, text: &str) -> Option<r::TypeRef> {
        let to = text.strip_suffix('*')?.trim();
        let to = to.strip_prefix("const ").unwrap_or(to).trim();
        self.models.kernel_type(to).ok().flatten()
    }
}

/// The size of C's own integers and of those that the kernel names by their width: the record says all about them.
fn known_size(name: &str) -> Option<u8> {
    Some(match name {
        "char" | "bool" | "u8" | "__u8" | "unsigned char" | "uint8_t" => 1,
        "short" | "u16" | "__u16" | "unsigned short" | "uint16_t" | "__be16" => 2,
        "int" | "u32" | "__u32" | "unsigned int" | "uint32_t" | "__be32" => 4,
        "long" | "u64" | "__u64" | "unsigned long" | "uint64_t" | "__be64" => 8,
        _ => return None,
    })
}

/// The type of the elements: `__u8` of `__u8 [4]`.
fn element(text: &str) -> &str {
    text.split_once('[').map_or(text, |(of, _)| of).trim()
}

impl DebugInfo for Known {
    fn variable(&self, name: &str) -> Result<Option<r::Variable>, String> {
        let argument = self.variables.iter().find(|(n, _)| n == name);
        let field = self.fields.iter().find(|f| f.name == name);
        Ok(argument
            .map(|(_, variable)| variable.clone())
            .or_else(|| self.field(field?)))
    }

    fn variables(&self) -> Vec<String> {
        let arguments = self.variables.iter().map(|(name, _)| name);
        let fields = self.fields.iter().map(|f| &f.name);
        arguments.chain(fields).cloned().collect()
    }

    fn returned(&self) -> Option<r::Variable> {
        let long = || r::Variable {
            place: r::Place::Value(Expr::retval()),
            ty: self.plain("long", 8, true),
        };
        let returned = self.returned.clone();
        returned.or_else(|| self.returns_long.then(long))
    }

    fn argument(&self, n: u8) -> Result<Expr, String> {
        self.arguments
            .get(usize::from(n))
            .cloned()
            .ok_or_else(|| match self.arguments.len() {
                0 => format!("not there: {} has fields with names", self.what),
                count => format!("not there: {} has {count} arguments", self.what),
            })
    }

    fn named(&self, name: &str) -> Option<r::TypeRef> {
        self.models.kernel_type(name).ok().flatten()
    }

    fn kernel_type(&self, name: &str) -> Result<Option<r::TypeRef>, String> {
        self.models.kernel_type(name)
    }

    fn network_order(&self, ty: r::TypeRef) -> bool {
        self.models.network_order(ty)
    }

    fn shape(&self, ty: r::TypeRef) -> r::TypeShape {
        self.models.shape(ty)
    }

    fn size(&self, ty: r::TypeRef) -> Option<u64> {
        self.models.size(ty)
    }

    fn member(&self, ty: r::TypeRef, name: &str) -> Result<r::Member, Vec<String>> {
        self.models.member(ty, name)
    }

    fn name(&self, ty: r::TypeRef) -> String {
        self.models.name(ty)
    }

    fn remark(&self) -> String {
        format!("at {}", self.what)
    }
}
