//! A network namespace, made by the supervisor while the first process makes its mounts: it is the dearest of all namespaces, and
//! nothing of the root depends on it but sysfs and the settings below /proc/sys/net.

use crate::failure::Fault;
use crate::system_call::{AT_FDCWD, CLONE_NEWNET, Errno, Fd, close, netlink_socket, open, openat2, read, send, setns, unshare};
use crate::wire::Network;

/// Makes and configures one, and is back in the host's when it returns.
pub fn make(network: &Network<'_>) -> Result<Fd, Fault> {
    let ours = current()?;
    unshare(CLONE_NEWNET)?;
    let made = netlink(network.messages, network.count).and_then(|()| Ok(current()?));
    setns(ours, CLONE_NEWNET)?;
    close(ours);
    made
}

fn current() -> Result<Fd, Errno> {
    openat2(AT_FDCWD, c"/proc/self/ns/net", open::READ, 0, 0)
}

/// Sends netlink requests, each of which asks for an acknowledgement, and reads those.
pub fn netlink(messages: &[u8], count: u32) -> Result<(), Fault> {
    if count == 0 {
        return Ok(());
    }
    let socket = netlink_socket()?;
    send(socket, messages)?;
    let mut acknowledged = 0;
    while acknowledged < count {
        let mut answer = [0; 4096];
        let n = read(socket, &mut answer)?;
        let mut rest = &answer[..n];
        // struct nlmsghdr { u32 len; u16 type; u16 flags; u32 seq; u32 pid; }, and behind NLMSG_ERROR an i32.
        while let (Some(length), Some(kind)) = (number(rest, 0), number(rest, 4)) {
            const NLMSG_ERROR: u32 = 2;
            if kind & 0xffff == NLMSG_ERROR {
                match number(rest, 16).ok_or(Errno::EPROTO)? as i32 {
                    0 => acknowledged += 1,
                    errno => return Err(Errno(-errno).into()),
                }
            }
            rest = rest.get((length as usize).next_multiple_of(4)..).unwrap_or_default();
            if length < 16 {
                return Err(Errno::EPROTO.into());
            }
        }
    }
    close(socket);
    Ok(())
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
