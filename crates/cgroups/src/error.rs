//! What can go wrong, as sentences, with the remedy apart.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::limits::{Control, ParseMemoryError};
use crate::plan::{Purpose, Step};

/// What can go wrong; variants by what a caller may decide.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Limits that were asked for can't be enforced; nothing was touched. All of them are listed.
    Refused(Vec<Refusal>),
    /// The name for the cgroup isn't one.
    Name {
        /// The name.
        given: String,
    },
    /// A size couldn't be read.
    Memory(ParseMemoryError),
    /// A step of a plan failed; the steps before it were undone.
    Step {
        /// The step.
        step: Step,
        /// Why.
        source: io::Error,
        /// What undoing could not remove.
        left: Vec<PathBuf>,
    },
    /// Something else on a file failed.
    Io {
        /// What was attempted: "read", "write", "remove" …
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The cgroup did not become empty, frozen or removable in time.
    Busy {
        /// What was waited for.
        action: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
        /// The processes that are still there.
        pids: Vec<u32>,
    },
    /// Processes of another pid namespace stand in a cgroup; they can't be named, so not moved.
    Foreign {
        /// The cgroup.
        path: PathBuf,
    },
}

impl Error {
    /// What a person can do about it, where that is known.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Error::Refused(refusals) => {
                let mut remedies: Vec<String> = refusals.iter().filter_map(Refusal::remedy).collect();
                remedies.dedup();
                (!remedies.is_empty()).then(|| remedies.join("; "))
            }
            Error::Name { .. } => {
                Some("use 1 to 200 of the characters a-z, A-Z, 0-9, '_', '.' and '-', and begin with a letter or digit".into())
            }
            Error::Memory(error) => error.remedy(),
            Error::Step { step, source, .. } => step_remedy(step, source),
            Error::Busy { .. } => {
                Some("kill the cgroup first; a process in uninterruptible sleep (state D in ps) holds it until its I/O ends".into())
            }
            Error::Foreign { .. } => Some("move them from the outermost pid namespace, or run in a cgroup of your own".into()),
            Error::Io { .. } => None,
        }
    }
}

fn step_remedy(step: &Step, source: &io::Error) -> Option<String> {
    let errno = rustix::io::Errno::from_io_error(source)?;
    Some(match (step, errno) {
        (Step::MakeDir(_), rustix::io::Errno::EXIST) => {
            "another container has this id; choose another, or remove what a crash left behind".into()
        }
        (Step::MakeDir(_), rustix::io::Errno::AGAIN) => {
            "cgroup.max.descendants or cgroup.max.depth of a cgroup above is reached; raise it, or remove cgroups".into()
        }
        (Step::Write { what: Purpose::Controllers, .. }, rustix::io::Errno::BUSY) => MAKE_ROOM.into(),
        (Step::Write { what: Purpose::Limit(Control::Cpu), .. }, rustix::io::Errno::NOENT | rustix::io::Errno::ACCESS) => {
            "this kernel has no CPU bandwidth control; build it with CONFIG_CFS_BANDWIDTH, or use cpu-weight".into()
        }
        (Step::Write { what: Purpose::Limit(Control::Swap), .. }, rustix::io::Errno::NOENT | rustix::io::Errno::ACCESS) => {
            "this kernel doesn't account swap; boot it with swapaccount=1, or leave swap out".into()
        }
        (Step::Write { what: Purpose::Limit(Control::Cpu), .. }, rustix::io::Errno::INVAL) => {
            "a cgroup above allows less; ask for fewer cpus".into()
        }
        _ => return None,
    })
}

/// What helps where processes of ours block controllers.
const MAKE_ROOM: &str =
    "call Placement::make_room, which moves this cgroup's processes into a leaf of it, or start the program in a cgroup below";

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused(refusals) => {
                let texts: Vec<String> = refusals.iter().map(ToString::to_string).collect();
                f.write_str(&texts.join("; "))
            }
            Error::Name { given } => write!(f, "{given:?} can't name a cgroup"),
            Error::Memory(error) => error.fmt(f),
            Error::Step { step, source, left } => {
                write!(f, "{step}: {}", errno(source))?;
                for path in left {
                    write!(f, " (and {} could not be removed)", path.display())?;
                }
                Ok(())
            }
            Error::Io { action, path, source } => write!(f, "{action} {}: {}", path.display(), errno(source)),
            Error::Busy { action, path, after, pids } => {
                write!(f, "{action} {}: still not done after {after:?}", path.display())?;
                match pids.as_slice() {
                    [] => Ok(()),
                    pids => write!(f, ", processes {pids:?} are in it"),
                }
            }
            Error::Foreign { path } => write!(f, "move the processes of {}: some belong to another pid namespace", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Step { source, .. } | Error::Io { source, .. } => Some(source),
            Error::Memory(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ParseMemoryError> for Error {
    fn from(error: ParseMemoryError) -> Error {
        Error::Memory(error)
    }
}

/// One limit that can't be enforced here, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// Which.
    pub control: Control,
    /// What was asked for, as a user writes it: `memory=64m`.
    pub asked: String,
    /// Why not.
    pub reason: Reason,
}

impl Refusal {
    /// What a person can do about it, where that is known.
    pub fn remedy(&self) -> Option<String> {
        self.reason.remedy()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "can't enforce {}: {}", self.asked, self.reason)
    }
}

