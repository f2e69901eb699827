//! Tests of what only root can do. Each begins with `need!(Root);`.

mod fixtures;
mod store;
mod tar_readers;
