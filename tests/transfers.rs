//! Boot files on the wire: other people's TFTP and HTTP clients, texts made
//! for one device, and what a technician sees of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on ends"
)]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::{Appliance, Net, SERVER, TestSite, pattern, succeeded};

const SIZE: usize = 1_234_567;

struct Ready {
    net: Net,
    site: TestSite,
    appliance: Appliance,
}

fn ready() -> Ready {
    let (net, site) = (Net::new(), TestSite::new());
    let appliance = Appliance::start(&net, &site.dir());
    net.address_client();
    Ready {
        net,
        site,
        appliance,
    }
}

impl Ready {
    fn work(&self, name: &str) -> PathBuf {
        self.site.folder.path().join(name)
    }

    /// curl: the status line and fields, and the content.
    fn curl(&self, arguments: &[&str]) -> (String, Vec<u8>) {
        let (fields, content) = (self.work("fields"), self.work("content"));
        fs::write(&content, "").unwrap();
        let mut command = self.net.in_client("curl");
        command.args(["-sS", "--path-as-is", "--max-time", "20", "-D"]);
        command.arg(&fields).arg("-o").arg(&content).args(arguments);
        succeeded("curl", &command.output().unwrap());
        let fields = fs::read_to_string(&fields).unwrap().to_lowercase();
        (fields, fs::read(&content).unwrap())
    }

    fn net_show(&self, more: &[&str]) -> String {
        let arguments = [&["net", "show"], more].concat();
        succeeded("net show", &self.site.groundcrew(&arguments))
    }
}

#[test]
fn http_as_loaders_and_proxies_expect_it() {
    let ready = ready();
    let url = "http://10.77.0.1/boot/pattern.bin";
    let all = pattern(SIZE);

    let (fields, content) = ready.curl(&["--compressed", url]);
    assert!(fields.starts_with("http/1.1 200 ok"), "{fields}");
    assert!(
        fields.contains("\r\ncontent-length: 1234567\r\n"),
        "{fields}"
    );
    assert!(fields.contains("\r\naccept-ranges: bytes\r\n"), "{fields}");
    assert!(!fields.contains("content-encoding"), "{fields}");
    assert_eq!(content, all);
    let etag = fields.split("\r\netag: ").nth(1).unwrap();
    let etag = etag.split("\r\n").next().unwrap().to_owned();

    let (fields, content) = ready.curl(&["-I", url]);
    assert!(fields.starts_with("http/1.1 200"), "{fields}");
    assert!(fields.contains("\r\ncontent-length: 1234567\r\n") && !content.ends_with(&[all[9]]));

    for tags in [etag.clone(), format!("\"x\", W/{etag}"), "*".to_owned()] {
        let (fields, content) = ready.curl(&["-H", &format!("If-None-Match: {tags}"), url]);
        assert!(fields.starts_with("http/1.1 304"), "{tags}: {fields}");
        assert!(fields.contains(&etag) && content.is_empty(), "{fields}");
    }
    let (fields, _) = ready.curl(&["-H", "If-None-Match: \"x\"", url]);
    assert!(fields.starts_with("http/1.1 200"), "{fields}");

    for (range, first, last) in [
        ("0-0", 0, 0),
        ("1000000-", 1_000_000, SIZE - 1),
        ("-10", SIZE - 10, SIZE - 1),
        ("5-99999999", 5, SIZE - 1),
    ] {
        let (fields, content) = ready.curl(&["-r", range, url]);
        assert!(fields.starts_with("http/1.1 206"), "{range}: {fields}");
        let says = format!("content-range: bytes {first}-{last}/{SIZE}\r\n");
        assert!(fields.contains(&says), "{range}: {fields}");
        assert_eq!(content, &all[first..=last], "{range}");
    }
    let (fields, _) = ready.curl(&["-r", "1234567-", url]);
    assert!(fields.starts_with("http/1.1 416"), "{fields}");
    assert!(
        fields.contains("content-range: bytes */1234567\r\n"),
        "{fields}"
    );
    let (fields, content) = ready.curl(&["-r", "0-3", "-H", "If-Range: \"old\"", url]);
    assert!(
        fields.starts_with("http/1.1 200") && content == all,
        "{fields}"
    );

    let doubled = "http://10.77.0.1//boot//pattern.bin";
    assert_eq!(ready.curl(&[doubled]).1, all, "shim doubles slashes");
    for (target, status) in [
        ("/boot/none", "404"),
        ("/boot/../site.toml", "400"),
        ("/boot/%2e%2e/site.toml", "400"),
        ("/", "307"),
        ("/other", "404"),
        ("/ipxe", "400"),
    ] {
        let (fields, _) = ready.curl(&[&format!("http://10.77.0.1{target}")]);
        assert!(
            fields.starts_with(&format!("http/1.1 {status}")),
            "{target}: {fields}"
        );
    }
    let (fields, _) = ready.curl(&["--data", "x", url]);
    assert!(fields.starts_with("http/1.1 413"), "{fields}");
    let (fields, _) = ready.curl(&["-X", "DELETE", url]);
    assert!(fields.starts_with("http/1.1 405"), "{fields}");

    // One connection for three answers.
    let mut command = ready.net.in_client("curl");
    let discard = ["-o", "/dev/null", "-o", "/dev/null", "-o", "/dev/null"];
    command
        .args(["-sS", "-w", "%{num_connects} "])
        .args(discard);
    let text = command.args([url, "http://10.77.0.1/boot.ipxe", url]);
    assert_eq!(succeeded("curl", &text.output().unwrap()).trim(), "1 0 0");
}

