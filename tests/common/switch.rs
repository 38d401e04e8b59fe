//! Three machines on one switch: the appliance, a device, and somebody else's
//! DHCP server. Packets that firmware sends are made here byte by byte.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Net, in_namespace, run};

/// The other server's address.
pub const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// A [`Net`] whose cable goes through a bridge with a third machine, `oth0`.
pub struct Switched {
    pub net: Net,
    switch: String,
    pub other: String,
}

impl Switched {
    pub fn new() -> Self {
        let net = Net::bare();
        let (switch, other) = (format!("{}w", net.server), format!("{}o", net.server));
        let (s, c, w, o) = (&net.server, &net.client, &switch, &other);
        for line in [
            format!("netns add {w}"),
            format!("netns add {o}"),
            format!("-n {w} link add br0 type bridge stp_state 0 forward_delay 0"),
            format!("-n {s} link add gc0 type veth peer name p0 netns {w}"),
            format!("-n {c} link add dev0 type veth peer name p1 netns {w}"),
            format!("-n {o} link add oth0 type veth peer name p2 netns {w}"),
            format!("-n {w} link set p0 master br0 up"),
            format!("-n {w} link set p1 master br0 up"),
            format!("-n {w} link set p2 master br0 up"),
            format!("-n {w} link set br0 up"),
            format!("-n {s} link set lo up"),
            format!("-n {s} link set gc0 up"),
            format!("-n {c} link set lo up"),
            format!("-n {c} link set dev0 up"),
            format!("-n {o} link set oth0 up"),
            format!("-n {s} address add 10.77.0.1/24 dev gc0"),
            format!("-n {o} address add 10.77.0.2/24 dev oth0"),
        ] {
            run("ip", line.split(' '));
        }
        Self { net, switch, other }
    }

    /// dnsmasq as the network's DHCP server, until it is dropped.
    pub fn dnsmasq(&self) -> Running {
        let child = in_namespace(&self.other, "dnsmasq")
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0"])
            .args(["--interface=oth0", "--bind-interfaces", "--no-ping"])
            .args(["--dhcp-range=10.77.0.50,10.77.0.90,255.255.255.0,10m"])
            .args(["--dhcp-leasefile=/dev/null", "--user=root", "--pid-file"])
            .args(["--dhcp-authoritative", "--log-facility=-"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq: scripts/setup installs it");
        Running(child)
    }
}

impl Drop for Switched {
    fn drop(&mut self) {
        for namespace in [&self.switch, &self.other] {
            let _ = Command::new("ip")
                .args(["netns", "delete", namespace])
                .status();
        }
    }
}

/// A [`Net`] whose client is behind a router, 10.77.0.254 and 10.88.0.1.
pub struct Routed {
    pub net: Net,
    router: String,
}

impl Routed {
    pub fn new() -> Self {
        let net = Net::bare();
        let router = format!("{}r", net.server);
        let (s, c, r) = (&net.server, &net.client, &router);
        for line in [
            format!("netns add {r}"),
            format!("-n {s} link add gc0 type veth peer name up0 netns {r}"),
            format!("-n {c} link add dev0 type veth peer name down0 netns {r}"),
            format!("-n {s} address add 10.77.0.1/24 dev gc0"),
            format!("-n {r} address add 10.77.0.254/24 dev up0"),
            format!("-n {r} address add 10.88.0.1/24 dev down0"),
            format!("-n {s} link set lo up"),
            format!("-n {s} link set gc0 up"),
            format!("-n {r} link set up0 up"),
            format!("-n {r} link set down0 up"),
            format!("-n {c} link set lo up"),
            format!("-n {c} link set dev0 up"),
            format!("-n {s} route add 10.88.0.0/24 via 10.77.0.254"),
        ] {
            run("ip", line.split(' '));
        }
        Self { net, router }
    }

    /// ISC's relay, which appends option 82, until it is dropped.
    pub fn dhcrelay(&self) -> Running {
        let child = in_namespace(&self.router, "dhcrelay")
            .args(["-4", "-d", "-a", "-id", "down0", "-iu", "up0", "10.77.0.1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("isc-dhcp-relay: scripts/setup installs it");
        Running(child)
    }
}

impl Drop for Routed {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.router])
            .status();
    }
}

/// Somebody else's program, until it is dropped.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A BIOS ROM's DISCOVER, as PXE 2.1 §2.2.1 has it: no broadcast flag, its list of
/// options, architecture 0, UNDI, and its machine's identifier.
pub fn bios(mac: [u8; 6], xid: u32) -> Vec<u8> {
    let mut packet = super::dhcp::packet(mac, xid, None);
    packet[10] = 0;
    packet.truncate(240);
    packet.extend([53, 1, 1, 57, 2, 4, 236]);
    let wishes: [u8; 36] = [
        1, 2, 3, 4, 5, 6, 11, 12, 13, 15, 16, 17, 18, 22, 23, 28, 40, 41, 42, 43, 50, 51, 54, 58,
        59, 60, 66, 67, 128, 129, 130, 131, 132, 133, 134, 135,
    ];
    packet.extend([55, 36]);
    packet.extend(wishes);
    packet.extend([97, 17, 0]);
    packet.extend([8; 16]);
    packet.extend([93, 2, 0, 0, 94, 3, 1, 2, 1]);
    packet.extend([60, 32]);
    packet.extend(b"PXEClient:Arch:00000:UNDI:002001");
    packet.push(255);
    packet.resize(548, 0);
    packet
}

/// A UEFI machine's packet: DISCOVER, or with `ciaddr` the REQUEST to port 4011.
pub fn uefi(mac: [u8; 6], xid: u32, ciaddr: Option<Ipv4Addr>) -> Vec<u8> {
    let mut packet = super::dhcp::packet(mac, xid, None);
    packet.truncate(240);
    packet.extend([53, 1, if ciaddr.is_some() { 3 } else { 1 }]);
    if let Some(ip) = ciaddr {
        packet[12..16].copy_from_slice(&ip.octets());
        packet[10] = 0;
    }
    packet.extend([60, 32]);
    packet.extend(b"PXEClient:Arch:00007:UNDI:003000");
    packet.extend([93, 2, 0, 7, 97, 17, 0]);
    packet.extend([7; 16]);
    packet.push(255);
    packet.resize(300, 0);
    packet
}

/// Every reply to `xid` that comes within `patience`, with its sender.
pub fn replies(
    socket: &UdpSocket,
    xid: u32,
    patience: Duration,
    enough: usize,
) -> Vec<(Ipv4Addr, Vec<u8>)> {
    let (deadline, mut found) = (Instant::now() + patience, Vec::new());
    let mut buffer = [0; 1500];
    while found.len() < enough {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        socket.set_read_timeout(Some(left)).unwrap();
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let packet = &buffer[..length];
        if packet[0] == 2 && packet[4..8] == xid.to_be_bytes() {
            let std::net::SocketAddr::V4(from) = from else {
                continue;
            };
            found.push((*from.ip(), packet.to_vec()));
        }
    }
    found
}

/// To everybody's port 67.
pub fn to_all() -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::BROADCAST, 67)
}

/// An option of a reply.
pub fn option(reply: &[u8], wanted: u8) -> Option<Vec<u8>> {
    let mut options = reply.get(240..)?;
    while let [code, length, rest @ ..] = options {
        if *code == 255 {
            return None;
        }
        let value = rest.get(..usize::from(*length))?;
        if *code == wanted {
            return Some(value.to_vec());
        }
        options = rest.get(usize::from(*length)..)?;
    }
    None
}
