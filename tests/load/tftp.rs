//! A TFTP client for measuring: many transfers at once, windows (RFC 7440),
//! every byte compared. `scripts/bench tftp` builds and runs it.
//!
//! usage: tftp-load SERVER:PORT LOCAL-COPY REMOTE-NAME BLKSIZE WINDOW CLIENTS TIMEOUT-MS

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A transfer that hears nothing so often in a row has failed.
const PATIENCE: u32 = 8;

struct Plan {
    server: SocketAddr,
    content: Vec<u8>,
    name: String,
    block: usize,
    window: u16,
    timeout: Duration,
}

#[derive(Default)]
struct Outcome {
    window: u16,
    timeouts: u32,
    ok: bool,
}

fn main() -> Result<(), Error> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [server, file, name, block, window, clients, timeout] = words.as_slice() else {
        return Err(
            "usage: tftp-load SERVER:PORT LOCAL-COPY REMOTE-NAME BLKSIZE WINDOW CLIENTS TIMEOUT-MS"
                .into(),
        );
    };
    let plan = Arc::new(Plan {
        server: server.parse()?,
        content: std::fs::read(file)?,
        name: name.clone(),
        block: block.parse()?,
        window: window.parse()?,
        timeout: Duration::from_millis(timeout.parse()?),
    });
    let clients: usize = clients.parse()?;
    let began = Instant::now();
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let plan = Arc::clone(&plan);
            std::thread::Builder::new()
                .stack_size(256 * 1024)
                .spawn(move || fetch(&plan))
        })
        .collect::<Result<_, _>>()?;
    let (mut failed, mut timeouts, mut window, mut first_error) = (0, 0, 0, String::new());
    for thread in threads {
        match thread.join() {
            Ok(Ok(outcome)) => {
                timeouts += outcome.timeouts;
                window = outcome.window;
                failed += usize::from(!outcome.ok);
            }
            Ok(Err(error)) => {
                failed += 1;
                first_error = error.to_string();
            }
            Err(_) => failed += 1,
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let bytes = (clients - failed) * plan.content.len();
    let mb_s = bytes as f64 / 1e6 / seconds;
    let error: String = first_error
        .chars()
        .filter(|c| *c != '"' && *c != '\\')
        .collect();
    println!(
        "{{\"mb_s\":{mb_s:.2},\"seconds\":{seconds:.4},\"failed\":{failed},\"timeouts\":{timeouts},\"window\":{window},\"error\":\"{error}\"}}"
    );
    Ok(())
}

fn fetch(plan: &Plan) -> Result<Outcome, Error> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(plan.timeout))?;
    let mut request = [b"\0\x01", plan.name.as_bytes(), b"\0octet\0"].concat();
    request.extend(format!("blksize\0{}\0", plan.block).bytes());
    if plan.window > 1 {
        request.extend(format!("windowsize\0{}\0", plan.window).bytes());
    }
    let mut outcome = Outcome {
        window: 1,
        ..Outcome::default()
    };
    // The last packet sent, repeated where nothing is heard; the peer's port is
    // known with its first answer.
    let (mut last, mut peer) = (request, None::<SocketAddr>);
    let (mut arrived, mut at, mut unacked, mut silent) = (0u64, 0usize, 0u16, 0);
    let mut block = 512;
    let mut gap_told = false;
    let mut buffer = vec![0; 70_000];
    socket.send_to(&last, plan.server)?;
    loop {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(_) => {
                silent += 1;
                outcome.timeouts += 1;
                if silent > PATIENCE {
                    return Ok(outcome);
                }
                (unacked, gap_told) = (0, false);
                socket.send_to(&last, peer.unwrap_or(plan.server))?;
                continue;
            }
        };
        if *peer.get_or_insert(from) != from {
            continue;
        }
        match buffer.get(..length).unwrap_or_default() {
            [0, 5, _, _, text @ ..] => return Err(String::from_utf8_lossy(text).into()),
            [0, 6, options @ ..] if arrived == 0 => {
                let mut words = options.split(|b| *b == 0).map(String::from_utf8_lossy);
                while let (Some(name), Some(value)) = (words.next(), words.next()) {
                    match name.to_ascii_lowercase().as_str() {
                        "blksize" => block = value.parse()?,
                        "windowsize" => outcome.window = value.parse()?,
                        _ => {}
                    }
                }
                last = vec![0, 4, 0, 0];
                socket.send_to(&last, from)?;
            }
            [0, 3, high, low, data @ ..] => {
                let number = u16::from_be_bytes([*high, *low]);
                let expected = (arrived + 1) as u16;
                if number != expected {
                    // Behind a gap: say once what has arrived, so that the window is sent anew.
                    let ahead = number.wrapping_sub(expected) < 0x8000;
                    if ahead && outcome.window > 1 && !gap_told {
                        gap_told = true;
                        unacked = 0;
                        last = ack(arrived);
                        socket.send_to(&last, from)?;
                    }
                    continue;
                }
                if plan.content.get(at..at + data.len()) != Some(data) {
                    return Err("the bytes are not those of the file".into());
                }
                at += data.len();
                arrived += 1;
                (silent, gap_told) = (0, false);
                unacked += 1;
                let end = data.len() < block;
                if end || unacked >= outcome.window {
                    unacked = 0;
                    last = ack(arrived);
                    socket.send_to(&last, from)?;
                }
                if end {
                    outcome.ok = at == plan.content.len();
                    return Ok(outcome);
                }
            }
            _ => {}
        }
        // A timeout repeats what has arrived by now, not the ACK before it.
        if arrived > 0 {
            last = ack(arrived);
        }
    }
}

fn ack(block: u64) -> Vec<u8> {
    [&[0, 4][..], &(block as u16).to_be_bytes()].concat()
}
