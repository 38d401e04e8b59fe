//! Secure Boot with a key of the site's own: the image that firmware starts by
//! itself ([`uki`]), its signature ([`Signer`]), and what puts the site's
//! certificate into a machine ([`enroll`]).
//!
//! No program of the machine is called: Authenticode and UEFI's variables are
//! written here (`sbverify` and OVMF read them in the tests).

mod der;
mod enroll;
mod pe;
mod pkcs7;
mod signer;
#[cfg(test)]
mod tests;
mod uki;

pub use enroll::{EnrollFile, enrollment};
pub(super) use pe::Machine;
pub use signer::Signer;
pub use uki::{Parts, uki};

#[cfg(test)]
pub(in crate::image) use pe::tests::tiny;
#[cfg(test)]
pub(in crate::image) use tests::Pair;

/// Why nothing could be signed or put together.
#[derive(Debug, thiserror::Error)]
pub enum SecureError {
    /// An image that is none, or that nothing can be added to.
    #[error("the EFI image cannot be used: {0}")]
    Pe(&'static str),
    /// It has a signature already.
    #[error("the EFI image is signed already; sign the unsigned one")]
    AlreadySigned,
    /// Offsets of PE images have 32 bits.
    #[error("the EFI image would be larger than 4 GiB")]
    TooLarge,
    /// The private key.
    #[error("the signing key cannot be used: {0}")]
    Key(String),
    /// The certificate.
    #[error("the certificate cannot be used: {0}")]
    Certificate(&'static str),
    /// Key and certificate are of different pairs.
    #[error("the certificate is not the signing key's: they were not made together")]
    Mismatch,
}

/// Whether this is an EFI program for that machine.
pub(super) fn is_for(program: &[u8], machine: Machine) -> bool {
    pe::machine_of(program) == Some(machine)
}

/// What an EFI program says of its revocation level (`.sbat`), without the padding.
pub(super) fn sbat(program: Vec<u8>) -> Result<Vec<u8>, SecureError> {
    let image = pe::Image::parse(program)?;
    let section = image.section(".sbat")?;
    let section = section.ok_or(SecureError::Pe("it has no .sbat"))?;
    let end = section.iter().rposition(|byte| *byte != 0);
    Ok(section
        .get(..end.map_or(0, |at| at + 1))
        .unwrap_or_default()
        .to_vec())
}

/// Signs an EFI image by Authenticode.
pub fn sign(image: Vec<u8>, signer: &Signer) -> Result<Vec<u8>, SecureError> {
    let image = pe::Image::parse(image)?.aligned();
    let signature = pkcs7::authenticode(signer, &image.digest()?)?;
    image.signed(&signature)
}
