//! Private networks on this host: what is kept of them below the engine's directory, and how a container is put into one.
//!
//! ```text
//!  ROOT/networks/
//!    lock               held while a network is made, found again or removed
//!    ID/record          what it is: JSON
//!    ID/lock            held, shared, by programs with a clone of a nameless one
//!    ID/leases/ADDRESS  a container's address, held by its supervisor; holds what of it is in the firewall: JSON
//!    ID/names           whose names are answered in it: see name_list.rs
//! ```

use crate::engine::Engine;
use crate::error::{Error, Problem};
use crate::name_list::NameList;
use crate::names::{self, Dns};
use crate::network::{Kind, Network, Wanted, is_name};
use crate::publish::PublishedPort;
pub use coracle_netns::Obstacle as NetworkObstacle;
use coracle_netns::{Batch, Bridge, Entry, Firewall, Lease, Leases, Mac, NetNs, Protocol, Reservation, Subnet, Transport};
use coracle_spawn::{Exchange, Relay, Release, Spawn};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A named network as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetworkSummary {
    /// Its name.
    pub name: String,
    /// Its subnets, IPv4 first: `10.9.0.0/24`.
    pub subnets: Vec<String>,
    /// Whether nothing leaves it.
    pub internal: bool,
    /// The addresses of the containers that are in it now.
    pub addresses: Vec<IpAddr>,
}

/// A named network, all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetworkDetails {
    /// Its name.
    pub name: String,
    /// Whether nothing leaves it.
    pub internal: bool,
    /// Its subnets, IPv4 first: `10.9.0.0/24`.
    pub subnets: Vec<String>,
    /// By which containers leave it. None while it has no bridge: since the machine was started, nobody was in it.
    pub gateways: Vec<IpAddr>,
    /// Its bridge, as ip-link(8) names it.
    pub interface: String,
    /// Bytes of a packet, where there is a bridge.
    pub mtu: Option<u32>,
    /// The containers that are in it now.
    pub members: Vec<NetworkMember>,
}

/// A container in a network.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetworkMember {
    /// By which it is found, its own first, in lower case.
    pub names: Vec<String>,
    /// IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Its hardware address.
    pub mac: String,
}

/// What is kept of a network. Fields may be added; none changes its meaning.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    /// None for one that goes with the values that name it.
    name: Option<String>,
    internal: bool,
    subnets: Vec<String>,
    /// The interface.
    bridge: String,
    #[serde(default)]
    guarded: Vec<String>,
}

/// What is in the firewall for one container, in a lease.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    interface: String,
    mac: [u8; 6],
    addresses: Vec<IpAddr>,
    guarded: bool,
    ports: Vec<(bool, SocketAddr, SocketAddr)>,
    /// Its places in the list of names.
    #[serde(default)]
    slots: Vec<u64>,
}

impl Note {
    fn entries(&self) -> Vec<Entry> {
        let plug =
            Entry::Plug { interface: self.interface.clone(), mac: Mac(self.mac), addresses: self.addresses.clone(), guarded: self.guarded };
        let port = |(udp, host, container): &(bool, SocketAddr, SocketAddr)| {
            let transport = if *udp { Transport::Udp } else { Transport::Tcp };
            Entry::Port { transport, host: *host, container: *container }
        };
        std::iter::once(plug).chain(self.ports.iter().map(port)).collect()
    }
}

/// A nameless network, once it is made.
#[derive(Default)]
pub(crate) struct Ephemeral(Mutex<Option<Up>>);

impl Drop for Ephemeral {
    fn drop(&mut self) {
        let up = self.0.get_mut().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(Up { directory, lock: Some((lock, home)), .. }) = up {
            drop(lock);
            // In a thread, because the kernel takes milliseconds, and containers that were let go of at the same time some more; where this
            // process ends before, the next engine does it. A container that goes on in there keeps it until then.
            let _ = std::thread::Builder::new().name("coracle-network".into()).spawn(move || {
                let networks = directory.parent().map(Path::to_owned).unwrap_or_default();
                for _ in 0..100 {
                    let swept = home.run(|| sweep(&networks));
                    if !directory.exists() || swept.is_err() {
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
            });
        }
    }
}

/// A network that has a bridge on this host.
#[derive(Clone)]
struct Up {
    bridge: Bridge,
    leases: Leases,
    directory: PathBuf,
    /// Of a nameless one: and the network namespace that it is in.
    lock: Option<(Arc<File>, Arc<NetNs>)>,
}

/// What a container's description comes to on the network.
pub(crate) struct Attached {
    /// The address of each private network that it is in, in order.
    pub(crate) addresses: Vec<Vec<IpAddr>>,
    /// The gateway's address by which it reaches this host, if it has one.
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) ports: Vec<PublishedPort>,
    /// Whether it has a server for names.
    pub(crate) resolver: bool,
}

/// Who is put into networks.
pub(crate) struct Who<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: Option<&'a str>,
    pub(crate) dns: &'a Dns,
}

