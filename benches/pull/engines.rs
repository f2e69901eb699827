//! Those who pull: ours and the field's, each with directories of its own on the file system that is measured.
//!
//! A turn is: pull an image that isn't here, pull it again, remove it. Of each of the three: wall time, user and system time of
//! everything that the engine runs (its daemons included, by `/proc/PID/stat` before and after), and the largest resident size. Who
//! has a daemon starts it before and ends it after all turns, by its pid.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::bench::Result;
use crate::daemon::Daemon;

/// What one step took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Nanoseconds.
    pub(crate) wall: u64,
    /// Nanoseconds of user and system time.
    pub(crate) cpu: u64,
    /// KiB.
    pub(crate) resident: u64,
}

/// The words that an engine is told something about an image by.
type Words = Box<dyn Fn(&str) -> Vec<String>>;

/// An engine, and how it's told.
pub(crate) struct EngineOf {
    pub(crate) name: &'static str,
    pub(crate) what: String,
    pull: Words,
    remove: Words,
    /// Whether it knows that an image is here.
    pub(crate) remembers: bool,
    /// Goes after each turn: what it knows of images that were here would help the next.
    wiped: Option<PathBuf>,
    daemon: Option<Daemon>,
    environment: Vec<(&'static str, String)>,
}

impl EngineOf {
    pub(crate) fn pull(&self, reference: &str) -> Result<Cost> {
        self.run(&(self.pull)(reference))
    }

    pub(crate) fn remove(&self, reference: &str) -> Result<Cost> {
        let cost = self.run(&(self.remove)(reference))?;
        if let Some(directory) = &self.wiped {
            fs::remove_dir_all(directory)?;
        }
        Ok(cost)
    }

    fn run(&self, words: &[String]) -> Result<Cost> {
        let daemons = self.daemon.as_ref().map(|daemon| descendants(daemon.0.id())).transpose()?.unwrap_or_default();
        let before = cpu_of(&daemons)?;
        for pid in &daemons {
            // The largest resident size counts anew.
            fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        }
        let mut cost = self.measure(words)?;
        if let Some(daemon) = &self.daemon {
            let daemons = descendants(daemon.0.id())?;
            cost.cpu += cpu_of(&daemons)?.saturating_sub(before);
            cost.resident += daemons.iter().map(|pid| status_kib(*pid, "VmHWM:").unwrap_or(0)).sum::<u64>();
        }
        Ok(cost)
    }

    /// By a small process of its own, so that what its children used is this program's alone.
    fn measure(&self, words: &[String]) -> Result<Cost> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--measure").args(words).envs(self.environment.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<u64> = text.lines().last().unwrap_or_default().split(' ').map_while(|word| word.parse().ok()).collect();
        match numbers[..] {
            [wall, cpu, resident] if output.status.success() => Ok(Cost { wall, cpu, resident }),
            _ => {
                let said = String::from_utf8_lossy(&output.stderr);
                Err(format!("{}: {}", words.join(" "), said.lines().next().unwrap_or("it failed")).into())
            }
        }
    }
}

/// Runs a program, and prints nanoseconds of wall time, of CPU time, and KiB: what `--measure` does.
pub(crate) fn measured(words: &[String]) -> Result {
    use nix::sys::resource::{UsageWho, getrusage};
    let begun = Instant::now();
    let status = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    let wall = begun.elapsed().as_nanos();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let nanoseconds = |time: nix::sys::time::TimeVal| (time.tv_sec() * 1_000_000 + time.tv_usec()) * 1000;
    if !status.success() {
        return Err(status.to_string().into());
    }
    println!("{wall} {} {}", nanoseconds(usage.user_time()) + nanoseconds(usage.system_time()), usage.max_rss());
    Ok(())
}

/// A process and all below it.
fn descendants(root: u32) -> Result<Vec<u32>> {
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        for task in fs::read_dir(format!("/proc/{}/task", found[at])).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        at += 1;
    }
    Ok(found)
}

/// Nanoseconds of user and system time, of processes and of the children that they waited for.
fn cpu_of(pids: &[u32]) -> Result<u64> {
    let mut ticks = 0;
    for pid in pids {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let fields = stat.rsplit_once(") ").ok_or("a strange /proc/PID/stat")?.1.split(' ');
        // utime, stime, cutime, cstime: the 14th to the 17th field, of which two are gone.
        ticks += fields.skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
    }
    // A tick is 10 ms in what /proc shows, on every Linux.
    Ok(ticks * 10_000_000)
}

pub(crate) fn status_kib(pid: u32, field: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such field")?;
    Ok(line.split_whitespace().next().ok_or("no number")?.parse()?)
}

fn words(text: &[&str]) -> Vec<String> {
    text.iter().map(|&word| word.to_owned()).collect()
}

/// Ours, by the program as it's handed out: in a new directory each time, or in one where the image was before.
pub(crate) fn coracle(disk: &Path, program: &str, known: bool) -> EngineOf {
    let name = if known { "coracle-known" } else { "coracle" };
    let directory = disk.join(name);
    let root = directory.display().to_string();
    let (pull, remove) = ((program.to_owned(), root.clone()), (program.to_owned(), root));
    EngineOf {
        name,
        what: match known {
            false => "`coracle pull`; durable by one syncfs; blobs kept".into(),
            true => "the same in a directory where the image was before and was removed: diffIDs of its blobs are known".into(),
        },
        pull: Box::new(move |reference| words(&[&pull.0, "--root", &pull.1, "pull", "--quiet", reference])),
        remove: Box::new(move |reference| words(&[&remove.0, "--root", &remove.1, "rmi", reference])),
        remembers: true,
        wiped: (!known).then_some(directory),
        daemon: None,
        environment: Vec::new(),
    }
}

