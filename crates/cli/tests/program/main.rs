//! The program as its users have it: what it prints, where, and what it exits with.
//!
//! Each test of a container runs as whoever runs the tests and, where that is root, again as a plain user (uid 65534, by setpriv(1)).
//! Needs busybox (package busybox-static); the pull needs docker-registry and skopeo.

mod archives;
mod changes;
mod containers;
mod cp;
mod detached;
mod doctor;
mod exec;
mod images;
mod run;
mod scratch;
mod signals;
mod volumes;
