//! From an expression to instructions.
//!
//! The value ends in R0; R6 (registers of the task), R7, R8 (the call's frame, where there is
//! one) and R9 survive. Left operands wait on the stack while the right side is computed, unless
//! one side is a leaf. A fault jumps to the label that the caller gives.

use super::input::Space;
use super::share::Shared;
use super::{BinOp, Builtin, BytesSource, Expr, IntType, MAX_LITERAL, Phase, Spent, UnOp};
use crate::arch;
use crate::asm::{Alu, Asm, Cmp, Label, Reg, Size};
use crate::helper;
use crate::layout::{RecordLayout, Slot, header, spent};
use crate::spec::On;

use Reg::{R0, R1, R2, R3, R4, R6, R8, R10};

/// Stack that a program may use: BPF has 512 bytes; tests that run programs outside the kernel
/// need the last word.
const STACK: i16 = 504;
/// Nesting that the compiler follows; deeper trees would overflow its own stack.
const MAX_DEPTH: u32 = 200;

/// Why something cannot be compiled.
pub(crate) type Reason = String;

/// Where on the stack it is said what is known of a call's place among others, at the return.
#[derive(Clone, Copy)]
pub(crate) struct Chained(pub i16);

impl Chained {
    /// Words from there on. The first two: not 0 if the rest is known.
    pub const KNOWS_PLACE: i16 = 0;
    pub const KNOWS_TIME: i16 = 8;
    pub const DEPTH: i16 = 16;
    pub const PARENT: i16 = 24;
    pub const OWN_TIME: i16 = 32;
    pub const SIZE: i16 = 40;
}

/// Emits instructions; knows the stack and where an expression's inputs are.
pub(crate) struct Emitter<'a> {
    pub asm: Asm,
    used: i16,
    depth: u32,
    pub phase: Phase,
    pub(super) on: On,
    /// Stack slots of what fentry or fexit was given, and how many: the arguments at entry, the
    /// return value at the return.
    pub given: Option<(i16, u8)>,
    /// Stack slot of the latency, at the return.
    pub latency: Option<i16>,
    /// Stack slot of a word that is not 0 where the call ended by a jump; none: it returned.
    pub jumped: Option<i16>,
    pub chained: Option<Chained>,
    /// Layout of the frame in R8, at the return.
    pub frame: Option<&'a RecordLayout>,
    pub(super) shared: Shared,
}

