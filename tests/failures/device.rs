//! A made-up device on the client's cable: its packets byte by byte, its TFTP
//! and HTTP by hand, so that it can fail where it wants.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::common::dhcp::{reply, socket};
use crate::common::switch::to_all;
use crate::common::{Net, SERVER, run};

/// What its firmware says of itself.
#[derive(Clone, Copy)]
pub enum Firmware {
    Bios,
    Uefi,
    HttpBoot,
    Ipxe,
    Agent,
    Ia32,
    Plain,
}

#[derive(Clone)]
pub struct Device {
    pub mac: [u8; 6],
    pub uuid: [u8; 16],
    pub firmware: Firmware,
    pub giaddr: Ipv4Addr,
    xid: u32,
}

const PATIENCE: Duration = Duration::from_secs(5);

impl Device {
    pub fn new(n: u8, firmware: Firmware) -> Self {
        Self {
            mac: [2, 0, 0x5e, 0, 0, n],
            uuid: [n; 16],
            firmware,
            giaddr: Ipv4Addr::UNSPECIFIED,
            xid: 0x1000 + u32::from(n),
        }
    }

    pub fn name(&self) -> String {
        self.mac.map(|byte| format!("{byte:02x}")).join(":")
    }

    /// The same machine with another program running.
    pub fn running(&self, firmware: Firmware) -> Self {
        Self {
            firmware,
            xid: self.xid + 0x100,
            ..self.clone()
        }
    }

    /// The same machine, switched on again.
    pub fn again(&self) -> Self {
        Self {
            xid: self.xid + 0x1_0000,
            ..self.clone()
        }
    }

    /// A message of `kind`; `more`: further options.
    pub fn packet(&self, kind: u8, more: &[(u8, &[u8])]) -> Vec<u8> {
        let mut packet = vec![0; 236];
        packet[..4].copy_from_slice(&[1, 1, 6, 0]);
        packet[4..8].copy_from_slice(&self.xid.to_be_bytes());
        packet[10] = 0x80;
        packet[24..28].copy_from_slice(&self.giaddr.octets());
        packet[28..34].copy_from_slice(&self.mac);
        packet.extend([99, 130, 83, 99, 53, 1, kind]);
        let (class, arch): (&[u8], Option<[u8; 2]>) = match self.firmware {
            Firmware::Bios => (b"PXEClient:Arch:00000:UNDI:002001", Some([0, 0])),
            Firmware::Uefi => (b"PXEClient:Arch:00007:UNDI:003000", Some([0, 7])),
            Firmware::Ia32 => (b"PXEClient:Arch:00006:UNDI:003000", Some([0, 6])),
            Firmware::HttpBoot => (b"HTTPClient:Arch:00016:UNDI:003000", Some([0, 16])),
            Firmware::Ipxe => (b"PXEClient:Arch:00007:UNDI:003010", Some([0, 7])),
            Firmware::Agent => (b"groundcrew", None),
            Firmware::Plain => (b"", None),
        };
        let mut option = |code: u8, data: &[u8]| {
            packet.extend([code, u8::try_from(data.len()).unwrap()]);
            packet.extend(data);
        };
        if !class.is_empty() {
            option(60, class);
        }
        if let Some(arch) = arch {
            option(93, &arch);
            let mut id = vec![0];
            id.extend(self.uuid);
            option(97, &id);
        }
        if matches!(self.firmware, Firmware::Ipxe) {
            option(77, b"iPXE");
            option(175, &[177, 1, 1]);
        }
        for (code, data) in more {
            option(*code, data);
        }
        packet.push(255);
        packet.resize(packet.len().max(300), 0);
        packet
    }

    /// Sends a DISCOVER and waits for the offered address.
    pub fn discover(&self, net: &Net) -> Option<Ipv4Addr> {
        self.exchange(net, 1, &[], 2)
    }

    /// Sends it `times`, without waiting for answers.
    pub fn shout(&self, net: &Net, times: usize) {
        let packet = self.packet(1, &[]);
        net.on_client(move || {
            let socket = socket();
            for _ in 0..times {
                socket.send_to(&packet, to_all()).unwrap();
            }
        });
    }

    /// Sends a REQUEST for an address of that server, and waits for the ACK.
    pub fn request(&self, net: &Net, ip: Ipv4Addr, server: Ipv4Addr) -> Option<Ipv4Addr> {
        let options: [(u8, &[u8]); 2] = [(50, &ip.octets()), (54, &server.octets())];
        self.exchange(net, 3, &options, 5)
    }

    /// The same, of a server that does not answer here.
    pub fn choose(&self, net: &Net, ip: Ipv4Addr, server: Ipv4Addr) {
        let packet = self.packet(3, &[(50, &ip.octets()), (54, &server.octets())]);
        net.on_client(move || {
            socket().send_to(&packet, to_all()).unwrap();
        });
    }

    fn exchange(
        &self,
        net: &Net,
        kind: u8,
        options: &[(u8, &[u8])],
        wanted: u8,
    ) -> Option<Ipv4Addr> {
        let (packet, xid) = (self.packet(kind, options), self.xid);
        net.on_client(move || {
            let socket = socket();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(&packet, to_all()).unwrap();
            let mut buffer = [0; 1500];
            loop {
                let (length, _) = socket.recv_from(&mut buffer).ok()?;
                match reply(&buffer[..length]) {
                    Some((kind, of, ip)) if kind == wanted && of == xid => return Some(ip),
                    _ => {}
                }
            }
        })
    }

    /// DISCOVER to ACK; the address is its own from then on.
    pub fn lease(&self, net: &Net) -> Ipv4Addr {
        let offered = self.discover(net).expect("an offer");
        let ip = self.request(net, offered, SERVER).expect("an ACK");
        take(net, ip);
        ip
    }

