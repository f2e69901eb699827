//! System call filters: Docker's default profile as data, and a compiler from rules to classic BPF.
//!
//! A container shares the host's kernel, and the kernel has four hundred ways in; a program needs a few dozen. The filter
//! answers the rest before the kernel's code runs. [`Filter::docker_default`] is what Docker, containerd and Podman users
//! know: a list of allowed calls, which grows with the capabilities that the container has. [`FilterBuilder`] makes other lists.
//!
//! A [`Filter`] is finished bytes: an array of `struct sock_filter` for `seccomp(SECCOMP_SET_MODE_FILTER)`, compiled in the owner,
//! installed by the container's process as its last act before `execve`. This module installs nothing.
//!
//! ```
//! use coracle_spawn::seccomp::{Action, ArgCond, Filter, FilterBuilder, Op};
//!
//! // What Docker gives a container without any capability.
//! let filter = Filter::docker_default(0);
//! assert_eq!(filter.as_bytes().len(), 8 * filter.len());
//!
//! // A list of one's own: everything is allowed but to trace others, and but sockets that aren't Unix sockets.
//! const AF_UNIX: u32 = 1;
//! let filter = FilterBuilder::new(Action::Allow)
//!     .rule("ptrace", Action::Errno(1))
//!     .rule_if("socket", &[ArgCond::int(0, Op::Ne, AF_UNIX)], Action::Errno(1))
//!     .build()?;
//! # assert!(filter.len() > 0);
//! # Ok::<(), coracle_spawn::seccomp::Error>(())
//! ```
//!
//! # Which answer a call gets
//!
//! - A call with a rule: the rule's action. `EPERM` where the profile has none for it.
//! - A number that no kernel up to 6.18 gives to a call: `ENOSYS`, so that a C library that tries a newer call takes its
//!   fallback. `clone3` too (without `CAP_SYS_ADMIN`): its flags lie behind a pointer, where no filter can read them, and
//!   every C library falls back to `clone`, whose flags are in a register.
//! - All ABIs of the machine are filtered: x86_64 with i386 and x32; aarch64 with arm. Any other ends the process.
//!   [`FilterBuilder::native_only`] closes the other ABIs.
//! - Arguments that the kernel takes as 32 bits are compared as 32 bits ([`ArgCond::int`]). A filter that compares 64 lets
//!   `socket(AF_VSOCK | 1 << 32, …)` by, which the kernel then cuts to `AF_VSOCK`.
//!
//! # Speed
//!
//! The calls of an ABI are cut into ranges of one answer, and the program is a balanced search over them; arguments are looked
//! at in leaves only. The default filter has some 260 instructions for three ABIs (75 for x86_64 alone), of which a plain call
//! meets at most 13; on Linux 5.11 and later an allowed call meets none, because the kernel proves at install time which
//! numbers are always allowed. Installing it takes 0.12–0.17 ms, of which 0.05 ms are any filter's; native-only 0.07–0.10 ms;
//! the same list as a row of comparisons (1957 instructions) 1.0–1.3 ms: medians of 50 fresh processes each, in random turn,
//! Linux 6.18, x86-64, two shared cores. Compiling takes some 80 µs, once for each set of capabilities.
//!
//! # What it does not do
//!
//! - Install a filter, supervise by `SECCOMP_RET_USER_NOTIF`, or trace.
//! - Read Docker's JSON profiles: `coracle-container` does, and makes a [`FilterBuilder`] of them.
//! - Look behind pointers: `socketcall` (i386) is one call for every socket call, its arguments lie in memory, and the profile
//!   allows it as Docker's does, since 32-bit glibc has no other. So i386 programs can open the socket families that are closed
//!   to the others. Where that matters: [`Filter::docker_default_native_only`].
//!
//! Needs Linux 4.14 (`SECCOMP_RET_KILL_PROCESS`, `SECCOMP_RET_LOG`), and `no_new_privs` or `CAP_SYS_ADMIN` to install. Sources:
//! seccomp(2), the kernel's `Documentation/userspace-api/seccomp_filter.rst`, and the profile of moby 28.

mod compile;
mod profile;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use compile::{Decision, Rule};

