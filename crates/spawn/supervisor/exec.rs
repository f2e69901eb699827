//! One more command in a running container: how it gets in there, and its life.
//!
//! ```text
//!   arriving ──▶ making ──Started──▶ running ──Ended──▶ emptying ──Gone──▶ over
//!      │           │ Failed            │ kill, wall clock, lifeline  ▲
//!      └───────────┴───────────────────┴─────────────────────────────┘
//! ```
//!
//! It has a conversation of its own with whoever asked for it, so that a handle to it is as a handle to a container: it waits, signals,
//! and its end is the end of all that the command started. What the command may do is read from the container's own plan, so that nobody
//! can ask for more than the container has.
//!
//! As root this process enters the pid namespace for the length of one clone(2). As a plain user it may not: there a helper enters the
//! user namespace, where it may all, and makes the process as this process's child.

use crate::collect::Collected;
use crate::execute::{Executable, home_variable};
use crate::failure::{Failure, Fault};
use crate::peer::{Peer, answer_to, answer_with, answers_to};
use crate::prepare::{self, Path};
use crate::step::Inside;
use crate::system_call::{
    AT_FDCWD, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_PARENT, Cloned, Errno, Fd, POLLIN, Pages, PollFd, Received,
    Rusage, clone, close, close_range, dup3, duplicate_above, exit, mkdirat, now, open, openat2, pidfd_open, pidfd_send_signal, poll,
    prctl, read, receive_message, setns, setresgid, setresuid, setsid, socketpair, unlinkat, wait_pidfd, write,
};
use crate::text::Buffer;
use crate::wire::{
    self, Answer, Field, HEADER, Kind, Left, List, MAX_PLAN, Plan, Reader, Report, Running, Step, VERSION, exec_step, killed_by,
    parse_header, stage,
};
use crate::{init, report, tree};
use core::ffi::CStr;
use core::marker::PhantomData;

const SIGKILL: u32 = 9;
const MILLISECOND: u64 = 1_000_000;
/// How long the kernel may take to end what was killed before that is told as a failure.
const PATIENCE: u64 = 10_000 * MILLISECOND;

/// Descriptors that one of these polls for.
pub const POLLED: usize = 5;

/// A further command, from the moment in which somebody asked for it.
pub struct Exec {
    /// Its conversation; none when the other end has gone.
    peer: Option<Peer>,
    owner: Option<Fd>,
    /// What is executed, as it travelled: so much of it has come.
    header: [u8; HEADER],
    payload: Option<Pages>,
    have: usize,
    streams: Received,
    id: u32,
    /// Its cgroup, where the container has one.
    cgroup: Option<Fd>,
    /// Makes the process in a user namespace.
    helper: Option<Fd>,
    helper_pid: u32,
    /// Whether the helper was killed before it told of the process, which may be there all the same.
    lost: bool,
    /// The process: the command, or our init of it where there is no cgroup.
    process: Option<Fd>,
    pid: u32,
    /// The command, where the process is our init and could tell; otherwise that hands signals on.
    command: Option<Fd>,
    /// Whether our init has said that the command runs.
    begun: bool,
    report: Option<Fd>,
    /// The master of its terminal.
    terminal: Option<Fd>,
    detached: bool,
    /// Whether it was told that the command runs, or why not.
    decided: bool,
    told: bool,
    status: Option<i32>,
    usage: Rusage,
    killed_by: u8,
    /// Processes that the container's v1 memory limit had killed before this began.
    oom_kills: u64,
    started: u64,
    deadlines: [(u64, u8); 2],
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Arriving,
    Alive,
    /// What the command left is being ended: again at this time, with this pause after, until then.
    Emptying {
        at: u64,
        pause: u64,
        until: u64,
    },
    Over,
}

/// What of the container decides about its further commands.
#[derive(Clone, Copy)]
pub struct Container<'a> {
    pub plan: &'a Plan<'a>,
    pub first: Fd,
    pub pid: u32,
    /// Whether its end has begun.
    pub ending: bool,
}

impl Exec {
    pub fn new(socket: Fd, id: u32) -> Self {
        Self {
            peer: Some(Peer::new(socket)),
            owner: None,
            header: [0; HEADER],
            payload: None,
            have: 0,
            streams: Received::new(),
            id,
            cgroup: None,
            helper: None,
            helper_pid: 0,
            lost: false,
            process: None,
            pid: 0,
            command: None,
            begun: false,
            report: None,
            terminal: None,
            detached: false,
            decided: false,
            told: false,
            status: None,
            usage: Rusage::default(),
            killed_by: killed_by::NOBODY,
            oom_kills: 0,
            started: now(),
            deadlines: [(u64::MAX, killed_by::WALL), (u64::MAX, killed_by::GRACE)],
            stage: Stage::Arriving,
        }
    }

