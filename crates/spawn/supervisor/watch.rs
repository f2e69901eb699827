//! Starts the first process, watches, kills, and takes everything back.
//!
//! ```text
//!   starting ──Running──▶ running ──Ended──▶ ended ──▶ undone
//!      │ Failed              │ lifeline, wall clock, request     ▲
//!      └─────────────────────┴──────────── kill ─────────────────┘
//! ```

use crate::collect::Collected;
use crate::exec::{Container, Exec, POLLED};
use crate::execute::{Executable, home_variable};
use crate::failure::{Failure, Fault};
use crate::health::{self, Health};
use crate::mounts::LENT;
use crate::opener::{self, Opener};
use crate::peer::{Next, Peer, answer_to, answer_with, answers_to};
use crate::relay::Relay;
use crate::system_call::{
    AT_FDCWD, CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS, Cloned, Errno, Fd, POLLIN, Pages, Planned, PollFd, Received, Rusage,
    Table, accept, clone, close, close_range, dup3, exit, getpid, getuid, listen_at, now, open, openat2, peek_any, peer_uid,
    pidfd_send_signal, poll, prctl, read, reap, receive_message, release_memory, send_message, setns, setresgid, setresuid, setsid,
    socketpair, unlinkat, wait_any, wait_pidfd,
};
use crate::text::Buffer;
use crate::wire::{self, Answer, Field, Left, List, Out, Plan, Reader, Release, Report, Request, cause, killed_by, stage};
use crate::{CONTROL, attendant, id_map, init, network, prepare, report, resolver, step};
use core::ffi::CStr;
use core::marker::PhantomData;

const SIGKILL: u32 = 9;
const MILLISECOND: u64 = 1_000_000;
/// Others that watch a detached container at one time.
const MAX_CLIENTS: usize = 256;
/// Further commands at one time. Each takes six descriptors.
const MAX_EXECS: usize = 512;
/// Openers at one time.
const MAX_OPENERS: usize = 256;
/// Descriptors that are watched of a container that has none of these.
const FEW: usize = 7;
const MANY: usize = FEW + MAX_CLIENTS + MAX_EXECS * POLLED + MAX_OPENERS;

struct Watch<'a> {
    plan: &'a Plan<'a>,
    /// What came with the plan.
    fds: &'a [Fd],
    owner: Option<Fd>,
    /// What is said and goes through this process.
    relay: Option<Relay>,
    /// The owner, as long as it talks to us.
    peer: Option<Peer>,
    /// Those who attached.
    others: Table<Peer, MAX_CLIENTS>,
    execs: Table<Exec, MAX_EXECS>,
    /// How many there have been.
    execs_begun: u32,
    openers: Table<Opener, MAX_OPENERS>,
    /// None, or one.
    health: Table<Health, 1>,
    polled: Table<PollFd, MANY>,
    /// Until when to look for children that nobody knows.
    strays: u64,
    listener: Option<Fd>,
    first: Option<Fd>,
    pid: u32,
    command: Option<(u32, Fd)>,
    report: Option<Fd>,
    /// The one that relays, and the one that resolves.
    attendants: [Option<Fd>; 2],
    /// The master of the command's terminal: with it the terminal outlives an owner who lets it.
    terminal: Option<Fd>,
    /// Whether [`Answer::Started`] or [`Answer::Failed`] was sent, or the first is held back.
    decided: bool,
    /// Whether what the starting needed was given back.
    settled: bool,
    /// Whether the first process waits for [`Request::Execute`].
    created: bool,
    /// Whether the command was executed.
    ran: bool,
    /// What is told with the last answer.
    held: Option<Answer<'static>>,
    detached: bool,
    status: Option<i32>,
    /// What was read of the cgroups at the end.
    collected: Option<Collected>,
    killed_by: u8,
    started: u64,
    /// When to kill, and who is then said to have done it.
    deadlines: [(u64, u8); 4],
}

/// Kinds of namespaces that may be another's, and where ours are found.
const KINDS: [(u64, &CStr); 3] =
    [(CLONE_NEWPID, c"/proc/self/ns/pid"), (CLONE_NEWIPC, c"/proc/self/ns/ipc"), (CLONE_NEWUTS, c"/proc/self/ns/uts")];

/// Places in the deadlines.
const CPU: usize = 2;
const IDLE: usize = 3;

/// A plan that can't be read: the owner is told by a failure without a step.
pub fn refuse(errno: Errno) {
    answer_to(CONTROL, &Answer::Failed { stage: stage::PLAN, index: 0, errno: errno.0, cause: 0, detail: b"" });
}

/// Performs a plan from its first effect to the last undo.
pub fn supervise(plan: &Plan<'_>, fds: &Planned) -> ! {
    let mut watch = Watch {
        plan,
        fds: fds.as_slice(),
        owner: fds.as_slice().first().copied(),
        relay: None,
        peer: Some(Peer::new(CONTROL)),
        others: Table::new(),
        execs: Table::new(),
        execs_begun: 0,
        openers: Table::new(),
        health: Table::new(),
        polled: Table::new(),
        strays: 0,
        listener: None,
        first: None,
        pid: 0,
        command: None,
        report: None,
        attendants: [None; 2],
        terminal: None,
        decided: false,
        settled: false,
        created: false,
        ran: false,
        held: None,
        detached: plan.detached,
        status: None,
        collected: None,
        killed_by: killed_by::NOBODY,
        started: now(),
        deadlines: [(u64::MAX, killed_by::WALL), (u64::MAX, killed_by::GRACE), (u64::MAX, killed_by::CPU), (u64::MAX, killed_by::IDLE)],
    };
    let mut ended = None;
    match watch.start(fds.as_slice()) {
        Ok(()) if watch.first.is_some() => ended = Some(watch.until_the_end()),
        Ok(()) => {}
        Err(failure) => {
            watch.failed(&failure);
            watch.kill(killed_by::NOBODY);
            if watch.first.is_some() {
                ended = Some(watch.until_the_end());
            }
        }
    }
    watch.finish(ended)
}

