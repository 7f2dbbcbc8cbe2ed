//! Names in expressions that only debug information knows (`client->argc`), and the arguments of USDT probes: bound at
//! the site of one function, where types and places are known.

use uprof_recipes::debug as r;
use uprof_recipes::{self as recipes, DebugInfo, Expr, Kind, Type};
use uprof_symbols::image::Function;
use uprof_symbols::site::Site;
use uprof_symbols::types::{Address, Arithmetic, Place, Scope, Variable};
use uprof_symbols::usdt::{Operand, Usdt, UsdtArg};
use uprof_symbols::{Image, Pattern};

use super::models::{Models, PlainType, of_program};
use crate::recipe::rendered;
use crate::target::TargetFile;

/// The number of the instruction pointer among DWARF's registers (System V ABI for x86-64, figure 3.36).
const INSTRUCTION_POINTER: u8 = 16;
/// The number of the stack pointer.
const STACK_POINTER: u8 = 7;

/// Whether the expressions of a probe's place AT can be understood only where it sits.
pub fn needed(probe: &recipes::Probe, at: usize) -> bool {
    let own_arguments = |text: &str| {
        Pattern::parse(text).is_ok_and(|p| {
            matches!(
                p,
                Pattern::Usdt { .. } | Pattern::Line { .. } | Pattern::Inlined(_)
            )
        })
    };
    probe.needs_debug_info()
        || probe.at[at].provider() != recipes::Provider::Program
        || probe.at[at]
            .functions
            .iter()
            .any(|f| own_arguments(&f.value))
}

/// The probe with only its place AT, bound to what is known at SITE.
pub fn bind(
    probe: &recipes::Probe,
    at: usize,
    file: &TargetFile,
    pattern: &Pattern,
    (function, site): (&Function, &Site),
) -> Result<recipes::Probe, String> {
    let known = Known::at(file, pattern, function, site);
    probe
        .bind(at, &known)
        .map_err(|e| rendered(&[e]).to_string())
}

/// What is known at one site.
struct Known<'a> {
    image: &'a Image,
    file: String,
    models: Models<'a>,
    variables: Vec<Variable>,
    /// What the function returns, where the site is its entry.
    returned: Option<Variable>,
    /// Why there are none.
    missing: String,
    site: u64,
    /// It is a function's entry, or so near that the stack is as it was there.
    at_entry: bool,
    arguments: Arguments,
}

/// What `arg0` means at a site.
enum Arguments {
    /// The calling convention's.
    Passed,
    /// Those that the USDT probe hands over.
    Usdt(Usdt),
    /// None: the site is no function's entry.
    None,
}

impl<'a> Known<'a> {
    fn at(file: &'a TargetFile, pattern: &Pattern, function: &Function, site: &Site) -> Self {
        let image = &*file.image;
        let arguments = match pattern {
            Pattern::Usdt { .. } => image
                .usdt()
                .ok()
                .and_then(|all| all.into_iter().find(|u| u.address == site.address))
                .map_or(Arguments::None, Arguments::Usdt),
            Pattern::Line { .. } | Pattern::Inlined(_) => Arguments::None,
            _ => Arguments::Passed,
        };
        let inlined;
        // A site some instructions past the entry was chosen because all arguments are still where they were.
        let (at, scope) = match pattern {
            Pattern::Inlined(base)
                if matches!(**base, Pattern::Exact(_) | Pattern::Demangled(_)) =>
            {
                inlined = base.text();
                (site.address, Scope::Inlined(&inlined))
            }
            Pattern::Usdt { .. }
            | Pattern::Inlined(_)
            | Pattern::Line { .. }
            | Pattern::Offset { .. }
            | Pattern::Address(_) => (site.address, Scope::Function),
            _ => (function.address, Scope::Function),
        };
        let mut known = Self {
            image,
            file: file.display.display().to_string(),
            models: Models::default(),
            variables: Vec::new(),
            returned: None,
            missing: String::new(),
            site: site.address,
            at_entry: at == function.address && matches!(arguments, Arguments::Passed),
            arguments,
        };
        match image.types() {
            Ok(Some(types)) => {
                match types.variables(function, at, scope) {
                    Ok(variables) => known.variables = variables,
                    Err(why) => known.missing = why.to_string(),
                }
                if let Arguments::Passed = known.arguments {
                    // Go's several results cannot be one `retval`.
                    known.returned = match types.returned(function).unwrap_or_default().as_slice() {
                        [one] => Some(one.clone()),
                        _ => None,
                    };
                }
                known.models.program = Some(types);
            }
            Ok(None) => known.missing = known.no_debug_information(),
            Err(why) => known.missing = why.to_string(),
        }
        known
    }

