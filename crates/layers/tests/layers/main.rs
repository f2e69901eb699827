//! The tests of coracle-layers, in one program.

mod archive;
mod collect;
mod diff;
mod hostile;
mod peers;
mod scratch;
mod stacks;
mod store;
mod unpacking;
