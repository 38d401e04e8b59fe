//! iPXE: the URL a client calls, what it tells there, and the text made for it.
//!
//! The serial is known only here (DHCP carries MAC and UUID), so this is where
//! it is decided what a device boots. Checked against iPXE at commit 36a4c85
//! (2019-01, Debian 12's build):
//! - settings in a DHCP file name are expanded (`fetch_next_server_and_filename`);
//! - percent escapes are decoded when a URI is read, and `&` is not escaped again
//!   when it is sent, so `:uristring` would not protect a serial with `&` in it;
//!   `:hexraw` does;
//! - `exit` with status 0 makes EDK2 show its boot menu; 1 makes it go on with
//!   the next boot option.

mod query;
mod screen;
mod script;

use std::net::SocketAddrV4;

pub use query::{BuildArch, IpxeQuery, QueryError};
pub(crate) use screen::folded;
pub use screen::{MEMTEST_BIOS, MEMTEST_EFI};
pub use script::{
    AgentBoot, AgentFiles, BootDecision, Firmware, KernelArg, KernelArgError, Menu, OnFailure,
    ScriptSettings, first_script,
};
pub(crate) use script::{CONSOLES, CONSOLES_ARM64, plain};

/// The path of the text made for a device.
pub const SCRIPT_PATH: &str = "/ipxe";
/// The path of [`first_script`], for loaders that are given a fixed URL.
pub const FIRST_SCRIPT_PATH: &str = "/boot.ipxe";

/// What iPXE fills in: every value either cannot hold a character that means
/// something in a URL, or is sent as hexadecimal digits of its bytes.
/// `netX` is the interface iPXE opened last, the one it booted from.
const QUERY: &str = "mac=${netX/mac}&ip=${netX/ip}&uuid=${uuid}&serialx=${serial:hexraw}\
&makerx=${manufacturer:hexraw}&modelx=${product:hexraw}&platform=${platform}&arch=${buildarch}";

/// The URL in the DHCP reply to iPXE: shorter than one option's 255 bytes.
pub fn script_url(http: SocketAddrV4) -> String {
    format!("{}{SCRIPT_PATH}?{QUERY}", http_origin(http))
}

/// `http://ADDRESS` and the port where it is not 80.
pub fn http_origin(http: SocketAddrV4) -> String {
    if http.port() == 80 {
        format!("http://{}", http.ip())
    } else {
        format!("http://{http}")
    }
}

/// Bytes of hexadecimal digits of either case; `None` for anything else.
pub(crate) fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |b: u8| char::from(b).to_digit(16);
    let byte = |&[high, low]: &[u8; 2]| Some((digit(high)? * 16 + digit(low)?) as u8);
    if rest.is_empty() {
        pairs.iter().map(byte).collect()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_fits_one_option() {
        let longest = SocketAddrV4::new([255, 255, 255, 255].into(), 65535);
        assert!(
            script_url(longest).len() <= 255,
            "{}",
            script_url(longest).len()
        );
        let usual = SocketAddrV4::new([10, 77, 0, 1].into(), 80);
        assert!(script_url(usual).starts_with("http://10.77.0.1/ipxe?mac=${netX/mac}&"));
    }

    #[test]
    fn hexadecimal_is_read_strictly() {
        assert_eq!(decode_hex("00fF"), Some(vec![0, 255]));
        assert_eq!(decode_hex(""), Some(vec![]));
        assert_eq!(decode_hex("0"), None);
        assert_eq!(decode_hex("0g"), None);
        assert_eq!(decode_hex("é0"), None);
    }
}
