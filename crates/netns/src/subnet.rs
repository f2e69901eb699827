//! Which addresses a network has: prefixes, the free one among the host's, and hardware addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The one that belongs to an address in a private network: locally administered, and the same each time, so that what neighbours
    /// remember of an address stays true when it is given to the next.
    pub fn of(address: Ipv4Addr) -> Mac {
        let [a, b, c, d] = address.octets();
        Mac([0x02, 0xc0, a, b, c, d])
    }

    /// Whether it is an address of one interface: not of a group, and not zero.
    pub fn is_unicast(&self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = BadAddress;

    /// Six pairs of hexadecimal digits between colons, of one interface.
    fn from_str(words: &str) -> Result<Mac, BadAddress> {
        let bad = || BadAddress(format!("{words:?} is no hardware address: six pairs of hexadecimal digits, as 02:00:00:00:00:01"));
        let mut bytes = [0; 6];
        let mut parts = words.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit())).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        let mac = Mac(bytes);
        match parts.next() {
            None if mac.is_unicast() => Ok(mac),
            None => Err(BadAddress(format!("{words} is a group's address or none: the second digit must be even"))),
            Some(_) => Err(bad()),
        }
    }
}

/// Words that are no address or prefix; why, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadAddress(pub(crate) String);

impl fmt::Display for BadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadAddress {}

