//! DWARF location expressions (DWARF 5, 2.5 and 2.6), turned into what a probe can compute.

use gimli::{Expression, Operation};

use super::abi;
use super::die::Die;
use super::place::{Address, Arithmetic, Place};
use crate::dwarf::Reader;

/// How many operations an expression may have, and how large the formula may grow: compilers stay under 30.
const MAX_OPERATIONS: usize = 200;
const MAX_SIZE: usize = 256;

/// What is known at the instruction that an expression is evaluated at.
pub(super) struct Here<'h, 'r, 'a> {
    /// An entry of the unit that the expression is in.
    pub(super) die: &'h Die<'r, 'a>,
    /// The function's DW_AT_frame_base there.
    pub(super) frame_base: Option<Expression<Reader<'a>>>,
    /// The canonical frame address there.
    pub(super) cfa: Option<&'h Address>,
    /// Whether a register still has what it had when the function was entered.
    pub(super) intact: &'h dyn Fn(u16) -> bool,
}

/// A location so far.
enum Found {
    /// The value is in this register, or is known.
    Place(Place),
    /// The top of the stack is the value, not its address.
    Computed,
}

/// The formulas on the expression's stack, each with its size.
struct Machine<'h, 'r, 'a> {
    here: &'h Here<'h, 'r, 'a>,
    stack: Vec<(Address, usize)>,
    found: Option<Found>,
}

/// Where the expression says that the value is.
pub(super) fn place<'a>(expression: Expression<Reader<'a>>, here: &Here<'_, '_, 'a>) -> Place {
    evaluate(expression, here).unwrap_or_else(Place::Unavailable)
}

/// Whether it counts from the frame's base, which holds only when the function has set up its frame.
pub(super) fn uses_frame(expression: &Expression<Reader<'_>>, die: &Die<'_, '_>) -> bool {
    let mut operations = expression.operations(die.unit.unit.encoding());
    while let Ok(Some(operation)) = operations.next() {
        if matches!(
            operation,
            Operation::FrameOffset { .. } | Operation::CallFrameCFA
        ) {
            return true;
        }
    }
    false
}

fn evaluate<'a>(
    expression: Expression<Reader<'a>>,
    here: &Here<'_, '_, 'a>,
) -> Result<Place, String> {
    let mut machine = Machine {
        here,
        stack: Vec::new(),
        found: None,
    };
    let mut pieces = Vec::new();
    let mut operations = expression.operations(here.die.unit.unit.encoding());
    let mut count = 0;
    while let Some(operation) = operations
        .next()
        .map_err(|error| format!("described wrongly: {error}"))?
    {
        count += 1;
        if count > MAX_OPERATIONS {
            return Err("computed in too many steps".into());
        }
        match operation {
            Operation::Piece {
                size_in_bits,
                bit_offset: None | Some(0),
            } if size_in_bits % 8 == 0 => {
                let bytes = u8::try_from(size_in_bits / 8).map_err(|_| "in too large a piece")?;
                pieces.push((bytes, machine.location().unwrap_or_else(Place::Unavailable)));
                machine.stack.clear();
            }
            Operation::Piece { .. } => return Err("in pieces of a byte".into()),
            // A piece that cannot be had leaves the others as they are.
            _ if matches!(machine.found, Some(Found::Place(Place::Unavailable(_)))) => {}
            other => {
                if let Err(why) = machine.step(other) {
                    machine.found = Some(Found::Place(Place::Unavailable(why)));
                }
            }
        }
    }
    if pieces.is_empty() {
        machine.location()
    } else {
        Ok(Place::Pieces(pieces))
    }
}

impl<'a> Machine<'_, '_, 'a> {
    /// What the operations so far come to.
    fn location(&mut self) -> Result<Place, String> {
        match self.found.take() {
            Some(Found::Place(Place::Value(Address::Register(register)))) => {
                abi::readable(register)?;
                Ok(Place::Value(Address::Register(register)))
            }
            Some(Found::Place(place)) => Ok(place),
            Some(Found::Computed) => match self.pop()? {
                Address::Constant(value) => Ok(Place::Constant(value)),
                value => Ok(Place::Value(value)),
            },
            None if self.stack.is_empty() => Err("optimised out here".into()),
            None => Ok(Place::Memory(self.pop()?)),
        }
    }

    fn pop(&mut self) -> Result<Address, String> {
        self.stack
            .pop()
            .map(|(address, _)| address)
            .ok_or_else(|| "described wrongly: an operand is missing".into())
    }

    fn push(&mut self, address: Address, size: usize) -> Result<(), String> {
        if size > MAX_SIZE || self.stack.len() > MAX_OPERATIONS {
            return Err("computed in too many steps".into());
        }
        self.stack.push((address, size));
        Ok(())
    }

    fn top_size(&self) -> usize {
        self.stack.last().map_or(0, |(_, size)| *size)
    }

    fn constant(&mut self, value: u64) -> Result<(), String> {
        self.push(Address::Constant(value), 1)
    }

    fn binary(&mut self, op: Arithmetic) -> Result<(), String> {
        let size = self.top_size();
        let right = self.pop()?;
        let size = size + self.top_size() + 1;
        let left = self.pop()?;
        let sum = match (op, left, right) {
            (Arithmetic::Add, left, Address::Constant(value)) => left.plus(value.cast_signed()),
            (Arithmetic::Add, Address::Constant(value), right) => right.plus(value.cast_signed()),
            (Arithmetic::Sub, left, Address::Constant(value)) => {
                left.plus(value.cast_signed().wrapping_neg())
            }
            (op, left, right) => Address::Binary {
                op,
                left: Box::new(left),
                right: Box::new(right),
            },
        };
        self.push(sum, size)
    }

