//! The resolver: a process beside the supervisor that answers a container's questions about names.
//!
//! It exists because bytes of strangers are handled in it. It listens in the container's network namespace, at an address of its loopback
//! interface: who asks is the container, and nobody else can. Names of the container's networks it reads in their lists; other names it asks
//! the host's servers for, by sockets that were opened in the host's namespace before it left that; without such servers there are no other
//! names. It has no capabilities, another user's ids, and a filter that leaves it what it holds. It dies with the supervisor.

use crate::attendant::confine;
use crate::dns::{self, Address, DATAGRAM, HEADER, MAX_SLOTS, Name, Question, Reply, SLOT, Slot, code, kind, state};
use crate::system_call::{
    Errno, Fd, POLLIN, POLLOUT, Pages, PollFd, Table, accept, close, connect, exit, now, poll, pread, random, receive_from, send_to,
    socket, socket_error,
};
use crate::wire::Resolver;

const SECOND: u64 = 1_000_000_000;
/// As resolv.conf(5) has it.
const MAX_SERVERS: usize = 3;
/// Questions to one server at one time. Each has a socket of its own, so that nobody guesses its port.
const SOCKETS: usize = 16;
/// Connections to one server at one time.
const LINES: usize = 2;
/// Connections of the container's.
const MAX_STREAMS: usize = 32;
/// How long one server has.
const PATIENCE: u64 = 2 * SECOND;
/// How long who asks has: as long as it waits itself.
const ALL_PATIENCE: u64 = 5 * SECOND;
/// How often others are asked: who refuses does it at once.
const MAX_TRIES: usize = 4;
/// How long a connection may do nothing.
const IDLE: u64 = 5 * SECOND;
/// An answer by a datagram.
const ANSWER: usize = 4096;
/// A message by TCP, with its length.
const MESSAGE: usize = 2 + 65535;
const MAX_ADDRESSES: usize = 64;
/// connect(2) with it lets go of the address before.
const UNSPECIFIED: [u8; 16] = [0; 16];

/// The sockets of one server.
#[derive(Clone, Copy)]
struct Server {
    datagrams: [(Fd, bool); SOCKETS],
    lines: [(Fd, bool); LINES],
}

/// A question that another server was asked by a datagram.
struct Pending {
    server: usize,
    socket: usize,
    client: [u8; 28],
    client_length: usize,
    id: u16,
    question: [u8; DATAGRAM],
    length: usize,
    end: usize,
    tries: usize,
    next: u64,
    last: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The container writes.
    Hearing,
    /// Another server is asked, answers, and the container is told.
    Asking,
    Waiting,
    Telling,
}

/// A connection of the container's.
struct Stream {
    client: Fd,
    /// To another server: which, and by which of its sockets.
    line: Option<(usize, usize)>,
    phase: Phase,
    buffer: Pages,
    /// How far it has come, and how far it goes.
    done: usize,
    whole: usize,
    question: [u8; DATAGRAM],
    end: usize,
    until: u64,
}

struct State<'a> {
    resolver: &'a Resolver<'a>,
    networks: Table<Fd, 64>,
    sockets: (Fd, Fd),
    servers: [Option<Server>; MAX_SERVERS],
    pending: Table<Pending, { MAX_SERVERS * SOCKETS }>,
    streams: Table<Stream, MAX_STREAMS>,
    polled: Table<PollFd, { 2 + MAX_SERVERS * SOCKETS + MAX_STREAMS }>,
    turn: usize,
}