/// All addresses that begin with the same bits: `10.1.2.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subnet {
    base: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// The subnet that an address is in.
    ///
    /// # Errors
    ///
    /// Where the prefix is longer than an address.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Subnet, BadAddress> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if prefix > bits {
            return Err(BadAddress(format!("{address}/{prefix}: an address has {bits} bits")));
        }
        let base = match address {
            IpAddr::V4(a) => IpAddr::V4((u32::from(a) & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)).into()),
            IpAddr::V6(a) => IpAddr::V6((u128::from(a) & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)).into()),
        };
        Ok(Subnet { base, prefix })
    }

    /// The first address.
    pub fn base(&self) -> IpAddr {
        self.base
    }

    /// How many bits all have in common.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether it holds an address.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.base.is_ipv4() && Subnet::new(address, self.prefix).is_ok_and(|other| other == *self)
    }

    /// Whether both hold a same address.
    pub fn overlaps(&self, other: &Subnet) -> bool {
        self.contains(other.base) || other.contains(self.base)
    }

    /// The address this far from the first; `None` beyond the last.
    pub fn host(&self, number: u32) -> Option<IpAddr> {
        let address = match self.base {
            IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from(u32::from(base).checked_add(number)?)),
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base).checked_add(number.into())?)),
        };
        self.contains(address).then_some(address)
    }

    /// How many addresses it has for containers: without the network's own, the gateway's and the broadcast's.
    pub fn room(&self) -> u32 {
        match self.base {
            IpAddr::V4(_) => (1u64 << (32 - self.prefix)).saturating_sub(3).min(u32::MAX.into()) as u32,
            IpAddr::V6(_) => u32::MAX,
        }
    }

    /// A free subnet with room for 253 containers: one that overlaps nothing of `taken`. The search begins at a place that `seed` says,
    /// so that two who look at the same time seldom find the same.
    pub fn free(taken: &[Subnet], seed: u64) -> Option<Subnet> {
        // 10.128.0.0/9 and then 172.16.0.0/12 and 192.168.0.0/16, cut into /24. The lower half of 10/8 is what offices and clouds like.
        let pools =
            [(Ipv4Addr::new(10, 128, 0, 0), 1u32 << 15), (Ipv4Addr::new(172, 16, 0, 0), 1 << 12), (Ipv4Addr::new(192, 168, 0, 0), 1 << 8)];
        pools.into_iter().find_map(|(base, count)| {
            let start = (seed % u64::from(count)) as u32;
            (0..count).map(|n| (start + n) % count).find_map(|n| {
                let subnet = Subnet { base: IpAddr::V4(Ipv4Addr::from(u32::from(base) + (n << 8))), prefix: 24 };
                (!taken.iter().any(|other| other.overlaps(&subnet))).then_some(subnet)
            })
        })
    }

    /// A unique local IPv6 subnet (RFC 4193), from 40 random bits.
    pub fn unique_local(random: u64) -> Subnet {
        let base = (0xfd00u128 << 112) | (u128::from(random & 0xff_ffff_ffff) << 80);
        Subnet { base: IpAddr::V6(base.into()), prefix: 64 }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = BadAddress;

    /// `ADDRESS/PREFIX`, whose address has no bits beyond the prefix.
    fn from_str(words: &str) -> Result<Subnet, BadAddress> {
        let bad = || BadAddress(format!("{words:?} is no subnet: an address, a slash and a number of bits, as 10.1.2.0/24"));
        let (address, prefix) = words.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let digits = prefix.bytes().all(|b| b.is_ascii_digit()) && !prefix.is_empty();
        let subnet = Subnet::new(address, prefix.parse().ok().filter(|_| digits).ok_or_else(bad)?)?;
        match subnet.base == address {
            true => Ok(subnet),
            false => Err(BadAddress(format!("{words} isn't the beginning of a subnet; {subnet} is"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(words: &str) -> Subnet {
        words.parse().unwrap()
    }

    #[test]
    fn prefixes_are_read_strictly() {
        assert_eq!(subnet("10.1.2.0/24").to_string(), "10.1.2.0/24");
        assert_eq!(subnet("0.0.0.0/0").room(), u32::MAX - 2);
        assert_eq!(subnet("fd00:1::/64").host(5).unwrap().to_string(), "fd00:1::5");
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.1/24",
            "fd00::/129",
            "10.0.0/8",
            "x/8",
            "10.0.0.0/8/8",
            "10.0.0.0/256",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_subnet_knows_its_own() {
        let net = subnet("10.1.2.0/24");
        assert!(net.contains("10.1.2.255".parse().unwrap()) && !net.contains("10.1.3.0".parse().unwrap()));
        assert!(!net.contains("::1".parse().unwrap()));
        assert_eq!(net.host(256), None);
        assert_eq!(net.room(), 253);
        assert_eq!(subnet("10.0.0.0/32").room(), 0);
        assert!(subnet("10.0.0.0/8").overlaps(&net) && net.overlaps(&subnet("10.0.0.0/8")));
        assert!(!net.overlaps(&subnet("10.1.3.0/24")) && !net.overlaps(&subnet("::/0")));
        assert!(subnet("0.0.0.0/0").contains("255.255.255.255".parse().unwrap()));
    }

    #[test]
    fn a_free_subnet_overlaps_nothing_that_is_taken() {
        let mut taken = vec![subnet("10.128.0.0/10"), subnet("10.200.0.0/16")];
        for seed in 0..600u64 {
            let free = Subnet::free(&taken, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).unwrap();
            assert!(!taken.iter().any(|other| other.overlaps(&free)), "{free}");
            taken.push(free);
        }
        // A VPN that takes all of 10/8.
        assert!(subnet("172.16.0.0/12").contains(Subnet::free(&[subnet("10.0.0.0/8")], 7).unwrap().base()));
        assert_eq!(Subnet::free(&[subnet("0.0.0.0/0")], 7), None);
    }

    #[test]
    fn unique_local_subnets_are_random_and_local() {
        assert_eq!(Subnet::unique_local(0x12_3456_789a).to_string(), "fd12:3456:789a::/64");
        assert_eq!(Subnet::unique_local(u64::MAX).to_string(), "fdff:ffff:ffff::/64");
    }

    #[test]
    fn hardware_addresses_are_read_strictly() {
        assert_eq!("02:c0:0a:01:02:03".parse::<Mac>().unwrap(), Mac::of(Ipv4Addr::new(10, 1, 2, 3)));
        assert_eq!(Mac::of(Ipv4Addr::new(10, 1, 2, 3)).to_string(), "02:c0:0a:01:02:03");
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:0",
            "03:00:00:00:00:01",
            "00:00:00:00:00:00",
            "02-00-00-00-00-01",
            "0g:00:00:00:00:00",
            "+2:00:00:00:00:00",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
