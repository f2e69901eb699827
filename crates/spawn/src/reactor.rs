//! One quiet thread a process that hears supervisors, reaps them, and wakes whoever waits on a pipe.
//!
//! It keeps the time for those who wait for it, too. It exists so that a handle belongs to no runtime: a container made in one tokio runtime is
//! waited for in another, or in none.
//! It runs nobody's code but wakers, blocks every signal, and is made anew in a process that was forked.

use crate::client::Connection;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::inotify;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::{Duration, Instant};

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
    /// A socket: who waits to read and who waits to write. It tells each change once, and whoever waits asks again first.
    Socket([Option<Waker>; 2]),
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
    clock: OwnedFd,
    /// Who is to be woken when.
    sleepers: Mutex<BTreeMap<(Instant, u64), Waker>>,
}

/// The clock among the sources, whose own keys count from 1.
const CLOCK: u64 = u64::MAX;

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
                let clock = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
                epoll::add(&epoll, &clock, EventData::new_u64(CLOCK), EventFlags::IN)?;
                epoll::add(&epoll, &bell, EventData::new_u64(0), EventFlags::IN)?;
                let (sources, files, sleepers) = Default::default();
                let new = Arc::new(Self { epoll, sources, files, bell, clock, sleepers });
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

    pub(crate) fn watch_socket(&self, fd: &OwnedFd) -> io::Result<u64> {
        self.add(fd.as_fd(), EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET, Source::Socket([None, None]))
    }

    /// Wakes at the next change. Who calls this asks once more whether there is something to do: it may have come before.
    pub(crate) fn wake_at_change(&self, key: u64, interest: Interest, waker: &Waker) {
        if let Some(Source::Socket(waiting)) = self.sources().1.get_mut(&key) {
            match &mut waiting[usize::from(interest == Interest::Write)] {
                Some(known) if known.will_wake(waker) => {}
                slot => *slot = Some(waker.clone()),
            }
        }
    }

    /// Wakes at a time. The number is the sleeper's, by which it is woken later or never.
    pub(crate) fn wake_at(&self, time: Instant, number: u64, waker: &Waker) {
        let mut sleepers = self.sleepers.lock().unwrap_or_else(|e| e.into_inner());
        sleepers.insert((time, number), waker.clone());
        if sleepers.first_key_value().is_some_and(|((first, sleeper), _)| *first == time && *sleeper == number) {
            self.set_clock(time);
        }
    }

    pub(crate) fn let_sleep(&self, time: Instant, number: u64) {
        self.sleepers.lock().unwrap_or_else(|e| e.into_inner()).remove(&(time, number));
    }

    fn set_clock(&self, time: Instant) {
        // Zero would stop it.
        let rest = time.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let value = Timespec { tv_sec: i64::try_from(rest.as_secs()).unwrap_or(i64::MAX), tv_nsec: rest.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        let _ = timerfd_settime(&self.clock, TimerfdTimerFlags::empty(), &once);
    }

    fn wake_sleepers(&self) {
        let _ = rustix::io::read(&self.clock, &mut [0; 8]);
        let mut due = Vec::new();
        let mut sleepers = self.sleepers.lock().unwrap_or_else(|e| e.into_inner());
        while let Some(first) = sleepers.first_entry() {
            let time = first.key().0;
            if time > Instant::now() {
                self.set_clock(time);
                break;
            }
            due.push(first.remove());
        }
        drop(sleepers);
        due.into_iter().for_each(Waker::wake);
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
                match event.data.u64() {
                    CLOCK => self.wake_sleepers(),
                    key => self.dispatch(key, event.flags),
                }
            }
        }
    }

    fn dispatch(&self, key: u64, flags: EventFlags) {
        enum What {
            Wake(Waker),
            WakeBoth([Option<Waker>; 2]),
            Hear(Arc<Connection>),
            Reap(Arc<Connection>),
            Look,
        }
        let what = match self.sources().1.get_mut(&key) {
            Some(Source::Pipe(waker)) => waker.take().map(What::Wake),
            Some(Source::Socket([reader, writer])) => {
                let over = flags.intersects(EventFlags::HUP | EventFlags::ERR);
                let reads = over || flags.intersects(EventFlags::IN | EventFlags::RDHUP);
                let writes = over || flags.contains(EventFlags::OUT);
                let taken = |wanted: bool, waker: &mut Option<Waker>| if wanted { waker.take() } else { None };
                Some(What::WakeBoth([taken(reads, reader), taken(writes, writer)]))
            }
            Some(Source::Control(connection)) => Some(What::Hear(connection.clone())),
            Some(Source::Supervisor(connection)) => Some(What::Reap(connection.clone())),
            Some(Source::Files) => Some(What::Look),
            None => None,
        };
        // Outside the lock: a waker may run anything.
        match what {
            Some(What::Wake(waker)) => waker.wake(),
            Some(What::WakeBoth(wakers)) => wakers.into_iter().flatten().for_each(Waker::wake),
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
