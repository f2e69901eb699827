//! Requests about interfaces: rtnetlink(7), `RTM_NEWLINK`.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};

use crate::netlink::Batch;

/// The loopback interface is the first of every namespace; the kernel has it as `LOOPBACK_IFINDEX`.
const LOOPBACK: u32 = 1;

impl Batch {
    /// One request: set `lo` up. The kernel then gives it 127.0.0.1/8 and, unless IPv6 is disabled, ::1/128.
    ///
    /// ```
    /// let batch = coracle_netns::Batch::loopback_up();
    /// assert_eq!((batch.bytes().len(), batch.len()), (32, 1));
    /// ```
    pub fn loopback_up() -> Batch {
        Batch::new().link_up("lo", LOOPBACK)
    }

    /// Adds: set the interface with this index up. `name` is only told in errors.
    pub fn link_up(mut self, name: &str, index: u32) -> Batch {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.push(format!("set {name} up"), RouteNetlinkMessage::NewLink(message));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_loopback_up_is_these_bytes() {
        let word = |n: u32| n.to_ne_bytes();
        let half = |n: u16| n.to_ne_bytes();
        let mut expected = Vec::new();
        expected.extend(word(32)); // nlmsg_len
        expected.extend(half(16)); // RTM_NEWLINK
        expected.extend(half(0x1 | 0x4)); // NLM_F_REQUEST | NLM_F_ACK
        expected.extend(word(1)); // sequence
        expected.extend(word(0)); // to the kernel
        expected.extend([0, 0, 0, 0]); // AF_UNSPEC, padding, any type
        expected.extend(word(1)); // LOOPBACK_IFINDEX
        expected.extend(word(1)); // IFF_UP
        expected.extend(word(1)); // change IFF_UP only
        assert_eq!(Batch::loopback_up().bytes(), expected);
    }

    #[test]
    fn requests_of_a_batch_are_numbered_and_named() {
        let batch = Batch::loopback_up().link_up("eth0", 7);
        assert_eq!(batch.bytes().len(), 64);
        assert_eq!(batch.bytes()[40..44], 2u32.to_ne_bytes());
        assert_eq!(batch.steps().collect::<Vec<_>>(), ["set lo up", "set eth0 up"]);
    }
}