// What waits holds the frames that it stands in, so no frame of what is over before or comes after is a part of them: inline(never).
impl Watch<'_> {
    #[inline(never)]
    fn start(&mut self, fds: &[Fd]) -> Result<(), Failure> {
        let failure = |stage, index: usize, fault: Fault| Failure { stage, index: index as u32, fault };
        for (index, effect) in self.plan.prepare.iter().enumerate() {
            // The descriptor of a lock is kept open until the end of this process, which lets go of it.
            prepare::perform(&effect).map_err(|fault| failure(stage::PREPARE, index, fault))?;
        }
        if self.detached {
            self.listen().map_err(|errno| failure(stage::LISTEN, 0, errno.into()))?;
        }
        if self.plan.command.is_none() && self.plan.steps.is_empty() {
            return Ok(());
        }

        let into = match self.plan.cgroup.into {
            Some(path) => {
                let directory = openat2(crate::system_call::AT_FDCWD, path, open::DIRECTORY, 0, 0);
                Some(directory.map_err(|errno| failure(stage::CGROUP, 0, errno.into()))?)
            }
            None => None,
        };
        let mut streams = [Fd(-1); 3];
        for (stream, &f) in streams.iter_mut().zip(fds.iter().skip(1)) {
            *stream = f;
        }
        let bounds = self.plan.bounds.as_ref();
        if self.plan.log.is_some() || bounds.is_some_and(|bounds| bounds.pass != 0) {
            let begun = Relay::begin(self.plan.log.as_ref(), bounds, &mut streams);
            let (relay, reader) = begun.map_err(|errno| failure(stage::LOG, 0, errno.into()))?;
            self.relay = Some(relay);
            if let Some(reader) = reader {
                answer_with(CONTROL, &Answer::Log {}, reader);
                close(reader);
            }
        }
        let (ours, theirs) = socketpair().map_err(|errno| failure(stage::CLONE, 0, errno.into()))?;
        let lent = self.plan.joined.iter().find(|joined| joined.kind == CLONE_NEWNS).and_then(|lent| fds.get(lent.fd as usize)).copied();
        let (cloned, placed) = self.clone_joined(fds, into).map_err(|errno| failure(stage::CLONE, 0, errno.into()))?;
        let (pid, first) = match cloned {
            Cloned::Child => first_process(self.plan, theirs, &streams, placed, lent),
            Cloned::Parent { pid, pidfd } => (pid, pidfd),
        };
        close(theirs);
        (self.pid, self.first, self.report) = (pid, Some(first), Some(ours));
        // The container's streams are the container's: who waits for their end must not wait for us.
        streams.iter().for_each(|&f| close(f));
        if let Some(map) = &self.plan.id_map {
            id_map::write_maps(pid, map).map_err(|fault| failure(stage::ID_MAP, 0, fault))?;
            tell(ours);
        }
        // From here on nobody looks into this process; newuidmap(1) had to.
        let _ = prctl::set_dumpable(false);
        if let Some(into) = into {
            close(into);
        }
        if let Some(network) = &self.plan.network {
            let given = network.given.and_then(|index| fds.get(index as usize)).copied();
            let network::Made { namespace, names } = network::make(network, given, self.plan.resolver.as_ref())?;
            let sent = hand_over(ours, namespace);
            if let (Some(resolver), Some(sockets)) = (&self.plan.resolver, names) {
                self.resolve(resolver, fds, sockets, namespace).map_err(|errno| failure(stage::ATTENDANT, 0, errno.into()))?;
            }
            if let Some(attendant) = &self.plan.attendant {
                self.attend(attendant, fds, namespace, None).map_err(|errno| failure(stage::ATTENDANT, 0, errno.into()))?;
            }
            close(namespace);
            sent.map_err(|errno| failure(stage::NETWORK, 0, errno.into()))?;
        }
        if !self.plan.meanwhile.is_empty() {
            for (index, effect) in self.plan.meanwhile.iter().enumerate() {
                let index = self.plan.prepare.len() + index;
                prepare::perform(&effect).map_err(|fault| failure(stage::PREPARE, index, fault))?;
            }
            tell(ours);
        }
        self.begin_to_count();
        Ok(())
    }

    /// Clones into the namespaces of others that it is to be in, which takes this process there for that long.
    fn clone_joined(&self, fds: &[Fd], into: Option<Fd>) -> Result<(Cloned, bool), Errno> {
        let mut back = [None; KINDS.len()];
        let cloned = self.join(fds, &mut back).and_then(|()| clone(self.plan.namespaces, into));
        if !matches!(cloned, Ok((Cloned::Child, _))) {
            for (ours, (kind, _)) in back.iter().zip(KINDS) {
                if let Some(ours) = *ours {
                    setns(ours, kind)?;
                    close(ours);
                }
            }
        }
        cloned
    }

    fn join(&self, fds: &[Fd], back: &mut [Option<Fd>; KINDS.len()]) -> Result<(), Errno> {
        for joined in self.plan.joined.iter() {
            let Some(place) = KINDS.iter().position(|(kind, _)| *kind == joined.kind) else { continue };
            back[place] = Some(openat2(AT_FDCWD, KINDS[place].1, open::READ, 0, 0)?);
            setns(*fds.get(joined.fd as usize).ok_or(Errno::EPROTO)?, joined.kind)?;
        }
        Ok(())
    }

    /// Begins to count the time that it has.
    fn begin_to_count(&mut self) {
        let after = |time: u64| now().saturating_add(time.saturating_mul(MILLISECOND));
        if self.plan.wall > 0 {
            self.deadlines[0].0 = after(self.plan.wall);
        }
        if let Some(bounds) = &self.plan.bounds {
            if bounds.cpu > 0 {
                self.deadlines[CPU].0 = now();
            }
            if bounds.idle > 0 {
                self.deadlines[IDLE].0 = after(bounds.idle);
            }
        }
    }

    /// Starts the attendant, which from then on is the only one to have its sockets.
    #[inline(never)]
    fn attend(&mut self, attendant: &wire::Attendant<'_>, fds: &[Fd], namespace: Fd, user: Option<Fd>) -> Result<(), Errno> {
        match clone(0, None)?.0 {
            Cloned::Child => attendant::serve(attendant, fds, namespace, user),
            Cloned::Parent { pidfd, .. } => self.attendants[0] = Some(pidfd),
        }
        for listener in attendant.listeners.iter() {
            if let Some(&f) = fds.get(listener.fd as usize) {
                close(f);
            }
        }
        Ok(())
    }

    /// Starts the resolver, which has its sockets alone, too.
    #[inline(never)]
    fn resolve(&mut self, resolver: &wire::Resolver<'_>, fds: &[Fd], sockets: (Fd, Fd), namespace: Fd) -> Result<(), Errno> {
        match clone(0, None)?.0 {
            Cloned::Child => resolver::serve(resolver, fds, sockets, namespace),
            Cloned::Parent { pidfd, .. } => self.attendants[1] = Some(pidfd),
        }
        let lists = resolver.networks.iter().filter_map(|network| fds.get(network as usize)).copied();
        lists.chain([sockets.0, sockets.1]).for_each(close);
        Ok(())
    }

    /// A plain user's network namespace was made by the first process, in its user namespace; here are both.
    #[inline(never)]
    fn attend_to(&mut self, namespaces: &Received) {
        if let (Some(attendant), &[network, user]) = (&self.plan.attendant, namespaces.as_slice()) {
            let begun = self.attend(attendant, self.fds, network, Some(user));
            if let Err(errno) = begun {
                self.failed(&Failure { stage: stage::ATTENDANT, index: 0, fault: errno.into() });
                self.kill(killed_by::NOBODY);
            }
        }
        for &f in namespaces.as_slice() {
            close(f);
        }
    }

    /// Takes back what must not be taken back when somebody else may have it: as long as this process lives, nobody has.
    fn release(&self) {
        // They end meanwhile.
        for attendant in self.attendants.into_iter().flatten() {
            let _ = pidfd_send_signal(attendant, SIGKILL);
        }
        if let Some(network) = &self.plan.network {
            network::forget_names(network);
        }
        let mut line = network::Line::new();
        for release in self.plan.release.iter() {
            // An element may be gone with the whole firewall, a file by somebody who swept.
            let _ = match release {
                Release::Netlink { protocol, messages, count } => line.talk(protocol, messages, count).is_ok(),
                Release::RemoveFile { path } => unlinkat(AT_FDCWD, path, false).is_ok(),
                Release::Never(_, never) => match never {},
            };
        }
        for attendant in self.attendants.into_iter().flatten() {
            let mut ended = [PollFd { fd: attendant.0, events: POLLIN, revents: 0 }];
            let _ = poll(&mut ended, None);
            let _ = wait_pidfd(attendant);
        }
    }

    /// Watches until the first process has ended.
    fn until_the_end(&mut self) -> (i32, Rusage) {
        let Some(first) = self.first else {
            return (0, Rusage::default());
        };
        loop {
            let peer = self.peer.as_ref().map(|peer| peer.socket);
            let watched = [Some(first), self.report, self.owner, self.listener, peer, None, None];
            let mut few = watched.map(|f| PollFd { fd: f.map_or(-1, |f| f.0), events: POLLIN, revents: 0 });
            if let Some(relay) = &self.relay {
                few[FEW - 2..].copy_from_slice(&relay.polled());
            }
            let mut next = self.deadlines.iter().map(|d| d.0).chain(self.execs.iter().map(Exec::next_time)).min().unwrap_or(u64::MAX);
            if let Some(health) = self.health.first() {
                next = next.min(health.next_time());
            }
            if self.strays > 0 {
                next = next.min(self.reap_strays());
            }
            let timeout = (next != u64::MAX).then(|| next.saturating_sub(now()));
            let alone = self.others.is_empty() && self.execs.is_empty() && self.openers.is_empty();
            if self.decided && !self.plan.at_end && !core::mem::replace(&mut self.settled, true) {
                // The starting needed more than the watching does; here, because what comes back is what is here.
                release_memory();
            }
            if alone {
                let _ = poll(&mut few, timeout);
            } else {
                self.poll_all(&mut few, timeout);
            }

            if few[1].revents != 0 {
                let _ = self.hear_report();
            }
            if !alone {
                self.go_on_with_the_others(&few);
            }
            if few[0].revents != 0 {
                self.catch_up();
                self.close_report();
                if let Ok(Some(end)) = wait_pidfd(first) {
                    return end;
                }
            }
            if few[2].revents != 0 {
                // The owner has died; it was waited for no further.
                if let Some(f) = self.owner.take() {
                    close(f);
                }
                self.lifeline_cut();
            }
            if few[3].revents != 0 {
                self.accept();
            }
            if few[4].revents != 0 {
                self.hear_owner();
            }
            if few[FEW - 2].revents != 0 || few[FEW - 1].revents != 0 {
                self.hear_streams([few[FEW - 2].revents != 0, few[FEW - 1].revents != 0]);
            }
            let time = now();
            for i in 0..self.deadlines.len() {
                if self.deadlines[i].0 <= time {
                    self.deadlines[i].0 = if i == CPU { self.look_at_cpu_time() } else { u64::MAX };
                    if self.deadlines[i].0 == u64::MAX {
                        self.kill(self.deadlines[i].1);
                    }
                }
            }
            if self.health.first().is_some_and(|health| health.next_time() <= time) {
                self.ask_for_health();
            }
        }
    }

    #[inline(never)]
    fn ask_for_health(&mut self) {
        let (Some(asked), Some(container)) = (health::asked(self.plan), self.container()) else { return };
        if container.ending || self.execs.is_full() {
            return self.health.clear();
        }
        let id = self.execs_begun.wrapping_add(1);
        let Some(health) = self.health.first_mut() else { return };
        let tests = !health.is_running();
        if let Some(exec) = health.go_on(&asked, container, id) {
            self.execs_begun = id;
            if let Err(mut exec) = self.execs.push(exec) {
                exec.kill(killed_by::NOBODY);
            }
        } else if tests {
            self.tell_health();
        }
    }

    /// A further command has ended, which may have been a test.
    #[inline(never)]
    fn heed_health(&mut self, id: u32, status: i32) {
        if let (Some(asked), Some(health)) = (health::asked(self.plan), self.health.first_mut())
            && health.is(id)
        {
            health.ended(&asked, status);
            self.tell_health();
        }
    }

    fn tell_health(&self) {
        if let Some(health) = self.health.first() {
            self.answer(&health.answer());
        }
    }

    /// Takes what was said, and ends what says too much.
    fn hear_streams(&mut self, which: [bool; 2]) {
        let (Some(relay), before) = (&mut self.relay, self.deadlines[IDLE].0) else { return };
        for (stream, _) in which.iter().enumerate().filter(|(_, came)| **came) {
            relay.take(stream);
        }
        if let (true, Some(bounds)) = (before != u64::MAX, &self.plan.bounds) {
            self.deadlines[IDLE].0 = relay.last.saturating_add(bounds.idle.saturating_mul(MILLISECOND));
        }
        if relay.over {
            // Who says something runs, also where its init hasn't come to tell.
            self.running(self.pid, now());
            // Before the pipes go, by which the command would be ended otherwise.
            self.kill(killed_by::OUTPUT);
            self.finish_log();
        }
    }

    /// When to look again, which is before so much can have been spent; never when it is.
    fn look_at_cpu_time(&mut self) -> u64 {
        let Some(bounds) = &self.plan.bounds else { return u64::MAX };
        let used = bounds.cpu_usage.and_then(cpu_time).unwrap_or(0);
        match bounds.cpu.checked_sub(used) {
            None | Some(0) => u64::MAX,
            Some(left) => now().saturating_add((left.saturating_mul(1000) / u64::from(bounds.processors.max(1))).max(MILLISECOND)),
        }
    }

    /// Polls those who attached and the further commands, too.
    fn poll_all(&mut self, few: &mut [PollFd; FEW], timeout: Option<u64>) {
        self.polled.empty();
        let others = self.others.iter().map(|peer| PollFd { fd: peer.socket.0, events: POLLIN, revents: 0 });
        let openers = self.openers.iter().map(Opener::polled);
        for polled in few.iter().copied().chain(others).chain(self.execs.iter().flat_map(Exec::polled)).chain(openers) {
            let _ = self.polled.push(polled);
        }
        if self.polled.len() < FEW {
            // No memory: their turn comes a moment later.
            let _ = poll(few, Some(timeout.unwrap_or(u64::MAX).min(20 * MILLISECOND)));
            return;
        }
        let _ = poll(&mut self.polled, timeout);
        few.copy_from_slice(&self.polled[..FEW]);
    }

    /// After [`poll_all`](Self::poll_all).
    fn go_on_with_the_others(&mut self, few: &[PollFd; FEW]) {
        if few[1].revents != 0 || few[0].revents != 0 {
            // Whether the container is ending is what the others' ends mean.
            self.catch_up();
        }
        let (others, execs) = (self.others.len(), self.execs.len());
        for i in (0..self.openers.len()).rev() {
            if self.polled.get(FEW + others + execs * POLLED + i).is_some_and(|polled| polled.revents != 0) && self.openers[i].is_over() {
                self.openers.swap_remove(i);
            }
        }
        let Some(container) = self.container() else { return };
        // From the last to the first: what is taken out is replaced by one that had its turn. New ones are behind.
        for i in (0..execs).rev() {
            let at = FEW + others + i * POLLED;
            self.execs[i].go_on(container, self.polled.get(at..at + POLLED).unwrap_or_default());
            if self.execs[i].has_lost_one() {
                self.strays = now().saturating_add(1000 * MILLISECOND);
            }
            if self.execs[i].is_over() {
                let (id, status) = (self.execs[i].id(), self.execs[i].verdict());
                self.execs.swap_remove(i);
                self.heed_health(id, status);
            }
        }
        for i in (0..others).rev() {
            if self.polled.get(FEW + i).is_some_and(|polled| polled.revents != 0)
                && !self.hear(Some(i))
                && let Some(peer) = self.others.swap_remove(i)
            {
                self.let_go(peer);
            }
        }
        if self.execs.is_empty() && self.openers.is_empty() {
            // They needed more than the watching does.
            self.settled = false;
            if self.others.is_empty() {
                self.polled.clear();
            }
        }
    }

    /// Reaps a child that a further command's helper made and was killed before it could tell of it: the container's first process can't
    /// end while it is there. The answer is when to look again.
    fn reap_strays(&mut self) -> u64 {
        let known = |pid| self.execs.iter().any(|exec| exec.has(pid)) || self.openers.iter().any(|opener| opener.pid == pid);
        if let Some(pid) = peek_any().filter(|&pid| pid != self.pid && !known(pid)) {
            reap(pid);
        }
        let time = now();
        if time >= self.strays {
            self.strays = 0;
            return u64::MAX;
        }
        time.saturating_add(5 * MILLISECOND)
    }

    /// Begins one more command.
    #[inline(never)]
    fn exec(&mut self, socket: Fd) {
        self.catch_up();
        self.execs_begun = self.execs_begun.wrapping_add(1);
        let mut exec = Exec::new(socket, self.execs_begun);
        if self.plan.command.is_none() {
            exec.refuse(Errno::ENOSYS.into());
        } else if self.execs.is_full() {
            exec.refuse(Fault::new(Errno::EAGAIN, cause::TOO_MANY, b""));
        } else if let Err(mut exec) = self.execs.push(exec) {
            exec.refuse(Errno(12).into());
        }
    }

    /// Begins to open things inside for whoever is at the other end of a socket.
    #[inline(never)]
    fn open(&mut self, socket: Fd) {
        self.catch_up();
        let begun = match self.container() {
            Some(container) if self.openers.is_full() => {
                let _ = container;
                Err(Errno::EAGAIN)
            }
            Some(container) if !container.ending => opener::begin(container, socket),
            _ => Err(Errno::ESRCH),
        };
        match begun {
            Ok(opener) => {
                if let Err(opener) = self.openers.push(opener) {
                    opener.kill();
                }
            }
            Err(errno) => opener::refuse(socket, errno),
        }
        close(socket);
    }

    /// Opens the door for others.
    #[inline(never)]
    fn listen(&mut self) -> Result<(), Errno> {
        if self.listener.is_none() {
            // By its directory's descriptor: the name of a socket has 107 bytes, and people keep things deeper than that.
            let path = self.plan.listen.ok_or(Errno::EINVAL)?.to_bytes();
            let cut = path.iter().rposition(|&b| b == b'/').ok_or(Errno::EINVAL)?;
            let mut parent = prepare::Path::new();
            parent.push(&path[..=cut]);
            let parent =
                openat2(crate::system_call::AT_FDCWD, parent.as_c_str().ok_or(Errno::EINVAL)?, open::PATH | open::DIRECTORY, 0, 0)?;
            let mut name = Buffer::<107>::new();
            let directory = crate::system_call::descriptor_path(parent);
            name.push(directory.split(|&b| b == 0).next().unwrap_or_default());
            name.push(&path[cut..]);
            let listener = name.as_c_str().ok_or(Errno::EINVAL).and_then(listen_at);
            close(parent);
            self.listener = Some(listener?);
        }
        Ok(())
    }

    fn lifeline_cut(&mut self) {
        if !self.detached {
            self.kill(killed_by::LIFELINE);
        }
    }

    /// Ends everything. What was asked first is what is said to have done it.
    fn kill(&mut self, by: u8) {
        // Whether the command has ended by itself meanwhile.
        self.catch_up();
        if self.killed_by == killed_by::NOBODY && self.status.is_none() {
            self.killed_by = by;
        }
        if let Some(path) = self.plan.cgroup.kill {
            let _ = prepare::write_file(path, b"1");
        }
        if let Some(first) = self.first {
            let _ = pidfd_send_signal(first, SIGKILL);
        }
    }

    /// Reads what is wanted of the cgroups at the end, once.
    fn collect(&mut self) {
        let files = &self.plan.cgroup.read_at_end;
        self.collected.get_or_insert_with(|| {
            let mut collected = Collected::new();
            files.iter().for_each(|path| collected.add(path));
            collected
        });
    }

    /// Hears all reports that are there. An init sends three at most; a stranger in its place may not keep us busy.
    fn catch_up(&mut self) {
        for _ in 0..8 {
            if !self.hear_report() {
                return;
            }
        }
    }

    /// Hears one report, without waiting; whether there was one.
    #[inline(never)]
    fn hear_report(&mut self) -> bool {
        let Some(socket) = self.report else { return false };
        let mut bytes = [0; 1024];
        let mut fds = Received::new();
        match receive_message(socket, &mut bytes, &mut fds, false) {
            Err(Errno::EAGAIN) => return false,
            // It ended without having read that its ids were mapped. What it said before that is still there.
            Err(Errno::ECONNRESET) => {}
            Ok(n @ 1..) => match Report::take(&mut Reader::new(&bytes[..n])) {
                Ok(Report::Running { command, at }) => {
                    if let Some(&f) = fds.as_slice().first() {
                        self.command = Some((command, f));
                    }
                    self.running(command, at);
                }
                Ok(Report::Failed { stage, index, errno, cause, detail }) => {
                    self.decided = true;
                    self.answer(&Answer::Failed { stage, index, errno, cause, detail });
                }
                Ok(Report::Ended { status }) => {
                    self.status = Some(status);
                    // While the kernel takes the namespaces down.
                    self.collect();
                }
                Ok(Report::Network {}) if !self.decided && self.attendants[0].is_none() => self.attend_to(&fds),
                Ok(Report::Terminal {}) if !self.decided && self.terminal.is_none() => {
                    self.terminal = fds.as_slice().first().copied();
                    if let (Some(peer), Some(master)) = (&self.peer, self.terminal) {
                        answer_with(peer.socket, &Answer::Terminal {}, master);
                    }
                }
                Ok(Report::Created {}) if !self.decided => {
                    self.created = true;
                    self.answer(&Answer::Created {});
                }
                // A stranger may have taken PID 1 over; what it says beyond this is nothing.
                Ok(Report::Network {} | Report::Made { .. } | Report::Created {} | Report::Terminal {} | Report::Never(..)) | Err(_) => {
                    fds.close();
                }
            },
            Ok(_) | Err(_) => {
                self.close_report();
                return false;
            }
        }
        true
    }

    /// Without our init, the socket's end is the sign that the command was executed: it closes on exec.
    fn close_report(&mut self) {
        if let Some(socket) = self.report.take() {
            close(socket);
        }
        if !self.decided && self.plan.command.is_some_and(|c| !c.init) {
            self.running(self.pid, now());
        }
    }

    fn running(&mut self, command: u32, at: u64) {
        if self.decided {
            return;
        }
        self.decided = true;
        self.ran = true;
        // A stranger may have taken PID 1 over, and this clock is the supervisor's.
        self.started = at.clamp(self.started, now());
        let started = Answer::Started { pid: self.pid, command };
        if self.plan.at_end {
            self.held = Some(started);
        } else {
            self.answer(&started);
        }
        if let Some(asked) = health::asked(self.plan) {
            let _ = self.health.push(Health::new(&asked));
        }
    }

    fn failed(&mut self, failure: &Failure) {
        if !self.decided {
            self.decided = true;
            let Failure { stage, index, fault } = failure;
            let detail = fault.detail.as_slice();
            self.answer(&Answer::Failed { stage: *stage, index: *index, errno: fault.errno.0, cause: fault.cause, detail });
        }
    }

    fn answer(&self, answer: &Answer<'_>) {
        self.answers(&[answer]);
    }

    fn answers(&self, answers: &[&Answer<'_>]) {
        for peer in self.peer.iter().chain(self.others.iter()) {
            answers_to(peer.socket, answers);
        }
    }

    #[inline(never)]
    fn accept(&mut self) {
        let Some(Ok(socket)) = self.listener.map(accept) else {
            return;
        };
        let ours = getuid();
        if !peer_uid(socket).is_ok_and(|uid| uid == ours || uid == 0) {
            return close(socket);
        }
        match self.others.push(Peer::new(socket)) {
            Ok(()) if self.decided => {
                let command = self.command.map_or(self.pid, |c| c.0);
                let started = Answer::Started { pid: self.pid, command };
                // In one piece, so that who has attached knows both.
                match self.health.first().filter(|health| health.has_asked()) {
                    Some(health) => answers_to(socket, &[&started, &health.answer()]),
                    None => answer_to(socket, &started),
                }
            }
            Ok(()) => {}
            Err(_) => close(socket),
        }
    }

    fn hear_owner(&mut self) {
        if !self.hear(None) {
            if let Some(peer) = self.peer.take() {
                self.let_go(peer);
            }
            self.lifeline_cut();
        }
    }

    /// One who held on to the container may have been the last.
    fn let_go(&mut self, mut peer: Peer) {
        peer.close();
        if peer.holds && !self.peer.iter().chain(self.others.iter()).any(|other| other.holds) {
            self.kill(killed_by::LIFELINE);
        }
    }

    /// The owner, or one who attached.
    fn peer(&mut self, i: Option<usize>) -> Option<&mut Peer> {
        match i {
            None => self.peer.as_mut(),
            Some(i) => self.others.get_mut(i),
        }
    }

    /// Does what a peer asks for; whether it is still there.
    fn hear(&mut self, i: Option<usize>) -> bool {
        if !self.peer(i).is_some_and(Peer::hear) {
            return false;
        }
        while let Some(peer) = self.peer(i) {
            let socket = peer.socket;
            match peer.next() {
                Next::Nothing => return true,
                Next::Gone => return false,
                Next::Exec(socket) => self.exec(socket),
                Next::Open(socket) => self.open(socket),
                Next::Unknown(request) => answer_to(socket, &Answer::Unknown { request }),
                Next::Request(Request::Hold {}) => {
                    peer.holds = true;
                    self.perform(&Request::Hold {}, socket);
                }
                Next::Request(request) => self.perform(&request, socket),
            }
        }
        false
    }

    #[inline(never)]
    fn perform(&mut self, request: &Request<'_>, answers: Fd) {
        match *request {
            Request::Signal { number } if number == SIGKILL => self.kill(killed_by::HANDLE),
            Request::Signal { number } => self.signal(number),
            Request::Stop { number, grace } => {
                self.signal(number);
                let at = now().saturating_add(grace.saturating_mul(MILLISECOND));
                self.deadlines[1].0 = self.deadlines[1].0.min(at);
            }
            Request::Kill {} => self.kill(killed_by::HANDLE),
            Request::Detach {} => match self.listen() {
                Ok(()) => {
                    self.detached = true;
                    self.answer(&Answer::Detached { errno: 0 });
                }
                Err(errno) => self.answer(&Answer::Detached { errno: errno.0 }),
            },
            Request::Hold {} => {
                // Who holds on to one that is ending would have it for a moment.
                let over = self.killed_by != killed_by::NOBODY || self.status.is_some();
                let listening = if over { Err(Errno::ESRCH) } else { self.listen() };
                self.detached |= listening.is_ok();
                answer_to(answers, &Answer::Detached { errno: listening.err().map_or(0, |errno| errno.0) });
            }
            Request::Execute {} => {
                if let (Some(socket), true) = (self.report, core::mem::take(&mut self.created)) {
                    // What took its time before is nothing of the command's.
                    self.begin_to_count();
                    tell(socket);
                }
            }
            Request::Execs { token } => self.list_execs(token, answers),
            Request::SignalExec { token, id, number } => {
                let found = self.execs.iter_mut().find(|exec| exec.id() == id && exec.is_running());
                let errno = if found.is_some() { 0 } else { Errno::ESRCH.0 };
                match found {
                    Some(exec) if number == SIGKILL => exec.kill(killed_by::HANDLE),
                    Some(exec) => exec.signal(number),
                    None => {}
                }
                answer_to(answers, &Answer::Signalled { token, errno });
            }
            Request::Terminal {} => match self.terminal {
                Some(master) => answer_with(answers, &Answer::Terminal {}, master),
                None => answer_to(answers, &Answer::Unknown { request: 23 }),
            },
            Request::Exec {} | Request::Open {} | Request::Never(..) => {}
        }
    }

    #[inline(never)]
    fn list_execs(&self, token: u32, answers: Fd) {
        // A socket's buffer holds this much; more commands than fit aren't listed.
        const MOST: usize = 96 << 10;
        let Ok(mut bytes) = Pages::new(MOST) else { return };
        let mut list = Listing { bytes: &mut bytes, used: 0 };
        let mut count = 0;
        for exec in self.execs.iter().filter(|exec| exec.is_running()) {
            let before = list.used;
            exec.describe().put(&mut list);
            if list.used > list.bytes.len() {
                list.used = before;
                break;
            }
            count += 1;
        }
        let used = list.used;
        answer_to(answers, &Answer::Execs { token, running: List::new(count, &bytes[..used]) });
    }

    fn signal(&mut self, number: u32) {
        // In a quiet life nobody has yet asked who the command is.
        self.catch_up();
        if let Some(f) = self.command.map(|c| c.1).or(self.first) {
            let _ = pidfd_send_signal(f, number);
        }
    }

    /// Says how it ended, takes everything back, says so, and leaves.
    #[inline(never)]
    fn finish(mut self, ended: Option<(i32, Rusage)>) -> ! {
        let mut last = None;
        if ended.is_none() {
            self.finish_log();
        }
        if let Some((init_status, usage)) = ended {
            self.close_report();
            while let Some(mut exec) = self.execs.swap_remove(0) {
                if let Some(container) = self.container() {
                    exec.end(Container { ending: true, ..container });
                }
            }
            // They hold what is about to be taken back.
            while let Some(opener) = self.openers.swap_remove(0) {
                opener.end();
            }
            while let Ok(Some(_)) = wait_any() {}
            self.collect();
            self.finish_log();
            let ended = Answer::Ended {
                status: self.status.unwrap_or(init_status),
                init_status,
                killed_by: self.killed_by,
                wall: now().saturating_sub(self.started),
                user: usage.user,
                system: usage.system,
                max_rss: usage.max_rss,
                files: self.collected.as_ref().map_or(List::new(0, &[]), Collected::list),
            };
            self.keep_end(&ended);
            if self.decided && self.plan.at_end {
                last = Some(ended);
            } else if self.decided {
                self.answer(&ended);
            } else {
                // It died before it could say why: a signal from outside, or the memory limit.
                self.decided = true;
                let answer = Answer::Failed { stage: stage::STEP, index: u32::MAX, errno: 0, cause: 0, detail: b"" };
                self.answer(&answer);
            }
        }
        self.release();
        let mut left = Leftovers { bytes: Buffer::new(), count: 0 };
        let mut effects = self.plan.undo.iter().peekable();
        while let Some(effect) = effects.next() {
            // The last removes the record of all the others, by which the next engine takes back what is left now.
            if left.count > 0 && effects.peek().is_none() && matches!(effect, wire::Undo::RemoveTree { .. }) {
                break;
            }
            let done = match prepare::undo(&effect) {
                Err(Errno::EACCES | Errno::EPERM) if self.plan.id_map.is_some() => self.undo_inside(&effect),
                other => other,
            };
            if let Err(errno) = done {
                left.add(&Left { path: prepare::subject(&effect), errno: errno.0, end: PhantomData });
            }
        }
        let gone = Answer::Gone { errors: List::new(left.count, left.bytes.as_slice()) };
        match (&self.held, &last) {
            (Some(started), Some(ended)) => self.answers(&[started, ended, &gone]),
            (Some(one), None) | (None, Some(one)) => self.answers(&[one, &gone]),
            (None, None) => self.answer(&gone),
        }
        exit(0)
    }

    /// For those who ask later.
    fn keep_end(&self, ended: &Answer<'_>) {
        let (Some(path), true) = (self.plan.ended, self.ran) else { return };
        let flags = open::CREATE | open::TRUNCATE | open::WRITE;
        let (Ok(f), Ok(mut pages)) = (openat2(crate::system_call::AT_FDCWD, path, flags, 0o600, 0), Pages::new(48 << 10)) else { return };
        let mut listing = Listing { bytes: &mut pages, used: 0 };
        ended.put(&mut listing);
        let used = listing.used;
        if let Some(bytes) = pages.get(..used) {
            let _ = prepare::write_all(f, bytes);
        }
        close(f);
    }

    /// Everybody who could say something has ended: who hears of the end finds all of it.
    fn finish_log(&mut self) {
        if let Some(mut relay) = self.relay.take() {
            relay.finish();
        }
    }

    /// Undoes as the root of a user namespace with the container's map: its files may belong to ids that only exist there.
    #[inline(never)]
    fn undo_inside(&self, effect: &wire::Undo<'_>) -> Result<(), Errno> {
        let Some(map) = &self.plan.id_map else {
            return Err(Errno::EPERM);
        };
        let (ours, theirs) = socketpair()?;
        // newuidmap(1) wants to see that the process is ours.
        let _ = prctl::set_dumpable(true);
        let process = match clone(crate::system_call::CLONE_NEWUSER, None)?.0 {
            Cloned::Child => {
                close(ours);
                let go = receive_message(theirs, &mut [0; 1], &mut Received::new(), true);
                let done = match go {
                    Ok(1) => setresgid(0).and_then(|()| setresuid(0)).and_then(|()| prepare::undo(effect)),
                    _ => Err(Errno::EPROTO),
                };
                exit(done.err().map_or(0, |errno| errno.0))
            }
            Cloned::Parent { pid, pidfd } => {
                close(theirs);
                if id_map::write_maps(pid, map).is_ok() {
                    tell(ours);
                }
                close(ours);
                pidfd
            }
        };
        let _ = prctl::set_dumpable(false);
        match id_map::wait(process)? {
            0 => Ok(()),
            status => Err(Errno(status >> 8 & 0xff)),
        }
    }
}

