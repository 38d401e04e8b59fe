//! Whether another DHCP server answers on the site's network: one DISCOVER,
//! three seconds of listening.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use groundcrew_core::hardware::MacAddr;
use groundcrew_netboot::dhcp::probe::{OtherServer, discover};
use groundcrew_netboot::dhcp::{CLIENT_PORT, Mode, SERVER_PORT};
use socket2::{Domain, Protocol, Socket, Type};

use super::Finding;
use crate::site::Network;

/// How long servers get to answer. They probe an address for up to one second.
const PATIENCE: Duration = Duration::from_secs(3);

/// A locally administered address that names nobody.
const PROBE: MacAddr = MacAddr([0x02, 0x67, 0x63, 0x00, 0x00, 0x01]);

/// The most servers that are worth naming.
const ENOUGH: usize = 8;

pub fn ask(network: &Network) -> Finding {
    let what = format!("other DHCP servers on {}", network.interface);
    match servers(network) {
        Ok(found) if found.is_empty() && network.mode == Mode::Proxy => Finding::warning(
            what,
            "none answered within three seconds",
            "in mode `proxy` another server must give the addresses: plug it in, or choose another mode in site.toml",
        ),
        Ok(found) if found.is_empty() => Finding::good(what, "none answered within three seconds"),
        Ok(found) if network.mode != Mode::Authoritative => {
            let mode = network.mode;
            let found = format!(
                "{} answered, which mode `{mode}` leaves in peace",
                names(&found)
            );
            Finding::good(what, found)
        }
        Ok(found) => {
            let cure = "two servers would fight over every device: use a network of its own for \
                        provisioning, switch the other one off, or set `mode = \"proxy\"` in site.toml";
            Finding::problem(what, format!("{} answered", names(&found)), cure)
        }
        Err(error) => {
            let cure = "run this as root while no other program has port 68, such as a DHCP client";
            Finding::warning(what, format!("could not ask: {error}"), cure)
        }
    }
}

fn names(servers: &[Ipv4Addr]) -> String {
    let names: Vec<_> = servers.iter().map(ToString::to_string).collect();
    names.join(", ")
}

fn servers(network: &Network) -> anyhow::Result<Vec<Ipv4Addr>> {
    servers_on(&network.interface, network.address.address)
}

/// The DHCP servers that answer on an interface, but for the one at `own`.
pub fn servers_on(interface: &str, own: Ipv4Addr) -> anyhow::Result<Vec<Ipv4Addr>> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_broadcast(true)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT).into())?;
    let socket = UdpSocket::from(socket);
    let xid = u32::from_ne_bytes(crate::site::keys::random()?);
    socket.send_to(
        &discover(PROBE, xid),
        SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT),
    )?;
    let deadline = Instant::now() + PATIENCE;
    let mut found = Vec::new();
    let mut buffer = [0; 1500];
    while found.len() < ENOUGH {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        socket.set_read_timeout(Some(left))?;
        let Ok((length, _)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let packet = buffer.get(..length).unwrap_or_default();
        if let Some(OtherServer { server, .. }) = OtherServer::parse(packet, PROBE, xid)
            && server != own
            && !found.contains(&server)
        {
            found.push(server);
        }
    }
    Ok(found)
}