/// The bare program of `floor.rs`. It's told layers, not a reference: `lines` gives them.
pub(crate) fn floor(
    disk: &Path,
    name: &'static str,
    what: &str,
    keep: &'static str,
    address: &str,
    layers: impl Fn(&str) -> Vec<String> + 'static,
) -> Result<EngineOf> {
    let program = std::env::current_exe()?.display().to_string();
    let directory = disk.join(name).display().to_string();
    let (gone, address) = (directory.clone(), address.to_owned());
    Ok(EngineOf {
        name,
        what: what.to_owned(),
        pull: Box::new(move |reference| {
            let mut all = words(&[&program, "--floor", &address, &directory, keep]);
            all.extend(layers(reference));
            all
        }),
        remove: Box::new(move |_| words(&["rm", "-rf", &gone])),
        remembers: false,
        wiped: None,
        daemon: None,
        environment: Vec::new(),
    })
}

pub(crate) fn podman(disk: &Path) -> Result<EngineOf> {
    let (root, run) = (disk.join("podman").display().to_string(), disk.join("podman-run").display().to_string());
    let base = words(&["podman", "--root", &root, "--runroot", &run, "--runtime", "runc", "--storage-driver", "overlay"]);
    let (pull, remove) = (base.clone(), base);
    let after = |base: &[String], more: &[&str]| base.iter().cloned().chain(words(more)).collect();
    Ok(EngineOf {
        name: "podman",
        what: format!("`podman pull`, {}", version("podman", &["--version"])?),
        pull: Box::new(move |reference| after(&pull, &["pull", "--quiet", "--tls-verify=false", reference])),
        remove: Box::new(move |reference| after(&remove, &["rmi", "--force", reference])),
        remembers: true,
        wiped: None,
        daemon: None,
        environment: vec![("TMPDIR", disk.display().to_string())],
    })
}

/// Skopeo fetches, umoci unpacks.
pub(crate) fn umoci(disk: &Path) -> Result<EngineOf> {
    let directory = disk.join("umoci").display().to_string();
    let script = "skopeo copy --quiet --insecure-policy --src-tls-verify=false docker://$1 oci:$0/layout:x && umoci unpack --image $0/layout:x $0/bundle";
    let gone = directory.clone();
    Ok(EngineOf {
        name: "umoci",
        what: format!("`skopeo copy` into a layout, then `umoci unpack`, {}", version("umoci", &["--version"])?),
        pull: Box::new(move |reference| words(&["sh", "-c", &format!("mkdir $0 && {script}"), &directory, reference])),
        remove: Box::new(move |_| words(&["rm", "-rf", &gone])),
        remembers: false,
        wiped: None,
        daemon: None,
        environment: vec![("TMPDIR", disk.display().to_string())],
    })
}

pub(crate) fn docker(disk: &Path) -> Result<EngineOf> {
    let (daemon, docker) = Daemon::docker(&disk.join("docker"))?;
    let asked = |more: &'static [&'static str]| {
        let docker = docker.clone();
        move |reference: &str| docker.iter().map(String::as_str).chain(more.iter().copied()).chain([reference]).map(str::to_owned).collect()
    };
    Ok(EngineOf {
        name: "docker",
        what: format!("`docker pull`, {}", version("dockerd", &["--version"])?),
        pull: Box::new(asked(&["pull", "--quiet"])),
        remove: Box::new(asked(&["rmi", "--force"])),
        remembers: true,
        wiped: None,
        daemon: Some(daemon),
        environment: Vec::new(),
    })
}

pub(crate) fn containerd(disk: &Path) -> Result<EngineOf> {
    let home = disk.join("containerd");
    fs::create_dir_all(&home)?;
    let at = |name: &str| home.join(name).display().to_string();
    let (config, socket) = (home.join("config.toml"), at("socket"));
    let text = format!(
        "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {socket:?}\n",
        at("root"),
        at("state")
    );
    fs::write(&config, text)?;
    let mut daemon = Command::new("containerd");
    daemon.arg("--config").arg(&config);
    let ready = words(&["ctr", "--address", &socket, "version"]);
    let daemon = Daemon::start(daemon, &home.join("log"), &ready)?;
    let unpigz = if version("unpigz", &["--version"]).is_ok() { ", inflating by unpigz" } else { "" };
    let (pull, remove) = (socket.clone(), socket);
    Ok(EngineOf {
        name: "ctr",
        what: format!("`ctr image pull`, {}{unpigz}", version("containerd", &["--version"])?),
        pull: Box::new(move |reference| words(&["ctr", "--address", &pull, "image", "pull", "--plain-http", reference])),
        remove: Box::new(move |reference| words(&["ctr", "--address", &remove, "image", "rm", "--sync", reference])),
        remembers: true,
        wiped: None,
        daemon: Some(daemon),
        environment: Vec::new(),
    })
}

fn version(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned())
}
