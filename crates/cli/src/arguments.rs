//! What may be written behind `coracle`. Names and letters are Docker's.
#![allow(rustdoc::invalid_html_tags, rustdoc::broken_intra_doc_links, reason = "the comments are help texts, and their brackets no links")]

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use coracle_container::Platform;
use std::ffi::OsString;
use std::path::PathBuf;

/// Containers without a daemon: nothing runs but the command you name
#[derive(Debug, Parser)]
#[command(name = "coracle", version, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    /// Where images and containers are kept [default: $CORACLE_ROOT, else /var/lib/coracle as root, else
    /// ~/.local/share/coracle]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The verbs that are said most, alone: a parser of all of them takes more than a millisecond to make, which is a third of a life.
#[derive(Debug, Parser)]
#[command(name = "coracle", disable_help_subcommand = true)]
struct Frequent {
    #[arg(long, global = true)]
    root: Option<PathBuf>,

    #[command(subcommand)]
    command: FrequentCommand,
}

#[derive(Debug, Subcommand)]
enum FrequentCommand {
    Run(Box<Run>),
    Exec(Exec),
}

impl Arguments {
    /// Reads the words of a command line, of which the first is the program's name.
    pub(crate) fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let words: Vec<OsString> = words.into_iter().collect();
        match Frequent::try_parse_from(&words) {
            Ok(Frequent { root, command: FrequentCommand::Run(run) }) => Ok(Self { root, command: Command::Run(run) }),
            Ok(Frequent { root, command: FrequentCommand::Exec(exec) }) => Ok(Self { root, command: Command::Exec(exec) }),
            // Another verb, a question for help, a mistake: the whole answers.
            Err(_) => Self::try_parse_from(words),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<Run>),
    Pull(Pull),
    Push(Push),
    /// List the images that are here
    Images(List),
    Inspect(Inspect),
    Tag(Tag),
    Rmi(Remove),
    Prune(Prune),
    Check(Check),
    Save(Save),
    Load(Load),
    Import(Import),
    /// Images, by the names that docker-image(1) has for what is done with them
    #[command(subcommand, disable_help_subcommand = true)]
    Image(ImageCommand),
    Ps(Ps),
    Create(Box<Create>),
    Start(Start),
    Restart(Restart),
    /// Stop every process of containers, until they are unpaused
    Pause(Names),
    /// Let paused containers go on
    Unpause(Names),
    Rm(RmContainers),
    Logs(Logs),
    /// Wait until containers have ended, and print their exit codes
    Wait(Names),
    Attach(AttachTo),
    Stats(Stats),
    Top(Top),
    Events(Events),
    Rename(Rename),
    Update(UpdateLimits),
    /// Containers, by the names that docker-container(1) has for what is done with them
    #[command(subcommand, disable_help_subcommand = true)]
    Container(ContainerCommand),
    Completion(Completion),
    Exec(Exec),
    Cp(Copy),
    Stop(Stop),
    Kill(Kill),
    Doctor(Doctor),
    /// Private networks that are kept under a name
    #[command(subcommand, disable_help_subcommand = true)]
    Network(NetworkCommand),
    Port(Port),
    /// Directories that containers have beside their roots, and that stay
    #[command(subcommand, disable_help_subcommand = true)]
    Volume(VolumeCommand),
    Commit(Commit),
    Diff(Diff),
    Export(Export),
    /// A container's files as they were, for others to be started from
    #[command(subcommand, disable_help_subcommand = true)]
    Snapshot(SnapshotCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    Create(NetworkCreate),
    /// List the networks
    #[command(visible_alias = "list")]
    Ls(List),
    /// Remove networks in which no container is
    #[command(visible_alias = "remove")]
    Rm(NetworkRemove),
    /// Tell all there is to know of networks, as JSON
    Inspect(NetworkRemove),
    /// Remove all networks in which no container is
    Prune,
    /// Say what of this host stands in the way of networks' traffic, and what mends it: settings, other firewalls, routes. Exits 1 where
    /// something does
    Diagnose {
        /// An object for programs
        #[arg(long)]
        json: bool,
    },
    /// Put what networks and containers have into this host's firewall anew, where somebody threw it away; each start does the same
    Repair,
}

/// Make a private network, which stays until it is removed
///
/// Containers of it reach each other and, by this host's address, the world; nobody reaches them but this host, and others by published
/// ports. Needs root.
#[derive(Debug, Args)]
pub(crate) struct NetworkCreate {
    /// 1 to 63 letters, digits, hyphens, dots and underscores
    pub(crate) name: String,

