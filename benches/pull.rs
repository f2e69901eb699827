//! `cargo xtask bench pull`: an image from a registry to files on disk, ours beside the field's, in one run and in random turn.
//!
//! All of it happens in namespaces of its own (mounts, network, processes), on a loop-mounted ext4 with a journal whose file lies in
//! memory and was written once: a machine's own disk has moods, and ext4 without a journal is many times slower after deletions. Every
//! engine has a turn in every round, the order of each round is drawn anew, and what is kept is the ratio to the fastest of the others
//! and to a floor (`benches/pull/floor.rs`). This is no test: nothing fails because a machine is slow.

mod bench;
mod daemon;
#[path = "pull/engines.rs"]
mod engines;
#[path = "pull/floor.rs"]
mod floor;
#[path = "pull/image.rs"]
mod image;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Instant;

use bench::{Chance, Result, Scratch, Words, heading, percentile, play, said};
use coracle::Engine;
use daemon::coracle;
use engines::{Cost, EngineOf};

const HELP: &str = "\
Usage: cargo xtask bench pull [--rounds N] [--only NAME,NAME] [--big] [--tmpfs] [--print]

  --rounds N   turns of each engine and image (9)
  --quick      three turns
  --only A,B   only engines whose name begins with one of these; writes no file
  --big        a layer of 4 GiB, too (minutes, and 10 GiB of memory for its files)
  --tmpfs      on tmpfs; writes no file
  --print      writes no file
";

/// The file system's size. It's written once, so that no turn pays for its first use.
const DISK: u64 = 4 << 30;

fn main() -> ExitCode {
    play(HELP, &[("--floor", floor::main), ("--measure", engines::measured), ("--serve", serve), ("--inside", inside)], outside)
}

/// What needs the machine's network; then this program once more, in namespaces that take everything with them when they end.
fn outside(words: &Words) -> Result {
    image::debian()?;
    let mut again = Command::new("unshare");
    again.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", "--"]);
    let status = again.arg(std::env::current_exe()?).arg("--inside").args(&words.0).status()?;
    if status.success() { Ok(()) } else { Err(format!("the measuring ended with {status}").into()) }
}

/// A file system for measuring.
struct Disk(PathBuf);

impl std::ops::Deref for Disk {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // With what still runs on it; the loop device goes with the mount.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn disk(scratch: &Scratch, bytes: u64, tmpfs: bool) -> Result<Disk> {
    // Short: podman takes no longer paths.
    let at = PathBuf::from(scratch.join(&format!("{}G", bytes >> 30)));
    fs::create_dir(&at)?;
    let run = |program: &str, arguments: &[&str]| -> Result {
        let output = Command::new(program).args(arguments).output()?;
        if output.status.success() { Ok(()) } else { Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)).into()) }
    };
    let shown = at.display().to_string();
    if tmpfs {
        run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs", &shown])?;
        return Ok(Disk(at));
    }
    let file = format!("{shown}.img");
    let mut image = File::create(&file)?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        image.write_all(&zeros)?;
    }
    // Tables and journal made now and not in the background later; nothing given back when files go.
    run("mkfs.ext4", &["-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", &file])?;
    run("mount", &["-o", "loop", &file, &shown])?;
    Ok(Disk(at))
}

// An engine that lives: in a process that is told what to do.

/// `ROOT`, then lines of standard input: `pull REFERENCE`, `remove REFERENCE`. Nanoseconds of each.
fn serve(arguments: &[String]) -> Result {
    let [root] = arguments else { return Err("ROOT".into()) };
    let engine = Engine::builder().root(root).open()?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let begun = Instant::now();
        match line.split_once(' ') {
            Some(("pull", reference)) => drop(pollster::block_on(engine.pull(reference, |_| {}))?),
            Some(("remove", reference)) => drop(engine.remove_image(reference, false)?),
            _ => return Err("pull or remove".into()),
        }
        println!("{}", begun.elapsed().as_nanos());
    }
    // Whoever exits empties the trash first.
    drop(engine);
    Ok(())
}

/// A process that serves.
struct Live {
    process: Child,
    answers: BufReader<ChildStdout>,
    root: String,
}

impl Live {
    fn new(root: String) -> Result<Live> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut process = command.args(["--serve", &root]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let answers = BufReader::new(process.stdout.take().ok_or("no output")?);
        Ok(Live { process, answers, root })
    }