/// A compiled filter: an array of `struct sock_filter`. Cheap to clone; the same bytes are shared.
#[derive(Clone, PartialEq, Eq, Hash)]
#[must_use]
pub struct Filter {
    program: Arc<[u8]>,
}

impl Filter {
    /// Docker's default profile for this machine and for a container whose processes may have `capabilities`: bit *n* stands
    /// for the capability with number *n* of capabilities(7), so bit 21 is `CAP_SYS_ADMIN`.
    ///
    /// Capabilities open calls (`CAP_SYS_ADMIN`: `mount`, `unshare`, `clone3`, …; `CAP_SYS_CHROOT`: `chroot`) and never
    /// close one. Compiled once for each set, and kept for the life of the process.
    ///
    /// Two things differ from moby 28: sockets of `AF_ALG` and of families that the kernel has removed are refused beside
    /// `AF_VSOCK`, and arguments of 32 bits are compared as such.
    pub fn docker_default(capabilities: u64) -> Filter {
        Filter::docker_default_for(Architecture::NATIVE, capabilities)
    }

    /// [`docker_default`](Filter::docker_default), but a process that makes a call in another ABI than the machine's first
    /// (i386 on x86_64, arm on aarch64) is killed with `SIGSYS`, and numbers of x32 get `ENOSYS`.
    ///
    /// For programs that nobody trusts: it closes `socketcall`, and is much shorter (75 instructions rather than 260 on x86_64).
    pub fn docker_default_native_only(capabilities: u64) -> Filter {
        cached(Architecture::NATIVE, true, capabilities)
    }

    /// [`docker_default`](Filter::docker_default) for a named architecture: to look at, and to test.
    pub fn docker_default_for(architecture: Architecture, capabilities: u64) -> Filter {
        cached(architecture, false, capabilities)
    }

    /// The program: an array of `struct sock_filter` (8 bytes each: `u16` code, `u8` jt, `u8` jf, `u32` k) in the machine's
    /// byte order, which is little-endian on both architectures.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.program
    }

    /// The number of instructions, as `struct sock_fprog` wants it: 1 to 4096.
    #[allow(clippy::len_without_is_empty)] // A program has at least one instruction: the kernel refuses an empty one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.program.len() / compile::INSTRUCTION
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter").field("instructions", &self.len()).finish()
    }
}

pub(crate) fn compile_default(architecture: Architecture, native_only: bool, capabilities: u64) -> Filter {
    let mut builder = FilterBuilder::docker_default(capabilities);
    if native_only {
        builder = builder.native_only();
    }
    // Its names are in the table and its numbers in range: tests build it for every capability.
    builder.build_for(architecture).expect("the default profile compiles")
}

/// Finds or compiles the default profile.
///
/// Capabilities that the profile doesn't ask for are masked away first, so that a program that gives each container another
/// set still fills few slots. At most [`SLOTS`] are kept; beyond, the filter is compiled each time, in some tens of microseconds.
fn cached(architecture: Architecture, native_only: bool, capabilities: u64) -> Filter {
    const SLOTS: usize = 64;
    type Key = (Architecture, bool, u64);
    static CACHE: Mutex<Vec<(Key, Filter)>> = Mutex::new(Vec::new());

    let key = (architecture, native_only, capabilities & profile::CAPABILITIES_THAT_MATTER);
    // The list is only pushed to, so a panic elsewhere can't have left it broken.
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, filter)) = cache.iter().find(|(k, _)| *k == key) {
        return filter.clone();
    }
    let filter = match COMPILED {
        Some(program) if key == (Architecture::NATIVE, false, DOCKERS_CAPABILITIES & profile::CAPABILITIES_THAT_MATTER) => {
            Filter { program: program.into() }
        }
        _ => compile_default(architecture, native_only, key.2),
    };
    if cache.len() < SLOTS {
        cache.push((key, filter.clone()));
    }
    filter
}

/// What Docker leaves a container: [`CapabilitySet::docker_default`](crate::CapabilitySet::docker_default), for the build script too.
pub(crate) const DOCKERS_CAPABILITIES: u64 = 0xa804_25fb;

/// The default profile for these and this machine, as the build script compiled it; the build script itself has none.
const COMPILED: Option<&[u8]> = compiled();

