//! What lowered expressions mean, by the engine's reference evaluator.

use uprof_ebpf::expr::{Env, Fault, eval};
use uprof_recipes::{Scope, Source, parse_expr};

use super::*;

/// A call whose arguments and memory are other ones when it returns.
struct Moment {
    returned: bool,
    saved: Vec<Result<u64, Fault>>,
}

impl Env for Moment {
    fn arg(&self, n: u8) -> Result<u64, Fault> {
        assert!(!self.returned, "arguments are gone at the return");
        Ok(100 + u64::from(n))
    }
    fn reg(&self, n: u8) -> u64 {
        assert!(!self.returned, "registers are others at the return");
        200 + u64::from(n)
    }
    fn retval(&self) -> u64 {
        assert!(self.returned);
        -5i64 as u64
    }
    fn latency(&self) -> u64 {
        assert!(self.returned);
        2_000_000
    }
    fn depth(&self) -> u64 {
        assert!(self.returned);
        3
    }
    fn self_time(&self) -> u64 {
        assert!(self.returned);
        500_000
    }
    fn parent(&self) -> u64 {
        assert!(self.returned);
        1 + (2 << 32 | 4)
    }
    fn builtin(&self, _: b::Builtin) -> u64 {
        if self.returned { 78 } else { 77 }
    }
    fn saved(&self, index: u16) -> Result<u64, Fault> {
        self.saved[usize::from(index)]
    }
    fn comm(&self) -> [u8; 16] {
        *b"King\0\0\0\0\0\0\0\0\0\0\0\0"
    }
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), Fault> {
        // Each address holds itself, and one more once the call has returned.
        let value = addr + u64::from(self.returned);
        let len = buf.len();
        buf.copy_from_slice(&value.to_le_bytes()[..len]);
        Ok(())
    }
    fn read_str(&self, _: u64, _: usize) -> Result<Vec<u8>, Fault> {
        Ok(if self.returned {
            b"after".to_vec()
        } else {
            b"before".to_vec()
        })
    }
}

