//! What may be written behind `coracle`. Names and letters are Docker's.

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
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

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<Run>),
    Pull(Pull),
    /// List the images that are here
    Images(List),
    /// List the containers that run, of this program and of others with the same --root
    Ps(List),
    Exec(Exec),
    Stop(Stop),
    Kill(Kill),
}

const RUN_USAGE: &str = "coracle run [OPTIONS] IMAGE [COMMAND] [ARG]...
       coracle run [OPTIONS] --rootfs DIR COMMAND [ARG]...
       coracle run [OPTIONS] --oci-layout DIR [COMMAND] [ARG]...";

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
/// what follows is the command's. The container has no network unless --network host is given, and what it writes to its root goes
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

    /// Let the command read this program's standard input, which is /dev/null otherwise
    #[arg(short, long, help_heading = "What runs", conflicts_with = "detach")]
    pub(crate) interactive: bool,

    /// Print the id and let the container run on; `coracle ps`, `stop` and `kill` know it
    #[arg(short, long, help_heading = "What runs")]
    pub(crate) detach: bool,

    /// Docker's; there are no terminals yet.
    #[arg(short, long, hide = true)]
    pub(crate) tty: bool,

    /// Mount a file or directory of this machine; it must exist
    #[arg(short, long, value_name = "SOURCE:TARGET[:ro]", help_heading = "Files")]
    pub(crate) volume: Vec<String>,

    // As text and not as a comment: rustdoc takes the brackets for links.
    #[arg(
        long,
        value_name = "KEY=VALUE,...",
        help_heading = "Files",
        help = "Mount: type=bind,src=PATH,dst=PATH[,readonly] or type=tmpfs,dst=PATH[,tmpfs-size=SIZE][,tmpfs-mode=OCTAL]"
    )]
    pub(crate) mount: Vec<String>,

    /// Mount an empty directory in memory
    #[arg(long, value_name = "TARGET[:size=SIZE,mode=OCTAL,ro]", help_heading = "Files")]
    pub(crate) tmpfs: Vec<String>,

    /// No writing to the root; mounts stay as they are
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Files")]
    pub(crate) read_only: Option<bool>,

    /// Docker's: the container's files always go with it
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

    /// A resource limit of each process: nofile=1024:2048, core=0, stack=-1; see getrlimit(2)
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "Limits (an error where they can't be enforced)")]
    pub(crate) ulimit: Vec<String>,

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

    /// The network: loopback alone, or this machine's
    #[arg(long, visible_alias = "net", value_name = "NETWORK", default_value = "none", help_heading = "Isolation")]
    pub(crate) network: NetworkChoice,

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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum NetworkChoice {
    #[default]
    None,
    Host,
}

/// Fetch an image from its registry, also where an older one of that name is here
///
/// Prints the image with its digest. Credentials are those of `docker login` and `podman login`.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// debian:12, localhost:5000/debian, name@sha256:…
    pub(crate) image: String,

    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
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

    /// Not yet: there are no terminals for containers
    #[arg(short, long, hide = true)]
    pub(crate) tty: bool,

    /// The user, by name or number, and after a colon the group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<OsString>,

    /// The working directory; it must be there
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<PathBuf>,
}

/// Ask detached containers to end, and end them if they don't
///
/// The signal is the image's STOPSIGNAL, else SIGTERM. Prints the id of each that has ended.
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// How long to wait before everything in the container is killed
    #[arg(short = 't', long = "time", visible_alias = "timeout", value_name = "SECONDS", default_value = "10")]
    pub(crate) time: u32,

    /// Ids, or their unambiguous beginnings
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<String>,
}

/// End detached containers at once, or send them a signal
///
/// Prints the id of each that got it. After SIGKILL everything of the container is gone.
#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// A name as SIGHUP or HUP, or a number
    #[arg(short, long, default_value = "SIGKILL")]
    pub(crate) signal: String,

    /// Ids, or their unambiguous beginnings
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<String>,
}
