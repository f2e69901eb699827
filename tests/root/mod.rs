//! Tests of what only root can do. Each begins with `need!(Root);`.

mod diffs;
mod filesystems;
mod fixtures;
mod full_disk;
mod interop;
mod names;
mod networks;
mod power_cut;
mod stack;
mod store;
mod syscalls;
mod tar_readers;
mod unpackers;
mod volumes;
