//! The binary `ounce`.
mod recipe;
fn main() {}