    /// Nothing leaves it
    #[arg(long)]
    pub(crate) internal: bool,

    /// Its addresses, once for IPv4 and once for IPv6 [default: some that this host doesn't use]
    #[arg(long, value_name = "ADDRESS/BITS")]
    pub(crate) subnet: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkRemove {
    #[arg(required = true, value_name = "NETWORK")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    Create(VolumeCreate),
    /// List the volumes
    #[command(visible_alias = "list")]
    Ls(List),
    /// Print all that is known of volumes, as JSON with Docker's names
    Inspect {
        /// Their names
        #[arg(required = true, value_name = "VOLUME")]
        names: Vec<String>,
    },
    /// Remove volumes that no container has, with their files
    #[command(visible_alias = "remove")]
    Rm {
        /// One that isn't there is no error
        #[arg(short, long)]
        force: bool,
        /// Their names
        #[arg(required = true, value_name = "VOLUME")]
        names: Vec<String>,
    },
    /// Remove all volumes that no container has, with their files
    Prune {
        /// Don't ask
        #[arg(short, long)]
        force: bool,
    },
}

/// Make a volume, which stays until it is removed
///
/// `coracle run -v NAME:PATH` makes one, too. One that is there stays as it is.
#[derive(Debug, Args)]
pub(crate) struct VolumeCreate {
    /// Up to 128 letters, digits, _, . and - [default: a number that nobody has]
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// The most that it holds: 512m, 2g. As root, on ext4 or XFS mounted with prjquota
    #[arg(long, value_name = "SIZE")]
    pub(crate) size: Option<String>,

    /// A label, for `coracle volume ls --format json`
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) label: Vec<String>,
}

/// Say where on this host a container's ports are answered
#[derive(Debug, Args)]
pub(crate) struct Port {
    /// The container's id, or the beginning of it
    pub(crate) container: String,

    /// Only this one, 80 or 53/udp
    pub(crate) port: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContainerCommand {
    #[command(visible_aliases = ["list", "ps"])]
    Ls(Ps),
    Prune(ContainerPrune),
    #[command(visible_alias = "remove")]
    Rm(RmContainers),
    Create(Box<Create>),
    Start(Start),
    Stop(Stop),
    Restart(Restart),
    Kill(Kill),
    /// Stop every process of containers, until they are unpaused
    Pause(Names),
    /// Let paused containers go on
    Unpause(Names),
    Logs(Logs),
    /// Wait until containers have ended, and print their exit codes
    Wait(Names),
    Attach(AttachTo),
    Stats(Stats),
    Top(Top),
    Rename(Rename),
    Update(UpdateLimits),
    Exec(Exec),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    Pull(Pull),
    Push(Push),
    /// List the images that are here
    #[command(visible_alias = "list")]
    Ls(List),
    Inspect(Inspect),
    Tag(Tag),
    #[command(visible_alias = "remove")]
    Rm(Remove),
    Prune(Prune),
    Check(Check),
    Save(Save),
    Load(Load),
    Import(Import),
}

const RUN_USAGE: &str = "coracle run [OPTIONS] IMAGE [COMMAND] [ARG]...
       coracle run [OPTIONS] --rootfs DIR COMMAND [ARG]...
       coracle run [OPTIONS] --oci-layout DIR [COMMAND] [ARG]...
       coracle run [OPTIONS] --snapshot NAME [COMMAND] [ARG]...";

const RUN_AFTER: &str = "\
Standard output is the container's alone. Unless it is detached, the container ends when this program does, by whatever means.

Exit codes:
  the command's own, or 128 + n where signal n ended it
  125  coracle itself failed; nothing was left behind
  126  the command is there and can't be executed
  127  the command isn't there

Examples:
  coracle run debian:12 cat /etc/os-release
  coracle run -m 256m --cpus 1.5 -v \"$PWD\":/work -w /work rust:1 cargo test
  echo hello | coracle run -i busybox wc -c
  coracle run --rootfs / sh -c 'rm -rf /usr; echo still there'";

/// Run a command in a new container
///
/// An image is pulled if it isn't here. COMMAND stands for the image's own. Flags end at IMAGE, or at COMMAND where there is none:
/// what follows is the command's. The container has no network unless --network gives it one, and what it writes to its root goes
/// with it.
#[derive(Debug, Default, Args)]
#[command(override_usage = RUN_USAGE, after_help = RUN_AFTER, disable_help_flag = true)]
pub(crate) struct Run {
    // The usage tells what it is.
    #[arg(value_name = "IMAGE [COMMAND] [ARG]", trailing_var_arg = true, hide = true)]
    pub(crate) words: Vec<OsString>,

