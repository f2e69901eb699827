//! The attendant: a process beside the supervisor that relays what the kernel alone can't bring into a container: connections to the
//! host's loopback addresses.
//!
//! It exists because bytes of strangers are handled in it, and the supervisor has privileges. It lives in the container's network
//! namespace, so that it reaches the container and nobody else; the sockets that it listens on were opened in the host's. It has no
//! capabilities, another user's ids, and a filter that leaves it sockets and no files. It dies with the supervisor.

use crate::system_call::{
    CLONE_NEWNET, CLONE_NEWUSER, Errno, Fd, POLLIN, POLLOUT, PollFd, Table, accept, capset, close, close_range, connect, exit,
    ignore_signal, now, pipe_now, poll, prctl, raise_descriptor_limit, receive_from, reset_at_close, send_to, set_seccomp_filter,
    setgroups, setns, setresgid, setresuid, shutdown_writing, socket, socket_error, splice,
};
use crate::wire::{Attendant, Listener};

const SIGKILL: u32 = 9;
const SIGPIPE: usize = 13;
const SECOND: u64 = 1_000_000_000;
/// Connections at one time. Each takes six descriptors.
const MAX_STREAMS: usize = 1024;
/// Who sends datagrams, at one time.
const MAX_FLOWS: usize = 512;
const MAX_LISTENERS: usize = 64;
/// A sender that was silent for so long is forgotten; conntrack has the same for those that were answered.
const IDLE: u64 = 120 * SECOND;
/// What one splice(2) takes at most.
const PIECE: usize = 1 << 20;
/// One datagram.
const DATAGRAM: usize = 65536;
/// "nobody" of every distribution.
const NOBODY: u32 = 65534;

/// One direction of a connection.
struct Half {
    /// The kernel's buffer between the two sockets.
    ends: (Fd, Fd),
    held: usize,
    /// Nothing more will come.
    ended: bool,
    /// And the other side has been told.
    told: bool,
}

struct Stream {
    client: Fd,
    server: Fd,
    connecting: bool,
    up: Half,
    down: Half,
}

struct Flow {
    listener: usize,
    client: [u8; 28],
    length: usize,
    server: Fd,
    last: u64,
}

/// Becomes an attendant.
pub fn serve(attendant: &Attendant<'_>, fds: &[Fd], namespace: Fd, user: Option<Fd>) -> ! {
    let sockets = |least| attendant.listeners.iter().map(|l| listener_fd(fds, &l).0).filter(|&f| f >= least).min();
    // Without its filter it serves nobody.
    if confine(sockets, attendant.filter, namespace, user).is_err() {
        exit(1);
    }
    let mut relay = Relay { attendant, fds, streams: Table::new(), flows: Table::new(), polled: Table::new(), rest: 0 };
    loop {
        relay.turn();
    }
}

fn listener_fd(fds: &[Fd], listener: &Listener<'_>) -> Fd {
    fds.get(listener.fd as usize).copied().unwrap_or(Fd(-1))
}

/// Gives up all but some descriptors: `kept` answers with the first of those from a number on.
pub fn confine(kept: impl Fn(i32) -> Option<i32>, filter: &[u8], namespace: Fd, user: Option<Fd>) -> Result<(), Errno> {
    prctl::set_death_signal(SIGKILL)?;
    if let Some(user) = user {
        setns(user, CLONE_NEWUSER)?;
    }
    let _ = prctl::set_name(c"coracle-attend");
    setns(namespace, CLONE_NEWNET)?;
    // Nothing of the supervisor's is left but these: between them, everything closes.
    let mut next = 0;
    loop {
        let above = kept(next);
        match above {
            Some(f) if f > next => close_range(next, f as u32 - 1)?,
            Some(_) => {}
            None => {
                close_range(next, u32::MAX)?;
                break;
            }
        }
        next = above.unwrap_or(next) + 1;
    }
    raise_descriptor_limit();
    ignore_signal(SIGPIPE);
    let _ = setgroups(&[]);
    // In a user namespace these ids may not be there; then it has none outside either.
    let _ = setresgid(NOBODY).and_then(|()| setresuid(NOBODY));
    capset(0, 0, 0)?;
    prctl::set_dumpable(false)?;
    prctl::set_no_new_privileges()?;
    // Changing ids forgot it.
    prctl::set_death_signal(SIGKILL)?;
    set_seccomp_filter(filter)
}

