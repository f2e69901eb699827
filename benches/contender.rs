//! Those who are measured beside each other: each a process that does one thing when asked and answers with the time that it took.

use super::bench::{Chance, Result, percentile, said};
use super::daemon::Daemon;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Times in one turn: one after the other, so that a contender pays for its own leftovers.
pub(crate) const TURN: usize = 10;
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

/// Somebody who lives a container's life when asked, or a part of one, in a process that waits for the asking.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) what: String,
    process: Child,
    answers: BufReader<ChildStdout>,
    /// Lives for each of the others' ten; 10 is full, 1 is for the slow.
    turn: usize,
    /// Nanoseconds.
    pub(crate) back_to_back: Vec<u64>,
    pub(crate) with_pauses: Vec<u64>,
}

impl Contender {
    pub(crate) fn new(name: &'static str, what: impl Into<String>, turn: usize, mut command: Command) -> Result<Self> {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let answers = BufReader::new(process.stdout.take().ok_or("no output")?);
        let mut new = Self { name, what: what.into(), process, answers, turn, back_to_back: Vec::new(), with_pauses: Vec::new() };
        // Warm: its files are in memory, and a contender that can't is found out now.
        for _ in 0..3 {
            new.life()?;
        }
        Ok(new)
    }

    /// Nanoseconds.
    fn life(&mut self) -> Result<u64> {
        self.process.stdin.as_mut().ok_or("no input")?.write_all(b".")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().parse().map_err(|_| format!("{} can't: {}", self.name, if line.is_empty() { "it ended" } else { line.trim() }))?)
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Everybody who takes part, and why the others can't.
pub(crate) struct Field {
    pub(crate) all: Vec<Contender>,
    absent: Vec<String>,
    only: Vec<String>,
}

impl Field {
    /// Nobody yet; later only those whose name begins with one of these, if there are any.
    pub(crate) fn of(only: &[String]) -> Self {
        Self { all: Vec::new(), absent: Vec::new(), only: only.to_vec() }
    }

    /// Takes one in that can.
    pub(crate) fn add(&mut self, name: &'static str, what: &str, turn: usize, command: impl FnOnce() -> Result<Command>) {
        if !self.only.is_empty() && !self.only.iter().any(|o| name.starts_with(o.as_str())) {
            return;
        }
        eprintln!("warming up: {name}");
        match command().and_then(|command| Contender::new(name, what, turn, command)) {
            Ok(contender) => self.all.push(contender),
            Err(error) => {
                eprintln!("  absent: {error}");
                self.absent.push(format!("{name}: {error}"));
            }
        }
    }

    /// Gives everybody turns in an order that is drawn anew each round, until the fast have had so many lives.
    pub(crate) fn rounds(&mut self, lives: usize, chance: &mut Chance, pause: Option<Duration>) -> Result {
        let rounds = lives.div_ceil(TURN);
        let mut order: Vec<usize> = (0..self.all.len()).collect();
        for round in 0..rounds {
            eprint!("\r{} round {} of {rounds} ", if pause.is_some() { "with pauses," } else { "back to back," }, round + 1);
            chance.shuffle(&mut order);
            for &i in &order {
                let contender = &mut self.all[i];
                // What the one before left to the kernel (a network namespace, for one) is not this one's to wait for.
                std::thread::sleep(PAUSE);
                for _ in 0..contender.turn {
                    if let Some(pause) = pause {
                        std::thread::sleep(pause);
                    }
                    let time = contender.life()?;
                    if pause.is_some() { contender.with_pauses.push(time) } else { contender.back_to_back.push(time) }
                }
            }
        }
        eprintln!();
        Ok(())
    }

    /// Milliseconds below which so many of a hundred of somebody's times lie; not a number where he is absent.
    pub(crate) fn at(&self, name: &str, percent: usize, of: fn(&Contender) -> &Vec<u64>) -> f64 {
        self.all.iter().find(|c| c.name == name).map_or(f64::NAN, |c| percentile(of(c), percent))
    }

    /// A table of everybody's times, and of their ratios to some at a percentile.
    pub(crate) fn table(&self, title: &str, how: &str, of: fn(&Contender) -> &Vec<u64>, ratios: &[(&str, usize)]) -> Result<String> {
        let mut page = format!("## {title}\n\n{how}; milliseconds.\n\n| | lives | min | p50 | p90 | p99 |");
        for (to, percent) in ratios {
            write!(page, " p{percent} / {to} |")?;
        }
        writeln!(page, "\n|---|{}", "--:|".repeat(5 + ratios.len()))?;
        for c in &self.all {
            let p = |percent| percentile(of(c), percent);
            write!(page, "| {} | {} | {:.2} | {:.2} | {:.2} | {:.2} |", c.name, of(c).len(), p(0), p(50), p(90), p(99))?;
            for &(to, percent) in ratios {
                write!(page, " {:.2} |", p(percent) / self.at(to, percent, of))?;
            }
            writeln!(page)?;
        }
        Ok(page + "\n")
    }

