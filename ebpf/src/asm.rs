//! An assembler for BPF: instructions, labels, references to maps and kernel functions.
//!
//! Encodings are those of the kernel's Documentation/bpf/standardization/instruction-set.rst.

/// A register. R6 to R9 survive calls of helpers; R10 is the frame pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Reg {
    R0 = 0,
    R1,
    R2,
    R3,
    R4,
    R6 = 6,
    R7,
    R8,
    R9,
    R10,
}

/// One encoded instruction (a 64-bit constant takes two).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(crate) struct Insn {
    pub code: u8,
    /// Destination in the low half, source in the high half.
    pub regs: u8,
    pub off: i16,
    pub imm: i32,
}

impl Insn {
    pub fn bytes(self) -> [u8; 8] {
        let (off, imm) = (self.off.to_le_bytes(), self.imm.to_le_bytes());
        [
            self.code, self.regs, off[0], off[1], imm[0], imm[1], imm[2], imm[3],
        ]
    }
}

/// Instruction codes that others need to recognise.
pub(crate) mod code {
    pub const LD_IMM64: u8 = 0x18;
    pub const CALL: u8 = 0x85;
    pub const EXIT: u8 = 0x95;
    pub const JA: u8 = 0x05;
    /// ALU | END | TO_BE.
    pub const TO_BE: u8 = 0xdc;
    /// STX | ATOMIC | DW.
    pub const ATOMIC64: u8 = 0xdb;
    /// Source register of a LD_IMM64 that names a map by its descriptor.
    pub const PSEUDO_MAP_FD: u8 = 1;
    /// ... an address in a map's value.
    pub const PSEUDO_MAP_VALUE: u8 = 2;
    /// Source register of a CALL of a kernel function by its BTF id.
    pub const PSEUDO_KFUNC: u8 = 2;
    /// Immediates of ATOMIC64.
    pub const ADD: i32 = 0x00;
    pub const FETCH: i32 = 0x01;
    pub const XCHG: i32 = 0xe1;
    pub const CMPXCHG: i32 = 0xf1;
}

/// 64-bit arithmetic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Alu {
    Add = 0x00,
    Sub = 0x10,
    Mul = 0x20,
    Div = 0x30,
    Or = 0x40,
    And = 0x50,
    Lsh = 0x60,
    Rsh = 0x70,
    Mod = 0x90,
    Xor = 0xa0,
    Mov = 0xb0,
    Arsh = 0xc0,
}

/// 64-bit comparisons of conditional jumps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Cmp {
    Eq = 0x10,
    Gt = 0x20,
    Ge = 0x30,
    Ne = 0x50,
    Sgt = 0x60,
    Sge = 0x70,
    Lt = 0xa0,
    Le = 0xb0,
    Slt = 0xc0,
    Sle = 0xd0,
}

/// Width of a memory access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Size {
    W = 0x00,
    H = 0x08,
    B = 0x10,
    DW = 0x18,
}

/// A map that a program uses; the loader puts in its descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum MapRef {
    /// Counters, unkeyed histograms, control words.
    State,
    /// The ring buffer.
    Ring,
    /// Scratch memory for records.
    Scratch,
    /// The probe's open calls.
    Frames,
    /// The same, with their threads.
    Kept,
    /// The probe's keyed aggregation.
    Table,
    /// Stacks that are parts of keys.
    Stacks,
    /// What runs on each thread.
    Running,
    /// Where each lane's innermost open call is.
    Tops,
    /// The open calls and which is around which.
    Chain,
    /// The processes in which probes on the kernel count.
    Pids,
    /// The clocks of threads whose calls are followed.
    Threads,
    /// What threads wait for, by the number of the system call that they are in.
    Syscalls,
}

/// A kernel function called by its BTF id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Kfunc {
    SessionIsReturn,
    SessionCookie,
}

impl Kfunc {
    pub const ALL: [Kfunc; 2] = [Kfunc::SessionIsReturn, Kfunc::SessionCookie];

    pub fn name(self) -> &'static str {
        match self {
            Kfunc::SessionIsReturn => "bpf_session_is_return",
            Kfunc::SessionCookie => "bpf_session_cookie",
        }
    }
}

/// A place to jump to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Label(usize);

/// A finished program; maps and kernel functions are still names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Code {
    pub insns: Vec<Insn>,
    pub maps: Vec<(usize, MapRef)>,
    pub kfuncs: Vec<(usize, Kfunc)>,
}

/// Collects instructions.
#[derive(Default)]
pub(crate) struct Asm {
    insns: Vec<Insn>,
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
    maps: Vec<(usize, MapRef)>,
    kfuncs: Vec<(usize, Kfunc)>,
}