impl<'a> Emitter<'a> {
    pub fn new(on: On, phase: Phase) -> Emitter<'a> {
        Emitter {
            asm: Asm::default(),
            used: 0,
            depth: 0,
            phase,
            on,
            given: None,
            latency: None,
            jumped: None,
            chained: None,
            frame: None,
            shared: Shared::default(),
        }
    }

    /// Takes `bytes` of stack (a multiple of 8); returns its offset from R10.
    pub fn take(&mut self, bytes: i16) -> Result<i16, Reason> {
        if bytes > STACK - self.used {
            return Err(
                "too deep: its intermediate values do not fit into BPF's 512 bytes of stack".into(),
            );
        }
        self.used += bytes;
        Ok(-self.used)
    }

    /// Gives back what was taken last.
    pub fn give(&mut self, bytes: i16) {
        self.used -= bytes;
    }

    /// `dst` = address of stack memory.
    pub fn stack(&mut self, dst: Reg, offset: i16) {
        self.asm.mov(dst, R10);
        self.asm.alu_imm(Alu::Add, dst, offset.into());
    }

    /// Evaluates `expr` into R0.
    pub fn expr(&mut self, expr: &Expr, fault: Label) -> Result<(), Reason> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("too deep: more than {MAX_DEPTH} nested operations"));
        }
        let done = self.node(expr, fault);
        self.depth -= 1;
        done
    }

    fn node(&mut self, expr: &Expr, fault: Label) -> Result<(), Reason> {
        if self.leaf(expr, R0)? {
            return Ok(());
        }
        match expr {
            Expr::Retval => {
                if let Some(slot) = self.jumped {
                    self.asm.load(Size::DW, R0, R10, slot);
                    self.asm.jump_if_imm(Cmp::Ne, R0, 0, fault);
                }
                let (base, offset) = self.retval()?;
                self.asm.load(Size::DW, R0, base, offset);
            }
            Expr::Const(_) | Expr::Reg(_) | Expr::Latency => {}
            Expr::Field { offset, ty } => {
                // Not aligned: the verifier lets no program load it from the record.
                self.context()?;
                self.asm.alu_imm(Alu::Add, R0, i32::from(*offset));
                self.asm.mov(R3, R0);
                let slot = self.take(8)?;
                self.read_kernel(slot, ty.bytes() as u64);
                self.load(*ty, R0, R10, slot);
                self.give(8);
            }
            Expr::Context => self.context()?,
            Expr::Task => self.asm.call(helper::GET_CURRENT_TASK),
            Expr::Spent(on) => self.spent(*on, fault)?,
            Expr::Depth => self.chained(Chained::DEPTH, Chained::KNOWS_PLACE, fault)?,
            Expr::Parent => self.chained(Chained::PARENT, Chained::KNOWS_PLACE, fault)?,
            Expr::SelfTime => self.chained(Chained::OWN_TIME, Chained::KNOWS_TIME, fault)?,
            Expr::Arg(n) => {
                self.asm.load(Size::DW, R0, R6, arch::SP);
                self.asm.alu_imm(Alu::Add, R0, arch::stack_arg(*n));
                let space = match self.on {
                    On::Program => Space::User,
                    On::Kernel(_) => Space::Told,
                };
                self.read(IntType::U64, space, fault)?;
            }
            Expr::Builtin(which) => self.builtin(*which),
            Expr::Saved(index) => self.saved(*index, fault)?,
            Expr::Load { addr, ty } => {
                check_type(*ty)?;
                self.expr(addr, fault)?;
                self.read(*ty, self.space(addr), fault)?;
                self.keep(expr);
            }
            Expr::Unary(op, e) => {
                self.expr(e, fault)?;
                match op {
                    UnOp::Neg => {
                        self.asm.mov(R1, R0);
                        self.asm.constant(R0, 0);
                        self.asm.alu(Alu::Sub, R0, R1);
                    }
                    UnOp::BitNot => self.asm.alu_imm(Alu::Xor, R0, -1),
                    UnOp::LogNot => {
                        self.asm.constant(R1, 0);
                        self.truth(Cmp::Eq);
                    }
                }
            }
            Expr::Binary { op, signed, a, b } => self.binary(*op, *signed, a, b, fault)?,
            Expr::Cast { ty, e } => {
                check_type(*ty)?;
                self.expr(e, fault)?;
                self.fit(*ty, R0);
            }
            Expr::Swap { bits, e } => {
                if !matches!(bits, 16 | 32 | 64) {
                    return Err(format!("the bytes of {bits} bits cannot be swapped"));
                }
                self.expr(e, fault)?;
                self.asm.swap(R0, *bits);
            }
            Expr::Cond(c, a, b) => {
                let (other, end) = (self.asm.label(), self.asm.label());
                self.expr(c, fault)?;
                self.asm.jump_if_imm(Cmp::Eq, R0, 0, other);
                let scope = self.scope();
                self.expr(a, fault)?;
                self.end_scope(scope);
                self.asm.jump(end);
                self.asm.bind(other);
                self.expr(b, fault)?;
                self.end_scope(scope);
                self.asm.bind(end);
            }
            Expr::BytesEq { what, literal } => self.bytes_eq(what, literal, fault)?,
        }
        Ok(())
    }

    /// R0 = a word of what is known of the call's place among others.
    fn chained(&mut self, word: i16, known: i16, fault: Label) -> Result<(), Reason> {
        let Some(Chained(at)) = self.chained.filter(|_| self.phase == Phase::Return) else {
            return Err("depth, own time and parent are those of a call, at its return".into());
        };
        self.asm.load(Size::DW, R0, R10, at + known);
        self.asm.jump_if_imm(Cmp::Eq, R0, 0, fault);
        self.asm.load(Size::DW, R0, R10, at + word);
        Ok(())
    }

    /// R0 = what of the latency went to this, by the frame in R8.
    fn spent(&mut self, on: Spent, fault: Label) -> Result<(), Reason> {
        let frame = self.frame.filter(|_| self.phase == Phase::Return);
        let Some(at) = frame.and_then(RecordLayout::spent) else {
            return Err("where the time went is known of a call, at its return".into());
        };
        self.asm.load(Size::DW, R0, R8, at + spent::KNOWN);
        self.asm.jump_if_imm(Cmp::Eq, R0, 0, fault);
        self.asm.load(Size::DW, R0, R8, at + spent::of(on));
        Ok(())
    }

    fn builtin(&mut self, which: Builtin) {
        let asm = &mut self.asm;
        let (number, half) = match which {
            Builtin::Pid => (helper::GET_CURRENT_PID_TGID, Some(true)),
            Builtin::Tid => (helper::GET_CURRENT_PID_TGID, Some(false)),
            Builtin::Uid => (helper::GET_CURRENT_UID_GID, Some(false)),
            Builtin::Gid => (helper::GET_CURRENT_UID_GID, Some(true)),
            Builtin::Cgroup => (helper::GET_CURRENT_CGROUP_ID, None),
            Builtin::Nsecs => (helper::KTIME_GET_NS, None),
            Builtin::Cpu => (helper::GET_SMP_PROCESSOR_ID, Some(false)),
        };
        asm.call(number);
        if half == Some(false) {
            asm.alu_imm(Alu::Lsh, R0, 32);
        }
        if half.is_some() {
            asm.alu_imm(Alu::Rsh, R0, 32);
        }
    }

    fn saved(&mut self, index: u16, fault: Label) -> Result<(), Reason> {
        let Some(frame) = self.frame.filter(|_| self.phase == Phase::Return) else {
            return Err("nothing is saved here".into());
        };
        let slot = usize::from(index);
        if slot >= frame.saved || frame.slots[slot] != Slot::Int {
            return Err(format!("capture {index} at entry is not an integer"));
        }
        let at = frame.slot(slot);
        self.asm.load(Size::DW, R0, R8, header::FAULTS);
        self.asm.alu_imm(Alu::Rsh, R0, i32::from(index));
        self.asm.alu_imm(Alu::And, R0, 1);
        self.asm.jump_if_imm(Cmp::Ne, R0, 0, fault);
        self.asm.load(Size::DW, R0, R8, at);
        Ok(())
    }

    pub(super) fn fit(&mut self, ty: IntType, dst: Reg) {
        if ty.bits >= 64 {
            return;
        }
        let shift = 64 - i32::from(ty.bits);
        self.asm.alu_imm(Alu::Lsh, dst, shift);
        let back = if ty.signed { Alu::Arsh } else { Alu::Rsh };
        self.asm.alu_imm(back, dst, shift);
    }

    /// R0 = R0 `cmp` R1.
    fn truth(&mut self, cmp: Cmp) {
        let (yes, end) = (self.asm.label(), self.asm.label());
        self.asm.jump_if(cmp, R0, R1, yes);
        self.asm.constant(R0, 0);
        self.asm.jump(end);
        self.asm.bind(yes);
        self.asm.constant(R0, 1);
        self.asm.bind(end);
    }

    fn binary(
        &mut self,
        op: BinOp,
        signed: bool,
        a: &Expr,
        b: &Expr,
        fault: Label,
    ) -> Result<(), Reason> {
        if let BinOp::LogAnd | BinOp::LogOr = op {
            return self.logic(op == BinOp::LogOr, a, b, fault);
        }
        if self.is_leaf(b) {
            self.expr(a, fault)?;
            self.leaf(b, R1)?;
        } else if self.is_leaf(a) {
            self.expr(b, fault)?;
            self.asm.mov(R1, R0);
            self.leaf(a, R0)?;
        } else {
            self.expr(a, fault)?;
            let slot = self.take(8)?;
            self.asm.store(Size::DW, R10, slot, R0);
            self.expr(b, fault)?;
            self.asm.mov(R1, R0);
            self.asm.load(Size::DW, R0, R10, slot);
            self.give(8);
        }
        self.operate(op, signed);
        Ok(())
    }

    fn logic(&mut self, or: bool, a: &Expr, b: &Expr, fault: Label) -> Result<(), Reason> {
        let (decided, end) = (self.asm.label(), self.asm.label());
        let decides = if or { Cmp::Ne } else { Cmp::Eq };
        self.expr(a, fault)?;
        self.asm.jump_if_imm(decides, R0, 0, decided);
        let scope = self.scope();
        self.expr(b, fault)?;
        self.end_scope(scope);
        self.asm.jump_if_imm(decides, R0, 0, decided);
        self.asm.constant(R0, u64::from(!or));
        self.asm.jump(end);
        self.asm.bind(decided);
        self.asm.constant(R0, u64::from(or));
        self.asm.bind(end);
        Ok(())
    }

    /// R0 = R0 `op` R1.
    fn operate(&mut self, op: BinOp, signed: bool) {
        let simple = match op {
            BinOp::Add => Alu::Add,
            BinOp::Sub => Alu::Sub,
            BinOp::Mul => Alu::Mul,
            BinOp::And => Alu::And,
            BinOp::Or => Alu::Or,
            BinOp::Xor => Alu::Xor,
            BinOp::Div | BinOp::Rem if signed => return self.signed_division(op == BinOp::Rem),
            BinOp::Div => Alu::Div,
            BinOp::Rem => Alu::Mod,
            BinOp::Shl | BinOp::Shr => {
                self.asm.alu_imm(Alu::And, R1, 63);
                match op {
                    BinOp::Shl => Alu::Lsh,
                    _ if signed => Alu::Arsh,
                    _ => Alu::Rsh,
                }
            }
            BinOp::Eq => return self.truth(Cmp::Eq),
            BinOp::Ne => return self.truth(Cmp::Ne),
            BinOp::Lt => return self.truth(if signed { Cmp::Slt } else { Cmp::Lt }),
            BinOp::Le => return self.truth(if signed { Cmp::Sle } else { Cmp::Le }),
            BinOp::Gt => return self.truth(if signed { Cmp::Sgt } else { Cmp::Gt }),
            BinOp::Ge => return self.truth(if signed { Cmp::Sge } else { Cmp::Ge }),
            // Handled where short-circuiting is known.
            BinOp::LogAnd | BinOp::LogOr => return,
        };
        self.asm.alu(simple, R0, R1);
    }

    /// BPF has signed division only from Linux 6.6: divide magnitudes, then put the sign on. The
    /// quotient's sign is that of `a ^ b`, the remainder's that of `a`.
    fn signed_division(&mut self, remainder: bool) {
        self.asm.mov(R2, R0);
        if !remainder {
            self.asm.alu(Alu::Xor, R2, R1);
        }
        for reg in [R0, R1] {
            let positive = self.asm.label();
            self.asm.jump_if_imm(Cmp::Sge, reg, 0, positive);
            self.negate(reg);
            self.asm.bind(positive);
        }
        let op = if remainder { Alu::Mod } else { Alu::Div };
        self.asm.alu(op, R0, R1);
        let done = self.asm.label();
        self.asm.jump_if_imm(Cmp::Sge, R2, 0, done);
        self.negate(R0);
        self.asm.bind(done);
    }

    /// `reg` = -`reg`, by way of R4.
    fn negate(&mut self, reg: Reg) {
        self.asm.mov(R4, reg);
        self.asm.constant(reg, 0);
        self.asm.alu(Alu::Sub, reg, R4);
    }

    fn bytes_eq(&mut self, what: &BytesSource, literal: &[u8], fault: Label) -> Result<(), Reason> {
        if literal.len() > MAX_LITERAL {
            return Err(format!(
                "the literal has {} bytes, at most {MAX_LITERAL} can be compared",
                literal.len()
            ));
        }
        let (differ, end) = (self.asm.label(), self.asm.label());
        let area;
        let slot;
        // Compared with its NUL, which ends the thread's name; a string's length is known.
        let mut wanted = literal.to_vec();
        match what {
            BytesSource::Comm => {
                if literal.len() > 15 || literal.contains(&0) {
                    self.asm.constant(R0, 0);
                    return Ok(());
                }
                area = 16;
                slot = self.take(area)?;
                self.stack(R1, slot);
                self.asm.constant(R2, 16);
                self.asm.call(helper::GET_CURRENT_COMM);
                wanted.push(0);
            }
            BytesSource::Str { addr } => {
                self.expr(addr, fault)?;
                let room = literal.len() as i16 + 2;
                area = (room + 7) / 8 * 8;
                slot = self.take(area)?;
                self.asm.mov(R3, R0);
                self.asm.constant(R2, room as u64);
                self.stack(R1, slot);
                self.read_text(self.space(addr));
                self.asm.jump_if_imm(Cmp::Slt, R0, 0, fault);
                // (On 5.10 and 6.1 an empty string is 0 bytes long, without its NUL.)
                match literal.len() as i32 + 1 {
                    1 => self.asm.jump_if_imm(Cmp::Gt, R0, 1, differ),
                    size => self.asm.jump_if_imm(Cmp::Ne, R0, size, differ),
                }
            }
        }
        self.compare(slot, &wanted, differ);
        self.asm.constant(R0, 1);
        self.asm.jump(end);
        self.asm.bind(differ);
        self.asm.constant(R0, 0);
        self.asm.bind(end);
        self.give(area);
        Ok(())
    }

    /// Jumps to `differ` unless stack memory holds `wanted`.
    fn compare(&mut self, slot: i16, wanted: &[u8], differ: Label) {
        let mut at = 0;
        while at < wanted.len() {
            let (size, width) = match wanted.len() - at {
                8.. => (Size::DW, 8),
                4.. => (Size::W, 4),
                2.. => (Size::H, 2),
                _ => (Size::B, 1),
            };
            let mut word = [0u8; 8];
            word[..width].copy_from_slice(&wanted[at..at + width]);
            self.asm.load(size, R0, R10, slot + at as i16);
            self.asm.constant(R1, u64::from_le_bytes(word));
            self.asm.jump_if(Cmp::Ne, R0, R1, differ);
            at += width;
        }
    }
}

pub(super) fn check_type(ty: IntType) -> Result<(), Reason> {
    match ty.bits {
        8 | 16 | 32 | 64 => Ok(()),
        bits => Err(format!("there is no integer of {bits} bits")),
    }
}
