//! `cargo xtask bench start`: a whole life of a container, ours beside the field's, in one run and in random turn.
//!
//! A life is: make it, run `true` in it, reap, and have everything removed. Figures of a shared machine drift by a factor of two
//! within minutes, so every contender has a turn in every round, the order of each round is drawn anew, and what is kept is the ratio
//! to `bwrap --unshare-all` and to a floor (`benches/floor/floor.c`). This is no test: nothing fails because a machine is slow.

mod bench;
mod contender;
mod daemon;
mod rootfs;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use coracle::{Container, Engine};

use bench::{Chance, Result, Scratch, Words, heading, play};
use contender::{
    Contender, Engines, Field, PAUSE, TURN, itself, make_bundle, parent, program, rollup, serve, serve_program, without_unified,
};
use daemon::coracle;
use rootfs::make_rootfs;

const HELP: &str = "\
Usage: cargo xtask bench start [--lives N] [--quick] [--only NAME,NAME] [--no-pauses] [--build] [--no-lives] [--print]

  --lives N    lives of each contender (300; slow ones have fewer)
  --quick      60 lives
  --only A,B   only contenders whose name begins with one of these; writes no file
  --no-pauses  only back to back
  --build      cold build time and number of dependencies, too (minutes)
  --no-lives   nothing but --build
  --print      writes no file
";

fn main() -> ExitCode {
    play(HELP, &[("--serve-owner", serve_owner), ("--serve-program", serve_program)], measure)
}

// Contenders.

/// The in-process life, in a process with so many MiB resident: `ROOT ROOTFS MIB limits|bare`.
fn serve_owner(arguments: &[String]) -> Result {
    let [root, rootfs, resident, limits] = arguments else { return Err("ROOT ROOTFS MIB limits|bare".into()) };
    let resident: usize = resident.parse()?;
    let ballast: Vec<u8> = (0..resident << 20).map(|i| (i >> 12) as u8 | 1).collect();
    let engine = Engine::builder().root(root).open()?;
    serve(|| {
        let builder = described(&engine, rootfs, limits == "limits");
        let start = Instant::now();
        let status = pollster::block_on(builder.status())?;
        let time = start.elapsed();
        std::hint::black_box(&ballast);
        if status.success() { Ok(time) } else { Err(format!("{status}").into()) }
    })
}

fn described(engine: &Engine, rootfs: &str, limits: bool) -> coracle::ContainerBuilder {
    let builder = Container::from_rootfs(rootfs)
        .engine(engine)
        .cmd(["/bin/true"])
        .stdin(coracle::Stdio::null())
        .stdout(coracle::Stdio::null())
        .stderr(coracle::Stdio::null());
    if limits { builder.memory("256m").pids(64) } else { builder }
}