    /// One that nobody asked for but this process: a test of the container's health. There is no conversation.
    pub fn by_itself(container: Container<'_>, id: u32, request: Pages, streams: Received) -> Self {
        let mut exec = Self::new(Fd(-1), id);
        exec.peer = None;
        (exec.payload, exec.streams) = (Some(request), streams);
        exec.begin(container);
        exec.streams.as_slice().first().iter().for_each(|&&f| close(f));
        exec.streams = Received::new();
        exec
    }

    /// How it ended, as wait(2) gives it.
    pub fn verdict(&self) -> i32 {
        self.status.filter(|_| self.killed_by == killed_by::NOBODY).unwrap_or(SIGKILL as i32)
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Whether this process is known to be one of its.
    pub fn has(&self, pid: u32) -> bool {
        self.process.is_some() && self.pid == pid || self.helper.is_some() && self.helper_pid == pid
    }

    /// Whether a process of it may be a child of ours that nobody knows; once.
    pub fn has_lost_one(&mut self) -> bool {
        core::mem::take(&mut self.lost)
    }

    pub fn is_running(&self) -> bool {
        self.stage == Stage::Alive && self.decided && self.status.is_none()
    }

    /// Where it asks to be looked at by itself.
    pub fn next_time(&self) -> u64 {
        let next = match self.stage {
            Stage::Emptying { at, .. } => at,
            _ => u64::MAX,
        };
        self.deadlines.iter().fold(next, |next, deadline| next.min(deadline.0))
    }

    pub fn polled(&self) -> [PollFd; POLLED] {
        let socket = self.peer.as_ref().map(|peer| peer.socket);
        // As long as its helper is there, the report's end says nothing: a short command may have been executed and have ended before.
        let process = self.process.filter(|_| self.decided || self.helper.is_none());
        [socket, self.owner, self.report, self.helper, process].map(|f| PollFd { fd: f.map_or(-1, |f| f.0), events: POLLIN, revents: 0 })
    }

    /// What it is, for who lists.
    pub fn describe(&self) -> Running<'_> {
        let argv = self.request().map_or(List::new(0, &[]), |exec| exec.argv.beginning(512));
        Running { id: self.id, pid: self.pid, age: now().saturating_sub(self.started), argv, end: PhantomData }
    }

