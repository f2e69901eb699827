//! `cargo xtask bench life`: a container that lives: commands run in it beside others, starts from a snapshot, many starts at once, many
//! containers at once; in one run and, where times are compared, in random turn.
//!
//! This is no test: nothing fails because a machine is slow.

mod bench;
mod contender;
mod daemon;
mod rootfs;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use coracle::{Container, ContainerBuilder, Engine};

use bench::{Chance, Result, Scratch, Words, heading, play};
use contender::{Engines, Field, TURN, itself, make_bundle, number_in, parent, program, rollup, serve, serve_program, without_unified};
use daemon::coracle;
use rootfs::make_rootfs;

const HELP: &str = "\
Usage: cargo xtask bench life [--lives N] [--quick] [--only NAME,NAME] [--print]

  --lives N    of each contender (300; slow ones have fewer)
  --quick      60 lives
  --only A,B   only contenders whose name begins with one of these; writes no file
  --print      writes no file
";

/// Containers that live at one time.
const MANY: usize = 200;

fn main() -> ExitCode {
    play(HELP, &[("--serve-exec", serve_exec), ("--serve-start", serve_start), ("--serve-program", serve_program)], measure)
}

fn measure(words: &Words) -> Result {
    let (lives, only) = (words.count("--lives", 300, 60)?, words.only());
    let mut report = heading("Containers that live", "`cargo xtask bench life` (benches/life.rs says how)")?;
    let scratch = Scratch::new()?;
    let rootfs = scratch.join("rootfs");
    make_rootfs(Path::new(&rootfs))?;
    let engines = Engines::start(Path::new(&scratch.join("docker")));
    let mut chance = Chance::new()?;
    report += &execs(&scratch, &engines, &rootfs, &only, lives, &mut chance)?;
    report += &snapshots(&scratch, &rootfs, &only, lives, &mut chance)?;
    if only.is_empty() {
        report += &starts_a_second(&scratch, &engines, &rootfs, lives)?;
        report += &many(&scratch, &rootfs)?;
    }
    words.keep("life", &report)
}

fn described(engine: &Engine, builder: ContainerBuilder, words: &[&str]) -> ContainerBuilder {
    let null = coracle::Stdio::null;
    builder.engine(engine).cmd(words).stdin(null()).stdout(null()).stderr(null()).memory("256m").pids(64)
}

/// How far a ratio is from what was promised.
fn verdict(value: f64, good: bool) -> String {
    match (value.is_nan(), good) {
        (true, _) => String::from("not measured"),
        (_, true) => format!("{value:.2} ✓"),
        (_, false) => format!("{value:.2} ✗"),
    }
}