fn parsed(text: &str, call: bool) -> Expr {
    let scope = if call { Scope::call() } else { Scope::entry() };
    parse_expr(&Source::new("test", text), &scope).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn run_saved(low: &Lowering) -> Moment {
    let entry = Moment {
        returned: false,
        saved: vec![],
    };
    let saved = low.saved.iter().map(|c| match c {
        Capture::Int(e) => eval(e, &entry),
        _ => Ok(0),
    });
    Moment {
        returned: true,
        saved: saved.collect(),
    }
}

/// What an expression is in a call's return part.
fn in_call(text: &str) -> i64 {
    let mut low = Lowering {
        call: true,
        ..Lowering::default()
    };
    let lowered = low.scalar(&parsed(text, true));
    eval(&lowered, &run_saved(&low)).expect(text) as i64
}

#[test]
fn in_a_call_memory_is_read_at_entry_unless_after_says_otherwise() {
    assert_eq!(in_call("arg1"), 101);
    assert_eq!(in_call("*(u32*)(arg1 + 4)"), 105);
    assert_eq!(in_call("after(*(u32*)(arg1 + 4))"), 106);
    assert_eq!(in_call("retval == -5 ? after(*(u64*)arg0) : 0"), 101);
    assert_eq!(in_call("retval + (i64)arg0"), 95);
    assert_eq!(in_call("nsecs"), 77, "the entry's time");
    assert_eq!(in_call("reg(\"rdi\")"), 205);
    assert_eq!(in_call("retval + (i64)reg(\"rax\")"), 195);
    assert_eq!(in_call("after(*(u32*)reg(\"rdi\"))"), 206);
    assert_eq!(in_call("retval + (i64)nsecs"), 72);
    assert_eq!(in_call("latency > 1ms || str(arg0) == \"never\""), 1);
    assert_eq!(in_call("latency > 1s || str(arg0) == \"before\""), 1);
    assert_eq!(in_call("latency > 1s || comm == \"King\""), 1);
    assert_eq!(in_call("latency > 1s || after(str(arg0)) == \"after\""), 1);
}

#[test]
fn what_a_call_knows_of_others_is_known_at_its_return() {
    assert_eq!(in_call("depth"), 3);
    assert_eq!(in_call("self"), 500_000);
    assert_eq!(in_call("latency - self + arg1"), 1_500_101);
    assert_eq!(in_call("parent"), 1 + (2 << 32 | 4));
    let mut low = Lowering {
        call: true,
        ..Lowering::default()
    };
    let filter = parsed("arg0 == 100 && depth == 3 && self < 1ms", true);
    let (early, late) = low.split_filter(&filter);
    assert!(early.is_some());
    assert_eq!(eval(&late.expect("two parts"), &run_saved(&low)), Ok(1));
    assert_eq!(
        low.plain_key(&parsed("parent", true)),
        Some(KeyPart::Int(B::Parent))
    );
    assert_eq!(
        low.capture(&parsed("parent", true)),
        Capture::Int(B::Parent)
    );
    assert_eq!(
        low.capture(&parsed("self", true)),
        Capture::Int(B::SelfTime)
    );
}

#[test]
fn what_can_be_decided_at_entry_is() {
    let mut low = Lowering {
        call: true,
        ..Lowering::default()
    };
    let (early, late) = low.split_filter(&parsed(
        "arg0 == 100 && latency > 1ms && *(u8*)arg1 == 101",
        true,
    ));
    let entry = Moment {
        returned: false,
        saved: vec![],
    };
    assert_eq!(eval(&early.expect("two parts"), &entry), Ok(1));
    assert_eq!(eval(&late.expect("one part"), &run_saved(&low)), Ok(1));
    assert!(
        low.saved.is_empty(),
        "the late part needs nothing of the entry"
    );
    let (early, late) = low.split_filter(&parsed("arg0 == 7 || latency > 1ms", true));
    assert!(early.is_none());
    assert_eq!(eval(&late.expect("the whole"), &run_saved(&low)), Ok(1));
}

#[test]
fn texts_are_keys_by_their_nul_their_array_or_their_length() {
    let key = |text: &str| Lowering::default().plain_key(&parsed(text, false));
    assert!(matches!(
        key("str(arg0)"),
        Some(KeyPart::Str {
            len: None,
            limit: KEY_TEXT,
            ..
        })
    ));
    assert!(matches!(
        key("str(arg0, arg1)"),
        Some(KeyPart::Str {
            len: Some(B::Arg(1)),
            limit: KEY_TEXT,
            ..
        })
    ));
    assert!(matches!(
        key("chars(arg0, 16)"),
        Some(KeyPart::Str {
            len: None,
            limit: 16,
            ..
        })
    ));
    assert_eq!(key("buf(arg0, 4)"), None);
    let mut low = Lowering {
        text_limit: 64,
        ..Lowering::default()
    };
    let captured = low.capture(&parsed("chars(arg0, 16)", false));
    assert!(matches!(
        captured,
        Capture::Str {
            len: None,
            limit: 16,
            ..
        }
    ));
}

#[test]
fn the_same_value_is_saved_once() {
    let mut low = Lowering {
        call: true,
        ..Lowering::default()
    };
    low.scalar(&parsed("arg0 + arg0 * (u64)retval + arg0", true));
    assert_eq!(low.saved.len(), 1);
}

#[test]
fn texts_of_an_entry_are_captured_there() {
    let mut low = Lowering {
        call: true,
        text_limit: 64,
        ..Lowering::default()
    };
    assert_eq!(low.capture(&parsed("str(arg0)", true)), Capture::Saved(0));
    assert!(matches!(
        &low.saved[0],
        Capture::Str {
            limit: 64,
            len: None,
            ..
        }
    ));
    let late = low.capture(&parsed("buf(arg1, retval)", true));
    assert!(
        matches!(
            &late,
            Capture::Buf {
                addr: B::Saved(1),
                len: B::Retval,
                ..
            }
        ),
        "{late:?}"
    );
    let entry = Lowering {
        text_limit: 64,
        ..Lowering::default()
    }
    .capture(&parsed("str(arg0, 8)", false));
    assert!(
        matches!(
            &entry,
            Capture::Str {
                addr: B::Arg(0),
                len: Some(_),
                ..
            }
        ),
        "{entry:?}"
    );
}
