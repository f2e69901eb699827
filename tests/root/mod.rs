//! Tests of what only root can do. Each begins with `need!(Root);`.

mod fixtures;
mod full_disk;
mod networks;
mod store;
mod tar_readers;
