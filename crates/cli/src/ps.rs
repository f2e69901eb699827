//! `coracle ps`: the containers that are here.

use crate::arguments::Ps;
use crate::failure::{Failure, Fault};
use crate::life::exit_code;
use crate::template::Style;
use crate::{json, table};
use coracle_container::{ContainerSummary, Filter, State, Time};
use std::path::PathBuf;
use std::time::SystemTime;

pub(crate) fn list(root: Option<PathBuf>, arguments: &Ps) -> Result<u8, Failure> {
    let failed = |error| Failure::from(error).code(1);
    let style = Style::read(arguments.format.as_deref()).map_err(|fault| Failure::from(vec![fault]))?;
    let filter = filter(arguments)?;
    let engine = crate::engine(root).map_err(failed)?;
    let containers = engine.list(&filter).map_err(failed)?;
    // Only who is detached answers others.
    let health = |container: &ContainerSummary| {
        let asked = container.detached && container.state.is_running();
        asked.then(|| engine.attach(&container.id).ok()?.health().map(|health| health.state.to_string())).flatten()
    };
    let cut = |text: &str, most| if arguments.no_trunc { table::plain(text) } else { table::shortened(&table::plain(text), most) };
    let text = match &style {
        _ if arguments.quiet => containers.iter().map(|container| format!("{}\n", container.id)).collect(),
        Style::Table => {
            let rows: Vec<_> = containers
                .iter()
                .map(|container| {
                    [
                        container.id.clone(),
                        cut(&container.image, 40),
                        format!("\"{}\"", cut(&container.command.join(" "), 30)),
                        match health(container) {
                            Some(health) => format!("{} ({health})", status(container)),
                            None => status(container),
                        },
                        container.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                        if container.detached { "(detached)".into() } else { container.owner.to_string() },
                        container.name.clone().unwrap_or_default(),
                    ]
                })
                .collect();
            table::table(["CONTAINER ID", "IMAGE", "COMMAND", "STATUS", "PORTS", "STARTED BY", "NAMES"], &rows)
        }
        Style::Json => containers
            .iter()
            .map(|container| {
                let members = [
                    ("id", json::string(&container.id)),
                    ("name", json::string(container.name.as_deref().unwrap_or_default())),
                    ("image", json::string(&container.image)),
                    ("command", json::array(container.command.iter().map(|word| json::string(word)))),
                    ("created", table::seconds(container.created).to_string()),
                    ("state", json::string(container.state.word())),
                    ("status", json::string(&status(container))),
                    ("owner", container.owner.to_string()),
                    ("detached", container.detached.to_string()),
                    ("ports", json::array(container.ports.iter().map(|port| json::string(&port.to_string())))),
                    ("addresses", json::array(container.addresses.iter().map(|address| json::string(&address.to_string())))),
                    ("health", health(container).map_or("null".into(), |health| json::string(&health))),
                    ("labels", json::object(container.labels.iter().map(|(key, value)| (&key[..], json::string(value))))),
                ];
                json::object(members) + "\n"
            })
            .collect(),
        Style::Template(template) => {
            let mut text = String::new();
            for container in &containers {
                let labels: Vec<String> = container.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                let value = serde_json::json!({
                    "ID": container.id,
                    "Names": container.name.clone().unwrap_or_default(),
                    "Image": container.image,
                    "Command": container.command.join(" "),
                    "CreatedAt": Time(container.created).to_string(),
                    "State": container.state.word(),
                    "Status": status(container),
                    "Owner": container.owner,
                    "Labels": labels.join(","),
                });
                text.push_str(&template.line(&value).map_err(|fault| Failure::from(vec![fault]))?);
            }
            text
        }
    };
    table::print(&text)?;
    Ok(0)
}

/// As docker-ps(1) says it.
fn status(container: &ContainerSummary) -> String {
    let age = |since: Option<SystemTime>| {
        let since = since.unwrap_or(container.created);
        table::age(SystemTime::now().duration_since(since).map_or(0, |age| age.as_secs()))
    };
    match container.state {
        State::Created => "Created".into(),
        State::Running => format!("Up {}", age(container.started)),
        State::Paused => format!("Up {} (Paused)", age(container.started)),
        State::Exited(status) => format!("Exited ({}) {} ago", exit_code(status), age(container.finished)),
        _ => "Dead".into(),
    }
}

/// From `--filter` and `--all`.
fn filter(arguments: &Ps) -> Result<Filter, Failure> {
    let mut filter = Filter::new();
    let mut states = false;
    for word in &arguments.filter {
        let wrong = || {
            let fix = "name=PART, id=BEGINNING, label=KEY[=VALUE], status=STATE or ancestor=IMAGE";
            Failure::from(vec![Fault::new(format!("--filter {word} isn't understood"), fix)])
        };
        let (key, value) = word.split_once('=').ok_or_else(wrong)?;
        filter = match key {
            "name" => filter.name(value),
            "id" => filter.id(value),
            "ancestor" => filter.image(value),
            "label" => match value.split_once('=') {
                Some((key, value)) => filter.label(key, Some(value)),
                None => filter.label(value, None),
            },
            "status" if ["created", "running", "paused", "exited", "dead"].contains(&value) => {
                states = true;
                filter.state(value)
            }
            _ => return Err(wrong()),
        };
    }
    Ok(if arguments.all || states { filter } else { filter.running() })
}
