//! `cargo xtask bench start`: a whole life of a container, ours beside the field's, in one run and in random turn.
//!
//! A life is: make it, run `true` in it, reap, and have everything removed. Figures of a shared machine drift by a factor of two
//! within minutes, so every contender has a turn in every round, the order of each round is drawn anew, and what is kept is the ratio
//! to `bwrap --unshare-all` and to a floor (`benches/floor/floor.c`). This is no test: nothing fails because a machine is slow.

mod bench;

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use coracle::{Container, Engine};

use bench::{Chance, Result, Scratch, heading, machine, percentile, said};

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

/// Lives in one turn: one after the other, so that a contender pays for its own leftovers.
const TURN: usize = 10;
const PAUSE: Duration = Duration::from_millis(10);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let done = match arguments.first().map(String::as_str) {
        Some("--serve-owner") => serve_owner(&arguments[1..]),
        Some("--serve-program") => serve_program(&arguments[1..]),
        Some("--help" | "-h") => {
            print!("{HELP}");
            Ok(())
        }
        _ => measure(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

// Contenders.

/// Somebody who lives a container's life when asked, in a process that waits for the asking.
struct Contender {
    name: &'static str,
    what: String,
    process: Child,
    answers: BufReader<ChildStdout>,
    /// Lives for each of the others' ten; 10 is full, 1 is for the slow.
    turn: usize,
    back_to_back: Vec<u64>,
    with_pauses: Vec<u64>,
}

impl Contender {
    fn new(name: &'static str, what: impl Into<String>, turn: usize, mut command: Command) -> Result<Self> {
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

/// One life for each byte of standard input.
fn serve(mut life: impl FnMut() -> Result<Duration>) -> Result {
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

/// A program that lives a whole life each time: its words.
fn serve_program(words: &[String]) -> Result {
    serve(|| {
        let start = Instant::now();
        let status = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
        let time = start.elapsed();
        if status.success() { Ok(time) } else { Err(format!("{} {status}", words[0]).into()) }
    })
}

/// A root file system with a static `true`, and with the directories and files that an image has.
fn make_rootfs(at: &Path) -> Result {
    for directory in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        fs::create_dir_all(at.join(directory))?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).exists());
    let busybox = busybox.ok_or("there is no busybox; apt-get install busybox-static")?;
    fs::copy(busybox, at.join("bin/busybox"))?;
    for name in ["true", "sleep"] {
        std::os::unix::fs::symlink("busybox", at.join("bin").join(name))?;
    }
    for (name, contents) in [("hosts", ""), ("hostname", ""), ("resolv.conf", ""), ("passwd", "root:x:0:0:root:/root:/bin/sh\n")] {
        fs::write(at.join("etc").join(name), contents)?;
    }
    Ok(fs::write(at.join("etc/group"), "root:x:0:\n")?)
}

/// A bundle as `runc spec` makes it, with our limits and without a terminal.
fn make_bundle(at: &Path, rootfs: &str) -> Result {
    fs::create_dir_all(at)?;
    let mut spec = Command::new("runc");
    if !spec.arg("spec").current_dir(at).status()?.success() {
        return Err("runc spec failed".into());
    }
    let path = at.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["/bin/true"]);
    config["root"] = serde_json::json!({ "path": rootfs, "readonly": true });
    config["linux"]["resources"]["memory"] = serde_json::json!({ "limit": 268_435_456 });
    config["linux"]["resources"]["pids"] = serde_json::json!({ "limit": 64 });
    Ok(fs::write(&path, serde_json::to_vec(&config)?)?)
}

fn itself() -> Result<Command> {
    Ok(Command::new(std::env::current_exe()?))
}

/// Everybody who can take part, and why the others can't.
fn contenders(scratch: &Scratch, only: &[String]) -> Result<(Vec<Contender>, Vec<String>)> {
    let rootfs = scratch.join("rootfs");
    make_rootfs(Path::new(&rootfs))?;
    let id = std::process::id();
    let (mut all, mut absent) = (Vec::new(), Vec::new());
    let mut add = |name: &'static str, what: &str, turn, command: Result<Command>| {
        if !only.is_empty() && !only.iter().any(|o| name.starts_with(o.as_str())) {
            return;
        }
        eprintln!("warming up: {name}");
        match command.and_then(|command| Contender::new(name, what, turn, command)) {
            Ok(contender) => all.push(contender),
            Err(error) => {
                eprintln!("  absent: {error}");
                absent.push(format!("{name}: {error}"));
            }
        }
    };

    let owner = |n: usize, resident: &str, limits: &str| -> Result<Command> {
        let mut command = itself()?;
        command.args(["--serve-owner", &scratch.join(&format!("engine{n}")), &rootfs, resident, limits]);
        Ok(command)
    };
    add("in-process", "`Container::status()`, memory and pids limits", TURN, owner(0, "0", "limits"));
    add("in-process-bare", "the same without limits", TURN, owner(1, "0", "bare"));
    add("owner-10MiB", "in-process, 10 MiB touched in the owner", TURN, owner(2, "10", "limits"));
    add("owner-1GiB", "in-process, 1 GiB touched in the owner", TURN, owner(3, "1024", "limits"));

    let program = |words: &[&str]| -> Result<Command> {
        let mut command = itself()?;
        command.arg("--serve-program").args(words);
        Ok(command)
    };
    // What `cargo xtask bench` built, or what lies beside this program: target/release/deps/start-… and target/release/coracle.
    let beside = std::env::current_exe()?.ancestors().nth(2).map(|directory| directory.join("coracle").display().to_string());
    let coracle = std::env::var("CORACLE_PROGRAM").ok().or(beside).ok_or("no directory")?;
    let engine = scratch.join("engine-program");
    let limits = ["--memory", "256m", "--pids-limit", "64"];
    let mut words = vec![coracle.as_str(), "--root", &engine, "run"];
    words.extend(limits);
    words.extend(["--rootfs", &rootfs, "/bin/true"]);
    add("program", "`coracle run --rootfs`, memory and pids limits", TURN, program(&words));

    let bwrap = ["bwrap", "--unshare-all", "--bind", &rootfs, "/", "--proc", "/proc", "--dev", "/dev", "/bin/true"];
    add("bwrap", "`bwrap --unshare-all --bind --proc --dev`; no limits, no overlay, no seccomp", TURN, program(&bwrap));

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
    add("floor", "bare clone3: the same namespaces, mounts, cgroups and limits", TURN, on_floor("1"));
    add("floor-bare", "the same without limits", TURN, on_floor("0"));

    let bundle = scratch.join("bundle");
    let bundled = make_bundle(Path::new(&bundle), &rootfs);
    let oci = |name: &str| {
        let state = scratch.join(&format!("state-{name}"));
        [name, "--root", &state, "run", "--bundle", &bundle, &format!("bench-{name}-{id}")].map(str::to_owned)
    };
    let words = |words: &[String]| program(&words.iter().map(String::as_str).collect::<Vec<_>>());
    match &bundled {
        Ok(()) => {
            add("runc", "`runc run`, memory and pids limits", TURN, words(&oci("runc")));
            // crun refuses a machine with both v1 controllers and a cgroup2 tree; in a namespace without the tree it works.
            let in_namespace = || -> Result<Command> {
                let mut command = Command::new("unshare");
                let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$0\" --serve-program \"$@\"";
                command.args(["-m", "--propagation", "private", "sh", "-c", script]).arg(std::env::current_exe()?).args(oci("crun"));
                Ok(command)
            };
            add("crun", "`crun run`, memory and pids limits", TURN, in_namespace());
        }
        Err(error) => {
            for name in ["runc", "crun"] {
                add(name, "", TURN, Err(error.to_string().into()));
            }
        }
    }
    let engines = |name: &str, more: &[&str]| -> Result<Command> {
        let image = "localhost/coracle-bench:1";
        let mut tar = Command::new("tar").args(["-C", &rootfs, "-c", "."]).stdout(Stdio::piped()).spawn()?;
        let archive = tar.stdout.take().ok_or("no tar")?;
        let import = Command::new(name).args(["import", "-", image]).stdin(archive).output();
        tar.wait()?;
        let import = import?;
        if !import.status.success() {
            let why = String::from_utf8_lossy(&import.stderr).into_owned();
            return Err(why.lines().next().unwrap_or("import failed").to_owned().into());
        }
        let mut words = vec![name, "run", "--rm", "--network", "none"];
        words.extend(limits);
        words.extend(more);
        words.extend([image, "/bin/true"]);
        program(&words)
    };
    add(
        "podman",
        "`podman run --rm --network none`, the same limits",
        1,
        // Its own default limits may be more than a container that it stands in may give.
        engines("podman", &["--runtime", "runc", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]),
    );
    add("docker", "`docker run --rm --network none`, the same limits", 1, engines("docker", &[]));
    Ok((all, absent))
}

// Measuring.

fn measure(arguments: &[String]) -> Result {
    let has = |flag: &str| arguments.iter().any(|a| a == flag);
    let value = |flag: &str| arguments.iter().position(|a| a == flag).and_then(|at| arguments.get(at + 1)).cloned();
    let lives = match value("--lives") {
        Some(lives) => lives.parse()?,
        None if has("--quick") => 60,
        None => 300,
    };
    let only: Vec<String> = value("--only").map(|o| o.split(',').map(str::to_owned).collect()).unwrap_or_default();
    let by = "`cargo xtask bench start` (benches/start.rs says how; benches/floor/floor.c is the floor)";
    let mut report = heading("A container's life", by)?;
    if !has("--no-lives") {
        let scratch = Scratch::new()?;
        let (mut all, absent) = contenders(&scratch, &only)?;
        let mut chance = Chance::new()?;
        rounds(&mut all, lives, &mut chance, None)?;
        if !has("--no-pauses") {
            rounds(&mut all, lives, &mut chance, Some(PAUSE))?;
        }
        table(&mut report, &all, "Back to back", "ten lives a turn, each right after the other", |c| &c.back_to_back)?;
        if !has("--no-pauses") {
            table(&mut report, &all, "With pauses", "10 ms before each life", |c| &c.with_pauses)?;
        }
        verdicts(&mut report, &all)?;
        contenders_in_words(&mut report, &all, &absent)?;
        drop(all);
        match memory(&scratch) {
            Ok(text) => report += &text,
            Err(error) => writeln!(report, "## Memory\n\nnot measured: {error}\n")?,
        }
    }
    if has("--build") {
        report += &builds()?;
    }
    println!("{report}");
    if only.is_empty() && !has("--print") {
        let path = format!("benches/results/{}-{}-start.md", said("date", &["-u", "+%Y-%m-%d"])?, machine()?);
        fs::create_dir_all("benches/results")?;
        fs::write(&path, &report)?;
        eprintln!("written: {path}");
    }
    Ok(())
}

fn rounds(all: &mut [Contender], lives: usize, chance: &mut Chance, pause: Option<Duration>) -> Result {
    let rounds = lives.div_ceil(TURN);
    let mut order: Vec<usize> = (0..all.len()).collect();
    for round in 0..rounds {
        eprint!("\r{} round {} of {rounds} ", if pause.is_some() { "with pauses," } else { "back to back," }, round + 1);
        chance.shuffle(&mut order);
        for &i in &order {
            let contender = &mut all[i];
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

fn table(report: &mut String, all: &[Contender], title: &str, how: &str, of: fn(&Contender) -> &Vec<u64>) -> Result {
    let of_named = |name: &str, percent| all.iter().find(|c| c.name == name).map_or(f64::NAN, |c| percentile(of(c), percent));
    writeln!(report, "## {title}\n\n{how}; milliseconds.\n")?;
    writeln!(
        report,
        "| | lives | min | p50 | p90 | p99 | p50 / bwrap | p50 / floor | p99 / floor |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    )?;
    for c in all {
        let p = |percent| percentile(of(c), percent);
        let ratio = |percent, to| p(percent) / of_named(to, percent);
        writeln!(
            report,
            "| {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
            c.name,
            of(c).len(),
            p(0),
            p(50),
            p(90),
            p(99),
            ratio(50, "bwrap"),
            ratio(50, "floor"),
            ratio(99, "floor")
        )?;
    }
    Ok(writeln!(report)?)
}

/// What was promised, and what came of it.
fn verdicts(report: &mut String, all: &[Contender]) -> Result {
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
            let p = |name: &str| all.iter().find(|c| c.name == name).map_or(f64::NAN, |c| percentile(of(c), percent));
            let ratio = p(one) / p(other);
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

fn contenders_in_words(report: &mut String, all: &[Contender], absent: &[String]) -> Result {
    writeln!(report, "## Who took part\n")?;
    for c in all {
        writeln!(report, "- {}: {}", c.name, c.what)?;
    }
    for a in absent {
        writeln!(report, "- absent: {a}")?;
    }
    for (name, words) in [("bwrap", &["--version"][..]), ("runc", &["--version"]), ("crun", &["--version"]), ("podman", &["--version"])] {
        if let Ok(version) = said(name, words) {
            writeln!(report, "- version: {}", version.lines().next().unwrap_or_default())?;
        }
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
    let supervisor = status_field(init, "PPid:")?;
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

fn status_field(pid: u32, field: &str) -> Result<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(text.lines().find_map(|l| l.strip_prefix(field)).ok_or("no such field")?.trim().parse()?)
}

/// Pss and Rss in KiB.
fn rollup(pid: u32) -> Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    Ok((field("Pss:"), field("Rss:")))
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