    /// Not from an image: this directory is the root, and stays as it is. / is this machine's own
    #[arg(long, value_name = "DIR", help_heading = "What runs", conflicts_with = "oci_layout")]
    pub(crate) rootfs: Option<PathBuf>,

    /// From this snapshot (`coracle snapshot create`), with the command of the image below it
    #[arg(long, value_name = "NAME", help_heading = "What runs", conflicts_with_all = ["oci_layout", "rootfs"])]
    pub(crate) snapshot: Option<String>,

    /// From the one image in this directory in the OCI image layout, as `skopeo copy … oci:DIR` makes it
    #[arg(long, value_name = "DIR", help_heading = "What runs")]
    pub(crate) oci_layout: Option<PathBuf>,

    /// Run this, with COMMAND as its arguments, instead of the image's entrypoint; "" for none
    #[arg(long, value_name = "PROGRAM", help_heading = "What runs")]
    pub(crate) entrypoint: Option<OsString>,

    /// Set a variable; KEY alone takes its value from this environment
    #[arg(short, long, value_name = "KEY[=VALUE]", help_heading = "What runs")]
    pub(crate) env: Vec<OsString>,

    /// Set the variables in this file: KEY=VALUE or KEY, one a line; # begins a comment. --env is stronger
    #[arg(long, value_name = "FILE", help_heading = "What runs")]
    pub(crate) env_file: Vec<PathBuf>,

    /// The working directory in the container; made if it isn't there
    #[arg(short, long, value_name = "DIR", help_heading = "What runs")]
    pub(crate) workdir: Option<PathBuf>,

    /// The user in the container, by its own /etc/passwd and /etc/group, or by number
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "What runs")]
    pub(crate) user: Option<OsString>,

    /// The host name [default: the first 12 digits of the id]
    #[arg(short = 'h', long, value_name = "NAME", help_heading = "What runs")]
    pub(crate) hostname: Option<String>,

    /// Whether PID 1 is an init that reaps and forwards signals [default: true, unless the command is an init itself]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "What runs")]
    pub(crate) init: Option<bool>,

    /// Ask the container whether it works by this line of shell, and not by its image's HEALTHCHECK
    #[arg(long, value_name = "LINE", help_heading = "Health", conflicts_with = "no_healthcheck")]
    pub(crate) health_cmd: Option<OsString>,

    /// The time from one test to the next [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Health", requires = "health_cmd")]
    pub(crate) health_interval: Option<String>,

    /// How long a test may take [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Health", requires = "health_cmd")]
    pub(crate) health_timeout: Option<String>,

    /// So many failures in a row mean that it doesn't work [default: 3]
    #[arg(long, value_name = "COUNT", help_heading = "Health", requires = "health_cmd")]
    pub(crate) health_retries: Option<u32>,

    /// How long after the start failures don't count [default: 0s]
    #[arg(long, value_name = "TIME", help_heading = "Health", requires = "health_cmd")]
    pub(crate) health_start_period: Option<String>,

    /// The time from one test to the next in the start period [default: 5s]
    #[arg(long, value_name = "TIME", help_heading = "Health", requires = "health_cmd")]
    pub(crate) health_start_interval: Option<String>,

    /// Don't ask, whatever the image says
    #[arg(long, help_heading = "Health")]
    pub(crate) no_healthcheck: bool,

    /// Let the command read this program's standard input, which is /dev/null otherwise
    #[arg(short, long, help_heading = "What runs", conflicts_with = "detach")]
    pub(crate) interactive: bool,

    /// Print the id and let the container run on; `coracle ps`, `stop` and `kill` know it
    #[arg(short, long, help_heading = "What runs")]
    pub(crate) detach: bool,

    /// Give the command a terminal; with -i it is this one, which Ctrl-P Ctrl-Q leave: `coracle attach` comes back
    #[arg(short, long, help_heading = "What runs", conflicts_with = "detach")]
    pub(crate) tty: bool,

    /// Mount a file or directory of this machine by its path, a volume by its name, or one of the container's own; :owner=caller lets the files
    /// of a path come back as this user's
    #[arg(short, long, value_name = "[SOURCE:]TARGET[:ro]", help_heading = "Files")]
    pub(crate) volume: Vec<String>,

