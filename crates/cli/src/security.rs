//! From the flags about privileges and resources to the description of a container.
#![allow(rustdoc::invalid_html_tags, rustdoc::broken_intra_doc_links, reason = "the comments are help texts, and their brackets no links")]

use crate::failure::Fault;
use clap::Args;
use coracle_container::{ContainerBuilder, Io, Preset, Seccomp};

const SECURITY: &str = "Privileges";
const RESOURCES: &str = "Limits (an error where they can't be enforced)";

/// What it may do, by Docker's names.
#[derive(Debug, Default, Args)]
pub(crate) struct Security {
    /// How far the program is trusted: trusted, default, untrusted, hostile; `--preset help` prints what each implies
    #[arg(long, value_name = "PRESET", help_heading = SECURITY)]
    pub(crate) preset: Option<String>,

    /// no-new-privileges[=BOOL], seccomp=unconfined, seccomp=strict or seccomp=FILE, apparmor=PROFILE, label=CONTEXT or label=disable, mask=PATH,
    /// unmask=PATH or unmask=ALL, systempaths=unconfined, read-only=PATH, landlock-execute=PATH, landlock-read=PATH, landlock-write=PATH
    #[arg(long, value_name = "KEY[=VALUE]", help_heading = SECURITY)]
    security_opt: Vec<String>,

    /// All capabilities, no filter, no masked paths, this machine's devices
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = SECURITY)]
    privileged: Option<bool>,

    /// A device of this machine, or all below a directory
    #[arg(long, value_name = "PATH[:TARGET][:rwm]", help_heading = SECURITY)]
    device: Vec<String>,

    /// Let nodes of these devices that are made in /dev open them: "c 10:200 rwm"
    #[arg(long, value_name = "RULE", help_heading = SECURITY)]
    device_cgroup_rule: Vec<String>,

    /// A setting of its namespaces: net.core.somaxconn=1024
    #[arg(long, value_name = "KEY=VALUE", help_heading = SECURITY)]
    sysctl: Vec<String>,

    /// Whose processes it sees: host, or container:ID
    #[arg(long, value_name = "MODE", help_heading = SECURITY)]
    pid: Option<String>,

    /// Whose shared memory and queues it has: host, or container:ID
    #[arg(long, value_name = "MODE", help_heading = SECURITY)]
    ipc: Option<String>,

    /// Whose host name it has: host, or container:ID
    #[arg(long, value_name = "MODE", help_heading = SECURITY)]
    uts: Option<String>,

    /// The size of /dev/shm [default: 64m]
    #[arg(long, value_name = "SIZE", help_heading = "Files")]
    shm_size: Option<String>,

    #[command(flatten)]
    resources: Resources,
}

/// Limits beyond memory, processors and processes, by Docker's names.
#[derive(Debug, Default, Args)]
pub(crate) struct Resources {
    /// Memory and swap together; -1 for any amount of swap. Needs --memory
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, help_heading = RESOURCES)]
    memory_swap: Option<String>,

    /// Memory that is left to it while the machine runs short
    #[arg(long, value_name = "SIZE", help_heading = RESOURCES)]
    memory_reservation: Option<String>,

    /// Memory above which it is slowed down; cgroup v2 alone has it
    #[arg(long, value_name = "SIZE", help_heading = RESOURCES)]
    memory_high: Option<String>,

    /// A shortage of memory ends the whole container; cgroup v2 alone has it
    #[arg(long, help_heading = RESOURCES)]
    oom_group: bool,

    /// The share of the processors when they are contended; 1024 is everybody's
    #[arg(short, long, value_name = "NUMBER", help_heading = RESOURCES)]
    cpu_shares: Option<u32>,

    /// Only these processors: 0-2,7
    #[arg(long, value_name = "LIST", help_heading = RESOURCES)]
    cpuset_cpus: Option<String>,

    /// Only these memory nodes: 0
    #[arg(long, value_name = "LIST", help_heading = RESOURCES)]
    cpuset_mems: Option<String>,

    /// The share of block devices when they are contended: 10 to 1000
    #[arg(long, value_name = "NUMBER", help_heading = RESOURCES)]
    blkio_weight: Option<u32>,

    /// The most that is read of a disk a second: /dev/sda:10m
    #[arg(long, value_name = "DISK:SIZE", help_heading = RESOURCES)]
    device_read_bps: Vec<String>,

    /// The most that is written to a disk a second
    #[arg(long, value_name = "DISK:SIZE", help_heading = RESOURCES)]
    device_write_bps: Vec<String>,

    /// The most reads of a disk a second
    #[arg(long, value_name = "DISK:NUMBER", help_heading = RESOURCES)]
    device_read_iops: Vec<String>,

    /// The most writes to a disk a second
    #[arg(long, value_name = "DISK:NUMBER", help_heading = RESOURCES)]
    device_write_iops: Vec<String>,

    /// The most huge pages of a size: 2MB:64m
    #[arg(long, value_name = "PAGE:SIZE", help_heading = RESOURCES)]
    hugetlb_limit: Vec<String>,
}

