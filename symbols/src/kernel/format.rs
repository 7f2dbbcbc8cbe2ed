//! The description of a tracepoint: the text of its `format` file in tracefs.
//! (Linux Documentation/trace/events.rst, "Event formats"; the text is made by f_show in kernel/trace/trace_events.c.)

/// A tracepoint and the fields of its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracepoint {
    /// Its group, e.g. `syscalls`.
    pub group: String,
    /// Its name, e.g. `sys_enter_execve`.
    pub name: String,
    /// Its number in this boot of the kernel, which perf events ask for.
    pub id: u64,
    /// Its fields by offset; the first ones (`common_type` ...) are those of every tracepoint.
    pub fields: Vec<TracepointField>,
}

/// A field of a tracepoint's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracepointField {
    /// Its name.
    pub name: String,
    /// Its type as the kernel writes it, without `__data_loc`: `const char *`, `pid_t`, `char []`.
    pub type_text: String,
    /// Bytes from the record's start.
    pub offset: u32,
    /// Size in bytes in the record.
    pub size: u32,
    /// Whether it has a sign.
    pub signed: bool,
    /// What it is.
    pub kind: FieldKind,
    /// Where its bytes are.
    pub place: FieldPlace,
}

/// What a field is, as far as its C type tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// A number of 1, 2, 4 or 8 bytes.
    Int,
    /// An address; `text` when it is a `char *`, which leads to text (of the process for system calls).
    Pointer {
        /// Whether it is a `char *`.
        text: bool,
    },
    /// Characters, up to the first NUL or the field's end.
    Text,
    /// An array of numbers of `each` bytes; `count` is unknown for dynamic arrays.
    Array {
        /// Size of an element in bytes; 0 where its type is not known here.
        each: u32,
        /// Number of elements.
        count: Option<u32>,
    },
    /// Something else (a struct): its bytes.
    Bytes,
}

/// Where a field's bytes are.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum FieldPlace {
    /// In the record, at the field's offset.
    Inline,
    /// `__data_loc`: the field is a 32-bit number: low half the offset from the record's start, high half the size.
    DataLoc,
    /// `__rel_loc` (Linux 5.17): as [`FieldPlace::DataLoc`], with the offset from the end of the field.
    RelLoc,
}

impl Tracepoint {
    /// The field of that name.
    pub fn field(&self, name: &str) -> Option<&TracepointField> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The fields of this tracepoint alone.
    pub fn own_fields(&self) -> impl Iterator<Item = &TracepointField> {
        self.fields
            .iter()
            .filter(|field| !field.name.starts_with("common_"))
    }
}

/// Reads a `format` file; `None` if it is none.
pub(super) fn parse(group: &str, name: &str, text: &str) -> Option<Tracepoint> {
    let id = text
        .lines()
        .find_map(|line| line.strip_prefix("ID:"))?
        .trim()
        .parse()
        .ok()?;
    let described = text
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("field:"));
    let fields: Option<Vec<_>> = described.map(field).collect();
    Some(Tracepoint {
        group: group.to_owned(),
        name: name.to_owned(),
        id,
        fields: fields?,
    })
}

/// One line: `field:__data_loc char[] name; offset:20; size:4; signed:0;`, with tabs between its parts.
fn field(line: &str) -> Option<TracepointField> {
    let mut parts = line.split(';').map(str::trim);
    let declaration = parts.next()?.strip_prefix("field:")?;
    let (mut offset, mut size, mut signed) = (None, None, false);
    for part in parts {
        match part.split_once(':') {
            Some(("offset", value)) => offset = value.parse().ok(),
            Some(("size", value)) => size = value.parse().ok(),
            Some(("signed", value)) => signed = value == "1",
            _ => {}
        }
    }
    let (place, declaration) = match declaration.split_once(' ') {
        Some(("__data_loc", rest)) => (FieldPlace::DataLoc, rest),
        Some(("__rel_loc", rest)) => (FieldPlace::RelLoc, rest),
        _ => (FieldPlace::Inline, declaration),
    };
    let (of, name, array) = declarator(declaration)?;
    let size = size?;
    Some(TracepointField {
        kind: kind(of, array, size, place),
        type_text: match array {
            Some(count) => format!("{of} [{count}]"),
            None => of.to_owned(),
        },
        name: name.to_owned(),
        offset: offset?,
        size,
        signed,
        place,
    })
}

/// `char comm[16]`, `char[] name` and `const char * filename` as (element type, name, count between the brackets).
fn declarator(text: &str) -> Option<(&str, &str, Option<&str>)> {
    let text = text.trim();
    if let Some((of, rest)) = text.split_once("[] ") {
        return Some((of.trim(), rest.trim(), Some("")));
    }
    let (text, array) = match text
        .strip_suffix(']')
        .and_then(|text| text.rsplit_once('['))
    {
        Some((text, count)) => (text.trim_end(), Some(count)),
        None => (text, None),
    };
    let start = text.rfind([' ', '*']).map_or(0, |at| at + 1);
    let (of, name) = text.split_at_checked(start)?;
    (!name.is_empty() && !of.trim().is_empty()).then(|| (of.trim(), name, array))
}