    /// Who took part, in which version, and who didn't.
    pub(crate) fn in_words(&self, versions: &[&str]) -> Result<String> {
        let mut page = String::from("## Who took part\n\n");
        for c in &self.all {
            writeln!(page, "- {}: {}", c.name, c.what)?;
        }
        for a in &self.absent {
            writeln!(page, "- absent: {a}")?;
        }
        for name in versions {
            if let Ok(version) = said(name, &["--version"]) {
                writeln!(page, "- version: {}", version.lines().next().unwrap_or_default())?;
            }
        }
        Ok(page + "\n")
    }
}

/// This program, which plays every contender.
pub(crate) fn itself() -> Result<Command> {
    Ok(Command::new(std::env::current_exe()?))
}

/// It, as one that runs a program each time: [`serve_program`] has to be what it does with `--serve-program`.
pub(crate) fn program(words: &[impl AsRef<str>]) -> Result<Command> {
    let mut command = itself()?;
    command.arg("--serve-program").args(words.iter().map(AsRef::as_ref));
    Ok(command)
}

/// One life for each byte of standard input.
pub(crate) fn serve(mut life: impl FnMut() -> Result<Duration>) -> Result {
    let mut byte = [0];
    while std::io::stdin().read(&mut byte)? == 1 {
        match life() {
            Ok(time) => println!("{}", time.as_nanos()),
            Err(error) => {
                println!("{}", error.to_string().replace('\n', " "));
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A program that lives a whole life each time: its words.
pub(crate) fn serve_program(words: &[String]) -> Result {
    serve(|| {
        let start = Instant::now();
        let status = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
        let time = start.elapsed();
        if status.success() { Ok(time) } else { Err(format!("{} {status}", words[0]).into()) }
    })
}

/// A bundle as `runc spec` makes it, with our limits and without a terminal.
pub(crate) fn make_bundle(at: &Path, rootfs: &str, words: &[&str]) -> Result {
    fs::create_dir_all(at)?;
    let path = at.join("config.json");
    let mut spec = Command::new("runc");
    if !path.exists() && !spec.arg("spec").current_dir(at).status()?.success() {
        return Err("runc spec failed".into());
    }
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(words);
    config["root"] = serde_json::json!({ "path": rootfs, "readonly": true });
    config["linux"]["resources"]["memory"] = serde_json::json!({ "limit": 268_435_456 });
    config["linux"]["resources"]["pids"] = serde_json::json!({ "limit": 64 });
    Ok(fs::write(&path, serde_json::to_vec(&config)?)?)
}

/// The same program in a mount namespace without the cgroup2 tree beside v1 controllers, with which crun refuses to work. `before` is a line
/// of shell that is run there first.
pub(crate) fn without_unified(before: &str, words: &[impl AsRef<str>]) -> Result<Command> {
    let mut command = Command::new("unshare");
    let script = format!("umount /sys/fs/cgroup/unified 2>/dev/null; {before}\nexec \"$0\" --serve-program \"$@\"");
    command.args(["-m", "--propagation", "private", "sh", "-c", &script]).arg(std::env::current_exe()?);
    command.args(words.iter().map(AsRef::as_ref));
    Ok(command)
}

/// Gives an engine, by the words that ask it, the root file system as an image; its name there.
fn import(engine: &[String], rootfs: &str) -> Result<&'static str> {
    const IMAGE: &str = "localhost/coracle-bench:1";
    let mut tar = Command::new("tar").args(["-C", rootfs, "-c", "."]).stdout(Stdio::piped()).spawn()?;
    let archive = tar.stdout.take().ok_or("no tar")?;
    let import = Command::new(&engine[0]).args(&engine[1..]).args(["import", "-", IMAGE]).stdin(archive).output();
    tar.wait()?;
    let import = import?;
    if !import.status.success() {
        let why = String::from_utf8_lossy(&import.stderr).into_owned();
        return Err(why.lines().next().unwrap_or("import failed").to_owned().into());
    }
    Ok(IMAGE)
}

/// The engines with their names, the words that ask them, and those that a run needs besides; Docker with a daemon of its own, or why not.
pub(crate) struct Engines {
    docker: std::result::Result<(Daemon, Vec<String>), String>,
}

impl Engines {
    pub(crate) fn start(home: &Path) -> Self {
        Self { docker: Daemon::docker(home).map_err(|error| error.to_string()) }
    }

    /// Asks for `podman` or `docker`.
    pub(crate) fn ask(&self, engine: &str, words: &[&str]) -> Result<Vec<String>> {
        let mut all = match (engine, &self.docker) {
            ("docker", Ok((_, words))) => words.clone(),
            ("docker", Err(error)) => return Err(error.clone().into()),
            _ => vec![engine.to_owned()],
        };
        all.extend(words.iter().map(|&word| word.to_owned()));
        Ok(all)
    }

    /// Asks for a container of this root file system, with memory and pids limits and without a network.
    pub(crate) fn run(&self, engine: &str, rootfs: &str, more: &[&str], command: &[&str]) -> Result<Vec<String>> {
        let image = import(&self.ask(engine, &[])?, rootfs)?;
        let mut words = vec!["run", "--network", "none", "--memory", "256m", "--pids-limit", "64"];
        if engine == "podman" {
            words.extend(PODMAN);
        }
        words.extend(more);
        words.push(image);
        words.extend(command);
        self.ask(engine, &words)
    }
}

/// What podman needs where it runs in a container itself: its own default limits may be more than that one may give.
const PODMAN: [&str; 6] = ["--runtime", "runc", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];

/// The number behind a name in a file of the kernel's.
pub(crate) fn number_in(file: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(|| format!("{file} has no {name}"))?;
    Ok(line.split_whitespace().next().unwrap_or_default().parse()?)
}

/// The parent of a process.
pub(crate) fn parent(pid: u32) -> Result<u32> {
    Ok(number_in(&format!("/proc/{pid}/status"), "PPid:")?.try_into()?)
}

/// KiB of a process in memory: its share of them, and all.
pub(crate) fn rollup(pid: u32) -> Result<(u64, u64)> {
    let file = format!("/proc/{pid}/smaps_rollup");
    Ok((number_in(&file, "Pss:")?, number_in(&file, "Rss:")?))
}
