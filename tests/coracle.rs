//! The tests of the whole: real images, a real registry, real containers.
//!
//! This list is the contents page. Where does a new test go? By what it needs, not by what it tests:
//!
//! - `anywhere/`: passes for root and for a plain user alike. Most tests belong here.
//! - `user/`: is about what a plain user gets, or is refused. It begins with `need!(PlainUser);`.
//! - `root/`: is about what only root can do. It begins with `need!(Root);`.
//!
//! A test of one crate belongs to that crate. A test reads as a claim (`a_failed_start_leaves_nothing`) and says in its first line
//! what it needs, by [`need!`](support). Long tests are marked `#[ignore = "soak: why"]`, and `cargo xtask soak` runs them.

mod support;

mod anywhere;
mod root;
mod user;