/// Becomes a resolver. `sockets` are a UDP and a TCP socket inside.
pub fn serve(resolver: &Resolver<'_>, fds: &[Fd], sockets: (Fd, Fd), namespace: Fd) -> ! {
    let mut state = State {
        resolver,
        networks: Table::new(),
        sockets,
        servers: [None; MAX_SERVERS],
        pending: Table::new(),
        streams: Table::new(),
        polled: Table::new(),
        turn: 0,
    };
    for network in resolver.networks.iter() {
        if let Some(&f) = fds.get(network as usize) {
            let _ = state.networks.push(f);
        }
    }
    for (server, address) in state.servers.iter_mut().zip(resolver.servers.iter()) {
        *server = Server::open(address).ok();
    }
    let ready = confine(|least| state.descriptors().filter(|&f| f >= least).min(), resolver.filter, namespace, None);
    // Without its filter it serves nobody.
    if ready.is_err() {
        exit(1);
    }
    loop {
        state.turn();
    }
}

impl Server {
    /// In the host's namespace.
    fn open(address: &[u8]) -> Result<Self, Errno> {
        let mut server = Self { datagrams: [(Fd(-1), false); SOCKETS], lines: [(Fd(-1), false); LINES] };
        for place in &mut server.datagrams {
            place.0 = socket(address, false)?;
        }
        for place in &mut server.lines {
            place.0 = socket(address, true)?;
        }
        Ok(server)
    }
}