    fn request(&self) -> Option<wire::Exec<'_>> {
        wire::Exec::take(&mut Reader::new(self.payload.as_ref()?)).ok()
    }

    /// Goes on with whatever has happened: `events` are those of [`polled`](Self::polled).
    pub fn go_on(&mut self, container: Container<'_>, events: &[PollFd]) {
        let happened = |n: usize| events.get(n).is_some_and(|event| event.revents != 0);
        if happened(0) {
            self.hear(container);
        }
        if happened(1) {
            if let Some(f) = self.owner.take() {
                close(f);
            }
            self.let_go();
        }
        if happened(2) {
            self.hear_reports();
        }
        if happened(3) {
            self.reap_helper(container.plan);
        }
        if happened(4) {
            self.reap(container);
        }
        let time = now();
        for i in 0..self.deadlines.len() {
            if self.deadlines[i].0 <= time {
                self.deadlines[i].0 = u64::MAX;
                self.kill(self.deadlines[i].1);
            }
        }
        if matches!(self.stage, Stage::Emptying { at, .. } if at <= time) {
            self.empty(container.plan);
        }
    }

    /// Its handle has gone.
    fn let_go(&mut self) {
        if !self.detached {
            self.kill(killed_by::LIFELINE);
        }
    }

    fn hang_up(&mut self) {
        if let Some(mut peer) = self.peer.take() {
            peer.close();
        }
    }

    fn hear(&mut self, container: Container<'_>) {
        if self.stage == Stage::Arriving {
            return self.arrive(container);
        }
        let Some(peer) = &mut self.peer else { return };
        if !peer.hear() {
            self.hang_up();
            return self.let_go();
        }
        while let Some(peer) = &mut self.peer {
            use crate::peer::Next;
            use crate::wire::Request;
            match peer.next() {
                Next::Nothing => return,
                Next::Request(Request::Signal { number }) if number == SIGKILL => self.kill(killed_by::HANDLE),
                Next::Request(Request::Signal { number }) => self.signal(number),
                Next::Request(Request::Stop { number, grace }) => {
                    self.signal(number);
                    self.deadlines[1].0 = self.deadlines[1].0.min(now().saturating_add(grace.saturating_mul(MILLISECOND)));
                }
                Next::Request(Request::Kill {}) => self.kill(killed_by::HANDLE),
                Next::Request(Request::Detach {}) => {
                    self.detached = true;
                    peer.answer(&Answer::Detached { errno: 0 });
                }
                Next::Exec(socket) => {
                    close(socket);
                    peer.answer(&Answer::Unknown { request: 5 });
                }
                Next::Open(socket) => {
                    close(socket);
                    peer.answer(&Answer::Unknown { request: 20 });
                }
                Next::Request(_) => peer.answer(&Answer::Unknown { request: 0 }),
                Next::Unknown(request) => peer.answer(&Answer::Unknown { request }),
                Next::Gone => {
                    self.hang_up();
                    return self.let_go();
                }
            }
        }
    }

    /// Takes in what is to be executed, piece by piece, and begins when it is whole.
    fn arrive(&mut self, container: Container<'_>) {
        let Some(socket) = self.peer.as_ref().map(|peer| peer.socket) else { return };
        loop {
            let result = match &mut self.payload {
                None => receive_message(socket, &mut self.header[self.have..], &mut self.streams, false),
                Some(payload) => receive_message(socket, &mut payload[self.have..], &mut self.streams, false),
            };
            match result {
                Err(Errno::EAGAIN) => return,
                Ok(n @ 1..) => self.have += n,
                Ok(_) | Err(_) => return self.over(),
            }
            match &self.payload {
                None if self.have == HEADER => {
                    let (length, kind, fds) = parse_header(&self.header);
                    if kind != Kind::Exec as u16 || length == 0 || length > MAX_PLAN || fds != 4 {
                        return self.refuse(Errno::EPROTO.into());
                    }
                    match Pages::new(length as usize) {
                        Ok(pages) => (self.payload, self.have) = (Some(pages), 0),
                        Err(errno) => return self.refuse(errno.into()),
                    }
                }
                Some(payload) if self.have == payload.len() => break,
                _ => {}
            }
        }
        // The version comes first, so that another one is told apart from garbage.
        let version = self.payload.as_ref().and_then(|payload| u16::take(&mut Reader::new(payload)).ok());
        let &[owner, _, _, _] = self.streams.as_slice() else {
            return self.refuse(Errno::EPROTO.into());
        };
        if version != Some(VERSION) || self.request().is_none() {
            return self.refuse(Errno::ENOSYS.into());
        }
        self.owner = Some(owner);
        self.begin(container);
        self.streams = Received::new();
    }

    /// Begins, when it is known what.
    fn begin(&mut self, container: Container<'_>) {
        self.stage = Stage::Alive;
        self.started = now();
        if let Some(wall) = self.request().map(|exec| exec.wall).filter(|&wall| wall > 0) {
            self.deadlines[0].0 = self.started.saturating_add(wall.saturating_mul(MILLISECOND));
        }
        let made = self.make(container);
        // The command's streams are the command's: who waits for their end must not wait for us.
        self.streams.as_slice().iter().skip(1).for_each(|&f| close(f));
        if let Err(failure) = made {
            self.failed(&failure);
            self.kill(killed_by::NOBODY);
            self.finish_if_empty(container.plan);
        }
    }

    /// Says that it can't be, before there was anything of it.
    pub fn refuse(&mut self, fault: Fault) {
        self.failed(&Failure { stage: stage::PLAN, index: 0, fault });
        self.tell_gone(None);
        self.over();
    }

    /// Makes its cgroup and its first process.
    fn make(&mut self, container: Container<'_>) -> Result<(), Failure> {
        let failure = |stage, errno: Errno| Failure { stage, index: 0, fault: errno.into() };
        if container.ending {
            return Err(failure(stage::JOIN, Errno::ESRCH));
        }
        let plan = container.plan;
        if let Some(mut directory) = directory(plan, self.id) {
            let made = directory.as_c_str().ok_or(Errno(36)).and_then(|directory| {
                mkdirat(AT_FDCWD, directory, 0o755)?;
                openat2(AT_FDCWD, directory, open::DIRECTORY, 0, 0)
            });
            self.cgroup = Some(made.map_err(|errno| failure(stage::CGROUP, errno))?);
        }
        self.oom_kills = oom_kills(plan).unwrap_or(0);
        let cloning = |errno| failure(stage::CLONE, errno);
        let (ours, theirs) = socketpair().map_err(cloning)?;
        self.report = Some(ours);
        let by_helper = plan.id_map.is_some();
        let cloned = if !by_helper && namespaces(plan) & CLONE_NEWPID != 0 {
            clone_in_pid_namespace(container.first, self.cgroup)
        } else {
            clone(0, self.cgroup)
        };
        match cloned {
            Ok((Cloned::Child, placed)) => self.inside(container, theirs, by_helper, placed),
            Ok((Cloned::Parent { pid, pidfd }, _)) if by_helper => (self.helper_pid, self.helper) = (pid, Some(pidfd)),
            Ok((Cloned::Parent { pid, pidfd }, _)) => (self.pid, self.process) = (pid, Some(pidfd)),
            Err(errno) => {
                close(theirs);
                return Err(cloning(errno));
            }
        }
        close(theirs);
        Ok(())
    }

    /// The new process: descriptors first, then the way in, then who it is, then the command.
    fn inside(&self, container: Container<'_>, supervisor: Fd, by_helper: bool, placed: bool) -> ! {
        const SUPERVISOR: Fd = Fd(3);
        const FIRST: Fd = Fd(4);
        let plan = container.plan;
        let _ = prctl::set_death_signal(SIGKILL);
        // Whoever waits inside must find nothing to open in this process's /proc directory: it holds the host's descriptors until they
        // are closed below, and was made from a program of the host's (CVE-2016-9962, CVE-2019-5736).
        let _ = prctl::set_dumpable(false);
        let fail = |failure: &Failure| -> ! {
            report::failure(SUPERVISOR, failure);
            exit(127)
        };
        // First out of the way of the numbers that they get. Close-on-exec but for the streams: who has executed the command has let
        // go of the report.
        let &[_, stdin, stdout, stderr] = self.streams.as_slice() else { exit(127) };
        let mut moved = true;
        let mut copies = [Fd(-1); 5];
        for (copy, from) in copies.iter_mut().zip([stdin, stdout, stderr, supervisor, container.first]) {
            match duplicate_above(from, 16) {
                Ok(f) => *copy = f,
                Err(_) => moved = false,
            }
        }
        for (number, copy) in copies.iter().enumerate() {
            moved &= dup3(*copy, number as i32, number > 2).is_ok();
        }
        let _ = close_range(5, u32::MAX);
        if !moved {
            exit(127);
        }

        // What has a path on the host comes before the host is left.
        if let (Some(mut directory), false) = (directory(plan, self.id), placed) {
            directory.push(b"/cgroup.procs");
            if let Err(errno) = directory.as_c_str().ok_or(Errno(36)).and_then(|path| prepare::write_file(path, b"0")) {
                fail(&Failure { stage: stage::CGROUP, index: 0, fault: errno.into() });
            }
        }
        for step in plan.steps.iter() {
            if let Step::JoinCgroup { path } = step
                && let Err(errno) = prepare::write_file(path, b"0")
            {
                fail(&Failure { stage: stage::STEP, index: exec_step::CGROUPS, fault: errno.into() });
            }
        }
        let namespaces = if by_helper { namespaces(plan) } else { namespaces(plan) & !(CLONE_NEWPID | CLONE_NEWUSER) };
        if namespaces != 0
            && let Err(errno) = setns(FIRST, namespaces)
        {
            fail(&Failure { stage: stage::JOIN, index: 0, fault: errno.into() });
        }
        close(FIRST);
        if by_helper {
            match clone(CLONE_PARENT, None) {
                Ok((Cloned::Child, _)) => {
                    let _ = prctl::set_death_signal(SIGKILL);
                    let _ = setresgid(0).and_then(|()| setresuid(0));
                    let _ = prctl::set_death_signal(SIGKILL);
                    let _ = prctl::set_dumpable(false);
                }
                Ok((Cloned::Parent { pid, pidfd }, _)) => {
                    report::send(SUPERVISOR, &Report::Made { pid }, &[pidfd]);
                    exit(0)
                }
                Err(errno) => fail(&Failure { stage: stage::CLONE, index: 0, fault: errno.into() }),
            }
        }
        let _ = setsid();
        let (Some(exec), Some(command)) = (self.request(), &plan.command) else {
            fail(&Failure { stage: stage::PLAN, index: 0, fault: Errno::EPROTO.into() })
        };
        let inside = match identity(plan, &exec, SUPERVISOR) {
            Ok(inside) => inside,
            Err(failure) => fail(&failure),
        };
        let _ = close_range(4, u32::MAX);
        let mut home = home_variable(inside.user.home.as_slice());
        let home = if inside.home { home.as_c_str() } else { None };
        let fault = match Executable::of_exec(&exec, command, home) {
            Ok(executable) if self.cgroup.is_none() => init::run_exec(executable, SUPERVISOR),
            Ok(executable) => executable.execute(),
            Err(errno) => errno.into(),
        };
        fail(&Failure { stage: stage::EXEC, index: 0, fault })
    }

    fn hear_reports(&mut self) {
        while self.hear_report() {}
    }

    /// Hears one report, without waiting; whether there may be another.
    fn hear_report(&mut self) -> bool {
        let Some(socket) = self.report else { return false };
        let mut bytes = [0; 1024];
        let mut fds = Received::new();
        let result = receive_message(socket, &mut bytes, &mut fds, false);
        let mut beside = fds.as_slice().first().copied();
        match result {
            Err(Errno::EAGAIN) => return false,
            Err(Errno::ECONNRESET) => {}
            Ok(n @ 1..) => match Report::take(&mut Reader::new(&bytes[..n])) {
                Ok(Report::Made { pid }) if self.helper.is_some() && self.process.is_none() => {
                    // It is a child of ours, which only we reap: the number is its.
                    (self.pid, self.process) = (pid, beside.take().or_else(|| pidfd_open(pid).ok()));
                }
                Ok(Report::Terminal {}) if !self.decided && self.terminal.is_none() => {
                    self.terminal = beside.take();
                    if let (Some(peer), Some(master)) = (&self.peer, self.terminal) {
                        answer_with(peer.socket, &Answer::Terminal {}, master);
                    }
                }
                Ok(Report::Running { at, .. }) if !self.begun => {
                    self.begun = true;
                    self.command = beside.take();
                    self.running(at);
                }
                Ok(Report::Failed { stage, index, errno, cause, detail }) => {
                    let fault = Fault::new(Errno(errno), cause, detail);
                    self.failed(&Failure { stage, index, fault });
                }
                Ok(Report::Ended { status }) if self.begun && self.status.is_none() => {
                    self.status = Some(status);
                    self.begin_to_empty();
                }
                // A stranger may have taken it over; what it says beyond this is nothing.
                Ok(_) | Err(_) => {}
            },
            Ok(_) | Err(_) => {
                self.report = None;
                close(socket);
                // It closes on exec: the command runs. Our init would have said so.
                if self.cgroup.is_some() && (self.process.is_some() || self.helper.is_none()) {
                    self.running(now());
                }
                return false;
            }
        }
        fds.as_slice().iter().skip(usize::from(beside.is_none())).for_each(|&f| close(f));
        true
    }

    fn running(&mut self, at: u64) {
        if !self.decided {
            self.decided = true;
            self.started = at.clamp(self.started, now());
            self.answer(&Answer::Started { pid: self.pid, command: self.id });
        }
    }

    fn failed(&mut self, failure: &Failure) {
        if !self.decided {
            self.decided = true;
            // There is no end to tell.
            self.told = true;
            let Failure { stage, index, fault } = failure;
            let detail = fault.detail.as_slice();
            self.answer(&Answer::Failed { stage: *stage, index: *index, errno: fault.errno.0, cause: fault.cause, detail });
        }
    }

    fn answer(&self, answer: &Answer<'_>) {
        if let Some(peer) = &self.peer {
            answer_to(peer.socket, answer);
        }
    }

    pub fn signal(&mut self, number: u32) {
        self.hear_reports();
        // The command has it, not what it left.
        if let (Some(f), None) = (self.command.or(self.process), self.status) {
            let _ = pidfd_send_signal(f, number);
        }
    }

    /// Ends everything of it. What was asked first is what is said to have done it.
    pub fn kill(&mut self, by: u8) {
        if self.stage == Stage::Arriving {
            return self.over();
        }
        self.hear_reports();
        if self.killed_by == killed_by::NOBODY && self.status.is_none() {
            self.killed_by = by;
        }
        match self.cgroup {
            Some(directory) => {
                kill_cgroup(directory);
                for f in [self.helper, self.process].into_iter().flatten() {
                    let _ = pidfd_send_signal(f, SIGKILL);
                }
            }
            None => {
                if let Some(f) = self.helper {
                    let _ = pidfd_send_signal(f, SIGKILL);
                }
                self.begin_to_empty();
            }
        }
    }

    fn reap_helper(&mut self, plan: &Plan<'_>) {
        // What it said last is there by now.
        self.hear_reports();
        if let Some(f) = self.helper
            && let Ok(Some(_)) | Err(_) = wait_pidfd(f)
        {
            close(f);
            self.helper = None;
            if self.process.is_none() {
                self.lost = !self.decided;
                self.failed(&Failure { stage: stage::STEP, index: u32::MAX, fault: Errno(0).into() });
                self.finish_if_empty(plan);
            }
        }
    }

    fn reap(&mut self, container: Container<'_>) {
        self.hear_reports();
        let Some(f) = self.process else { return };
        let Ok(Some((status, usage))) = wait_pidfd(f) else { return };
        close(f);
        self.process = None;
        self.usage = usage;
        if let Some(socket) = self.report.take() {
            close(socket);
        }
        if !self.decided {
            let ended = container.ending || is_exiting(container.pid);
            let (stage, index, errno) = if ended { (stage::JOIN, 0, Errno::ESRCH) } else { (stage::STEP, u32::MAX, Errno(0)) };
            self.failed(&Failure { stage, index, fault: errno.into() });
        }
        let status = *self.status.get_or_insert(status);
        if status & 0x7f == SIGKILL as i32 && self.killed_by == killed_by::NOBODY && (container.ending || is_exiting(container.pid)) {
            self.killed_by = killed_by::CONTAINER;
        }
        if self.told {
            self.begin_to_empty();
            return self.finish_if_empty(container.plan);
        }
        let mut collected = Collected::new();
        self.collect(container.plan, &mut collected);
        self.told = true;
        let ended = Answer::Ended {
            status,
            init_status: status,
            killed_by: self.killed_by,
            wall: now().saturating_sub(self.started),
            user: self.usage.user,
            system: self.usage.system,
            max_rss: self.usage.max_rss,
            files: collected.list(),
        };
        // Mostly the command was alone, and all is told in one piece.
        let gone = Answer::Gone { errors: List::new(0, &[]) };
        let over = self.remove_cgroup(container.plan) || self.leaves_the_rest();
        if let Some(peer) = &self.peer {
            if over { answers_to(peer.socket, &[&ended, &gone]) } else { answer_to(peer.socket, &ended) }
        }
        if over { self.over() } else { self.begin_to_empty() }
    }

    /// Reads what is wanted of its end: the files that were asked for, and v1's count of the container's memory limit if that has grown.
    fn collect(&self, plan: &Plan<'_>, collected: &mut Collected) {
        let names = self.request().map_or(List::new(0, &[]), |exec| exec.read_at_end);
        for name in names.iter() {
            match self.cgroup.filter(|_| !name.to_bytes().contains(&b'/')) {
                Some(directory) => collected.add_from(directory, name),
                None => collected.push(&[]),
            }
        }
        match oom_control(plan).filter(|_| oom_kills(plan).is_some_and(|kills| kills > self.oom_kills)) {
            Some(path) => collected.add(path),
            None => collected.push(&[]),
        }
    }

    /// Whether what the command left in the background is to stay; then it is the container's, and goes with it.
    fn leaves_the_rest(&self) -> bool {
        self.killed_by == killed_by::NOBODY && self.cgroup.is_some() && self.request().is_some_and(|exec| exec.background)
    }

    /// Removes its cgroup; whether there is none any more.
    fn remove_cgroup(&mut self, plan: &Plan<'_>) -> bool {
        let (Some(f), Some(mut directory)) = (self.cgroup, directory(plan, self.id)) else { return true };
        match directory.as_c_str().ok_or(Errno(36)).and_then(|directory| unlinkat(AT_FDCWD, directory, true)) {
            Ok(()) | Err(Errno::ENOENT) => {
                close(f);
                self.cgroup = None;
                true
            }
            Err(_) => false,
        }
    }

    fn begin_to_empty(&mut self) {
        if !matches!(self.stage, Stage::Emptying { .. } | Stage::Over) {
            let time = now();
            self.stage = Stage::Emptying { at: time, pause: MILLISECOND / 10, until: time.saturating_add(PATIENCE) };
        }
    }

    /// One more try to end what is left of it.
    fn empty(&mut self, plan: &Plan<'_>) {
        let Stage::Emptying { pause, until, .. } = self.stage else { return };
        let time = now();
        self.stage = Stage::Emptying { at: time.saturating_add(pause), pause: (pause * 2).min(20 * MILLISECOND), until };
        if self.process.is_some() || self.helper.is_some() {
            return self.end_descendants(time >= until);
        }
        if self.remove_cgroup(plan) {
            self.tell_gone(None);
            return self.over();
        }
        if let Some(directory) = self.cgroup {
            kill_cgroup(directory);
        }
        let mut path = directory(plan, self.id).unwrap_or(Path::new());
        if let Some(path) = path.as_c_str() {
            tree::remove_directories_below(path);
            if time >= until {
                self.tell_gone(Some(path));
                self.over();
            }
        }
    }

    /// Without a cgroup: ends the children of our init, whose children become its own; it leaves when it has none.
    fn end_descendants(&mut self, give_up: bool) {
        let (None, Some(init)) = (self.cgroup, self.process) else { return };
        let by_itself = self.killed_by == killed_by::NOBODY && self.status.is_some();
        let stays = by_itself && self.request().is_some_and(|exec| exec.background);
        if !stays {
            kill_children(self.pid);
        }
        // Its children become the container's first process's.
        if stays || give_up || !self.begun {
            let _ = pidfd_send_signal(init, SIGKILL);
        }
    }

    fn finish_if_empty(&mut self, plan: &Plan<'_>) {
        if self.helper.is_none() && self.process.is_none() && !self.is_over() {
            if self.remove_cgroup(plan) {
                self.tell_gone(None);
                self.over();
            } else {
                self.begin_to_empty();
            }
        }
    }

    fn tell_gone(&self, left: Option<&CStr>) {
        let mut bytes = Buffer::<4500>::new();
        if let Some(path) = left {
            Left { path, errno: Errno::EBUSY.0, end: PhantomData }.put(&mut bytes);
        }
        self.answer(&Answer::Gone { errors: List::new(u32::from(left.is_some()), bytes.as_slice()) });
    }

    fn over(&mut self) {
        self.stage = Stage::Over;
        self.deadlines = [(u64::MAX, 0); 2];
        self.hang_up();
        self.streams.close();
        let others = [&mut self.owner, &mut self.cgroup, &mut self.helper, &mut self.process, &mut self.command, &mut self.report];
        for f in others.into_iter().chain([&mut self.terminal]) {
            if let Some(f) = f.take() {
                close(f);
            }
        }
        self.payload = None;
    }

    /// The container has ended: so does this, and its handle hears it.
    pub fn end(&mut self, container: Container<'_>) {
        if self.stage == Stage::Arriving {
            let fault = Errno::ESRCH.into();
            self.failed(&Failure { stage: stage::JOIN, index: 0, fault });
        }
        self.kill(killed_by::CONTAINER);
        let until = now().saturating_add(PATIENCE);
        while !self.is_over() && now() < until {
            self.reap_helper(container.plan);
            self.reap(container);
            let waited = [self.helper, self.process].map(|f| PollFd { fd: f.map_or(-1, |f| f.0), events: POLLIN, revents: 0 });
            if waited.iter().all(|f| f.fd < 0) {
                break;
            }
            self.end_descendants(false);
            let _ = poll(&mut { waited }, Some(MILLISECOND));
        }
        if !self.is_over() {
            // Its cgroup goes with the container's.
            self.tell_gone(None);
            self.over();
        }
    }
}

