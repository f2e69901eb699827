//! What every measurement here needs: a contender's turn drawn by chance, percentiles, a place for files, the machine in words.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// xorshift: no order repeats itself in a run, and no crate is needed for that.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new() -> Result<Self> {
        let mut seed = [0; 8];
        fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
        Ok(Self(u64::from_ne_bytes(seed) | 1))
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    pub(crate) fn shuffle(&mut self, order: &mut [usize]) {
        for i in (1..order.len()).rev() {
            order.swap(i, self.below(i + 1));
        }
    }
}

/// The value below which so many of a hundred lie.
pub(crate) fn percentile(times: &[u64], percent: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = (times.len() * percent).div_ceil(100).clamp(1, times.len().max(1)) - 1;
    times.get(at).map_or(f64::NAN, |&t| t as f64 / 1e6)
}

/// Files of this run, on tmpfs: a disk's moods are nobody's merit.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        // In a pid namespace of its own every run has the same number.
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let path = Path::new("/dev/shm").join(format!("coracle-bench-{}-{:x}", std::process::id(), now & 0xff_ffff));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn join(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn said(program: &str, words: &[&str]) -> Result<String> {
    let output = Command::new(program).args(words).stdin(std::io::stdin().as_fd().try_clone_to_owned()?).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn kernel() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

/// A name for files: architecture, processors, kernel.
fn machine() -> Result<String> {
    let kernel = kernel()?;
    let numbers: Vec<&str> = kernel.split(['.', '-']).take(2).collect();
    let processors = std::thread::available_parallelism()?;
    Ok(format!("{}-{processors}cpu-linux{}", std::env::consts::ARCH, numbers.join(".")))
}

pub(crate) fn heading(title: &str, by: &str) -> Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).map_or("", |l| l.trim_start_matches([' ', '\t', ':']));
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kib: u64 = memory.lines().find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    let load = fs::read_to_string("/proc/loadavg")?;
    let commit = said("git", &["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    let cgroups = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        "cgroup v2"
    } else if Path::new("/sys/fs/cgroup/unified").exists() {
        "cgroups hybrid: v1 controllers, a cgroup2 tree beside them"
    } else {
        "cgroup v1"
    };
    Ok(format!(
        "# {title}\n\n- date: {}\n- commit: {commit}\n- machine: {}, {model}, {} processors, {} GiB, Linux {}, {cgroups}\n- load when it began: {}\n- by: {by}\n\n",
        said("date", &["-u", "+%Y-%m-%d %H:%M UTC"])?,
        std::env::consts::ARCH,
        std::thread::available_parallelism()?,
        (kib + (1 << 19)) >> 20,
        kernel()?,
        load.trim()
    ))
}

/// What this program is started for once more, with the words behind its name.
type Act = fn(&[String]) -> Result;

/// What a measurement does with its words: one of its acts, if the first word names one, else the measuring itself.
pub(crate) fn play(help: &str, acts: &[(&str, Act)], measure: fn(&Words) -> Result) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let first = words.first().map_or("", String::as_str);
    let done = match acts.iter().find(|act| act.0 == first) {
        Some(act) => act.1(&words[1..]),
        None if first == "--help" || first == "-h" => {
            print!("{help}");
            Ok(())
        }
        None => measure(&Words(words)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Flags.
pub(crate) struct Words(pub(crate) Vec<String>);

impl Words {
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.0.iter().any(|word| word == flag)
    }

    fn value(&self, flag: &str) -> Option<&str> {
        self.0.iter().position(|word| word == flag).and_then(|at| self.0.get(at + 1)).map(String::as_str)
    }

    /// How many, by a flag with a number; fewer with `--quick`.
    pub(crate) fn count(&self, flag: &str, usually: usize, quick: usize) -> Result<usize> {
        match self.value(flag) {
            Some(count) => Ok(count.parse()?),
            None => Ok(if self.has("--quick") { quick } else { usually }),
        }
    }

    /// Whom `--only` names by the beginning of their names; nobody: all.
    pub(crate) fn only(&self) -> Vec<String> {
        self.value("--only").map(|names| names.split(',').map(str::to_owned).collect()).unwrap_or_default()
    }

    /// Shows a result, and keeps it in the tree unless flags say that it isn't a whole one, or not of what is promised.
    pub(crate) fn keep(&self, subject: &str, report: &str) -> Result {
        println!("{report}");
        if !["--only", "--print", "--tmpfs"].iter().any(|flag| self.has(flag)) {
            let path = format!("benches/results/{}-{}-{subject}.md", said("date", &["-u", "+%Y-%m-%d"])?, machine()?);
            fs::create_dir_all("benches/results")?;
            fs::write(&path, report)?;
            eprintln!("written: {path}");
        }
        Ok(())
    }
}
