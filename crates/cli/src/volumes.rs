//! `coracle volume`: directories of the engine's that containers have beside their roots.

use crate::arguments::{Format, List, VolumeCommand};
use crate::failure::Failure;
use crate::{json, table};
use coracle_container::{Error, Time, Volume, VolumeSummary};
use std::path::PathBuf;

pub(crate) fn run(root: Option<PathBuf>, command: VolumeCommand) -> Result<u8, Failure> {
    let failed = |error: Error| Failure::from(error).code(1);
    let engine = crate::engine(root).map_err(failed)?;
    match command {
        VolumeCommand::Create(arguments) => {
            let name = arguments.name.clone().unwrap_or_else(new_name);
            let mut volume = arguments.size.iter().fold(Volume::named(name), Volume::size);
            for word in &arguments.label {
                let (key, value) = word.split_once('=').unwrap_or((word, ""));
                volume = volume.label(key, value);
            }
            let made = crate::block_on(async { engine.create_volume(volume).await.map_err(failed) })?;
            table::print(&format!("{}\n", made.name))?;
        }
        VolumeCommand::Ls(arguments) => table::print(&listed(&arguments, &engine.volumes().map_err(failed)?))?,
        VolumeCommand::Inspect { names } => {
            let mut code = 0;
            let mut found = Vec::new();
            for name in &names {
                match engine.volume(name) {
                    Ok(volume) => found.push(object(&volume)),
                    Err(error) => code = failed(error).tell(),
                }
            }
            table::print(&format!("{}\n", json::array(found)))?;
            return Ok(code);
        }
        VolumeCommand::Rm { names, force } => {
            let mut code = 0;
            for name in &names {
                match crate::block_on(async { Ok(engine.remove_volume(name).await) })? {
                    Ok(()) => table::print(&format!("{name}\n"))?,
                    Err(Error::NoSuchVolume { .. }) if force => {}
                    Err(error) => code = failed(error).tell(),
                }
            }
            return Ok(code);
        }
        VolumeCommand::Prune { force } => {
            if !force && !crate::question::agreed("This removes all volumes that no container has, with their files.") {
                return Ok(1);
            }
            let pruned = crate::block_on(async { engine.prune_volumes().await.map_err(failed) })?;
            table::print(&pruned.iter().map(|volume| format!("{}\n", volume.name)).collect::<String>())?;
        }
    }
    Ok(0)
}

/// Docker gives one without a name a long number.
fn new_name() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}

fn listed(arguments: &List, volumes: &[VolumeSummary]) -> String {
    match arguments.format {
        _ if arguments.quiet => volumes.iter().map(|volume| format!("{}\n", volume.name)).collect(),
        Format::Table => {
            let row = |volume: &VolumeSummary| {
                let size = volume.size.map(|size| indicatif::HumanBytes(size).to_string()).unwrap_or_default();
                let containers: Vec<String> = volume.containers.iter().map(|id| id.chars().take(12).collect()).collect();
                ["local".into(), volume.name.clone(), size, containers.join(" ")]
            };
            table::table(["DRIVER", "VOLUME NAME", "SIZE", "CONTAINERS"], &volumes.iter().map(row).collect::<Vec<_>>())
        }
        Format::Json => volumes.iter().map(|volume| object(volume) + "\n").collect(),
    }
}

/// With Docker's names.
fn object(volume: &VolumeSummary) -> String {
    let labels: Vec<(&str, String)> = volume.labels.iter().map(|(key, value)| (key.as_str(), json::string(value))).collect();
    let options = volume.size.map(|size| ("size", json::string(&size.to_string())));
    json::object([
        ("CreatedAt", json::string(&Time(volume.created).to_string())),
        ("Driver", json::string("local")),
        ("Labels", json::object(labels)),
        ("Mountpoint", json::string(&volume.path.to_string_lossy())),
        ("Name", json::string(&volume.name)),
        ("Options", json::object(options)),
        ("Scope", json::string("local")),
        ("Containers", json::array(volume.containers.iter().map(|id| json::string(id)))),
        ("Anonymous", volume.anonymous.to_string()),
    ])
}
