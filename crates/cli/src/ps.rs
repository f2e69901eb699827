//! `coracle ps`: the containers that run.

use crate::arguments::{Format, List};
use crate::failure::Failure;
use crate::{json, table};
use std::path::PathBuf;
use std::time::SystemTime;

pub(crate) fn list(root: Option<PathBuf>, arguments: &List) -> Result<u8, Failure> {
    let failed = |error| Failure::from(error).code(1);
    let engine = crate::engine(root).map_err(failed)?;
    let containers = engine.containers().map_err(failed)?;
    // Only who is detached answers others.
    let health = |id: &str| engine.attach(id).ok()?.health().map(|health| health.state.to_string());
    let cut = |text: &str, most| if arguments.no_trunc { table::plain(text) } else { table::shortened(&table::plain(text), most) };
    let text = match arguments.format {
        _ if arguments.quiet => containers.iter().map(|container| format!("{}\n", container.id)).collect(),
        Format::Table => {
            let now = SystemTime::now();
            let rows: Vec<_> = containers
                .iter()
                .map(|container| {
                    let up = now.duration_since(container.created).map_or(0, |up| up.as_secs());
                    [
                        container.id.clone(),
                        cut(&container.image, 40),
                        format!("\"{}\"", cut(&container.command.join(" "), 30)),
                        match health(&container.id).filter(|_| container.detached) {
                            Some(health) => format!("Up {} ({health})", table::age(up)),
                            None => format!("Up {}", table::age(up)),
                        },
                        container.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                        if container.detached { "(detached)".into() } else { container.owner.to_string() },
                    ]
                })
                .collect();
            table::table(["CONTAINER ID", "IMAGE", "COMMAND", "STATUS", "PORTS", "STARTED BY"], &rows)
        }
        Format::Json => containers
            .iter()
            .map(|container| {
                let members = [
                    ("id", json::string(&container.id)),
                    ("image", json::string(&container.image)),
                    ("command", json::array(container.command.iter().map(|word| json::string(word)))),
                    ("created", table::seconds(container.created).to_string()),
                    ("owner", container.owner.to_string()),
                    ("detached", container.detached.to_string()),
                    ("ports", json::array(container.ports.iter().map(|port| json::string(&port.to_string())))),
                    ("addresses", json::array(container.addresses.iter().map(|address| json::string(&address.to_string())))),
                    ("health", health(&container.id).map_or("null".into(), |health| json::string(&health))),
                    ("labels", json::object(container.labels.iter().map(|(key, value)| (&key[..], json::string(value))))),
                ];
                json::object(members) + "\n"
            })
            .collect(),
    };
    table::print(&text)?;
    Ok(0)
}