impl State<'_> {
    fn descriptors(&self) -> impl Iterator<Item = i32> {
        let servers = self.servers.iter().flatten().flat_map(|server| server.datagrams.iter().chain(&server.lines).map(|(f, _)| f.0));
        self.networks.iter().map(|f| f.0).chain([self.sockets.0.0, self.sockets.1.0]).chain(servers)
    }

    fn turn(&mut self) {
        let wait = |fd: Fd, events: i16| PollFd { fd: fd.0, events, revents: 0 };
        self.polled.empty();
        let _ = self.polled.push(wait(self.sockets.0, POLLIN));
        let _ = self.polled.push(wait(if self.streams.is_full() { Fd(-1) } else { self.sockets.1 }, POLLIN));
        let mut next = u64::MAX;
        for pending in self.pending.iter() {
            next = next.min(pending.next);
            let _ = self.polled.push(wait(datagrams(&self.servers, pending), POLLIN));
        }
        for stream in self.streams.iter() {
            next = next.min(stream.until);
            let (f, events) = stream.waits_for(&self.servers);
            let _ = self.polled.push(wait(f, events));
        }
        let _ = poll(&mut self.polled, (next != u64::MAX).then(|| next.saturating_sub(now())));

        let time = now();
        let (pending, streams) = (self.pending.len(), self.streams.len());
        let ready = |polled: &[PollFd], at: usize| polled.get(at).is_some_and(|p| p.revents != 0);
        // From the last to the first: what is taken out is replaced by one that had its turn.
        for i in (0..streams).rev() {
            if ready(&self.polled, 2 + pending + i) {
                self.go_on(i, time);
            }
            if self.streams.get(i).is_some_and(|stream| stream.until <= time)
                && let Some(stream) = self.streams.swap_remove(i)
            {
                self.free_line(&stream);
                close(stream.client);
            }
        }
        for i in (0..pending).rev() {
            let is_late = |pending: &Pending| pending.next <= time;
            let over = ready(&self.polled, 2 + i) && self.hear(i) || self.pending.get(i).is_some_and(is_late) && !self.ask_again(i, time);
            if over {
                self.free(i);
            }
        }
        if ready(&self.polled, 1) {
            self.accept(time);
        }
        if ready(&self.polled, 0) {
            self.take(time);
        }
    }

    // What is known here.

    /// Each slot of the lists, until `look` has seen enough.
    fn look(&self, mut look: impl FnMut(&Slot<'_>) -> bool) {
        let mut bytes = [0; 64 * SLOT];
        for &network in self.networks.iter() {
            let mut at = 0;
            while at < (MAX_SLOTS * SLOT) as u64 {
                let n = pread(network, &mut bytes, at).unwrap_or(0);
                let read = bytes.get(..n).unwrap_or_default();
                for slot in read.chunks_exact(SLOT).filter_map(Slot::read).filter(|slot| slot.state == state::ANSWERED) {
                    if look(&slot) {
                        return;
                    }
                }
                if n < bytes.len() {
                    break;
                }
                at += n as u64;
            }
        }
    }

    /// Writes the answer to a question; None where others have to be asked.
    fn answer(&mut self, message: &[u8], into: &mut [u8]) -> Option<usize> {
        let question = match Question::read(message) {
            Ok(question) => question,
            Err(None) => return Some(0),
            Err(Some(code)) => {
                let n = message.len().min(into.len());
                into.get_mut(..n)?.copy_from_slice(message.get(..n)?);
                return Some(dns::refuse(into, n, code));
            }
        };
        self.turn = self.turn.wrapping_add(1);
        let asks_others = self.servers.iter().any(Option::is_some);
        let mut reply = Reply::begin(into, message, question.end)?;
        let known = match question.name.address() {
            Some(address) => self.names_of(&address, &mut reply, question.kind),
            None => self.addresses_of(&question.name, &mut reply, question.kind),
        };
        match (known, asks_others) {
            (true, _) => Some(reply.end(code::FINE)),
            (false, true) => None,
            (false, false) => Some(reply.end(code::NO_SUCH_NAME)),
        }
    }

    fn names_of(&self, address: &Address, reply: &mut Reply<'_>, wanted: u16) -> bool {
        let mut known = false;
        self.look(|slot| {
            let name = slot.names().next().filter(|_| slot.has(address));
            known |= name.is_some();
            if let Some(name) = name.filter(|_| wanted == kind::PTR || wanted == kind::ANY) {
                reply.name(name);
            }
            known
        });
        known
    }

    fn addresses_of(&self, name: &Name, reply: &mut Reply<'_>, wanted: u16) -> bool {
        if name.as_bytes() == b"localhost" {
            let own = [Address::V4([127, 0, 0, 1]), Address::V6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])];
            let of = [kind::A, kind::AAAA];
            own.iter().zip(of).filter(|(_, kind)| *kind == wanted).for_each(|(address, _)| reply.address(address));
            return true;
        }
        let same = |other: &[u8]| other == name.as_bytes() || self.resolver.domains.iter().any(|domain| name.within(domain) == Some(other));
        let mut found = [Address::V4([0; 4]); MAX_ADDRESSES];
        let (mut count, mut known) = (0, false);
        self.look(|slot| {
            if slot.names().any(same) {
                known = true;
                for address in slot.addresses(wanted) {
                    if let Some(place) = found.get_mut(count) {
                        *place = address;
                        count += 1;
                    }
                }
            }
            count == MAX_ADDRESSES
        });
        // Each first in turn.
        let found = found.get(..count).unwrap_or_default();
        let (behind, first) = found.split_at(if count == 0 { 0 } else { self.turn % count });
        first.iter().chain(behind).for_each(|address| reply.address(address));
        known
    }

    // Datagrams.

    /// Questions that have come, a few.
    fn take(&mut self, time: u64) {
        for _ in 0..32 {
            let (mut bytes, mut client) = ([0; ANSWER], [0; 28]);
            let Ok((n, client_length)) = receive_from(self.sockets.0, &mut bytes, &mut client) else { return };
            let message = bytes.get(..n).unwrap_or_default();
            let mut answer = [0; DATAGRAM];
            let length = match self.answer(message, &mut answer) {
                Some(length) => Some(length),
                None => self.ask(message, &client, client_length, time).err().map(|code| {
                    answer = [0; DATAGRAM];
                    let n = n.min(DATAGRAM);
                    if let Some((to, from)) = answer.get_mut(..n).zip(bytes.get(..n)) {
                        to.copy_from_slice(from);
                    }
                    dns::refuse(&mut answer, n, code)
                }),
            };
            if let Some(answer) = length.and_then(|length| answer.get(..length)).filter(|answer| !answer.is_empty()) {
                let _ = send_to(self.sockets.0, answer, client.get(..client_length).unwrap_or_default());
            }
        }
    }

    /// Asks another server.
    fn ask(&mut self, message: &[u8], client: &[u8; 28], client_length: usize, time: u64) -> Result<(), u8> {
        let end = Question::read(message).map_err(|_| code::MALFORMED)?.end;
        let mut question = [0; DATAGRAM];
        question.get_mut(..message.len()).ok_or(code::FAILED)?.copy_from_slice(message);
        let pending = Pending {
            // Before the first.
            server: usize::MAX,
            socket: 0,
            client: *client,
            client_length,
            id: dns::id(message),
            question,
            length: message.len(),
            end,
            tries: 0,
            next: time,
            last: time.saturating_add(ALL_PATIENCE),
        };
        if self.pending.is_full() {
            self.free(0);
        }
        self.pending.push(pending).map_err(|_| code::FAILED)?;
        let i = self.pending.len() - 1;
        if !self.ask_again(i, time) {
            self.pending.swap_remove(i);
            return Err(code::FAILED);
        }
        Ok(())
    }

    /// Asks the next server that there is; false where nobody can be asked any more, which who asks is told if it was told to wait before.
    fn ask_again(&mut self, i: usize, time: u64) -> bool {
        let Some(pending) = self.pending.get_mut(i) else { return false };
        let first = pending.server == usize::MAX;
        if !first {
            set_busy(&mut self.servers, pending, false);
        }
        pending.tries += 1;
        if pending.last > time && pending.tries <= MAX_TRIES {
            for step in 1..=MAX_SERVERS {
                let at = pending.server.wrapping_add(step) % MAX_SERVERS;
                let (Some(Some(server)), Some(address)) = (self.servers.get(at), self.resolver.servers.iter().nth(at)) else { continue };
                let Some(free) = server.datagrams.iter().position(|(_, busy)| !busy) else { continue };
                (pending.server, pending.socket) = (at, free);
                dns::set_id(&mut pending.question, random() as u16);
                let f = datagrams(&self.servers, pending);
                // Another port for each question.
                let asked = connect(f, &UNSPECIFIED).and_then(|()| connect(f, address));
                if asked.and_then(|()| send_to(f, pending.question.get(..pending.length).unwrap_or_default(), &[])).is_ok() {
                    set_busy(&mut self.servers, pending, true);
                    pending.next = time.saturating_add(PATIENCE).min(pending.last);
                    return true;
                }
            }
        }
        if !first {
            let n = pending.length;
            dns::set_id(&mut pending.question, pending.id);
            let length = dns::refuse(&mut pending.question, n, code::FAILED);
            pending.server = usize::MAX;
            let answer = pending.question.get(..length).unwrap_or_default();
            let _ = send_to(self.sockets.0, answer, pending.client.get(..pending.client_length).unwrap_or_default());
        }
        false
    }

    /// What another server says; whether that was the answer.
    fn hear(&mut self, i: usize) -> bool {
        let Some(pending) = self.pending.get(i) else { return false };
        let mut bytes = [0; ANSWER];
        match receive_from(datagrams(&self.servers, pending), &mut bytes, &mut [0; 28]) {
            Ok((n, _)) => {
                let Some(answer) = bytes.get_mut(..n).filter(|answer| dns::answers(answer, &pending.question, pending.end)) else {
                    return false;
                };
                dns::set_id(answer, pending.id);
                let _ = send_to(self.sockets.0, answer, pending.client.get(..pending.client_length).unwrap_or_default());
                true
            }
            Err(Errno::EAGAIN) => false,
            // Nobody listens there: the next one, at once.
            Err(_) => !self.ask_again(i, now()),
        }
    }

    fn free(&mut self, i: usize) {
        if let Some(pending) = self.pending.swap_remove(i) {
            set_busy(&mut self.servers, &pending, false);
        }
    }

    // Connections.

    fn accept(&mut self, time: u64) {
        while let Ok(client) = accept(self.sockets.1) {
            let stream = Pages::new(MESSAGE).map(|buffer| Stream {
                client,
                line: None,
                phase: Phase::Hearing,
                buffer,
                done: 0,
                whole: 2,
                question: [0; DATAGRAM],
                end: 0,
                until: time.saturating_add(IDLE),
            });
            let kept = stream.is_ok_and(|stream| self.streams.push(stream).is_ok());
            if !kept {
                close(client);
            }
            if self.streams.is_full() {
                return;
            }
        }
    }

    /// Goes on with a connection; one that is over has no time left.
    fn go_on(&mut self, i: usize, time: u64) {
        // A stranger may write on and on: a few steps, so that others have their turn.
        for _ in 0..8 {
            let Some(stream) = self.streams.get_mut(i) else { return };
            match stream.step(&self.servers) {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => {
                    stream.until = 0;
                    return;
                }
            }
            stream.until = time.saturating_add(IDLE);
            match stream.phase {
                Phase::Hearing => self.answer_stream(i),
                Phase::Asking => stream.begin(Phase::Waiting, 2),
                Phase::Waiting => {
                    let n = stream.whole - 2;
                    let good = stream.message(n).is_some_and(|answer| dns::answers(answer, &stream.question, stream.end));
                    if let (Some((server, line)), true) = (stream.line.take(), good) {
                        release_line(&mut self.servers, server, line);
                        stream.begin(Phase::Telling, 2 + n);
                    } else {
                        stream.until = 0;
                    }
                }
                Phase::Telling => stream.begin(Phase::Hearing, 2),
            }
        }
    }

    /// A whole question has come.
    fn answer_stream(&mut self, i: usize) {
        let mut message = [0; ANSWER];
        let Some(stream) = self.streams.get_mut(i) else { return };
        let n = stream.whole - 2;
        let copied = stream.message(n).and_then(|from| message.get_mut(..n).map(|to| to.copy_from_slice(from)));
        if copied.is_none() {
            // Nobody asks for that much.
            stream.until = 0;
            return;
        }
        let message = message.get(..n).unwrap_or_default();
        let mut answer = [0; ANSWER];
        match self.answer(message, &mut answer) {
            Some(length) => {
                let Some(stream) = self.streams.get_mut(i) else { return };
                if length == 0 || !stream.put(answer.get(..length).unwrap_or_default()) {
                    stream.until = 0;
                }
            }
            None => self.ask_by_line(i, message),
        }
    }

    fn ask_by_line(&mut self, i: usize, message: &[u8]) {
        let Some(stream) = self.streams.get_mut(i) else { return };
        let end = Question::read(message).map_or(HEADER, |question| question.end);
        let kept = stream.question.get_mut(..end).zip(message.get(..end)).map(|(to, from)| to.copy_from_slice(from));
        stream.end = end;
        for (at, address) in self.resolver.servers.iter().enumerate().take(MAX_SERVERS) {
            let Some(Some(server)) = self.servers.get_mut(at) else { continue };
            let Some((free, place)) = server.lines.iter_mut().enumerate().find(|(_, place)| !place.1) else { continue };
            if kept.is_some() && matches!(connect(place.0, address), Ok(()) | Err(Errno::EINPROGRESS)) {
                place.1 = true;
                stream.line = Some((at, free));
                stream.begin(Phase::Asking, 2 + message.len());
                return;
            }
            let _ = connect(place.0, &UNSPECIFIED);
        }
        let mut answer = [0; DATAGRAM];
        let n = message.len().min(DATAGRAM);
        if let Some((to, from)) = answer.get_mut(..n).zip(message.get(..n)) {
            to.copy_from_slice(from);
        }
        let length = dns::refuse(&mut answer, n, code::FAILED);
        if !stream.put(answer.get(..length).unwrap_or_default()) {
            stream.until = 0;
        }
    }

    fn free_line(&mut self, stream: &Stream) {
        if let Some((server, line)) = stream.line {
            release_line(&mut self.servers, server, line);
        }
    }
}

