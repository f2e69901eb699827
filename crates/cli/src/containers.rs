//! What is done with containers that are there: started, stopped, told of, removed.

use crate::arguments::{ContainerPrune, Create, Events, Logs, Names, Rename, Restart, RmContainers, Start, Stats, Top, UpdateLimits};
use crate::duration::moment;
use crate::failure::{Failure, Fault};
use crate::life::{Signals, exit_code};
use crate::template::Style;
use crate::{run, table};
use coracle_container::{Container, Engine, Error, Filter, LogLine, OutputStream, Signal, Stdio, TerminalEnd, Time, Update};
use serde_json::{Value, json};
use std::future::Future;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

fn engine(root: Option<PathBuf>) -> Result<Engine, Failure> {
    crate::engine(root).map_err(|error| Failure::from(error).code(1))
}

/// Does it to one after another, and prints the name of each that it was done to, as it was written. Those that can't be had don't
/// hinder the others.
pub(crate) fn each<F: Future<Output = Result<(), Error>>>(
    root: Option<PathBuf>,
    names: &[String],
    act: impl Fn(Container) -> F,
) -> Result<u8, Failure> {
    let engine = engine(root)?;
    crate::block_on(async {
        let mut faults = Vec::new();
        for name in names {
            let done = match engine.attach(name) {
                Ok(container) => act(container).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => table::print(&format!("{name}\n"))?,
                Err(error) => faults.extend(Failure::from(error).faults),
            }
        }
        if faults.is_empty() { Ok(0) } else { Err(Failure::from(faults).code(1)) }
    })
}

pub(crate) fn create(root: Option<PathBuf>, arguments: &Create) -> Result<u8, Failure> {
    let builder = run::describe(&arguments.run, |key| std::env::var_os(key))?.engine(&crate::engine(root)?);
    // Whoever starts it is another program, with other streams.
    let builder = builder.stdin(Stdio::null()).stdout(Stdio::log()).stderr(Stdio::log());
    let builder = builder.auto_remove(arguments.run.rm == Some(true));
    crate::block_on(async {
        let container = builder.create().await?;
        table::print(&format!("{}\n", container.id()))?;
        Ok(0)
    })
}

pub(crate) fn start(root: Option<PathBuf>, arguments: &Start) -> Result<u8, Failure> {
    match &arguments.names[..] {
        [name] if arguments.attach => {
            let engine = engine(root)?;
            crate::block_on(async {
                let container = engine.attach(name)?;
                let since = std::time::SystemTime::now();
                container.start().await?;
                show_until_the_end(&container, Some(since)).await
            })
        }
        _ if arguments.attach => Err(Failure::new("--attach takes one container".into()).code(1)),
        names => each(root, names, |container| async move { container.start().await }),
    }
}

/// Prints what it says, passes signals on, and ends with its exit code.
async fn show_until_the_end(container: &Container, since: Option<std::time::SystemTime>) -> Result<u8, Failure> {
    let mut signals = Signals::new()?;
    let logs = since.into_iter().fold(container.logs(), |logs, since| logs.since(since));
    let mut lines = logs.follow()?;
    let mut ended = pin!(async {
        while let Some(line) = lines.next().await? {
            print_line(&line, false)?;
        }
        Ok::<_, Failure>(container.wait().await?)
    });
    loop {
        tokio::select! {
            status = &mut ended => return Ok(exit_code(status?)),
            signal = signals.next() => container.signal(signal).await?,
        }
    }
}

pub(crate) fn attach(root: Option<PathBuf>, name: &str) -> Result<u8, Failure> {
    let engine = engine(root)?;
    crate::block_on(async {
        let container = engine.attach(name)?;
        if !container.state()?.is_running() {
            return Err(Failure::from(Error::NotRunning { id: container.id().to_owned() }).code(1));
        }
        let mut signals = Signals::new()?;
        match crate::terminal::carry(container.attach_terminal(), &mut signals, |signal| container.signal(signal)).await {
            Ok(TerminalEnd::Detached) => Ok(0),
            Ok(_) => Ok(exit_code(container.wait().await?)),
            // It was started without a terminal.
            Err(_) => show_until_the_end(&container, Some(std::time::SystemTime::now())).await,
        }
    })
}

