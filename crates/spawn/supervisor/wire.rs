//! How a plan and its answers travel between the owner and the supervisor, and how a record lies on disk.
//!
//! This file is compiled twice: into the supervisor, which has no allocator, and into the crate, which tests and fuzzes it.
//! So it holds safe code only, borrows everything from the bytes it reads, and writes through [`Out`]. Numbers are
//! little-endian. A string is its length, its bytes and a NUL, so that a system call can take it where it lies.

use core::ffi::CStr;
use core::marker::PhantomData;

/// The version of the wire and of the record. A supervisor refuses a plan of another version; the frames [`Kind`] lists keep
/// their meaning for ever, so that any version can watch, kill and remove what another started.
pub const VERSION: u16 = 1;

/// The largest plan: 16 MiB. Linux itself refuses arguments and environment above 6 MiB.
pub const MAX_PLAN: u32 = 16 << 20;

/// Bytes of a frame's header: payload length (u32), kind (u16), number of descriptors beside it (u16).
pub const HEADER: usize = 8;

/// Bytes that aren't what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Something bytes are written to.
pub trait Out {
    /// Appends the bytes.
    fn put(&mut self, bytes: &[u8]);
}

/// Bytes being read from the front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(Malformed)?;
        self.rest = rest;
        Ok(head)
    }

    /// What wasn't read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// One value.
    pub fn take<T: Field<'a>>(&mut self) -> Result<T, Malformed> {
        T::take(self)
    }
}

/// A value that can travel.
pub trait Field<'a>: Sized {
    fn put(&self, out: &mut dyn Out);
    fn take(from: &mut Reader<'a>) -> Result<Self, Malformed>;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl<'a> Field<'a> for $number {
            fn put(&self, out: &mut dyn Out) {
                out.put(&self.to_le_bytes());
            }
            fn take(from: &mut Reader<'a>) -> Result<Self, Malformed> {
                let bytes = from.bytes(size_of::<$number>())?;
                Ok(<$number>::from_le_bytes(bytes.try_into().map_err(|_| Malformed)?))
            }
        }
    )*};
}
numbers!(u8, u16, u32, u64, i32);

impl<'a> Field<'a> for bool {
    fn put(&self, out: &mut dyn Out) {
        u8::from(*self).put(out);
    }
    fn take(from: &mut Reader<'a>) -> Result<Self, Malformed> {
        match u8::take(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }
}

impl<'a> Field<'a> for &'a [u8] {
    fn put(&self, out: &mut dyn Out) {
        (self.len() as u32).put(out);
        out.put(self);
    }
    fn take(from: &mut Reader<'a>) -> Result<Self, Malformed> {
        let n = u32::take(from)?;
        from.bytes(n as usize)
    }
}

impl<'a> Field<'a> for &'a CStr {
    fn put(&self, out: &mut dyn Out) {
        self.to_bytes_with_nul().put(out);
    }
    fn take(from: &mut Reader<'a>) -> Result<Self, Malformed> {
        CStr::from_bytes_with_nul(<&[u8]>::take(from)?).map_err(|_| Malformed)
    }
}

impl<'a, T: Field<'a>> Field<'a> for Option<T> {
    fn put(&self, out: &mut dyn Out) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn take(from: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(if bool::take(from)? { Some(T::take(from)?) } else { None })
    }
}

/// Several values of one kind, as the bytes they travel in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct List<'a, T> {
    count: u32,
    bytes: &'a [u8],
    kind: PhantomData<fn() -> T>,
}

impl<'a, T: Field<'a>> List<'a, T> {
    /// A list of `count` values that lie in `bytes`.
    pub fn new(count: u32, bytes: &'a [u8]) -> Self {
        Self { count, bytes, kind: PhantomData }
    }

    pub fn len(&self) -> usize {
        self.count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The values, until the first that is malformed.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        let mut from = Reader::new(self.bytes);
        (0..self.count).map_while(move |_| T::take(&mut from).ok())
    }

    /// As many values from the front as `most` bytes hold.
    pub fn beginning(&self, most: usize) -> Self {
        let mut from = Reader::new(self.bytes);
        let (mut count, mut length) = (0, 0);
        while count < self.count && T::take(&mut from).is_ok() {
            let used = self.bytes.len() - from.rest().len();
            if used > most {
                break;
            }
            (count, length) = (count + 1, used);
        }
        Self::new(count, self.bytes.get(..length).unwrap_or_default())
    }

    /// Whether each value can be read and nothing is left over.
    pub fn is_whole(&self) -> bool {
        let mut from = Reader::new(self.bytes);
        (0..self.count).all(|_| T::take(&mut from).is_ok()) && from.rest().is_empty()
    }
}

