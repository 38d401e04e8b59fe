//! The running appliance on real sockets: other people's clients, hostile
//! packets, signals.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on ends"
)]

mod common;

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use common::{Appliance, GROUNDCREW, Net, SERVER, TestSite, pattern, succeeded};
use nix::sys::signal::Signal;

#[test]
fn a_stock_client_gets_an_address_and_files() {
    let (net, site) = (Net::new(), TestSite::new());
    let mut appliance = Appliance::start(&net, &site.dir());
    let work = site.folder.path().to_owned();

    // busybox's client, with a script that only notes the address.
    let script = work.join("bound");
    fs::write(&script, "#!/bin/sh\n[ \"$1\" = bound ] && ip address add $ip/$mask dev $interface && echo \"bound $ip $lease\"\nexit 0\n").unwrap();
    Command::new("chmod")
        .arg("+x")
        .arg(&script)
        .status()
        .unwrap();
    let mut udhcpc = net.in_client("busybox");
    udhcpc
        .args([
            "udhcpc", "-i", "dev0", "-n", "-q", "-t", "5", "-T", "1", "-s",
        ])
        .arg(&script);
    let text = succeeded("udhcpc", &udhcpc.output().unwrap());
    assert!(
        text.contains("bound 10.77.0.1") && text.contains(" 3600"),
        "{text}"
    );
    appliance.wait_for("REQUEST -> ACK");

    let fetched = work.join("fetched");
    let curl = |arguments: &[&str]| {
        let mut command = net.in_client("curl");
        command
            .args(["-s", "-S", "--max-time", "10", "-o"])
            .arg(&fetched)
            .args(["-w", "%{http_code} %{size_download}"]);
        succeeded("curl", &command.args(arguments).output().unwrap())
    };
    assert_eq!(curl(&["http://10.77.0.1/boot/pattern.bin"]), "200 1234567");
    assert_eq!(fs::read(&fetched).unwrap(), pattern(1_234_567));
    assert_eq!(
        curl(&["http://10.77.0.1//boot//pattern.bin"]),
        "200 1234567",
        "firmware doubles slashes"
    );
    assert_eq!(
        curl(&["-r", "1000000-1000009", "http://10.77.0.1/boot/pattern.bin"]),
        "206 10"
    );
    assert_eq!(
        fs::read(&fetched).unwrap(),
        &pattern(1_234_567)[1_000_000..1_000_010]
    );
    assert!(curl(&["-I", "http://10.77.0.1/boot/pattern.bin"]).starts_with("200 "));

    let tftp_file = work.join("by-tftp");
    let mut tftp = net.in_client("busybox");
    tftp.args(["tftp", "-g", "-b", "1428", "-l"])
        .arg(&tftp_file)
        .args(["-r", "pattern.bin", "10.77.0.1"]);
    succeeded("tftp", &tftp.output().unwrap());
    assert_eq!(fs::read(&tftp_file).unwrap(), pattern(1_234_567));

    let boot = curl(&[
        "http://10.77.0.1/ipxe?mac=52:54:00:00:00:01&serialx=41424331323334&platform=pcbios",
    ]);
    assert!(boot.starts_with("200 "), "{boot}");
    let text = fs::read_to_string(&fetched).unwrap();
    assert!(
        text.starts_with("#!ipxe\n") && text.contains("kernel http://10.77.0.1/boot/vmlinuz"),
        "{text}"
    );
}

#[test]
fn blocks_of_every_size_and_window_arrive_whole() {
    let (net, site) = (Net::new(), TestSite::new());
    let _appliance = Appliance::start(&net, &site.dir());
    net.address_client();
    for (block, window) in [(512, 1), (1024, 4), (1468, 16), (1468, 64), (8192, 3)] {
        let folder = site.folder.path().join(format!("{block}-{window}"));
        fs::create_dir(&folder).unwrap();
        let received = folder.join("pattern.bin");
        net.on_client(move || {
            let mut config = tftpd::ClientConfig {
                remote_ip_address: SERVER.into(),
                receive_directory: folder,
                file_path: "pattern.bin".into(),
                ..Default::default()
            };
            config.opt_common.block_size = block;
            config.opt_common.window_size = window;
            tftpd::Client::new(&config).unwrap().run().unwrap()
        });
        let same = fs::read(&received).unwrap() == pattern(1_234_567);
        assert!(same, "blksize {block}, windowsize {window}");
    }
}