impl Who<'_> {
    /// The names by which others find it in a network, the one first by which it goes.
    fn names(&self, network: &Network) -> Vec<String> {
        let id = self.id.get(..12).unwrap_or(self.id);
        let own = self.name.into_iter().chain([id]).filter(|name| is_name(name)).map(str::to_owned);
        own.chain(network.aliases.iter().cloned()).collect()
    }
}

/// The address that a container without a network is asked at for its published ports: reserved for this by RFC 7600, and no loopback
/// address, because servers trust who comes from those.
const ALONE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8));

/// Puts a container into its networks. Blocks for a millisecond, for some more where a network is made.
pub(crate) fn attach(
    engine: &Engine,
    mut spawn: Spawn,
    networks: &[(Network, Wanted)],
    ports: Vec<(Reservation, u16)>,
    who: &Who<'_>,
) -> Result<(Spawn, Attached), Error> {
    let mut addresses = Vec::new();
    let (mut gateway, mut leads_out, mut lists, mut shares) = (None, false, Vec::new(), false);
    let published: Vec<PublishedPort> = ports
        .iter()
        .map(|(reservation, container_port)| PublishedPort {
            host: reservation.address(),
            container_port: *container_port,
            udp: reservation.transport() == Transport::Udp,
        })
        .collect();
    let bridges = networks.iter().filter(|(network, _)| network.is_bridge());
    let plain_user = engine.0.id_map.is_some();
    for (network, _) in networks {
        let pid = match &network.kind {
            Kind::Container(id) => match engine.attach(id)? {
                other if other.pid() == 0 => return Err(Error::NotRunning { id: other.id().to_owned() }),
                other => {
                    shares = !other.addresses().is_empty();
                    other.pid()
                }
            },
            Kind::Shared(pid, private) => {
                shares = *private;
                *pid
            }
            _ => continue,
        };
        if plain_user {
            let what = "sharing another container's network needs root: a plain user's is in a user namespace of its own".into();
            return Err(Error::Description { problems: vec![Problem { what, remedy: None }] });
        }
        spawn = spawn.network_namespace(NetNs::open(format!("/proc/{pid}/ns/net"))?.into());
    }
    for (n, (network, wanted)) in bridges.enumerate() {
        if plain_user {
            let what = "a private network needs root: its cables and its bridge are this host's".into();
            let remedy = Some(
                "publish ports of a container without a network: that needs nothing; or start it in the host's: Network::host()".into(),
            );
            return Err(Error::Description { problems: vec![Problem { what, remedy }] });
        }
        let up = up(engine, network, wanted)?;
        let first = n == 0;
        let names = who.names(network);
        let (endpoint, own) = plug(spawn, &up, n as u32, wanted, if first { &ports } else { &[] }, &names)?;
        spawn = endpoint;
        leads_out |= !up.bridge.internal;
        lists.push(NameList::of(&up.directory).reader()?);
        if first {
            gateway = up.bridge.gateways().first().copied();
        }
        addresses.push(own);
    }
    let resolver = !addresses.is_empty();
    if resolver {
        let redirect = Batch::names_at(names::BEHIND);
        let steps: Vec<String> = redirect.steps().map(str::to_owned).collect();
        spawn = spawn.exchange(Exchange::inside_by(Protocol::Netfilter as u32, redirect.bytes().to_vec(), steps));
        let resolver = names::resolver(who.dns, leads_out);
        spawn = spawn.resolver(lists.into_iter().fold(resolver, |resolver, list| resolver.list(list.into())));
    }
    let to = addresses.first().and_then(|own| own.first().copied());
    if to.is_none() && !ports.is_empty() {
        // Nothing reaches it but the attendant.
        let batch = Batch::loopback_up().address("lo", 1, ALONE, 32);
        spawn = spawn.netlink(batch.bytes().to_vec(), batch.len() as u32);
    }
    for (reservation, container_port) in ports {
        let to = SocketAddr::new(to.unwrap_or(ALONE), container_port);
        spawn = spawn.relay(match reservation.transport() {
            Transport::Udp => Relay::datagrams(reservation.into(), to),
            _ => Relay::stream(reservation.into(), to),
        });
    }
    Ok((spawn, Attached { addresses, gateway, ports: published, resolver: resolver || shares }))
}