/// Why a limit can't be enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The value is one that this machine doesn't accept.
    OutOfRange {
        /// What is accepted.
        accepted: String,
    },
    /// The machine mounts no hierarchy with the controller, or the kernel hasn't got it.
    NoController {
        /// The controller.
        controller: &'static str,
    },
    /// The cgroup file system is mounted read-only, as in a container without privileges.
    ReadOnly {
        /// Where it is mounted.
        path: PathBuf,
    },
    /// The cgroup belongs to somebody else.
    NotDelegated {
        /// The controller that is needed.
        controller: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// The directory or file in it that this user may not write.
        file: PathBuf,
    },
    /// The cgroup is ours, but whoever gave it kept the controller back.
    ControllerWithheld {
        /// The controller.
        controller: &'static str,
        /// The cgroup.
        path: PathBuf,
    },
    /// Processes in the cgroup itself keep the kernel from enabling controllers below it (cgroups(7), "no internal
    /// processes"). [`Placement::make_room`](crate::Placement::make_room) moves them.
    ProcessesInTheWay {
        /// The cgroup.
        path: PathBuf,
        /// How many.
        processes: usize,
    },
    /// The cgroup is threaded; domain controllers don't work below it.
    Threaded {
        /// The cgroup.
        path: PathBuf,
    },
    /// The path that was given isn't a cgroup of the hierarchy.
    NoSuchCgroup {
        /// The directory that was looked for.
        path: PathBuf,
    },
    /// The mount doesn't show the cgroup of this process, so nothing below it can be made.
    Hidden {
        /// Where the hierarchy is mounted.
        path: PathBuf,
    },
    /// The kernel doesn't account swap.
    NoSwapAccounting,
    /// v1 knows only the sum of memory and swap, so a bound on swap needs one on memory.
    SwapNeedsMemory,
    /// cgroup v1 has nothing that does it.
    NotOnV1,
    /// On cgroup v2 a program decides, and whoever performs the plan loads none.
    ByProgram,
    /// Only root may, whoever owns the cgroup.
    NeedsRoot,
    /// The cgroup belongs to somebody else, in a v1 hierarchy, where nobody delegates anything.
    NotDelegatedOnV1 {
        /// The controller that is needed.
        controller: &'static str,
        /// The cgroup.
        path: PathBuf,
    },
    /// A limit is to be set anew that the container wasn't started with.
    NotStartedWith,
}