    /// The value of a register as an operand.
    fn register(&mut self, register: u16, offset: i64) -> Result<(), String> {
        abi::readable(register)?;
        self.push(Address::Register(register).plus(offset), 1)
    }

    fn step(&mut self, operation: Operation<Reader<'a>>) -> Result<(), String> {
        let cannot = || Err("computed in a way that a probe cannot follow".to_owned());
        match operation {
            Operation::Nop => Ok(()),
            Operation::Register { register } => {
                self.found = Some(Found::Place(Place::Value(Address::Register(register.0))));
                Ok(())
            }
            Operation::StackValue => {
                self.found = Some(Found::Computed);
                Ok(())
            }
            Operation::ImplicitValue { data } => {
                self.found = Some(Found::Place(implicit(data.slice())));
                Ok(())
            }
            Operation::ImplicitPointer { .. } => {
                Err("a pointer to something that was optimised out".into())
            }
            Operation::RegisterOffset {
                register,
                offset,
                base_type: gimli::UnitOffset(0),
            } => self.register(register.0, offset),
            Operation::FrameOffset { offset } => self.frame(offset),
            Operation::CallFrameCFA => match self.here.cfa {
                Some(cfa) => self.push(cfa.clone(), 2),
                None => Err("in a frame whose base is not known here".into()),
            },
            Operation::EntryValue { expression } => self.entry_value(Expression(expression)),
            Operation::Address { address } => self.push(Address::PcRelative(address), 1),
            Operation::AddressIndex { index } => {
                let address = self
                    .here
                    .die
                    .unit
                    .unit_ref()
                    .address(index)
                    .map_err(|error| format!("described wrongly: {error}"))?;
                self.push(Address::PcRelative(address), 1)
            }
            Operation::UnsignedConstant { value } => self.constant(value),
            Operation::SignedConstant { value } => self.constant(value.cast_unsigned()),
            Operation::TLS => Err("thread-local: each thread has its own".into()),
            Operation::Deref {
                size: size @ (1 | 2 | 4 | 8),
                space: false,
                base_type: gimli::UnitOffset(0),
            } => {
                let cost = self.top_size() + 1;
                let at = self.pop()?;
                self.push(at.load(size), cost)
            }
            Operation::PlusConstant { value } => {
                let cost = self.top_size() + 1;
                let base = self.pop()?;
                self.push(base.plus(value.cast_signed()), cost)
            }
            Operation::Plus => self.binary(Arithmetic::Add),
            Operation::Minus => self.binary(Arithmetic::Sub),
            Operation::Mul => self.binary(Arithmetic::Mul),
            Operation::And => self.binary(Arithmetic::And),
            Operation::Or => self.binary(Arithmetic::Or),
            Operation::Xor => self.binary(Arithmetic::Xor),
            Operation::Shl => self.binary(Arithmetic::Shl),
            Operation::Shr => self.binary(Arithmetic::Shr),
            Operation::Shra => self.binary(Arithmetic::Sar),
            Operation::Neg => {
                let cost = self.top_size();
                let value = self.pop()?;
                self.constant(0)?;
                self.push(value, cost)?;
                self.binary(Arithmetic::Sub)
            }
            Operation::Not => {
                self.constant(u64::MAX)?;
                self.binary(Arithmetic::Xor)
            }
            Operation::Drop => self.pop().map(drop),
            Operation::Swap => {
                let len = self.stack.len();
                let Some(below) = len.checked_sub(2) else {
                    return Err("described wrongly: an operand is missing".into());
                };
                self.stack.swap(below, len - 1);
                Ok(())
            }
            Operation::Pick { index } => {
                let at = self.stack.len().checked_sub(usize::from(index) + 1);
                let Some((address, size)) = at.and_then(|at| self.stack.get(at)).cloned() else {
                    return Err("described wrongly: an operand is missing".into());
                };
                self.push(address, size)
            }
            _ => cannot(),
        }
    }

    /// DW_OP_fbreg: from the frame's base on.
    fn frame(&mut self, offset: i64) -> Result<(), String> {
        let base = self
            .here
            .frame_base
            .ok_or("in a frame whose base is not known here")?;
        // A frame base that counts from the frame base would go round in a circle.
        let inner = Here {
            die: self.here.die,
            frame_base: None,
            cfa: self.here.cfa,
            intact: self.here.intact,
        };
        let base = match evaluate(base, &inner)? {
            Place::Value(address) | Place::Memory(address) => address,
            Place::Unavailable(why) => return Err(why),
            Place::Constant(_) | Place::Pieces(_) => {
                return Err("described wrongly: its frame is in pieces".into());
            }
        };
        self.push(base.plus(offset), 3)
    }

    /// DW_OP_entry_value: what a register had when the function was entered.
    fn entry_value(&mut self, expression: Expression<Reader<'a>>) -> Result<(), String> {
        let mut operations = expression.operations(self.here.die.unit.unit.encoding());
        match operations.next() {
            Ok(Some(Operation::Register { register })) if (self.here.intact)(register.0) => {
                self.register(register.0, 0)
            }
            _ => Err("known only as it was when the function was entered: probe its entry".into()),
        }
    }
}

fn implicit(bytes: &[u8]) -> Place {
    let mut word = [0; 8];
    match word.get_mut(..bytes.len()) {
        Some(low) => {
            low.copy_from_slice(bytes);
            Place::Constant(u64::from_le_bytes(word))
        }
        None => Place::Unavailable("a constant of more than 8 bytes".into()),
    }
}