/// Adds one cable with all that belongs to it; the addresses, IPv4 first.
fn plug(
    mut spawn: Spawn,
    up: &Up,
    n: u32,
    wanted: &Wanted,
    ports: &[(Reservation, u16)],
    names: &[String],
) -> Result<(Spawn, Vec<IpAddr>), Error> {
    let firewall = Firewall::open()?;
    if firewall.ensure()?
        && let Some(networks) = up.directory.parent()
    {
        put_back(&firewall, networks)?;
    }
    let Some(four) = up.bridge.subnets.iter().find(|subnet| subnet.base().is_ipv4()) else { return Err(Error::Lost) };
    let lease = up.leases.take(four, wanted.address, b"{}")?;
    if let Some(note) = lease.before().and_then(|note| serde_json::from_slice::<Note>(note).ok()) {
        bury(&up.directory, lease.address(), &note);
    }
    let IpAddr::V4(own) = lease.address() else { return Err(Error::Lost) };
    let number = match four.base() {
        IpAddr::V4(base) => u32::from(own) - u32::from(base),
        IpAddr::V6(_) => 2,
    };
    let mut addresses: Vec<(Subnet, IpAddr)> = up.bridge.subnets.iter().filter_map(|s| Some((*s, s.host(number)?))).collect();
    if let Some(six) = wanted.address6 {
        let subnet = up.bridge.subnets.iter().find(|subnet| subnet.base().is_ipv6()).copied();
        let subnet = subnet.ok_or(coracle_netns::Error::AddressOutside { address: six.into(), subnet: *four })?;
        for also in fix_ipv6(up, four, &subnet, six, own)? {
            spawn = spawn.release(Release::RemoveFile(also.path().to_owned())).hold(OwnedFd::from(also));
        }
        addresses.iter_mut().filter(|(of, _)| *of == subnet).for_each(|(_, address)| *address = six.into());
    }
    let mac = wanted.mac.unwrap_or_else(|| Mac::of(own));
    let cable = up.bridge.cable(n, mac);
    let plain = |bytes: &Batch| bytes.steps().map(str::to_owned).collect::<Vec<_>>();

    let mut outside = Batch::new().veth(&cable);
    if !ports.is_empty() {
        outside = outside.hairpin_port(&cable.name, cable.index);
    }
    spawn = spawn.exchange(Exchange::outside(0, outside.bytes().to_vec(), plain(&outside)).namespace_at(outside.namespace_at()));
    let gateways = if n == 0 { up.bridge.gateways() } else { Vec::new() };
    let inside = Batch::new().endpoint(&cable.peer, cable.peer_index, &addresses, &gateways);
    spawn = spawn.exchange(Exchange::inside(inside.bytes().to_vec(), plain(&inside)));

    let by_kernel = |reservation: &Reservation, to: u16| {
        let host = reservation.address();
        let container = addresses.iter().map(|(_, a)| *a).find(|a| a.is_ipv4() == host.is_ipv4());
        let container = container.filter(|_| !host.ip().is_loopback())?;
        Some((reservation.transport() == Transport::Udp, host, SocketAddr::new(container, to)))
    };
    let mut note = Note {
        slots: Vec::new(),
        interface: cable.name.clone(),
        mac: mac.0,
        addresses: addresses.iter().map(|(_, address)| *address).collect(),
        guarded: firewall.guards_plugs()?,
        ports: ports.iter().filter_map(|(reservation, to)| by_kernel(reservation, *to)).collect(),
    };
    let entries = note.entries();
    for entry in &entries[1..] {
        // The port is ours since we are bound to it: what is in the firewall is a dead one's.
        firewall.make_room(entry)?;
    }
    let slots = NameList::of(&up.directory).take(&note.addresses.clone(), names, |slots| {
        note.slots = slots.to_vec();
        Ok(lease.note(&serde_json::to_vec(&note).unwrap_or_default())?)
    })?;
    spawn = slots.into_iter().fold(spawn, Spawn::name_slot);
    let protocol = Protocol::Netfilter as u32;
    let add = Batch::firewall_add(&entries);
    spawn = spawn.exchange(Exchange::outside(protocol, add.bytes().to_vec(), plain(&add)));
    // One by one: who throws our table away has taken all back, who throws a part away only that.
    let take_out = if Firewall::lets_expire() { Batch::firewall_expire } else { Batch::firewall_remove };
    for entry in entries.iter().rev() {
        let remove = take_out(std::slice::from_ref(entry));
        spawn = spawn.release(Release::Netlink { protocol, messages: remove.bytes().to_vec(), count: remove.len() as u32 });
    }
    spawn = spawn.release(Release::RemoveFile(lease.path().to_owned()));
    let own = addresses.iter().map(|(_, address)| *address).collect();
    Ok((spawn.hold(OwnedFd::from(lease)), own))
}

