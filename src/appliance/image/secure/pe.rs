//! PE32+ images (Microsoft PE/COFF): adding sections behind the last one, the
//! digest that Authenticode signs, and the certificate table behind the file.

use super::SecureError;

/// Of a section header.
const SECTION: usize = 40;
/// The security directory, fifth of the data directories of PE32+, seen from
/// the optional header.
const SECURITY: usize = 112 + 4 * 8;
/// `CheckSum`, seen from the optional header.
const CHECKSUM: usize = 64;
/// Initialised data, readable.
const DATA: u32 = 0x4000_0040;
/// Where new sections begin in memory: EDK2 protects memory by pages.
const PAGE: u32 = 0x1000;
/// A certificate table entry begins at a multiple of this.
const CERTIFICATE_ALIGNMENT: usize = 8;

/// The machine in an EFI program's headers: `MZ`, at 0x3c the offset of `PE\0\0`.
pub(super) fn machine_of(program: &[u8]) -> Option<Machine> {
    let at = u32_at(program, 0x3c).filter(|_| program.starts_with(b"MZ"))? as usize;
    let pe = program.get(at..)?.starts_with(b"PE\0\0");
    pe.then(|| machine_at(program, at.checked_add(4)?))
        .flatten()
}

fn machine_at(bytes: &[u8], coff: usize) -> Option<Machine> {
    match u16_at(bytes, coff)? {
        0x8664 => Some(Machine::X64),
        0xaa64 => Some(Machine::Arm64),
        _ => None,
    }
}

/// A machine that a PE image is for (`IMAGE_FILE_HEADER.Machine`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::image) enum Machine {
    /// 0x8664.
    X64,
    /// 0xaa64.
    Arm64,
}

/// Where things lie in an image.
#[derive(Clone, Copy, Debug)]
struct Layout {
    coff: usize,
    optional: usize,
    sections: usize,
    count: u16,
    file_alignment: u32,
    header_bytes: u32,
}

/// A section as its header has it.
#[derive(Clone, Copy, Debug)]
struct Section {
    name: [u8; 8],
    virtual_size: u32,
    virtual_address: u32,
    raw_size: u32,
    raw_at: u32,
}

/// A checked PE32+ image.
#[derive(Clone, Debug)]
pub(super) struct Image {
    bytes: Vec<u8>,
    layout: Layout,
}

impl Image {
    /// Reads and checks the headers: every section lies inside the file.
    pub(super) fn parse(bytes: Vec<u8>) -> Result<Self, SecureError> {
        let layout = layout(&bytes)?;
        let image = Self { bytes, layout };
        for section in image.sections()? {
            let end = u64::from(section.raw_at) + u64::from(section.raw_size);
            if end > image.bytes.len() as u64 {
                return Err(SecureError::Pe("a section lies outside the file"));
            }
        }
        if layout.header_bytes as usize > image.bytes.len() {
            return Err(SecureError::Pe("its headers are longer than the file"));
        }
        Ok(image)
    }

    /// The image's bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Which machine it is for.
    pub(super) fn machine(&self) -> Option<Machine> {
        machine_at(&self.bytes, self.layout.coff)
    }

    /// What the file has of a section. Names have at most eight bytes.
    pub(super) fn section(&self, name: &str) -> Result<Option<&[u8]>, SecureError> {
        let mut padded = [0; 8];
        for (to, from) in padded.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        let sections = sections(&self.bytes, &self.layout)?;
        let found = sections.iter().find(|section| section.name == padded);
        Ok(found.and_then(|section| {
            let at = section.raw_at as usize;
            self.bytes.get(at..at + section.raw_size as usize)
        }))
    }

