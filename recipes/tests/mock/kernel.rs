//! The kernel's types made by hand, and one place in it: `f(struct sock *sk, int size, enum reason reason)`, or a
//! tracepoint with fields.

use uprof_recipes::Expr;
use uprof_recipes::debug::{DebugInfo, Member, Place, TypeRef, TypeShape, Variable};

/// A place in the kernel.
#[derive(Debug)]
pub struct Kernel {
    /// Its arguments are fields of a record.
    pub tracepoint: bool,
    /// The kernel describes its types.
    pub btf: bool,
}

/// Kernel types are numbered from here on.
const BASE: u64 = 1000;
const U16: u64 = 0;
const BE16: u64 = 1;
const BE32: u64 = 2;
const INT: u64 = 3;
const VOID_P: u64 = 4;
const SOCK: u64 = 5;
const SOCK_P: u64 = 6;
const IN6: u64 = 7;
const TASK: u64 = 8;
const TASK_P: u64 = 9;
const FILES_P: u64 = 10;
const FDT_P: u64 = 11;
const FILE: u64 = 12;
const FILE_P: u64 = 13;
const FILE_PP: u64 = 14;
const SOCKET: u64 = 15;
const FILES: u64 = 16;
const FDT: u64 = 17;
const REASON: u64 = 18;
const U8: u64 = 19;
const U8_4: u64 = 20;
const U8_16: u64 = 21;
const BE16_P: u64 = 22;
const TCP_SOCK: u64 = 23;
const CHAR: u64 = 24;
const COMM: u64 = 25;
const U32: u64 = 26;
const BE64: u64 = 27;

fn int(bytes: u8, signed: bool) -> TypeShape {
    TypeShape::Int { bytes, signed }
}

fn pointer(to: u64) -> TypeShape {
    TypeShape::Pointer {
        to: Some(TypeRef(BASE + to)),
        reference: false,
    }
}

fn array(of: u64, count: u64) -> TypeShape {
    TypeShape::Array {
        of: TypeRef(BASE + of),
        count: Some(count),
    }
}

/// Name, size, shape.
fn types() -> Vec<(&'static str, u64, TypeShape)> {
    let record = || TypeShape::Record;
    vec![
        ("u16", 2, int(2, false)),
        ("__be16", 2, int(2, false)),
        ("__be32", 4, int(4, false)),
        ("int", 4, int(4, true)),
        (
            "void *",
            8,
            TypeShape::Pointer {
                to: None,
                reference: false,
            },
        ),
        ("struct sock", 0x300, record()),
        ("struct sock *", 8, pointer(SOCK)),
        ("struct in6_addr", 16, record()),
        ("struct task_struct", 0x2000, record()),
        ("struct task_struct *", 8, pointer(TASK)),
        ("struct files_struct *", 8, pointer(FILES)),
        ("struct fdtable *", 8, pointer(FDT)),
        ("struct file", 0x100, record()),
        ("struct file *", 8, pointer(FILE)),
        ("struct file **", 8, pointer(FILE_P)),
        ("struct socket", 0x80, record()),
        ("struct files_struct", 0x200, record()),
        ("struct fdtable", 0x40, record()),
        (
            "enum reason",
            4,
            TypeShape::Enum {
                bytes: 4,
                signed: false,
                values: vec![("NO_SOCKET".into(), 3), ("RESET".into(), 7)],
            },
        ),
        ("u8", 1, int(1, false)),
        ("u8 [4]", 4, array(U8, 4)),
        ("u8 [16]", 16, array(U8, 16)),
        ("__be16 *", 8, pointer(BE16)),
        ("struct tcp_sock", 0x900, record()),
        (
            "char",
            1,
            TypeShape::Char {
                bytes: 1,
                signed: true,
            },
        ),
        ("char [16]", 16, array(CHAR, 16)),
        ("u32", 4, int(4, false)),
        ("__be64", 8, int(8, false)),
    ]
}