    /// Mount: type=bind,src=PATH,dst=PATH[,readonly][,owner=caller], type=volume[,src=NAME],dst=PATH[,volume-nocopy][,volume-ephemeral],
    /// type=tmpfs,dst=PATH[,tmpfs-size=SIZE][,tmpfs-mode=OCTAL] or type=image,src=IMAGE,dst=PATH
    #[arg(long, value_name = "KEY=VALUE,...", help_heading = "Files")]
    pub(crate) mount: Vec<String>,

    /// Mount an empty directory in memory
    #[arg(long, value_name = "TARGET[:size=SIZE,mode=OCTAL,ro]", help_heading = "Files")]
    pub(crate) tmpfs: Vec<String>,

    /// No writing to the root; mounts stay as they are
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Files")]
    pub(crate) read_only: Option<bool>,

    /// A detached container goes with its files when it ends; any other does anyway
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Files")]
    pub(crate) rm: Option<bool>,

    /// The most memory, page cache included: bytes, or 512k, 64m, 1.5g. No swap beyond it
    #[arg(short, long, value_name = "SIZE", help_heading = "Limits (an error where they can't be enforced)")]
    pub(crate) memory: Option<String>,

    /// The most processor time a second: 0.5, 2
    #[arg(long, value_name = "NUMBER", help_heading = "Limits (an error where they can't be enforced)")]
    pub(crate) cpus: Option<f64>,

    /// The most processes and threads at once; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, help_heading = "Limits (an error where they can't be enforced)")]
    pub(crate) pids_limit: Option<i64>,

    #[command(flatten)]
    pub(crate) security: crate::security::Security,

    /// A resource limit of each process: nofile=1024:2048, core=0, stack=-1; see getrlimit(2)
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "Limits (an error where they can't be enforced)")]
    pub(crate) ulimit: Vec<String>,

    /// End everything after this time: 500ms, 1.5s, 1h30m
    #[arg(long, value_name = "TIME", help_heading = "Limits (an error where they can't be enforced)")]
    pub(crate) timeout: Option<String>,

    /// End everything when all processes together have spent this much processor time
    #[arg(long, value_name = "TIME", help_heading = "Limits (an error where they can't be enforced)")]
    pub(crate) cpu_time: Option<String>,

    /// End everything when it says more than so many bytes; of what is detached
    #[arg(long, value_name = "SIZE", help_heading = "Limits (an error where they can't be enforced)")]
    pub(crate) output_limit: Option<String>,

    /// End everything when it says nothing for so long; of what is detached
    #[arg(long, value_name = "TIME", help_heading = "Limits (an error where they can't be enforced)")]
    pub(crate) idle_timeout: Option<String>,

    /// The most that is kept of what a detached container says; the oldest goes [default: 10m]
    #[arg(long, value_name = "SIZE", help_heading = "Reports")]
    pub(crate) log_size: Option<String>,

    /// Go on with a warning where these limits can't be enforced
    #[arg(
        long,
        value_name = "LIMIT,...",
        value_delimiter = ',',
        ignore_case = true,
        help_heading = "Limits (an error where they can't be enforced)"
    )]
    pub(crate) best_effort: Vec<BestEffort>,

    /// One capability more than Docker's fourteen: NET_ADMIN, or ALL
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "Isolation")]
    pub(crate) cap_add: Vec<String>,

    /// One capability less, or ALL, which counts first
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "Isolation")]
    pub(crate) cap_drop: Vec<String>,

    /// The network: none (loopback alone), host (this machine's), bridge (a private one of its own), a name of `coracle network`, or
    /// container:ID; several of those with names [default: none]
    #[arg(long, visible_alias = "net", value_name = "NETWORK", help_heading = "Network")]
    pub(crate) network: Vec<String>,

    /// Answer a port of the container on this host: 8080:80, 127.0.0.1::80, 53:53/udp, 9000-9010:9000-9010; at all addresses if none is named
    #[arg(short, long, value_name = "[ADDRESS:][PORT:]PORT[/udp]", help_heading = "Network")]
    pub(crate) publish: Vec<String>,

    /// The IPv4 address in the first private network
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub(crate) ip: Option<String>,

    /// The IPv6 address in the first private network
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub(crate) ip6: Option<String>,

    /// The hardware address in the first private network
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub(crate) mac_address: Option<String>,

    /// One more name by which others in its private networks find the container
    #[arg(long, visible_alias = "net-alias", value_name = "NAME", help_heading = "Network")]
    pub(crate) network_alias: Vec<String>,

    /// One more line of /etc/hosts; host-gateway is this host
    #[arg(long, value_name = "NAME:ADDRESS", help_heading = "Network")]
    pub(crate) add_host: Vec<String>,

    /// A server to ask for names outside of its networks, instead of this host's
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub(crate) dns: Vec<String>,

    /// A domain to look for short names in, instead of this host's
    #[arg(long, value_name = "DOMAIN", help_heading = "Network")]
    pub(crate) dns_search: Vec<String>,

    /// An option of resolv.conf(5), instead of this host's
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION", help_heading = "Network")]
    pub(crate) dns_option: Vec<String>,

    /// A name by which others find it. One that is detached keeps it until it is removed
    #[arg(long, value_name = "NAME", help_heading = "Reports")]
    pub(crate) name: Option<String>,

    /// A label, for `coracle ps --format json`
    #[arg(short, long, value_name = "KEY[=VALUE]", help_heading = "Reports")]
    pub(crate) label: Vec<String>,

    /// Say what was used on standard error when the container has ended
    #[arg(long, help_heading = "Reports", conflicts_with = "detach")]
    pub(crate) stats: bool,

    /// No progress of a pull, no warnings
    #[arg(short, long, help_heading = "Reports")]
    pub(crate) quiet: bool,

    /// Print help
    #[arg(long, action = ArgAction::Help, help_heading = "Reports")]
    help: Option<bool>,
}

