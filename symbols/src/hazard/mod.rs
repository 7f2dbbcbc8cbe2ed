//! Why the return address of a function's calls must not be replaced, which is how the kernel sees calls end
//! (uretprobe, session): programs that move to another stack while a call is open, that unwind it by an exception, or
//! that look at the address, find the kernel's instead and die.
//!
//! A [`Survey`] knows the files of a process; each is looked at once:
//!
//! - [`names`]: what the names tell that a file imports and defines;
//! - [`stack`]: code that leaves one stack for another, also without names;
//! - [`caller`]: functions that look at their return address;
//! - [`libc`]: the functions of the C library during which nothing of the program runs;
//! - [`needed`]: the libraries that a process will load;
//! - [`shadow`]: shadow stacks.

mod caller;
mod libc;
mod names;
mod needed;
mod object;
mod shadow;
mod stack;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::image::{Function, Image, Part};
use crate::process::Process;
use libc::Within;
use needed::Start;
use object::{Object, Role, object};

/// What would go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HazardKind {
    /// Go moves its stacks when they grow, and its runtime reads the return addresses on them.
    Go,
    /// Calls may go on upon another stack, or be left for another one in the middle.
    StackSwitch,
    /// Exceptions may cross the call; the unwinder finds no way past the kernel's address and ends the program.
    Exceptions,
    /// The processor compares return addresses with a second stack, which this kernel does not write.
    ShadowStack,
    /// The function looks at its return address, or something else does while it is open.
    ReadsReturnAddress,
    /// The function returns more than once from one call.
    ReturnsTwice,
    /// Nobody calls it: what is on the stack is no return address.
    NotCalled,
    /// It is not known what the processes do that run the function.
    UnknownProcess,
}

/// Why the return address of a function's calls must not be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hazard {
    /// What would go wrong.
    pub kind: HazardKind,
    /// For people, e.g. "libboost_context.so.1.74.0 switches stacks (jump_fcontext)".
    pub why: String,
}

impl Hazard {
    fn new(kind: HazardKind, why: impl Into<String>) -> Option<Self> {
        let why = why.into();
        Some(Self { kind, why })
    }
}

/// What is known of the programs in which a file is probed.
#[derive(Debug)]
pub struct Survey {
    /// Their files; the program first.
    objects: Vec<Arc<Object>>,
    /// Whether the first is a program: of a library alone, the processes are not known.
    has_program: bool,
    /// What could not be looked at, and why.
    unread: Vec<String>,
    shadow: bool,
}

impl Survey {
    /// Of one process: all files that it has mapped as code, and the libraries that these will load if it has not
    /// come so far (it may stand before its first instruction). What it loads later by `dlopen` is not known yet.
    ///
    /// # Errors
    /// The process is gone or may not be looked at; its program cannot be read.
    pub fn of_process(pid: u32) -> Result<Self> {
        let process = Process::open(pid)?;
        let program = process.exe();
        let path = process.exe_name()?;
        let mut objects = vec![(object(&program, &path)?, path)];
        let mut unread = Vec::new();
        for mapped in process.objects()? {
            match object(&mapped.open_path, &mapped.path) {
                Ok(known) if objects.iter().any(|(other, _)| other.id() == known.id()) => {}
                Ok(known) => objects.push((known, mapped.path)),
                // Code that was made at run time may be kept in a file.
                Err(Error::NotElf { .. } | Error::NotRunnable { .. }) => {}
                Err(error) => unread.push(error.to_string()),
            }
        }
        Ok(Self {
            shadow: shadow::endangers(pid),
            ..Self::complete(objects, unread, &Start::of_process(pid))
        })
    }

