//! What the DHCP service tells the recorder.

use std::net::{Ipv4Addr, SocketAddrV4};

use groundcrew_core::hardware::MacAddr;
use groundcrew_netboot::dhcp::told::Told;
use groundcrew_netboot::dhcp::{
    BootClient, CLIENT_PORT, Destination, Outcome, PXE_PORT, Reply, Request, SERVER_PORT, Verdict,
    Via,
};
use groundcrew_netboot::story::{Dhcp, Overheard, Packet, What, Who, pcap};

use super::{Flight, machine, now};

impl Flight {
    /// A client's packet to the server at `me`, and what was decided about it.
    pub fn dhcp(
        &self,
        packet: &[u8],
        request: &Request,
        via: Via,
        me: Ipv4Addr,
        outcome: &Outcome,
    ) {
        let at = now();
        let who = Who {
            mac: Some(request.mac),
            ip: match via {
                Via::Pxe(from) => Some(*from.ip()),
                Via::Dhcp => None,
            },
            ..machine(request.uuid, None)
        };
        let plain = outcome.client == BootClient::Plain;
        let what = What::Dhcp(Box::new(Dhcp::of(request, via, outcome)));
        let mut recorder = self.lock();
        let id = recorder.note(at, &who, what);
        if plain {
            return;
        }
        let (from, to) = match via {
            Via::Pxe(from) => (from, SocketAddrV4::new(me, PXE_PORT)),
            Via::Dhcp => pcap::dhcp_ends(request.giaddr, request.ciaddr, me),
        };
        let mac = (!request.relayed()).then_some(request.mac);
        let asked = Packet {
            at,
            from,
            to,
            mac,
            by_device: true,
            payload: packet.to_vec(),
        };
        let answered = match &outcome.verdict {
            Verdict::Reply(reply) => Some(Packet {
                at,
                from: SocketAddrV4::new(me, to.port()),
                to: reply_to(reply),
                mac,
                by_device: false,
                payload: reply.bytes.clone(),
            }),
            Verdict::Noted(_) | Verdict::Ignored(_) => None,
        };
        recorder.keep(id, [Some(asked), answered].into_iter().flatten());
        recorder.exchange(at, request.mac, who.uuid, request.xid);
    }

    /// A packet to the clients' port, on the network of the server at `me`.
    pub fn overheard(&self, packet: &[u8], me: Ipv4Addr) {
        let Some(told) = Told::read(packet).filter(|told| told.server != me) else {
            return;
        };
        let at = now();
        let (mac, server) = (told.mac, told.server);
        let who = Who {
            mac: Some(mac),
            ..Who::default()
        };
        let mut recorder = self.lock();
        let what = What::Overheard(Overheard::from(told));
        if let Some(id) = recorder.note_known(at, &who, what) {
            let heard = Packet {
                at,
                from: SocketAddrV4::new(server, SERVER_PORT),
                to: SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT),
                mac: Some(mac),
                by_device: false,
                payload: packet.to_vec(),
            };
            recorder.keep(id, [heard]);
        }
    }

    /// An address that was on offer is used by `user`.
    pub fn conflict(&self, ip: Ipv4Addr, user: MacAddr) {
        let who = Who {
            ip: Some(ip),
            ..Who::default()
        };
        self.lock()
            .note_known(now(), &who, What::Conflict { ip, user });
    }
}

fn reply_to(reply: &Reply) -> SocketAddrV4 {
    match reply.destination {
        Destination::Relay(ip) => SocketAddrV4::new(ip, SERVER_PORT),
        Destination::Unicast(ip) | Destination::L2 { ip, .. } => SocketAddrV4::new(ip, CLIENT_PORT),
        Destination::Broadcast => SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT),
        Destination::Back(from) => from,
    }
}
