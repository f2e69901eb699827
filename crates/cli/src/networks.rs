//! `coracle network` and `coracle port`: private networks with names, and where ports are answered.

use crate::arguments::{Format, List, NetworkCommand, Port};
use crate::failure::{Failure, Fault};
use crate::{json, table};
use coracle_container::{Error, Network, NetworkDetails, NetworkMember, NetworkObstacle};
use std::path::PathBuf;

pub(crate) fn network(root: Option<PathBuf>, command: NetworkCommand) -> Result<u8, Failure> {
    let failed = |error: Error| Failure::from(error).code(1);
    let engine = crate::engine(root).map_err(failed)?;
    match command {
        NetworkCommand::Create(arguments) => {
            let network = if arguments.internal { Network::internal() } else { Network::bridge() };
            let network = arguments.subnet.iter().fold(network, |network, subnet| network.subnet(subnet));
            let made = engine.create_network(&arguments.name, &network).map_err(failed)?;
            table::print(&format!("{}\n", made.name))?;
        }
        NetworkCommand::Ls(arguments) => {
            let networks = engine.networks().map_err(failed)?;
            table::print(&listed(&arguments, &networks))?;
        }
        NetworkCommand::Rm(arguments) => {
            let mut code = 0;
            for name in &arguments.names {
                match engine.remove_network(name) {
                    Ok(()) => table::print(&format!("{name}\n"))?,
                    Err(error) => code = failed(error).tell(),
                }
            }
            return Ok(code);
        }
        NetworkCommand::Inspect(arguments) => {
            let all = arguments.names.iter().map(|name| engine.network(name)).collect::<Result<Vec<_>, _>>().map_err(failed)?;
            table::print(&(json::array(all.iter().map(inspected)) + "\n"))?;
        }
        NetworkCommand::Prune => {
            let removed = engine.prune_networks().map_err(failed)?;
            table::print(&removed.iter().map(|name| format!("{name}\n")).collect::<String>())?;
        }
        NetworkCommand::Diagnose { json } => {
            let found = engine.diagnose_networks().map_err(failed)?;
            table::print(&if json { obstacles_for_programs(&found) } else { obstacles_for_people(&found) })?;
            return Ok(u8::from(!found.is_empty()));
        }
        NetworkCommand::Repair => {
            let repaired = engine.repair_networks().map_err(failed)?;
            table::print(if repaired { "put back into the firewall\n" } else { "all is there\n" })?;
        }
    }
    Ok(0)
}

fn obstacles_for_people(found: &[NetworkObstacle]) -> String {
    if found.is_empty() {
        return "nothing stands in the way\n".into();
    }
    let one = |obstacle: &NetworkObstacle| {
        let fix: String = obstacle.remedy().lines().map(|line| format!("  fix:  {line}\n")).collect();
        format!("{obstacle}\n  lost: {}\n{fix}", obstacle.lost())
    };
    found.iter().map(one).collect()
}

fn obstacles_for_programs(found: &[NetworkObstacle]) -> String {
    let one = |obstacle: &NetworkObstacle| {
        let said = [("found", obstacle.to_string()), ("lost", obstacle.lost().to_owned()), ("remedy", obstacle.remedy())];
        json::object(said.iter().map(|(key, value)| (*key, json::string(value))))
    };
    json::array(found.iter().map(one)) + "\n"
}

fn inspected(network: &NetworkDetails) -> String {
    let texts = |all: &[String]| json::array(all.iter().map(|text| json::string(text)));
    let addresses = |all: &[std::net::IpAddr]| json::array(all.iter().map(|address| json::string(&address.to_string())));
    let member = |member: &NetworkMember| {
        json::object([("names", texts(&member.names)), ("addresses", addresses(&member.addresses)), ("mac", json::string(&member.mac))])
    };
    json::object([
        ("name", json::string(&network.name)),
        ("internal", network.internal.to_string()),
        ("subnets", texts(&network.subnets)),
        ("gateways", addresses(&network.gateways)),
        ("interface", json::string(&network.interface)),
        ("mtu", network.mtu.map_or("null".into(), |mtu| mtu.to_string())),
        ("members", json::array(network.members.iter().map(member))),
    ])
}

fn listed(arguments: &List, networks: &[coracle_container::NetworkSummary]) -> String {
    let words = |network: &coracle_container::NetworkSummary| network.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    match arguments.format {
        _ if arguments.quiet => networks.iter().map(|network| format!("{}\n", network.name)).collect(),
        Format::Table => {
            let row = |network: &coracle_container::NetworkSummary| {
                let kind = if network.internal { "internal" } else { "bridge" };
                [network.name.clone(), kind.into(), network.subnets.join(" "), network.addresses.len().to_string()]
            };
            table::table(["NAME", "KIND", "SUBNETS", "CONTAINERS"], &networks.iter().map(row).collect::<Vec<_>>())
        }
        Format::Json => networks
            .iter()
            .map(|network| {
                let members = [
                    ("name", json::string(&network.name)),
                    ("internal", network.internal.to_string()),
                    ("subnets", json::array(network.subnets.iter().map(|subnet| json::string(subnet)))),
                    ("addresses", json::array(words(network).iter().map(|address| json::string(address)))),
                ];
                json::object(members) + "\n"
            })
            .collect(),
    }
}

pub(crate) fn port(root: Option<PathBuf>, arguments: &Port) -> Result<u8, Failure> {
    let failed = |error: Error| Failure::from(error).code(1);
    let containers = crate::engine(root).and_then(|engine| engine.containers()).map_err(failed)?;
    let mut found = containers.iter().filter(|container| container.id.starts_with(&arguments.container));
    let (Some(container), None) = (found.next(), found.next()) else {
        return Err(failed(Error::NoSuchContainer { id: arguments.container.clone() }));
    };
    let (number, udp) = match arguments.port.as_deref().map(|word| word.split_once('/').unwrap_or((word, "tcp"))) {
        None => (None, None),
        Some((number, transport @ ("tcp" | "udp"))) if number.parse::<u16>().is_ok() => (number.parse().ok(), Some(transport == "udp")),
        Some(_) => {
            let fault = Fault::new(format!("{} is no port", arguments.port.as_deref().unwrap_or_default()), "write 80, or 53/udp");
            return Err(Failure { faults: vec![fault], code: 1 });
        }
    };
    let wanted = container
        .ports
        .iter()
        .filter(|port| number.is_none_or(|number: u16| port.container_port == number) && udp.is_none_or(|udp| port.udp == udp));
    let lines: Vec<String> = wanted
        .map(|port| match number {
            Some(_) => format!("{}\n", port.host),
            None => format!("{}/{} -> {}\n", port.container_port, if port.udp { "udp" } else { "tcp" }, port.host),
        })
        .collect();
    if lines.is_empty() && number.is_some() {
        let fault = Fault::new(format!("{} isn't published", arguments.port.as_deref().unwrap_or_default()), "publish it: coracle run -p");
        return Err(Failure { faults: vec![fault], code: 1 });
    }
    table::print(&lines.concat())?;
    Ok(0)
}
