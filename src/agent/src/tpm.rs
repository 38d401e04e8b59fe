//! What a TPM 2.0 says of itself, and its RSA-2048 endorsement key (EK), over
//! the kernel's resource manager (`/dev/tpmrm0`) or any other stream that
//! carries TPM commands. Five commands of the TPM 2.0 Library, part 3.
//!
//! The EK is read where the maker left it: in its certificate (NV index
//! 0x01c00002), else at its persistent handle, else made from the standard
//! template, which gives the same key each time (TCG EK Credential Profile
//! 2.5, sections 2.2.1.4, 2.2.1.5 and B.3.3).

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::Path;

use groundcrew_core::encoding::Bytes;
use groundcrew_core::hardware::report::{Tpm, TpmAbout};

use crate::tls::{element, subject_public_key_info};

/// The longest answer: a certificate comes in pieces.
const ANSWER: usize = 4096;

/// The longest certificate that is read.
const CERTIFICATE: usize = 8 * 1024;

/// Bytes of NV memory at once; every TPM gives at least so many.
const PIECE: usize = 512;

const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
const EK_CERTIFICATE: u32 = 0x01c0_0002;
const EK_HANDLE: u32 = 0x8101_0001;
const ENDORSEMENT: u32 = 0x4000_000b;

const CREATE_PRIMARY: u32 = 0x131;
const NV_READ: u32 = 0x14e;
const FLUSH_CONTEXT: u32 = 0x165;
const NV_READ_PUBLIC: u32 = 0x169;
const READ_PUBLIC: u32 = 0x173;
const GET_CAPABILITY: u32 = 0x17a;

/// A session that is an empty password: size, TPM_RS_PW, no nonce, no
/// attributes, no password.
const EMPTY_PASSWORD: [u8; 13] = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];

/// The policy of template L-1: the endorsement hierarchy's password.
const EK_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24,
    0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];

/// Adds to `tpm` what the device says, as far as it says it.
pub fn ask(device: &Path, tpm: &mut Tpm) {
    // Without the right or the node, the report says what sysfs said.
    if let Ok(mut stream) = OpenOptions::new().read(true).write(true).open(device) {
        ask_stream(&mut stream, tpm);
    }
}

/// The same over any stream.
pub fn ask_stream<S: Read + Write>(stream: &mut S, tpm: &mut Tpm) {
    tpm.about = about(stream);
    let modulus = certified(stream)
        .or_else(|| persistent(stream))
        .or_else(|| from_template(stream));
    if let Some(modulus) = modulus {
        tpm.set_ek(Bytes(modulus));
    }
}

/// Level, revision, maker and firmware (part 2, section 6.13).
fn about<S: Read + Write>(stream: &mut S) -> Option<TpmAbout> {
    let mut body = Vec::new();
    for word in [6u32, 0x100, 16] {
        body.extend(word.to_be_bytes());
    }
    let answer = command(stream, NO_SESSIONS, GET_CAPABILITY, &body)?;
    let mut r = Reader(answer.get(5..)?);
    let mut about = TpmAbout::default();
    for _ in 0..r.u32()?.min(64) {
        let (property, value) = (r.u32()?, r.u32()?);
        match property {
            0x101 => about.level = value,
            0x102 => about.revision = value,
            0x105 => about.set_maker(value.to_be_bytes()),
            0x10b => about.firmware[0] = value,
            0x10c => about.firmware[1] = value,
            _ => {}
        }
    }
    Some(about)
}

/// The key that the maker's certificate names.
fn certified<S: Read + Write>(stream: &mut S) -> Option<[u8; 256]> {
    let index = EK_CERTIFICATE.to_be_bytes();
    let answer = command(stream, NO_SESSIONS, NV_READ_PUBLIC, &index)?;
    let mut r = Reader(&answer);
    r.take(2 + 4 + 2 + 4)?;
    r.sized()?;
    let size = usize::from(r.u16()?);
    if size > CERTIFICATE {
        return None;
    }
    let mut certificate = Vec::with_capacity(size);
    while certificate.len() < size {
        let piece = (size - certificate.len()).min(PIECE);
        let mut body = [index, index].concat();
        body.extend(EMPTY_PASSWORD);
        body.extend(u16::try_from(piece).ok()?.to_be_bytes());
        body.extend(u16::try_from(certificate.len()).ok()?.to_be_bytes());
        let answer = command(stream, SESSIONS, NV_READ, &body)?;
        let mut r = Reader(answer.get(4..)?);
        let read = r.sized()?;
        if read.is_empty() {
            return None;
        }
        certificate.extend_from_slice(read);
    }
    modulus_of_certificate(&certificate)
}