impl Reason {
    /// What a person can do about it, where that is known.
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Reason::OutOfRange { accepted } => format!("ask for {accepted}"),
            Reason::NoController { controller: "memory" } => {
                "mount the memory controller; some distributions disable it: boot with cgroup_enable=memory".into()
            }
            Reason::NoController { controller } => {
                format!("mount a cgroup hierarchy with the controller {controller}, or leave the limit out")
            }
            Reason::ReadOnly { .. } => {
                "start the outer container with its cgroups writable: docker run --security-opt writable-cgroups=true (Docker 28), \
                 podman run --security-opt unmask=/sys/fs/cgroup, or --privileged"
                    .into()
            }
            Reason::NotOnV1 => "boot with cgroup v2: systemd.unified_cgroup_hierarchy=1; or leave the limit out".into(),
            Reason::ByProgram => "attach Plan::device_filter, as coracle-spawn's Effect::DeviceFilter does".into(),
            Reason::NeedsRoot => "run as root, or leave it out".into(),
            Reason::NotDelegatedOnV1 { .. } => {
                "boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1), where systemd delegates; or have root make a cgroup of yours in the \
                 hierarchy of each limit, and give its path"
                    .into()
            }
            Reason::NotDelegated { .. } => "systemd-run --user --scope -p Delegate=yes -- cargo test".into(),
            Reason::ControllerWithheld { controller, path } if path.to_string_lossy().contains("/user@") => format!(
                "as root: systemctl edit user@.service, add [Service] Delegate=cpu cpuset io memory pids, and log in again (for {controller})"
            ),
            Reason::ControllerWithheld { controller, path } => {
                format!("as its owner: write +{controller} to cgroup.subtree_control of the cgroup above {}", path.display())
            }
            Reason::ProcessesInTheWay { .. } => MAKE_ROOM.into(),
            Reason::Threaded { .. } => "give a cgroup whose cgroup.type is \"domain\"".into(),
            Reason::NoSuchCgroup { path } => format!("mkdir {}, or give another path", path.display()),
            Reason::Hidden { .. } => {
                "give the path of a cgroup that is visible here, or mount the cgroup file system anew in this cgroup namespace".into()
            }
            Reason::NoSwapAccounting => "boot the kernel with swapaccount=1, or leave swap out".into(),
            Reason::SwapNeedsMemory => "limit memory too".into(),
            Reason::NotStartedWith => "give it a wide limit when it is started, and narrow that".into(),
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::OutOfRange { accepted } => write!(f, "out of range, accepted is {accepted}"),
            Reason::NoController { controller } => write!(f, "no mounted cgroup hierarchy has the controller {controller}"),
            Reason::ReadOnly { path } => write!(f, "{} is mounted read-only", path.display()),
            Reason::NotDelegated { path, file, .. } if path == file => {
                write!(f, "{} isn't delegated to this user (it may not make cgroups in it)", path.display())
            }
            Reason::NotDelegated { path, file, .. } => write!(
                f,
                "{} isn't delegated to this user (it may not write {})",
                path.display(),
                file.file_name().unwrap_or_default().to_string_lossy()
            ),
            Reason::NotOnV1 => f.write_str("cgroup v1 has nothing that does it"),
            Reason::ByProgram => f.write_str("on cgroup v2 a program decides about devices, and this crate loads none"),
            Reason::NeedsRoot => f.write_str("only root may attach a program to a cgroup"),
            Reason::NotDelegatedOnV1 { path, .. } => {
                write!(f, "{} isn't delegated to this user, as nothing is on cgroup v1", path.display())
            }
            Reason::ControllerWithheld { controller, path } => write!(f, "{} was not given the controller {controller}", path.display()),
            Reason::ProcessesInTheWay { path, processes } => write!(
                f,
                "{processes} {} in {} itself, and the kernel enables controllers only below a cgroup without processes",
                if *processes == 1 { "process is" } else { "processes are" },
                path.display()
            ),
            Reason::Threaded { path } => write!(f, "{} is a threaded cgroup", path.display()),
            Reason::NoSuchCgroup { path } => write!(f, "there is no cgroup {}", path.display()),
            Reason::Hidden { path } => write!(f, "the cgroup of this process isn't visible below {}", path.display()),
            Reason::NoSwapAccounting => f.write_str("this kernel doesn't account swap"),
            Reason::NotStartedWith => f.write_str("it was started without this limit, and one can't be added to what runs"),
            Reason::SwapNeedsMemory => f.write_str("cgroup v1 bounds only memory and swap together, and memory has no limit"),
        }
    }
}

/// A system call's error by its name, as people search for it.
fn errno(error: &io::Error) -> String {
    use rustix::io::Errno;
    let name = match Errno::from_io_error(error) {
        Some(Errno::PERM) => "EPERM",
        Some(Errno::NOENT) => "ENOENT",
        Some(Errno::SRCH) => "ESRCH",
        Some(Errno::AGAIN) => "EAGAIN",
        Some(Errno::NOMEM) => "ENOMEM",
        Some(Errno::ACCESS) => "EACCES",
        Some(Errno::BUSY) => "EBUSY",
        Some(Errno::EXIST) => "EEXIST",
        Some(Errno::NODEV) => "ENODEV",
        Some(Errno::NOTDIR) => "ENOTDIR",
        Some(Errno::INVAL) => "EINVAL",
        Some(Errno::NOSPC) => "ENOSPC",
        Some(Errno::ROFS) => "EROFS",
        Some(Errno::RANGE) => "ERANGE",
        Some(Errno::OPNOTSUPP) => "EOPNOTSUPP",
        _ => return error.to_string(),
    };
    format!("{name} ({})", error.to_string().split(" (os error").next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_sentence_and_its_remedy_a_command() {
        let path = PathBuf::from("/sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope");
        let reason = Reason::NotDelegated { controller: "memory", file: path.join("cgroup.procs"), path };
        let error = Error::Refused(vec![Refusal { control: Control::Memory, asked: "memory=64m".into(), reason }]);
        assert_eq!(
            error.to_string(),
            "can't enforce memory=64m: /sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope isn't delegated to this user \
             (it may not write cgroup.procs)"
        );
        assert_eq!(error.remedy().unwrap(), "systemd-run --user --scope -p Delegate=yes -- cargo test");
    }

    #[test]
    fn a_failed_step_names_the_call_the_file_and_the_errno() {
        let step = Step::Write {
            path: "/sys/fs/cgroup/cpu/coracle-x/cpu.cfs_quota_us".into(),
            value: "50000".into(),
            what: Purpose::Limit(Control::Cpu),
            if_missing: crate::plan::IfMissing::Fail,
        };
        let error = Error::Step { step, source: io::Error::from_raw_os_error(22), left: vec![] };
        assert_eq!(
            error.to_string(),
            "write \"50000\" to /sys/fs/cgroup/cpu/coracle-x/cpu.cfs_quota_us (limit cpus): EINVAL (Invalid argument)"
        );
        assert_eq!(error.remedy().unwrap(), "a cgroup above allows less; ask for fewer cpus");
    }
}
