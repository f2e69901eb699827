//! A network namespace, made by the supervisor while the first process makes its mounts: it is the dearest of all namespaces, and
//! nothing of the root depends on it but sysfs and the settings below /proc/sys/net.

use crate::dns::SLOT;
use crate::failure::{Failure, Fault};
use crate::system_call::{
    AT_FDCWD, CLONE_NEWNET, Errno, Fd, Pages, bound_socket, close, netlink_socket, open, openat2, pwrite, read, send, setns, unshare,
};
use crate::wire::{Exchange, NameSlot, Network, Resolver, stage};

const NETLINK_ROUTE: u32 = 0;

/// Makes and configures one, and is back in the host's when it returns.
pub fn make(network: &Network<'_>, given: Option<Fd>, resolver: Option<&Resolver<'_>>) -> Result<Made, Failure> {
    let failure = |index, fault: Fault| Failure { stage: stage::NETWORK, index, fault };
    let plain = |errno: Errno| failure(0, errno.into());
    if let Some(namespace) = given {
        return Ok(Made { namespace, names: None });
    }
    let ours = current().map_err(plain)?;
    unshare(CLONE_NEWNET).map_err(plain)?;
    let made = inside(network, resolver);
    setns(ours, CLONE_NEWNET).map_err(plain)?;
    close(ours);
    let Inside { made, route, netfilter } = made.map_err(|fault| failure(0, fault))?;
    let mut done = Ok(());
    for (n, exchange) in network.more.iter().enumerate() {
        let socket = if exchange.protocol == NETLINK_ROUTE { route } else { netfilter };
        done =
            perform(&exchange, made.namespace, socket).map_err(|(request, fault)| failure((n as u32 + 1) << 16 | request & 0xffff, fault));
        if done.is_err() {
            break;
        }
    }
    [route, netfilter].into_iter().flatten().for_each(close);
    if done.is_err() {
        close(made.namespace);
        made.names.into_iter().flat_map(|(datagrams, streams)| [datagrams, streams]).for_each(close);
    }
    done?;
    for slot in network.names.iter() {
        tell_names(&slot, slot.contents).map_err(plain)?;
    }
    Ok(made)
}

/// Writes into a network's list of names.
fn tell_names(slot: &NameSlot<'_>, contents: &[u8]) -> Result<(), Errno> {
    let list = openat2(AT_FDCWD, slot.list, open::WRITE, 0, 0)?;
    let done = pwrite(list, contents, slot.at);
    close(list);
    done.map(|_| ())
}

/// Nobody is found by its names any more.
pub fn forget_names(network: &Network<'_>) {
    for slot in network.names.iter() {
        let _ = tell_names(&slot, &[0; SLOT]);
    }
}

/// What was made.
pub struct Made {
    pub namespace: Fd,
    /// Where questions about names come, by UDP and TCP.
    pub names: Option<(Fd, Fd)>,
}

struct Inside {
    made: Made,
    /// Sockets that speak to it from anywhere, where it is configured further.
    route: Option<Fd>,
    netfilter: Option<Fd>,
}

/// Still inside.
fn inside(network: &Network<'_>, resolver: Option<&Resolver<'_>>) -> Result<Inside, Fault> {
    netlink(network.messages, network.count)?;
    let route = if network.more.is_empty() { None } else { Some(netlink_socket(NETLINK_ROUTE)?) };
    let other = network.more.iter().find(|exchange| exchange.inside && exchange.protocol != NETLINK_ROUTE);
    let netfilter = other.map(|exchange| netlink_socket(exchange.protocol)).transpose()?;
    // Before the first question: those that come before the resolver does wait for it here.
    let names = match resolver {
        Some(resolver) => Some((bound_socket(resolver.listen, false)?, bound_socket(resolver.listen, true)?)),
        None => None,
    };
    Ok(Inside { made: Made { namespace: current()?, names }, route, netfilter })
}

fn current() -> Result<Fd, Errno> {
    openat2(AT_FDCWD, c"/proc/self/ns/net", open::READ, 0, 0)
}

/// Sends one batch to the host's namespace or to the new one.
fn perform(exchange: &Exchange<'_>, namespace: Fd, inside: Option<Fd>) -> Result<(), (u32, Fault)> {
    let plain = |errno: Errno| (0, errno.into());
    let socket = match inside {
        Some(socket) if exchange.inside => socket,
        _ => netlink_socket(exchange.protocol).map_err(plain)?,
    };
    let mut copy;
    let messages = match exchange.namespace_at {
        u32::MAX => exchange.messages,
        at => {
            copy = Pages::new(exchange.messages.len()).map_err(plain)?;
            copy.copy_from_slice(exchange.messages);
            let place = copy.get_mut(at as usize..).and_then(|rest| rest.get_mut(..4)).ok_or(plain(Errno::EPROTO))?;
            place.copy_from_slice(&namespace.0.to_ne_bytes());
            &copy
        }
    };
    let done = send_all(socket, messages, exchange.count);
    if !exchange.inside {
        close(socket);
    }
    if exchange.lenient { Ok(()) } else { done }
}

/// Sends netlink requests on a socket of its own, each of which asks for an acknowledgement, and reads those.
pub fn netlink(messages: &[u8], count: u32) -> Result<(), Fault> {
    if count == 0 {
        return Ok(());
    }
    let socket = netlink_socket(NETLINK_ROUTE)?;
    let done = send_all(socket, messages, count);
    close(socket);
    done.map_err(|(_, fault)| fault)
}

/// A socket for all that is taken back. It closes with this process: with a netfilter socket's end the kernel waits until what was taken out of
/// the firewall is nobody's any more, which is a grace period.
pub struct Line(Option<(u32, Fd)>);

impl Line {
    pub fn new() -> Self {
        Self(None)
    }

    /// Requests to any part of the kernel.
    pub fn talk(&mut self, protocol: u32, messages: &[u8], count: u32) -> Result<(), Fault> {
        let socket = match self.0 {
            Some((of, socket)) if of == protocol => socket,
            _ => netlink_socket(protocol)?,
        };
        self.0 = Some((protocol, socket));
        send_all(socket, messages, count).map_err(|(_, fault)| fault)
    }
}

/// The answer to a failure is the number of the request.
fn send_all(socket: Fd, messages: &[u8], count: u32) -> Result<(), (u32, Fault)> {
    let plain = |errno: Errno| (0, Fault::from(errno));
    send(socket, messages).map_err(plain)?;
    let mut acknowledged = 0;
    while acknowledged < count {
        let mut answer = [0; 4096];
        let n = read(socket, &mut answer).map_err(plain)?;
        let mut rest = &answer[..n];
        // struct nlmsghdr { u32 len; u16 type; u16 flags; u32 seq; u32 pid; }, and behind NLMSG_ERROR an i32.
        while let (Some(length), Some(kind), Some(sequence)) = (number(rest, 0), number(rest, 4), number(rest, 8)) {
            const NLMSG_ERROR: u32 = 2;
            if kind & 0xffff == NLMSG_ERROR {
                match number(rest, 16).ok_or(plain(Errno::EPROTO))? as i32 {
                    0 => acknowledged += 1,
                    errno => return Err((sequence, Errno(-errno).into())),
                }
            }
            rest = rest.get((length as usize).next_multiple_of(4)..).unwrap_or_default();
            if length < 16 {
                return Err(plain(Errno::EPROTO));
            }
        }
    }
    Ok(())
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
