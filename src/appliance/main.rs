//! The appliance, as a program.
fn main() {}
