//! The program `remuda`.
fn main() {}
