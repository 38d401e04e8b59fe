//! What a technician needs to make a machine trust the site's key: the
//! certificate in every form that firmware setups, `mokutil` and `efi-updatevar`
//! read (UEFI 2.10 §8.2.2 and §32.4).

use groundcrew_core::UnixTime;

use super::{SecureError, Signer, pkcs7};

/// A GUID as it stands in memory.
type Guid = [u8; 16];

/// `EFI_GLOBAL_VARIABLE`, 8be4df61-93ca-11d2-aa0d-00e098032b8c: PK and KEK.
const GLOBAL: Guid = [
    0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c,
];
/// `EFI_IMAGE_SECURITY_DATABASE_GUID`, d719b2cb-3d3a-4596-a3bc-dad00e67656f: db.
const DATABASE: Guid = [
    0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f,
];
/// `EFI_CERT_X509_GUID`, a5c059a1-94e4-4aa7-87b5-ab155c2bf072.
const X509: Guid = [
    0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72,
];
/// `EFI_CERT_TYPE_PKCS7_GUID`, 4aafd29d-68df-49ee-8aa9-347d375665a7.
const PKCS7: Guid = [
    0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7,
];

/// Non-volatile, at boot and at run time, authenticated by time.
const ATTRIBUTES: u32 = 0x27;
/// Adds to what is there instead of replacing it.
const APPEND: u32 = 0x40;

/// A file for the technician's stick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrollFile {
    /// Its name.
    pub name: &'static str,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// The files. `at` is the variables' time stamp: firmware refuses one that is
/// older than the last one it took.
pub fn enrollment(signer: &Signer, at: UnixTime) -> Result<Vec<EnrollFile>, SecureError> {
    let list = signature_list(signer);
    let variable =
        |name, vendor, attributes| authenticated(signer, name, vendor, attributes, &list, at);
    let file = |name, content| EnrollFile { name, content };
    Ok(vec![
        file("db.cer", signer.certificate().to_vec()),
        file("db.esl", list.clone()),
        file(
            "db-append.auth",
            variable("db", DATABASE, ATTRIBUTES | APPEND)?,
        ),
        file("db.auth", variable("db", DATABASE, ATTRIBUTES)?),
        file("KEK.auth", variable("KEK", GLOBAL, ATTRIBUTES)?),
        file("PK.auth", variable("PK", GLOBAL, ATTRIBUTES)?),
        file("README.txt", readme(signer).into_bytes()),
    ])
}

/// `EFI_SIGNATURE_LIST` with one certificate. Its owner is a GUID made of the
/// certificate, so that it can be found and removed again.
fn signature_list(signer: &Signer) -> Vec<u8> {
    let certificate = signer.certificate();
    let entry = 16 + certificate.len() as u32;
    let mut out = X509.to_vec();
    out.extend((28 + entry).to_le_bytes());
    out.extend(0u32.to_le_bytes()); // no header
    out.extend(entry.to_le_bytes());
    out.extend(owner(certificate));
    out.extend(certificate);
    out
}

/// RFC 9562 §5.8: a GUID of its maker's own making.
fn owner(certificate: &[u8]) -> Guid {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
    let mut guid = [0; 16];
    for (to, from) in guid.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    guid[7] = (guid[7] & 0x0f) | 0x80;
    guid[8] = (guid[8] & 0x3f) | 0x80;
    guid
}

/// A variable's new content as `SetVariable` takes it:
/// `EFI_VARIABLE_AUTHENTICATION_2`, then the data.
fn authenticated(
    signer: &Signer,
    name: &str,
    vendor: Guid,
    attributes: u32,
    data: &[u8],
    at: UnixTime,
) -> Result<Vec<u8>, SecureError> {
    let time = efi_time(at);
    let mut signed: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    signed.extend(vendor);
    signed.extend(attributes.to_le_bytes());
    signed.extend(time);
    signed.extend(data);
    let signature = pkcs7::detached(signer, &signed)?;
    let length = 24 + signature.len() as u32;
    let mut out = time.to_vec();
    out.extend(length.to_le_bytes());
    out.extend(0x0200u16.to_le_bytes()); // revision
    out.extend(0x0ef1u16.to_le_bytes()); // WIN_CERT_TYPE_EFI_GUID
    out.extend(PKCS7);
    out.extend(signature);
    out.extend(data);
    Ok(out)
}

/// `EFI_TIME` in UTC; nanoseconds, zone and daylight must be zero here.
fn efi_time(at: UnixTime) -> [u8; 16] {
    let (year, month, day, hour, minute, second) = civil(at.seconds());
    let [low, high] = year.to_le_bytes();
    let mut out = [0; 16];
    let fields = [low, high, month, day, hour, minute, second];
    for (to, from) in out.iter_mut().zip(fields) {
        *to = from;
    }
    out
}

/// Days to a date in the proleptic Gregorian calendar, years counted from March.
fn civil(seconds: u64) -> (u16, u8, u8, u8, u8, u8) {
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let byte = |value: u64| u8::try_from(value).unwrap_or(0);
    (
        u16::try_from(year).unwrap_or(9999),
        byte(month),
        byte(day),
        byte(clock / 3_600),
        byte(clock % 3_600 / 60),
        byte(clock % 60),
    )
}

fn readme(signer: &Signer) -> String {
    format!(
        "The certificate that signs this site's boot images, for machines with Secure Boot.\n\
         SHA-256 of the certificate: {}\n\n{}",
        signer.fingerprint(),
        include_str!("../../../../image/enroll-keys.txt")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil(0), (1970, 1, 1, 0, 0, 0));
        assert_eq!(civil(951_782_399), (2000, 2, 28, 23, 59, 59));
        assert_eq!(civil(951_782_400), (2000, 2, 29, 0, 0, 0));
        assert_eq!(civil(1_795_390_245), (2026, 11, 22, 23, 30, 45));
        assert_eq!(
            efi_time(UnixTime::new(1_795_390_245))[..7],
            [0xea, 7, 11, 22, 23, 30, 45]
        );
    }
}