struct Relay<'a> {
    attendant: &'a Attendant<'a>,
    fds: &'a [Fd],
    streams: Table<Stream, MAX_STREAMS>,
    flows: Table<Flow, MAX_FLOWS>,
    polled: Table<PollFd, { MAX_LISTENERS + 2 * MAX_STREAMS + MAX_FLOWS }>,
    /// Until when nothing is accepted: descriptors had run out.
    rest: u64,
}

impl Relay<'_> {
    fn turn(&mut self) {
        let time = now();
        self.polled.empty();
        let resting = self.rest > time || self.streams.is_full();
        let mut waits = if self.rest > time { self.rest - time } else { u64::MAX };
        for listener in self.attendant.listeners.iter().take(MAX_LISTENERS) {
            let closed = listener.protocol == TCP && resting;
            let f = listener_fd(self.fds, &listener);
            let _ = self.polled.push(PollFd { fd: if closed { -1 } else { f.0 }, events: POLLIN, revents: 0 });
        }
        let listeners = self.polled.len();
        for stream in self.streams.iter() {
            let (client, server) = stream.wanted();
            // One without anything to wait for would be told of hang-ups for ever.
            let of = |f: Fd, events: i16| PollFd { fd: if events == 0 { -1 } else { f.0 }, events, revents: 0 };
            let _ = self.polled.push(of(stream.client, client));
            let _ = self.polled.push(of(stream.server, server));
        }
        for flow in self.flows.iter() {
            waits = waits.min((flow.last + IDLE).saturating_sub(time).max(SECOND));
            let _ = self.polled.push(PollFd { fd: flow.server.0, events: POLLIN, revents: 0 });
        }
        let _ = poll(&mut self.polled, (waits != u64::MAX).then_some(waits));

        let (streams, flows) = (self.streams.len(), self.flows.len());
        let at = |polled: &[PollFd], i: usize| polled.get(i).is_some_and(|p| p.revents != 0);
        // From the last to the first: what is taken out is replaced by one that had its turn.
        let time = now();
        for i in (0..flows).rev() {
            if at(&self.polled, listeners + 2 * streams + i) {
                self.answer(i, time);
            }
            if self.flows[i].last + IDLE <= time
                && let Some(flow) = self.flows.swap_remove(i)
            {
                close(flow.server);
            }
        }
        for i in (0..streams).rev() {
            if (at(&self.polled, listeners + 2 * i) || at(&self.polled, listeners + 2 * i + 1)) && !self.streams[i].go_on() {
                self.streams.swap_remove(i);
            }
        }
        for i in 0..listeners {
            if at(&self.polled, i)
                && let Some(listener) = self.attendant.listeners.iter().nth(i)
            {
                match listener.protocol {
                    TCP => self.accept(&listener, time),
                    _ => self.ask(i, &listener, time),
                }
            }
        }
    }

    fn accept(&mut self, listener: &Listener<'_>, time: u64) {
        while !self.streams.is_full() {
            let client = match accept(listener_fd(self.fds, listener)) {
                Ok(client) => client,
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR | Errno::ECONNABORTED) => continue,
                Err(_) => {
                    self.rest = time + SECOND / 10;
                    return;
                }
            };
            match Stream::open(client, listener) {
                Ok(stream) => {
                    let _ = self.streams.push(stream);
                }
                Err(_) => {
                    reset_at_close(client);
                    close(client);
                }
            }
        }
    }

    /// Datagrams on their way in, a few, so that others have their turn.
    fn ask(&mut self, i: usize, listener: &Listener<'_>, time: u64) {
        let mut bytes = [0; DATAGRAM];
        for _ in 0..32 {
            let mut client = [0; 28];
            let Ok((n, length)) = receive_from(listener_fd(self.fds, listener), &mut bytes, &mut client) else { return };
            let known = self.flows.iter_mut().find(|f| f.listener == i && f.client[..f.length] == client[..length]);
            let server = match known {
                Some(flow) => {
                    flow.last = time;
                    flow.server
                }
                None => {
                    let Ok(server) = socket(listener.target, false) else { continue };
                    if self.flows.is_full()
                        && let Some(oldest) = self.flows.iter().enumerate().min_by_key(|(_, flow)| flow.last).map(|(at, _)| at)
                        && let Some(flow) = self.flows.swap_remove(oldest)
                    {
                        close(flow.server);
                    }
                    let flow = Flow { listener: i, client, length, server, last: time };
                    if connect(server, listener.target).is_err() || self.flows.push(flow).is_err() {
                        close(server);
                        continue;
                    }
                    server
                }
            };
            let _ = send_to(server, &bytes[..n], &[]);
        }
    }

    /// Datagrams on their way back.
    fn answer(&mut self, i: usize, time: u64) {
        let mut bytes = [0; DATAGRAM];
        let Some(flow) = self.flows.get_mut(i) else { return };
        let Some(listener) = self.attendant.listeners.iter().nth(flow.listener) else { return };
        for _ in 0..32 {
            let Ok((n, _)) = receive_from(flow.server, &mut bytes, &mut [0; 28]) else { return };
            flow.last = time;
            let _ = send_to(listener_fd(self.fds, &listener), &bytes[..n], &flow.client[..flow.length]);
        }
    }
}