#[test]
fn paths_stay_in_their_tree() {
    let (net, site) = (Net::new(), TestSite::new());
    std::os::unix::fs::symlink(
        site.dir().join("keys/grant.pem"),
        site.dir().join("boot/link"),
    )
    .unwrap();
    let _appliance = Appliance::start(&net, &site.dir());
    net.address_client();
    for path in [
        "/boot/../keys/grant.pem",
        "/boot/%2e%2e/keys/grant.pem",
        "/boot/..%2fkeys/grant.pem",
        "/boot/link",
        "/keys/grant.pem",
        "/boot/",
        "/tuf/../keys/grant.pem",
        "/boot/.hidden",
        "/blobs/sha256/../../keys/tls.pem",
    ] {
        let output = net
            .in_client("curl")
            .args([
                "-s",
                "--path-as-is",
                "--max-time",
                "5",
                "-w",
                "%{http_code}",
                &format!("http://10.77.0.1{path}"),
            ])
            .output()
            .unwrap();
        let text = succeeded(path, &output);
        assert!(
            text.ends_with("404") || text.ends_with("400"),
            "{path}: {text}"
        );
        assert!(!text.contains("PRIVATE"), "{path}");
    }
    for path in [
        "../keys/grant.pem",
        "/../keys/grant.pem",
        "..\\keys\\grant.pem",
        "link",
    ] {
        let output = net
            .in_client("busybox")
            .args(["tftp", "-g", "-l", "/dev/null", "-r", path, "10.77.0.1"])
            .output()
            .unwrap();
        assert!(!output.status.success(), "{path} must not be served");
    }
}

#[test]
fn tls_is_1_3_and_errors_are_named() {
    let (net, site) = (Net::new(), TestSite::new());
    let _appliance = Appliance::start(&net, &site.dir());
    net.address_client();
    let curl = |arguments: &[&str]| {
        net.in_client("curl")
            .args(["-s", "-k", "--max-time", "5", "-w", " %{http_code}"])
            .args(arguments)
            .output()
            .unwrap()
    };
    let old = curl(&["--tls-max", "1.2", "https://10.77.0.1/v1/enroll/start"]);
    assert!(!old.status.success(), "TLS 1.2 is refused");
    let digest = format!("sha256:{}", "0".repeat(64));
    let start = |body: &str| {
        succeeded(
            "curl",
            &curl(&["-d", body, "https://10.77.0.1/v1/enroll/start"]),
        )
    };
    let good = start(&format!("{{\"commitment\":\"{digest}\"}}"));
    assert!(
        good.contains("\"challenge\":") && good.ends_with(" 200"),
        "{good}"
    );
    assert_eq!(
        good,
        start(&format!("{{\"commitment\":\"{digest}\"}}")),
        "one challenge per commitment"
    );
    let bad = start("{\"comitment\":1}");
    assert!(
        bad.contains("\"code\":\"malformed\"") && bad.ends_with(" 400"),
        "{bad}"
    );
    let unsigned = succeeded("curl", &curl(&["https://10.77.0.1/v1/enroll/decision"]));
    assert!(
        unsigned.contains("\"code\":\"no-session\"") && unsigned.ends_with(" 401"),
        "{unsigned}"
    );
    let large = "x".repeat(300_000);
    let body = site.folder.path().join("large");
    fs::write(&body, large).unwrap();
    let data = format!("@{}", body.display());
    let refused = succeeded(
        "curl",
        &curl(&[
            "--data-binary",
            &data,
            "https://10.77.0.1/v1/enroll/request",
        ]),
    );
    assert!(refused.ends_with(" 413"), "{refused}");
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let (net, site) = (Net::new(), TestSite::new());
    let first = Appliance::start(&net, &site.dir());
    let other = TestSite::new();
    let mut second = Appliance::spawn(&net, &other.dir());
    let (code, log) = second.end();
    assert_eq!(code, Some(1), "{log}");
    let line = log
        .lines()
        .find(|line| line.starts_with("groundcrew: "))
        .unwrap();
    assert!(
        line.contains("cannot bind") && line.contains("in use"),
        "{line}"
    );
    let mut same_site = Appliance::spawn(&net, &site.dir());
    let (code, log) = same_site.end();
    assert_eq!(code, Some(1));
    assert!(
        log.contains("another groundcrew works on this site"),
        "{log}"
    );
    drop(first);
}