    /// Adds read-only data sections behind the last one, in file and memory.
    /// Names have at most eight bytes.
    pub(super) fn with_sections(self, added: &[(&str, &[u8])]) -> Result<Self, SecureError> {
        let Self { mut bytes, layout } = self;
        let sections = sections(&bytes, &layout)?;
        if security(&bytes, &layout)? != (0, 0) {
            return Err(SecureError::AlreadySigned);
        }
        let table_end = layout.sections + (sections.len() + added.len()) * SECTION;
        if table_end > layout.header_bytes as usize {
            return Err(SecureError::Pe("there is no room for further sections"));
        }
        // What follows the last section is symbols, which firmware never reads.
        let raw_end = sections.iter().map(|s| s.raw_at + s.raw_size).max();
        bytes.truncate(raw_end.unwrap_or(layout.header_bytes) as usize);
        set(&mut bytes, layout.coff + 8, &[0; 8]); // PointerToSymbolTable, NumberOfSymbols
        let mut address = sections
            .iter()
            .map(|s| {
                s.virtual_address
                    .saturating_add(s.virtual_size.max(s.raw_size))
            })
            .max()
            .unwrap_or(PAGE);
        let mut header = layout.sections + sections.len() * SECTION;
        let mut initialised = 0u32;
        for (name, content) in added {
            let size = u32::try_from(content.len()).map_err(|_| SecureError::TooLarge)?;
            align(&mut bytes, layout.file_alignment as usize);
            address = page(address)?;
            let raw_at = u32::try_from(bytes.len()).map_err(|_| SecureError::TooLarge)?;
            bytes.extend_from_slice(content);
            align(&mut bytes, layout.file_alignment as usize);
            let raw_size = size
                .checked_next_multiple_of(layout.file_alignment)
                .ok_or(SecureError::TooLarge)?;
            let mut row = [0; SECTION];
            for (to, from) in row.iter_mut().zip(name.bytes().take(8)) {
                *to = from;
            }
            for (at, value) in [
                (8, size),
                (12, address),
                (16, raw_size),
                (20, raw_at),
                (36, DATA),
            ] {
                set(&mut row, at, &value.to_le_bytes());
            }
            set(&mut bytes, header, &row);
            header += SECTION;
            address = address.checked_add(size).ok_or(SecureError::TooLarge)?;
            initialised = initialised.saturating_add(raw_size);
        }
        let count =
            u16::try_from(sections.len() + added.len()).map_err(|_| SecureError::TooLarge)?;
        set(&mut bytes, layout.coff + 2, &count.to_le_bytes());
        let data = u32_at(&bytes, layout.optional + 8).unwrap_or(0);
        let data = data.saturating_add(initialised);
        set(&mut bytes, layout.optional + 8, &data.to_le_bytes());
        let whole = page(address)?;
        set(&mut bytes, layout.optional + 56, &whole.to_le_bytes());
        Self::parse(bytes)
    }

    /// Pads the file to where a certificate may begin. The padding is signed.
    pub(super) fn aligned(mut self) -> Self {
        align(&mut self.bytes, CERTIFICATE_ALIGNMENT);
        self
    }

    /// What Authenticode hashes, in order: headers without checksum and security
    /// directory, sections by their place in the file, what lies behind them
    /// (Windows Authenticode Portable Executable Signature Format, 2008).
    pub(super) fn digest(&self) -> Result<[u8; 32], SecureError> {
        if security(&self.bytes, &self.layout)? != (0, 0) {
            return Err(SecureError::AlreadySigned);
        }
        let (optional, headers) = (self.layout.optional, self.layout.header_bytes as usize);
        let mut sections = self.sections()?;
        sections.retain(|section| section.raw_size > 0);
        sections.sort_by_key(|section| section.raw_at);
        let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
        let mut update = |from: usize, to: usize| {
            let part = self.bytes.get(from..to);
            part.map(|part| hash.update(part))
                .ok_or(SecureError::Pe("a part lies outside the file"))
        };
        update(0, optional + CHECKSUM)?;
        update(optional + CHECKSUM + 4, optional + SECURITY)?;
        update(optional + SECURITY + 8, headers)?;
        let mut done = headers;
        for section in sections {
            let (from, length) = (section.raw_at as usize, section.raw_size as usize);
            update(from, from + length)?;
            done += length;
        }
        update(done.min(self.bytes.len()), self.bytes.len())?;
        let digest = hash.finish();
        digest
            .as_ref()
            .try_into()
            .map_err(|_| SecureError::Pe("no digest"))
    }