    /// Of a file that is probed in every process that runs it: a program with the libraries that it loads, which are
    /// looked for as this process would find them. For a shared library, the processes are not known. PATH is the
    /// file's own, for messages and for libraries beside it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of_file(image: &Image, path: &Path) -> Result<Self> {
        let own = object(image.path(), path)?;
        let library = own.library;
        // $ORIGIN is where links lead to.
        let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let objects = vec![(own, real)];
        let survey = match library {
            true => Self {
                objects: objects.into_iter().map(|(object, _)| object).collect(),
                has_program: false,
                unread: Vec::new(),
                shadow: false,
            },
            false => Self::complete(objects, Vec::new(), &Start::plain()),
        };
        Ok(Self {
            shadow: shadow::may_endanger(),
            ..survey
        })
    }

    fn complete(
        mut objects: Vec<(Arc<Object>, PathBuf)>,
        mut unread: Vec<String>,
        start: &Start,
    ) -> Self {
        let missing = needed::complete(&mut objects, start);
        unread.extend(
            missing
                .iter()
                .map(|name| format!("{name} is needed but not found")),
        );
        Self {
            objects: objects.into_iter().map(|(object, _)| object).collect(),
            has_program: true,
            unread,
            shadow: false,
        }
    }

    /// The first reason found why the return address of calls of FUNCTION of IMAGE must not be replaced, `None` where
    /// there is none. UNCAUGHT: the user promises that no caller of it catches exceptions.
    pub fn hazard(&self, image: &Image, function: &Function, uncaught: bool) -> Option<Hazard> {
        let own = match object(image.path(), image.path()) {
            Ok(own) => own,
            Err(error) => return Hazard::new(HazardKind::UnknownProcess, error.to_string()),
        };
        let within = within(&own, image, function);
        of_function(&own, image, function)
            .or_else(|| self.of_machine())
            .or_else(|| self.of_go(within))
            .or_else(|| match within {
                Within::Alone => None,
                Within::Cancelled => self.of_cancelling(),
                Within::Streams if !self.hooks_streams() => self.of_cancelling(),
                _ => self
                    .of_ignorance()
                    .or_else(|| self.of_exceptions(&own).filter(|_| !uncaught))
                    .or_else(|| self.of_switches()),
            })
            // Last, for others say more: Rust and many servers have such a stack for their faults alone.
            .or_else(|| match within {
                Within::Alone => None,
                _ => self.of_signals(),
            })
    }

    /// The processor's own checks.
    fn of_machine(&self) -> Option<Hazard> {
        let why =
            "the process has a shadow stack, which this kernel does not keep in step (6.11 does)";
        self.shadow
            .then(|| Hazard::new(HazardKind::ShadowStack, why))?
    }

    fn of_go(&self, within: Within) -> Option<Hazard> {
        // Of a library of its own, the processes are not known; those of the C library are most of them.
        let known = self.has_program || within == Within::Anything;
        let go = self.objects.iter().find(|object| known && object.go)?;
        let why = format!(
            "{} has Go code, whose runtime moves and reads its stacks",
            go.name
        );
        Hazard::new(HazardKind::Go, why)
    }

    fn of_ignorance(&self) -> Option<Hazard> {
        if !self.has_program {
            let name = self.objects.first().map_or("it", |object| &object.name);
            let why = format!("it is not known what the processes do that use {name}");
            return Hazard::new(HazardKind::UnknownProcess, why);
        }
        let why = self.unread.first()?;
        Hazard::new(HazardKind::UnknownProcess, why.clone())
    }

    /// Exceptions cross a function that is called from where they are caught, and calls where they are thrown.
    fn of_exceptions(&self, own: &Object) -> Option<Hazard> {
        let hazard = |object: &Object, why: &str| {
            let why = format!(
                "exceptions may cross its calls: {} uses them ({why})",
                object.name
            );
            Hazard::new(HazardKind::Exceptions, why)
        };
        let program = self.objects.first().map(|program| &**program);
        for object in [Some(own), program].into_iter().flatten() {
            if let Some(why) = object.unwinding().filter(|_| object.role != Role::Libc) {
                return hazard(object, why);
            }
        }
        let crossed = own.told.cleans || program.is_some_and(|program| program.told.cleans);
        if let Some(object) = self.cancels().filter(|_| crossed) {
            return hazard(object, "it ends threads, and others clean up behind them");
        }
        if program.is_none_or(|program| program.id() == own.id()) {
            return None;
        }
        let other = self
            .objects
            .iter()
            .find(|object| object.throws_and_catches())?;
        hazard(other, other.unwinding().unwrap_or_default())
    }

    fn of_switches(&self) -> Option<Hazard> {
        // Names tell more, and cost less to find.
        let mut all = self.objects.iter();
        let named = all.find(|object| object.switcher().is_some());
        let mut all = self.objects.iter();
        let object = named.or_else(|| all.find(|object| object.switch().is_some()))?;
        let why = format!("{} switches stacks ({})", object.name, object.switch()?);
        Hazard::new(HazardKind::StackSwitch, why)
    }

    /// A cancelled thread unwinds its stack by force and stops at the kernel's address: clean-ups beyond do not run.
    fn of_cancelling(&self) -> Option<Hazard> {
        if let Some(hazard) = self.of_ignorance() {
            return Some(hazard);
        }
        let cancels = self.cancels()?;
        let cleans = self.objects.iter().find(|object| {
            let unwinds = !object.is_allocator() && object.unwinding().is_some();
            object.role == Role::Other && (unwinds || object.told.cleans)
        })?;
        let why = format!(
            "{} ends threads from outside or within, and the clean-ups of {} would not all run",
            cancels.name, cleans.name
        );
        Hazard::new(HazardKind::Exceptions, why)
    }

    /// A handler may run on a stack above the one it interrupted; the kernel takes the calls below for ended then.
    fn of_signals(&self) -> Option<Hazard> {
        let object = self.objects.iter().find(|o| o.told.signal_stack)?;
        let why = format!(
            "{} runs signal handlers on a stack of their own (sigaltstack)",
            object.name
        );
        Hazard::new(HazardKind::StackSwitch, why)
    }

    /// Who ends threads from outside or within.
    fn cancels(&self) -> Option<&Object> {
        let mut all = self.objects.iter();
        let found = all.find(|object| object.role == Role::Other && object.told.cancels);
        found.map(|object| &**object)
    }

    fn hooks_streams(&self) -> bool {
        !self.has_program || self.objects.iter().any(|object| object.told.hooks_streams)
    }
}