/// SubjectPublicKeyInfo, BIT STRING, RSAPublicKey, modulus (RFC 8017, A.1.1).
fn modulus_of_certificate(certificate: &[u8]) -> Option<[u8; 256]> {
    let key = element(subject_public_key_info(certificate)?)?.content;
    let bits = element(element(key)?.rest)?.content;
    let modulus = element(element(bits.get(1..)?)?.content)?.content;
    modulus.strip_prefix(&[0])?.try_into().ok()
}

fn persistent<S: Read + Write>(stream: &mut S) -> Option<[u8; 256]> {
    let answer = command(stream, NO_SESSIONS, READ_PUBLIC, &EK_HANDLE.to_be_bytes())?;
    modulus_of_public(Reader(&answer))
}

fn from_template<S: Read + Write>(stream: &mut S) -> Option<[u8; 256]> {
    let mut body = ENDORSEMENT.to_be_bytes().to_vec();
    body.extend(EMPTY_PASSWORD);
    // No password and no data of its own; then the template, its size first.
    body.extend([0, 4, 0, 0, 0, 0]);
    let public = template();
    body.extend(u16::try_from(public.len()).ok()?.to_be_bytes());
    body.extend(public);
    // No outside information, no PCRs.
    body.extend([0; 6]);
    let answer = command(stream, SESSIONS, CREATE_PRIMARY, &body)?;
    let modulus = modulus_of_public(Reader(answer.get(8..)?));
    // Its place in the TPM is needed by others; if this fails, closing frees it.
    let _ = command(stream, NO_SESSIONS, FLUSH_CONTEXT, answer.get(..4)?);
    modulus
}

/// Template L-1: RSA-2048, SHA-256, AES-128-CFB.
fn template() -> Vec<u8> {
    let mut out = vec![0, 1, 0, 0x0b, 0, 3, 0, 0xb2, 0, 32];
    out.extend(EK_POLICY);
    out.extend([0, 6, 0, 128, 0, 0x43, 0, 0x10, 8, 0, 0, 0, 0, 0, 1, 0]);
    out.extend([0; 256]);
    out
}

/// The modulus of a TPM2B_PUBLIC that holds an RSA-2048 storage key (part 2,
/// section 12.2).
fn modulus_of_public(mut r: Reader<'_>) -> Option<[u8; 256]> {
    const RSA: u16 = 1;
    const NULL: u16 = 0x10;
    r.u16()?;
    if r.u16()? != RSA {
        return None;
    }
    r.take(2 + 4)?;
    r.sized()?;
    if r.u16()? != NULL {
        r.take(4)?;
    }
    // An endorsement key has no scheme.
    (r.u16()? == NULL).then_some(())?;
    r.take(2 + 4)?;
    r.sized()?.try_into().ok()
}

/// Sends a command and returns what follows the header, where it succeeded.
fn command<S: Read + Write>(stream: &mut S, tag: u16, code: u32, body: &[u8]) -> Option<Vec<u8>> {
    let size = u32::try_from(10 + body.len()).ok()?;
    let mut sent = tag.to_be_bytes().to_vec();
    sent.extend(size.to_be_bytes());
    sent.extend(code.to_be_bytes());
    sent.extend(body);
    stream.write_all(&sent).ok()?;
    // The device gives an answer whole and at once; other streams in pieces.
    let mut answer = vec![0; ANSWER];
    let mut read = stream.read(&mut answer).ok()?;
    loop {
        let size = Reader(answer.get(2..6)?).u32()? as usize;
        if read >= 10 && read >= size {
            answer.truncate(size);
            break;
        }
        match stream.read(answer.get_mut(read..)?).ok()? {
            0 => return None,
            more => read += more,
        }
    }
    let (header, body) = answer.split_at_checked(10)?;
    (Reader(header.get(6..)?).u32()? == 0).then(|| body.to_vec())
}

/// Big-endian numbers from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A TPM2B: two bytes of size, then so many.
    fn sized(&mut self) -> Option<&'a [u8]> {
        let size = self.u16()?;
        self.take(size.into())
    }
}

#[cfg(test)]
#[path = "tpm_tests.rs"]
mod tests;
