//! One appliance on several networks: each has its own mode, pool and address,
//! and an interface that `site.toml` does not name gets nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on ends"
)]

mod common;

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

use common::{Appliance, Net, TestSite, in_namespace, run, succeeded, udhcpc};

const SECOND: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// The appliance's namespace with three cables: `gc0` and `gc1` are served, `gc2`
/// is not. At the end of each is a namespace with its own `dev0`.
struct Cables {
    net: Net,
    second: String,
    unnamed: String,
}

impl Cables {
    fn new() -> Self {
        let net = Net::new();
        let server = net.server.clone();
        let cable = |end: &str, interface: &str, address: &str| {
            let peer = format!("{server}{end}");
            for line in [
                format!("netns add {peer}"),
                format!("-n {server} link add {interface} type veth peer name dev0 netns {peer}"),
                format!("-n {server} link set {interface} up"),
                format!("-n {server} address add {address} dev {interface}"),
                format!("-n {peer} link set lo up"),
                format!("-n {peer} link set dev0 up"),
            ] {
                run("ip", line.split(' '));
            }
            peer
        };
        Self {
            second: cable("b", "gc1", "10.99.0.1/24"),
            unnamed: cable("u", "gc2", "10.55.0.1/24"),
            net,
        }
    }
}

impl Drop for Cables {
    fn drop(&mut self) {
        for namespace in [&self.second, &self.unnamed] {
            let _ = std::process::Command::new("ip")
                .args(["netns", "delete", namespace])
                .status();
        }
    }
}

/// A site on `gc0`, and on `gc1` with this mode.
fn site(second: &str) -> TestSite {
    let site = TestSite::new();
    let more = format!(
        "[[network]]\ninterface = \"gc1\"\naddress = \"10.99.0.1/24\"\n{second}\n\n[ports]"
    );
    site.edit_settings("[ports]", &more);
    site
}

/// Runs `work` on a thread inside a namespace.
fn inside<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    let thread = std::thread::spawn(move || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        work()
    });
    thread.join().unwrap()
}