/// Name, offset, type.
fn members(of: u64) -> &'static [(&'static str, u64, u64)] {
    match of {
        SOCK => &[
            ("daddr", 0, BE32),
            ("dport", 12, BE16),
            ("num", 14, U16),
            ("family", 16, U16),
            ("daddr6", 0x38, IN6),
            ("cookie", 0x60, BE64),
            ("next", 0x70, SOCK_P),
        ],
        TCP_SOCK => &[("acked", 0x400, U32), ("ports", 0x408, BE16_P)],
        TASK => &[
            ("parent", 0x500, TASK_P),
            ("tgid", 0x510, INT),
            ("comm", 0x520, COMM),
            ("files", 0x600, FILES_P),
        ],
        FILES => &[("fdt", 0x20, FDT_P)],
        FDT => &[("max_fds", 0, U32), ("fd", 8, FILE_PP)],
        FILE => &[("private_data", 0x20, VOID_P)],
        SOCKET => &[("file", 0x10, FILE_P), ("sk", 0x18, SOCK_P)],
        _ => &[],
    }
}

pub fn named(name: &str) -> Option<TypeRef> {
    let found = types().iter().position(|t| t.0 == name)?;
    Some(TypeRef(BASE + found as u64))
}

/// Whether a type is one of these.
pub fn has(ty: TypeRef) -> bool {
    ty.0 >= BASE
}

pub fn shape(ty: TypeRef) -> TypeShape {
    types()[(ty.0 - BASE) as usize].2.clone()
}

pub fn size(ty: TypeRef) -> u64 {
    types()[(ty.0 - BASE) as usize].1
}

pub fn type_name(ty: TypeRef) -> String {
    types()[(ty.0 - BASE) as usize].0.to_owned()
}

pub fn network_order(ty: TypeRef) -> bool {
    type_name(ty).starts_with("__be") && !type_name(ty).ends_with('*')
}

pub fn member(ty: TypeRef, name: &str) -> Result<Member, Vec<String>> {
    let members = members(ty.0 - BASE);
    let found = members.iter().find(|m| m.0 == name);
    found
        .map(|(_, offset, ty)| Member {
            offset: *offset,
            ty: TypeRef(BASE + ty),
            bits: None,
        })
        .ok_or_else(|| members.iter().map(|m| m.0.to_owned()).collect())
}

impl DebugInfo for Kernel {
    fn variable(&self, name: &str) -> Result<Option<Variable>, String> {
        let (place, ty) = match (self.tracepoint, name) {
            (false, "sk" | "parent") => (Place::Value(Expr::arg(0)), SOCK_P),
            (false, "size") => (Place::Value(Expr::arg(1)), INT),
            (false, "reason") => (Place::Value(Expr::arg(2)), REASON),
            (true, "dport") => (Place::Value(Expr::field(8, 2)), U16),
            (true, "pid") => (Place::Value(Expr::field(12, 4)), INT),
            (true, "saddr") => (Place::Memory(Expr::context().plus(16)), U8_4),
            (true, "saddr_v6") => (Place::Memory(Expr::context().plus(20)), U8_16),
            (true, "comm") => (Place::Memory(Expr::context().plus(40)), COMM),
            _ => return Ok(None),
        };
        let ty = TypeRef(BASE + ty);
        Ok(Some(Variable { place, ty }))
    }

    fn variables(&self) -> Vec<String> {
        let names: &[&str] = match self.tracepoint {
            true => &["dport", "pid", "saddr", "saddr_v6", "comm"],
            false => &["sk", "size", "reason"],
        };
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    fn returned(&self) -> Option<Variable> {
        Some(Variable {
            place: Place::Value(Expr::retval()),
            ty: TypeRef(BASE + INT),
        })
    }

    fn named(&self, name: &str) -> Option<TypeRef> {
        named(name)
    }

    fn shape(&self, ty: TypeRef) -> TypeShape {
        shape(ty)
    }

    fn size(&self, ty: TypeRef) -> Option<u64> {
        Some(size(ty))
    }

    fn member(&self, ty: TypeRef, name: &str) -> Result<Member, Vec<String>> {
        member(ty, name)
    }

    fn name(&self, ty: TypeRef) -> String {
        type_name(ty)
    }

    fn network_order(&self, ty: TypeRef) -> bool {
        network_order(ty)
    }

    fn kernel_type(&self, name: &str) -> Result<Option<TypeRef>, String> {
        match self.btf {
            true => Ok(named(name)),
            false => Err("/sys/kernel/btf/vmlinux is not there".to_owned()),
        }
    }
}