/// What each preset implies, as `--preset help` prints it.
pub(crate) fn presets() -> String {
    [Preset::Trusted, Preset::Default, Preset::Untrusted, Preset::Hostile].map(|preset| preset.to_string()).join("\n")
}

/// Adds what the flags say.
pub(crate) fn describe(mut builder: ContainerBuilder, flags: &Security, memory: Option<&str>, faults: &mut Vec<Fault>) -> ContainerBuilder {
    match flags.preset.as_deref().map(str::parse::<Preset>) {
        Some(Ok(preset)) => builder = builder.preset(preset),
        Some(Err(error)) => faults.push(Fault::new(format!("--preset: {error}"), "coracle run --preset help prints what each implies")),
        None => {}
    }
    for word in &flags.security_opt {
        let (key, value) = word.split_once(['=', ':']).map_or((word.as_str(), None), |(key, value)| (key, Some(value)));
        match option(builder.clone(), key, value) {
            Ok(with) => builder = with,
            Err(why) => faults.push(Fault::new(format!("--security-opt {word}: {why}"), "coracle run --help lists what there is")),
        }
    }
    if let Some(yes) = flags.privileged {
        builder = builder.privileged(yes);
    }
    builder = flags.device.iter().fold(builder, |builder, word| builder.device(word.as_str()));
    builder = flags.device_cgroup_rule.iter().fold(builder, |builder, word| builder.device_cgroup_rule(word));
    for word in &flags.sysctl {
        match word.split_once('=') {
            Some((key, value)) => builder = builder.sysctl(key, value),
            None => faults.push(Fault::new(format!("--sysctl {word}: there is no value"), "for example --sysctl net.core.somaxconn=1024")),
        }
    }
    let mut mode = |flag: &str, word: &Option<String>| {
        let word = word.clone()?;
        let known = matches!(word.as_str(), "host" | "private" | "shareable" | "")
            || word.strip_prefix("container:").is_some_and(|id| !id.is_empty());
        if !known {
            faults.push(Fault::new(format!("{flag} {word} is no namespace"), format!("{flag} host, or {flag} container:ID")));
        }
        known.then_some(word)
    };
    if let Some(word) = mode("--pid", &flags.pid) {
        builder = builder.pid_namespace(word.as_str());
    }
    if let Some(word) = mode("--ipc", &flags.ipc) {
        builder = builder.ipc_namespace(word.as_str());
    }
    if let Some(word) = mode("--uts", &flags.uts) {
        builder = builder.uts_namespace(word.as_str());
    }
    if let Some(size) = &flags.shm_size {
        builder = builder.shm_size(size.as_str());
    }
    limit(builder, &flags.resources, memory, faults)
}