impl<'a, T: Field<'a>> Field<'a> for List<'a, T> {
    fn put(&self, out: &mut dyn Out) {
        self.count.put(out);
        self.bytes.put(out);
    }
    fn take(from: &mut Reader<'a>) -> Result<Self, Malformed> {
        let list = Self::new(u32::take(from)?, <&[u8]>::take(from)?);
        // Checked where it enters, so that whoever walks the list later needn't ask.
        if list.is_whole() { Ok(list) } else { Err(Malformed) }
    }
}

macro_rules! record {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name<'a> { $($(#[$field_doc])* pub $field: $kind,)* pub end: PhantomData<&'a ()> }
        impl<'a> Field<'a> for $name<'a> {
            fn put(&self, out: &mut dyn Out) { $(self.$field.put(out);)* }
            fn take(from: &mut Reader<'a>) -> Result<Self, Malformed> {
                Ok(Self { $($field: Field::take(from)?,)* end: PhantomData })
            }
        }
    };
}

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $tag:literal $variant:ident { $($field:ident: $kind:ty),* $(,)? })* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name<'a> {
            $($(#[$variant_doc])* $variant { $($field: $kind),* },)*
            #[doc(hidden)] Never(PhantomData<&'a ()>, core::convert::Infallible),
        }
        impl<'a> Field<'a> for $name<'a> {
            fn put(&self, out: &mut dyn Out) {
                match self {
                    $(Self::$variant { $($field),* } => { <u8 as Field>::put(&$tag, out); $($field.put(out);)* })*
                    Self::Never(_, never) => match *never {},
                }
            }
            fn take(from: &mut Reader<'a>) -> Result<Self, Malformed> {
                match u8::take(from)? {
                    $($tag => Ok(Self::$variant { $($field: Field::take(from)?),* }),)*
                    _ => Err(Malformed),
                }
            }
        }
    };
}

/// What a frame's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// To the supervisor: a [`Plan`]; beside it the owner's pidfd, the three standard streams, and what else it is to keep open.
    Plan = 1,
    /// To the supervisor: a [`Request`].
    Request = 2,
    /// From the supervisor: an [`Answer`].
    Answer = 3,
    /// To the supervisor, as the first frame on a socket that came beside [`Request::Exec`]: an [`Exec`]; beside it its owner's pidfd and
    /// the three standard streams. Then follow requests and answers as on the first socket, about this command alone.
    Exec = 4,
}

impl Kind {
    pub fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Plan),
            2 => Some(Self::Request),
            3 => Some(Self::Answer),
            4 => Some(Self::Exec),
            _ => None,
        }
    }
}

/// The header of a frame.
pub fn header(kind: Kind, payload: u32, fds: u16) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..4].copy_from_slice(&payload.to_le_bytes());
    bytes[4..6].copy_from_slice(&(kind as u16).to_le_bytes());
    bytes[6..].copy_from_slice(&fds.to_le_bytes());
    bytes
}

/// A header's payload length, kind and number of descriptors.
pub fn parse_header(bytes: &[u8; HEADER]) -> (u32, u16, u16) {
    let [a, b, c, d, e, f, g, h] = *bytes;
    (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]))
}

record! {
    /// All that the supervisor is to do.
    Plan {
        version: u16,
        /// Effects in the host's namespaces, in order, before anything is cloned.
        prepare: List<'a, Prepare<'a>>,
        /// Effects that only [`Step::AwaitCgroups`] waits for: performed while the first process makes its mounts. A failed one has the
        /// index behind those of `prepare`.
        meanwhile: List<'a, Prepare<'a>>,
        /// A network namespace that the supervisor makes meanwhile, and [`Step::AwaitNetwork`] enters.
        network: Option<Network<'a>>,
        /// What takes the effects back, in the order to do it; each is harmless where its effect never was.
        undo: List<'a, Undo<'a>>,
        /// `CLONE_NEW*` flags of the first process.
        namespaces: u64,
        /// Namespaces of others that it is in.
        joined: List<'a, Joined<'a>>,
        id_map: Option<IdMap<'a>>,
        cgroup: Cgroup<'a>,
        /// What the first process does inside its namespaces, in order.
        steps: List<'a, Step<'a>>,
        command: Option<Command<'a>>,
        /// Milliseconds until everything is killed; 0 is never.
        wall: u64,
        /// Where to listen for others when it is detached.
        listen: Option<&'a CStr>,
        /// The container doesn't end with its owner.
        detached: bool,
        /// Whether nobody asks before everything is taken back: then all answers but a failure come with the last one, in one piece.
        at_end: bool,
        /// Keeps what is said on some of the standard streams.
        log: Option<Log<'a>>,
        /// Who relays what the kernel alone doesn't bring into the container.
        attendant: Option<Attendant<'a>>,
        /// Who answers questions about names.
        resolver: Option<Resolver<'a>>,
        /// What the supervisor takes back first, and nobody in its place: who holds the locks may.
        release: List<'a, Release<'a>>,
        /// How the command is asked whether it works.
        health: Option<Health<'a>>,
        /// Where [`Answer::Ended`] is written when it has ended.
        ended: Option<&'a CStr>,
        /// What else ends it.
        bounds: Option<Bounds<'a>>,
    }
}