/// The cgroup of a further command, below the container's.
fn directory(plan: &Plan<'_>, id: u32) -> Option<Path> {
    let kill = plan.cgroup.kill.filter(|_| plan.cgroup.into.is_some())?.to_bytes();
    let mut path = Path::new();
    path.push(&kill[..kill.iter().rposition(|&b| b == b'/')?]);
    path.push(b"/exec-");
    path.push_number(u64::from(id));
    Some(path)
}

/// `CLONE_NEW*` of all namespaces that the container has of its own, or shares with another.
pub fn namespaces(plan: &Plan<'_>) -> u64 {
    let network = if plan.network.is_some() { CLONE_NEWNET } else { 0 };
    let later = plan.steps.iter().fold(0, |all, step| match step {
        Step::Unshare { flags } => all | flags,
        _ => all,
    });
    let joined = plan.joined.iter().map(|joined| joined.kind).filter(|&kind| kind != CLONE_NEWNS).fold(0, |all, kind| all | kind);
    plan.namespaces | network | later | joined
}

/// Clones into the pid namespace of a process, which takes a process of this one's and leaves this one where it is.
fn clone_in_pid_namespace(process: Fd, cgroup: Option<Fd>) -> Result<(Cloned, bool), Errno> {
    let ours = openat2(AT_FDCWD, c"/proc/self/ns/pid", open::READ, 0, 0)?;
    let cloned = setns(process, CLONE_NEWPID).and_then(|()| clone(0, cgroup));
    if !matches!(cloned, Ok((Cloned::Child, _))) {
        let _ = setns(ours, CLONE_NEWPID);
        close(ours);
    }
    cloned
}