fn kind(of: &str, array: Option<&str>, size: u32, place: FieldPlace) -> FieldKind {
    let pointer = of.ends_with('*');
    let words = |text: &str| {
        text.split_whitespace()
            .filter(|w| !matches!(*w, "const" | "__user"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    if array.is_some() || place != FieldPlace::Inline {
        if matches!(words(of).as_str(), "char" | "const char") {
            return FieldKind::Text;
        }
        let each = element_size(&words(of), pointer);
        let count = (place == FieldPlace::Inline && each > 0).then(|| size / each);
        return FieldKind::Array { each, count };
    }
    if pointer {
        let text = words(of.trim_end_matches('*')) == "char" && of.matches('*').count() == 1;
        return FieldKind::Pointer { text };
    }
    match size {
        1 | 2 | 4 | 8 if !of.starts_with("struct ") && !of.starts_with("union ") => FieldKind::Int,
        _ => FieldKind::Bytes,
    }
}

/// The size of the plain types that the kernel's tracepoints have arrays of.
fn element_size(name: &str, pointer: bool) -> u32 {
    if pointer {
        return 8;
    }
    match name {
        "u8" | "__u8" | "s8" | "__s8" | "unsigned char" | "uint8_t" | "int8_t" => 1,
        "u16" | "__u16" | "__be16" | "__le16" | "s16" | "short" | "unsigned short" | "uint16_t" => {
            2
        }
        "u32" | "__u32" | "__be32" | "__le32" | "s32" | "__s32" | "int" | "unsigned int"
        | "unsigned" | "uint32_t" => 4,
        "u64" | "__u64" | "__be64" | "__le64" | "s64" | "long" | "unsigned long" | "uint64_t"
        | "size_t" => 8,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_field_is_read() {
        let text = "name: x\nID: 7\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
            \tfield:char prev_comm[16];\toffset:8;\tsize:16;\tsigned:0;\n\
            \tfield:const char *const * argv;\toffset:24;\tsize:8;\tsigned:0;\n\
            \tfield:__data_loc char[] name;\toffset:32;\tsize:4;\tsigned:0;\n\
            \tfield:__rel_loc u32[] ids;\toffset:36;\tsize:4;\tsigned:0;\n\
            \tfield:__u8 saddr[4];\toffset:40;\tsize:4;\tsigned:0;\n\
            \tfield:const char * filename;\toffset:48;\tsize:8;\tsigned:0;\n\
            \tfield:struct in6_addr a;\toffset:56;\tsize:16;\tsigned:0;\n\nprint fmt: \"field:none\"\n";
        let point = parse("g", "x", text).unwrap();
        assert_eq!(
            (point.id, point.fields.len(), point.own_fields().count()),
            (7, 8, 7)
        );
        let of = |name: &str| {
            point
                .field(name)
                .map(|f| (f.type_text.as_str(), f.kind.clone(), f.place))
                .unwrap()
        };
        let inline = FieldPlace::Inline;
        assert_eq!(of("prev_comm"), ("char [16]", FieldKind::Text, inline));
        assert_eq!(
            of("argv"),
            (
                "const char *const *",
                FieldKind::Pointer { text: false },
                inline
            )
        );
        assert_eq!(
            of("name"),
            ("char []", FieldKind::Text, FieldPlace::DataLoc)
        );
        assert_eq!(
            of("ids"),
            (
                "u32 []",
                FieldKind::Array {
                    each: 4,
                    count: None
                },
                FieldPlace::RelLoc
            )
        );
        assert_eq!(
            of("saddr"),
            (
                "__u8 [4]",
                FieldKind::Array {
                    each: 1,
                    count: Some(4)
                },
                inline
            )
        );
        assert_eq!(
            of("filename"),
            ("const char *", FieldKind::Pointer { text: true }, inline)
        );
        assert_eq!(of("a"), ("struct in6_addr", FieldKind::Bytes, inline));
        assert_eq!(
            of("common_type"),
            ("unsigned short", FieldKind::Int, inline)
        );
    }

    #[test]
    fn a_damaged_description_is_none() {
        for text in [
            "",
            "ID: x",
            "ID: 1\nfield:int;offset:0;size:4;",
            "ID: 1\nfield:int a;offset:0;",
            "ID: 1\nfield:[];offset:0;size:1",
        ] {
            assert_eq!(parse("g", "x", text), None, "{text:?}");
        }
    }
}