const TCP: u8 = 6;

impl Stream {
    fn open(client: Fd, listener: &Listener<'_>) -> Result<Self, Errno> {
        let server = socket(listener.target, true)?;
        let ends = pipe_now().and_then(|up| pipe_now().map(|down| (up, down)).inspect_err(|_| [up.0, up.1].into_iter().for_each(close)));
        let (up, down) = ends.inspect_err(|_| close(server))?;
        let half = |ends| Half { ends, held: 0, ended: false, told: false };
        let stream = Self { client, server, connecting: true, up: half(up), down: half(down) };
        match connect(server, listener.target) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(stream),
            Err(errno) => {
                stream.close(false);
                Err(errno)
            }
        }
    }

    /// What is waited for of the client and of the server.
    fn wanted(&self) -> (i16, i16) {
        if self.connecting {
            return (0, POLLOUT);
        }
        let of = |source: &Half, sink: &Half| {
            let read = if source.held == 0 && !source.ended { POLLIN } else { 0 };
            let write = if sink.held > 0 { POLLOUT } else { 0 };
            read | write
        };
        (of(&self.up, &self.down), of(&self.down, &self.up))
    }

    /// Moves what can be moved; false when it is over.
    fn go_on(&mut self) -> bool {
        if self.connecting {
            self.connecting = false;
            if socket_error(self.server) != 0 {
                // As if nobody had listened here.
                reset_at_close(self.client);
                self.close(true);
                return false;
            }
        }
        let done = self.up.go_on(self.client, self.server).and_then(|()| self.down.go_on(self.server, self.client));
        if done.is_err() {
            reset_at_close(self.client);
            reset_at_close(self.server);
        }
        let over = done.is_err() || (self.up.told && self.down.told);
        if over {
            self.close(true);
        }
        !over
    }

    fn close(&self, client: bool) {
        let ends = [self.up.ends.0, self.up.ends.1, self.down.ends.0, self.down.ends.1, self.server];
        ends.into_iter().for_each(close);
        if client {
            close(self.client);
        }
    }
}

impl Half {
    fn go_on(&mut self, from: Fd, to: Fd) -> Result<(), Errno> {
        // A few times, so that others have their turn.
        for _ in 0..8 {
            if self.held == 0 && !self.ended {
                match splice(from, self.ends.1, PIECE) {
                    Ok(0) => self.ended = true,
                    Ok(n) => self.held = n,
                    Err(Errno::EAGAIN) => return Ok(()),
                    Err(errno) => return Err(errno),
                }
            }
            while self.held > 0 {
                match splice(self.ends.0, to, self.held) {
                    Ok(n) => self.held = self.held.saturating_sub(n.max(1)),
                    Err(Errno::EAGAIN) => return Ok(()),
                    Err(errno) => return Err(errno),
                }
            }
            if self.ended {
                if !self.told {
                    self.told = true;
                    shutdown_writing(to);
                }
                return Ok(());
            }
        }
        Ok(())
    }
}