/// Becomes whoever the command is to be, with what the container's own command has.
fn identity(plan: &Plan<'_>, exec: &wire::Exec<'_>, supervisor: Fd) -> Result<Inside, Failure> {
    let failure = |index: u32| move |fault: Fault| Failure { stage: stage::STEP, index, fault };
    let mut inside = Inside::new(supervisor).map_err(failure(exec_step::DIRECTORY))?;
    let no_groups = List::new(0, &[]);
    // A container that stays who it is may have a command that is somebody else.
    let user = exec.user.filter(|_| !plan.steps.iter().any(|step| matches!(step, Step::User { .. })));
    if let Some(user) = user {
        inside.perform(&Step::User { user, home: true, more_groups: no_groups }).map_err(failure(exec_step::USER))?;
    }
    let mut directory = exec.directory;
    let mut terminal = exec.terminal.map(|window| Step::Terminal { columns: window.columns, rows: window.rows });
    for step in plan.steps.iter() {
        match step {
            Step::Umask { .. } | Step::Rlimit { .. } => inside.perform(&step).map_err(failure(exec_step::LIMITS))?,
            Step::User { user, home, more_groups } => {
                let step = match exec.user {
                    Some(user) => Step::User { user, home, more_groups: no_groups },
                    None => Step::User { user, home, more_groups },
                };
                inside.perform(&step).map_err(failure(exec_step::USER))?;
            }
            Step::Directory { path, .. } => {
                let path = directory.take().unwrap_or(path);
                inside.perform(&Step::Directory { path, create: false }).map_err(failure(exec_step::DIRECTORY))?;
            }
            Step::BoundingSet { .. }
            | Step::Landlock { .. }
            | Step::Label { .. }
            | Step::Seccomp { .. }
            | Step::BecomeUser { .. }
            | Step::Capabilities { .. }
            | Step::NoNewPrivileges {} => {
                // While it may all, and when it is known who it will be.
                if let Some(step) = terminal.take() {
                    inside.perform(&step).map_err(failure(exec_step::TERMINAL))?;
                }
                if let Some(path) = directory.take() {
                    inside.perform(&Step::Directory { path, create: false }).map_err(failure(exec_step::DIRECTORY))?;
                }
                inside.perform(&step).map_err(failure(exec_step::PRIVILEGES))?;
            }
            _ => {}
        }
    }
    if let Some(step) = terminal {
        inside.perform(&step).map_err(failure(exec_step::TERMINAL))?;
    }
    if let Some(path) = directory {
        inside.perform(&Step::Directory { path, create: false }).map_err(failure(exec_step::DIRECTORY))?;
    }
    if user.is_some() {
        let keep_groups = plan.id_map.is_some_and(|map| map.deny_setgroups);
        inside.perform(&Step::BecomeUser { keep_groups, keep_capabilities: false }).map_err(failure(exec_step::PRIVILEGES))?;
    }
    inside.close();
    Ok(inside)
}

