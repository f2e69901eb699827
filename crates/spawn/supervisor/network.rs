//! A network namespace, made by the supervisor while the first process makes its mounts: it is the dearest of all namespaces, and
//! nothing of the root depends on it but sysfs and the settings below /proc/sys/net.

use crate::failure::{Failure, Fault};
use crate::system_call::{AT_FDCWD, CLONE_NEWNET, Errno, Fd, Pages, close, netlink_socket, open, openat2, read, send, setns, unshare};
use crate::wire::{Exchange, Network, stage};

const NETLINK_ROUTE: u32 = 0;

/// Makes and configures one, and is back in the host's when it returns.
pub fn make(network: &Network<'_>, given: Option<Fd>) -> Result<Fd, Failure> {
    let failure = |index, fault: Fault| Failure { stage: stage::NETWORK, index, fault };
    let plain = |errno: Errno| failure(0, errno.into());
    if let Some(namespace) = given {
        return Ok(namespace);
    }
    let ours = current().map_err(plain)?;
    unshare(CLONE_NEWNET).map_err(plain)?;
    let made = inside(network);
    setns(ours, CLONE_NEWNET).map_err(plain)?;
    close(ours);
    let (namespace, route) = made.map_err(|fault| failure(0, fault))?;
    let mut done = Ok(());
    for (n, exchange) in network.more.iter().enumerate() {
        done = perform(&exchange, namespace, route).map_err(|(request, fault)| failure((n as u32 + 1) << 16 | request & 0xffff, fault));
        if done.is_err() {
            break;
        }
    }
    if let Some(route) = route {
        close(route);
    }
    if done.is_err() {
        close(namespace);
    }
    done.map(|()| namespace)
}

/// Still inside: the namespace, and if it is configured further, a socket that speaks to it from anywhere.
fn inside(network: &Network<'_>) -> Result<(Fd, Option<Fd>), Fault> {
    netlink(network.messages, network.count)?;
    let route = if network.more.is_empty() { None } else { Some(netlink_socket(NETLINK_ROUTE)?) };
    Ok((current()?, route))
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
    talk(NETLINK_ROUTE, messages, count)
}

/// The same to any part of the kernel.
pub fn talk(protocol: u32, messages: &[u8], count: u32) -> Result<(), Fault> {
    if count == 0 {
        return Ok(());
    }
    let socket = netlink_socket(protocol)?;
    let done = send_all(socket, messages, count);
    close(socket);
    done.map_err(|(_, fault)| fault)
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