impl<'a> Watch<'a> {
    /// What further commands have to know.
    fn container(&self) -> Option<Container<'a>> {
        let ending = self.status.is_some() || self.killed_by != killed_by::NOBODY;
        Some(Container { plan: self.plan, first: self.first?, pid: self.pid, ending })
    }
}

/// Microseconds of processor time, by a control group's file.
fn cpu_time(path: &core::ffi::CStr) -> Option<u64> {
    let f = openat2(crate::system_call::AT_FDCWD, path, open::READ, 0, 0).ok()?;
    let mut bytes = [0; 64];
    let n = read(f, &mut bytes);
    close(f);
    let bytes = bytes.get(..n.ok()?)?;
    let (digits, unit) = match bytes.strip_prefix(b"usage_usec ") {
        Some(rest) => (rest, 1),
        None => (bytes, 1000),
    };
    let digits = digits.split(|b| !b.is_ascii_digit()).next().filter(|digits| !digits.is_empty())?;
    let number = digits.iter().fold(0u64, |number, b| number.saturating_mul(10).saturating_add(u64::from(b - b'0')));
    Some(number / unit)
}

/// Lets the process at the other end go on.
fn tell(socket: Fd) {
    let _ = send_message(socket, b".", &[], &[], true);
}

/// Gives a descriptor away, also where it takes a while because so many of this user's are on their way (unix(7), ETOOMANYREFS). Whoever
/// has died needs none.
fn hand_over(socket: Fd, f: Fd) -> Result<(), Errno> {
    let until = now().saturating_add(10_000 * MILLISECOND);
    loop {
        match send_message(socket, b".", &[], &[f], true) {
            Err(Errno::ETOOMANYREFS) if now() < until => {
                let _ = poll(&mut [], Some(MILLISECOND));
            }
            Err(Errno::ETOOMANYREFS) => return Err(Errno::ETOOMANYREFS),
            Ok(_) | Err(_) => return Ok(()),
        }
    }
}