impl Asm {
    fn push(&mut self, code: u8, dst: u8, src: u8, off: i16, imm: i32) {
        self.insns.push(Insn {
            code,
            regs: dst | src << 4,
            off,
            imm,
        });
    }

    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Puts `label` here.
    pub fn bind(&mut self, label: Label) {
        self.labels[label.0] = Some(self.insns.len());
    }

    pub fn alu(&mut self, op: Alu, dst: Reg, src: Reg) {
        self.push(0x0f | op as u8, dst as u8, src as u8, 0, 0);
    }

    /// The immediate is sign-extended.
    pub fn alu_imm(&mut self, op: Alu, dst: Reg, imm: i32) {
        self.push(0x07 | op as u8, dst as u8, 0, 0, imm);
    }

    pub fn mov(&mut self, dst: Reg, src: Reg) {
        self.alu(Alu::Mov, dst, src);
    }

    /// Reverses the order of the low 16, 32 or 64 bits' bytes, and clears what is above them: to
    /// big endian, as all of this runs on little-endian machines.
    pub fn swap(&mut self, dst: Reg, bits: u8) {
        self.push(code::TO_BE, dst as u8, 0, 0, bits.into());
    }

    /// Loads a constant in the shortest way.
    pub fn constant(&mut self, dst: Reg, value: u64) {
        match i32::try_from(value as i64) {
            Ok(imm) => self.alu_imm(Alu::Mov, dst, imm),
            Err(_) => self.wide(dst, 0, value as i32, (value >> 32) as i32),
        }
    }

    fn wide(&mut self, dst: Reg, src: u8, low: i32, high: i32) {
        self.push(code::LD_IMM64, dst as u8, src, 0, low);
        self.push(0, 0, 0, 0, high);
    }

    /// The map itself, for a helper.
    pub fn map(&mut self, dst: Reg, map: MapRef) {
        self.maps.push((self.insns.len(), map));
        self.wide(dst, code::PSEUDO_MAP_FD, 0, 0);
    }

    /// The address of byte `offset` of the map's only value.
    pub fn map_value(&mut self, dst: Reg, map: MapRef, offset: u32) {
        self.maps.push((self.insns.len(), map));
        self.wide(dst, code::PSEUDO_MAP_VALUE, 0, offset as i32);
    }

    pub fn load(&mut self, size: Size, dst: Reg, base: Reg, off: i16) {
        self.push(0x61 | size as u8, dst as u8, base as u8, off, 0);
    }

    pub fn store(&mut self, size: Size, base: Reg, off: i16, src: Reg) {
        self.push(0x63 | size as u8, base as u8, src as u8, off, 0);
    }

    pub fn store_imm(&mut self, size: Size, base: Reg, off: i16, imm: i32) {
        self.push(0x62 | size as u8, base as u8, 0, off, imm);
    }

    /// `*(u64 *)(base + off) += src`, atomically.
    pub fn atomic_add(&mut self, base: Reg, off: i16, src: Reg) {
        self.push(code::ATOMIC64, base as u8, src as u8, off, code::ADD);
    }

    /// The same, and `src` becomes the old value. Linux 5.12.
    pub fn atomic_fetch_add(&mut self, base: Reg, off: i16, src: Reg) {
        self.push(
            code::ATOMIC64,
            base as u8,
            src as u8,
            off,
            code::ADD | code::FETCH,
        );
    }

    /// Swaps `src` with memory. Linux 5.12.
    pub fn atomic_xchg(&mut self, base: Reg, off: i16, src: Reg) {
        self.push(code::ATOMIC64, base as u8, src as u8, off, code::XCHG);
    }

    /// If memory equals R0 it becomes `src`; R0 becomes the old value. Linux 5.12.
    pub fn atomic_cmpxchg(&mut self, base: Reg, off: i16, src: Reg) {
        self.push(code::ATOMIC64, base as u8, src as u8, off, code::CMPXCHG);
    }

    pub fn jump(&mut self, to: Label) {
        self.jumps.push((self.insns.len(), to));
        self.push(code::JA, 0, 0, 0, 0);
    }

    pub fn jump_if(&mut self, op: Cmp, a: Reg, b: Reg, to: Label) {
        self.jumps.push((self.insns.len(), to));
        self.push(0x0d | op as u8, a as u8, b as u8, 0, 0);
    }

    /// The immediate is sign-extended.
    pub fn jump_if_imm(&mut self, op: Cmp, a: Reg, imm: i32, to: Label) {
        self.jumps.push((self.insns.len(), to));
        self.push(0x05 | op as u8, a as u8, 0, 0, imm);
    }

    pub fn call(&mut self, helper: u32) {
        self.push(code::CALL, 0, 0, 0, helper as i32);
    }

    pub fn call_kfunc(&mut self, kfunc: Kfunc) {
        self.kfuncs.push((self.insns.len(), kfunc));
        self.push(code::CALL, 0, code::PSEUDO_KFUNC, 0, 0);
    }

