//! A site served in a network namespace of its own, and a client beside it.
//! Needs root and Debian's iproute2; `scripts/setup` installs what else is used.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod dhcp;
pub mod machine;
pub mod switch;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const GROUNDCREW: &str = env!("CARGO_BIN_EXE_groundcrew");

/// Two namespaces joined by a cable: `gc0` (10.77.0.1/24) and `dev0`, no address.
pub struct Net {
    pub server: String,
    pub client: String,
}

impl Net {
    pub fn new() -> Self {
        let net = Self::bare();
        let (s, c) = (&net.server, &net.client);
        for line in [
            format!("-n {s} link add gc0 type veth peer name dev0 netns {c}"),
            format!("-n {s} link set lo up"),
            format!("-n {s} link set gc0 up"),
            format!("-n {c} link set lo up"),
            format!("-n {c} link set dev0 up"),
            format!("-n {s} address add 10.77.0.1/24 dev gc0"),
        ] {
            run("ip", line.split(' '));
        }
        net
    }

    /// The two namespaces, with nothing between them yet.
    pub fn bare() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make network namespaces: run them as root"
        );
        let tag = format!(
            "gct{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let net = Self {
            server: format!("{tag}s"),
            client: format!("{tag}c"),
        };
        for namespace in [&net.server, &net.client] {
            run("ip", ["netns", "add", namespace]);
        }
        net
    }

    pub fn in_server(&self, program: &str) -> Command {
        in_namespace(&self.server, program)
    }

    pub fn in_client(&self, program: &str) -> Command {
        in_namespace(&self.client, program)
    }

    /// Gives the client an address, for tests that do not start with DHCP.
    pub fn address_client(&self) {
        run(
            "ip",
            [
                "-n",
                &self.client,
                "address",
                "add",
                "10.77.0.2/24",
                "dev",
                "dev0",
            ],
        );
    }

    /// Runs `work` on a thread inside the client's namespace.
    pub fn on_client<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = fs::File::open(format!("/run/netns/{}", self.client)).unwrap();
        let thread = std::thread::spawn(move || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in [&self.server, &self.client] {
            let _ = Command::new("ip")
                .args(["netns", "delete", namespace])
                .status();
        }
    }
}

pub fn in_namespace(namespace: &str, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]);
    command
}

pub fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    succeeded(program, &output)
}

pub fn succeeded(what: &str, output: &Output) -> String {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{what} failed:\n{out}{err}");
    out.into_owned()
}

/// udhcpc on a namespace's `dev0`; its last words.
pub fn udhcpc(namespace: &str, folder: &Path, more: &[&str]) -> String {
    let script = folder.join("bound");
    let text = "#!/bin/sh\n[ \"$1\" = bound ] && echo \"bound $ip from $serverid\"\nexit 0\n";
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = in_namespace(namespace, "busybox");
    command
        .args([
            "udhcpc", "-i", "dev0", "-n", "-q", "-f", "-t", "5", "-T", "1",
        ])
        .args(more)
        .arg("-s")
        .arg(&script);
    let output = command.output().unwrap();
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A file as a PXE ROM fetches it: its size first, ended by an ERROR, then in blocks.
pub fn tftp(server: Ipv4Addr, file: &str, block: u16) -> Vec<u8> {
    use std::net::UdpSocket;
    let ask = |option: &str, value: &str| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let mut request = vec![0, 1];
        for word in [file, "octet", option, value] {
            request.extend(word.as_bytes());
            request.push(0);
        }
        socket.send_to(&request, (server, 69)).unwrap();
        let mut answer = [0; 2048];
        let (length, from) = socket.recv_from(&mut answer).unwrap();
        assert_eq!(answer[..2], [0, 6], "an OACK: {:?}", &answer[..length]);
        socket.connect(from).unwrap();
        (
            socket,
            String::from_utf8_lossy(&answer[2..length]).into_owned(),
        )
    };
    let (socket, size) = ask("tsize", "0");
    socket.send(b"\x00\x05\x00\x08User aborted\x00").unwrap();
    let size: usize = size.split('\0').nth(1).unwrap().parse().unwrap();
    let (socket, _) = ask("blksize", &block.to_string());
    let (mut bytes, mut buffer, mut number) = (Vec::new(), [0; 2048], 0u16);
    loop {
        let [high, low] = number.to_be_bytes();
        socket.send(&[0, 4, high, low]).unwrap();
        let length = socket.recv(&mut buffer).unwrap();
        number += 1;
        assert_eq!(buffer[..2], [0, 3]);
        assert_eq!(buffer[2..4], number.to_be_bytes());
        bytes.extend(&buffer[4..length]);
        if length < usize::from(block) + 4 {
            let [high, low] = number.to_be_bytes();
            socket.send(&[0, 4, high, low]).unwrap();
            assert_eq!(bytes.len(), size);
            return bytes;
        }
    }
}