    /// The text that GRUB or pxelinux asks for by this name.
    pub fn boot_text(&self, net: &Net, from: Ipv4Addr, prefix: &str) -> String {
        let file = self.text_name(prefix);
        let bytes = net.on_client(move || Tftp::Whole.run(from, &file));
        String::from_utf8(bytes).unwrap()
    }

    /// `grub/grub.cfg-01-…`, `pxelinux.cfg/01-…`.
    pub fn text_name(&self, prefix: &str) -> String {
        format!("{prefix}01-{}", self.name().replace(':', "-"))
    }

    /// Asks for a file by TFTP and does what `script` says with what comes.
    pub fn tftp(&self, net: &Net, from: Ipv4Addr, file: &str, how: Tftp) {
        let file = file.to_owned();
        net.on_client(move || drop(how.run(from, &file)));
    }

    /// The question of iPXE, with a serial number.
    pub fn ask_text(&self, net: &Net, from: Ipv4Addr, serial: &str) -> String {
        let hex: String = serial.bytes().map(|byte| format!("{byte:02x}")).collect();
        let uuid = groundcrew_core::hardware::SmbiosUuid::from_little_endian(self.uuid);
        let path = format!(
            "/ipxe?mac={}&ip={from}&uuid={uuid}&serialx={hex}&platform=efi",
            self.name()
        );
        String::from_utf8(get(net, from, &path, usize::MAX)).unwrap()
    }

    /// From nothing to the boot text: a machine whose ROM is iPXE.
    pub fn up_to_text(&self, net: &Net, serial: &str) -> Ipv4Addr {
        let ip = self.running(Firmware::Ipxe).lease(net);
        self.ask_text(net, ip, serial);
        ip
    }

    /// And the agent's kernel and initrd.
    pub fn up_to_initrd(&self, net: &Net, serial: &str) -> Ipv4Addr {
        let ip = self.up_to_text(net, serial);
        get(net, ip, "/boot/vmlinuz", usize::MAX);
        get(net, ip, "/boot/initrd.img", usize::MAX);
        ip
    }
}

/// The client's cable has this address, too.
pub fn take(net: &Net, ip: Ipv4Addr) {
    let address = format!("-n {} address replace {ip}/24 dev dev0", net.client);
    run("ip", address.split(' '));
}

/// The client's cable has this address and no other, so that whatever is sent
/// comes from it.
pub fn only(net: &Net, ip: Ipv4Addr) {
    let flush = format!("-n {} address flush dev dev0", net.client);
    run("ip", flush.split(' '));
    take(net, ip);
}

/// What a device does with a TFTP transfer.
#[derive(Clone, Copy, Debug)]
pub enum Tftp {
    /// Takes it whole.
    Whole,
    /// Asks for options, and refuses what they were agreed to be.
    RefuseOptions,
    /// Asks for it as text.
    AsText,
    /// Takes one block and does not acknowledge it.
    Stall,
    /// Takes so many blocks and ends with an error.
    GiveUpAfter(u16),
    /// Asks, and is never heard of again: a forged request.
    AskOnly,
}

impl Tftp {
    fn run(self, from: Ipv4Addr, file: &str) -> Vec<u8> {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = vec![0, 1];
        request.extend(file.as_bytes());
        request.extend(match self {
            Self::AsText => &b"\0netascii\0"[..],
            _ => b"\0octet\0",
        });
        if matches!(self, Self::RefuseOptions) {
            request.extend(b"blksize\x001468\0tsize\x000\0");
        }
        socket.send_to(&request, (SERVER, 69)).unwrap();
        let (mut buffer, mut data) = ([0; 2048], Vec::new());
        if matches!(self, Self::AskOnly) {
            // Answered, so that the appliance is at work on it.
            socket.recv_from(&mut buffer).unwrap();
            return data;
        }
        loop {
            let (length, peer) = socket.recv_from(&mut buffer).unwrap();
            let error = |code: u8, text: &[u8]| {
                let mut packet = vec![0, 5, 0, code];
                packet.extend(text);
                packet.push(0);
                socket.send_to(&packet, peer).unwrap();
            };
            match (&buffer[..4], self) {
                ([0, 6, ..], _) => {
                    error(8, b"User aborted the transfer");
                    return data;
                }
                ([0, 5, ..], _) | ([0, 3, ..], Self::Stall) => return data,
                ([0, 3, hi, lo], Self::GiveUpAfter(most))
                    if u16::from_be_bytes([*hi, *lo]) > most =>
                {
                    error(3, b"out of memory");
                    return data;
                }
                ([0, 3, hi, lo], _) => {
                    data.extend(&buffer[4..length]);
                    socket.send_to(&[0, 4, *hi, *lo], peer).unwrap();
                    if length < 516 {
                        return data;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A GET over one connection; leaves after `most` bytes.
pub fn get(net: &Net, from: Ipv4Addr, path: &str, most: usize) -> Vec<u8> {
    begin(net, from, path, most).0
}

/// The same, and the connection stays open.
pub fn begin(net: &Net, from: Ipv4Addr, path: &str, most: usize) -> (Vec<u8>, TcpStream) {
    let path = path.to_owned();
    net.on_client(move || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket
            .set_recv_buffer_size(4096)
            .expect("a small receive buffer");
        socket.bind(&SocketAddrV4::new(from, 0).into()).unwrap();
        socket
            .connect(&SocketAddrV4::new(SERVER, 80).into())
            .unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while answer.len() < most {
            match stream.read(&mut buffer).unwrap() {
                0 => break,
                length => answer.extend(&buffer[..length]),
            }
        }
        (answer, stream)
    })
}