/// Everybody who can take part, and why the others can't.
fn contenders(scratch: &Scratch, only: &[String]) -> Result<(Field, Engines)> {
    let rootfs = scratch.join("rootfs");
    make_rootfs(Path::new(&rootfs))?;
    let id = std::process::id();
    let mut field = Field::of(only);

    let owner = |n: usize, resident: &str, limits: &str| -> Result<Command> {
        let mut command = itself()?;
        command.args(["--serve-owner", &scratch.join(&format!("engine{n}")), &rootfs, resident, limits]);
        Ok(command)
    };
    field.add("in-process", "`Container::status()`, memory and pids limits", TURN, || owner(0, "0", "limits"));
    field.add("in-process-bare", "the same without limits", TURN, || owner(1, "0", "bare"));
    field.add("owner-10MiB", "in-process, 10 MiB touched in the owner", TURN, || owner(2, "10", "limits"));
    field.add("owner-1GiB", "in-process, 1 GiB touched in the owner", TURN, || owner(3, "1024", "limits"));

    let engine = scratch.join("engine-program");
    let limits = ["--memory", "256m", "--pids-limit", "64"];
    let coracle = coracle()?;
    let mut words = vec![coracle.as_str(), "--root", &engine, "run"];
    words.extend(limits);
    words.extend(["--rootfs", &rootfs, "/bin/true"]);
    field.add("program", "`coracle run --rootfs`, memory and pids limits", TURN, || program(&words));

    let bwrap = ["bwrap", "--unshare-all", "--bind", &rootfs, "/", "--proc", "/proc", "--dev", "/dev", "/bin/true"];
    field.add("bwrap", "`bwrap --unshare-all --bind --proc --dev`; no limits, no overlay, no seccomp", TURN, || program(&bwrap));

    let floor = || -> Result<String> {
        let built = scratch.join("floor");
        if !Path::new(&built).exists() {
            let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/floor/floor.c");
            if !Command::new("cc").args(["-O2", "-static", "-o", &built, source]).status()?.success() {
                return Err("cc can't build it".into());
            }
        }
        Ok(built)
    };
    let on_floor = |limits: &str| -> Result<Command> {
        let at = |hierarchy: &str| {
            let directory = Path::new("/sys/fs/cgroup").join(hierarchy);
            let there = directory.join("cgroup.procs").exists();
            if there { directory.join(format!("floor-{id}-{limits}")).display().to_string() } else { "-".into() }
        };
        let (memory, pids) = (at("memory"), at("pids"));
        if limits == "1" && (memory == "-" || pids == "-") {
            return Err("it knows limits only by cgroup v1".into());
        }
        let mut command = Command::new(floor()?);
        command.args([&rootfs, &scratch.join(&format!("floor-scratch-{limits}")), limits, &at("unified"), &memory, &pids]);
        Ok(command)
    };
    field.add("floor", "bare clone3: the same namespaces, mounts, cgroups and limits", TURN, || on_floor("1"));
    field.add("floor-bare", "the same without limits", TURN, || on_floor("0"));

    let bundle = scratch.join("bundle");
    let oci = |name: &str| -> Result<[String; 7]> {
        make_bundle(Path::new(&bundle), &rootfs, &["/bin/true"])?;
        let state = scratch.join(&format!("state-{name}"));
        Ok([name, "--root", &state, "run", "--bundle", &bundle, &format!("bench-{name}-{id}")].map(str::to_owned))
    };
    field.add("runc", "`runc run`, memory and pids limits", TURN, || program(&oci("runc")?));
    field.add("crun", "`crun run`, memory and pids limits", TURN, || without_unified("", &oci("crun")?));
    let engines = Engines::start(Path::new(&scratch.join("docker")));
    let run = |engine: &str| program(&engines.run(engine, &rootfs, &["--rm"], &["/bin/true"])?);
    field.add("podman", "`podman run --rm --network none`, the same limits", 1, || run("podman"));
    field.add("docker", "`docker run --rm --network none`, the same limits", 1, || run("docker"));
    Ok((field, engines))
}

// Measuring.

fn measure(words: &Words) -> Result {
    let (lives, only) = (words.count("--lives", 300, 60)?, words.only());
    let by = "`cargo xtask bench start` (benches/start.rs says how; benches/floor/floor.c is the floor)";
    let mut report = heading("A container's life", by)?;
    if !words.has("--no-lives") {
        let scratch = Scratch::new()?;
        let (mut field, engines) = contenders(&scratch, &only)?;
        let mut chance = Chance::new()?;
        field.rounds(lives, &mut chance, None)?;
        if !words.has("--no-pauses") {
            field.rounds(lives, &mut chance, Some(PAUSE))?;
        }
        let ratios = [("bwrap", 50), ("floor", 50), ("floor", 99)];
        report += &field.table("Back to back", "ten lives a turn, each right after the other", |c| &c.back_to_back, &ratios)?;
        if !words.has("--no-pauses") {
            report += &field.table("With pauses", "10 ms before each life", |c| &c.with_pauses, &ratios)?;
        }
        verdicts(&mut report, &field)?;
        report += &field.in_words(&["bwrap", "runc", "crun", "podman"])?;
        drop((field, engines));
        match memory(&scratch) {
            Ok(text) => report += &text,
            Err(error) => writeln!(report, "## Memory\n\nnot measured: {error}\n")?,
        }
    }
    if words.has("--build") {
        report += &builds()?;
    }
    words.keep("start", &report)
}

/// What was promised, and what came of it.
fn verdicts(report: &mut String, field: &Field) -> Result {
    writeln!(report, "## What it must reach\n\n| | goal | back to back | with pauses |\n|---|---|--:|--:|")?;
    let goals: [(&str, &str, &str, usize, f64); 6] = [
        ("in-process p50 to bwrap", "in-process", "bwrap", 50, 0.9),
        ("in-process p50 to the floor", "in-process", "floor", 50, 1.5),
        ("in-process p99 to the floor's", "in-process", "floor", 99, 1.5),
        ("program p50 to bwrap", "program", "bwrap", 50, 1.3),
        ("runc p50 to the program, at least", "runc", "program", 50, 5.0),
        ("owner with 1 GiB p50 to 10 MiB", "owner-1GiB", "owner-10MiB", 50, 1.1),
    ];
    for (what, one, other, percent, goal) in goals {
        let ratio = |of: fn(&Contender) -> &Vec<u64>| {
            let ratio = field.at(one, percent, of) / field.at(other, percent, of);
            let good = if one == "runc" { ratio >= goal } else { ratio <= goal };
            let verdict = if ratio.is_nan() {
                ""
            } else if good {
                " ✓"
            } else {
                " ✗"
            };
            format!("{ratio:.2}{verdict}")
        };
        writeln!(report, "| {what} | {goal} | {} | {} |", ratio(|c| &c.back_to_back), ratio(|c| &c.with_pauses))?;
    }
    Ok(writeln!(report)?)
}