    fn no_debug_information(&self) -> String {
        let id = self
            .image
            .build_id()
            .map_or_else(String::new, |id| format!(" (build ID {id})"));
        format!(
            "{}{id} has no debug information, in itself or in a debug file: install its debug package (-dbgsym, -dbg), or \
             see --debug-dir and --debuginfod; without it, arguments are arg0, arg1 ..., and fields *(u32 *)(arg0 + 24)",
            self.file
        )
    }

    /// A variable as the file's symbol tables have it, which is without a type.
    fn untyped(&self, name: &str) -> Option<r::Variable> {
        let address = self.image.variable(name).ok().flatten()?;
        let at = self.address(&Address::PcRelative(address)).ok()?;
        Some(r::Variable {
            place: r::Place::Memory(at),
            ty: self.models.make(PlainType::untyped()),
        })
    }

    fn place(&self, place: &Place) -> Result<r::Place, String> {
        Ok(match place {
            Place::Value(value) => r::Place::Value(self.address(value)?),
            Place::Memory(at) => r::Place::Memory(self.address(at)?),
            Place::Constant(value) => r::Place::Value(Expr::int(*value)),
            Place::Pieces(pieces) => r::Place::Pieces(
                pieces
                    .iter()
                    .map(|(bytes, piece)| Ok((*bytes, self.place(piece)?)))
                    .collect::<Result<_, String>>()?,
            ),
            Place::Unavailable(why) => return Err(why.clone()),
        })
    }

    fn address(&self, address: &Address) -> Result<Expr, String> {
        Ok(match address {
            Address::Register(number) => Expr::reg(register(*number)?),
            Address::Constant(value) => Expr::int(*value),
            // Where the file is loaded differs from process to process: the instruction pointer tells.
            Address::PcRelative(to) => {
                Expr::reg(INSTRUCTION_POINTER).plus(to.wrapping_sub(self.site).cast_signed())
            }
            Address::Add(base, add) => self.address(base)?.plus(*add),
            Address::Load { at, bytes } => Expr::load(self.address(at)?, *bytes),
            Address::Binary { op, left, right } => {
                combined(*op, self.address(left)?, self.address(right)?)
            }
        })
    }
}

fn register(number: u16) -> Result<u8, String> {
    u8::try_from(number)
        .ok()
        .filter(|n| *n <= INSTRUCTION_POINTER)
        .ok_or_else(|| "in a register that probes cannot read".to_owned())
}

fn combined(op: Arithmetic, left: Expr, right: Expr) -> Expr {
    use recipes::BinOp;
    let op = match op {
        Arithmetic::Add => BinOp::Add,
        Arithmetic::Sub => BinOp::Sub,
        Arithmetic::Mul => BinOp::Mul,
        Arithmetic::And => BinOp::And,
        Arithmetic::Or => BinOp::Or,
        Arithmetic::Xor => BinOp::Xor,
        Arithmetic::Shl => BinOp::Shl,
        Arithmetic::Shr => BinOp::Shr,
        Arithmetic::Sar => {
            let kind = Kind::Binary {
                op: BinOp::Shr,
                signed: true,
                a: Box::new(left),
                b: Box::new(right),
            };
            return typed(kind, Type::I64);
        }
    };
    Expr::binary(op, left, right)
}

fn typed(kind: Kind, ty: Type) -> Expr {
    Expr {
        kind,
        ty,
        span: 0..0,
    }
}

