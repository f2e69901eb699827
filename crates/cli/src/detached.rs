//! `coracle stop` and `coracle kill`: ends containers that outlived the program that started them.

use crate::arguments::{Kill, Stop};
use crate::containers::each;
use crate::failure::Failure;
use coracle_container::{Container, Engine, Signal};
use std::path::PathBuf;
use std::time::Duration;

pub(crate) fn stop(root: Option<PathBuf>, arguments: &Stop) -> Result<u8, Failure> {
    let grace = Duration::from_secs(arguments.time.into());
    each(root, &arguments.ids, |container| async move {
        if container.state()?.is_running() {
            container.stop(grace).await?;
            container.settled().await?;
        }
        Ok(())
    })
}

pub(crate) fn kill(root: Option<PathBuf>, arguments: &Kill) -> Result<u8, Failure> {
    let signal: Signal = arguments.signal.parse().map_err(|error| Failure::new(format!("--signal: {error}")))?;
    each(root, &arguments.ids, |container| async move { crate::containers::kill(&container, signal).await })
}

/// A container that answers.
pub(crate) fn attach(engine: &Engine, id: &str) -> Result<Container, Failure> {
    engine.attach(id).map_err(Failure::from)
}