/// Bytes that are counted also where they don't fit.
struct Listing<'a> {
    bytes: &'a mut [u8],
    used: usize,
}

impl Out for Listing<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let end = self.used + bytes.len();
        if let Some(place) = self.bytes.get_mut(self.used..end) {
            place.copy_from_slice(bytes);
        }
        self.used = end;
    }
}

/// What couldn't be removed.
struct Leftovers {
    bytes: Buffer<8192>,
    count: u32,
}

impl Leftovers {
    fn add(&mut self, left: &Left<'_>) {
        let before = self.bytes.clone();
        left.put(&mut self.bytes);
        if self.bytes.overflowed() {
            self.bytes = before;
        } else {
            self.count += 1;
        }
    }
}

/// The first process: descriptors first, then the steps, then init or the command itself.
fn first_process(plan: &Plan<'_>, supervisor: Fd, streams: &[Fd], placed: bool, lent: Option<Fd>) -> ! {
    const SUPERVISOR: Fd = Fd(3);
    let _ = prctl::set_death_signal(SIGKILL);
    // Nothing of the supervisor's survives in here but this socket. All these are above 3: the kernel gives the lowest
    // free numbers, and 0 to 2 were taken from the start, 3 by the owner's pidfd.
    for (stream, &f) in streams.iter().enumerate() {
        let _ = dup3(f, stream as i32, false);
    }
    // Close-on-exec: who has executed the command has let go of it.
    let moved = dup3(supervisor, SUPERVISOR.0, true).is_ok() && lent.is_none_or(|f| f == LENT || dup3(f, LENT.0, true).is_ok());
    let _ = close_range(if lent.is_some() { LENT.0 + 1 } else { LENT.0 }, u32::MAX);
    if !moved {
        exit(127);
    }
    if plan.id_map.is_some() {
        let go = receive_message(SUPERVISOR, &mut [0; 1], &mut Received::new(), true);
        if !matches!(go, Ok(1)) {
            exit(127);
        }
        let _ = setresgid(0).and_then(|()| setresuid(0));
        let _ = prctl::set_death_signal(SIGKILL);
    }
    let _ = setsid();
    let _ = prctl::set_dumpable(false);
    // Where clone3(2) is hidden by a filter, clone(2) made this process in its parent's cgroup.
    if let (Some(directory), false) = (plan.cgroup.into, placed) {
        let mut path = prepare::Path::new();
        path.push(directory.to_bytes());
        path.push(b"/cgroup.procs");
        if let Err(errno) = path.as_c_str().ok_or(Errno::EINVAL).and_then(|path| prepare::write_file(path, b"0")) {
            report::failure(SUPERVISOR, &Failure { stage: stage::CGROUP, index: 0, fault: errno.into() });
            exit(127)
        }
    }
    let inside = match step::perform_all(&plan.steps, SUPERVISOR) {
        Ok(inside) => inside,
        Err(failure) => {
            report::failure(SUPERVISOR, &failure);
            exit(127)
        }
    };
    let _ = close_range(4, u32::MAX);
    let Some(command) = &plan.command else {
        report::send(SUPERVISOR, &Report::Running { command: getpid(), at: now() }, &[]);
        report::send(SUPERVISOR, &Report::Ended { status: 0 }, &[]);
        exit(0)
    };
    let mut home = home_variable(inside.user.home.as_slice());
    let home = if inside.home { home.as_c_str() } else { None };
    let fault = match Executable::new(command, home) {
        Ok(executable) if command.init => init::run(executable, SUPERVISOR),
        Ok(executable) => executable.execute(),
        Err(errno) => errno.into(),
    };
    report::failure(SUPERVISOR, &Failure { stage: stage::EXEC, index: 0, fault });
    exit(127)
}
