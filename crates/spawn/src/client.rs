//! One conversation with one supervisor.

use crate::child::{Ended, KilledBy, Left, Status};
use crate::wire::{self, Answer, Field, HEADER, Kind, Reader, Request, killed_by};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, recvmsg, sendmsg,
};
use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// What a supervisor said so far.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) started: Option<Started>,
    pub(crate) failed: Option<Failed>,
    /// All is made, and the command waits.
    pub(crate) created: bool,
    pub(crate) health: Option<crate::health::Health>,
    pub(crate) ended: Option<Arc<Ended>>,
    pub(crate) gone: Option<Vec<Left>>,
    /// 0, or why it can't be.
    pub(crate) detached: Option<i32>,
    /// Requests that the supervisor doesn't know, as bits.
    pub(crate) unknown: u64,
    /// What it says is kept here.
    pub(crate) log: Option<crate::log::Log>,
    /// The master of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
    /// Questions whose answers somebody waits for.
    pub(crate) asked: HashSet<u32>,
    /// Lists of further commands that were asked for, and answers to signals, by the question.
    pub(crate) execs: HashMap<u32, Vec<crate::exec::Running>>,
    pub(crate) signalled: HashMap<u32, i32>,
    /// Nothing more will come.
    pub(crate) closed: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Started {
    pub(crate) pid: u32,
    pub(crate) command: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) stage: u8,
    pub(crate) index: u32,
    pub(crate) errno: i32,
    pub(crate) cause: u8,
    pub(crate) detail: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    said: Said,
    input: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    waiting: Vec<Waker>,
}

/// How long a supervisor may leave its socket full, and this user's descriptors may be on their way in such number that the kernel takes
/// no more (unix(7), ETOOMANYREFS).
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn patiently<T>(mut send: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    let begun = Instant::now();
    loop {
        match send() {
            Err(Errno::AGAIN | Errno::TOOMANYREFS) if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(1)),
            other => return other,
        }
    }
}

/// Descriptors that a plan brings at most: the supervisor has room for them.
pub(crate) const MAX_PLANNED: usize = 72;