/// Ends what a cgroup holds: by `cgroup.kill` (Linux 5.14), else one by one, once.
fn kill_cgroup(directory: Fd) {
    if let Ok(f) = openat2(directory, c"cgroup.kill", open::WRITE, 0, 0) {
        let _ = write(f, b"1");
        close(f);
        return;
    }
    each_pid(directory, c"cgroup.procs", |pid| {
        if let Ok(process) = pidfd_open(pid) {
            let _ = pidfd_send_signal(process, SIGKILL);
            close(process);
        }
    });
}

/// Ends the children of a process, once.
fn kill_children(pid: u32) {
    let mut path = Path::new();
    path.push(b"/proc/");
    path.push_number(u64::from(pid));
    path.push(b"/task/");
    path.push_number(u64::from(pid));
    path.push(b"/children");
    let Some(path) = path.as_c_str() else { return };
    each_pid(AT_FDCWD, path, |child| {
        if let Ok(process) = pidfd_open(child) {
            // It may have ended since, and the number be somebody else's: it still is, or it isn't signalled.
            let mut still = false;
            each_pid(AT_FDCWD, path, |pid| still |= pid == child);
            if still {
                let _ = pidfd_send_signal(process, SIGKILL);
            }
            close(process);
        }
    });
}

/// Calls with each number in a file of numbers.
fn each_pid(directory: Fd, path: &CStr, mut call: impl FnMut(u32)) {
    let Ok(f) = openat2(directory, path, open::READ, 0, 0) else { return };
    let mut number = None;
    let mut bytes = [0; 1024];
    while let Ok(n @ 1..) = read(f, &mut bytes) {
        for &b in &bytes[..n] {
            match b {
                b'0'..=b'9' => number = Some(number.unwrap_or(0u32).wrapping_mul(10).wrapping_add(u32::from(b - b'0'))),
                _ => number.take().into_iter().for_each(&mut call),
            }
        }
    }
    number.into_iter().for_each(call);
    close(f);
}

