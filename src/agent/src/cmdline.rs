//! What the loader told the agent on the kernel's command line.
//!
//! iPXE expands `gc.mac=${netX/mac} gc.ip=${netX/ip} …`; a value it does not
//! know expands to nothing, so `gc.dns=` is the same as no `gc.dns` at all.

use std::net::Ipv4Addr;

use groundcrew_core::hardware::MacAddr;

/// The agent's part of the kernel's command line. Everything may be absent: a
/// machine that was booted by other means asks DHCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootArgs {
    /// `gc.mac`: the interface that was booted from.
    pub mac: Option<MacAddr>,
    /// `gc.ip` and `gc.mask`: the address the loader got, so that no second DHCP
    /// exchange is needed. Without the mask, which GRUB does not know, nobody can
    /// tell what lies behind a router, and DHCP is asked.
    pub address: Option<Address>,
    /// `gc.gw`.
    pub gateway: Option<Ipv4Addr>,
    /// `gc.server`: the appliance.
    pub server: Option<Ipv4Addr>,
    /// `gc.http`: port of boot files, trust metadata and blobs; 80.
    pub http: u16,
    /// `gc.https`: port of the enrollment endpoint; 443.
    pub https: u16,
}

impl Default for BootArgs {
    /// No word of the loader's.
    fn default() -> Self {
        Self {
            mac: None,
            address: None,
            gateway: None,
            server: None,
            http: 80,
            https: 443,
        }
    }
}

/// An IPv4 address and the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: Ipv4Addr,
    /// Prefix length, 0 to 32.
    pub prefix: u8,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl std::str::FromStr for Address {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (ip, prefix) = text.split_once('/').ok_or(())?;
        let (ip, prefix) = (ip.parse().map_err(drop)?, prefix.parse().map_err(drop)?);
        if prefix > 32 {
            return Err(());
        }
        Ok(Self { ip, prefix })
    }
}

/// An argument that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CmdlineError {
    /// The value does not parse.
    #[error("kernel argument `{key}={value}`: expected {expected}")]
    Value {
        /// The argument's name.
        key: &'static str,
        /// What stands there.
        value: String,
        /// What should stand there.
        expected: &'static str,
    },
}

impl BootArgs {
    /// Reads `/proc/cmdline`'s text. Where a name stands twice the last one
    /// counts, as for the kernel.
    pub fn parse(cmdline: &str) -> Result<Self, CmdlineError> {
        let ip: Option<Ipv4Addr> = value(cmdline, "gc.ip", "an IPv4 address")?;
        let mask: Option<Ipv4Addr> = value(cmdline, "gc.mask", "a netmask, as 255.255.255.0")?;
        let prefix = mask.map(|mask| {
            prefix_length(mask).ok_or_else(|| CmdlineError::Value {
                key: "gc.mask",
                value: mask.to_string(),
                expected: "a contiguous netmask, as 255.255.255.0",
            })
        });
        let address = ip
            .filter(|ip| !ip.is_unspecified())
            .zip(prefix.transpose()?);
        Ok(Self {
            mac: value(cmdline, "gc.mac", "a MAC address")?,
            address: address.map(|(ip, prefix)| Address { ip, prefix }),
            gateway: value(cmdline, "gc.gw", "an IPv4 address")?
                .filter(|ip: &Ipv4Addr| !ip.is_unspecified()),
            server: value(cmdline, "gc.server", "an IPv4 address")?
                .filter(|ip: &Ipv4Addr| !ip.is_unspecified()),
            http: value(cmdline, "gc.http", "a port number")?.unwrap_or(80),
            https: value(cmdline, "gc.https", "a port number")?.unwrap_or(443),
        })
    }
}

fn value<T: std::str::FromStr>(
    cmdline: &str,
    key: &'static str,
    expected: &'static str,
) -> Result<Option<T>, CmdlineError> {
    let found = cmdline
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        .next_back()
        .filter(|text| !text.is_empty());
    let Some(text) = found else { return Ok(None) };
    text.parse().map(Some).map_err(|_| CmdlineError::Value {
        key,
        value: groundcrew_core::ids::shown(text),
        expected,
    })
}

/// The prefix length of a netmask, if its ones are contiguous.
pub fn prefix_length(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let ones = bits.leading_ones();
    let contiguous = bits.checked_shl(ones).unwrap_or(0) == 0;
    contiguous.then(|| u8::try_from(ones).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_ipxe_expands_it() {
        let args = BootArgs::parse(
            "vmlinuz initrd=initrd.img gc.mac=52:54:00:12:34:56 gc.ip=10.77.0.50 \
             gc.mask=255.255.255.0 gc.gw= gc.dns= gc.server=10.77.0.1 gc.http=8080 gc.https=8443 \
             console=ttyS0,115200 quiet\n",
        )
        .unwrap();
        assert_eq!(args.mac, Some("52:54:00:12:34:56".parse().unwrap()));
        assert_eq!(args.address.unwrap().to_string(), "10.77.0.50/24");
        assert_eq!(args.gateway, None);
        assert_eq!(args.server, Some(Ipv4Addr::new(10, 77, 0, 1)));
        assert_eq!((args.http, args.https), (8080, 8443));
    }

    #[test]
    fn an_address_without_its_mask_is_not_taken() {
        // A guess of /24 cut devices off in any other network, and behind a relay.
        let args = BootArgs::parse("gc.mac=52:54:00:12:34:56 gc.ip=10.77.128.5 gc.mask=").unwrap();
        assert_eq!(args.address, None);
        assert!(args.mac.is_some());
        let wide = BootArgs::parse("gc.ip=10.77.128.5 gc.mask=255.255.0.0").unwrap();
        assert_eq!(wide.address.unwrap().to_string(), "10.77.128.5/16");
        assert_eq!(
            BootArgs::parse("gc.mask=255.255.0.0").unwrap().address,
            None
        );
    }

    #[test]
    fn nothing_given_is_no_error_and_nonsense_is() {
        let none = BootArgs::parse("root=/dev/sda1 gc.ip= gc.server").unwrap();
        assert_eq!((none.mac, none.address, none.server), (None, None, None));
        assert_eq!((none.http, none.https), (80, 443));
        for bad in [
            "gc.ip=10.77.0",
            "gc.mac=zz",
            "gc.http=70000",
            "gc.ip=10.0.0.2 gc.mask=255.0.255.0",
        ] {
            assert!(BootArgs::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn netmasks() {
        assert_eq!(prefix_length(Ipv4Addr::new(255, 255, 255, 255)), Some(32));
        assert_eq!(prefix_length(Ipv4Addr::UNSPECIFIED), Some(0));
        assert_eq!(prefix_length(Ipv4Addr::new(255, 255, 240, 0)), Some(20));
        assert_eq!(prefix_length(Ipv4Addr::new(0, 255, 0, 0)), None);
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,200}") {
            let _ = BootArgs::parse(&text);
        }
    }
}
