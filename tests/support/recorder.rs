//! A disk that remembers every write and flush: a FUSE file system of one file, served by this process, for a loop device to lie on.
//!
//! Of what a file system has written, only what came before the last flush is sure to be there after a power cut; of the rest some may be,
//! torn between any two sectors. [`Recording::after_a_cut`] makes such disks.
//!
//! The protocol is the kernel's (include/uapi/linux/fuse.h, 7.31): only what a loop device asks for is answered.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

/// What happened to the disk, in order.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Write {
        offset: usize,
        bytes: Vec<u8>,
    },
    Flush,
    /// The test's own word: what was true from here on.
    Mark(String),
}

/// A disk as it was in the beginning, and all that happened to it.
pub(crate) struct Recording {
    pub(crate) beginning: Vec<u8>,
    pub(crate) events: Vec<Event>,
}

/// A disk that is being recorded.
pub(crate) struct Recorder {
    state: Arc<Mutex<State>>,
    at: PathBuf,
}

struct State {
    disk: Vec<u8>,
    events: Vec<Event>,
}

const SECTOR: usize = 512;

impl Recording {
    /// The disk after a power cut before the event of this number. Of the writes since the last flush, chance takes some, and of one a part.
    pub(crate) fn after_a_cut(&self, at: usize, chance: &mut impl FnMut() -> u64) -> Vec<u8> {
        let mut disk = self.beginning.clone();
        let durable = self.events[..at].iter().rposition(|event| matches!(event, Event::Flush)).unwrap_or(0);
        // None, all, or some.
        let manner = chance() % 3;
        for (number, event) in self.events[..at].iter().enumerate() {
            let Event::Write { offset, bytes } = event else { continue };
            let mut length = bytes.len();
            if number >= durable {
                match (manner, chance() % 8) {
                    (0, _) | (2, 0..=3) => continue,
                    (2, 4) => length = length / SECTOR / 2 * SECTOR,
                    _ => {}
                }
            }
            disk[*offset..offset + length].copy_from_slice(&bytes[..length]);
        }
        disk
    }

    /// What the test had said before the event of this number.
    pub(crate) fn marks(&self, at: usize) -> Vec<&str> {
        self.events[..at].iter().filter_map(|event| if let Event::Mark(word) = event { Some(word.as_str()) } else { None }).collect()
    }
}

impl Recorder {
    /// Serves a disk as the file `disk` in an empty directory. It needs root and `/dev/fuse`, and a mount namespace that goes with the test.
    pub(crate) fn serve(disk: Vec<u8>, at: &Path) -> Self {
        let fuse = File::options().read(true).write(true).open("/dev/fuse").expect("that is the need");
        let options = "fd=0,rootmode=40000,user_id=0,group_id=0";
        let mut mount = Command::new("mount");
        mount.args(["-i", "-t", "fuse", "-o", options, "recorder"]).arg(at);
        let mounted = mount.stdin(Stdio::from(fuse.try_clone().expect("a descriptor can be doubled"))).status();
        assert!(mounted.expect("mount runs").success(), "the recorder isn't mounted");
        let state = Arc::new(Mutex::new(State { disk, events: Vec::new() }));
        let served = Arc::clone(&state);
        // It ends with the mount.
        std::thread::Builder::new().name("recorder".into()).spawn(move || serve(fuse, &served)).expect("a thread can be had");
        Self { state, at: at.to_owned() }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.at.join("disk")
    }

    /// Says what is true from here on.
    pub(crate) fn mark(&self, word: &str) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).events.push(Event::Mark(word.to_owned()));
    }

    /// What happened so far, to a disk that was so in the beginning.
    pub(crate) fn recording(&self, beginning: Vec<u8>) -> Recording {
        Recording { beginning, events: self.state.lock().unwrap_or_else(PoisonError::into_inner).events.clone() }
    }
}

