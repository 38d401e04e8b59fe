//! Against swtpm, which Debian has: another implementation of the other side.

use super::*;
use groundcrew_core::Digest;
use proptest::prelude::*;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};

struct Swtpm {
    child: Child,
    folder: tempfile::TempDir,
}

impl Swtpm {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--tpmstate", &format!("dir={path}")])
            .args(["--server", &format!("type=unixio,path={path}/tpm")])
            .args(["--flags", "not-need-init,startup-clear"])
            .spawn()
            .expect("swtpm: run scripts/setup");
        Self { child, folder }
    }

    /// It serves one connection after the other.
    fn connect(&mut self) -> UnixStream {
        loop {
            if let Ok(stream) = UnixStream::connect(self.folder.path().join("tpm")) {
                return stream;
            }
            assert!(self.child.try_wait().unwrap().is_none(), "swtpm ended");
            std::thread::yield_now();
        }
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tpm() -> Tpm {
    Tpm {
        version: 2,
        ..Tpm::default()
    }
}

/// A certificate with an RSA-2048 key, and the modulus as OpenSSL tells it.
fn certificate(folder: &Path) -> (Vec<u8>, [u8; 256]) {
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(arguments).current_dir(folder);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    openssl(&[
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-subj", "/CN=ek",
        "-outform", "DER", "-out", "cert",
    ]);
    let text = openssl(&[
        "x509", "-inform", "DER", "-in", "cert", "-noout", "-modulus",
    ]);
    let hex = std::str::from_utf8(&text).unwrap().trim();
    let hex = hex.strip_prefix("Modulus=").unwrap();
    let modulus = data_encoding::HEXUPPER.decode(hex.as_bytes()).unwrap();
    let certificate = std::fs::read(folder.join("cert")).unwrap();
    (certificate, modulus.try_into().unwrap())
}

/// Writes a certificate where makers do, as the platform.
fn install(stream: &mut UnixStream, certificate: &[u8]) {
    const PLATFORM: [u8; 4] = [0x40, 0, 0, 0x0c];
    let mut public = EK_CERTIFICATE.to_be_bytes().to_vec();
    // SHA-256; PPWRITE, WRITEDEFINE, PPREAD, OWNERREAD, AUTHREAD, NO_DA, PLATFORMCREATE.
    public.extend([0, 0x0b, 0x42, 0x07, 0x20, 0x01, 0, 0]);
    public.extend(u16::try_from(certificate.len()).unwrap().to_be_bytes());
    let mut body = PLATFORM.to_vec();
    body.extend(EMPTY_PASSWORD);
    body.extend([0, 0, 0, u8::try_from(public.len()).unwrap()]);
    body.extend(public);
    command(stream, SESSIONS, 0x12a, &body).expect("TPM2_NV_DefineSpace");
    for (n, piece) in certificate.chunks(PIECE).enumerate() {
        let mut body = PLATFORM.to_vec();
        body.extend(EK_CERTIFICATE.to_be_bytes());
        body.extend(EMPTY_PASSWORD);
        body.extend(u16::try_from(piece.len()).unwrap().to_be_bytes());
        body.extend(piece);
        body.extend(u16::try_from(n * PIECE).unwrap().to_be_bytes());
        command(stream, SESSIONS, 0x137, &body).expect("TPM2_NV_Write");
    }
}

#[test]
fn a_tpm_without_a_certificate_makes_the_same_key_each_time() {
    let mut swtpm = Swtpm::start();
    let mut stream = swtpm.connect();
    let mut first = tpm();
    ask_stream(&mut stream, &mut first);
    let about = first.about.as_ref().unwrap();
    assert_eq!((about.level, about.maker.as_str()), (0, "IBM"));
    assert!(about.revision >= 138, "{about:?}");
    let modulus = first.modulus.unwrap();
    assert_eq!(first.ek, Some(Digest::of(&modulus.0)));
    assert!(modulus.0[0] >= 0x80 && modulus.0[255] & 1 == 1);
    // Three objects fit: a place that is not freed would show.
    for _ in 0..4 {
        let mut again = tpm();
        ask_stream(&mut stream, &mut again);
        assert_eq!(again, first);
    }
}

#[test]
fn a_certificate_counts_before_the_template() {
    let mut swtpm = Swtpm::start();
    let (certificate, modulus) = certificate(swtpm.folder.path());
    assert_eq!(modulus_of_certificate(&certificate), Some(modulus));
    let mut stream = swtpm.connect();
    install(&mut stream, &certificate);
    let mut tpm = tpm();
    ask_stream(&mut stream, &mut tpm);
    assert_eq!(tpm.ek, Some(Digest::of(&modulus)));
}

/// Answers every command with the same bytes.
struct Parrot(Vec<u8>);

impl Read for Parrot {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.as_slice().read(buffer)
    }
}

impl Write for Parrot {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

proptest! {
    #[test]
    fn whatever_a_device_answers_the_report_goes_on(
        body in proptest::collection::vec(any::<u8>(), 0..600),
        size in prop_oneof![Just(None), any::<u32>().prop_map(Some)],
    ) {
        let size = size.unwrap_or(10 + body.len() as u32);
        let mut answer = vec![0x80, 1];
        answer.extend(size.to_be_bytes());
        answer.extend([0; 4]);
        answer.extend(body);
        let mut tpm = tpm();
        ask_stream(&mut Parrot(answer.clone()), &mut tpm);
        prop_assert!(tpm.ek.is_none() || tpm.modulus.is_some());
        let _ = modulus_of_certificate(&answer);
    }

    #[test]
    fn a_tpm_that_says_nothing_or_an_error_is_left_alone(code in 1u32..) {
        let answer = [&[0x80, 1, 0, 0, 0, 10][..], &code.to_be_bytes()].concat();
        let mut said = tpm();
        ask_stream(&mut Parrot(answer), &mut said);
        ask_stream(&mut Parrot(Vec::new()), &mut said);
        prop_assert_eq!(said, tpm());
    }
}