pub(crate) fn restart(root: Option<PathBuf>, arguments: &Restart) -> Result<u8, Failure> {
    let grace = Duration::from_secs(arguments.time.into());
    each(root, &arguments.names, |container| async move { container.restart(grace).await })
}

pub(crate) fn pause(root: Option<PathBuf>, arguments: &Names) -> Result<u8, Failure> {
    each(root, &arguments.names, |container| async move { container.pause().await })
}

pub(crate) fn unpause(root: Option<PathBuf>, arguments: &Names) -> Result<u8, Failure> {
    each(root, &arguments.names, |container| async move { container.unpause().await })
}

pub(crate) fn rename(root: Option<PathBuf>, arguments: &Rename) -> Result<u8, Failure> {
    let engine = engine(root)?;
    crate::block_on(async {
        engine.attach(&arguments.name)?.rename(&arguments.new).await?;
        Ok(0)
    })
    .map_err(|failure: Failure| failure.code(1))
}

pub(crate) fn remove(root: Option<PathBuf>, arguments: &RmContainers) -> Result<u8, Failure> {
    let engine = engine(root)?;
    crate::block_on(async {
        let mut faults = Vec::new();
        for name in &arguments.names {
            let removed = async {
                let container = engine.attach(name)?;
                if container.state()?.is_running() && !arguments.force {
                    let fix = "stop it first: coracle stop, or remove it with --force";
                    return Err(Failure::from(vec![Fault::new(format!("the container {name} runs"), fix)]));
                }
                Ok(container.remove().await?)
            };
            match removed.await {
                Ok(()) => table::print(&format!("{name}\n"))?,
                Err(failure) => faults.extend(failure.faults),
            }
        }
        if faults.is_empty() { Ok(0) } else { Err(Failure::from(faults).code(1)) }
    })
}

pub(crate) fn prune(root: Option<PathBuf>, arguments: &ContainerPrune) -> Result<u8, Failure> {
    let engine = engine(root)?;
    let filter = Filter::new().state("created").state("exited").state("dead");
    let gone = engine.list(&filter).map_err(|error| Failure::from(error).code(1))?;
    let question = || crate::question::agreed(&format!("{} containers that don't run will be removed with their files.", gone.len()));
    if !arguments.force && !gone.is_empty() && std::io::stdin().is_terminal() && !question() {
        return Ok(1);
    }
    crate::block_on(async {
        for summary in gone {
            engine.attach(&summary.id)?.remove().await?;
            table::print(&format!("{}\n", summary.id))?;
        }
        Ok(0)
    })
}

pub(crate) fn wait(root: Option<PathBuf>, arguments: &Names) -> Result<u8, Failure> {
    let engine = engine(root)?;
    crate::block_on(async {
        let mut faults = Vec::new();
        for name in &arguments.names {
            let ended = async { engine.attach(name)?.wait().await };
            match ended.await {
                Ok(status) => table::print(&format!("{}\n", exit_code(status)))?,
                Err(error) => faults.extend(Failure::from(error).faults),
            }
        }
        if faults.is_empty() { Ok(0) } else { Err(Failure::from(faults).code(1)) }
    })
}

pub(crate) fn logs(root: Option<PathBuf>, arguments: &Logs) -> Result<u8, Failure> {
    let engine = engine(root)?;
    let mut logs = engine.logs(&arguments.name).map_err(|error| Failure::from(error).code(1))?;
    let mut faults = Vec::new();
    match arguments.tail.as_deref().map(|tail| (tail, tail.parse::<usize>())) {
        None | Some(("all", _)) => {}
        Some((_, Ok(lines))) => logs = logs.tail(lines),
        Some((tail, Err(_))) => faults.push(Fault::new(format!("--tail {tail} is no number of lines"), "a number, or all")),
    }
    for (flag, text, since) in [("--since", &arguments.since, true), ("--until", &arguments.until, false)] {
        match text.as_deref().map(|text| moment(flag, text)) {
            Some(Ok(time)) => logs = if since { logs.since(time) } else { logs.until(time) },
            Some(Err(fault)) => faults.push(fault),
            None => {}
        }
    }
    if !faults.is_empty() {
        return Err(Failure::from(faults).code(1));
    }
    crate::block_on(async {
        if !arguments.follow {
            for line in logs.collect()? {
                print_line(&line, arguments.timestamps)?;
            }
            return Ok(0);
        }
        let mut lines = logs.follow()?;
        while let Some(line) = lines.next().await? {
            print_line(&line, arguments.timestamps)?;
        }
        Ok(0)
    })
    .map_err(|failure: Failure| failure.code(1))
}