/// The socket that a question went out by.
fn datagrams(servers: &[Option<Server>; MAX_SERVERS], pending: &Pending) -> Fd {
    let server = servers.get(pending.server).and_then(Option::as_ref);
    server.and_then(|server| server.datagrams.get(pending.socket)).map_or(Fd(-1), |(f, _)| *f)
}

fn set_busy(servers: &mut [Option<Server>; MAX_SERVERS], pending: &Pending, busy: bool) {
    let server = servers.get_mut(pending.server).and_then(Option::as_mut);
    if let Some(place) = server.and_then(|server| server.datagrams.get_mut(pending.socket)) {
        place.1 = busy;
    }
}

/// The connection ends, and its socket is there for the next one.
fn release_line(servers: &mut [Option<Server>; MAX_SERVERS], server: usize, line: usize) {
    let server = servers.get_mut(server).and_then(Option::as_mut);
    if let Some(place) = server.and_then(|server| server.lines.get_mut(line)) {
        let _ = connect(place.0, &UNSPECIFIED);
        place.1 = false;
    }
}

impl Stream {
    fn other(&self, servers: &[Option<Server>; MAX_SERVERS]) -> Fd {
        let server = |(server, line): (usize, usize)| servers.get(server)?.as_ref()?.lines.get(line).map(|(f, _)| *f);
        self.line.and_then(server).unwrap_or(Fd(-1))
    }

