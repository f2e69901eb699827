//! Containers that a program carries inside itself: describe, plan, perform.
//!
//! - [`Container::from_image`] and its siblings begin a [`ContainerBuilder`]: plain data, setters never fail.
//! - [`output`](ContainerBuilder::output), [`status`](ContainerBuilder::status), [`spawn`](ContainerBuilder::spawn) and
//!   [`run`](ContainerBuilder::run) end it. All that is wrong with a description is reported at once, before anything happens.
//! - [`Container::exec`] begins an [`ExecBuilder`], one more command in a container that runs, with the same ends.
//! - [`Container::connect`] talks to a port inside, without a port on the host and without any network.
//! - [`Container::copy_to`], [`Container::copy_from`] and [`Container::fs`] reach its files; [`ContainerBuilder::copy_in`] puts some in before the
//!   start.
//! - [`Wait`] says when a container is ready, which [`run`](ContainerBuilder::run) waits for.
//! - [`Container::commit`], [`diff`](Container::diff), [`export`](Container::export): what a container changed as an image, as a list, and
//!   all that it sees. [`Container::snapshot`] keeps it for others to be started from.
//! - [`Container`] runs. Dropping it ends it, and so does the death of this process, by whatever means.
//! - [`Network`] says where a container is: nowhere, in a private network, or where this process is. [`publish`](ContainerBuilder::publish)
//!   answers its ports on this host.
//! - [`Stack`] runs several that belong together: services, jobs and steps. [`ContainerBuilder::shared`] gives one to many processes.
//! - [`blocking`] has the same names for who has no runtime and wants none.
//! - [`Engine`] holds images and running containers below one directory; whoever says nothing gets one a process. It pulls, lists,
//!   inspects, tags, removes, prunes, checks, saves and loads images.
//!
//! ```no_run
//! # async fn f() -> Result<(), coracle_container::Error> {
//! use coracle_container::Container;
//!
//! let out = Container::from_image("localhost:5000/debian:12")
//!     .cmd(["sh", "-c", "id -u; cat /etc/debian_version"])
//!     .env("GREETING", "hello")
//!     .output()
//!     .await?;
//! assert!(out.status.success());
//! println!("{} {:?} {:?}", out.stdout_lossy(), out.status.reason(), out.usage);
//! # Ok(())
//! # }
//! ```
//!
//! # What it needs
//!
//! Linux 5.12 and a mounted /proc. Root, or user namespaces for a plain user; sub-ids and newuidmap(1) where an image has more than
//! one user. No daemon, no other program.
//!
//! # What it does not do
//!
//! Build images: not yet. It installs no signal handler, and needs no tokio runtime: its futures run under
//! any executor. It prints nothing, but for one thing: a container with a [log](Stdio::log) that is dropped by a panic says its last lines
//! on standard error, where the test runner catches them.
#![forbid(unsafe_code)]
#[cfg(not(target_os = "linux"))]
compile_error!("coracle needs Linux: containers are made of Linux namespaces");

mod background;
mod beside;
pub mod blocking;
mod builder;
mod changes;
mod command;
mod complete;
mod connect;
mod container;
mod copy;
mod device;
pub mod doctor;
mod engine;
mod error;
mod events;
mod exec;
mod exit;
mod fault;
mod filter;
mod http;
mod image;
mod images;
mod inspect;
mod keep_on_failure;
mod kept;
mod last_words;
mod limits;
mod logs;
mod lower;
mod mask;
mod mount;
mod name_list;
mod names;
mod network;
mod networks;
mod pause;
mod preset;
mod publish;
mod quiet;
mod resources;
mod rootfs;
mod seccomp;
mod security;
mod shared;
mod snapshot;
mod spec;
mod stack;
mod state;
mod stats;
mod stdio;
mod tar_stream;
mod terminal;
mod time;
mod tree;
mod volume;
mod wait;

pub use builder::ContainerBuilder;
pub use changes::{CommitBuilder, Export};
pub use connect::ContainerStream;
pub use container::Container;
pub use copy::{CopyIn, CopyOut, FileInfo, FileKind, Files};
pub use coracle_cgroups::{Control, Enforced, Refusal, parse_memory};
#[cfg(feature = "registry")]
pub use coracle_image::RegistryClient;
pub use coracle_image::{Durability, Fault, ImageConfig, Inspection, LayerState, Platform, Progress, Removed, Swept, SweptKind};
pub use coracle_layers::{ChangeKind, Compression, PathChange};
pub use coracle_spawn::{Capability, ConnectFault, Health, HealthState, HealthTest, Left, LogLine, OutputStream, Resource, Rlimit, Signal};
pub use device::Device;
pub use engine::{Engine, EngineBuilder, ImageSummary, Platforms};
pub use error::{Error, Problem};
pub use events::{Event, EventKind, Events};
pub use exec::{Exec, ExecBuilder, ExecSummary};
pub use exit::{ExitStatus, Output, Reason, Usage};
pub use fault::Cut;
pub use filter::Filter;
pub use images::ImagesChecked;
pub use inspect::{Inspect, InspectConfig, InspectLimits, InspectMount, InspectState};
pub use limits::MemorySize;
pub use logs::{LogStream, Logs};
pub use mount::{Mount, Owner};
pub use network::Network;
pub use networks::{NetworkDetails, NetworkMember, NetworkObstacle, NetworkSummary};
pub use pause::Update;
pub use preset::{Preset, UnknownPreset};
pub use publish::{Publish, PublishedPort};
pub use resources::Io;
pub use seccomp::Seccomp;
pub use security::NamespaceMode;
pub use shared::{Scope, Shared, SharedFailure};
pub use snapshot::{Snapshot, SnapshotSummary};
pub use stack::{Condition, Part, PartFailure, PartLine, RunningStack, Stack, StackFault};
pub use state::{ContainerSummary, State};
pub use stats::{ProcessSummary, Stats, StatsStream};
pub use stdio::{ContainerStderr, ContainerStdin, ContainerStdout, Stdio};
pub use terminal::{ContainerTerminal, TerminalEnd, terminal_size};
pub use time::Time;
pub use tree::Copied;
pub use volume::{Volume, VolumeSummary};
pub use wait::{HttpWait, Inside, LogWait, Wait, WaitFailure};