record! {
    /// A namespace of others.
    Joined {
        /// `CLONE_NEW*`; a mount namespace is one to borrow from.
        kind: u64,
        /// Among the descriptors of the plan.
        fd: u32,
    }
}

record! {
    /// A process beside the supervisor that relays connections.
    Attendant {
        /// What it may still ask of the kernel.
        filter: &'a [u8],
        listeners: List<'a, Listener<'a>>,
    }
}

record! {
    /// A process beside the supervisor that answers questions about names, in the network namespace that is made.
    Resolver {
        /// What it may still ask of the kernel.
        filter: &'a [u8],
        /// Where it listens inside: `struct sockaddr_in`.
        listen: &'a [u8],
        /// The lists of names of the container's networks, as `dns.rs` has them: among the descriptors of the plan.
        networks: List<'a, u32>,
        /// Who is asked for other names: `struct sockaddr_in` or `sockaddr_in6`. Nobody, without.
        servers: List<'a, &'a [u8]>,
        /// Domains below which a name of a network is looked for, too.
        domains: List<'a, &'a [u8]>,
    }
}

record! {
    /// A place in a network's list of names.
    NameSlot {
        list: &'a CStr,
        at: u64,
        contents: &'a [u8],
    }
}

record! {
    /// A socket that came with the plan, and where what comes to it goes in the container's network namespace.
    Listener {
        /// Among the descriptors of the plan.
        fd: u32,
        /// 6 for TCP, which listens, or 17 for UDP.
        protocol: u8,
        /// `struct sockaddr_in` or `sockaddr_in6`.
        target: &'a [u8],
    }
}

record! {
    /// A test that is made again and again: a further command whose exit code 0 means that all is well. Times are milliseconds.
    Health {
        argv: List<'a, &'a CStr>,
        /// From the end of one test to the next, and from the start to the first.
        interval: u64,
        timeout: u64,
        /// How long failures don't count.
        start_period: u64,
        /// Instead of `interval`, meanwhile.
        start_interval: u64,
        /// Failures in a row that mean it doesn't work.
        retries: u32,
    }
}

/// What tests have said so far.
pub mod health {
    pub const STARTING: u8 = 1;
    pub const HEALTHY: u8 = 2;
    pub const UNHEALTHY: u8 = 3;
}

record! {
    /// A network namespace.
    Network {
        /// Netlink requests that configure it, and how many they are.
        messages: &'a [u8],
        count: u32,
        /// What is asked of the kernel after that, in order.
        more: List<'a, Exchange<'a>>,
        /// Where its names are told as soon as it is made; nothing is there when it is taken back.
        names: List<'a, NameSlot<'a>>,
        /// The namespace isn't made: it is this descriptor among those of the plan.
        given: Option<u32>,
    }
}

record! {
    /// Netlink requests, each of which asks for an acknowledgement.
    Exchange {
        /// Whether they are sent from inside the new namespace, or from the host's.
        inside: bool,
        /// The kind of netlink socket: 0 for rtnetlink, 12 for netfilter.
        protocol: u32,
        messages: &'a [u8],
        count: u32,
        /// Where in the messages the new namespace's descriptor is written; `u32::MAX` is nowhere.
        namespace_at: u32,
        /// Whether it is fine when they are refused.
        lenient: bool,
    }
}

record! {
    /// A file that standard streams go to, as `log_file.rs` has it.
    Log {
        path: &'a CStr,
        /// Bytes of its ring, where the file isn't there yet.
        capacity: u64,
        /// Bits 1 and 2: standard output and error.
        streams: u8,
    }
}

