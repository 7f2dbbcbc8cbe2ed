//! The crate against real files and programs: what Debian ships, and fixtures compiled on the spot.

mod callers;
mod debug_files;
mod dwarf;
mod eh_frame;
mod exits;
mod fixtures;
mod go;
mod go_layouts;
mod hazard;
mod ifunc;
mod image;
mod kernel;
mod patterns;
mod process;
mod refusals;
mod resolve;
mod sites;
mod steps;
mod types;
mod usdt;