/// A limit that may be waived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BestEffort {
    Memory,
    Cpus,
    Pids,
    CpuTime,
    Devices,
    Io,
}

/// Fetch an image from its registry, also where an older one of that name is here
///
/// Prints the image with its digest. Credentials are those of `docker login` and `podman login`; mirrors and certificates those of
/// registries.conf(5), /etc/containerd/certs.d and /etc/docker/certs.d.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// debian:12, localhost:5000/debian, name@sha256:…
    pub(crate) image: String,

    /// The image for another platform: linux/arm64, linux/arm/v7
    #[arg(long, value_name = "OS/ARCHITECTURE", conflicts_with = "all_platforms")]
    pub(crate) platform: Option<Platform>,

    /// The images for all platforms, for `coracle push --all-platforms`; that for this machine is unpacked
    #[arg(long)]
    pub(crate) all_platforms: bool,

    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// Send an image that is here to a registry, byte for byte as it came
///
/// Prints the image with its digest. Credentials, mirrors and certificates are found as by `coracle pull`.
#[derive(Debug, Args)]
pub(crate) struct Push {
    /// An image that `coracle images` lists
    pub(crate) image: String,

    /// Another name for it there, as `podman push` takes one
    pub(crate) destination: Option<String>,

    /// The images for all platforms, and the index that names them: what `coracle pull --all-platforms` brought
    #[arg(long)]
    pub(crate) all_platforms: bool,

    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// Print all that is known of containers and images, as JSON with Docker's names
///
/// A name is a container's first. An array with an object for each image. Id is the digest of the config, Digest that of the manifest; Layers tells of each layer
/// whether its blob is stored and whether it's unpacked, with its size in bytes; Added is when the name came here, in seconds
/// since 1970.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// json, or a template: {{.Id}}, {{.State.Status}}, {{json .Config}}
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,

    /// Names, ids, or the beginnings of ids
    #[arg(required = true, value_name = "NAME")]
    pub(crate) images: Vec<String>,
}

/// Give an image another name
///
/// If the name meant another image, it doesn't any more; that image stays until it's removed or pruned.
#[derive(Debug, Args)]
pub(crate) struct Tag {
    /// A name, an id, or the beginning of one
    pub(crate) source: String,

    /// NAME[:TAG]; the tag is `latest` unless it's said
    pub(crate) target: String,
}

/// Remove names of images, and with the last name the image
///
/// Prints what was untagged and deleted. An image that a container or a pull uses isn't removed: exit code 1. An id removes the
/// image with the one name that it has. Layers that other images have stay.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Take the names away though the image is in use, and all names of an image that is named by its id; `coracle prune` removes
    /// the rest once nobody uses it
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Names, ids, or the beginnings of ids
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

/// Remove what no image needs any more
///
/// That is: what was behind a name that means another image now, what interrupted pulls left, and with --all every image that no
/// container and no pull uses. Pulls and containers go on meanwhile, those of other programs too. Prints what went.
#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Remove all images that nobody uses, not only what has no name
    #[arg(short, long)]
    pub(crate) all: bool,

    /// Don't ask
    #[arg(short, long)]
    pub(crate) force: bool,
}