fn option(builder: ContainerBuilder, key: &str, value: Option<&str>) -> Result<ContainerBuilder, String> {
    let needed = || value.filter(|value| !value.is_empty()).ok_or_else(|| "there is no value".to_owned());
    Ok(match key {
        "no-new-privileges" => builder.no_new_privileges(match value {
            None | Some("true") => true,
            Some("false") => false,
            Some(other) => return Err(format!("{other} is neither true nor false")),
        }),
        "seccomp" => builder.seccomp(match needed()? {
            "unconfined" => Seccomp::unconfined(),
            "builtin" | "default" => Seccomp::docker_default(),
            "strict" => Seccomp::strict(),
            file => Seccomp::file(file).map_err(|error| error.to_string())?,
        }),
        "apparmor" => builder.apparmor(needed()?),
        "label" => builder.selinux(needed()?),
        "mask" => needed()?.split(':').fold(builder, |builder, path| builder.mask_path(path)),
        "unmask" => needed()?.split(':').fold(builder, |builder, path| builder.unmask_path(path)),
        "systempaths" if value == Some("unconfined") => builder.unmask_path("ALL"),
        "read-only" => builder.read_only_path(needed()?),
        "landlock-execute" => builder.landlock_execute(needed()?),
        "landlock-read" => builder.landlock_read(needed()?),
        "landlock-write" => builder.landlock_write(needed()?),
        _ => return Err("there is no such option".into()),
    })
}

fn limit(mut builder: ContainerBuilder, flags: &Resources, memory: Option<&str>, faults: &mut Vec<Fault>) -> ContainerBuilder {
    match (flags.memory_swap.as_deref(), memory) {
        (None | Some("0"), _) => {}
        (Some("-1"), _) => builder = builder.swap(i64::MAX as u64),
        (Some(_), None) => faults.push(Fault::new("--memory-swap needs --memory", "it is the sum of both")),
        (Some(sum), Some(memory)) => match (size(sum), size(memory)) {
            (Some(sum), Some(memory)) if sum >= memory => builder = builder.swap(sum - memory),
            _ => faults.push(Fault::new(format!("--memory-swap {sum} is no more than the memory"), "the sum of memory and swap, or -1")),
        },
    }
    if let Some(soft) = flags.memory_reservation.as_deref().filter(|soft| *soft != "0") {
        builder = builder.memory_reservation(soft);
    }
    if let Some(high) = &flags.memory_high {
        builder = builder.memory_high(high.as_str());
    }
    builder = builder.oom_group(flags.oom_group);
    if let Some(shares) = flags.cpu_shares.filter(|shares| *shares != 0) {
        builder = builder.cpu_weight((shares.saturating_mul(100) / 1024).clamp(1, 10_000));
    }
    if let Some(list) = &flags.cpuset_cpus {
        builder = builder.cpuset_cpus(list);
    }
    if let Some(list) = &flags.cpuset_mems {
        builder = builder.cpuset_mems(list);
    }
    if let Some(weight) = flags.blkio_weight.filter(|weight| *weight != 0) {
        builder = builder.io_weight(weight);
    }
    for (flag, words, what) in [
        ("--device-read-bps", &flags.device_read_bps, Io::ReadBytes),
        ("--device-write-bps", &flags.device_write_bps, Io::WriteBytes),
        ("--device-read-iops", &flags.device_read_iops, Io::ReadOperations),
        ("--device-write-iops", &flags.device_write_iops, Io::WriteOperations),
    ] {
        for word in words {
            match word.rsplit_once(':') {
                Some((disk, most)) => builder = builder.io(disk, what, most),
                None => faults.push(Fault::new(format!("{flag} {word}: there is no number"), format!("for example {flag} /dev/sda:10m"))),
            }
        }
    }
    for word in &flags.hugetlb_limit {
        match word.split_once(':') {
            Some((page, most)) => builder = builder.hugetlb(page, most),
            None => faults.push(Fault::new(format!("--hugetlb-limit {word}: there is no size"), "for example --hugetlb-limit 2MB:64m")),
        }
    }
    builder
}

fn size(text: &str) -> Option<u64> {
    coracle_container::parse_memory(text).ok()
}
