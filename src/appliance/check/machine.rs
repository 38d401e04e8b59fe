//! The machine: interface, address, ports, rights, clock.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;

use nix::net::if_::InterfaceFlags;

use super::Finding;
use crate::site::{Network, Settings, Site, time};

/// Whether an appliance serves this site at this moment.
pub fn served_now(site: &Site) -> bool {
    UnixStream::connect(site.control_socket()).is_ok()
}

pub fn look(site: &Site, settings: &Settings, running: bool) -> Vec<Finding> {
    let mut findings: Vec<_> = settings.networks.iter().map(interface).collect();
    findings.push(clock(site));
    if running {
        findings.push(Finding::good(
            "appliance",
            "serves this site right now; its ports are its own",
        ));
    } else {
        findings.extend(ports(settings));
    }
    findings
}

fn interface(network: &Network) -> Finding {
    let name = &network.interface;
    let what = format!("interface {name}");
    let all: Vec<_> = match nix::ifaddrs::getifaddrs() {
        Ok(all) => all.collect(),
        Err(error) => {
            return Finding::problem(
                what,
                format!("cannot be listed: {error}"),
                "run this as root",
            );
        }
    };
    let Some(flags) = all
        .iter()
        .find(|i| i.interface_name == *name)
        .map(|i| i.flags)
    else {
        let mut names: Vec<_> = all
            .iter()
            .map(|i| i.interface_name.clone())
            .filter(|n| n != "lo")
            .collect();
        names.dedup();
        let cure = format!(
            "set `interface` in site.toml to one of: {}",
            names.join(", ")
        );
        return Finding::problem(what, "there is none of that name", cure);
    };
    if !flags.contains(InterfaceFlags::IFF_UP) {
        return Finding::problem(what, "is switched off", format!("ip link set {name} up"));
    }
    let own = network.address;
    let holds = all.iter().filter(|i| i.interface_name == *name).any(|i| {
        i.address
            .as_ref()
            .and_then(|a| a.as_sockaddr_in())
            .is_some_and(|a| a.ip() == own.address)
    });
    if !holds {
        let found = format!("does not hold the site's address {}", own.address);
        return Finding::problem(what, found, format!("ip address add {own} dev {name}"));
    }
    if !flags.contains(InterfaceFlags::IFF_RUNNING) {
        let cure = "plug the cable in, or switch on what is at its other end";
        return Finding::warning(what, format!("holds {own}, but the cable is dead"), cure);
    }
    Finding::good(what, format!("up, holds {own}"))
}

fn clock(site: &Site) -> Finding {
    match time::standing(site, crate::clock::read()) {
        Ok(standing) => match standing.trouble() {
            None => Finding::good("clock", standing.clock.to_string()),
            Some(trouble) => Finding::problem("clock", trouble, "groundcrew clock show tells more"),
        },
        Err(error) => Finding::problem("clock", format!("{error:#}"), ""),
    }
}

fn ports(settings: &Settings) -> Vec<Finding> {
    let dhcp = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 67)).map(drop);
    let mut findings = vec![port("67/udp", "DHCP", dhcp)];
    for network in &settings.networks {
        let own = network.address.address;
        let udp = |port| UdpSocket::bind(SocketAddrV4::new(own, port)).map(drop);
        let tcp = |port| TcpListener::bind(SocketAddrV4::new(own, port)).map(drop);
        let ports = settings.ports;
        // Only where there are several, so that one reads as it always did.
        let on = match settings.networks.len() {
            1 => String::new(),
            _ => format!("{own}:"),
        };
        let name = |port, kind| format!("{on}{port}/{kind}");
        findings.extend([
            port(&name(ports.tftp, "udp"), "TFTP", udp(ports.tftp)),
            port(&name(ports.http, "tcp"), "HTTP", tcp(ports.http)),
            port(&name(ports.https, "tcp"), "HTTPS", tcp(ports.https)),
        ]);
        if settings.sntp {
            findings.push(sntp_port(&name(ports.sntp, "udp"), udp(ports.sntp)));
        }
    }
    findings
}

/// Another time server on this machine is no problem: devices may ask that one.
fn sntp_port(name: &str, bound: std::io::Result<()>) -> Finding {
    match bound {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Finding::warning(
            format!("port {name}"),
            "another program has it, so devices get the time from that one",
            "write `sntp = false` under [time] in site.toml if that is meant",
        ),
        bound => port(name, "SNTP", bound),
    }
}

fn port(port: &str, service: &str, bound: std::io::Result<()>) -> Finding {
    let what = format!("port {port}");
    let number = port.split('/').next().unwrap_or(port);
    let number = number.rsplit(':').next().unwrap_or(number);
    match bound {
        Ok(()) => Finding::good(what, format!("free for {service}")),
        Err(error) => match error.kind() {
            std::io::ErrorKind::AddrInUse => Finding::problem(
                what,
                format!("another program has it, so {service} cannot start"),
                format!("find it with `ss -lnp 'sport = :{number}'` and stop it"),
            ),
            std::io::ErrorKind::PermissionDenied => Finding::problem(
                what,
                format!("this user may not bind it for {service}"),
                "run as root, or by the unit in config/groundcrew.service",
            ),
            std::io::ErrorKind::AddrNotAvailable => Finding::problem(
                what,
                "this machine does not hold the site's address",
                "see the interface above",
            ),
            _ => Finding::problem(what, format!("{service} cannot bind it: {error}"), ""),
        },
    }
}