/// Takes an IPv6 address that was asked for; and where it has another container's number, that container's IPv4 address, so that nobody gets
/// both by that number.
fn fix_ipv6(up: &Up, four: &Subnet, subnet: &Subnet, six: Ipv6Addr, own: Ipv4Addr) -> Result<Vec<Lease>, Error> {
    let mut leases = vec![up.leases.take(subnet, Some(six.into()), b"{}")?];
    let IpAddr::V6(base) = subnet.base() else { return Ok(leases) };
    let number = u128::from(six).wrapping_sub(u128::from(base));
    let same = u32::try_from(number).ok().and_then(|number| four.host(number)).filter(|same| *same != IpAddr::V4(own));
    match same.map(|same| up.leases.take(four, Some(same), b"{}")) {
        Some(Ok(lease)) => leases.push(lease),
        Some(Err(coracle_netns::Error::AddressTaken { .. })) => {
            return Err(coracle_netns::Error::AddressTaken { address: six.into() }.into());
        }
        // The number of what no container is given.
        Some(Err(_)) | None => {}
    }
    Ok(leases)
}

/// The containers that are in a network now: what else is held there is held for them.
fn members(place: &Path) -> Result<Vec<(IpAddr, Note)>, Error> {
    let live = Leases::open(place.join("leases"))?.live()?;
    Ok(live.into_iter().filter_map(|(address, note)| Some((address, serde_json::from_slice(&note).ok()?))).collect())
}

/// The network as a bridge: found, or made.
fn up(engine: &Engine, network: &Network, wanted: &Wanted) -> Result<Up, Error> {
    let networks = directory(engine)?;
    match &network.kind {
        Kind::Private(private) => {
            let mut made = private.made.0.lock().unwrap_or_else(|e| e.into_inner());
            if let Some(up) = &*made {
                // Another engine's is another network.
                if up.directory.starts_with(&networks) {
                    return Ok(up.clone());
                }
            }
            let _alone = lock(&networks)?;
            let id = format!("{:012x}", random() & 0xffff_ffff_ffff);
            let place = networks.join(&id);
            let lock = prepare(&place)?;
            let begun = begin(&networks, &place, None, private.internal, &wanted.subnets);
            let up = begun.inspect_err(|_| {
                let _ = fs::remove_dir_all(&place);
            })?;
            let up = Up { lock: Some((Arc::new(lock), Arc::new(NetNs::current()?))), ..up };
            *made = Some(up.clone());
            Ok(up)
        }
        Kind::Named(name) => {
            let _alone = lock(&networks)?;
            let (place, record) = find(&networks, name)?.ok_or_else(|| Error::NoSuchNetwork { name: name.clone() })?;
            let subnets = crate::network::subnets(&record.subnets).unwrap_or_default();
            let bridge = match Bridge::find(&record.bridge, &subnets, record.internal, &record.guarded)? {
                Some(bridge) => bridge,
                // The machine was started anew.
                None => {
                    let bridge = Bridge::make(&record.bridge, &subnets, record.internal)?;
                    write(&place, &Record { guarded: bridge.guarded.clone(), ..record })?;
                    bridge
                }
            };
            Ok(Up { bridge, leases: Leases::open(place.join("leases"))?, directory: place, lock: None })
        }
        _ => Err(Error::Lost),
    }
}

/// A new network's directory, locked.
fn prepare(place: &Path) -> Result<File, Error> {
    let failed = |attempted| move |source| Error::State { attempted, path: place.to_owned(), source };
    fs::create_dir(place).map_err(failed("make"))?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(place.join("lock")).map_err(failed("make a lock in"))?;
    flock(&file, FlockOperation::NonBlockingLockShared).map_err(|errno| failed("lock")(errno.into()))?;
    Ok(file)
}

