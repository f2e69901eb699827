//! One quiet thread a process that hears supervisors, reaps them, and wakes whoever waits on a pipe.
//!
//! It exists so that a handle belongs to no runtime: a container made in one tokio runtime is waited for in another, or in none.
//! It runs nobody's code but wakers, blocks every signal, and is made anew in a process that was forked.

use crate::client::Connection;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::inotify;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
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
    /// Files that somebody watches.
    Files,
}

/// Files that are watched for changes, and who waits for those.
#[derive(Debug, Default)]
struct Files {
    /// inotify(7), made when it is first asked for.
    inotify: Option<Arc<OwnedFd>>,
    watched: HashMap<i32, Watched>,
    /// Who waits where inotify(7) has no room: woken every now and then.
    patient: Vec<Waker>,
}

#[derive(Debug, Default)]
struct Watched {
    users: usize,
    waiting: Vec<Waker>,
}

/// How often those look whom nobody tells.
const NOW_AND_THEN: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A file that is watched, as long as this is held.
#[derive(Debug)]
pub(crate) struct FileWatch {
    reactor: Arc<Reactor>,
    watch: Option<i32>,
}

impl FileWatch {
    /// Wakes once, when the file has been written to or closed by who writes it.
    pub(crate) fn wake_when_changed(&self, waker: &Waker) {
        let mut files = self.reactor.files();
        let waiting = match self.watch.and_then(|watch| files.watched.get_mut(&watch)) {
            Some(watched) => &mut watched.waiting,
            None => &mut files.patient,
        };
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
        if self.watch.is_none() {
            drop(files);
            self.reactor.wake_up();
        }
    }
}

impl Drop for FileWatch {
    fn drop(&mut self) {
        let Some(watch) = self.watch else { return };
        let mut files = self.reactor.files();
        let Some(watched) = files.watched.get_mut(&watch) else { return };
        watched.users -= 1;
        if watched.users == 0 {
            files.watched.remove(&watch);
            if let Some(inotify) = &files.inotify {
                let _ = inotify::remove_watch(inotify, watch);
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Reactor {
    epoll: OwnedFd,
    sources: Mutex<(u64, HashMap<u64, Source>)>,
    files: Mutex<Files>,
    /// Read by the thread when it is to look whether anybody is patient.
    bell: OwnedFd,
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
                let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK)?;
                let epoll = epoll::create(CreateFlags::CLOEXEC)?;
                let new = Arc::new(Self { epoll, sources: Mutex::default(), files: Mutex::default(), bell });
                epoll::add(&new.epoll, &new.bell, EventData::new_u64(0), EventFlags::IN)?;
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

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wake_up(&self) {
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// Watches a file for what is written to it.
    pub(crate) fn watch_file(self: &Arc<Self>, file: &File) -> io::Result<FileWatch> {
        let mut files = self.files();
        if files.inotify.is_none()
            && let Ok(made) = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
        {
            let made = Arc::new(made);
            self.add(made.as_fd(), EventFlags::IN, Source::Files)?;
            files.inotify = Some(made);
        }
        // By the descriptor: the name may be gone. A user has room for so many; who comes too late looks by himself.
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        let wanted = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CLOSE_WRITE;
        let watch = files.inotify.as_ref().and_then(|inotify| inotify::add_watch(inotify, &*name, wanted).ok());
        if let Some(watch) = watch {
            files.watched.entry(watch).or_default().users += 1;
        }
        Ok(FileWatch { reactor: self.clone(), watch })
    }

    /// Wakes who waits for the files that have changed.
    fn files_changed(&self) {
        let Some(inotify) = self.files().inotify.clone() else { return };
        let mut space = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&*inotify, &mut space);
        let mut wakers = Vec::new();
        while let Ok(event) = events.next() {
            let mut files = self.files();
            if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
                files.watched.values_mut().for_each(|watched| wakers.append(&mut watched.waiting));
            } else if let Some(watched) = files.watched.get_mut(&event.wd()) {
                wakers.append(&mut watched.waiting);
            }
        }
        wakers.into_iter().for_each(Waker::wake);
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
            let patient = std::mem::take(&mut self.files().patient);
            let pause = if patient.is_empty() { None } else { Some(&NOW_AND_THEN) };
            if let Err(errno) = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), pause) {
                if errno == rustix::io::Errno::INTR {
                    self.files().patient.extend(patient);
                    continue;
                }
                return;
            }
            patient.into_iter().for_each(Waker::wake);
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
            Look,
        }
        let what = match self.sources().1.get_mut(&key) {
            Some(Source::Pipe(waker)) => waker.take().map(What::Wake),
            Some(Source::Control(connection)) => Some(What::Hear(connection.clone())),
            Some(Source::Supervisor(connection)) => Some(What::Reap(connection.clone())),
            Some(Source::Files) => Some(What::Look),
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
            Some(What::Look) => self.files_changed(),
            // The bell.
            None if key == 0 => {
                let _ = rustix::io::read(&self.bell, &mut [0; 8]);
            }
            None => {}
        }
    }
}