#[cfg(not(coracle_filter_is_compiled))]
const fn compiled() -> Option<&'static [u8]> {
    None
}

#[cfg(coracle_filter_is_compiled)]
const fn compiled() -> Option<&'static [u8]> {
    Some(include_bytes!(concat!(env!("OUT_DIR"), "/default.bpf")))
}

/// The first number of those that all ABIs share.
const FIRST_COMMON: u32 = 423;

/// Whether some kernel up to 6.18 has a system call of this name.
#[must_use]
pub fn is_known(name: &str) -> bool {
    table::TABLE.binary_search_by_key(&name, |row| row.0).is_ok()
}

/// A machine that a filter is made for, with the ABIs that its kernel may offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Architecture {
    /// x86_64, with i386 and x32.
    X86_64,
    /// aarch64, with arm (EABI).
    Aarch64,
}

impl Architecture {
    /// The one that this program runs on.
    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: Architecture = Architecture::X86_64;
    /// The one that this program runs on.
    #[cfg(target_arch = "aarch64")]
    pub const NATIVE: Architecture = Architecture::Aarch64;
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("coracle-spawn knows the system calls of x86_64 and aarch64 only");

/// What happens to a system call: the `SECCOMP_RET_*` values of seccomp(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// The call is made.
    Allow,
    /// The call isn't made and fails with this errno, 1 to 4095. 0 makes it a silent success.
    Errno(u16),
    /// The whole process ends by `SIGSYS`.
    KillProcess,
    /// The calling thread gets a `SIGSYS` that it may handle.
    Trap,
    /// The call is made, and written to the audit log.
    Log,
}

/// How an argument is compared; unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// argument = value
    Eq,
    /// argument ≠ value
    Ne,
    /// argument < value
    Lt,
    /// argument ≤ value
    Le,
    /// argument > value
    Gt,
    /// argument ≥ value
    Ge,
    /// argument & mask = value, with this mask
    MaskedEq(u64),
}

/// A condition on one argument of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub struct ArgCond {
    index: u8,
    op: Op,
    value: u64,
    wide: bool,
}

impl ArgCond {
    /// On an argument that the kernel takes as 32 bits (`int`, `unsigned int`, `mode_t`, a descriptor): the upper half of
    /// the register is ignored, as the kernel ignores it. `index` counts from 0 to 5.
    pub const fn int(index: u8, op: Op, value: u32) -> ArgCond {
        ArgCond { index, op, value: value as u64, wide: false }
    }

    /// On an argument that the kernel takes as a whole register (`long`, `size_t`, a pointer). In a 32-bit ABI its upper half
    /// is zero. `index` counts from 0 to 5.
    pub const fn long(index: u8, op: Op, value: u64) -> ArgCond {
        ArgCond { index, op, value, wide: true }
    }
}

/// Describes a filter; [`build`](FilterBuilder::build) reports every mistake at once.
///
/// For one call: its conditional rules are tried in the order in which they were added, and the first whose conditions all
/// hold decides; else its last unconditional rule; else the default. A name means the call in every ABI that has it, and a
/// name that exists only in another architecture's ABIs is no mistake, so that one list serves both.
#[derive(Clone, Debug)]
#[must_use]
pub struct FilterBuilder {
    native_only: bool,
    /// All different decisions; 0 is the default's, 1 that of unknown numbers.
    decisions: Vec<Decision>,
    /// Which decision each row of the table has.
    by_row: Vec<usize>,
    unknown_names: Vec<String>,
    mistakes: Vec<Mistake>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Mistake {
    ArgumentIndex { syscall: String, index: u8 },
    Errno(u16),
}

impl FilterBuilder {
    /// A filter that answers `default` to every known call without a rule.
    ///
    /// Unknown numbers get `ENOSYS` where the default forbids, and the default where it allows; see
    /// [`unknown`](FilterBuilder::unknown).
    pub fn new(default: Action) -> FilterBuilder {
        let unknown = match default {
            Action::Allow | Action::Log => default,
            _ => Action::Errno(profile::ENOSYS),
        };
        FilterBuilder {
            native_only: false,
            decisions: vec![Decision::always(default), Decision::always(unknown)],
            by_row: vec![compile::DEFAULT; table::TABLE.len()],
            unknown_names: Vec::new(),
            mistakes: Vec::new(),
        }
        .check(default)
    }