#[test]
fn without_the_right_it_says_so() {
    let (net, site) = (Net::new(), TestSite::new());
    Command::new("chown")
        .args(["-R", "65534:65534"])
        .arg(site.folder.path())
        .status()
        .unwrap();
    // The build folder may be closed to that user.
    let program = site.folder.path().join("groundcrew");
    fs::copy(GROUNDCREW, &program).unwrap();
    let output = net
        .in_server("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&program)
        .args(["serve", "--site"])
        .arg(site.dir())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = text
        .lines()
        .find(|line| line.starts_with("groundcrew: "))
        .unwrap_or_else(|| panic!("{text}"));
    assert!(
        line.contains("not permitted") || line.contains("denied"),
        "{line}"
    );
}

#[test]
fn sigterm_ends_it_in_order() {
    let (net, site) = (Net::new(), TestSite::new());
    let mut appliance = Appliance::start(&net, &site.dir());
    appliance.signal(Signal::SIGTERM);
    let (code, log) = appliance.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopped"), "{log}");
    assert!(!site.dir().join("control.sock").exists());
}

#[test]
fn commands_reach_a_running_appliance() {
    let (net, site) = (Net::new(), TestSite::new());
    let csv = site.folder.path().join("devices.csv");
    fs::write(
        &csv,
        "QEMU,Standard PC,LAB-0001\nQEMU,Standard PC,LAB-0002\n",
    )
    .unwrap();
    let import = |dry: &[&str]| {
        let mut arguments = vec!["device", "import", csv.to_str().unwrap()];
        arguments.extend(dry);
        succeeded("import", &site.groundcrew(&arguments))
    };
    assert!(import(&["--dry-run"]).contains("2 would be registered"));
    let appliance = Appliance::start(&net, &site.dir());
    assert!(import(&[]).contains("2 registered"));
    let list = succeeded("list", &site.groundcrew(&["device", "list", "--json"]));
    let devices: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(devices.as_array().unwrap().len(), 2);
    drop(appliance);
    let after = succeeded("list", &site.groundcrew(&["device", "list", "--json"]));
    assert_eq!(list, after, "the same from the folder alone, after kill -9");
    succeeded("journal", &site.groundcrew(&["journal", "verify"]));
}

/// One host that opens hundreds of connections, asks and then never reads, or
/// never finishes asking, takes nothing from others.
#[test]
fn stalled_peers_take_nothing_from_others() {
    use std::io::Write as _;
    let (net, site) = (Net::new(), TestSite::new());
    std::fs::write(site.dir().join("boot/large.bin"), pattern(64 << 20)).unwrap();
    let mut appliance = Appliance::start(&net, &site.dir());
    net.address_client();
    common::run(
        "ip",
        [
            "-n",
            &net.client,
            "address",
            "add",
            "10.77.0.3/24",
            "dev",
            "dev0",
        ],
    );
    let before = appliance.memory_kib();
    let stalled = net.on_client(|| {
        let mut open = Vec::new();
        for number in 0..600 {
            let Ok(mut stream) = std::net::TcpStream::connect((SERVER, 80)) else {
                continue;
            };
            let request: &[u8] = if number % 2 == 0 {
                b"GET /boot/large.bin HTTP/1.1\r\nHost: a\r\n\r\n"
            } else {
                b"GET /boot/lar"
            };
            let _ = stream.write_all(request);
            open.push(stream);
        }
        open
    });
    assert!(stalled.len() > 128, "the flood was no flood");
    let output = net
        .in_client("curl")
        .args([
            "-s",
            "--interface",
            "10.77.0.3",
            "--max-time",
            "20",
            "-o",
            "/dev/null",
        ])
        .args([
            "-w",
            "%{http_code} %{size_download}",
            "http://10.77.0.1/boot/large.bin",
        ])
        .output()
        .unwrap();
    assert_eq!(succeeded("curl", &output), "200 67108864");
    let after = appliance.memory_kib();
    assert!(
        after < before + 96 * 1024,
        "memory grew from {before} to {after} KiB"
    );
    drop(stalled);
    appliance.signal(Signal::SIGTERM);
    assert_eq!(appliance.end().0, Some(0));
}

#[test]
fn noise_is_dropped_and_service_goes_on() {
    let (net, site) = (Net::new(), TestSite::new());
    let mut appliance = Appliance::start(&net, &site.dir());
    net.address_client();
    let before = appliance.memory_kib();
    net.on_client(|| {
        let socket = UdpSocket::bind("10.77.0.2:0").unwrap();
        let mut noise = 0x9e37_79b9_u32;
        let mut next = || {
            noise ^= noise << 13;
            noise ^= noise >> 17;
            noise ^= noise << 5;
            noise
        };
        for round in 0..20_000u32 {
            let length = (next() % 600) as usize;
            let mut packet: Vec<u8> = (0..length).map(|_| next() as u8).collect();
            let dhcp = round % 2 == 0;
            if dhcp && length > 244 {
                // Close enough to a DISCOVER to get past the first looks; hlen hostile.
                packet[..4].copy_from_slice(&[
                    1,
                    1,
                    if round % 3 == 0 { 6 } else { next() as u8 },
                    0,
                ]);
                packet[236..243].copy_from_slice(&[99, 130, 83, 99, 53, 1, 1]);
            } else if length > 4 {
                packet[..2].copy_from_slice(&[0, (next() % 7) as u8]);
            }
            let to = SocketAddr::from((SERVER, if dhcp { 67 } else { 69 }));
            let _ = socket.send_to(&packet, to);
        }
    });
    let output = net
        .in_client("curl")
        .args([
            "-s",
            "--max-time",
            "10",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "http://10.77.0.1/boot/pattern.bin",
        ])
        .output()
        .unwrap();
    assert_eq!(succeeded("curl", &output), "200");
    assert!(appliance.child.try_wait().unwrap().is_none(), "still there");
    let after = appliance.memory_kib();
    assert!(
        after < before + 16 * 1024,
        "memory grew from {before} to {after} KiB"
    );
    let reply = net.on_client(|| common::dhcp::lease([2, 0, 0, 0, 0, 9], Duration::from_secs(10)));
    assert!(reply.is_some(), "DHCP still answers");
    appliance.signal(Signal::SIGTERM);
    assert_eq!(appliance.end().0, Some(0));
}