/// An argument of a USDT probe, as wide as the probe says.
fn usdt_argument(argument: &UsdtArg) -> Result<Expr, String> {
    if argument.float {
        return Err("a floating-point number, which probes cannot read".to_owned());
    }
    let ty = Type::Int {
        bits: 8 * argument.size,
        signed: argument.signed,
    };
    let e = match &argument.operand {
        Operand::Constant(value) => return Ok(typed(Kind::Int(value.cast_unsigned()), ty)),
        Operand::Register { register, shift } => {
            let whole = Expr::reg(*register);
            let low = match shift {
                0 => whole,
                bits => Expr::binary(recipes::BinOp::Shr, whole, Expr::int(u64::from(*bits))),
            };
            Kind::Cast(Box::new(low))
        }
        Operand::Memory {
            base,
            index,
            displacement,
        } => {
            let mut at = base.map(Expr::reg);
            if let Some((register, scale)) = index {
                let scaled = Expr::binary(
                    recipes::BinOp::Mul,
                    Expr::reg(*register),
                    Expr::int(u64::from(*scale)),
                );
                at = Some(match at {
                    Some(base) => Expr::binary(recipes::BinOp::Add, base, scaled),
                    None => scaled,
                });
            }
            let at = match at {
                Some(at) => at.plus(*displacement),
                None => Expr::int(displacement.cast_unsigned()),
            };
            Kind::Load(Box::new(at))
        }
        Operand::Unreadable(why) => return Err(format!("not readable: {why}")),
    };
    Ok(typed(e, ty))
}

/// What is returned, in the engine's terms: only the first register is known after the return.
fn returned(place: &Place) -> Option<r::Place> {
    const FIRST: Address = Address::Register(0);
    match place {
        Place::Value(FIRST) => Some(r::Place::Value(Expr::retval())),
        Place::Memory(FIRST) => Some(r::Place::Memory(Expr::retval())),
        _ => None,
    }
}

impl DebugInfo for Known<'_> {
    fn variable(&self, name: &str) -> Result<Option<r::Variable>, String> {
        // An inner scope's variable hides an outer one's: the innermost comes last.
        let local = self.variables.iter().rev().find(|v| v.name == name);
        let global = || self.models.program.as_ref()?.global(name).ok().flatten();
        let Some(variable) = local.cloned().or_else(global) else {
            return Ok(self.untyped(name));
        };
        Ok(Some(r::Variable {
            place: self.place(&variable.place)?,
            ty: of_program(variable.ty),
        }))
    }

    fn variables(&self) -> Vec<String> {
        self.variables.iter().map(|v| v.name.clone()).collect()
    }

    fn returned(&self) -> Option<r::Variable> {
        let variable = self.returned.as_ref()?;
        Some(r::Variable {
            place: returned(&variable.place)?,
            ty: of_program(variable.ty),
        })
    }

    fn argument(&self, n: u8) -> Result<Expr, String> {
        match &self.arguments {
            Arguments::Passed => Ok(Expr::arg(n)),
            Arguments::Usdt(usdt) => match usdt.args.get(usize::from(n)) {
                Some(argument) => usdt_argument(argument),
                None => Err(format!(
                    "not there: {}:{} has {} arguments",
                    usdt.provider,
                    usdt.name,
                    usdt.args.len()
                )),
            },
            Arguments::None => Err(
                "known at a function's entry only; here variables are known by name, where debug information tells of them"
                    .to_owned(),
            ),
        }
    }

    fn called_by(&self, function: &str) -> Result<Expr, String> {
        use recipes::BinOp;
        if !self.at_entry {
            return Err("who called is known at a function's entry only".to_owned());
        }
        let pattern = Pattern::parse(function).map_err(|why| why.to_string())?;
        let found = self.image.find(&pattern).map_err(|why| why.to_string())?;
        // What is understood only at its site gets one at which the stack is as it was at the entry.
        let returns_to = Expr::load(Expr::reg(STACK_POINTER), 8);
        let mut known = Expr::int(0);
        for function in found {
            let begin = self.address(&Address::PcRelative(function.address))?;
            let size = Expr::int(function.end.saturating_sub(function.address));
            let offset = Expr::binary(BinOp::Sub, returns_to.clone(), begin);
            known = Expr::binary(BinOp::Or, known, Expr::binary(BinOp::Lt, offset, size));
        }
        Ok(known)
    }

    fn named(&self, name: &str) -> Option<r::TypeRef> {
        self.models.named(name)
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
        self.missing.clone()
    }
}
