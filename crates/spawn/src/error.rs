//! What can go wrong, as sentences; the remedy apart.

use crate::client::Failed;
use crate::connect::ConnectFault;
use crate::namespaces::{known_restriction, why_no_user_namespaces};
use crate::plan::Plan;
use crate::wire::{cause, stage};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a command couldn't be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExecFault {
    /// There is no such program. Docker's exit code for it is 127.
    NotFound {
        /// Where it was looked for, if it has no slash.
        searched: Option<String>,
    },
    /// The file is there; the kernel doesn't execute it. Docker's exit code for it is 126.
    NotExecutable {
        /// The file.
        path: String,
    },
    /// The file is there; what its first line or its ELF header asks for isn't. Docker's exit code for it is 127.
    MissingInterpreter {
        /// What is missing.
        interpreter: String,
    },
    /// Anything else, as the kernel says it.
    Other {
        /// The file.
        path: String,
        /// The number of the error.
        errno: i32,
    },
}

/// What can go wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The description can't be carried out; all that is wrong with it.
    Invalid {
        /// One sentence each.
        problems: Vec<String>,
    },
    /// The supervisor couldn't be started or spoken to.
    Supervisor {
        /// What was tried.
        attempted: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Nobody answers at a run's socket.
    Attach {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One step failed; all before it were taken back.
    Step {
        /// The step: `mount proc on /proc`.
        step: String,
        /// What the kernel or a helper said beyond the number.
        detail: Option<String>,
        /// The number of the error.
        errno: i32,
        /// Whether it happened inside a user namespace.
        user_namespace: bool,
    },
    /// This host makes no user namespaces for this user.
    NoUserNamespaces {
        /// Why.
        why: String,
        /// What to do, where it is known.
        remedy: Option<String>,
        /// The number of the error.
        errno: i32,
    },
    /// The container's /etc/passwd or /etc/group has no such name.
    UnknownUser {
        /// `user` or `group`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// An id that isn't mapped in the process's user namespace.
    UnmappedId {
        /// The id, or the file that belongs to it.
        id: String,
    },
    /// The files of a [mount](crate::Mount::owned_by) can't belong to this user inside: in a user namespace only root is the caller.
    NotTheCaller {
        /// Who it is inside.
        user: String,
    },
    /// The file system doesn't know mounts with other owners.
    NoOtherOwners {
        /// What was to be mounted.
        path: String,
    },
    /// The command couldn't be executed.
    Exec {
        /// The command.
        program: String,
        /// Why.
        fault: ExecFault,
    },
    /// The process was killed before the command was executed.
    Killed,
    /// The supervisor was killed, and the process with it: how it ended isn't known.
    Lost,
    /// Nothing was connected inside.
    Connect {
        /// What was to be: `port 5432`, or a path.
        to: String,
        /// Why it isn't.
        fault: ConnectFault,
    },
    /// Nothing can be executed in a process that has ended, nor opened.
    Ended,
    /// The supervisor is of a version of this crate that can't do this.
    Unsupported {
        /// What.
        what: &'static str,
    },
}

/// `Operation not permitted (EPERM)`.
pub(crate) fn errno_text(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default().to_owned();
    let name = match errno {
        1 => "EPERM",
        2 => "ENOENT",
        5 => "EIO",
        7 => "E2BIG",
        8 => "ENOEXEC",
        11 => "EAGAIN",
        12 => "ENOMEM",
        13 => "EACCES",
        16 => "EBUSY",
        17 => "EEXIST",
        19 => "ENODEV",
        20 => "ENOTDIR",
        21 => "EISDIR",
        22 => "EINVAL",
        23 => "ENFILE",
        24 => "EMFILE",
        26 => "ETXTBSY",
        28 => "ENOSPC",
        30 => "EROFS",
        36 => "ENAMETOOLONG",
        38 => "ENOSYS",
        40 => "ELOOP",
        71 => "EPROTO",
        75 => "EOVERFLOW",
        87 => "EUSERS",
        122 => "EDQUOT",
        _ => return format!("{text} (errno {errno})"),
    };
    format!("{text} ({name})")
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { problems } => write!(f, "can't run this: {}", problems.join("; ")),
            Self::Supervisor { attempted, source } => write!(f, "can't {attempted}: {source}"),
            Self::Attach { path, source } => write!(f, "nobody answers at {}: {source}", path.display()),
            Self::Step { step, detail: Some(detail), errno, .. } => write!(f, "can't {step}: {detail}: {}", errno_text(*errno)),
            Self::Step { step, detail: None, errno, .. } => write!(f, "can't {step}: {}", errno_text(*errno)),
            Self::NoUserNamespaces { why, .. } => write!(f, "can't make a user namespace: {why}"),
            Self::UnknownUser { what, name } => {
                write!(f, "no {what} {name:?} in the root's /etc/{}", if *what == "user" { "passwd" } else { "group" })
            }
            Self::UnmappedId { id } => write!(f, "{id}: this id isn't mapped in the user namespace"),
            Self::NotTheCaller { user } => {
                write!(
                    f,
                    "files can't be the user's {user:?} inside and the caller's outside: in a plain user's container root alone is the caller"
                )
            }
            Self::NoOtherOwners { path } => write!(f, "the file system of {path} can't be mounted with other owners (idmapped mounts)"),
            Self::Exec { program, fault } => match fault {
                ExecFault::NotFound { searched: Some(path) } => write!(f, "command not found: {program} (searched PATH {path})"),
                ExecFault::NotFound { searched: None } => write!(f, "command not found: {program}"),
                ExecFault::NotExecutable { path } => write!(f, "{path} is there but can't be executed"),
                ExecFault::MissingInterpreter { interpreter } => {
                    write!(f, "{program} is there, but the interpreter it needs isn't: {interpreter}")
                }
                ExecFault::Other { path, errno } => write!(f, "can't execute {path}: {}", errno_text(*errno)),
            },
            Self::Killed => f.write_str("the process was killed before its command was executed"),
            Self::Connect { to, fault } => write!(f, "can't connect to {to} inside: {fault}"),
            Self::Ended => f.write_str("it has ended, and nothing can be executed in it"),
            Self::Unsupported { what } => write!(f, "it was started by another version of Coracle, whose supervisor can't {what}"),
            Self::Lost => f.write_str("the supervisor was killed, and what it watched with it; how that ended isn't known"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Supervisor { source, .. } | Self::Attach { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Error {
    /// What to do about it, where that is known.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::NoUserNamespaces { remedy, .. } => remedy.clone(),
            Self::Exec { fault: ExecFault::NotExecutable { .. }, .. } => {
                Some("give it execute permission (chmod +x), or name a program of this machine's architecture".into())
            }
            Self::Exec { fault: ExecFault::MissingInterpreter { interpreter }, .. } if interpreter.ends_with('\r') => {
                Some("the first line ends in a carriage return: save the script with Unix line ends".into())
            }
            Self::Exec { fault: ExecFault::MissingInterpreter { interpreter }, .. } if interpreter.contains("ld-linux") => {
                Some("the program was built for glibc and this root has another libc: use an image with glibc, or link it statically".into())
            }
            Self::Exec { fault: ExecFault::MissingInterpreter { .. }, .. } => Some("install the interpreter in the image, or name one that is there".into()),
            Self::Exec { fault: ExecFault::NotFound { .. }, .. } => Some("name the program by its full path in the image, or install it there".into()),
            Self::Connect { fault: ConnectFault::HostNetwork, to } => {
                Some(format!("connect to {to} of 127.0.0.1, as to any port of this machine, or give it a network of its own"))
            }
            Self::Connect { fault: ConnectFault::Refused, .. } => {
                Some("wait until it listens, on loopback or on all addresses".into())
            }
            Self::Unsupported { .. } => Some("start it again with this version, or ask with that one".into()),
            Self::UnknownUser { .. } => Some("name a user by number, or add it to the image".into()),
            Self::NotTheCaller { .. } => Some("run the command as root inside, who is the caller outside; or run this as root".into()),
            Self::NoOtherOwners { .. } => {
                Some("keep the files on ext4, XFS or Btrfs; or run the command as the user whose number the caller has outside".into())
            }
            Self::UnmappedId { .. } => {
                Some("give your user sub-ids: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER (and install newuidmap: package uidmap)".into())
            }
            Self::Step { errno: 1 | 13, user_namespace: true, .. } => known_restriction()?.1,
            Self::Step { errno: 1, user_namespace: false, .. } => Some("run as root, or give it an id map, which makes a user namespace".into()),
            Self::Supervisor { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("allow programs in memfds: sudo sysctl -w vm.memfd_noexec=0".into())
            }
            _ => None,
        }
    }

    pub(crate) fn bad_user(words: &str) -> Self {
        Self::Invalid { problems: vec![format!("{words:?} is no user: name or number, and after a colon a group's name or number")] }
    }

    /// What a supervisor's answer means.
    pub(crate) fn from_failed(failed: &Failed, plan: &Plan) -> Self {
        let detail = String::from_utf8_lossy(&failed.detail).into_owned();
        let user_namespace = plan.has_user_namespace();
        let step =
            |step: String| Self::Step { step, detail: (!detail.is_empty()).then(|| detail.clone()), errno: failed.errno, user_namespace };
        match (failed.stage, failed.cause) {
            (_, cause::UNKNOWN_USER) => Self::UnknownUser { what: "user", name: detail },
            (_, cause::UNKNOWN_GROUP) => Self::UnknownUser { what: "group", name: detail },
            (_, cause::BAD_USER) => Self::bad_user(&detail),
            (_, cause::UNMAPPED_ID) => Self::UnmappedId { id: detail },
            (_, cause::NOT_THE_CALLER) => Self::NotTheCaller { user: detail },
            (_, cause::NO_OTHER_OWNERS) => Self::NoOtherOwners { path: detail },
            (stage::STEP, _) if failed.index == u32::MAX => Self::Killed,
            (stage::EXEC, _) => {
                Self::Exec { program: plan.program(), fault: ExecFault::new(failed, &plan.program(), || plan.search_path()) }
            }
            (stage::CLONE, _) if user_namespace && matches!(failed.errno, 1 | 13 | 28 | 87) => {
                let (why, remedy) = why_no_user_namespaces();
                Self::NoUserNamespaces { why, remedy, errno: failed.errno }
            }
            (stage::CLONE, _) => step("make the process's namespaces".into()),
            (stage::NETWORK, _) => step(plan.describe_network(failed.index)),
            (stage::ATTENDANT, _) => step("start an attendant, which relays published ports or answers names".into()),
            (stage::ID_MAP, _) => step("map ids into the user namespace".into()),
            (stage::CGROUP, _) => step("put the process into its cgroup".into()),
            (stage::LOG, _) => step("keep what it says in a file".into()),
            (stage::LISTEN, _) => step("listen in the run directory".into()),
            (stage::PREPARE, _) => step(plan.describe_effect(failed.index as usize)),
            (stage::STEP, _) if user_namespace && failed.errno == 1 && apparmor_restricts() => {
                // Ubuntu lets the namespace be made and then takes its capabilities away.
                let (why, remedy) = why_no_user_namespaces();
                Self::NoUserNamespaces { why, remedy, errno: failed.errno }
            }
            (stage::STEP, cause::NOT_THE_DEVICE) => {
                step(format!("{}: it isn't that device on this host", plan.describe_step(failed.index as usize)))
            }
            (stage::STEP, cause::WRONG_KIND) => {
                step(format!("{}: part of the path is a symlink", plan.describe_step(failed.index as usize)))
            }
            (stage::STEP, cause::OUTSIDE_ROOT) => step(format!("{}: it is outside the root", plan.describe_step(failed.index as usize))),
            (stage::STEP, _) => step(plan.describe_step(failed.index as usize)),
            _ => step("read the plan".into()),
        }
    }
}

fn apparmor_restricts() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").is_ok_and(|s| s.trim() == "1")
}

impl ExecFault {
    /// What a supervisor's answer means. `path` is where a name without a slash was looked for.
    pub(crate) fn new(failed: &Failed, program: &str, path: impl FnOnce() -> String) -> Self {
        const ENOENT: i32 = 2;
        const ENOTDIR: i32 = 20;
        const EACCES: i32 = 13;
        const ENOEXEC: i32 = 8;
        let detail = String::from_utf8_lossy(&failed.detail).into_owned();
        let searched = path;
        let path = if detail.is_empty() { program.to_owned() } else { detail.clone() };
        match failed.errno {
            _ if failed.cause == cause::MISSING_INTERPRETER => Self::MissingInterpreter { interpreter: detail },
            ENOENT | ENOTDIR => Self::NotFound { searched: (!program.contains('/')).then(searched) },
            EACCES | ENOEXEC => Self::NotExecutable { path },
            errno => Self::Other { path, errno },
        }
    }
}
