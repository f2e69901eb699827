//! `coracle stop` and `coracle kill`: ends containers that outlived the program that started them.

use crate::arguments::{Kill, Stop};
use crate::failure::Failure;
use crate::table;
use coracle_container::{Container, Engine, Error, Signal};
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) fn stop(root: Option<PathBuf>, arguments: &Stop) -> Result<u8, Failure> {
    let grace = Duration::from_secs(arguments.time.into());
    each(root, &arguments.ids, |container| async move {
        container.stop(grace).await?;
        container.remove().await?;
        Ok(container)
    })
}

pub(crate) fn kill(root: Option<PathBuf>, arguments: &Kill) -> Result<u8, Failure> {
    let signal: Signal = arguments.signal.parse().map_err(|error| Failure::new(format!("--signal: {error}")))?;
    each(root, &arguments.ids, |container| async move {
        match signal {
            Signal::KILL => container.remove().await?,
            signal => container.signal(signal).await?,
        }
        Ok(container)
    })
}

/// Does it to one after another, and prints the id of each that it was done to. Those that can't be had don't hinder the others.
fn each<F: Future<Output = Result<Container, Error>>>(
    root: Option<PathBuf>,
    ids: &[String],
    act: impl Fn(Container) -> F,
) -> Result<u8, Failure> {
    let engine = crate::engine(root).map_err(|error| Failure::from(error).code(1))?;
    crate::block_on(async {
        let mut faults = Vec::new();
        for id in ids {
            let done = match attach(&engine, id) {
                Ok(container) => act(container).await.map_err(Failure::from),
                Err(failure) => Err(failure),
            };
            match done {
                Ok(container) => table::print(&format!("{}\n", container.id()))?,
                Err(failure) => faults.extend(failure.faults),
            }
        }
        if faults.is_empty() { Ok(0) } else { Err(Failure::from(faults).code(1)) }
    })
}

/// A container that answers.
pub(crate) fn attach(engine: &Engine, id: &str) -> Result<Container, Failure> {
    engine.attach(id).map_err(Failure::from)
}
