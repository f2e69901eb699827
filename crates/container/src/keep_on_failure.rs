//! A container that stays for looking into when what it was for has failed.
//!
//! It stays as it is: it runs on, detached from the process that failed, until its command ends or somebody removes it. One whose command has
//! ended is gone; what it said last is told in its place. Whoever reads of the failure reads where it is.

use crate::builder::ContainerBuilder;
use crate::container::Container;
use crate::error::Error;
use coracle_spawn::{Child, Delay};
use std::future::{Future, poll_fn};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// The variable that asks for it where no description does: `fail`.
const VARIABLE: &str = "CORACLE_KEEP";
/// How long a handle that a panic drops waits for the supervisor's consent, which takes microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a container is to be kept.
pub(crate) struct KeepOnFailure(bool);

impl KeepOnFailure {
    pub(crate) fn of(builder: &ContainerBuilder) -> Self {
        let asked = || std::env::var_os(VARIABLE).is_some_and(|value| value == "fail");
        Self(builder.keep_on_failure.unwrap_or_else(asked))
    }

    /// From now on a panic keeps it.
    pub(crate) fn arm(&self, container: &mut Container) {
        let Some(child) = container.current().filter(|_| self.0) else { return };
        let kept = Kept { child, id: container.id.clone(), root: container.engine.root().to_owned() };
        if let Some(words) = container.last_words() {
            words.keep(kept);
        }
    }

    /// It isn't ready. What is left of it is told by its own error, and the one that is answered says why, and where it is if it stays.
    pub(crate) async fn failed(&self, container: Container, mut error: Error) -> Error {
        let Error::Wait(failure) = &mut error else {
            let _ = container.remove().await;
            return error;
        };
        if self.0 && failure.status.is_none() {
            let found = how_to_find(&container.id, container.engine.root());
            failure.kept = container.detach().await.is_ok().then_some(found);
        } else {
            let _ = container.remove().await;
        }
        error
    }
}

/// What keeps a container.
#[derive(Debug)]
pub(crate) struct Kept {
    child: Arc<Child>,
    id: String,
    root: PathBuf,
}

impl Kept {
    /// Detaches it, if it runs; how to find it then. Waits for the supervisor's consent: by the time this process has ended it has to have it.
    pub(crate) fn keep_now(&self) -> Option<String> {
        if !matches!(self.child.try_wait(), Ok(None)) || self.child.detach().is_err() {
            return None;
        }
        let mut patience = pin!(Delay::new(PATIENCE));
        let detached = crate::blocking::wait(poll_fn(|cx| match self.child.poll_detached(cx) {
            Poll::Ready(detached) => Poll::Ready(detached.is_ok()),
            Poll::Pending => patience.as_mut().poll(cx).map(|()| false),
        }));
        detached.then(|| how_to_find(&self.id, &self.root))
    }
}

fn how_to_find(id: &str, root: &Path) -> String {
    let program = format!("coracle --root {}", root.display());
    format!("container {id} stays as it is until it ends; look into it: {program} exec -it {id} sh; remove it: {program} rm -f {id}")
}
