//! Which addresses an image may be fetched from: public unicast ones, and networks the operator names.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// An address range such as `10.3.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether `address` lies in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => shared(base.to_bits().into(), address.to_bits().into(), 32) >= self.bits,
            (IpAddr::V6(base), IpAddr::V6(address)) => shared(base.to_bits(), address.to_bits(), 128) >= self.bits,
            _ => false,
        }
    }
}

/// Leading bits that two addresses of `width` bits have in common.
fn shared(a: u128, b: u128, width: u32) -> u8 {
    ((a ^ b).leading_zeros() - (128 - width)) as u8
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (base, bits) = text.split_once('/').ok_or_else(|| format!("`{text}` is not ADDRESS/BITS"))?;
        let base: IpAddr = base.parse().map_err(|_| format!("`{base}` is not an address"))?;
        let width = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.parse().ok().filter(|&bits| bits <= width);
        Ok(Self { base, bits: bits.ok_or_else(|| format!("`{text}` must end with at most {width} bits"))? })
    }
}

/// What is not public about an address; `None` when it is.
pub(super) fn refusal(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => refusal_v4(address),
        IpAddr::V6(address) => refusal_v6(address),
    }
}

/// From the IANA special-purpose registry; 168.63.129.16 is a cloud's metadata host at a public address.
fn refusal_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [127, ..] => Some("a loopback address"),
        [0, ..] => Some("an unspecified address"),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some("a private address"),
        [169, 254, ..] => Some("a link-local address"),
        [100, 64..=127, ..] => Some("a carrier's shared address"),
        [168, 63, 129, 16] => Some("a metadata service's address"),
        [192, 0, 0, _] | [192, 0, 2, _] | [192, 88, 99, _] | [198, 18..=19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => {
            Some("a reserved address")
        }
        [224..=239, ..] => Some("a multicast address"),
        [240..=255, ..] => Some("a reserved address"),
        _ => None,
    }
}

/// Only global unicast passes, and an IPv4 address inside an IPv6 one is judged as itself.
fn refusal_v6(address: Ipv6Addr) -> Option<&'static str> {
    let inner = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        refusal_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("an unspecified address"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("a loopback address"),
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => inner(high, low),
        [0x2002, high, low, ..] => inner(high, low),
        [0xfc00..=0xfdff, ..] => Some("a private address"),
        [0xfe80..=0xfebf, ..] => Some("a link-local address"),
        [0xff00..=0xffff, ..] => Some("a multicast address"),
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Some("a reserved address"),
        [0x2000..=0x3fff, ..] => None,
        _ => Some("a reserved address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str) -> bool {
        refusal(address.parse().unwrap()).is_some()
    }

    #[test]
    fn addresses_that_are_not_public_are_refused() {
        for address in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001:0:1::",
            "2001:db8::1",
        ] {
            assert!(refused(address), "{address}");
        }
    }

    #[test]
    fn public_addresses_pass() {
        for address in
            ["1.1.1.1", "172.32.0.1", "100.128.0.1", "192.0.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "2001:4860::8888"]
        {
            assert!(!refused(address), "{address}");
        }
    }

    #[test]
    fn a_network_holds_the_addresses_that_share_its_bits() {
        let network: Network = "10.3.0.0/16".parse().unwrap();
        assert!(network.contains("10.3.255.1".parse().unwrap()));
        assert!(!network.contains("10.4.0.1".parse().unwrap()));
        assert!(!network.contains("::ffff:10.3.0.1".parse().unwrap()));
        let all: Network = "::/0".parse().unwrap();
        assert!(all.contains("2606::1".parse().unwrap()) && !all.contains("1.1.1.1".parse().unwrap()));
        assert!("10.0.0.0/33".parse::<Network>().is_err() && "10.0.0.0".parse::<Network>().is_err());
    }
}
