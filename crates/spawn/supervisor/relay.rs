//! What a container says on its way: into the log, or on to its owner's pipes, and counted.
//!
//! Nothing here waits for a reader. A pipe is read when there is something in it, so much at a time that requests have their turn between.
//! What an owner doesn't read stays where it is, and the container waits as it would without us. The order of the two streams is that in
//! which poll(2) finds them: what comes on both between two looks is taken output first.

use crate::log::Log;
use crate::log_file::{MAX_PIECE, RECORD, kind};
use crate::system_call::{
    Errno, Fd, POLLIN, POLLOUT, Pages, PollFd, Result, close, enlarge_pipe, now, pipe, poll, read, set_nonblocking, set_signal_mask, splice,
};
use crate::wire;

/// Pieces that are taken of one stream before anybody else has a turn.
const TURN: usize = 4;

/// Pieces that are taken at the end: more than two pipes hold. Somebody outside may hold one open, and write.
const LAST: usize = 160;

/// How long the end waits for an owner who doesn't read, where his pipe can't be made larger.
const PATIENCE: u64 = 10_000_000_000;

pub struct Relay {
    pipes: [Option<Pipe>; 2],
    log: Option<Log>,
    /// Bytes that were said, and that may be.
    said: u64,
    most: u64,
    /// Whether there was more.
    pub over: bool,
    /// When something was said last.
    pub last: u64,
}

#[derive(Clone, Copy)]
struct Pipe {
    from: Fd,
    /// The owner's; without, it goes into the log.
    to: Option<Fd>,
    /// Whether that is full.
    full: bool,
}

impl Relay {
    /// Puts pipes of ours in the place of those streams that are kept or counted; beside it comes the log's descriptor for reading.
    pub fn begin(log: Option<&wire::Log<'_>>, bounds: Option<&wire::Bounds<'_>>, streams: &mut [Fd; 3]) -> Result<(Self, Option<Fd>)> {
        let mut relay =
            Self { pipes: [None; 2], log: None, said: 0, most: bounds.map_or(u64::MAX, |bounds| bounds.output), over: false, last: now() };
        let mut reader = None;
        if let Some(log) = log {
            let (log, f) = Log::begin(log)?;
            (relay.log, reader) = (Some(log), Some(f));
        }
        let kept = log.map_or(0, |log| log.streams);
        let passed = bounds.map_or(0, |bounds| bounds.pass);
        if passed != 0 {
            // A reader who has gone is an error number, and no end of ours. Whoever executes a command has a mask of his own.
            const SIGPIPE: u64 = 13;
            set_signal_mask(1 << (SIGPIPE - 1));
        }
        for (i, stream) in streams[1..].iter_mut().enumerate() {
            let bit = 1 << (i + 1);
            if (kept | passed) & bit == 0 {
                continue;
            }
            let (from, theirs) = pipe()?;
            // The container may open its own end for reading and take away what poll(2) has promised.
            set_nonblocking(from)?;
            let to = if kept & bit == 0 { Some(*stream) } else { None };
            if to.is_none() {
                close(*stream);
            }
            relay.pipes[i] = Some(Pipe { from, to, full: false });
            *stream = theirs;
        }
        Ok((relay, reader))
    }

    /// What to poll.
    pub fn polled(&self) -> [PollFd; 2] {
        self.pipes.map(|pipe| match pipe {
            None => PollFd { fd: -1, events: 0, revents: 0 },
            Some(Pipe { to: Some(to), full: true, .. }) => PollFd { fd: to.0, events: POLLOUT, revents: 0 },
            Some(Pipe { from, .. }) => PollFd { fd: from.0, events: POLLIN, revents: 0 },
        })
    }

    /// Takes what has come on a stream.
    pub fn take(&mut self, stream: usize) {
        self.take_pieces(stream, TURN);
    }

    /// Takes what is left, says that nothing more comes, and lets go of everything.
    pub fn finish(&mut self) {
        for stream in 0..2 {
            if !self.over {
                self.take_pieces(stream, LAST);
                self.make_room(stream);
            }
            self.hang_up(stream);
        }
        if let Some(log) = &mut self.log {
            log.finish();
        }
    }

    /// What has no room with the owner gets some: when this process has gone there is nobody to bring it later.
    fn make_room(&mut self, stream: usize) {
        let until = now().saturating_add(PATIENCE);
        while let Some(Pipe { to: Some(to), full: true, .. }) = self.pipes[stream] {
            // A pipe's places may each hold few bytes; as many places again as a pipe has.
            if enlarge_pipe(to, 128 << 10).is_err() {
                let left = until.saturating_sub(now());
                if left == 0 {
                    return;
                }
                let _ = poll(&mut [PollFd { fd: to.0, events: POLLOUT, revents: 0 }], Some(left));
            }
            self.take_pieces(stream, LAST);
        }
    }

    fn hang_up(&mut self, stream: usize) {
        if let Some(Pipe { from, to, .. }) = self.pipes[stream].take() {
            close(from);
            if let Some(to) = to {
                close(to);
            }
        }
    }

    #[inline(never)]
    fn take_pieces(&mut self, stream: usize, most: usize) {
        let mut buffer = None;
        for _ in 0..most {
            let Some(pipe) = self.pipes[stream] else { return };
            let room = usize::try_from(self.most - self.said).unwrap_or(usize::MAX);
            let taken = match pipe.to {
                _ if room == 0 => match read(pipe.from, &mut [0]) {
                    Ok(1..) => {
                        self.over = true;
                        return;
                    }
                    other => other,
                },
                Some(to) => splice(pipe.from, to, room.min(64 << 10)),
                None => {
                    // There only while it is needed: a container that says nothing costs nothing.
                    if buffer.is_none() {
                        buffer = Pages::new(RECORD + MAX_PIECE).ok();
                    }
                    let Some(buffer) = &mut buffer else { return };
                    read(pipe.from, &mut buffer[RECORD..RECORD + MAX_PIECE.min(room)])
                }
            };
            match taken {
                Ok(n @ 1..) => {
                    self.said += n as u64;
                    self.last = now();
                    if let Some(pipe) = &mut self.pipes[stream] {
                        pipe.full = false;
                    }
                    if let (None, Some(log), Some(buffer)) = (pipe.to, &mut self.log, &mut buffer) {
                        log.keep(buffer, n, if stream == 0 { kind::STDOUT } else { kind::STDERR });
                        if n < MAX_PIECE {
                            return;
                        }
                    }
                }
                Err(Errno::EAGAIN) if pipe.to.is_some() => {
                    // Nothing to take, or nowhere to put it.
                    let mut there = [PollFd { fd: pipe.from.0, events: POLLIN, revents: 0 }];
                    let _ = poll(&mut there, Some(0));
                    if let Some(pipe) = &mut self.pipes[stream] {
                        pipe.full = there[0].revents & POLLIN != 0;
                    }
                    return;
                }
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                // The end, or a reader who has gone: then the container's next word meets the same.
                Ok(_) | Err(_) => return self.hang_up(stream),
            }
        }
    }
}
