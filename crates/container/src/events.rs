//! What happens to the containers of an engine's directory, as it happens: made, started, ended, paused, renamed, removed.
//!
//! There is no server to tell. The directory is watched by inotify(7) and looked at again when something in it changed, and what is different
//! from the look before is what happened. So no event needs whoever caused it to be alive or well, and two changes back within one
//! look, milliseconds as a rule, are one or none.

use crate::engine::Engine;
use crate::error::Error;
use crate::exit::{ExitStatus, Reason};
use crate::state::{ContainerSummary, Found, State};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// It was made.
    Create,
    /// Its command was executed.
    Start,
    /// The memory limit ended it; `Die` follows.
    Oom,
    /// It ended: how, where that is kept.
    Die(Option<ExitStatus>),
    /// Its processes were stopped.
    Pause,
    /// They go on.
    Unpause,
    /// It got another name.
    Rename,
    /// It is gone with its files.
    Destroy,
}

impl EventKind {
    /// The word that docker-events(1) has for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Oom => "oom",
            Self::Die(_) => "die",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
            Self::Rename => "rename",
            Self::Destroy => "destroy",
        }
    }
}

/// Something that happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// When it was seen.
    pub time: SystemTime,
    /// What.
    pub kind: EventKind,
    /// To whom.
    pub id: String,
    /// Its name then.
    pub name: Option<String>,
    /// What it was made from.
    pub image: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What happens to containers: [`Engine::events`] begins it. Dropping it ends it.
#[derive(Debug)]
#[must_use = "events come to who asks"]
pub struct Events(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<(VecDeque<Event>, Option<Waker>)>,
    over: AtomicBool,
}

impl Engine {
    /// What happens from now on to the containers below this directory, of this process and of others. A thread watches as long as the answer
    /// is held.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn events(&self) -> Result<Events, Error> {
        let failed = |source| Error::State { attempted: "watch", path: self.0.runs.clone(), source };
        let shared = Arc::new(Shared::default());
        let mut watcher = Watcher::new(&self.0.runs);
        watcher.look();
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("coracle-events".into());
        thread.spawn(move || watcher.run(&theirs)).map_err(failed)?;
        Ok(Events(shared))
    }
}

impl Events {
    /// The next, waited for. Cancel-safe. Belongs to no runtime.
    pub async fn next(&mut self) -> Event {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let mut queue = self.0.queue.lock().unwrap_or_else(|e| e.into_inner());
        match queue.0.pop_front() {
            Some(event) => Poll::Ready(event),
            None => {
                queue.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
    }
}

/// How long the thread may take to notice that nobody listens; and how often it looks where nothing tells it to.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

struct Watcher {
    runs: std::path::PathBuf,
    inotify: Option<OwnedFd>,
    known: HashMap<String, ContainerSummary>,
}

impl Watcher {
    fn new(runs: &Path) -> Self {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok();
        let watcher = Self { runs: runs.to_owned(), inotify, known: HashMap::new() };
        watcher.watch(runs);
        watcher
    }

    fn watch(&self, directory: &Path) {
        use inotify::WatchFlags;
        let wanted = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ONLYDIR;
        if let Some(inotify) = &self.inotify {
            // Gone meanwhile, or no room: the next look comes by itself.
            let _ = inotify::add_watch(inotify, directory, wanted);
        }
    }

    fn run(mut self, shared: &Shared) {
        while !shared.over.load(Ordering::Acquire) {
            let happened = self.look();
            if !happened.is_empty() {
                let mut queue = shared.queue.lock().unwrap_or_else(|e| e.into_inner());
                queue.0.extend(happened);
                let waker = queue.1.take();
                drop(queue);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            match &self.inotify {
                Some(inotify) => {
                    let _ = poll(&mut [PollFd::new(inotify, PollFlags::IN)], Some(&PAUSE));
                    while matches!(rustix::io::read(inotify, &mut [0; 4096]), Ok(1..)) {}
                }
                None => std::thread::sleep(std::time::Duration::from_millis(100)),
            }
        }
    }

    /// What is different from the look before.
    fn look(&mut self) -> Vec<Event> {
        let mut now = HashMap::new();
        for entry in std::fs::read_dir(&self.runs).into_iter().flatten().flatten() {
            // Watched before it is read, so that what comes between is seen next time.
            if entry.file_name().to_str().is_some_and(|name| !name.starts_with('.') && !self.known.contains_key(name)) {
                self.watch(&entry.path());
            }
            if let Some(found) = Found::read(&entry.path()).filter(|found| found.alive || found.kept) {
                now.insert(found.id.clone(), found.summary());
            }
        }
        let mut events = Vec::new();
        for (id, before) in &self.known {
            match now.get(id) {
                Some(after) => events.extend(differences(before, after)),
                None => {
                    if before.state.is_running() {
                        events.push(event(before, EventKind::Die(None)));
                    }
                    events.push(event(before, EventKind::Destroy));
                }
            }
        }
        for (_, new) in now.iter().filter(|(id, _)| !self.known.contains_key(*id)) {
            events.push(event(new, EventKind::Create));
            events.extend(differences(&ContainerSummary { state: State::Created, started: None, finished: None, ..new.clone() }, new));
        }
        self.known = now;
        events
    }
}

fn event(of: &ContainerSummary, kind: EventKind) -> Event {
    let ContainerSummary { id, name, image, labels, .. } = of.clone();
    Event { time: SystemTime::now(), kind, id, name, image, labels }
}

/// What happened between two looks at one container.
fn differences(before: &ContainerSummary, after: &ContainerSummary) -> Vec<Event> {
    let mut kinds = Vec::new();
    if before.name != after.name {
        kinds.push(EventKind::Rename);
    }
    let began = |of: &ContainerSummary| of.started.filter(|_| of.state.is_running());
    let restarted = began(before).zip(began(after)).is_some_and(|(before, after)| before != after);
    match (before.state.is_running(), after.state.is_running()) {
        (true, false) => kinds.extend(ends(Some(after.state))),
        (false, true) => kinds.push(EventKind::Start),
        (true, true) if restarted => {
            kinds.extend(ends(None));
            kinds.push(EventKind::Start);
        }
        // A life that was over before anybody looked.
        (false, false) if before.finished != after.finished && matches!(after.state, State::Exited(_)) => {
            kinds.push(EventKind::Start);
            kinds.extend(ends(Some(after.state)));
        }
        _ => {}
    }
    match (before.state, after.state) {
        (_, State::Paused) if before.state != State::Paused => kinds.push(EventKind::Pause),
        (State::Paused, State::Running) if !restarted => kinds.push(EventKind::Unpause),
        _ => {}
    }
    kinds.into_iter().map(|kind| event(after, kind)).collect()
}

fn ends(state: Option<State>) -> Vec<EventKind> {
    match state {
        Some(State::Exited(status)) if status.reason() == Reason::OutOfMemory => vec![EventKind::Oom, EventKind::Die(Some(status))],
        Some(State::Exited(status)) => vec![EventKind::Die(Some(status))],
        _ => vec![EventKind::Die(None)],
    }
}