    fn waits_for(&self, servers: &[Option<Server>; MAX_SERVERS]) -> (Fd, i16) {
        match self.phase {
            Phase::Hearing => (self.client, POLLIN),
            Phase::Asking => (self.other(servers), POLLOUT),
            Phase::Waiting => (self.other(servers), POLLIN),
            Phase::Telling => (self.client, POLLOUT),
        }
    }

    fn begin(&mut self, phase: Phase, whole: usize) {
        (self.phase, self.done, self.whole) = (phase, 0, whole);
    }

    /// The message behind its length.
    fn message(&self, length: usize) -> Option<&[u8]> {
        self.buffer.get(2..2 + length)
    }

    /// Begins to tell the container this.
    fn put(&mut self, message: &[u8]) -> bool {
        let Some(place) = self.buffer.get_mut(..2 + message.len()) else { return false };
        place[..2].copy_from_slice(&(message.len() as u16).to_be_bytes());
        place[2..].copy_from_slice(message);
        self.begin(Phase::Telling, 2 + message.len());
        true
    }

    /// Moves what can be moved; whether this phase is over.
    fn step(&mut self, servers: &[Option<Server>; MAX_SERVERS]) -> Result<bool, Errno> {
        let reads = matches!(self.phase, Phase::Hearing | Phase::Waiting);
        let f = self.waits_for(servers).0;
        if self.phase == Phase::Asking && self.done == 0 && socket_error(f) != 0 {
            return Err(Errno::EPROTO);
        }
        while self.done < self.whole {
            let place = self.buffer.get_mut(self.done..self.whole).ok_or(Errno::EPROTO)?;
            let moved = if reads { receive_from(f, place, &mut [0; 28]).map(|(n, _)| n) } else { send_to(f, place, &[]) };
            match moved {
                Ok(0) => return Err(Errno::EPROTO),
                Ok(n) => self.done += n,
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
                Err(errno) => return Err(errno),
            }
            if reads && self.done == 2 && self.whole == 2 {
                let length = self.buffer.get(..2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_be_bytes);
                if usize::from(length) < HEADER {
                    return Err(Errno::EPROTO);
                }
                self.whole = 2 + usize::from(length);
            }
        }
        Ok(true)
    }
}