/// One request written byte by byte; all that comes back.
fn raw(net: &Net, request: &'static [u8], whole: bool) -> String {
    net.on_client(move || {
        let mut stream = TcpStream::connect((SERVER, 80)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream.set_nodelay(true).unwrap();
        if whole {
            stream.write_all(request).unwrap();
        } else {
            for byte in request {
                stream.write_all(&[*byte]).unwrap();
            }
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    })
}

#[test]
fn http_takes_requests_apart_and_together_and_refuses_the_rest() {
    let ready = ready();
    let net = &ready.net;
    fs::write(ready.site.dir().join("boot/small"), "small").unwrap();

    let text = raw(net, b"GET /boot/small HTTP/1.0\r\n\r\n", false);
    assert!(
        text.contains("connection: close\r\n") && text.ends_with("\r\n\r\nsmall"),
        "{text}"
    );
    let two = b"GET /boot/small HTTP/1.1\r\nHost: a\r\n\r\nHEAD /boot/small HTTP/1.1\r\n\r\n\
        GET /boot/small HTTP/1.1\r\nConnection: close\r\n\r\n";
    let text = raw(net, two, true);
    assert_eq!(text.matches("HTTP/1.1 200").count(), 3, "{text}");
    assert_eq!(text.matches("\r\n\r\nsmall").count(), 2, "{text}");
    let text = raw(net, b"GET /boot/small HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\nGET /boot/small HTTP/1.0\r\n\r\n", true);
    assert_eq!(
        text.matches("connection: keep-alive\r\n").count(),
        1,
        "{text}"
    );
    assert_eq!(text.matches("\r\n\r\nsmall").count(), 2, "{text}");

    let smuggled = b"POST /boot/small HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /boot/small HTTP/1.1\r\n\r\n";
    let text = raw(net, smuggled, true);
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    assert_eq!(text.matches("HTTP/1.1").count(), 1, "{text}");
    let text = raw(net, b"\x16\x03\x01\x02\x00\x01 no request\r\n\r\n", true);
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
    let long: &'static [u8] = Box::leak(
        format!("GET /{} HTTP/1.1\r\n", "a".repeat(20_000))
            .into_bytes()
            .into_boxed_slice(),
    );
    let text = raw(net, long, true);
    assert!(
        text.is_empty() || text.starts_with("HTTP/1.1 431"),
        "{text}"
    );
}

#[test]
fn a_file_replaced_under_its_name_is_sent_as_it_was() {
    let ready = ready();
    let file = ready.site.dir().join("boot/large");
    let old = vec![7; 24 << 20];
    fs::write(&file, &old).unwrap();
    let replace = file.clone();
    let got = ready.net.on_client(move || {
        let mut stream = TcpStream::connect((SERVER, 80)).unwrap();
        let request = b"GET /boot/large HTTP/1.1\r\nConnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut first = vec![0; 1000];
        stream.read_exact(&mut first).unwrap();
        let new = replace.with_extension("new");
        fs::write(&new, vec![9; 1000]).unwrap();
        fs::rename(&new, &replace).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        first.extend(rest);
        first
    });
    let start = got.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    assert!(got[start..] == old[..], "{} bytes", got.len() - start);
}

#[test]
fn tftp_clients_of_other_people_get_the_file() {
    let ready = ready();
    let all = pattern(SIZE);
    let got = ready.work("got");
    let to = got.to_str().unwrap().to_owned();
    let run = |program: &str, arguments: &[&str]| {
        let _ = fs::remove_file(&got);
        let mut command = ready.net.in_client("timeout");
        let output = command.args(["60", program]).args(arguments).output();
        succeeded(program, &output.unwrap());
        assert!(fs::read(&got).unwrap() == all, "{program} {arguments:?}");
    };
    run(
        "tftp",
        &["-m", "binary", "10.77.0.1", "-c", "get", "pattern.bin", &to],
    );
    for option in ["blksize 512", "blksize 1428", "windowsize 8", "timeout 2"] {
        let more = ["-g", "-r", "pattern.bin", "-l", &to, "10.77.0.1"];
        run("atftp", &[&["--option", option][..], &more].concat());
    }
    for block in ["512", "1024", "1468"] {
        run(
            "busybox",
            &[
                "tftp",
                "-g",
                "-b",
                block,
                "-l",
                &to,
                "-r",
                "pattern.bin",
                "10.77.0.1",
            ],
        );
    }
    for url in [
        "tftp://10.77.0.1/pattern.bin",
        "tftp://10.77.0.1//pattern.bin",
    ] {
        run("curl", &["-sS", "-o", &to, url]);
        run("curl", &["-sS", "--tftp-no-options", "-o", &to, url]);
    }
    let shown = ready.net_show(&[]);
    assert!(
        shown.contains("TFTP pattern.bin to 10.77.0.2: sent "),
        "{shown}"
    );
}

/// Every block of a file, from a client that asks for no options.
fn tftp_get(net: &Net, name: &'static str) -> Result<String, String> {
    net.on_client(move || {
        let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let request = [b"\0\x01", name.as_bytes(), b"\0octet\0"].concat();
        socket.send_to(&request, (SERVER, 69)).unwrap();
        let (mut text, mut packet) = (Vec::new(), [0; 1500]);
        loop {
            let (length, peer) = socket.recv_from(&mut packet).unwrap();
            if packet[1] == 5 {
                return Err(String::from_utf8_lossy(&packet[4..length]).into_owned());
            }
            text.extend(&packet[4..length]);
            socket.send_to(&[0, 4, packet[2], packet[3]], peer).unwrap();
            if length < 516 {
                return Ok(String::from_utf8(text).unwrap());
            }
        }
    })
}

#[test]
fn loaders_get_texts_made_for_their_device() {
    let mut ready = ready();
    let get = |name| tftp_get(&ready.net, name);
    let grub = get("grub/grub.cfg-01-52-54-00-77-00-01").unwrap();
    assert!(
        grub.contains("if linux '(tftp,10.77.0.1)/vmlinuz' gc.server=10.77.0.1"),
        "{grub}"
    );
    assert!(grub.contains("this device is 52:54:00:77:00:01"), "{grub}");
    let pxelinux = get("pxelinux.cfg/01-52-54-00-77-00-01").unwrap();
    assert!(pxelinux.contains("  LINUX ::vmlinuz\n"), "{pxelinux}");
    assert!(get("autoexec.ipxe").unwrap().starts_with("#!ipxe\n"));
    assert!(
        get("pxelinux.cfg/0A4D0002").is_err(),
        "the next name is asked for"
    );
    let file = ready.site.dir().join("boot/grub.cfg");
    fs::write(file, "set mine=1\n").unwrap();
    assert_eq!(
        get("grub.cfg").unwrap(),
        "set mine=1\n",
        "a file goes first"
    );
    ready.appliance.wait_for("boot text: load the agent");
    if Command::new("grub-script-check")
        .arg("--version")
        .output()
        .is_ok()
    {
        let path = ready.work("grub.cfg");
        fs::write(&path, &grub).unwrap();
        let checked = Command::new("grub-script-check").arg(&path).output();
        succeeded("grub-script-check", &checked.unwrap());
    } else {
        panic!("grub-script-check is missing: scripts/setup installs grub-common");
    }
}

#[test]
fn net_show_tells_who_gets_what_while_it_is_sent() {
    let mut ready = ready();
    fs::write(ready.site.dir().join("boot/large"), vec![1; 24 << 20]).unwrap();
    // A lease, so that the address has a name.
    let leased = ready
        .net
        .on_client(|| common::dhcp::lease([2, 0, 0, 0, 0, 33], Duration::from_secs(10)));
    let own = format!(
        "-n {} address add {}/24 dev dev0",
        ready.net.client,
        leased.unwrap()
    );
    common::run("ip", own.split(' '));
    let own = leased.unwrap();

    let (stream, tftp) = ready.net.on_client(move || {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket
            .bind(&std::net::SocketAddrV4::new(own, 0).into())
            .unwrap();
        socket
            .connect(&std::net::SocketAddrV4::new(SERVER, 80).into())
            .unwrap();
        let mut stream = TcpStream::from(socket);
        stream
            .write_all(b"GET /boot/large HTTP/1.1\r\n\r\n")
            .unwrap();
        stream.read_exact(&mut [0; 1000]).unwrap();
        // A transfer that got its first block and says nothing more.
        let tftp = UdpSocket::bind((std::net::Ipv4Addr::new(10, 77, 0, 2), 0)).unwrap();
        tftp.send_to(b"\0\x01large\0octet\0", (SERVER, 69)).unwrap();
        tftp.recv_from(&mut [0; 600]).unwrap();
        (stream, tftp)
    });
    let json: serde_json::Value = serde_json::from_str(&ready.net_show(&["--json"])).unwrap();
    let running = json["transfers"]["running"].as_array().unwrap();
    assert_eq!(running.len(), 2, "{json}");
    let of = |protocol: &str| running.iter().find(|t| t["protocol"] == protocol).unwrap();
    let http = of("http");
    assert_eq!(
        (http["file"].as_str(), http["total"].as_u64()),
        (Some("large"), Some(24 << 20))
    );
    assert_eq!(http["mac"], "02:00:00:00:00:21", "by its lease");
    assert!(http["bytes"].as_u64().unwrap() > 1000, "{http}");
    assert_eq!(
        (of("tftp")["bytes"].as_u64(), &of("tftp")["mac"]),
        (Some(0), &serde_json::Value::Null)
    );
    let text = ready.net_show(&[]);
    assert!(text.contains("2 on their way, 0 sent, 0 failed"), "{text}");
    assert!(text.contains("(02:00:00:00:00:21): "), "{text}");

    // The peer of one goes away, the other says that it cannot go on.
    drop(stream);
    ready.appliance.wait_for("connection ended");
    ready.net.on_client(move || {
        let mut packet = [0; 600];
        // The retransmission shows where the transfer lives.
        let (_, peer) = tftp.recv_from(&mut packet).unwrap();
        tftp.send_to(&[0, 4, 0, 1], peer).unwrap();
        tftp.recv_from(&mut packet).unwrap();
        tftp.send_to(b"\0\x05\0\x03full\0", peer).unwrap();
    });
    ready.appliance.wait_for("TFTP ended by the peer: 3 full");
    let text = ready.net_show(&[]);
    assert!(text.contains("0 on their way, 0 sent, 2 failed"), "{text}");
    assert!(text.contains("the peer: 3 full"), "{text}");
}