/// Check all images, blobs and unpacked layers
///
/// Hashes every blob, and compares every file of every unpacked layer with what was recorded when it was unpacked. Prints a line
/// for each path that isn't as it should be. Exits with 1 if something is wrong, and stays so.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Move away what is damaged, so that the next pull, load or run brings it anew; what a container uses stays
    #[arg(long)]
    pub(crate) repair: bool,
}

/// Write images into one archive
///
/// It's a tar archive that `docker load`, `podman load`, skopeo (as docker-archive: and as oci-archive:) and `coracle load` read. The
/// same images make the same bytes.
#[derive(Debug, Args)]
pub(crate) struct Save {
    /// Write to this file, which appears when it's whole, and not to standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Names, ids, or the beginnings of ids
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

/// Bring in the images of an archive
///
/// Archives of `docker save`, `podman save`, `skopeo copy` and `coracle save`, plain or compressed by gzip or zstd, whatever the file
/// is called; or a directory in the OCI image layout. All of it or nothing. Prints the names.
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// Read this file or directory, and not standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,

    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// Make a root file system an image of one layer
///
/// FILE is a tar archive, plain or compressed by gzip or zstd, as `docker export` or `tar -C DIR -c .` make it. Prints the image's id.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// Change the image's config, as in a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub(crate) change: Vec<String>,

    /// A message for the image's history
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) message: Option<String>,

    /// The archive; - is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// NAME[:TAG] of the image
    #[arg(value_name = "NAME", default_value = "localhost/imported:latest")]
    pub(crate) name: String,
}

// No doc comment: it would stand in the help of the commands that list, which have their own.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Ids alone, one a line
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Print everything in full length
    #[arg(long)]
    pub(crate) no_trunc: bool,

    /// A table for people, or a JSON object a line for programs
    #[arg(long, default_value = "table")]
    pub(crate) format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

const EXEC_AFTER: &str = "\
The command has what the container's own has, and ends when this program does, by whatever means, with all that it started; unless it is
detached. What it leaves running when it ends by itself stays, until the container ends.

Exit codes:
  the command's own, or 128 + n where signal n ended it
  1    there is no such container
  125  coracle itself failed
  126  the command is there and can't be executed
  127  the command isn't there

Examples:
  coracle exec 1f0c id
  coracle exec -i 1f0c sh < script
  coracle exec -u postgres -e PGDATABASE=app 1f0c psql -c 'select 1'";

/// Run one more command in a detached container
///
/// Flags end at CONTAINER: what follows is the command.
#[derive(Debug, Args)]
#[command(override_usage = "coracle exec [OPTIONS] CONTAINER COMMAND [ARG]...", after_help = EXEC_AFTER)]
pub(crate) struct Exec {
    // The usage tells what they are.
    #[arg(value_name = "CONTAINER COMMAND [ARG]", trailing_var_arg = true, required = true, num_args = 2.., hide = true)]
    pub(crate) words: Vec<OsString>,

    /// Don't wait, and let it outlive this program
    #[arg(short, long, conflicts_with = "interactive")]
    pub(crate) detach: bool,

    /// Set a variable; KEY alone takes its value from this environment
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<OsString>,

    /// Set the variables in this file: KEY=VALUE or KEY, one a line; # begins a comment. --env is stronger
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,

    /// Pass standard input on
    #[arg(short, long)]
    pub(crate) interactive: bool,

    /// Give the command a terminal; with -i it is this one, which Ctrl-P Ctrl-Q leave
    #[arg(short, long, conflicts_with = "detach")]
    pub(crate) tty: bool,

    /// The user, by name or number, and after a colon the group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<OsString>,

    /// The working directory; it must be there
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<PathBuf>,
}

const CP_AFTER: &str = "\
A SOURCE that is a directory is copied under its name into a TARGET that is one; SOURCE/. means what is in it. A file gets the name of
TARGET, or lies in it if that is a directory. What is there already is replaced. No directories are made above TARGET. - is a tar
archive on standard input or output. What is copied belongs to the container's root, or to who runs this.

Examples:
  coracle cp app.conf 1f0c:/etc/app.conf
  coracle cp 1f0c:/var/log/. logs
  coracle cp 1f0c:/work - | tar -t";

