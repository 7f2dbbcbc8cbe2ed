//! Records that are text: a pointer and a length, as the common libraries of each language keep them.

use super::die::{Die, Language, View};
use super::model::{Member, Text, TextLength, TypeId};
use super::naming::flatten;
use super::shapes::Linked;

/// libstdc++'s string before GCC 5: length, capacity and reference count stand before the text
/// (`std::string::_Rep`, bits/cow_string.h): 3 words.
const COW_HEADER: u64 = 24;

/// How many records the pointer of a Rust `Vec` may be wrapped in: RawVec, RawVecInner, Unique, NonNull, and their
/// empty neighbours.
const WRAPPERS: usize = 64;

impl<'r, 'a> View<'r, 'a> {
    /// The text that a record is, if it is one.
    pub(super) fn text(&self, die: &Die<'r, 'a>) -> Option<Text> {
        let name = die.name()?;
        let size = die.number(gimli::DW_AT_byte_size)?;
        let likely =
            name.starts_with("basic_string<char,") || name.starts_with("basic_string_view<char,");
        let rust = name.contains("str")
            || name.contains("[u8]")
            || name == "String"
            || name.starts_with("Vec<u8");
        let go = name == "string" || name == "[]uint8";
        if !(likely || rust || go) {
            return None;
        }
        let members = self.plain_members(die);
        match die.language() {
            Language::Rust => self.rust_text(&name, size, &members),
            Language::Go => go_text(&name, size, &members),
            _ if likely => cpp_text(size, &members),
            _ => None,
        }
    }

    fn plain_members(&self, die: &Die<'r, 'a>) -> Vec<Member> {
        let links = Linked {
            view: *self,
            find: &|_| None,
            name: &|_| String::new(),
        };
        die.id(0).map(|ty| flatten(&links, ty)).unwrap_or_default()
    }

    fn rust_text(&self, name: &str, size: u64, members: &[Member]) -> Option<Text> {
        let at = |name: &str| members.iter().find(|member| member.name == name);
        let length = |member: &Member, base: u64| TextLength::At {
            offset: base.wrapping_add(member.offset),
            bytes: 8,
        };
        if let (Some(pointer), Some(len)) = (at("data_ptr"), at("length")) {
            // &str, &mut str, Box<str>, Rc<str> have one form; &[T] has it too, with another element.
            let element = self.pointee_bytes(pointer.ty)?;
            let binary = !name.contains("str");
            return (element == 1).then(|| Text {
                pointer: pointer.offset,
                length: length(len, 0),
                size,
                binary,
            });
        }
        let (vec, base) = match at("vec") {
            Some(vec) if name == "String" => (self.members_of(vec.ty), vec.offset),
            None if name.starts_with("Vec<u8") => (members.to_vec(), 0),
            _ => return None,
        };
        let len = vec.iter().find(|member| member.name == "len")?;
        let buf = vec.iter().find(|member| member.name == "buf")?;
        let pointer =
            self.first_pointer(buf.ty, base.checked_add(buf.offset)?, &mut { WRAPPERS })?;
        Some(Text {
            pointer,
            length: length(len, base),
            size,
            binary: name != "String",
        })
    }

    fn members_of(&self, ty: TypeId) -> Vec<Member> {
        match self.bare(ty) {
            Ok(Some(die)) => self.plain_members(&die),
            _ => Vec::new(),
        }
    }

    /// Size of what a pointer leads to.
    fn pointee_bytes(&self, ty: TypeId) -> Option<u64> {
        let pointer = self.bare(ty).ok()??;
        let to = self.follow(&pointer, gimli::DW_AT_type)?;
        self.bare(to.id(0)?).ok()??.number(gimli::DW_AT_byte_size)
    }

    /// Where the first pointer within a record lies.
    fn first_pointer(&self, ty: TypeId, at: u64, left: &mut usize) -> Option<u64> {
        let die = self.bare(ty).ok()??;
        if die.tag() == gimli::DW_TAG_pointer_type {
            return Some(at);
        }
        let members = self.plain_members(&die);
        members.iter().find_map(|member| {
            *left = left.checked_sub(1)?;
            self.first_pointer(member.ty, at.checked_add(member.offset)?, left)
        })
    }
}

/// `std::string` and `std::string_view` of libstdc++ (bits/basic_string.h, cow_string.h, std/string_view). The short
/// strings within the object have the pointer lead there, so they need nothing of their own.
fn cpp_text(size: u64, members: &[Member]) -> Option<Text> {
    let at = |name: &str| {
        members
            .iter()
            .find(|member| member.name == name)
            .map(|member| member.offset)
    };
    let text = |pointer, length| Text {
        pointer,
        length,
        size,
        binary: false,
    };
    if let (Some(pointer), Some(length)) = (at("_M_str"), at("_M_len")) {
        return Some(text(
            pointer,
            TextLength::At {
                offset: length,
                bytes: 8,
            },
        ));
    }
    let pointer = at("_M_dataplus")?;
    Some(match at("_M_string_length") {
        Some(length) => text(
            pointer,
            TextLength::At {
                offset: length,
                bytes: 8,
            },
        ),
        None => text(
            pointer,
            TextLength::Before {
                distance: COW_HEADER,
                bytes: 8,
            },
        ),
    })
}

/// Go's `string` and `[]byte`, as its compiler describes them.
fn go_text(name: &str, size: u64, members: &[Member]) -> Option<Text> {
    let at = |name: &str| {
        members
            .iter()
            .find(|member| member.name == name)
            .map(|member| member.offset)
    };
    let binary = name != "string";
    let pointer = at(if binary { "array" } else { "str" })?;
    Some(Text {
        pointer,
        length: TextLength::At {
            offset: at("len")?,
            bytes: 8,
        },
        size,
        binary,
    })
}