/// To the stream that it was said on, byte for byte.
fn print_line(line: &LogLine, timestamps: bool) -> Result<(), Failure> {
    let mut bytes = Vec::with_capacity(line.bytes.len() + 32);
    if timestamps {
        bytes.extend_from_slice(format!("{} ", Time(line.time)).as_bytes());
    }
    bytes.extend_from_slice(&line.bytes);
    if line.complete {
        bytes.push(b'\n');
    }
    if line.skipped > 0 {
        let _ = writeln!(std::io::stderr(), "note: {} bytes of the log are missing here", line.skipped);
    }
    let written = match line.stream {
        OutputStream::Stdout => std::io::stdout().write_all(&bytes).and_then(|()| std::io::stdout().flush()),
        OutputStream::Stderr => std::io::stderr().write_all(&bytes),
    };
    match written {
        // Who has seen enough ends it.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::new(format!("can't write to standard output: {error}")).code(1)),
        Ok(()) => Ok(()),
    }
}

/// Bytes as docker-stats(1) writes them.
fn bytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "--".into(), |bytes| indicatif::HumanBytes(bytes).to_string())
}

pub(crate) fn stats(root: Option<PathBuf>, arguments: &Stats) -> Result<u8, Failure> {
    let style = Style::read(arguments.format.as_deref()).map_err(|fault| Failure::from(vec![fault]))?;
    let engine = engine(root)?;
    crate::block_on(async {
        let names: Vec<String> = match &arguments.names[..] {
            [] => engine.list(&Filter::new().running())?.into_iter().filter(|one| one.detached).map(|one| one.id).collect(),
            names => names.to_vec(),
        };
        let containers = names.iter().map(|name| engine.attach(name)).collect::<Result<Vec<_>, _>>()?;
        let interval = Duration::from_secs(1);
        let mut streams: Vec<_> = containers.iter().map(|container| (container, container.stats_every(interval))).collect();
        let mut first = true;
        loop {
            let mut rows = Vec::new();
            let mut text = String::new();
            for (container, stream) in &mut streams {
                // A percentage is that of the time between two looks.
                let stats = match (stream.next().await?, first) {
                    (Some(_), true) => stream.next().await?,
                    (stats, _) => stats,
                };
                let Some(stats) = stats else { continue };
                let name = container.name()?.unwrap_or_default();
                let percent = |percent: Option<f64>| percent.map_or_else(|| "--".into(), |percent| format!("{percent:.2}%"));
                let row = [
                    container.id().to_owned(),
                    name,
                    percent(stats.cpu_percent),
                    format!("{} / {}", bytes(stats.memory), bytes(stats.memory_limit)),
                    percent(stats.memory_percent()),
                    format!("{} / {}", bytes(stats.io_read), bytes(stats.io_write)),
                    stats.pids.map_or_else(|| "--".into(), |pids| pids.to_string()),
                ];
                let named = |row: &[String; 7]| {
                    json!({ "ID": row[0], "Container": row[0], "Name": row[1], "CPUPerc": row[2], "MemUsage": row[3], "MemPerc": row[4],
                        "BlockIO": row[5], "PIDs": row[6] })
                };
                match &style {
                    Style::Table => rows.push(row),
                    Style::Json => text.push_str(&format!("{}\n", named(&row))),
                    Style::Template(template) => text.push_str(&template.line(&named(&row)).map_err(|fault| Failure::from(vec![fault]))?),
                }
            }
            if style == Style::Table {
                text = table::table(["CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "BLOCK I/O", "PIDS"], &rows);
                if !arguments.no_stream && std::io::stdout().is_terminal() {
                    text.insert_str(0, "\x1b[H\x1b[J");
                }
            }
            table::print(&text)?;
            first = false;
            if arguments.no_stream || streams.iter().all(|(container, _)| container.state().map_or(true, |state| !state.is_running())) {
                return Ok(0);
            }
        }
    })
    .map_err(|failure: Failure| failure.code(1))
}

pub(crate) fn top(root: Option<PathBuf>, arguments: &Top) -> Result<u8, Failure> {
    let engine = engine(root)?;
    crate::block_on(async {
        let processes = engine.attach(&arguments.name)?.top().await?;
        let rows: Vec<_> = processes
            .into_iter()
            .map(|process| {
                let seconds = process.cpu_ms / 1000;
                let time = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
                [process.uid.to_string(), process.pid.to_string(), process.ppid.to_string(), time, table::plain(&process.command)]
            })
            .collect();
        table::print(&table::table(["UID", "PID", "PPID", "TIME", "CMD"], &rows))?;
        Ok(0)
    })
    .map_err(|failure: Failure| failure.code(1))
}

pub(crate) fn events(root: Option<PathBuf>, arguments: &Events) -> Result<u8, Failure> {
    let style = Style::read(arguments.format.as_deref()).map_err(|fault| Failure::from(vec![fault]))?;
    let engine = engine(root)?;
    crate::block_on(async {
        let mut events = engine.events()?;
        loop {
            let event = events.next().await;
            let code = match event.kind {
                coracle_container::EventKind::Die(Some(status)) => Some(exit_code(status)),
                _ => None,
            };
            let mut attributes = json!({ "image": event.image, "name": event.name.clone().unwrap_or_default() });
            for (key, value) in &event.labels {
                attributes[key] = Value::from(value.as_str());
            }
            if let Some(code) = code {
                attributes["exitCode"] = Value::from(code.to_string());
            }
            let time = Time(event.time);
            let value = json!({ "Type": "container", "Action": event.kind.word(), "ID": event.id, "Time": time.to_string(),
                "Actor": { "ID": event.id, "Attributes": attributes } });
            let line = match &style {
                Style::Json => format!("{value}\n"),
                Style::Template(template) => template.line(&value).map_err(|fault| Failure::from(vec![fault]))?,
                Style::Table => {
                    let words: Vec<String> = attributes
                        .as_object()
                        .map(|all| all.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect())
                        .unwrap_or_default();
                    format!("{time} container {} {} ({})\n", event.kind.word(), event.id, table::plain(&words.join(", ")))
                }
            };
            table::print(&line)?;
        }
    })
}

pub(crate) fn update(root: Option<PathBuf>, arguments: &UpdateLimits) -> Result<u8, Failure> {
    let mut update = Update::new();
    if let Some(memory) = &arguments.memory {
        update = update.memory(memory.as_str());
    }
    if let Some(cpus) = arguments.cpus {
        update = update.cpus(cpus);
    }
    if let Some(pids) = arguments.pids_limit {
        update = update.pids(pids);
    }
    let update = &update;
    each(root, &arguments.names, |container| async move { container.update(update).await })
}

/// What is known of a container, as `coracle inspect` prints it; none where there is no such container.
pub(crate) fn inspected(engine: &Engine, name: &str) -> Option<Result<Value, Error>> {
    match engine.attach(name) {
        Err(Error::NoSuchContainer { .. }) => None,
        Err(error) => Some(Err(error)),
        Ok(container) => Some(container.inspect().map(|inspect| serde_json::to_value(inspect).unwrap_or_default())),
    }
}

/// Sends a signal; after SIGKILL it has ended.
pub(crate) async fn kill(container: &Container, signal: Signal) -> Result<(), Error> {
    container.signal(signal).await?;
    if signal == Signal::KILL {
        container.wait().await?;
        container.settled().await?;
    }
    Ok(())
}