    /// The rules of [`Filter::docker_default`], to add to.
    ///
    /// ```
    /// # use coracle_spawn::seccomp::{Action, FilterBuilder};
    /// // A sandbox that needs io_uring, and nobody to trace anybody.
    /// let filter = FilterBuilder::docker_default(0)
    ///     .allow(["io_uring_setup", "io_uring_enter", "io_uring_register"])
    ///     .rule("ptrace", Action::Errno(1))
    ///     .build()?;
    /// # assert!(filter.len() > 0);
    /// # Ok::<(), coracle_spawn::seccomp::Error>(())
    /// ```
    pub fn docker_default(capabilities: u64) -> FilterBuilder {
        profile::builder(capabilities)
    }

    /// The answer to numbers that no call has, today or to Coracle's knowledge.
    pub fn unknown(mut self, action: Action) -> Self {
        self.decisions[compile::UNKNOWN] = Decision::always(action);
        self.check(action)
    }

    /// Closes the other ABIs: a call in i386 or arm kills the process with `SIGSYS`; x32 numbers are unknown ones.
    pub fn native_only(mut self) -> Self {
        self.native_only = true;
        self
    }

    /// Allows these calls.
    pub fn allow<I, S>(mut self, names: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        for name in names {
            self = self.rule(name.as_ref(), Action::Allow);
        }
        self
    }

    /// Calls that are younger than the youngest that a rule names get `ENOSYS`, as unknown ones do, and programs take their fallback: what
    /// runc does with profiles that were written before.
    pub fn younger_are_unknown(mut self) -> Self {
        // The numbers of all ABIs are one since Linux 5.1; before, there is nothing to be younger than.
        let number = |row: usize| table::TABLE[row].1[0];
        let named = (0..table::TABLE.len()).filter(|&row| self.by_row[row] != compile::DEFAULT && number(row) != table::NONE);
        let Some(youngest) = named.map(number).max() else { return self };
        let unknown = self.decisions[compile::UNKNOWN].otherwise;
        for row in (0..table::TABLE.len()).filter(|&row| number(row) != table::NONE && number(row) > youngest.max(FIRST_COMMON)) {
            self = self.rule(table::TABLE[row].0, unknown);
        }
        self
    }

    /// The answer to this call, where none of its conditional rules decides.
    pub fn rule(mut self, name: &str, action: Action) -> Self {
        if let Some(row) = self.row(name) {
            let old = &self.decisions[self.by_row[row]];
            let new = Decision { rules: old.rules.clone(), otherwise: action };
            self.by_row[row] = self.intern(new);
        }
        self.check(action)
    }

    /// Forgets all rules of this call, the conditional ones too; the default answers it again.
    pub fn forget(mut self, name: &str) -> Self {
        if let Some(row) = self.row(name) {
            self.by_row[row] = compile::DEFAULT;
        }
        self
    }

    /// The answer to this call where **all** conditions hold. Add it twice for "or".
    pub fn rule_if(mut self, name: &str, conditions: &[ArgCond], action: Action) -> Self {
        for c in conditions.iter().filter(|c| c.index > 5) {
            self.mistakes.push(Mistake::ArgumentIndex { syscall: name.to_owned(), index: c.index });
        }
        if let Some(row) = self.row(name) {
            let mut new = self.decisions[self.by_row[row]].clone();
            new.rules.push(Rule { conditions: conditions.to_vec(), action });
            self.by_row[row] = self.intern(new);
        }
        self.check(action)
    }

    /// Compiles for this machine.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] lists all names that no kernel has and all values out of range;
    /// [`Error::TooLong`] where the program passes the kernel's 4096 instructions.
    pub fn build(&self) -> Result<Filter, Error> {
        self.build_for(Architecture::NATIVE)
    }