/// v1's file that counts what the container's memory limit had killed.
fn oom_control<'a>(plan: &Plan<'a>) -> Option<&'a CStr> {
    plan.cgroup.read_at_end.iter().find(|path| path.to_bytes().ends_with(b"/memory.oom_control"))
}

fn oom_kills(plan: &Plan<'_>) -> Option<u64> {
    let f = openat2(AT_FDCWD, oom_control(plan)?, open::READ, 0, 0).ok()?;
    let mut bytes = [0; 256];
    let n = read(f, &mut bytes).unwrap_or(0);
    close(f);
    let line = bytes[..n].split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"oom_kill "))?;
    Some(line.iter().fold(0, |sum: u64, &b| sum.wrapping_mul(10).wrapping_add(u64::from(b.wrapping_sub(b'0')))))
}

/// Whether a process has begun to exit, which takes the first process of a pid namespace until all others in there are reaped.
fn is_exiting(pid: u32) -> bool {
    const PF_EXITING: u64 = 4;
    let mut path = Path::new();
    path.push(b"/proc/");
    path.push_number(u64::from(pid));
    path.push(b"/stat");
    let Some(Ok(f)) = path.as_c_str().map(|path| openat2(AT_FDCWD, path, open::READ, 0, 0)) else { return true };
    let mut bytes = [0; 512];
    let n = read(f, &mut bytes).unwrap_or(0);
    close(f);
    // proc_pid_stat(5): behind the name, which may hold anything, come the state and five numbers before the flags.
    let Some(name) = bytes[..n].iter().rposition(|&b| b == b')') else { return true };
    let flags = bytes[name..n].split(|&b| b == b' ').nth(7).unwrap_or_default();
    let flags = flags.iter().fold(0, |sum: u64, &b| sum.wrapping_mul(10).wrapping_add(u64::from(b.wrapping_sub(b'0'))));
    flags & PF_EXITING != 0
}