/// The boot script as a device gets it from `server`.
fn script(server: Ipv4Addr) -> std::io::Result<String> {
    use std::io::{Read as _, Write as _};
    let to = SocketAddrV4::new(server, 80).into();
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET /boot.ipxe HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn each_network_has_its_own_pool_and_boot_server() {
    let (cables, site) = (
        Cables::new(),
        site("mode = \"authoritative\"\npool = \"10.99.0.50-10.99.0.60\""),
    );
    let _appliance = Appliance::start(&cables.net, &site.dir());
    let folder = site.folder.path();
    let text = udhcpc(&cables.net.client, folder, &[]);
    assert!(text.contains("bound 10.77.0.128 from 10.77.0.1"), "{text}");
    let text = udhcpc(&cables.second, folder, &[]);
    assert!(text.contains("bound 10.99.0.50 from 10.99.0.1"), "{text}");

    // What a device boots comes from the address it can reach.
    for (namespace, own, server) in [
        (&cables.net.client, "10.77.0.128/24", common::SERVER),
        (&cables.second, "10.99.0.50/24", SECOND),
    ] {
        let line = format!("-n {namespace} address add {own} dev dev0");
        run("ip", line.split(' '));
        let text = inside(namespace, move || script(server)).unwrap();
        assert!(text.contains(&format!("http://{server}")), "{text}");
    }

    let leases = succeeded("lease list", &site.groundcrew(&["lease", "list", "--json"]));
    let leases: serde_json::Value = serde_json::from_str(&leases).unwrap();
    let on: Vec<_> = leases
        .as_array()
        .unwrap()
        .iter()
        .map(|lease| {
            (
                lease["ip"].as_str().unwrap(),
                lease["interface"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(on, [("10.77.0.128", "gc0"), ("10.99.0.50", "gc1")]);
    let shown = succeeded("net show", &site.groundcrew(&["net", "show"]));
    assert!(
        shown.contains("gc0 (10.77.0.1/24): DHCP mode authoritative"),
        "{shown}"
    );
    assert!(
        shown.contains("gc1 (10.99.0.1/24): DHCP mode authoritative"),
        "{shown}"
    );
    assert!(
        shown.contains("10.99.0.0/255.255.255.0: 1 of 11"),
        "{shown}"
    );
    let said = succeeded(
        "release",
        &site.groundcrew(&["lease", "release", "10.99.0.50"]),
    );
    assert!(said.contains("is free"), "{said}");
}

#[test]
fn the_status_page_is_open_at_each_network_s_address_and_nowhere_else() {
    let (cables, site) = (Cables::new(), site("mode = \"off\""));
    let _appliance = Appliance::start(&cables.net, &site.dir());
    let said = succeeded("page code", &site.groundcrew(&["page", "code"]));
    for line in ["https://10.77.0.1/", "on gc1       https://10.99.0.1/"] {
        assert!(said.contains(line), "{said}");
    }
    assert!(
        said.lines().all(|line| line.chars().count() <= 80),
        "{said}"
    );
    let json = succeeded("page code", &site.groundcrew(&["page", "code", "--json"]));
    let page: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(page["further"][0]["url"], "https://10.99.0.1/");
    let code = format!("code={}", page["code"].as_str().unwrap());
    let curl = |namespace: &str, url: &str| {
        let mut curl = in_namespace(namespace, "curl");
        curl.args(["-s", "-k", "-i", "--max-time", "5", "-d", "name=desk"]);
        let output = curl.args(["-d", &code, &format!("{url}login")]).output();
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
    };
    for (namespace, own) in [
        (&cables.net.client, "10.77.0.2/24"),
        (&cables.second, "10.99.0.2/24"),
        (&cables.unnamed, "10.55.0.2/24"),
    ] {
        run(
            "ip",
            format!("-n {namespace} address add {own} dev dev0").split(' '),
        );
    }
    // One code opens the page from both networks, each at its own address.
    for (namespace, url) in [
        (&cables.net.client, "https://10.77.0.1/"),
        (&cables.second, "https://10.99.0.1/"),
    ] {
        let answer = curl(namespace, url);
        assert!(answer.starts_with("HTTP/1.1 303"), "{url}: {answer}");
        assert!(answer.contains("__Host-groundcrew="), "{answer}");
    }
    assert_eq!(curl(&cables.unnamed, "https://10.55.0.1/"), "");
}

#[test]
fn an_interface_that_is_not_named_gets_nothing() {
    let (cables, site) = (Cables::new(), site("mode = \"authoritative\""));
    let _appliance = Appliance::start(&cables.net, &site.dir());
    let text = udhcpc(&cables.unnamed, site.folder.path(), &["-t", "2"]);
    assert!(!text.contains("bound 10."), "{text}");
    // The kernel would take packets for 10.77.0.1 by any cable.
    for line in [
        format!("-n {} address add 10.55.0.2/24 dev dev0", cables.unnamed),
        format!("-n {} route add default via 10.55.0.1", cables.unnamed),
    ] {
        run("ip", line.split(' '));
    }
    let _plain = inside(&cables.net.server, || {
        std::net::TcpListener::bind((common::SERVER, 8099)).unwrap()
    });
    let reached = inside(&cables.unnamed, || {
        let to = SocketAddrV4::new(common::SERVER, 8099).into();
        TcpStream::connect_timeout(&to, Duration::from_secs(5)).map(drop)
    });
    reached.expect("a listener that is kept to no interface is reached: else this proves nothing");
    let (http, tftp) = inside(&cables.unnamed, || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let to = SocketAddrV4::new(common::SERVER, 69);
        socket
            .send_to(b"\x00\x01pattern.bin\x00octet\x00", to)
            .unwrap();
        (script(common::SERVER), socket.recv(&mut [0; 600]))
    });
    assert!(http.is_err(), "{http:?}");
    assert!(tftp.is_err(), "{tftp:?}");
}

/// Takes a minute: `auto` waits 45 s before it believes to be alone.
#[test]
fn auto_takes_one_network_and_yields_it_while_the_other_goes_on() {
    if std::env::var_os("GROUNDCREW_FULL").is_none() {
        eprintln!("left out: it waits 45 s; GROUNDCREW_FULL=1 runs it");
        return;
    }
    let cables = Cables::new();
    let site = site("mode = \"auto\"\nserve_if_alone = true\npool = \"10.99.0.50-10.99.0.60\"");
    let mut appliance = Appliance::start(&cables.net, &site.dir());
    let folder = site.folder.path();
    let roles = || {
        let shown = succeeded("net show", &site.groundcrew(&["net", "show", "--json"]));
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let interfaces = shown["interfaces"].as_array().unwrap().clone();
        interfaces
            .iter()
            .map(|interface| interface["role"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let silent = udhcpc(&cables.second, folder, &["-t", "2"]);
    assert!(!silent.contains("bound 10."), "{silent}");
    assert_eq!(roles(), ["authoritative", "listening"]);
    appliance.wait_long(
        "no other DHCP server answered for 45 s",
        Duration::from_secs(60),
    );
    let text = udhcpc(&cables.second, folder, &[]);
    assert!(text.contains("bound 10.99.0.50 from 10.99.0.1"), "{text}");

    // Somebody plugs a server in.
    let line = format!("-n {} address add 10.99.0.2/24 dev dev0", cables.second);
    run("ip", line.split(' '));
    let mut other = in_namespace(&cables.second, "dnsmasq")
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0"])
        .args(["--interface=dev0", "--bind-interfaces", "--no-ping"])
        .args(["--dhcp-range=10.99.0.70,10.99.0.90,255.255.255.0,10m"])
        .args(["--dhcp-leasefile=/dev/null", "--user=root", "--pid-file"])
        .args(["--dhcp-authoritative", "--log-facility=-"])
        .spawn()
        .unwrap();
    appliance.wait_long("GIVES NO MORE ADDRESSES", Duration::from_secs(60));
    assert_eq!(roles(), ["authoritative", "proxy"]);
    let text = udhcpc(&cables.net.client, folder, &[]);
    assert!(text.contains("from 10.77.0.1"), "{text}");
    let _ = other.kill();
    let _ = other.wait();
}