/// Makes a bridge and writes what it is. The lock of all networks is held.
fn begin(networks: &Path, place: &Path, name: Option<String>, internal: bool, wanted: &[Subnet]) -> Result<Up, Error> {
    let mut taken = coracle_netns::subnets_in_use();
    // Networks that have no bridge at the moment keep their subnets.
    taken.extend(records(networks).iter().flat_map(|(_, record)| crate::network::subnets(&record.subnets).unwrap_or_default()));
    for subnet in wanted {
        if let Some(by) = taken.iter().find(|other| other.overlaps(subnet)) {
            return Err(coracle_netns::Error::SubnetTaken { subnet: *subnet, by: *by }.into());
        }
    }
    let of = |four: bool| wanted.iter().copied().find(|subnet| subnet.base().is_ipv4() == four);
    let four = of(true).or_else(|| Subnet::free(&taken, random())).ok_or(coracle_netns::Error::NoSubnet)?;
    let subnets = [four, of(false).unwrap_or_else(|| Subnet::unique_local(random()))];
    let bridge = Bridge::make(&format!("cobr{:08x}", random() as u32), &subnets, internal)?;
    let done = Leases::open(place.join("leases")).map_err(Error::from).and_then(|leases| {
        let subnets = subnets.iter().map(Subnet::to_string).collect();
        write(place, &Record { name, internal, subnets, bridge: bridge.name.clone(), guarded: bridge.guarded.clone() })?;
        Ok(leases)
    });
    match done {
        Ok(leases) => Ok(Up { bridge, leases, directory: place.to_owned(), lock: None }),
        Err(error) => {
            let _ = bridge.remove();
            Err(error)
        }
    }
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u64::from_ne_bytes(bytes)
}

fn directory(engine: &Engine) -> Result<PathBuf, Error> {
    let path = engine.0.root.join("networks");
    match fs::create_dir(&path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(Error::State { attempted: "make", path, source }),
        _ => Ok(path),
    }
}

fn lock(networks: &Path) -> Result<File, Error> {
    let path = networks.join("lock");
    let failed = |source| Error::State { attempted: "lock", path: path.clone(), source };
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
    rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive)).map_err(|errno| failed(errno.into()))?;
    Ok(file)
}

fn write(place: &Path, record: &Record) -> Result<(), Error> {
    let (draft, path) = (place.join(".record"), place.join("record"));
    let failed = |source| Error::State { attempted: "write", path: path.clone(), source };
    fs::write(&draft, serde_json::to_vec(record).unwrap_or_default()).and_then(|()| fs::rename(&draft, &path)).map_err(failed)
}

fn records(networks: &Path) -> Vec<(PathBuf, Record)> {
    let places = fs::read_dir(networks).into_iter().flatten().flatten().map(|entry| entry.path());
    places.filter_map(|place| Some((place.clone(), serde_json::from_slice(&fs::read(place.join("record")).ok()?).ok()?))).collect()
}

fn find(networks: &Path, name: &str) -> Result<Option<(PathBuf, Record)>, Error> {
    Ok(records(networks).into_iter().find(|(_, record)| record.name.as_deref() == Some(name)))
}

/// Puts what networks and live containers have into a firewall that somebody had thrown away.
fn put_back(firewall: &Firewall, networks: &Path) -> Result<(), Error> {
    for (place, record) in records(networks) {
        let subnets = crate::network::subnets(&record.subnets).unwrap_or_default();
        let Some(bridge) = Bridge::find(&record.bridge, &subnets, record.internal, &record.guarded)? else { continue };
        firewall.put(&bridge.entries())?;
        for (_, note) in Leases::open(place.join("leases"))?.live()? {
            if let Ok(note) = serde_json::from_slice::<Note>(&note) {
                firewall.put(&note.entries())?;
            }
        }
    }
    Ok(())
}

/// This host forwards for everybody by now: whoever turned that on wants it of the interfaces, too, that we had made forward for us alone.
fn let_others_forward(firewall: &Firewall, networks: &Path) -> Result<bool, Error> {
    let mut any = false;
    for (place, record) in records(networks) {
        if record.guarded.is_empty() || !coracle_netns::forwards_ipv4() {
            continue;
        }
        for interface in &record.guarded {
            let guard = Entry::Guard { interface: interface.clone() };
            if firewall.holds(&guard)? {
                firewall.remove(&[guard])?;
            }
        }
        write(&place, &Record { guarded: Vec::new(), ..record })?;
        any = true;
    }
    Ok(any)
}

