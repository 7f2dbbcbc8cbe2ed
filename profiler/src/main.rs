//! The command `uprof`.
fn main() {}