    pub fn exit(&mut self) {
        self.push(code::EXIT, 0, 0, 0, 0);
    }

    /// Resolves the labels and leaves out what cannot be reached, which the verifier refuses.
    pub fn finish(mut self) -> Result<Code, String> {
        let mut targets = vec![None; self.insns.len()];
        for (at, label) in &self.jumps {
            let Some(Some(target)) = self.labels.get(label.0) else {
                return Err("a jump without a target".into());
            };
            targets[*at] = Some(*target);
        }
        let kept = self.reachable(&targets);
        // Old position -> new position; one more for the end.
        let mut moved = Vec::with_capacity(kept.len() + 1);
        let mut next = 0usize;
        for keep in &kept {
            moved.push(next);
            next += usize::from(*keep);
        }
        moved.push(next);
        for (at, target) in targets.iter().enumerate() {
            let (true, Some(target)) = (kept[at], target) else {
                continue;
            };
            let distance = moved[*target] as i64 - moved[at] as i64 - 1;
            self.insns[at].off =
                i16::try_from(distance).map_err(|_| format!("too long: {next} instructions"))?;
        }
        let mut keep = kept.iter();
        self.insns.retain(|_| keep.next().copied().unwrap_or(false));
        let live = |at: usize| kept[at].then(|| moved[at]);
        Ok(Code {
            maps: self
                .maps
                .iter()
                .filter_map(|(at, m)| Some((live(*at)?, *m)))
                .collect(),
            kfuncs: self
                .kfuncs
                .iter()
                .filter_map(|(at, k)| Some((live(*at)?, *k)))
                .collect(),
            insns: self.insns,
        })
    }

    /// Which instructions control can reach.
    fn reachable(&self, targets: &[Option<usize>]) -> Vec<bool> {
        let mut seen = vec![false; self.insns.len()];
        let mut open = vec![0];
        while let Some(mut at) = open.pop() {
            while at < seen.len() && !seen[at] {
                seen[at] = true;
                if let Some(target) = targets[at] {
                    open.push(target);
                }
                match self.insns[at].code {
                    code::EXIT | code::JA => break,
                    code::LD_IMM64 => {
                        if let Some(second) = seen.get_mut(at + 1) {
                            *second = true;
                        }
                        at += 2;
                    }
                    _ => at += 1,
                }
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_as_the_kernel_documents() {
        let mut asm = Asm::default();
        let end = asm.label();
        asm.mov(Reg::R6, Reg::R1);
        asm.constant(Reg::R1, 0x1_0000_0000);
        asm.load(Size::DW, Reg::R0, Reg::R6, 112);
        asm.store(Size::W, Reg::R10, -8, Reg::R0);
        asm.jump_if_imm(Cmp::Eq, Reg::R0, 0, end);
        asm.atomic_add(Reg::R7, 16, Reg::R1);
        asm.bind(end);
        asm.exit();
        let code = asm.finish().unwrap();
        let words: Vec<[u8; 8]> = code.insns.iter().map(|i| i.bytes()).collect();
        assert_eq!(
            words,
            [
                [0xbf, 0x16, 0, 0, 0, 0, 0, 0],
                [0x18, 0x01, 0, 0, 0, 0, 0, 0],
                [0, 0, 0, 0, 1, 0, 0, 0],
                [0x79, 0x60, 112, 0, 0, 0, 0, 0],
                [0x63, 0x0a, 0xf8, 0xff, 0, 0, 0, 0],
                [0x15, 0x00, 1, 0, 0, 0, 0, 0],
                [0xdb, 0x17, 16, 0, 0, 0, 0, 0],
                [0x95, 0, 0, 0, 0, 0, 0, 0],
            ]
        );
    }

    #[test]
    fn a_jump_too_far_is_an_error() {
        let mut asm = Asm::default();
        let end = asm.label();
        asm.jump(end);
        let back = asm.label();
        asm.bind(back);
        for _ in 0..40000 {
            asm.constant(Reg::R0, 0);
        }
        asm.exit();
        asm.bind(end);
        asm.jump(back);
        assert!(asm.finish().unwrap_err().contains("too long"));
        let mut asm = Asm::default();
        let nowhere = asm.label();
        asm.jump(nowhere);
        assert!(asm.finish().is_err());
    }

    #[test]
    fn unreachable_code_is_left_out() {
        let mut asm = Asm::default();
        let end = asm.label();
        asm.jump(end);
        asm.map(Reg::R1, MapRef::Ring);
        asm.bind(end);
        asm.map(Reg::R1, MapRef::State);
        asm.exit();
        let code = asm.finish().unwrap();
        assert_eq!(code.insns.len(), 4);
        assert_eq!(code.insns[0].off, 0);
        assert_eq!(code.maps, [(1, MapRef::State)]);
    }
}