/// Copy files between a detached container and this machine
#[derive(Debug, Args)]
#[command(
    override_usage = "coracle cp [OPTIONS] CONTAINER:SOURCE TARGET|-\n       coracle cp [OPTIONS] SOURCE|- CONTAINER:TARGET",
    after_help = CP_AFTER
)]
pub(crate) struct Copy {
    /// Keep owners, by number, and set-id bits
    #[arg(short, long)]
    pub(crate) archive: bool,

    /// Copy what SOURCE leads to, if it is a symlink
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,

    /// Don't tell what was passed over
    #[arg(short, long)]
    pub(crate) quiet: bool,

    #[arg(value_name = "SOURCE", hide = true)]
    pub(crate) source: OsString,

    #[arg(value_name = "TARGET", hide = true)]
    pub(crate) target: OsString,
}

/// Ask containers to end, and end them if they don't
///
/// The signal is the image's STOPSIGNAL, else SIGTERM. Prints each name that was given of one that has ended. Its files stay until
/// `coracle rm`, unless it was started with --rm.
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// How long to wait before everything in the container is killed
    #[arg(short = 't', long = "time", visible_alias = "timeout", value_name = "SECONDS", default_value = "10")]
    pub(crate) time: u32,

    /// Names, ids, or the unambiguous beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) ids: Vec<String>,
}

/// End containers at once, or send them a signal
///
/// Prints each name that was given of one that got it.
#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// A name as SIGHUP or HUP, or a number
    #[arg(short, long, default_value = "SIGKILL")]
    pub(crate) signal: String,

    /// Names, ids, or the unambiguous beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) ids: Vec<String>,
}

const FILTERS: &str = "\
Filters: name=PART, id=BEGINNING, label=KEY[=VALUE], status=created|running|paused|exited|dead, ancestor=IMAGE. What is said of different
things must all be so; of what is said of one thing twice, one of both (of labels, both).

Formats: table, json, or text with {{.ID}}, {{.Names}}, {{.Image}}, {{.Command}}, {{.CreatedAt}}, {{.Status}}, {{.State}}, {{.Owner}},
{{.Labels}} or {{json .}} in it.";

/// List the containers that run, of this program and of others with the same --root
#[derive(Debug, Args)]
#[command(after_help = FILTERS)]
pub(crate) struct Ps {
    /// Those that don't run, too
    #[arg(short, long)]
    pub(crate) all: bool,

    /// Only those of which this is so
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,

    /// Ids alone, one a line
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Print everything in full length
    #[arg(long)]
    pub(crate) no_trunc: bool,

    /// table, json, or a template
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
}

/// Make a container, and don't start it
///
/// The flags are those of `coracle run`. Prints the id. `coracle start` starts it; it stays with its files until `coracle rm`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Create {
    #[command(flatten)]
    pub(crate) run: Run,
}

/// Start containers that were created, or have ended, with the files that they have
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Print what it says until it ends, pass signals on, and exit with its code
    #[arg(short, long)]
    pub(crate) attach: bool,

    /// Names, ids, or the unambiguous beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

/// Stop containers and start them again: the same id, the same files
#[derive(Debug, Args)]
pub(crate) struct Restart {
    /// How long to wait before everything in the container is killed
    #[arg(short = 't', long = "time", visible_alias = "timeout", value_name = "SECONDS", default_value = "10")]
    pub(crate) time: u32,

    /// Names, ids, or the unambiguous beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

// No doc comment: it would stand in the help of the commands that take names alone, which have their own.
#[derive(Debug, Args)]
pub(crate) struct Names {
    /// Names, ids, or the unambiguous beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

/// Remove containers with their files
#[derive(Debug, Args)]
pub(crate) struct RmContainers {
    /// Those that run, too
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Names, ids, or the unambiguous beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

/// Remove all containers that don't run, with their files
#[derive(Debug, Args)]
pub(crate) struct ContainerPrune {
    /// Don't ask
    #[arg(short, long)]
    pub(crate) force: bool,
}

/// Print what a container says and said
///
/// What it said on standard error goes there. Containers that this or another program runs, and those that have ended and stay; of those
/// that a program runs with its own streams nothing is kept.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Go on as it says more, until it ends
    #[arg(short, long)]
    pub(crate) follow: bool,

    /// Only the last so many lines; all
    #[arg(short = 'n', long, value_name = "LINES")]
    pub(crate) tail: Option<String>,

    /// Only what was said since: 2024-01-31T12:00:00Z, seconds since 1970, or 10m for ten minutes ago
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,

    /// Only what was said until then
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,

