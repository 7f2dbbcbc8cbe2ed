//! Programs that return probes kill, or whose calls are hard to count (tests/targets/hostile): under `auto` each does
//! and says the same as without probes, and its calls are counted exactly as it counted them itself.
//!
//! - `program`: the programs, alone and measured, and what must hold of each
//! - `stacks`: coroutines, Go
//! - `unwinding`: exceptions, longjmp, threads that end
//! - `calls`: recursion, tail calls, signals, threads
//! - `processes`: fork, vfork, exec, exit
//! - `danger`: what return probes do when one insists
//! - `gone`: probes go away with uprof
//! - `memory`: the bytes and sizes of processes
//! - `soak`: all of them, with uprof coming and going

mod calls;
mod danger;
mod gone;
mod memory;
mod processes;
mod program;
mod soak;
mod stacks;
mod unwinding;
