//! Linux control groups for one container: limits, accounting, freezing, killing, on cgroup v2, hybrid and v1.
//!
//! The nouns, in the order in which a program meets them:
//!
//! | noun | is | touches |
//! |---|---|---|
//! | [`Limits`] | what is wanted: memory, swap, cpus, pids … | nothing |
//! | [`Hierarchies`] | what this machine mounts, and where this process is in it | reads `/proc/self/{mountinfo,cgroup}` |
//! | [`Placement`] | where the container's cgroup may live, and for each limit whether it can be enforced there | reads the cgroup file systems |
//! | [`Plan`] | every directory, every write, and how to kill, measure and remove, as data | nothing |
//! | [`Cgroup`] | a plan that was performed in this process | writes |
//! | [`Usage`], [`Events`] | what was consumed, and which limits were hit | nothing: parsed from raw bytes |
//!
//! A program that has another process do the work (Coracle's supervisor does) stops at [`Plan`] and sends it there;
//! who uses the crate alone hands the plan to [`Cgroup::create`].
//!
//! ```
//! use coracle_cgroups::{Hierarchies, Limits, Owner, Placement, parse_memory};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let limits = Limits::new().memory(parse_memory("256m")?).pids(64);
//! let placement = Placement::decide(&Hierarchies::detect()?, &Owner::current(), &limits);
//! for refusal in placement.refused() {
//!     // "can't enforce pids=64: /sys/fs/cgroup/… isn't delegated to this user …", and what to do about it.
//!     eprintln!("{refusal}; {}", refusal.remedy().unwrap_or_default());
//! }
//! # Ok(()) }
//! ```
//!
//! # The tree
//!
//! ```text
//! coracle-<id>/          limits; never holds a process
//! coracle-<id>/main      the container; the limits again, since JVMs and Go read them at their cgroup root
//! coracle-<id>/exec-N    further commands, one each: killed and accounted alone
//! ```
//!
//! The tree stands in the cgroup2 hierarchy, also on hybrid machines, where cgroup2 holds no useful controllers but still
//! gives kill, freeze, events, cpu times and `CLONE_INTO_CGROUP`. In v1 hierarchies there is one directory
//! `coracle-<id>`, and only in those whose controller was asked for: each costs a directory, and an attach.
//!
//! # Limits fail closed
//!
//! [`Placement::plan`] is an error when a limit that was asked for can't be enforced, unless [`Placement::best_effort`]
//! waived that very control. [`Plan::enforced`] says what holds, and by which file.
//!
//! # Privileges and kernels
//!
//! Root, or a plain user in a delegated cgroup2 subtree. Linux 5.2 for the cgroup2 freezer, 5.7 for `CLONE_INTO_CGROUP`,
//! 5.14 for `cgroup.kill` (before it: freeze, kill each, thaw), 5.19 for `memory.peak`, 6.12 for `pids.peak`.
//! See cgroups(7) and the kernel's `Documentation/admin-guide/cgroup-v2.rst`.
//!
//! # What it does not do
//!
//! - It asks systemd for nothing: no scope over the bus. Start the program in a delegated scope, or give a path.
//! - It creates no process, and knows nothing of namespaces or images.
//! - It writes nowhere but below the directory it was given or chose, with one exception: on cgroup2 it enables the
//!   controllers that are needed in that directory's own `cgroup.subtree_control`, and leaves them enabled.
//!   (And [`Placement::make_room`], which moves processes, and which nobody calls but you.)
//! - It mounts no cgroup file system, and never joins a v1 hierarchy that wasn't asked for.
//! - It limits no RDMA. The program that decides about devices on cgroup2 is data here: it loads none.
//! - Nothing is removed in `Drop`.
#![forbid(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("coracle-cgroups is about Linux control groups; there is nothing it could do on another system");

mod cgroup;
mod delegation;
mod devices;
mod error;
mod events;
mod hierarchy;
mod limits;
mod live;
mod parse;
mod plan;
mod usage;

pub use cgroup::Cgroup;
pub use delegation::{LEAF, Owner, Placement};
pub use devices::{DeviceRule, ParseDeviceRuleError, device_program};
pub use error::{Error, Reason, Refusal};
pub use events::Events;
pub use hierarchy::{Hierarchies, Mount, Version};
pub use limits::{Control, IoBound, IoLimit, Limits, ParseMemoryError, parse_memory};
pub use live::{Current, Live};
pub use plan::{Enforced, IfMissing, Plan, Purpose, Step};
pub use usage::{Stat, Usage};

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