/// Takes back what dead containers and programs left: addresses, ports in the firewall, nameless networks.
pub(crate) fn sweep(networks: &Path) -> Result<(), Error> {
    if !networks.is_dir() {
        return Ok(());
    }
    let _alone = lock(networks)?;
    if coracle_netns::forwards_ipv4() && records(networks).iter().any(|(_, record)| !record.guarded.is_empty()) {
        let_others_forward(&Firewall::open()?, networks)?;
    }
    for (place, record) in records(networks) {
        let Ok(leases) = Leases::open(place.join("leases")) else { continue };
        for (address, note) in leases.bury_dead().unwrap_or_default() {
            let Ok(note) = serde_json::from_slice::<Note>(&note) else { continue };
            bury(&place, address, &note);
        }
        let held = File::open(place.join("lock")).ok().is_some_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_err());
        if record.name.is_none() && !held && leases.live().is_ok_and(|live| live.is_empty()) {
            remove(&place, &record)?;
        }
    }
    Ok(())
}

/// Takes a dead container's elements out of the firewall, and its names out of the list. Its ports may be somebody else's by now: whoever can bind one knows that it isn't.
fn bury(network: &Path, address: IpAddr, note: &Note) {
    NameList::of(network).free(address, &note.slots);
    let Ok(firewall) = Firewall::open() else { return };
    for entry in note.entries() {
        let ours = match &entry {
            Entry::Port { transport, host, .. } => match Reservation::take(*transport, *host) {
                Ok(reservation) => Some(reservation),
                Err(_) => continue,
            },
            _ => None,
        };
        let _ = firewall.remove(&[entry]);
        drop(ours);
    }
}

/// Removes a network's bridge, if it has one, and all that is kept of it.
fn remove(place: &Path, record: &Record) -> Result<(), Error> {
    if let Some(bridge) = Bridge::find(&record.bridge, &[], record.internal, &[])? {
        bridge.remove()?;
    }
    fs::remove_dir_all(place).map_err(|source| Error::State { attempted: "remove", path: place.to_owned(), source })
}

impl Engine {
    /// Makes a network that is kept under a name until it is [removed](Self::remove_network), also when the machine is started anew; made
    /// of a [`Network::bridge`] or [`Network::internal`]. Blocks for some milliseconds. Needs root.
    ///
    /// # Errors
    /// [`Error::Description`] for a name that is taken or can't be one; [`Error::Network`]; [`Error::State`].
    pub fn create_network(&self, name: &str, network: &Network) -> Result<NetworkSummary, Error> {
        let good = !name.is_empty() && name.len() <= 63 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        let mut problems = Vec::new();
        let mut problem = |what: String, remedy: &str| problems.push(Problem { what, remedy: Some(remedy.into()) });
        if !good || name.starts_with(['.', '-']) || ["none", "host", "bridge", "default"].contains(&name) {
            problem(
                format!("{name:?} can't be the name of a network"),
                "1 to 63 letters, digits, hyphens, dots and underscores; not none, host, bridge or default",
            );
        }
        let Kind::Private(private) = &network.kind else {
            problem("a network is made of Network::bridge() or Network::internal()".into(), "the others are there already");
            return Err(Error::Description { problems });
        };
        let networks = directory(self)?;
        let _alone = lock(&networks)?;
        if find(&networks, name)?.is_some() {
            problem(format!("there is a network {name} already"), "remove it, or choose another name");
        }
        let wanted = network.check().map_err(|wrong| wrong.into_iter().for_each(|what| problem(what, "see Network::subnet")));
        let Some(wanted) = wanted.ok().filter(|_| problems.is_empty()) else {
            return Err(Error::Description { problems });
        };
        let place = networks.join(format!("{:012x}", random() & 0xffff_ffff_ffff));
        drop(prepare(&place)?);
        let up = begin(&networks, &place, Some(name.to_owned()), private.internal, &wanted.subnets).inspect_err(|_| {
            let _ = fs::remove_dir_all(&place);
        })?;
        let subnets = up.bridge.subnets.iter().map(Subnet::to_string).collect();
        Ok(NetworkSummary { name: name.to_owned(), subnets, internal: private.internal, addresses: Vec::new() })
    }