/// Proportional set sizes while a container sleeps.
fn memory(scratch: &Scratch) -> Result<String> {
    let engine = Engine::builder().root(scratch.join("engine0")).open()?;
    let container = pollster::block_on(
        Container::from_rootfs(scratch.join("rootfs")).engine(&engine).cmd(["/bin/sleep", "60"]).memory("256m").pids(64).run(),
    )?;
    let init = container.pid();
    let supervisor = parent(init)?;
    let (supervisor, init) = (rollup(supervisor)?, rollup(init)?);
    pollster::block_on(container.remove())?;
    let sum: u64 = supervisor.0 + init.0;
    let verdict = if sum <= 160 { "✓" } else { "✗" };
    Ok(format!(
        "## Memory\n\nPSS while the command sleeps, from `smaps_rollup`; goal: together ≤ 160 KiB.\n\n| | PSS KiB | RSS KiB |\n|---|--:|--:|\n| supervisor | {} | {} |\n| init | {} | {} |\n| together | {sum} {verdict} | {} |\n\n",
        supervisor.0,
        supervisor.1,
        init.0,
        init.1,
        supervisor.1 + init.1
    ))
}

// Building.

/// Cold builds, as a project's tests would build them: an empty target directory, everything fetched, the dev profile.
fn builds() -> Result<String> {
    let scratch = Path::new("target/bench-build").to_path_buf();
    let _ = fs::remove_dir_all(&scratch);
    let root = std::env::current_dir()?;
    let ours = |name: &str, path: &str| (name.to_owned(), format!("{name} = {{ path = {:?} }}", root.join(path)));
    let mut all = vec![ours("coracle", ".")];
    for part in ["spawn", "cgroups", "netns", "layers", "image", "container"] {
        all.push(ours(&format!("coracle-{part}"), &format!("crates/{part}")));
    }
    all.push(("coracle without registry".into(), format!("coracle = {{ path = {root:?}, default-features = false }}")));
    for (name, version) in [("testcontainers", "*"), ("bollard", "*")] {
        all.push((name.into(), format!("{name} = {version:?}")));
    }
    let jobs = std::env::var("CARGO_BUILD_JOBS").unwrap_or_else(|_| "every processor".into());
    let mut report = format!(
        "## Building\n\nA program that depends on nothing else: crates of the normal and build dependencies, and the seconds of a cold `cargo build` (dev profile, {jobs} jobs, everything fetched).\n\n| | version | crates | seconds |\n|---|---|--:|--:|\n"
    );
    for (n, (name, dependency)) in all.iter().enumerate() {
        eprintln!("building {name}");
        let project = scratch.join(n.to_string());
        fs::create_dir_all(project.join("src"))?;
        fs::write(project.join("src/main.rs"), "fn main() {}\n")?;
        let manifest =
            format!("[package]\nname = \"scratch\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n[dependencies]\n{dependency}\n");
        fs::write(project.join("Cargo.toml"), manifest)?;
        let cargo = |words: &[&str]| -> Result<String> {
            let output = Command::new("cargo").args(words).current_dir(&project).env_remove("CARGO_TARGET_DIR").output()?;
            if !output.status.success() {
                return Err(format!("cargo {words:?} for {name}: {}", String::from_utf8_lossy(&output.stderr)).into());
            }
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        cargo(&["fetch"])?;
        let tree = cargo(&["tree", "--prefix", "none", "--no-dedupe", "--edges", "normal,build"])?;
        let mut crates: Vec<&str> = tree.lines().skip(1).map(|l| l.trim_end_matches(" (*)").trim()).filter(|l| !l.is_empty()).collect();
        let version = crates.first().and_then(|c| c.split(' ').nth(1)).unwrap_or_default().to_owned();
        crates.sort_unstable();
        crates.dedup();
        let start = Instant::now();
        cargo(&["build", "--offline"])?;
        writeln!(report, "| {name} | {version} | {} | {:.1} |", crates.len(), start.elapsed().as_secs_f64())?;
        let _ = fs::remove_dir_all(project.join("target"));
    }
    let _ = fs::remove_dir_all(&scratch);
    Ok(report + "\n")
}
