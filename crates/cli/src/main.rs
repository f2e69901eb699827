//! The program `coracle`.
#![forbid(unsafe_code)]
fn main() {}