record! {
    /// Limits that the supervisor itself keeps.
    Bounds {
        /// Microseconds of processor time of all processes together; 0 is no limit.
        cpu: u64,
        /// What tells how much that is so far: cgroup2's `cpu.stat`, or v1's `cpuacct.usage`.
        cpu_usage: Option<&'a CStr>,
        /// How many processors may be spending it at once.
        processors: u32,
        /// Bytes on standard output and error together; `u64::MAX` is no limit.
        output: u64,
        /// Milliseconds without a byte on either; 0 is no limit.
        idle: u64,
        /// Bits 1 and 2: output and error go through the supervisor, which counts, and on to the pipe that came with the plan.
        pass: u8,
    }
}

record! {
    /// Control groups: all paths were made by [`Prepare`] and go by [`Undo`].
    Cgroup {
        /// The cgroup2 directory to clone into.
        into: Option<&'a CStr>,
        /// `cgroup.kill` (Linux 5.14) of the container's tree.
        kill: Option<&'a CStr>,
        /// Files whose contents are sent with [`Answer::Ended`].
        read_at_end: List<'a, &'a CStr>,
    }
}

record! {
    /// How ids inside map to ids outside; see user_namespaces(7).
    IdMap {
        /// Lines of uid_map, as the kernel and newuidmap(1) take them: inside, outside, count.
        uids: List<'a, IdRange<'a>>,
        gids: List<'a, IdRange<'a>>,
        /// newuidmap(1) and newgidmap(1), where more than the caller's own id is mapped.
        newuidmap: Option<&'a CStr>,
        newgidmap: Option<&'a CStr>,
        /// Whether `/proc/PID/setgroups` must say `deny` before a group map may be written.
        deny_setgroups: bool,
    }
}

record! {
    /// One line of a map.
    IdRange {
        inside: u32,
        outside: u32,
        count: u32,
    }
}

record! {
    /// What is executed, and by whom.
    Command {
        argv: List<'a, &'a CStr>,
        env: List<'a, &'a CStr>,
        /// Where `argv[0]` is looked for if it has no slash.
        path: &'a CStr,
        /// Whether PID 1 is our init, and the command its child.
        init: bool,
        /// Whether the command gets a session of its own.
        session: bool,
        /// Whether its standard input is the terminal that controls it.
        terminal: bool,
    }
}

