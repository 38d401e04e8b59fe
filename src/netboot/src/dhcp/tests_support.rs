//! Packets for tests, built byte by byte so that broken ones can be built too.

/// A client's packet under construction; the message type comes first.
#[derive(Clone)]
pub(crate) struct PacketBuilder {
    header: [u8; 240],
    kind: Option<u8>,
    options: Vec<u8>,
}

impl PacketBuilder {
    /// MAC 52:54:00:00:00:`client`, DISCOVER.
    pub(crate) fn new(client: u8) -> Self {
        Self::with_mac([0x52, 0x54, 0, 0, 0, client])
    }

    pub(crate) fn with_mac(mac: [u8; 6]) -> Self {
        let mut header = [0; 240];
        header[..4].copy_from_slice(&[1, 1, 6, 0]);
        header[4..8].copy_from_slice(&0x1234_5678u32.to_be_bytes());
        header[28..34].copy_from_slice(&mac);
        header[236..240].copy_from_slice(&[99, 130, 83, 99]);
        Self {
            header,
            kind: Some(1),
            options: Vec::new(),
        }
    }

    pub(crate) fn kind(mut self, kind: u8) -> Self {
        self.kind = Some(kind);
        self
    }

    pub(crate) fn without_type(mut self) -> Self {
        self.kind = None;
        self
    }

    pub(crate) fn option(mut self, code: u8, data: &[u8]) -> Self {
        self.options
            .extend([code, u8::try_from(data.len()).unwrap()]);
        self.options.extend(data);
        self
    }

    pub(crate) fn address(self, code: u8, address: std::net::Ipv4Addr) -> Self {
        self.option(code, &address.octets())
    }

    pub(crate) fn ciaddr(mut self, address: std::net::Ipv4Addr) -> Self {
        self.header[12..16].copy_from_slice(&address.octets());
        self
    }

    pub(crate) fn giaddr(mut self, address: std::net::Ipv4Addr) -> Self {
        self.header[24..28].copy_from_slice(&address.octets());
        self
    }

    pub(crate) fn broadcast(mut self) -> Self {
        self.header[10] = 0x80;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header.to_vec();
        if let Some(kind) = self.kind {
            bytes.extend([53, 1, kind]);
        }
        bytes.extend(&self.options);
        bytes.push(255);
        bytes
    }
}

/// An option of a reply.
pub(crate) fn option(reply: &[u8], wanted: u8) -> Option<Vec<u8>> {
    let mut options = reply.get(240..)?;
    while let [code, length, rest @ ..] = options {
        if *code == 255 {
            return None;
        }
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        if *code == wanted {
            return Some(value.to_vec());
        }
        options = rest;
    }
    None
}