    /// The image with this PKCS#7 signature as its only certificate.
    pub(super) fn signed(self, signature: &[u8]) -> Result<Vec<u8>, SecureError> {
        let Self { mut bytes, layout } = self.aligned();
        let at = u32::try_from(bytes.len()).map_err(|_| SecureError::TooLarge)?;
        let length = 8 + signature.len();
        let entry = u32::try_from(length).map_err(|_| SecureError::TooLarge)?;
        bytes.extend(entry.to_le_bytes());
        bytes.extend(0x0200u16.to_le_bytes()); // revision
        bytes.extend(0x0002u16.to_le_bytes()); // WIN_CERT_TYPE_PKCS_SIGNED_DATA
        bytes.extend(signature);
        align(&mut bytes, CERTIFICATE_ALIGNMENT);
        let table = u32::try_from(bytes.len()).map_err(|_| SecureError::TooLarge)? - at;
        let directory = [at.to_le_bytes(), table.to_le_bytes()].concat();
        set(&mut bytes, layout.optional + SECURITY, &directory);
        Ok(bytes)
    }

    fn sections(&self) -> Result<Vec<Section>, SecureError> {
        sections(&self.bytes, &self.layout)
    }
}

fn layout(bytes: &[u8]) -> Result<Layout, SecureError> {
    let pe = |why| SecureError::Pe(why);
    if !bytes.starts_with(b"MZ") {
        return Err(pe("it is not a PE image"));
    }
    let start = u32_at(bytes, 0x3c).ok_or(pe("it is too short"))? as usize;
    if bytes.get(start..start + 4) != Some(b"PE\0\0") {
        return Err(pe("it has no PE header"));
    }
    let coff = start + 4;
    let optional = coff + 20;
    let short = pe("its headers are cut short");
    let word = |at| u16_at(bytes, at).ok_or(SecureError::Pe("its headers are cut short"));
    let long = |at| u32_at(bytes, at).ok_or(SecureError::Pe("its headers are cut short"));
    if word(optional)? != 0x020b {
        return Err(pe("it is not a 64-bit image (PE32+)"));
    }
    if long(optional + 108)? < 5 {
        return Err(pe("it has no place for a signature"));
    }
    let file_alignment = long(optional + 36)?;
    if !file_alignment.is_power_of_two() || file_alignment > 0x10000 {
        return Err(pe("its file alignment makes no sense"));
    }
    let header_bytes = long(optional + 60)?;
    if bytes.len() < optional + SECURITY + 8 {
        return Err(short);
    }
    Ok(Layout {
        coff,
        optional,
        sections: optional + usize::from(word(coff + 16)?),
        count: word(coff + 2)?,
        file_alignment,
        header_bytes,
    })
}

fn sections(bytes: &[u8], layout: &Layout) -> Result<Vec<Section>, SecureError> {
    let read = |index: usize| {
        let at = layout.sections + index * SECTION;
        Some(Section {
            name: *bytes.get(at..)?.first_chunk()?,
            virtual_size: u32_at(bytes, at + 8)?,
            virtual_address: u32_at(bytes, at + 12)?,
            raw_size: u32_at(bytes, at + 16)?,
            raw_at: u32_at(bytes, at + 20)?,
        })
    };
    (0..usize::from(layout.count))
        .map(read)
        .collect::<Option<_>>()
        .ok_or(SecureError::Pe("its table of sections is cut short"))
}

