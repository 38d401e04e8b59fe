//! PKCS#7 SignedData (RFC 2315), as firmware reads it: one RSA key, SHA-256, no
//! time inside, so that the same input gives the same bytes.

use super::der::{
    BIT_STRING, INTEGER, OCTET_STRING, OID, SEQUENCE, SET, algorithm, context, context_primitive,
    list, oid, value,
};
use super::{SecureError, Signer};

/// The Authenticode signature over an image with this digest, in a ContentInfo.
pub(super) fn authenticode(signer: &Signer, digest: &[u8; 32]) -> Result<Vec<u8>, SecureError> {
    let content = indirect_data(digest);
    // RFC 2315 §9.3: the content's own octets, without tag and length.
    let inner = super::der::read(&content).map_or(&[][..], |item| item.content);
    let attributes = attributes(oid::SPC_INDIRECT_DATA, &sha256(inner));
    let signature = signer.sign(&list(SET, &[&attributes]))?;
    let info = signer_info(signer, Some(&attributes), &signature);
    let content = list(
        SEQUENCE,
        &[
            &value(OID, oid::SPC_INDIRECT_DATA),
            &value(context(0), &content),
        ],
    );
    Ok(content_info(&signed_data(signer, &content, &info)))
}

/// A signature over `content`, which it does not hold, as authenticated UEFI
/// variables carry it: SignedData without ContentInfo (UEFI 2.10 §8.2.2).
pub(super) fn detached(signer: &Signer, content: &[u8]) -> Result<Vec<u8>, SecureError> {
    let signature = signer.sign(content)?;
    let info = signer_info(signer, None, &signature);
    let nothing = list(SEQUENCE, &[&value(OID, oid::DATA)]);
    Ok(signed_data(signer, &nothing, &info))
}

/// SignedData in the envelope that most programs want.
pub(super) fn content_info(signed_data: &[u8]) -> Vec<u8> {
    list(
        SEQUENCE,
        &[
            &value(OID, oid::SIGNED_DATA),
            &value(context(0), signed_data),
        ],
    )
}

fn signed_data(signer: &Signer, content: &[u8], signer_info: &[u8]) -> Vec<u8> {
    // EDK2 looks for the digest algorithm at a fixed place: it must come first
    // and alone (`DxeImageVerificationLib`, `AuthVariableLib`).
    list(
        SEQUENCE,
        &[
            &value(INTEGER, &[1]),
            &list(SET, &[&algorithm(oid::SHA256)]),
            content,
            &value(context(0), signer.certificate()),
            &list(SET, &[signer_info]),
        ],
    )
}

fn signer_info(signer: &Signer, attributes: Option<&[u8]>, signature: &[u8]) -> Vec<u8> {
    let (issuer, serial) = signer.issuer_and_serial();
    let attributes = attributes.map(|list| value(context(0), list));
    list(
        SEQUENCE,
        &[
            &value(INTEGER, &[1]),
            &list(SEQUENCE, &[issuer, serial]),
            &algorithm(oid::SHA256),
            attributes.as_deref().unwrap_or_default(),
            &algorithm(oid::RSA),
            &value(OCTET_STRING, signature),
        ],
    )
}

/// The authenticated attributes, in DER's order of a set.
fn attributes(content_type: &[u8], digest: &[u8; 32]) -> Vec<u8> {
    let attribute =
        |kind: &[u8], content: &[u8]| list(SEQUENCE, &[&value(OID, kind), &list(SET, &[content])]);
    let mut parts = [
        attribute(oid::CONTENT_TYPE, &value(OID, content_type)),
        attribute(oid::MESSAGE_DIGEST, &value(OCTET_STRING, digest)),
    ];
    parts.sort();
    parts.concat()
}

/// SpcIndirectDataContent: this is a PE image, and this is its digest.
fn indirect_data(digest: &[u8; 32]) -> Vec<u8> {
    let obsolete: Vec<u8> = "<<<Obsolete>>>"
        .encode_utf16()
        .flat_map(u16::to_be_bytes)
        .collect();
    let file = value(
        context(0),
        &value(context(2), &value(context_primitive(0), &obsolete)),
    );
    let image = list(SEQUENCE, &[&value(BIT_STRING, &[0]), &file]);
    list(
        SEQUENCE,
        &[
            &list(SEQUENCE, &[&value(OID, oid::SPC_PE_IMAGE_DATA), &image]),
            &list(
                SEQUENCE,
                &[&algorithm(oid::SHA256), &value(OCTET_STRING, digest)],
            ),
        ],
    )
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    out
}