#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    pidfd: Option<OwnedFd>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd, pidfd: Option<OwnedFd>) -> Arc<Self> {
        Arc::new(Self { socket, pidfd, state: Mutex::default(), changed: Condvar::new() })
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Sends a plan or an exec, and descriptors beside it.
    pub(crate) fn send(&self, kind: Kind, plan: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let length = u32::try_from(plan.len()).ok().filter(|&n| n <= wire::MAX_PLAN).ok_or(io::ErrorKind::ArgumentListTooLong)?;
        let header = wire::header(kind, length, fds.len() as u16);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_PLANNED))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(fds));
        let pieces = [IoSlice::new(&header), IoSlice::new(plan)];
        let mut sent = patiently(|| sendmsg(&self.socket, &pieces, &mut control, SendFlags::NOSIGNAL))?;
        while sent < HEADER + plan.len() {
            sent += rustix::net::send(&self.socket, &plan[sent - HEADER..], SendFlags::NOSIGNAL)?;
        }
        Ok(())
    }

    /// Sends a request. Whoever doesn't hear any more has nothing left to do what it asks to.
    pub(crate) fn request(&self, request: &Request<'_>) -> io::Result<()> {
        self.request_with(request, &[])
    }

    /// Sends a request with descriptors beside it, also where so many ask at once that the socket is full for a moment.
    pub(crate) fn request_with(&self, request: &Request<'_>, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut bytes = vec![0; HEADER];
        request.put(&mut bytes);
        let header = wire::header(Kind::Request, (bytes.len() - HEADER) as u32, fds.len() as u16);
        bytes[..HEADER].copy_from_slice(&header);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        patiently(|| sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, flags))?;
        Ok(())
    }

    /// Cuts the lifeline: the supervisor ends everything, unless it was told to outlive us.
    pub(crate) fn let_go(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
    }

    /// Reads what has come. False when nothing more will.
    pub(crate) fn hear(&self) -> bool {
        let mut state = self.state();
        let mut open = true;
        loop {
            let mut bytes = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
                Ok(received) => {
                    for message in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(fds) = message {
                            state.fds.extend(fds);
                        }
                    }
                    if received.bytes == 0 {
                        open = false;
                        break;
                    }
                    state.input.extend_from_slice(&bytes[..received.bytes]);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(_) => {
                    open = false;
                    break;
                }
            }
        }
        if !state.take_frames() {
            open = false;
        }
        if !open {
            state.said.closed = true;
        }
        self.tell(state);
        open
    }

    /// The supervisor has ended: reads its last words and reaps it.
    pub(crate) fn supervisor_ended(&self) {
        self.hear();
        if let Some(pidfd) = self.pidfd() {
            use rustix::process::{WaitId, WaitIdOptions, waitid};
            // ECHILD where SIGCHLD is ignored, or where somebody else in this process reaps everybody: then it's done.
            let _ = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED);
        }
        let mut state = self.state();
        state.said.closed = true;
        self.tell(state);
    }

    fn tell(&self, mut state: MutexGuard<'_, State>) {
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.changed.notify_all();
        waiting.into_iter().for_each(Waker::wake);
    }

    /// What `look` sees in what was said, now.
    pub(crate) fn now<T>(&self, look: impl FnOnce(&mut Said) -> T) -> T {
        look(&mut self.state().said)
    }

    /// Waits, blocking this thread, until `look` sees something.
    pub(crate) fn wait<T>(&self, mut look: impl FnMut(&mut Said) -> Option<T>) -> T {
        let mut state = self.state();
        loop {
            if let Some(found) = look(&mut state.said) {
                return found;
            }
            state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// Waits as a future until `look` sees something.
    pub(crate) fn poll<T>(&self, cx: &mut Context<'_>, look: impl FnOnce(&mut Said) -> Option<T>) -> Poll<T> {
        let mut state = self.state();
        match look(&mut state.said) {
            Some(found) => Poll::Ready(found),
            None => {
                if !state.waiting.iter().any(|known| known.will_wake(cx.waker())) {
                    state.waiting.push(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

impl State {
    /// Takes in every frame that has come whole. False for what nobody can understand.
    fn take_frames(&mut self) -> bool {
        let mut at = 0;
        let mut good = true;
        while let Some(header) = self.input[at..].first_chunk::<HEADER>() {
            let (length, kind, fds) = wire::parse_header(header);
            let Some(payload) = self.input[at + HEADER..].get(..length as usize) else {
                break;
            };
            // What an answer brings that it shouldn't is closed.
            let fds = self.fds.drain(..self.fds.len().min(usize::from(fds))).collect();
            good &= kind == Kind::Answer as u16 && take_answer(&mut self.said, payload, fds);
            at += HEADER + length as usize;
        }
        self.input.drain(..at);
        good
    }
}

/// What an answer says of an end.
pub(crate) fn ended_of(payload: &[u8]) -> Option<Ended> {
    let mut said = Said::default();
    take_answer(&mut said, payload, Vec::new()).then_some(said.ended).flatten().map(|ended| (*ended).clone())
}

fn take_answer(said: &mut Said, payload: &[u8], fds: Vec<OwnedFd>) -> bool {
    let Ok(answer) = Answer::take(&mut Reader::new(payload)) else {
        return false;
    };
    match answer {
        Answer::Started { pid, command } => said.started = Some(Started { pid, command }),
        Answer::Failed { stage, index, errno, cause, detail } => {
            said.failed = Some(Failed { stage, index, errno, cause, detail: detail.to_vec() });
        }
        Answer::Ended { status, init_status, killed_by, wall, user, system, max_rss, files } => {
            // PID 1 that was killed takes the command with it: then its status is the only one.
            let status = Status(if said.failed.is_none() { status } else { init_status });
            let killed_by = match killed_by {
                killed_by::NOBODY => KilledBy::Nobody,
                killed_by::HANDLE => KilledBy::Handle,
                killed_by::WALL => KilledBy::WallClock,
                killed_by::LIFELINE => KilledBy::Lifeline,
                killed_by::GRACE => KilledBy::Grace,
                killed_by::CONTAINER => KilledBy::Container,
                killed_by::CPU => KilledBy::CpuTime,
                killed_by::OUTPUT => KilledBy::OutputLimit,
                killed_by::IDLE => KilledBy::Idle,
                _ => return false,
            };
            said.ended = Some(Arc::new(Ended {
                status,
                killed_by,
                wall: Duration::from_nanos(wall),
                cpu_user: Duration::from_micros(user),
                cpu_system: Duration::from_micros(system),
                max_rss,
                files: files.iter().map(<[u8]>::to_vec).collect(),
            }));
        }
        Answer::Gone { errors } => {
            let left = |left: wire::Left<'_>| Left {
                path: OsStr::from_bytes(left.path.to_bytes()).into(),
                error: io::Error::from_raw_os_error(left.errno).to_string(),
            };
            said.gone = Some(errors.iter().map(left).collect());
        }
        Answer::Created {} => said.created = true,
        Answer::Health { state, failing, tests, status, output } => {
            said.health = crate::health::Health::read(state, failing, tests, status, output);
        }
        Answer::Detached { errno } => said.detached = Some(errno),
        Answer::Unknown { request } => said.unknown |= 1u64.checked_shl(request.into()).unwrap_or(0),
        Answer::Execs { token, .. } | Answer::Signalled { token, .. } if !said.asked.contains(&token) => {}
        Answer::Execs { token, running } => {
            said.execs.insert(token, running.iter().map(|running| crate::exec::Running::read(&running)).collect());
        }
        Answer::Signalled { token, errno } => {
            said.signalled.insert(token, errno);
        }
        Answer::Terminal {} => said.terminal = fds.into_iter().next(),
        Answer::Log {} => said.log = fds.into_iter().next().and_then(|fd| crate::log::Log::of_descriptor(fd).ok()),
        Answer::Never(..) => return false,
    }
    true
}