    /// Begin each line with its time
    #[arg(short, long)]
    pub(crate) timestamps: bool,

    /// A name, an id, or the unambiguous beginning of one
    #[arg(value_name = "CONTAINER")]
    pub(crate) name: String,
}

/// Print what a container that runs says from now on, pass signals on, and exit with its code
///
/// Its input isn't connected.
#[derive(Debug, Args)]
pub(crate) struct AttachTo {
    /// A name, an id, or the unambiguous beginning of one
    #[arg(value_name = "CONTAINER")]
    pub(crate) name: String,
}

/// Print what containers use, again and again
#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Once
    #[arg(long)]
    pub(crate) no_stream: bool,

    /// table, json, or a template of {{.ID}}, {{.Name}}, {{.CPUPerc}}, {{.MemUsage}}, {{.MemPerc}}, {{.BlockIO}}, {{.PIDs}}
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,

    /// Names, ids, or the unambiguous beginnings of ids; all that run detached
    #[arg(value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

/// Print the processes of a container
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// A name, an id, or the unambiguous beginning of one
    #[arg(value_name = "CONTAINER")]
    pub(crate) name: String,
}

/// Print what happens to containers, as it happens
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// json, or a template of {{.Action}}, {{.ID}}, {{.Time}}, {{json .Actor}}
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
}

/// Give a container another name
#[derive(Debug, Args)]
pub(crate) struct Rename {
    /// A name, an id, or the unambiguous beginning of one
    #[arg(value_name = "CONTAINER")]
    pub(crate) name: String,

    /// The new name
    pub(crate) new: String,
}

/// Set limits of containers anew
///
/// Of one that runs, limits that it was started with; they hold at once, and for its later lives.
#[derive(Debug, Args)]
pub(crate) struct UpdateLimits {
    /// The most memory, page cache included
    #[arg(short, long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,

    /// The most processor time a second
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpus: Option<f64>,

    /// The most processes and threads at once
    #[arg(long, value_name = "NUMBER")]
    pub(crate) pids_limit: Option<u64>,

    /// Names, ids, or the unambiguous beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

/// Print what a shell needs to complete this program's words
///
/// bash: coracle completion bash >~/.local/share/bash-completion/completions/coracle. zsh: into a file _coracle in $fpath. fish: into
/// ~/.config/fish/completions/coracle.fish.
#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// The shell
    pub(crate) shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Say what this machine can do for containers, and what mends it where it can't
///
/// Each row was tried, in a process that is thrown away. Exits with 0 where all is well, 1 with a warning, 2 where no container runs.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// As root: install the supervisor at a fixed path, with an AppArmor profile, for plain users' containers
    #[arg(long)]
    pub(crate) fix: bool,
}

/// Make an image of what a container changed
///
/// It runs on. What is on its mounts isn't in the image. With SOURCE_DATE_EPOCH in the environment no file in it is newer, and the same
/// changes make the same image.
#[derive(Debug, Args)]
#[command(override_usage = "coracle commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]")]
pub(crate) struct Commit {
    /// Who made it: "Name <address>"
    #[arg(short, long, value_name = "AUTHOR")]
    pub(crate) author: Option<String>,

    /// A change of the image's config, as a line of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "LINE")]
    pub(crate) change: Vec<String>,

    /// A comment in the image's history
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) message: Option<String>,

    /// Whether the container stands still meanwhile [default: true]
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) pause: Option<bool>,

    /// How the layer is compressed
    #[arg(long, value_name = "KIND", value_enum, default_value_t = Compress::Gzip)]
    pub(crate) compression: Compress,

    /// The container: its id, or the beginning of it
    pub(crate) container: String,

    /// What the image is called [default: localhost/commit:ID]
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) reference: Option<String>,
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compress {
    Gzip,
    Zstd,
    None,
}

/// List what a container changed: A added, C changed, D deleted
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The container: its id, or the beginning of it
    pub(crate) container: String,
}

/// Write all that a container sees of its root as a tar archive
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Into this file, not to standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// The container: its id, or the beginning of it
    pub(crate) container: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Keep a container's files as they are now; `coracle run --snapshot NAME` starts others from them
    Create {
        /// The container: its id, or the beginning of it
        container: String,
        /// What the snapshot is called
        name: String,
    },
    /// List the snapshots that are here
    #[command(visible_alias = "list")]
    Ls {
        /// Only the names
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove snapshots
    #[command(visible_alias = "remove")]
    Rm {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}