// Of fuse.h.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const RELEASEDIR: u32 = 29;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
const BIG_WRITES: u32 = 1 << 5;
/// The most bytes of a write; a request has a head beside them.
const MAX_WRITE: usize = 128 << 10;
const ROOT: u64 = 1;
const DISK: u64 = 2;
const ENOENT: i32 = 2;
const ENOSYS: i32 = 38;

fn number32(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn number64(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Numbers as the kernel's structures have them.
#[derive(Default)]
struct Answer(Vec<u8>);

impl Answer {
    fn long(mut self, values: &[u64]) -> Self {
        values.iter().for_each(|value| self.0.extend(value.to_ne_bytes()));
        self
    }

    fn short(mut self, values: &[u32]) -> Self {
        values.iter().for_each(|value| self.0.extend(value.to_ne_bytes()));
        self
    }

    /// `struct fuse_attr`.
    fn attributes(self, node: u64, size: u64) -> Self {
        let (mode, links) = if node == ROOT { (0o040_755, 2) } else { (0o100_600, 1) };
        self.long(&[node, size, size / 512, 0, 0, 0]).short(&[0, 0, 0, mode, links, 0, 0, 0, 4096, 0])
    }
}

fn serve(mut fuse: File, state: &Mutex<State>) {
    let mut request = vec![0; MAX_WRITE + 4096];
    // An error is the end of the mount.
    while let Ok(length) = fuse.read(&mut request) {
        let (head, body) = request[..length].split_at(40);
        let (opcode, unique, node) = (number32(head, 4), number64(head, 8), number64(head, 16));
        let Some(answer) = answer(opcode, node, body, &mut state.lock().unwrap_or_else(PoisonError::into_inner)) else { continue };
        let (error, bytes) = match answer {
            Ok(Answer(bytes)) => (0, bytes),
            Err(errno) => (-errno, Vec::new()),
        };
        let mut out = Answer::default().short(&[16 + bytes.len() as u32, error as u32]).long(&[unique]).0;
        out.extend(bytes);
        if fuse.write_all(&out).is_err() {
            return;
        }
    }
}

/// None where the kernel wants no answer.
fn answer(opcode: u32, node: u64, body: &[u8], state: &mut State) -> Option<Result<Answer, i32>> {
    let size = state.disk.len() as u64;
    let size = if node == ROOT { 0 } else { size };
    let out = Answer::default();
    Some(Ok(match opcode {
        // 7.31, as struct fuse_init_out has it: no time is finer than a nanosecond, and nothing is asked at once but a few.
        INIT => out.short(&[7, 31, number32(body, 8), BIG_WRITES, 16 | 12 << 16, MAX_WRITE as u32, 1, 0]).short(&[0; 8]),
        LOOKUP if body.split(|byte| *byte == 0).next() == Some(b"disk") => {
            let size = state.disk.len() as u64;
            out.long(&[DISK, 0, 3600, 3600]).short(&[0, 0]).attributes(DISK, size)
        }
        LOOKUP => return Some(Err(ENOENT)),
        GETATTR | SETATTR => out.long(&[3600]).short(&[0, 0]).attributes(node, size),
        OPEN | OPENDIR => out.long(&[0]).short(&[0, 0]),
        READ => {
            let (offset, wanted) = (number64(body, 8) as usize, number32(body, 16) as usize);
            let end = state.disk.len().min(offset + wanted);
            Answer(state.disk[offset.min(end)..end].to_vec())
        }
        WRITE => {
            let (offset, length) = (number64(body, 8) as usize, number32(body, 16) as usize);
            let bytes = body[40..40 + length].to_vec();
            state.disk[offset..offset + length].copy_from_slice(&bytes);
            state.events.push(Event::Write { offset, bytes });
            out.short(&[length as u32, 0])
        }
        FSYNC => {
            state.events.push(Event::Flush);
            out
        }
        STATFS => out.long(&[size / 4096, 0, 0, 2, 0]).short(&[4096, 255, 4096, 0]).short(&[0; 6]),
        RELEASE | RELEASEDIR | FLUSH => out,
        FORGET | BATCH_FORGET | INTERRUPT => return None,
        _ => return Some(Err(ENOSYS)),
    }))
}