    /// The networks that have names, by name.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn networks(&self) -> Result<Vec<NetworkSummary>, Error> {
        let networks = directory(self)?;
        let mut all = Vec::new();
        for (place, record) in records(&networks) {
            let Some(name) = record.name else { continue };
            let mut addresses: Vec<IpAddr> = members(&place)?.into_iter().map(|(address, _)| address).collect();
            addresses.sort();
            all.push(NetworkSummary { name, subnets: record.subnets, internal: record.internal, addresses });
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// What there is to know of a network that has a name.
    ///
    /// # Errors
    /// [`Error::NoSuchNetwork`]; [`Error::State`]; [`Error::Network`].
    pub fn network(&self, name: &str) -> Result<NetworkDetails, Error> {
        let networks = directory(self)?;
        let (place, record) = find(&networks, name)?.ok_or_else(|| Error::NoSuchNetwork { name: name.to_owned() })?;
        let subnets = crate::network::subnets(&record.subnets).unwrap_or_default();
        let bridge = Bridge::find(&record.bridge, &subnets, record.internal, &record.guarded)?;
        let list = NameList::of(&place);
        let member = |(address, note): (IpAddr, Note)| {
            let mac = Mac(note.mac).to_string();
            NetworkMember { names: list.names(address), addresses: note.addresses, mac }
        };
        let mut members: Vec<NetworkMember> = members(&place)?.into_iter().map(member).collect();
        members.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        Ok(NetworkDetails {
            name: name.to_owned(),
            internal: record.internal,
            gateways: bridge.as_ref().map(Bridge::gateways).unwrap_or_default(),
            mtu: bridge.as_ref().map(|bridge| bridge.mtu),
            subnets: record.subnets,
            interface: record.bridge,
            members,
        })
    }

    /// Removes all networks that have names and no containers; the names.
    ///
    /// # Errors
    /// [`Error::State`]; [`Error::Network`].
    pub fn prune_networks(&self) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        for network in self.networks()? {
            match self.remove_network(&network.name) {
                Ok(()) => removed.push(network.name),
                // Somebody's, or gone, since.
                Err(Error::NetworkInUse { .. } | Error::NoSuchNetwork { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    /// What of this host stands in the way of private networks' traffic, with what is lost for it and what mends it; nothing is changed. Others'
    /// firewalls are looked at for this alone. Needs root. Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`Error::Network`].
    pub fn diagnose_networks(&self) -> Result<Vec<NetworkObstacle>, Error> {
        let mut bridges = Vec::new();
        for (_, record) in records(&directory(self)?) {
            let subnets = crate::network::subnets(&record.subnets).unwrap_or_default();
            bridges.extend(Bridge::find(&record.bridge, &subnets, record.internal, &record.guarded)?);
        }
        Ok(coracle_netns::obstacles(&bridges)?)
    }

    /// Removes a network. Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`Error::NoSuchNetwork`]; [`Error::NetworkInUse`] while containers are in it; [`Error::Network`].
    pub fn remove_network(&self, name: &str) -> Result<(), Error> {
        let networks = directory(self)?;
        let _alone = lock(&networks)?;
        let (place, record) = find(&networks, name)?.ok_or_else(|| Error::NoSuchNetwork { name: name.to_owned() })?;
        let addresses: Vec<IpAddr> = Leases::open(place.join("leases"))?.live()?.into_iter().map(|(address, _)| address).collect();
        if !addresses.is_empty() {
            return Err(Error::NetworkInUse { name: name.to_owned(), addresses });
        }
        remove(&place, &record)
    }

    /// Puts our table into this host's firewall anew, with all that networks and containers have in it, where somebody has thrown it away,
    /// as `nft flush ruleset` does; and lets interfaces forward for everybody that were guarded before this host did; whether anything had to be done. Each start of a container in a private network does the same. Others' tables are
    /// neither read nor changed.
    ///
    /// # Errors
    /// [`Error::Network`].
    pub fn repair_networks(&self) -> Result<bool, Error> {
        let networks = directory(self)?;
        let _alone = lock(&networks)?;
        let firewall = Firewall::open()?;
        let gone = firewall.ensure()?;
        if gone {
            put_back(&firewall, &networks)?;
        }
        let unguarded = let_others_forward(&firewall, &networks)?;
        Ok(gone || unguarded)
    }
}