    /// Compiles for a named architecture.
    ///
    /// # Errors
    ///
    /// As [`build`](FilterBuilder::build).
    pub fn build_for(&self, architecture: Architecture) -> Result<Filter, Error> {
        if !self.unknown_names.is_empty() || !self.mistakes.is_empty() {
            let mut problems = Vec::new();
            if !self.unknown_names.is_empty() {
                problems.push(format!(
                    "no kernel up to 6.18 has the system call{} {}",
                    if self.unknown_names.len() == 1 { "" } else { "s" },
                    self.unknown_names.join(", ")
                ));
            }
            for mistake in &self.mistakes {
                problems.push(match mistake {
                    Mistake::ArgumentIndex { syscall, index } => {
                        format!("{syscall} has no argument {index}: they count from 0 to 5")
                    }
                    Mistake::Errno(errno) => format!("{errno} is no errno: they go to 4095"),
                });
            }
            return Err(Error::Invalid { unknown: self.unknown_names.clone(), problems });
        }
        let abis = compile::abis(architecture, self.native_only);
        let program = compile::program(abis, &self.by_row, &self.decisions);
        let length = program.len() / compile::INSTRUCTION;
        if length > compile::MAX_INSTRUCTIONS {
            return Err(Error::TooLong { length });
        }
        Ok(Filter { program: program.into() })
    }

    fn row(&mut self, name: &str) -> Option<usize> {
        match table::TABLE.binary_search_by_key(&name, |row| row.0) {
            Ok(row) => Some(row),
            Err(_) => {
                if !self.unknown_names.iter().any(|n| n == name) {
                    self.unknown_names.push(name.to_owned());
                }
                None
            }
        }
    }

    /// The index of an equal decision, or of this one, new. The first two are only ever the default's and the unknown's own:
    /// `unknown` may change later.
    fn intern(&mut self, decision: Decision) -> usize {
        let found = self.decisions.iter().skip(2).position(|d| *d == decision);
        let index = found.map_or(self.decisions.len(), |i| i + 2);
        if found.is_none() {
            self.decisions.push(decision);
        }
        index
    }

    fn check(mut self, action: Action) -> Self {
        if let Action::Errno(errno @ 4096..) = action {
            let mistake = Mistake::Errno(errno);
            if !self.mistakes.contains(&mistake) {
                self.mistakes.push(mistake);
            }
        }
        self
    }
}

/// Why a filter can't be made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The description names what doesn't exist.
    #[non_exhaustive]
    Invalid {
        /// The names that no kernel has, in the order in which they came.
        unknown: Vec<String>,
        /// Each problem as a sentence; all names are in the first.
        problems: Vec<String>,
    },
    /// The program is longer than the kernel takes.
    #[non_exhaustive]
    TooLong {
        /// Its length in instructions.
        length: usize,
    },
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Error::Invalid { unknown, .. } => {
                let near: Vec<String> = unknown.iter().filter_map(|name| similar(name)).collect();
                (!near.is_empty()).then(|| near.join("; "))
            }
            Error::TooLong { .. } => Some("give fewer rules with conditions, or close the other ABIs with native_only()".into()),
        }
    }
}

/// `did you mean …?` for a name in capitals, with a prefix of the kernel's, or with one letter wrong.
fn similar(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    let bare = ["sys_", "__nr_", "nr_", "scmp_sys_"].iter().find_map(|p| lower.strip_prefix(p)).unwrap_or(&lower);
    let found = table::TABLE.iter().map(|row| row.0).find(|known| *known == bare);
    let found = found.or_else(|| table::TABLE.iter().map(|row| row.0).find(|known| one_letter_apart(known, bare)))?;
    Some(format!("did you mean {found} for {name}?"))
}

/// Equal but for one letter more, less or different.
fn one_letter_apart(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len().abs_diff(b.len()) > 1 {
        return false;
    }
    let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let skip = |s: &[u8], n: usize| s.get(n..).unwrap_or_default().to_vec();
    let next = same + 1;
    skip(a, next) == skip(b, next) || skip(a, next) == skip(b, same) || skip(a, same) == skip(b, next)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Invalid { problems, .. } => {
                write!(f, "can't make a seccomp filter: {}", problems.join("; "))
            }
            Error::TooLong { length } => {
                write!(f, "can't make a seccomp filter: it has {length} instructions, and the kernel takes {}", compile::MAX_INSTRUCTIONS)
            }
        }
    }
}

impl std::error::Error for Error {}
