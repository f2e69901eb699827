//! A while, as a future that needs no runtime.

use crate::reactor::Reactor;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Is ready when a time has come. The thread that hears supervisors keeps the time. Cancel-safe: dropping it forgets it.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is polled"]
pub struct Delay {
    until: Instant,
    number: u64,
    reactor: Option<Arc<Reactor>>,
}

static NUMBERS: AtomicU64 = AtomicU64::new(0);

impl Delay {
    /// A while from now. What is too long to count is half a century.
    pub fn new(while_: Duration) -> Self {
        const LONG: Duration = Duration::from_secs(50 * 365 * 86400);
        Self::until(Instant::now() + while_.min(LONG))
    }

    /// Until this time.
    pub fn until(until: Instant) -> Self {
        Self { until, number: NUMBERS.fetch_add(1, Ordering::Relaxed), reactor: None }
    }
}

impl Future for Delay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.until {
            return Poll::Ready(());
        }
        if self.reactor.is_none() {
            match Reactor::get() {
                Ok(reactor) => self.reactor = Some(reactor),
                // No thread to be had: whoever polls is asked to poll again, which is late by nothing.
                Err(_) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
        if let Some(reactor) = &self.reactor {
            reactor.wake_at(self.until, self.number, cx.waker());
        }
        Poll::Pending
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        if let Some(reactor) = &self.reactor {
            reactor.let_sleep(self.until, self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::task::{Wake, Waker};

    struct Tell(mpsc::Sender<()>);
    impl Wake for Tell {
        fn wake(self: Arc<Self>) {
            let _ = self.0.send(());
        }
    }

    #[test]
    fn it_wakes_when_its_time_has_come_and_not_before() {
        let (tell, told) = mpsc::channel();
        let waker = Waker::from(Arc::new(Tell(tell)));
        let mut cx = Context::from_waker(&waker);
        let begun = Instant::now();
        // The later first, so that the earlier has to set the clock anew.
        let mut late = Delay::new(Duration::from_millis(60));
        let mut soon = Delay::new(Duration::from_millis(20));
        let mut never = Delay::new(Duration::MAX);
        assert!(Pin::new(&mut late).poll(&mut cx).is_pending());
        assert!(Pin::new(&mut never).poll(&mut cx).is_pending());
        assert!(Pin::new(&mut soon).poll(&mut cx).is_pending());
        told.recv_timeout(Duration::from_secs(60)).expect("woken");
        assert!(begun.elapsed() >= Duration::from_millis(20) && Pin::new(&mut soon).poll(&mut cx).is_ready());
        told.recv_timeout(Duration::from_secs(60)).expect("woken");
        assert!(begun.elapsed() >= Duration::from_millis(60) && Pin::new(&mut late).poll(&mut cx).is_ready());
        // Who is dropped is forgotten.
        let mut dropped = Delay::new(Duration::from_millis(1));
        assert!(Pin::new(&mut dropped).poll(&mut cx).is_pending());
        drop(dropped);
        while told.try_recv().is_ok() {}
        assert!(told.recv_timeout(Duration::from_millis(30)).is_err());
        assert!(Pin::new(&mut never).poll(&mut cx).is_pending());
    }
}