/// A fresh HQ and site, with a boot file whose bytes are known.
pub struct TestSite {
    pub folder: tempfile::TempDir,
}

impl TestSite {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("gc");
        let output = Command::new(GROUNDCREW)
            .arg("init")
            .arg(&dir)
            .args([
                "--org",
                "Test",
                "--address",
                "10.77.0.1/24",
                "--interface",
                "gc0",
                "--mode",
                "authoritative",
            ])
            .output()
            .unwrap();
        succeeded("init", &output);
        let site = Self { folder };
        fs::write(site.dir().join("boot/pattern.bin"), pattern(1_234_567)).unwrap();
        site
    }

    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("gc/site")
    }

    pub fn hq(&self) -> PathBuf {
        self.folder.path().join("gc/hq")
    }

    pub fn edit_settings(&self, from: &str, to: &str) {
        let path = self.dir().join("site.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "site.toml has no {from:?}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    }

    /// Builds the sample bundle and publishes it, so that devices can be granted something.
    pub fn publish_welcome(&self) {
        let (source, out) = (
            self.dir().join("sources/welcome"),
            self.folder.path().join("welcome"),
        );
        let mut build = Command::new(GROUNDCREW);
        build
            .args(["bundle", "build"])
            .arg(source)
            .arg("--out")
            .arg(&out);
        succeeded("bundle build", &build.output().unwrap());
        let (out, hq) = (out.display().to_string(), self.hq().display().to_string());
        succeeded(
            "bundle publish",
            &self.groundcrew(&["bundle", "publish", &out, "--hq", &hq]),
        );
    }

    pub fn groundcrew(&self, arguments: &[&str]) -> Output {
        Command::new(GROUNDCREW)
            .args(arguments)
            .arg("--site")
            .arg(self.dir())
            .output()
            .unwrap()
    }
}

/// Bytes that differ from place to place.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// The environment of a process whose clock says `clock`.
pub fn at_clock(clock: &str) -> [(&'static str, String); 3] {
    let library = fs::read_dir("/usr/lib")
        .unwrap()
        .flatten()
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
        .expect("faketime is missing: apt-get install faketime");
    [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", clock.to_owned()),
        // Timers run by the other clock, as on a real machine.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

/// `groundcrew serve`, running.
pub struct Appliance {
    pub child: Child,
    log: mpsc::Receiver<String>,
    pub seen: Vec<String>,
}

impl Appliance {
    /// Starts it and returns when it says that it is ready.
    pub fn start(net: &Net, site: &Path) -> Self {
        let mut appliance = Self::spawn(net, site);
        appliance.wait_for("ready: ");
        appliance
    }

    pub fn spawn(net: &Net, site: &Path) -> Self {
        Self::spawn_by(net.in_server(GROUNDCREW), site)
    }

    /// Starts it on a machine whose clock says something else, such as
    /// `@1970-01-02 00:00:00` or `+300d` (Debian's faketime, in the process only).
    pub fn spawn_at(net: &Net, site: &Path, clock: &str) -> Self {
        let mut command = net.in_server(GROUNDCREW);
        for (name, value) in at_clock(clock) {
            command.env(name, value);
        }
        Self::spawn_by(command, site)
    }

    fn spawn_by(mut command: Command, site: &Path) -> Self {
        let mut child = command
            .args(["serve", "--site"])
            .arg(site)
            .env("RUST_LOG", "groundcrew=debug,info")
            .env_remove("JOURNAL_STREAM")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            log,
            seen: Vec::new(),
        }
    }

    /// Waits for a log line that holds `text`.
    pub fn wait_for(&mut self, text: &str) -> String {
        self.wait_long(text, Duration::from_secs(20))
    }

    /// The same for what takes longer than `patience` between two lines.
    pub fn wait_long(&mut self, text: &str, patience: Duration) -> String {
        loop {
            match self.log.recv_timeout(patience) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!(
                    "no {text:?} in the log ({error}):\n{}",
                    self.seen.join("\n")
                ),
            }
        }
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        // `ip netns exec` replaces itself, so the child is the appliance.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Waits for the end; the exit code and the rest of the log.
    pub fn end(&mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        while let Ok(line) = self.log.recv_timeout(Duration::from_secs(5)) {
            self.seen.push(line);
        }
        (status.code(), self.seen.join("\n"))
    }

    /// Resident memory in KiB.
    pub fn memory_kib(&self) -> u64 {
        let mut text = String::new();
        fs::File::open(format!("/proc/{}/status", self.child.id()))
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