/// What goes on while a function is open, where that is known.
fn within(own: &Object, image: &Image, function: &Function) -> Within {
    let exported = || {
        let mut names = function.names.iter();
        names.any(|name| image.exports(name).unwrap_or(false))
    };
    let gives_memory = || {
        let names = [
            "malloc",
            "calloc",
            "realloc",
            "free",
            "memalign",
            "aligned_alloc",
            "posix_memalign",
            "valloc",
            "pvalloc",
            "cfree",
            "reallocarray",
            "malloc_usable_size",
        ];
        function
            .names
            .iter()
            .any(|name| names.contains(&name.as_str()))
    };
    match own.role {
        Role::Libc if exported() => {
            let all = function.names.iter().map(|name| libc::within(name));
            all.max_by_key(|within| *within as u8)
                .unwrap_or(Within::Anything)
        }
        Role::Other if own.is_allocator() && gives_memory() => Within::Alone,
        _ => Within::Anything,
    }
}

/// What holds in every process.
fn of_function(own: &Object, image: &Image, function: &Function) -> Option<Hazard> {
    let any = |is: fn(&str) -> bool| function.names.iter().find(|name| is(name));
    if let Some(why) = not_called(own, image, function) {
        return Hazard::new(HazardKind::NotCalled, why);
    }
    if let Some(name) = any(names::returns_twice) {
        let why =
            format!("{name} returns again later, by the return address that it was called with");
        return Hazard::new(HazardKind::ReturnsTwice, why);
    }
    if let Some(name) = any(names::raises) {
        let why = format!("{name} ends by an exception, which crosses its own call");
        return Hazard::new(HazardKind::Exceptions, why);
    }
    if let Some(name) = any(names::reads_return_address) {
        let why = format!("{name} looks at its return address");
        return Hazard::new(HazardKind::ReadsReturnAddress, why);
    }
    if let Some(frames) = own.frames()
        && caller::is_looked_at(frames, image, function)
    {
        let why = format!("{} looks at its return address", function.display_name());
        return Hazard::new(HazardKind::ReadsReturnAddress, why);
    }
    let walker = own.told.walker?;
    let why = format!(
        "{walker} in {} finds calls by their return addresses",
        own.name
    );
    Hazard::new(HazardKind::ReadsReturnAddress, why)
}

fn not_called(own: &Object, image: &Image, function: &Function) -> Option<String> {
    let name = function.display_name();
    if function.address == image.entry_point() && !own.library {
        return Some(format!("{name} is where the program starts"));
    }
    match function.part {
        Part::Cold => {
            return Some(format!(
                "{name} is a piece of a function, which is jumped to"
            ));
        }
        Part::Stub => return Some(format!("{name} is a stub, which jumps on")),
        Part::Whole | Part::Part => {}
    }
    if let Some(name) = function
        .names
        .iter()
        .find(|name| names::is_not_called(name))
    {
        return Some(format!("{name} is not called as functions are"));
    }
    let frames = own.frames()?;
    frames.around(function.address)?;
    if !frames.begins_call(function.address) {
        return Some(format!(
            "{name} is not called as functions are, by its call frame information"
        ));
    }
    frames
        .has_no_caller(function.address)
        .then(|| format!("{name} has no caller, by its call frame information"))
}