/// File offset and length of the certificate table.
fn security(bytes: &[u8], layout: &Layout) -> Result<(u32, u32), SecureError> {
    let at = layout.optional + SECURITY;
    u32_at(bytes, at)
        .zip(u32_at(bytes, at + 4))
        .ok_or(SecureError::Pe("its headers are cut short"))
}

/// The next page's address.
fn page(address: u32) -> Result<u32, SecureError> {
    address
        .checked_next_multiple_of(PAGE)
        .ok_or(SecureError::TooLarge)
}

fn align(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

/// Both are called only with places that were read before.
fn set(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|b| u32::from_le_bytes(*b))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The least image: headers of 1 KiB and one section of 512 bytes.
    pub(in crate::image) fn tiny(machine: u16) -> Vec<u8> {
        let mut bytes = vec![0; 0x600];
        bytes[..2].copy_from_slice(b"MZ");
        set(&mut bytes, 0x3c, &0x40u32.to_le_bytes());
        set(&mut bytes, 0x40, b"PE\0\0");
        set(&mut bytes, 0x44, &machine.to_le_bytes());
        set(&mut bytes, 0x46, &1u16.to_le_bytes());
        set(&mut bytes, 0x54, &240u16.to_le_bytes());
        let optional = 0x58;
        set(&mut bytes, optional, &0x020bu16.to_le_bytes());
        for (at, value) in [
            (32, 0x1000u32),
            (36, 0x200),
            (56, 0x2000),
            (60, 0x400),
            (108, 16),
        ] {
            set(&mut bytes, optional + at, &value.to_le_bytes());
        }
        let row = optional + 240;
        set(&mut bytes, row, b".text");
        for (at, value) in [(8, 0x10u32), (12, 0x1000), (16, 0x200), (20, 0x400)] {
            set(&mut bytes, row + at, &value.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn sections_are_added_behind_the_last() {
        let image = Image::parse(tiny(0x8664)).unwrap();
        let image = image
            .with_sections(&[(".cmdline", b"quiet"), (".linux", &[7; 700])])
            .unwrap();
        let sections = image.sections().unwrap();
        assert_eq!(sections.len(), 3);
        let last = sections[2];
        assert_eq!((last.virtual_address, last.virtual_size), (0x3000, 700));
        assert_eq!((last.raw_at, last.raw_size), (0x800, 0x400));
        assert_eq!(&image.bytes()[0x600..0x605], b"quiet");
        assert_eq!(u32_at(image.bytes(), 0x58 + 56), Some(0x4000));
        assert_eq!(image.machine(), Some(Machine::X64));
    }

    #[test]
    fn a_full_table_is_refused() {
        let image = Image::parse(tiny(0xaa64)).unwrap();
        let many = vec![(".x", &b"y"[..]); 20];
        let error = image.with_sections(&many).unwrap_err().to_string();
        assert!(error.contains("no room"), "{error}");
    }

    #[test]
    fn the_digest_leaves_out_what_signing_changes() {
        let image = Image::parse(tiny(0x8664)).unwrap();
        let digest = image.digest().unwrap();
        let mut other = tiny(0x8664);
        set(&mut other, 0x58 + CHECKSUM, &[1, 2, 3, 4]);
        assert_eq!(
            Image::parse(other.clone()).unwrap().digest().unwrap(),
            digest
        );
        other[0x450] ^= 1;
        assert_ne!(Image::parse(other).unwrap().digest().unwrap(), digest);
        let signed = image.signed(&[9; 5]).unwrap();
        assert_eq!(signed.len() % 8, 0);
        let again = Image::parse(signed).unwrap();
        assert!(matches!(again.digest(), Err(SecureError::AlreadySigned)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(at in 0usize..0x200, byte in any::<u8>(), length in 0usize..0x600) {
            let mut bytes = tiny(0x8664);
            bytes[at] = byte;
            bytes.truncate(length);
            if let Ok(image) = Image::parse(bytes) {
                let _ = image.digest();
                let _ = image.with_sections(&[(".a", b"b")]);
            }
        }
    }
}
