//! Work that blocks, on a thread of its own, waited for as a future under any executor.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

struct Slot<T> {
    done: Option<std::thread::Result<T>>,
    waiting: Option<Waker>,
}

/// What a thread is doing. Dropping it doesn't end the thread: pass it something that does, if that is wanted.
#[must_use]
pub(crate) struct Background<T>(Arc<Mutex<Slot<T>>>);

/// Starts the work.
pub(crate) fn run<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> std::io::Result<Background<T>> {
    let slot = Arc::new(Mutex::new(Slot { done: None, waiting: None }));
    let theirs = slot.clone();
    std::thread::Builder::new().name(name.into()).spawn(move || {
        let done = catch_unwind(AssertUnwindSafe(work));
        let mut slot = theirs.lock().unwrap_or_else(|e| e.into_inner());
        slot.done = Some(done);
        let waiting = slot.waiting.take();
        drop(slot);
        if let Some(waker) = waiting {
            waker.wake();
        }
    })?;
    Ok(Background(slot))
}

/// Lets time pass, under any executor. A thread each: for what is done rarely.
pub(crate) async fn pause(time: std::time::Duration) {
    match run("coracle-pause", move || std::thread::sleep(time)) {
        Ok(passed) => passed.await,
        Err(_) => std::thread::sleep(time),
    }
}

impl<T> Future for Background<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut slot = self.0.lock().unwrap_or_else(|e| e.into_inner());
        match slot.done.take() {
            Some(Ok(value)) => Poll::Ready(value),
            // The thread's panic is its caller's.
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => {
                slot.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
