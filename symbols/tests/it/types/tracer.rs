//! A program stopped at one instruction, and places evaluated on its registers and memory: what a probe would see.

use std::cell::Cell;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use uprof_symbols::types::{Address, Arithmetic, Place};

/// A child of this test, stopped; it ends with this value.
pub struct Stopped {
    pid: libc::pid_t,
    registers: libc::user_regs_struct,
    ended: Cell<bool>,
}

impl Stopped {
    /// Runs PROGRAM until it comes to ADDRESS (in the file's own terms).
    pub fn at(program: &Path, address: u64) -> Self {
        Self::before_end(program, address).expect("the program ended before it came there")
    }

    /// As [`Self::at`]; `None` if the program ends before it comes there.
    pub fn before_end(program: &Path, address: u64) -> Option<Self> {
        let path = CString::new(program.as_os_str().as_bytes()).unwrap();
        // SAFETY: between fork and exec the child makes system calls alone.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "cannot fork");
        if pid == 0 {
            // SAFETY: pointers to NUL-terminated text and null-terminated lists that outlive the calls.
            unsafe {
                libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
                let arguments = [path.as_ptr(), std::ptr::null()];
                let none = [std::ptr::null()];
                libc::execve(path.as_ptr(), arguments.as_ptr(), none.as_ptr());
                libc::_exit(127);
            }
        }
        // SAFETY: registers are plain numbers.
        let registers = unsafe { std::mem::zeroed() };
        let mut stopped = Self {
            pid,
            registers,
            ended: Cell::new(false),
        };
        assert!(
            stopped.wait_for_trap(),
            "{} does not start",
            program.display()
        );
        let start = stopped.bias(program) + address;
        let original = stopped.peek(start);
        stopped.poke(start, original & !0xff | 0xcc);
        stopped.go_on(0);
        if !stopped.wait_for_trap() {
            return None;
        }
        // SAFETY: the kernel writes one struct of this type.
        let got = unsafe { libc::ptrace(libc::PTRACE_GETREGS, pid, 0, &raw mut stopped.registers) };
        assert_eq!(got, 0);
        stopped.registers.rip -= 1;
        assert_eq!(stopped.registers.rip, start, "it stopped elsewhere");
        stopped.poke(start, original);
        Some(stopped)
    }

    /// Whether it stopped; otherwise it has ended.
    fn wait_for_trap(&self) -> bool {
        loop {
            let mut status = 0;
            // SAFETY: the kernel writes one number.
            let waited = unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL) };
            assert_eq!(waited, self.pid);
            if !libc::WIFSTOPPED(status) {
                self.ended.set(true);
                return false;
            }
            match libc::WSTOPSIG(status) {
                libc::SIGTRAP => return true,
                // Go's runtime signals its own threads.
                signal => self.go_on(signal),
            }
        }
    }

    fn go_on(&self, signal: i32) {
        // SAFETY: only numbers are passed.
        let done = unsafe { libc::ptrace(libc::PTRACE_CONT, self.pid, 0, i64::from(signal)) };
        assert_eq!(done, 0);
    }

    /// Where the program is loaded, less where it wants to be.
    fn bias(&self, program: &Path) -> u64 {
        let image = uprof_symbols::Image::open(program).unwrap();
        if !image.is_pie() {
            return 0;
        }
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid)).unwrap();
        let name = program.file_name().unwrap().to_str().unwrap();
        let line = maps
            .lines()
            .find(|line| line.ends_with(name))
            .unwrap_or_else(|| panic!("{maps}"));
        u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap()
    }

    fn peek(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.memory(at, 8).try_into().unwrap())
    }

    fn poke(&self, at: u64, word: u64) {
        // SAFETY: only numbers are passed.
        let done = unsafe { libc::ptrace(libc::PTRACE_POKEDATA, self.pid, at, word) };
        assert_eq!(done, 0);
    }

    /// Bytes of its memory.
    pub fn memory(&self, at: u64, len: usize) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; len];
        let memory = std::fs::File::open(format!("/proc/{}/mem", self.pid)).unwrap();
        memory
            .read_exact_at(&mut bytes, at)
            .unwrap_or_else(|error| panic!("{len} bytes at {at:#x}: {error}"));
        bytes
    }

    /// The SIZE bytes of a value; the words where it cannot be had. SITE is the address that was asked about.
    pub fn value(&self, place: &Place, size: usize, site: u64) -> Result<Vec<u8>, String> {
        Ok(match place {
            Place::Value(address) => self.number(address, site).to_le_bytes()[..size].to_vec(),
            Place::Constant(value) => value.to_le_bytes()[..size].to_vec(),
            Place::Memory(address) => self.memory(self.number(address, site), size),
            Place::Pieces(pieces) => {
                let mut all = Vec::new();
                for (bytes, place) in pieces {
                    all.extend(self.value(place, usize::from(*bytes), site)?);
                }
                all
            }
            Place::Unavailable(why) => return Err(why.clone()),
        })
    }

    fn number(&self, address: &Address, site: u64) -> u64 {
        match address {
            Address::Register(register) => self.register(*register),
            Address::Constant(value) => *value,
            Address::PcRelative(address) => {
                self.registers.rip.wrapping_sub(site).wrapping_add(*address)
            }
            Address::Add(base, add) => self.number(base, site).wrapping_add_signed(*add),
            Address::Load { at, bytes } => {
                let mut word = [0; 8];
                word[..usize::from(*bytes)]
                    .copy_from_slice(&self.memory(self.number(at, site), usize::from(*bytes)));
                u64::from_le_bytes(word)
            }
            Address::Binary { op, left, right } => {
                let (left, right) = (self.number(left, site), self.number(right, site));
                let shift = u32::try_from(right).ok().filter(|by| *by < 64);
                match op {
                    Arithmetic::Add => left.wrapping_add(right),
                    Arithmetic::Sub => left.wrapping_sub(right),
                    Arithmetic::Mul => left.wrapping_mul(right),
                    Arithmetic::And => left & right,
                    Arithmetic::Or => left | right,
                    Arithmetic::Xor => left ^ right,
                    Arithmetic::Shl => shift.map_or(0, |by| left << by),
                    Arithmetic::Shr => shift.map_or(0, |by| left >> by),
                    Arithmetic::Sar => (left.cast_signed() >> shift.unwrap_or(63)).cast_unsigned(),
                }
            }
        }
    }

    /// A register by its DWARF number (System V ABI, figure 3.36).
    fn register(&self, number: u16) -> u64 {
        let r = &self.registers;
        let all = [
            r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11,
            r.r12, r.r13, r.r14, r.r15,
        ];
        all[usize::from(number)]
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.ended.get() {
            return;
        }
        // SAFETY: the child is ours and has not been waited for, so its number is still its own.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL);
        }
    }
}