choice! {
    /// An effect in the host's namespaces.
    Prepare {
        /// A directory `parent/name` with a locked file `lock` and the record, made under a temporary name and renamed into
        /// place: who finds it finds it whole.
        1 RunDirectory { parent: &'a CStr, name: &'a CStr, record: &'a [u8] }
        2 MakeDirectory { path: &'a CStr, mode: u32 }
        /// Writes to a file that is there (an attribute of a cgroup). `optional`: a kernel without it is fine.
        3 Write { path: &'a CStr, value: &'a [u8], optional: bool }
        /// Takes over the run directory of a dead supervisor: waits for nothing, fails if its lock is held.
        4 AdoptRunDirectory { path: &'a CStr }
        /// One more life in a run directory that is there: locks it, and writes the record.
        5 ResumeRunDirectory { path: &'a CStr, record: &'a [u8] }
        /// A directory that may be there already.
        6 EnsureDirectory { path: &'a CStr, mode: u32 }
        /// Bounds what a directory holds by a project quota of its file system.
        7 LimitDirectory { path: &'a CStr, bytes: u64 }
        /// Decides which devices a cgroup2 directory's processes open: a program of type BPF_PROG_TYPE_CGROUP_DEVICE, which goes with the directory.
        8 DeviceFilter { path: &'a CStr, program: &'a [u8] }
    }
}

choice! {
    /// What takes an effect back.
    Undo {
        /// Kills what a cgroup still holds.
        1 KillCgroup { path: &'a CStr }
        /// rmdir(2), repeated while the directory is busy.
        2 RemoveDirectory { path: &'a CStr }
        /// A directory and all below it.
        3 RemoveTree { path: &'a CStr }
        /// Lets a cgroup go on that was frozen: its file `cgroup.freeze`.
        20 Thaw { path: &'a CStr }
    }
}

choice! {
    /// What only the living supervisor takes back, because another may have it since: elements of a firewall, addresses.
    Release {
        1 Netlink { protocol: u32, messages: &'a [u8], count: u32 }
        2 RemoveFile { path: &'a CStr }
    }
}

/// Where a [`Step`] may create its target.
pub mod create {
    /// The target must be there.
    pub const NOTHING: u8 = 0;
    /// Missing directories are made, the last too.
    pub const DIRECTORY: u8 = 1;
    /// Missing directories are made, and an empty file in the last.
    pub const FILE: u8 = 2;
    /// A directory or a file, as the source is.
    pub const AS_SOURCE: u8 = 3;
}

choice! {
    /// What the first process does inside its namespaces. Paths named `target` are resolved inside the container's root.
    Step {
        /// Nothing that is mounted from now on is seen outside: `mount --make-rprivate /`.
        1 PrivateMounts {}
        /// The root is an overlay; topmost layer first.
        2 OverlayRoot { lower: List<'a, &'a CStr>, upper: Option<&'a CStr>, work: Option<&'a CStr>, userxattr: bool, volatile: bool, attributes: u64 }
        /// The root is a directory of the host.
        3 BindRoot { source: &'a CStr, recursive: bool, attributes: u64 }
        /// The root is an empty tmpfs.
        4 TmpfsRoot { attributes: u64 }
        /// An overlay somewhere below the root.
        5 Overlay { target: &'a CStr, lower: List<'a, &'a CStr>, upper: Option<&'a CStr>, work: Option<&'a CStr>, userxattr: bool, volatile: bool, attributes: u64 }
        /// A file system of its own. `real`: no part of the target may be a symlink.
        6 Mount { filesystem: &'a CStr, source: &'a CStr, options: List<'a, &'a CStr>, attributes: u64, target: &'a CStr, real: bool, create: u8 }
        /// A file or directory of the host.
        7 Bind { source: &'a CStr, target: &'a CStr, recursive: bool, attributes: u64, create: u8, real: bool }
        /// A tmpfs below `target` which holds small things to bind from: [`Step::DeviceDirectory`], [`Step::PrivateFile`], [`Step::Mask`].
        8 Cache { target: &'a CStr, options: List<'a, &'a CStr> }
        /// A writable directory of the cache at `target`, for /dev. `nodes`: a node that somebody makes there opens its device.
        9 DeviceDirectory { target: &'a CStr, nodes: bool }
        /// A device of the host, checked to be that device.
        10 Device { source: &'a CStr, target: &'a CStr, major: u32, minor: u32, block: bool }
        11 Symlink { contents: &'a CStr, target: &'a CStr }
        12 MakeDirectory { target: &'a CStr, mode: u32 }
        /// A file that exists only in this container, at `target`.
        13 PrivateFile { target: &'a CStr, contents: &'a [u8], mode: u32 }
        /// Hides a file or directory, if there is one.
        14 Mask { target: &'a CStr }
        /// Makes a directory or file read-only, if there is one.
        15 ReadOnly { target: &'a CStr }
        16 ReadOnlyRoot {}
        /// Enters the root and lets go of the host's.
        17 PivotRoot {}
        18 Hostname { name: &'a CStr }
        /// Sends netlink messages and reads an acknowledgement for each.
        19 Netlink { messages: &'a [u8], count: u32 }
        /// Writes a file of the container's own procfs; without `required` a kernel without it is fine.
        20 Sysctl { path: &'a CStr, value: &'a [u8], required: bool }
        /// Waits until the supervisor has done what it does meanwhile.
        21 AwaitCgroups {}
        /// unshare(2): after the cgroups were joined, CLONE_NEWCGROUP.
        22 Unshare { flags: u64 }
        23 Rlimit { resource: u32, soft: u64, hard: u64 }
        /// Looks a user up in the container's /etc/passwd and /etc/group, as `--user` of docker-run(1) is written.
        24 User { user: &'a CStr, home: bool, more_groups: List<'a, u32> }
        /// chdir(2), and a check that the directory is inside.
        25 Directory { path: &'a CStr, create: bool }
        26 BoundingSet { capabilities: u64 }
        /// setgroups(2), setresgid(2), setresuid(2) to what [`Step::User`] found.
        27 BecomeUser { keep_groups: bool, keep_capabilities: bool }
        /// `root`: what uid 0 gets; any other user gets the ambient set alone.
        28 Capabilities { root: u64, inheritable: u64, ambient: u64 }
        29 NoNewPrivileges {}
        30 Seccomp { filter: &'a [u8] }
        /// chown(2) and chmod(2) below a directory of the host: gives unpacked files their owners. An empty list of steps after it ends the process.
        31 ChangeOwners { directory: &'a CStr, list: &'a [u8] }
        32 Umask { mask: u32 }
        /// Enters the network namespace that the supervisor made.
        33 AwaitNetwork {}
        /// Joins a v1 cgroup by its file `tasks`.
        ///
        /// A thread that moves itself needs no lock of the kernel's that waits for an RCU grace period, as a pid that somebody
        /// writes into `cgroup.procs` does: up to 15 ms. The first process has one thread.
        34 JoinCgroup { path: &'a CStr }
        /// Hands the network namespace that this process made, and its user namespace, to the supervisor, whose attendant enters both.
        35 ShareNetwork {}
        /// A file or directory of the host, in which the owner `uid` and `gid` outside and the container's user have changed places. `mapped`: there
        /// is a user namespace, by which its root is that owner, and nobody else can be.
        36 BindOwned { source: &'a CStr, target: &'a CStr, attributes: u64, user: &'a CStr, uid: u32, gid: u32, mapped: bool }
        /// Makes the user namespace that [`Step::BindOwned`] needs where there is none.
        37 BeginOwners {}
        /// A terminal from the container's devpts in the place of the standard streams; its master is reported.
        38 Terminal { columns: u32, rows: u32 }
        /// Binds what another mount namespace has at a path.
        40 Borrow { path: &'a CStr, target: &'a CStr, attributes: u64 }
        /// Restricts this process and all that come of it to what the rules name: landlock(7). `handled` are the rights that are restricted.
        41 Landlock { handled: u64, rules: List<'a, LandlockRule<'a>> }
        /// The label of a security module that the command gets when it is executed: an attribute of the host's procfs.
        42 Label { attribute: &'a CStr, value: &'a [u8] }
        /// Tells that all is made, and waits until the command may be executed: meanwhile files can be put in.
        50 AwaitExecute {}
        /// Opens files for the owner, who asks on standard input, until that closes: see serve.rs.
        60 ServeFiles {}
    }
}

record! {
    /// What is allowed below a path inside the root: `LANDLOCK_ACCESS_FS_*`. A path that isn't there is passed over.
    LandlockRule {
        path: &'a CStr,
        access: u64,
    }
}

record! {
    /// One entry of [`Step::ChangeOwners`].
    Owner {
        path: &'a CStr,
        uid: u32,
        gid: u32,
        /// Permission bits with set-id bits, which chown(2) clears; `u32::MAX` leaves them.
        mode: u32,
    }
}

record! {
    /// One more command in a container. Who it is and what it may do are the container's own plan's.
    Exec {
        version: u16,
        argv: List<'a, &'a CStr>,
        /// Variables over those of the container's command.
        env: List<'a, &'a CStr>,
        /// Instead of the container's, as [`Step::User`] takes it.
        user: Option<&'a CStr>,
        /// Instead of the container's. It must be there.
        directory: Option<&'a CStr>,
        /// Milliseconds until everything of it is killed; 0 is never.
        wall: u64,
        /// Whether what the command leaves in the background lives on when the command has ended by itself.
        background: bool,
        /// Files of its cgroup whose contents are sent with [`Answer::Ended`]: names.
        read_at_end: List<'a, &'a CStr>,
        /// A terminal in the place of its streams.
        terminal: Option<Window<'a>>,
    }
}

record! {
    /// The size of a terminal.
    Window {
        columns: u32,
        rows: u32,
    }
}

choice! {
    /// What a handle asks of a supervisor. One that doesn't know a request answers [`Answer::Unknown`].
    Request {
        /// A signal to the command. SIGKILL ends everything.
        1 Signal { number: u32 }
        /// A signal, and after `grace` milliseconds the end of everything.
        2 Stop { number: u32, grace: u64 }
        3 Kill {}
        /// Outlive the owner. Answered by [`Answer::Detached`].
        4 Detach {}
        /// Execute one more command. Beside it comes one end of a socket on which it is described by a frame [`Kind::Exec`].
        5 Exec {}
        /// Which further commands run. Answered by [`Answer::Execs`].
        6 Execs { token: u32 }
        /// A signal to one of these; SIGKILL to all of it. Answered by [`Answer::Signalled`].
        7 SignalExec { token: u32, id: u32, number: u32 }
        /// A process that opens sockets and files inside and hands them out. Beside it comes one end of a SOCK_SEQPACKET socket, on which
        /// follow [`Opening`]s, each answered by an [`Opened`].
        20 Open {}
        /// Lets a command be executed that waits in [`Step::AwaitExecute`].
        21 Execute {}
        /// As [`Request::Detach`], and live no longer than the last of those who asked for this. Answered likewise, to who asked.
        22 Hold {}
        /// The master of its terminal: [`Answer::Terminal`], with it beside; [`Answer::Unknown`] where it has none.
        23 Terminal {}
    }
}

choice! {
    /// What an opener is asked to open or do inside: one message each. Paths are looked up from the container's root and don't lead out of it;
    /// a name is one part of a path, in the directory that came beside it, and no symlink.
    Opening {
        /// Stream sockets in the network namespace, not connected yet: one of IPv4, one of IPv6 where there is that.
        1 Sockets {}
        /// A stream connected to the Unix socket at a path.
        2 UnixStream { path: &'a CStr }
        /// A file: `at` the root, or below what came beside it; that itself if the path is empty. `how` are bits of [`how`].
        3 File { path: &'a CStr, how: u32, mode: u32 }
        /// mkdir(2).
        4 MakeDirectory { name: &'a CStr, mode: u32 }
        /// symlink(2).
        5 Symlink { contents: &'a CStr, name: &'a CStr }
        /// link(2); the directories of both came beside it.
        6 Link { from: &'a CStr, name: &'a CStr }
        /// unlink(2), or rmdir(2).
        7 Remove { name: &'a CStr, directory: bool }
        /// Owner, permissions and time of last change of what came beside it: those that `what` has of [`attribute`].
        8 Attributes { what: u32, uid: u32, gid: u32, mode: u32, seconds: u64, nanoseconds: u32 }
    }
}

/// How a file is opened by [`Opening::File`].
pub mod how {
    /// Only to be named: O_PATH. Anything may be; without it only directories and regular files.
    pub const NAME: u32 = 1;
    /// The last part of the path may be a symlink, which then is what is found with [`NAME`].
    pub const NOFOLLOW: u32 = 2;
    pub const WRITE: u32 = 4;
    pub const TRUNCATE: u32 = 8;
    /// Made by this, with the mode beside it; the path is a name, or the last part of one that isn't there.
    pub const NEW: u32 = 16;
    pub const DIRECTORY: u32 = 32;
    pub const APPEND: u32 = 64;
}

/// What [`Opening::Attributes`] sets.
pub mod attribute {
    pub const OWNER: u32 = 1;
    pub const MODE: u32 = 2;
    pub const TIME: u32 = 4;
}

record! {
    /// What an opener did; what it opened is beside it.
    Opened {
        errno: i32,
        /// Whether the way into the container failed, and not what was asked for.
        outside: bool,
        /// Of a file.
        found: Option<Found<'a>>,
    }
}

record! {
    /// What statx(2) says, with ids as the container counts them.
    Found {
        mode: u32,
        uid: u32,
        gid: u32,
        links: u32,
        size: u64,
        ino: u64,
        dev: u64,
        seconds: u64,
        nanoseconds: u32,
    }
}

/// Why a container ended, where it wasn't by itself.
pub mod killed_by {
    pub const NOBODY: u8 = 0;
    /// A handle asked for it.
    pub const HANDLE: u8 = 1;
    /// The wall clock ran out.
    pub const WALL: u8 = 2;
    /// The owner died or let go.
    pub const LIFELINE: u8 = 3;
    /// `stop` waited its grace in vain.
    pub const GRACE: u8 = 4;
    /// The container in which it was one more command ended.
    pub const CONTAINER: u8 = 5;
    /// The processor time was spent.
    pub const CPU: u8 = 6;
    /// It said too much.
    pub const OUTPUT: u8 = 7;
    /// It said nothing for too long.
    pub const IDLE: u8 = 8;
}

/// Which part of an [`Exec`] failed, as the index in [`stage::STEP`].
pub mod exec_step {
    /// The container's resource limits.
    pub const LIMITS: u32 = 0;
    pub const USER: u32 = 1;
    pub const DIRECTORY: u32 = 2;
    /// The user's ids, the container's capabilities, its filter.
    pub const PRIVILEGES: u32 = 3;
    /// The container's v1 cgroups.
    pub const CGROUPS: u32 = 4;
    pub const TERMINAL: u32 = 5;
}

/// Which part of a plan failed.
pub mod stage {
    pub const PLAN: u8 = 0;
    pub const PREPARE: u8 = 1;
    pub const CLONE: u8 = 2;
    pub const ID_MAP: u8 = 3;
    pub const CGROUP: u8 = 4;
    pub const STEP: u8 = 5;
    pub const EXEC: u8 = 6;
    pub const LISTEN: u8 = 7;
    pub const NETWORK: u8 = 8;
    /// The namespaces of a container that are joined.
    pub const JOIN: u8 = 9;
    pub const LOG: u8 = 10;
    /// The process that relays connections.
    pub const ATTENDANT: u8 = 11;
}

/// What failed within a step, where its errno alone doesn't say.
pub mod cause {
    pub const ERRNO: u8 = 0;
    /// No such user in /etc/passwd; the detail is its name.
    pub const UNKNOWN_USER: u8 = 1;
    pub const UNKNOWN_GROUP: u8 = 2;
    /// The words after `--user` can't be read.
    pub const BAD_USER: u8 = 3;
    /// The id isn't mapped in this user namespace; the detail is the id.
    pub const UNMAPPED_ID: u8 = 4;
    /// The file exists; its interpreter doesn't. The detail is the interpreter.
    pub const MISSING_INTERPRETER: u8 = 5;
    /// The source isn't the device that was asked for.
    pub const NOT_THE_DEVICE: u8 = 6;
    /// The working directory is outside the root.
    pub const OUTSIDE_ROOT: u8 = 7;
    /// The kernel's own words, in the detail.
    pub const KERNEL_SAYS: u8 = 8;
    /// newuidmap(1) or newgidmap(1) refused; the detail is its words.
    pub const MAP_HELPER: u8 = 9;
    /// What was found isn't what the step needs (a symlink where a directory must be).
    pub const WRONG_KIND: u8 = 10;
    /// No directory of PATH has the program; the detail is that PATH.
    pub const NOT_IN_PATH: u8 = 11;
    /// There are as many commands at once as a supervisor takes.
    pub const TOO_MANY: u8 = 12;
    /// The user inside isn't who is the caller outside; the detail is the user.
    pub const NOT_THE_CALLER: u8 = 13;
    /// The file system knows no mounts with other owners.
    pub const NO_OTHER_OWNERS: u8 = 14;
}

choice! {
    /// What a supervisor says.
    Answer {
        /// The command runs. `pid` is the first process's as the supervisor counts, `command` the command's as the first process does. Of an
        /// [`Exec`]: `command` is its number among the container's.
        1 Started { pid: u32, command: u32 }
        /// Nothing runs; what was done is being undone.
        2 Failed { stage: u8, index: u32, errno: i32, cause: u8, detail: &'a [u8] }
        /// Everything that ran has ended. `status` is the command's, as wait(2) gives it.
        3 Ended { status: i32, init_status: i32, killed_by: u8, wall: u64, user: u64, system: u64, max_rss: u64, files: List<'a, &'a [u8]> }
        /// Everything is taken back, but for what `errors` names. The last words.
        4 Gone { errors: List<'a, Left<'a>> }
        /// It will outlive its owner; or why it can't.
        5 Detached { errno: i32 }
        /// A request that this version doesn't know.
        6 Unknown { request: u8 }
        /// The further commands that run; `token` is the question's.
        7 Execs { token: u32, running: List<'a, Running<'a>> }
        8 Signalled { token: u32, errno: i32 }
        /// The log is there: beside this comes a descriptor of it for reading. Told only to whoever sent the plan.
        9 Log {}
        /// All is made, and the command waits for [`Request::Execute`].
        20 Created {}
        /// Its terminal is there: beside this comes a descriptor of the master.
        22 Terminal {}
        /// What tests have said so far: one of [`health`], failures in a row, tests in all; how the last one ended, as wait(2) gives it, and what
        /// it said.
        21 Health { state: u8, failing: u32, tests: u32, status: i32, output: &'a [u8] }
    }
}

record! {
    /// A further command that runs.
    Running {
        id: u32,
        pid: u32,
        /// Nanoseconds since its start.
        age: u64,
        /// Its first words, as many as have room.
        argv: List<'a, &'a CStr>,
    }
}

record! {
    /// Something that couldn't be removed.
    Left {
        path: &'a CStr,
        errno: i32,
    }
}

choice! {
    /// What the first process tells its supervisor.
    Report {
        /// When the command was executed, too: nanoseconds of CLOCK_BOOTTIME.
        1 Running { command: u32, at: u64 }
        2 Failed { stage: u8, index: u32, errno: i32, cause: u8, detail: &'a [u8] }
        /// The command's status, as wait(2) gives it.
        3 Ended { status: i32 }
        /// The process that executes one more command, and its pidfd beside it: made by a helper that had to enter a user namespace before.
        4 Made { pid: u32 }
        /// The network namespace that it made itself, and its user namespace, beside it: for the attendant.
        5 Network {}
        /// The master of the terminal that it made, beside it.
        6 Terminal {}
        /// All is made; the command waits.
        20 Created {}
    }
}

record! {
    /// A run directory's file `record`: what the next engine needs when everybody has died.
    Record {
        version: u16,
        /// What takes everything back.
        undo: List<'a, Undo<'a>>,
        /// The map in which files of sub-ids can be removed.
        id_map: Option<IdMap<'a>>,
        /// The embedder's own description, passed through.
        description: &'a [u8],
    }
}
