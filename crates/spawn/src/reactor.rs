//! One quiet thread a process that hears supervisors, reaps them, and wakes whoever waits on a pipe.
//!
//! It exists so that a handle belongs to no runtime: a container made in one tokio runtime is waited for in another, or in none.
//! It runs nobody's code but wakers, blocks every signal, and is made anew in a process that was forked.

use crate::client::Connection;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

/// What a pipe's user waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    Write,
}

#[derive(Debug)]
enum Source {
    /// A pipe: whoever waits for it now.
    Pipe(Option<Waker>),
    /// A supervisor's socket.
    Control(Arc<Connection>),
    /// A supervisor's pidfd.
    Supervisor(Arc<Connection>),
}

#[derive(Debug)]
pub(crate) struct Reactor {
    epoll: OwnedFd,
    sources: Mutex<(u64, HashMap<u64, Source>)>,
}

static REACTOR: Mutex<Option<(u32, Arc<Reactor>)>> = Mutex::new(None);

impl Reactor {
    /// This process's.
    pub(crate) fn get() -> io::Result<Arc<Self>> {
        let mut reactor = REACTOR.lock().unwrap_or_else(|e| e.into_inner());
        let process = std::process::id();
        match &*reactor {
            Some((owner, reactor)) if *owner == process => Ok(reactor.clone()),
            _ => {
                let new = Arc::new(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, sources: Mutex::default() });
                let thread = new.clone();
                std::thread::Builder::new().name("coracle".into()).stack_size(256 << 10).spawn(move || thread.run())?;
                *reactor = Some((process, new.clone()));
                Ok(new)
            }
        }
    }

    fn sources(&self) -> MutexGuard<'_, (u64, HashMap<u64, Source>)> {
        self.sources.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn add(&self, fd: BorrowedFd<'_>, flags: EventFlags, source: Source) -> io::Result<u64> {
        let mut sources = self.sources();
        sources.0 += 1;
        let key = sources.0;
        sources.1.insert(key, source);
        drop(sources);
        if let Err(errno) = epoll::add(&self.epoll, fd, EventData::new_u64(key), flags) {
            self.sources().1.remove(&key);
            return Err(errno.into());
        }
        Ok(key)
    }

    pub(crate) fn watch_pipe(&self, fd: &OwnedFd) -> io::Result<u64> {
        self.add(fd.as_fd(), EventFlags::ONESHOT, Source::Pipe(None))
    }

    pub(crate) fn wake_when_ready(&self, key: u64, fd: &OwnedFd, interest: Interest, waker: &Waker) -> io::Result<()> {
        if let Some(Source::Pipe(waiting)) = self.sources().1.get_mut(&key) {
            match waiting {
                Some(known) if known.will_wake(waker) => {}
                _ => *waiting = Some(waker.clone()),
            }
        }
        let flags = match interest {
            Interest::Read => EventFlags::IN,
            Interest::Write => EventFlags::OUT,
        };
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(key), flags | EventFlags::ONESHOT)?)
    }

    pub(crate) fn watch_supervisor(&self, connection: &Arc<Connection>) -> io::Result<()> {
        self.add(connection.socket(), EventFlags::IN, Source::Control(connection.clone()))?;
        if let Some(pidfd) = connection.pidfd() {
            self.add(pidfd, EventFlags::IN, Source::Supervisor(connection.clone()))?;
        }
        Ok(())
    }

    pub(crate) fn forget(&self, key: u64, fd: BorrowedFd<'_>) {
        self.sources().1.remove(&key);
        let _ = epoll::delete(&self.epoll, fd);
    }

    fn run(&self) {
        // Signals are this process's other threads' business.
        let _ = nix::sys::signal::SigSet::all().thread_block();
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            if let Err(errno) = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                if errno == rustix::io::Errno::INTR {
                    continue;
                }
                return;
            }
            for event in &events {
                self.dispatch(event.data.u64());
            }
        }
    }

    fn dispatch(&self, key: u64) {
        enum What {
            Wake(Waker),
            Hear(Arc<Connection>),
            Reap(Arc<Connection>),
        }
        let what = match self.sources().1.get_mut(&key) {
            Some(Source::Pipe(waker)) => waker.take().map(What::Wake),
            Some(Source::Control(connection)) => Some(What::Hear(connection.clone())),
            Some(Source::Supervisor(connection)) => Some(What::Reap(connection.clone())),
            None => None,
        };
        // Outside the lock: a waker may run anything.
        match what {
            Some(What::Wake(waker)) => waker.wake(),
            Some(What::Hear(connection)) if connection.hear() => {}
            Some(What::Hear(connection)) => self.forget(key, connection.socket()),
            Some(What::Reap(connection)) => {
                if let Some(pidfd) = connection.pidfd() {
                    self.forget(key, pidfd);
                }
                connection.supervisor_ended();
            }
            None => {}
        }
    }
}
