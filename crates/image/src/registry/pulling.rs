//! A pull whose steps are waited for, one after the other.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use super::puller::Puller;
use super::session::Report;
use crate::error::Error;
use crate::image::Image;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::sink::LayerSink;
use crate::store::Store;

type Steps = Arc<Mutex<VecDeque<Progress>>>;

/// A pull that goes on while somebody waits for its steps or its end. Made by [`Puller::start`].
///
/// Dropping it stops the pull, which leaves no lock; what was fetched is continued by the next.
///
/// ```no_run
/// # async fn f(store: coracle_image::Store) -> Result<(), Box<dyn std::error::Error>> {
/// use coracle_image::{NoSink, Progress, Puller};
///
/// let mut pulling = Puller::new().start(&store, &"debian:12".parse()?, std::sync::Arc::new(NoSink));
/// while let Some(step) = pulling.next().await {
///     if let Progress::Layer { digest, done, total, .. } = step {
///         println!("{digest}: {done} of {total} bytes");
///     }
/// }
/// let image = pulling.finish().await?;
/// # drop(image);
/// # Ok(())
/// # }
/// ```
#[must_use = "a pull goes on only while it's waited for"]
pub struct Pulling {
    work: Pin<Box<dyn Future<Output = Result<Image, Error>> + Send>>,
    steps: Steps,
    ended: Option<Result<Image, Error>>,
}

impl Puller {
    /// A pull whose steps can be waited for; it does nothing before. [`pull`](Puller::pull) otherwise.
    pub fn start(&self, store: &Store, reference: &Reference, sink: Arc<dyn LayerSink>) -> Pulling {
        let steps = Steps::default();
        let (queue, callback) = (steps.clone(), self.report.clone());
        let report = move |step: Progress| {
            callback.tell(step.clone());
            queue.lock().unwrap_or_else(|e| e.into_inner()).push_back(step);
        };
        let mut puller = self.clone();
        puller.report = Report(Some(Arc::new(report)));
        let (store, reference) = (store.clone(), reference.clone());
        let work = Box::pin(async move { puller.pull(&store, &reference, sink).await });
        Pulling { work, steps, ended: None }
    }
}

impl Pulling {
    /// The next step; none when the pull has ended, well or not: [`finish`](Pulling::finish) says which.
    ///
    /// # Cancel safety
    /// Dropping the future loses no step, and the pull stands still until the next call.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time.
    pub async fn next(&mut self) -> Option<Progress> {
        std::future::poll_fn(|context| {
            if self.ended.is_none()
                && let Poll::Ready(ended) = self.work.as_mut().poll(context)
            {
                self.ended = Some(ended);
            }
            match self.steps.lock().unwrap_or_else(|e| e.into_inner()).pop_front() {
                Some(step) => Poll::Ready(Some(step)),
                None if self.ended.is_some() => Poll::Ready(None),
                // Steps are made by the work alone, while it's polled.
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Waits for the end, past all steps.
    ///
    /// # Errors
    /// As [`Puller::pull`].
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time.
    pub async fn finish(mut self) -> Result<Image, Error> {
        match self.ended.take() {
            Some(ended) => ended,
            None => self.work.await,
        }
    }
}

impl fmt::Debug for Pulling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pulling").field("ended", &self.ended.is_some()).finish_non_exhaustive()
    }
}