fn quietly(words: &[impl AsRef<str>]) -> Command {
    let mut command = Command::new(words[0].as_ref());
    command.args(words[1..].iter().map(AsRef::as_ref)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

// Further commands.

/// `true` in a container that lives: `ROOT ROOTFS`.
fn serve_exec(arguments: &[String]) -> Result {
    let [root, rootfs] = arguments else { return Err("ROOT ROOTFS".into()) };
    let engine = Engine::builder().root(root).open()?;
    let container = pollster::block_on(described(&engine, Container::from_rootfs(rootfs), &["/bin/sleep", "1000"]).run())?;
    let null = coracle::Stdio::null;
    serve(|| {
        let exec = container.exec(["/bin/true"]).stdin(null()).stdout(null()).stderr(null());
        let start = Instant::now();
        let status = pollster::block_on(exec.status())?;
        let time = start.elapsed();
        if status.success() { Ok(time) } else { Err(format!("{status}").into()) }
    })?;
    Ok(pollster::block_on(container.remove())?)
}

fn execs(scratch: &Scratch, engines: &Engines, rootfs: &str, only: &[String], lives: usize, chance: &mut Chance) -> Result<String> {
    let id = format!("bench-{}", std::process::id());
    let mut field = Field::of(only);
    // Each has a container that lives, and what ends it.
    let mut ends: Vec<Command> = Vec::new();
    field.add("exec", "`container.exec(..).status()`", TURN, || {
        let mut command = itself()?;
        command.args(["--serve-exec", &scratch.join("engine-exec"), rootfs]);
        Ok(command)
    });
    field.add("exec-program", "`coracle exec`", TURN, || {
        let (coracle, engine) = (coracle()?, scratch.join("engine-program"));
        let mut words = vec![coracle.as_str(), "--root", &engine, "run", "-d", "--name", &id, "--memory", "256m", "--pids-limit", "64"];
        words.extend(["--rootfs", rootfs, "/bin/sleep", "1000"]);
        ends.push(quietly(&[&coracle, "--root", &engine, "rm", "-f", &id]));
        if !quietly(&words).status()?.success() {
            return Err("its container doesn't start".into());
        }
        program(&[&coracle, "--root", &engine, "exec", &id, "/bin/true"])
    });
    let bundle = scratch.join("bundle-sleep");
    for (name, runtime) in [("exec-runc", "runc"), ("exec-crun", "crun")] {
        let state = scratch.join(&format!("state-{name}"));
        let before = format!("{runtime} --root {state} run --detach --bundle {bundle} {id} </dev/null >/dev/null 2>&1 || exit 1");
        let what = if runtime == "runc" { "`runc exec`" } else { "`crun exec`" };
        let mut end = without_end(runtime, &state, &id);
        end.stdout(Stdio::null()).stderr(Stdio::null());
        ends.push(end);
        field.add(name, what, TURN, || {
            make_bundle(Path::new(&bundle), rootfs, &["/bin/sleep", "1000"])?;
            without_unified(&before, &[runtime, "--root", &state, "exec", &id, "/bin/true"])
        });
    }
    for (name, engine) in [("exec-podman", "podman"), ("exec-docker", "docker")] {
        let what = if engine == "podman" { "`podman exec`" } else { "`docker exec`" };
        field.add(name, what, 1, || {
            let run = engines.run(engine, rootfs, &["-d", "--name", &id], &["/bin/sleep", "1000"])?;
            ends.push(quietly(&engines.ask(engine, &["rm", "-f", &id])?));
            if !quietly(&run).status()?.success() {
                return Err("its container doesn't start".into());
            }
            program(&engines.ask(engine, &["exec", &id, "/bin/true"])?)
        });
    }
    let done = field.rounds(lives, chance, None);
    let mut page = field.table("`true` in a container that lives", "ten a turn", |c| &c.back_to_back, &[("exec-crun", 50)])?;
    let (ours, crun) = (field.at("exec", 50, |c| &c.back_to_back), field.at("exec-crun", 50, |c| &c.back_to_back));
    writeln!(page, "| | goal | |\n|---|---|--:|")?;
    writeln!(page, "| exec in-process, p50 ms | ≤ 2 | {} |", verdict(ours, ours <= 2.0))?;
    writeln!(page, "| `crun exec` p50 to it | ≥ 3 | {} |\n", verdict(crun / ours, crun / ours >= 3.0))?;
    page += &field.in_words(&["runc", "crun", "podman", "docker"])?;
    drop(field);
    for mut end in ends {
        let _ = end.status();
    }
    done?;
    Ok(page.replace("## Who took part", "### Who took part"))
}

/// What ends a runtime's container, where the cgroup2 tree is out of its sight.
fn without_end(runtime: &str, state: &str, id: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("umount /sys/fs/cgroup/unified 2>/dev/null; exec {runtime} --root {state} delete --force {id}");
    command.args(["-m", "--propagation", "private", "sh", "-c", &script]);
    command
}

// Snapshots.

/// A life over the root, or over a snapshot of a container of it: `ROOT ROOTFS plain|snapshot`.
fn serve_start(arguments: &[String]) -> Result {
    let [root, rootfs, what] = arguments else { return Err("ROOT ROOTFS plain|snapshot".into()) };
    let engine = Engine::builder().root(root).open()?;
    let from = if what == "snapshot" {
        let container = pollster::block_on(described(&engine, Container::from_rootfs(rootfs), &["/bin/sleep", "1000"]).run())?;
        let made = pollster::block_on(container.exec(["/bin/busybox", "sh", "-c", "mkdir /kept; echo 1 > /kept/file"]).status())?;
        if !made.success() {
            return Err("a file can't be made".into());
        }
        pollster::block_on(container.snapshot("bench"))?;
        pollster::block_on(container.remove())?;
        Container::from_snapshot("bench")
    } else {
        Container::from_rootfs(rootfs)
    };
    let builder = described(&engine, from, &["/bin/true"]);
    serve(|| {
        let builder = builder.clone();
        let start = Instant::now();
        let status = pollster::block_on(builder.status())?;
        let time = start.elapsed();
        if status.success() { Ok(time) } else { Err(format!("{status}").into()) }
    })
}

fn snapshots(scratch: &Scratch, rootfs: &str, only: &[String], lives: usize, chance: &mut Chance) -> Result<String> {
    let mut field = Field::of(only);
    let start = |what: &str| -> Result<Command> {
        let mut command = itself()?;
        command.args(["--serve-start", &scratch.join(&format!("engine-{what}")), rootfs, what]);
        Ok(command)
    };
    field.add("start", "a life from a root file system", TURN, || start("plain"));
    field.add("start-snapshot", "a life from a snapshot of a container that had written a file", TURN, || start("snapshot"));
    field.rounds(lives, chance, None)?;
    let mut page = field.table("A life from a snapshot", "ten a turn", |c| &c.back_to_back, &[("start", 50), ("start", 99)])?;
    let p50 = |name| field.at(name, 50, |c| &c.back_to_back);
    let ratio = p50("start-snapshot") / p50("start");
    writeln!(page, "| | goal | |\n|---|---|--:|\n| from a snapshot to plain, p50 | ≤ 1.2 | {} |\n", verdict(ratio, ratio <= 1.2))?;
    Ok(page)
}

// Many.

/// So many lives by as many threads as keep the processors busy; lives a second.
fn rate(lives: usize, life: impl Fn(usize) -> Result + Sync) -> Result<f64> {
    let threads = 2 * std::thread::available_parallelism()?.get();
    let next = AtomicUsize::new(0);
    let work = || -> std::result::Result<(), String> {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= lives {
                return Ok(());
            }
            life(n).map_err(|error| error.to_string())?;
        }
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(String::from("a thread panicked"))))
    })?;
    Ok(lives as f64 / start.elapsed().as_secs_f64())
}

