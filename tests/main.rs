//! End-to-end tests: they drive the real binary against real servers and small programs that count
//! their own calls. One file an area; `harness` is what they stand on. All need root.

mod breakdown;
mod command;
mod count;
mod elsewhere;
mod errors;
mod harness;
mod hostile;
mod house;
mod kernel;
mod latency;
mod malloc;
mod mysql;
mod mysql8;
mod nested;
mod output;
mod recipes;
mod symbols;
mod trace;
mod truth;
mod types;
mod variants;
