//! A small DHCP client for load and crash tests. It speaks over a plain socket
//! on `dev0`, with the broadcast flag set.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// A socket on the client's cable.
pub fn socket() -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind_device(Some(b"dev0")).unwrap();
    socket.set_broadcast(true).unwrap();
    socket
        .bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68).into())
        .unwrap();
    socket.into()
}

/// DISCOVER or, with an address, REQUEST in the state SELECTING.
pub fn packet(mac: [u8; 6], xid: u32, request: Option<Ipv4Addr>) -> Vec<u8> {
    let mut packet = vec![0; 236];
    packet[..4].copy_from_slice(&[1, 1, 6, 0]);
    packet[4..8].copy_from_slice(&xid.to_be_bytes());
    packet[10] = 0x80;
    packet[28..34].copy_from_slice(&mac);
    packet.extend([
        99,
        130,
        83,
        99,
        53,
        1,
        if request.is_some() { 3 } else { 1 },
    ]);
    if let Some(ip) = request {
        packet.extend([50, 4]);
        packet.extend(ip.octets());
        packet.extend([54, 4]);
        packet.extend(super::SERVER.octets());
    }
    packet.push(255);
    packet.resize(300, 0);
    packet
}

/// Message type, transaction and offered address of a reply.
pub fn reply(bytes: &[u8]) -> Option<(u8, u32, Ipv4Addr)> {
    let xid = u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?);
    let ip = Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(16..20)?).ok()?);
    let mut options = bytes.get(240..)?;
    while let [code, length, rest @ ..] = options {
        let value = rest.get(..usize::from(*length))?;
        if *code == 53 {
            return Some((*value.first()?, xid, ip));
        }
        options = rest.get(usize::from(*length)..)?;
    }
    None
}

/// One whole exchange; the address, or nothing within `patience`.
pub fn lease(mac: [u8; 6], patience: Duration) -> Option<Ipv4Addr> {
    let socket = socket();
    let deadline = Instant::now() + patience;
    let xid = u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]) ^ 0x5a5a_0000;
    let mut request = None;
    let mut buffer = [0; 1500];
    while Instant::now() < deadline {
        let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
        let _ = socket.send_to(&packet(mac, xid, request), to);
        let round = Instant::now() + Duration::from_millis(500);
        while let Some(left) = round
            .checked_duration_since(Instant::now())
            .filter(|d| !d.is_zero())
        {
            socket.set_read_timeout(Some(left)).unwrap();
            let Ok((length, _)) = socket.recv_from(&mut buffer) else {
                break;
            };
            match reply(&buffer[..length]) {
                Some((2, found, ip)) if found == xid && request.is_none() => {
                    request = Some(ip);
                    break;
                }
                Some((5, found, ip)) if found == xid => return Some(ip),
                _ => {}
            }
        }
    }
    None
}