/// Runs a program, which must end well.
fn command(words: &[impl AsRef<str>]) -> Result {
    let output = quietly(words).stderr(Stdio::piped()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{}: {}", words[0].as_ref(), said.trim()).into()) }
}

fn starts_a_second(scratch: &Scratch, engines: &Engines, rootfs: &str, lives: usize) -> Result<String> {
    let engine = Engine::builder().root(scratch.join("engine-rate")).open()?;
    let id = std::process::id();
    let mut rows: Vec<(&str, usize, Result<f64>)> = Vec::new();
    let ours = |_| -> Result {
        let status = pollster::block_on(described(&engine, Container::from_rootfs(rootfs), &["/bin/true"]).status())?;
        if status.success() { Ok(()) } else { Err(format!("{status}").into()) }
    };
    ours(0)?;
    rows.push(("in-process", 4 * lives, rate(4 * lives, ours)));
    let (program, store) = (coracle()?, scratch.join("engine-rate-program"));
    let by_program =
        |_| command(&[&program, "--root", &store, "run", "--memory", "256m", "--pids-limit", "64", "--rootfs", rootfs, "/bin/true"]);
    rows.push(("`coracle run`", 2 * lives, rate(2 * lives, by_program)));
    let bwrap = |_| command(&["bwrap", "--unshare-all", "--bind", rootfs, "/", "--proc", "/proc", "--dev", "/dev", "/bin/true"]);
    rows.push(("`bwrap --unshare-all`, without limits", 4 * lives, rate(4 * lives, bwrap)));
    let (bundle, state) = (scratch.join("bundle-true"), scratch.join("state-rate"));
    let bundled = make_bundle(Path::new(&bundle), rootfs, &["/bin/true"]);
    let runc = |n| command(&["runc", "--root", &state, "run", "--bundle", &bundle, &format!("bench-{id}-{n}")]);
    rows.push(("`runc run`", lives, bundled.and_then(|()| rate(lives, runc))));
    for (name, engine) in [("`podman run --rm`", "podman"), ("`docker run --rm`", "docker")] {
        let lives = lives.div_ceil(10);
        let measured = engines.run(engine, rootfs, &["--rm"], &["/bin/true"]).and_then(|words| rate(lives, |_| command(&words)));
        rows.push((name, lives, measured));
    }
    let threads = 2 * std::thread::available_parallelism()?.get();
    let mut page = format!("## Lives a second\n\nby {threads} threads, each one life after another; memory and pids limits.\n\n");
    writeln!(page, "| | lives | a second | ours to it |\n|---|--:|--:|--:|")?;
    let first = rows.first().and_then(|row| row.2.as_ref().ok()).copied().unwrap_or(f64::NAN);
    for (name, lives, measured) in &rows {
        match measured {
            Ok(rate) => writeln!(page, "| {name} | {lives} | {rate:.0} | {:.1} |", first / rate)?,
            Err(error) => writeln!(page, "| {name} | | absent: {} | |", error.to_string().lines().next().unwrap_or_default())?,
        }
    }
    Ok(page + "\n")
}

fn many(scratch: &Scratch, rootfs: &str) -> Result<String> {
    let engine = Engine::builder().root(scratch.join("engine-many")).open()?;
    let run = || pollster::block_on(described(&engine, Container::from_rootfs(rootfs), &["/bin/sleep", "1000"]).run());
    let start = |containers: &mut Vec<Container>| -> Result {
        for _ in 0..MANY {
            containers.push(run()?);
        }
        // What the starting took goes back when it is quiet.
        std::thread::sleep(Duration::from_secs(2));
        Ok(())
    };
    let end = |containers: Vec<Container>| containers.iter().try_for_each(|container| pollster::block_on(container.remove()));
    // Once before: the kernel keeps some of what it gets for itself.
    let mut warm = Vec::new();
    start(&mut warm)?;
    end(warm)?;
    std::thread::sleep(Duration::from_secs(2));
    let before = available()?;
    let mut containers = Vec::new();
    start(&mut containers)?;
    let taken = before.saturating_sub(available()?) as f64 / MANY as f64;
    let mut pss = 0;
    for container in &containers {
        let init = container.pid();
        pss += rollup(init)?.0 + rollup(parent(init)?)?.0;
    }
    end(containers)?;
    let pss = pss as f64 / MANY as f64;
    let mut page = format!("## {MANY} containers that live\n\neach with memory and pids limits; the command itself sleeps.\n\n");
    writeln!(page, "| of each | goal | KiB |\n|---|---|--:|")?;
    writeln!(page, "| PSS of supervisor and init | ≤ 200 | {} |", verdict(pss, pss <= 200.0))?;
    writeln!(page, "| MemAvailable, the kernel's part and the command in it | ≤ 1024 | {} |\n", verdict(taken, taken <= 1024.0))?;
    Ok(page)
}

/// KiB that the kernel says can be had.
fn available() -> Result<u64> {
    number_in("/proc/meminfo", "MemAvailable:")
}