    fn ask(&mut self, what: &str) -> Result<u64> {
        writeln!(self.process.stdin.as_mut().ok_or("no input")?, "{what}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().parse().map_err(|_| format!("`{what}` failed"))?)
    }

    /// Ends it; says how long that took, and fails where it left something in the trash.
    fn end(mut self) -> Result<u64> {
        let begun = Instant::now();
        drop(self.process.stdin.take());
        let status = self.process.wait()?;
        let time = begun.elapsed().as_nanos() as u64;
        let left = ["trash", "layers/trash"]
            .iter()
            .any(|trash| fs::read_dir(Path::new(&self.root).join(trash)).is_ok_and(|mut entries| entries.next().is_some()));
        match status.success() && !left {
            true => Ok(time),
            false => Err(format!("the engine's process ended with {status}{}", if left { " and left a full trash" } else { "" }).into()),
        }
    }
}

// Measuring.

const IMAGES: [&str; 2] = ["one", "four"];

/// The costs of an engine's turns with an image.
#[derive(Default)]
struct Turns {
    pull: Vec<Cost>,
    again: Vec<Cost>,
    remove: Vec<Cost>,
}

/// Times of an engine in a process that lives, in nanoseconds.
#[derive(Default)]
struct Lively {
    cold: Vec<u64>,
    by_tag: Vec<u64>,
    by_digest: Vec<u64>,
    remove: Vec<u64>,
    exit: Vec<u64>,
    /// The largest resident size at its end, in KiB.
    resident: u64,
}

fn inside(arguments: &[String]) -> Result {
    let words = Words(arguments.to_vec());
    let (rounds, only) = (words.count("--rounds", 9, 3)?, words.only());
    said("ip", &["link", "set", "lo", "up"])?;
    let by = "`cargo xtask bench pull` (benches/pull.rs says how; benches/pull/floor.rs is the floor)";
    let mut report = heading("Pulling an image", by)?;

    let scratch = Scratch::new()?;
    let registry = image::Registry::start(Path::new(&scratch.join("registry")))?;
    let layout = image::debian()?;
    for tag in IMAGES {
        registry.push(&layout, tag)?;
    }
    let disk = disk(&scratch, DISK, words.has("--tmpfs"))?;
    let program = coracle()?;
    let (engines, absent) = contenders(&disk, &program, &registry, &only)?;
    if only.is_empty() {
        same_files(&engines, &disk, &registry)?;
    }

    let mut turns: Vec<[Turns; 2]> = engines.iter().map(|_| Default::default()).collect();
    let mut lively: [Lively; 2] = Default::default();
    let mut chance = Chance::new()?;
    let mut order: Vec<usize> = (0..(engines.len() + 1) * IMAGES.len()).collect();
    for round in 0..=rounds {
        // The first warms: its figures are thrown away.
        eprint!("\rround {round} of {rounds} ");
        chance.shuffle(&mut order);
        for &turn in &order {
            let (who, which) = (turn / IMAGES.len(), turn % IMAGES.len());
            let reference = format!("{}/debian:{}", registry.address, IMAGES[which]);
            match engines.get(who) {
                Some(engine) => {
                    let turns = &mut turns[who][which];
                    turns.pull.push(engine.pull(&reference)?);
                    if engine.remembers {
                        turns.again.push(engine.pull(&reference)?);
                    }
                    turns.remove.push(engine.remove(&reference)?);
                }
                None if only.is_empty() || only.iter().any(|name| "in-process".starts_with(name.as_str())) => {
                    let by_digest = format!("{}/debian@{}", registry.address, layout.digest(IMAGES[which])?);
                    in_process(&mut lively[which], &disk, &reference, &by_digest)?;
                }
                None => {}
            }
            // What it left to be written is not the next one's to wait for.
            rustix::fs::syncfs(File::open(&*disk)?)?;
        }
        if round == 0 {
            turns.iter_mut().flatten().for_each(|turns| *turns = Turns::default());
            lively = Default::default();
        }
    }
    eprintln!();

    let load = fs::read_to_string("/proc/loadavg")?;
    let (archive, blobs) = sizes(&layout)?;
    let on = if words.has("--tmpfs") { "tmpfs" } else { "ext4 with a journal, on a loop device in memory, written once" };
    writeln!(
        report,
        "The image is debootstrap's smallest Debian: {archive:.1} MB of archive, {blobs:.1} MB gzip, as one layer and cut into four. Registry: docker-registry on loopback. File system: {on}. {rounds} rounds after one that warms, each in random turn; load when the last ended: {}.\n",
        load.trim()
    )?;
    for (which, title) in ["One layer", "Four layers"].into_iter().enumerate() {
        tables(&mut report, title, &engines, &turns, which)?;
    }
    living(&mut report, &engines, &turns, &lively)?;
    let big = words.has("--big").then(|| big(&scratch, &registry, &program)).transpose()?;
    goals(&mut report, &engines, &turns, &lively, big)?;
    writeln!(report, "## Who took part\n")?;
    for engine in &engines {
        writeln!(report, "- {}: {}", engine.name, engine.what)?;
    }
    for absent in absent {
        writeln!(report, "- absent: {absent}")?;
    }
    words.keep("pull", &report)
}

/// Everybody who can take part, and why the others can't.
fn contenders(disk: &Path, program: &str, registry: &image::Registry, only: &[String]) -> Result<(Vec<EngineOf>, Vec<String>)> {
    let (mut all, mut absent) = (Vec::new(), Vec::new());
    let layers = |reference: &str| -> Vec<String> {
        let tag = reference.rsplit(':').next().unwrap_or_default();
        let layers = image::debian().and_then(|layout| layout.layers(tag));
        let mut layers = layers.unwrap_or_default();
        layers.sort_by_key(|(_, size, _)| std::cmp::Reverse(*size));
        layers.into_iter().map(|(digest, _, diff_id)| format!("{digest}={diff_id}")).collect()
    };
    let mut add = |name: &str, engine: &dyn Fn() -> Result<EngineOf>| {
        if !only.is_empty() && !only.iter().any(|o| name.starts_with(o.as_str())) {
            return;
        }
        let warm = || -> Result<EngineOf> {
            let engine = engine()?;
            let reference = format!("{}/debian:one", registry.address);
            engine.pull(&reference)?;
            engine.remove(&reference)?;
            Ok(engine)
        };
        eprintln!("warming up: {name}");
        match warm() {
            Ok(engine) => all.push(engine),
            Err(error) => {
                eprintln!("  absent: {error}");
                absent.push(format!("{name}: {error}"));
            }
        }
    };
    add("coracle", &|| Ok(engines::coracle(disk, program, false)));
    add("coracle-known", &|| Ok(engines::coracle(disk, program, true)));
    let floor = |name, what, keep| engines::floor(disk, name, what, keep, &registry.address, layers);
    add("floor", &|| {
        floor(
            "floor",
            "a bare program of two threads: inflates, takes both digests, writes the same files and the blob, one syncfs",
            "keep",
        )
    });
    add("floor-bare", &|| floor("floor-bare", "the same without the blob", "drop"));
    add("podman", &|| engines::podman(disk));
    add("docker", &|| engines::docker(disk));
    add("ctr", &|| engines::containerd(disk));
    add("umoci", &|| engines::umoci(disk));
    Ok((all, absent))
}

/// That the floor writes what we write; else it's none.
fn same_files(engines: &[EngineOf], disk: &Path, registry: &image::Registry) -> Result {
    let reference = format!("{}/debian:one", registry.address);
    let mut listings = Vec::new();
    for (name, files) in [("coracle", "coracle/layers/sha256"), ("floor", "floor/0")] {
        let engine = engines.iter().find(|engine| engine.name == name).ok_or("nobody to compare with")?;
        engine.pull(&reference)?;
        let mut files = disk.join(files);
        if name == "coracle" {
            files = fs::read_dir(&files)?.next().ok_or("no layer")??.path().join("fs");
        }
        listings.push(floor::listing(&files)?);
        engine.remove(&reference)?;
    }
    match listings[0] == listings[1] {
        true => Ok(()),
        false => {
            let differs = listings[0].iter().zip(&listings[1]).find(|(ours, floor)| ours != floor);
            Err(format!("the floor writes other files than Coracle: {differs:?}").into())
        }
    }
}

fn in_process(times: &mut Lively, disk: &Path, reference: &str, by_digest: &str) -> Result {
    let mut live = Live::new(disk.join("live").display().to_string())?;
    times.cold.push(live.ask(&format!("pull {reference}"))?);
    times.by_tag.push(live.ask(&format!("pull {reference}"))?);
    // Under this name it's new; the second time it's here.
    live.ask(&format!("pull {by_digest}"))?;
    times.by_digest.push(live.ask(&format!("pull {by_digest}"))?);
    live.ask(&format!("remove {by_digest}"))?;
    times.resident = times.resident.max(engines::status_kib(live.process.id(), "VmHWM:")?);
    times.remove.push(live.ask(&format!("remove {reference}"))?);
    times.exit.push(live.end()?);
    Ok(fs::remove_dir_all(disk.join("live"))?)
}

/// The resident size of pulling a layer of 4 GiB, in KiB.
fn big(scratch: &Scratch, registry: &image::Registry, program: &str) -> Result<Cost> {
    let disk = disk(scratch, 8 << 30, true)?;
    let directory = scratch.join("big");
    let layout = image::big(Path::new(&directory))?;
    registry.push(&layout, "big")?;
    fs::remove_dir_all(&directory)?;
    engines::coracle(&disk, program, false).pull(&format!("{}/debian:big", registry.address))
}

/// Bytes of the image's archive and of its blob, in MB.
fn sizes(layout: &image::Layout) -> Result<(f64, f64)> {
    let mut blobs = 0;
    let mut archive = 0;
    for (digest, size, _) in layout.layers("one")? {
        blobs += size;
        let file = File::open(layout.directory.join("blobs/sha256").join(digest.trim_start_matches("sha256:")))?;
        archive += std::io::copy(&mut flate2::read::GzDecoder::new(BufReader::new(file)), &mut std::io::sink())?;
    }
    Ok((archive as f64 / 1e6, blobs as f64 / 1e6))
}

// The report.

/// A figure of a cost.
type Figure = fn(&Cost) -> u64;
const WALL: Figure = |cost| cost.wall;
const CPU: Figure = |cost| cost.cpu;

/// Certain times of an engine that lives.
type Times = fn(&Lively) -> &Vec<u64>;

fn of(costs: &[Cost], what: Figure, percent: usize) -> f64 {
    percentile(&costs.iter().map(what).collect::<Vec<_>>(), percent)
}

fn tables(report: &mut String, title: &str, engines: &[EngineOf], turns: &[[Turns; 2]], which: usize) -> Result {
    let figure = |name: &str, what: Figure| {
        engines.iter().position(|engine| engine.name == name).map_or(f64::NAN, |who| of(&turns[who][which].pull, what, 50))
    };
    writeln!(
        report,
        "## {title}\n\nThe image isn't here. Milliseconds; CPU is user and system time of all that the engine runs; MiB resident at most.\n"
    )?;
    writeln!(
        report,
        "| | pulls | min | p50 | p90 | CPU p50 | MiB | wall / coracle | CPU / coracle | wall / floor |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    )?;
    for (engine, turns) in engines.iter().zip(turns) {
        let pull = &turns[which].pull;
        writeln!(
            report,
            "| {} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} | {:.2} | {:.2} |",
            engine.name,
            pull.len(),
            of(pull, WALL, 0),
            of(pull, WALL, 50),
            of(pull, WALL, 90),
            of(pull, CPU, 50),
            pull.iter().map(|cost| cost.resident).max().unwrap_or(0) as f64 / 1024.0,
            of(pull, WALL, 50) / figure("coracle", WALL),
            of(pull, CPU, 50) / figure("coracle", CPU),
            of(pull, WALL, 50) / figure("floor", WALL),
        )?;
    }
    Ok(writeln!(report)?)
}

fn living(report: &mut String, engines: &[EngineOf], turns: &[[Turns; 2]], lively: &[Lively; 2]) -> Result {
    writeln!(
        report,
        "## An image that is here, and removing it\n\nThe image of one layer and that of four; p50 / p90 milliseconds. In-process: an engine that lives. What it removes it unlinks in the background; its process empties the trash before it ends.\n"
    )?;
    writeln!(report, "| | pull again, one | four | remove, one | four |\n|---|--:|--:|--:|--:|")?;
    let both = |times: &[u64]| format!("{:.2} / {:.2}", percentile(times, 50), percentile(times, 90));
    let rows: [(&str, Times, bool); 4] = [
        ("in-process, by digest", |l| &l.by_digest, true),
        ("in-process, by tag", |l| &l.by_tag, true),
        ("in-process, remove returns", |l| &l.remove, false),
        ("in-process, from there to the process's end", |l| &l.exit, false),
    ];
    for (name, times, again) in rows {
        let (one, four) = (both(times(&lively[0])), both(times(&lively[1])));
        if again { writeln!(report, "| {name} | {one} | {four} | | |")? } else { writeln!(report, "| {name} | | | {one} | {four} |")? }
    }
    for (engine, turns) in engines.iter().zip(turns).filter(|(engine, _)| engine.remembers) {
        let wall = |costs: &[Cost]| both(&costs.iter().map(|cost| cost.wall).collect::<Vec<_>>());
        let [one, four] = turns;
        writeln!(
            report,
            "| {} | {} | {} | {} | {} |",
            engine.name,
            wall(&one.again),
            wall(&four.again),
            wall(&one.remove),
            wall(&four.remove)
        )?;
    }
    let cold = both(&lively[0].cold);
    writeln!(
        report,
        "\nA cold pull of one layer in-process: {cold} ms; {:.0} MiB resident at most.\n",
        lively[0].resident.max(lively[1].resident) as f64 / 1024.0
    )?;
    Ok(())
}

/// What was promised, and what came of it.
fn goals(report: &mut String, engines: &[EngineOf], turns: &[[Turns; 2]], lively: &[Lively; 2], big: Option<Cost>) -> Result {
    writeln!(
        report,
        "## What it must reach\n\nBy p50. The fastest is the fastest of the engines of Debian's packages in this run.\n\n| | goal | measured | |\n|---|--:|--:|---|"
    )?;
    let mut line = |what: &str, goal: f64, at_least: bool, measured: f64, note: &str| {
        let good = if at_least { measured >= goal } else { measured <= goal };
        let (sign, verdict) = (if at_least { "≥" } else { "≤" }, if good { "✓" } else { "✗" });
        match measured.is_nan() {
            true => writeln!(report, "| {what} | {sign} {goal} | not measured | |"),
            false => writeln!(report, "| {what} | {sign} {goal} | {measured:.2} {verdict} | {note} |"),
        }
    };
    let find = |name: &str| engines.iter().position(|engine| engine.name == name);
    let peers = ["podman", "docker", "ctr", "umoci"];
    for (which, title, goal) in [(0, "one layer", 2.7), (1, "four layers", 2.3)] {
        let figure = |who: Option<usize>, what: Figure| who.map_or(f64::NAN, |who| of(&turns[who][which].pull, what, 50));
        let least = |what: Figure| {
            let all = peers.iter().filter_map(|name| find(name).map(|who| (figure(Some(who), what), *name)));
            all.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::NAN, ""))
        };
        let ours = find("coracle");
        let (fastest, name) = least(WALL);
        line(&format!("{title}: wall of the fastest to ours"), goal, true, fastest / figure(ours, WALL), name)?;
        let (thriftiest, name) = least(CPU);
        line(&format!("{title}: CPU of the thriftiest to ours"), 3.0, true, thriftiest / figure(ours, CPU), name)?;
        line(&format!("{title}: wall to the floor's"), 1.4, false, figure(ours, WALL) / figure(find("floor"), WALL), "")?;
        let resident = ours.and_then(|who| turns[who][which].pull.iter().map(|cost| cost.resident).max());
        line(
            &format!("{title}: MiB resident"),
            64.0,
            false,
            resident.map_or(f64::NAN, |kib| kib as f64 / 1024.0),
            "the most of all pulls",
        )?;
    }
    line("a layer of 4 GiB: MiB resident", 64.0, false, big.map_or(f64::NAN, |cost| cost.resident as f64 / 1024.0), "")?;
    let all = |times: Times| percentile(&lively.iter().flat_map(times).copied().collect::<Vec<_>>(), 50);
    line("an image that is here, by digest, ms", 5.0, false, all(|l| &l.by_digest), "in-process")?;
    line("an image that is here, by tag, ms", 5.0, false, all(|l| &l.by_tag), "in-process")?;
    line("removing returns, ms", 10.0, false, all(|l| &l.remove), "in-process; the trash was empty after each process")?;
    Ok(writeln!(report)?)
}
