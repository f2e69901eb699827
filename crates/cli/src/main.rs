//! The program `coracle`: containers from the command line, with Docker's flags and exit codes, and no daemon.
//!
//! What a command prints goes to standard output; what is said to a person goes to standard error. `coracle run` itself writes
//! nothing to standard output, which is the container's.
#![forbid(unsafe_code)]

mod archives;
mod arguments;
mod changes;
mod completion;
mod containers;
mod cp;
mod detached;
mod doctor;
mod duration;
mod environment;
mod exec;
mod failure;
mod health;
mod images;
mod json;
mod life;
mod mounts;
mod networks;
mod progress;
mod ps;
mod question;
mod run;
mod security;
mod snapshot;
mod table;
mod template;
mod terminal;
mod volumes;

use arguments::{Arguments, Command, ContainerCommand, ImageCommand};
use coracle_container::{Engine, Error, RegistryClient};
use failure::Failure;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Arguments { root, command } = match Arguments::read(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing can be said about a closed standard error.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(failure::OURS) } else { ExitCode::SUCCESS };
        }
    };
    let done = match command {
        Command::Run(arguments) => life::run(root, *arguments),
        Command::Pull(arguments) | Command::Image(ImageCommand::Pull(arguments)) => images::pull(root, arguments),
        Command::Push(arguments) | Command::Image(ImageCommand::Push(arguments)) => images::push(root, arguments),
        Command::Images(arguments) | Command::Image(ImageCommand::Ls(arguments)) => images::list(root, &arguments),
        Command::Inspect(arguments) | Command::Image(ImageCommand::Inspect(arguments)) => images::inspect(root, &arguments),
        Command::Tag(arguments) | Command::Image(ImageCommand::Tag(arguments)) => images::tag(root, &arguments),
        Command::Rmi(arguments) | Command::Image(ImageCommand::Rm(arguments)) => images::remove(root, &arguments),
        Command::Prune(arguments) | Command::Image(ImageCommand::Prune(arguments)) => images::prune(root, &arguments),
        Command::Check(arguments) | Command::Image(ImageCommand::Check(arguments)) => images::check(root, &arguments),
        Command::Save(arguments) | Command::Image(ImageCommand::Save(arguments)) => archives::save(root, arguments),
        Command::Load(arguments) | Command::Image(ImageCommand::Load(arguments)) => archives::load(root, arguments),
        Command::Import(arguments) | Command::Image(ImageCommand::Import(arguments)) => archives::import(root, arguments),
        Command::Doctor(arguments) => doctor::run(root, &arguments),
        Command::Cp(arguments) => cp::run(root, &arguments),
        Command::Network(command) => networks::network(root, command),
        Command::Volume(command) => volumes::run(root, command),
        Command::Port(arguments) => networks::port(root, &arguments),
        Command::Completion(arguments) => completion::print(arguments.shell),
        Command::Events(arguments) => containers::events(root, &arguments),
        Command::Ps(arguments) => container(root, ContainerCommand::Ls(arguments)),
        Command::Exec(arguments) => container(root, ContainerCommand::Exec(arguments)),
        Command::Stop(arguments) => container(root, ContainerCommand::Stop(arguments)),
        Command::Kill(arguments) => container(root, ContainerCommand::Kill(arguments)),
        Command::Create(arguments) => container(root, ContainerCommand::Create(arguments)),
        Command::Start(arguments) => container(root, ContainerCommand::Start(arguments)),
        Command::Restart(arguments) => container(root, ContainerCommand::Restart(arguments)),
        Command::Pause(arguments) => container(root, ContainerCommand::Pause(arguments)),
        Command::Unpause(arguments) => container(root, ContainerCommand::Unpause(arguments)),
        Command::Rm(arguments) => container(root, ContainerCommand::Rm(arguments)),
        Command::Logs(arguments) => container(root, ContainerCommand::Logs(arguments)),
        Command::Wait(arguments) => container(root, ContainerCommand::Wait(arguments)),
        Command::Attach(arguments) => container(root, ContainerCommand::Attach(arguments)),
        Command::Stats(arguments) => container(root, ContainerCommand::Stats(arguments)),
        Command::Top(arguments) => container(root, ContainerCommand::Top(arguments)),
        Command::Rename(arguments) => container(root, ContainerCommand::Rename(arguments)),
        Command::Update(arguments) => container(root, ContainerCommand::Update(arguments)),
        Command::Container(command) => container(root, command),
        Command::Commit(arguments) => changes::commit(root, arguments),
        Command::Diff(arguments) => changes::diff(root, &arguments),
        Command::Export(arguments) => changes::export(root, arguments),
        Command::Snapshot(command) => snapshot::run(root, command),
    };
    ExitCode::from(done.unwrap_or_else(|failure| failure.tell()))
}

/// What has two names: `coracle start` and `coracle container start`.
fn container(root: Option<PathBuf>, command: ContainerCommand) -> Result<u8, Failure> {
    match command {
        ContainerCommand::Ls(arguments) => ps::list(root, &arguments),
        ContainerCommand::Exec(arguments) => exec::run(root, &arguments),
        ContainerCommand::Stop(arguments) => detached::stop(root, &arguments),
        ContainerCommand::Kill(arguments) => detached::kill(root, &arguments),
        ContainerCommand::Create(arguments) => containers::create(root, &arguments),
        ContainerCommand::Start(arguments) => containers::start(root, &arguments),
        ContainerCommand::Restart(arguments) => containers::restart(root, &arguments),
        ContainerCommand::Pause(arguments) => containers::pause(root, &arguments),
        ContainerCommand::Unpause(arguments) => containers::unpause(root, &arguments),
        ContainerCommand::Rm(arguments) => containers::remove(root, &arguments),
        ContainerCommand::Prune(arguments) => containers::prune(root, &arguments),
        ContainerCommand::Logs(arguments) => containers::logs(root, &arguments),
        ContainerCommand::Wait(arguments) => containers::wait(root, &arguments),
        ContainerCommand::Attach(arguments) => containers::attach(root, &arguments.name),
        ContainerCommand::Stats(arguments) => containers::stats(root, &arguments),
        ContainerCommand::Top(arguments) => containers::top(root, &arguments),
        ContainerCommand::Rename(arguments) => containers::rename(root, &arguments),
        ContainerCommand::Update(arguments) => containers::update(root, &arguments),
    }
}

/// The engine below `--root`, or where it is if nothing is said.
fn engine(root: Option<PathBuf>) -> Result<Engine, Error> {
    // As this machine's other programs find registries: mirrors, certificates, what is blocked.
    let builder = Engine::builder().registries(RegistryClient::new().machine_configuration());
    match root {
        Some(root) => builder.root(root).open(),
        None => builder.open(),
    }
}

/// One thread is enough: the container is another process, and a pull has its own.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    runtime.map_err(|error| Failure::new(format!("can't start a runtime: {error}")))?.block_on(work)
}
