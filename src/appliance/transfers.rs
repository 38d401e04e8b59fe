//! Files on their way to devices: what runs now, and how the last ones ended.
//! TFTP and HTTP write here, `net show` reads.
//!
//! Memory: one small entry for each running transfer, of which sockets allow a
//! bounded number, and [`KEPT`] of those that ended well and ended badly.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How many ended transfers are remembered of each kind.
const KEPT: usize = 16;

/// How a file travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Port 69.
    Tftp,
    /// The plain HTTP port.
    Http,
}

/// Every transfer of this process. Clones share it.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    next: u64,
    running: BTreeMap<u64, Arc<Transfer>>,
    done: VecDeque<Ended>,
    failed: VecDeque<Ended>,
    totals: TotalsView,
}

struct Transfer {
    protocol: Protocol,
    peer: SocketAddr,
    file: String,
    total: u64,
    began: Instant,
    bytes: AtomicU64,
    repeats: AtomicU32,
}

struct Ended {
    transfer: Arc<Transfer>,
    lasted: Duration,
    at: Instant,
    reason: Option<String>,
}

/// A running transfer's own entry. Dropped without an end, it counts as cut off.
pub struct Ticket {
    board: Board,
    number: u64,
    transfer: Arc<Transfer>,
}

impl Board {
    /// A transfer of `total` bytes begins.
    pub fn begin(&self, protocol: Protocol, peer: SocketAddr, file: &str, total: u64) -> Ticket {
        let transfer = Arc::new(Transfer {
            protocol,
            peer,
            file: file.to_owned(),
            total,
            began: Instant::now(),
            bytes: AtomicU64::new(0),
            repeats: AtomicU32::new(0),
        });
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.running.insert(number, Arc::clone(&transfer));
        drop(state);
        Ticket {
            board: self.clone(),
            number,
            transfer,
        }
    }

    /// What a person or a script is shown.
    pub fn view(&self) -> TransfersView {
        let now = Instant::now();
        let state = self.lock();
        let running = state.running.values();
        TransfersView {
            running: running
                .map(|t| t.view(now.saturating_duration_since(t.began)))
                .collect(),
            done: state.done.iter().rev().map(|e| e.view(now)).collect(),
            failed: state.failed.iter().rev().map(|e| e.view(now)).collect(),
            totals: state.totals.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Lists and sums: nothing is half changed under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// So many bytes have left, or arrived where the protocol says so.
    pub fn reached(&self, bytes: u64) {
        self.transfer.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Something was sent again, so often in all.
    pub fn repeated(&self, times: u32) {
        self.transfer.repeats.store(times, Ordering::Relaxed);
    }

    /// All of it arrived.
    pub fn done(self) {
        self.end(Some(None));
    }

    /// It ended before, for this reason.
    pub fn failed(self, reason: impl Into<String>) {
        self.end(Some(Some(reason.into())));
    }

    /// The peer wanted to know the size and nothing else: not worth a line.
    pub fn forget(self) {
        self.end(None);
    }

    fn end(&self, outcome: Option<Option<String>>) {
        let mut state = self.board.lock();
        let Some(transfer) = state.running.remove(&self.number) else {
            return;
        };
        let Some(reason) = outcome else { return };
        let totals = &mut state.totals;
        totals.bytes += transfer.bytes.load(Ordering::Relaxed);
        totals.repeats += u64::from(transfer.repeats.load(Ordering::Relaxed));
        let kept = match reason {
            None => {
                totals.done += 1;
                &mut state.done
            }
            Some(_) => {
                totals.failed += 1;
                &mut state.failed
            }
        };
        if kept.len() == KEPT {
            kept.pop_front();
        }
        let lasted = transfer.began.elapsed();
        let at = Instant::now();
        kept.push_back(Ended {
            transfer,
            lasted,
            at,
            reason,
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.end(Some(Some("cut off".to_owned())));
    }
}

impl Transfer {
    fn view(&self, lasted: Duration) -> TransferView {
        let bytes = self.bytes.load(Ordering::Relaxed);
        TransferView {
            protocol: self.protocol,
            peer: self.peer.ip(),
            mac: None,
            device: None,
            file: self.file.clone(),
            bytes,
            total: self.total,
            bytes_per_second: (bytes as f64 / lasted.as_secs_f64().max(0.001)) as u64,
            repeats: self.repeats.load(Ordering::Relaxed),
            seconds: lasted.as_secs(),
            ended_seconds_ago: None,
            reason: None,
        }
    }
}

impl Ended {
    fn view(&self, now: Instant) -> TransferView {
        TransferView {
            ended_seconds_ago: Some(now.saturating_duration_since(self.at).as_secs()),
            reason: self.reason.clone(),
            ..self.transfer.view(self.lasted)
        }
    }
}

/// The transfers of a running appliance.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TransfersView {
    /// Under way, oldest first.
    pub running: Vec<TransferView>,
    /// The last that arrived whole, newest first.
    pub done: Vec<TransferView>,
    /// The last that did not, newest first.
    pub failed: Vec<TransferView>,
    /// Since the appliance was started.
    pub totals: TotalsView,
}

/// Sums over all transfers that ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TotalsView {
    /// How many arrived whole.
    pub done: u64,
    /// How many did not.
    pub failed: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// Times that something was sent again.
    pub repeats: u64,
}

/// A file on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TransferView {
    /// tftp or http.
    pub protocol: Protocol,
    /// The address it goes to.
    pub peer: IpAddr,
    /// That address's hardware address, if it leases it here.
    pub mac: Option<String>,
    /// The device, if the registry knows one by that.
    pub device: Option<String>,
    /// The file, below the served folder.
    pub file: String,
    /// Bytes so far: acknowledged (TFTP) or handed to the kernel (HTTP).
    pub bytes: u64,
    /// Bytes in all.
    pub total: u64,
    /// Bytes a second, from its beginning.
    pub bytes_per_second: u64,
    /// Times that something was sent again (TFTP).
    pub repeats: u32,
    /// Seconds it runs, or ran.
    pub seconds: u64,
    /// Seconds since it ended, if it did.
    pub ended_seconds_ago: Option<u64>,
    /// Why it failed, if it did.
    pub reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(board: &Board, host: u8) -> Ticket {
        let peer = SocketAddr::from(([10, 77, 0, host], 2000));
        board.begin(Protocol::Tftp, peer, "vmlinuz", 1000)
    }

    #[test]
    fn a_transfer_is_seen_while_it_runs_and_after_it_ended() {
        let board = Board::default();
        let ticket = begin(&board, 9);
        ticket.reached(400);
        ticket.repeated(2);
        let view = board.view();
        let running = &view.running[0];
        assert_eq!(
            (running.bytes, running.total, running.repeats),
            (400, 1000, 2)
        );
        assert_eq!(running.peer.to_string(), "10.77.0.9");
        ticket.reached(1000);
        ticket.done();
        begin(&board, 10).failed("no acknowledgement");
        begin(&board, 11).forget();
        drop(begin(&board, 12));
        let view = board.view();
        assert!(view.running.is_empty());
        assert_eq!((view.totals.done, view.totals.failed), (1, 2));
        assert_eq!((view.totals.bytes, view.totals.repeats), (1000, 2));
        let reasons: Vec<_> = view
            .failed
            .iter()
            .filter_map(|f| f.reason.clone())
            .collect();
        assert_eq!(reasons, ["cut off", "no acknowledgement"], "newest first");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let board = Board::default();
        for host in 0..200 {
            begin(&board, host).done();
            begin(&board, host).failed("x");
        }
        let view = board.view();
        assert_eq!((view.done.len(), view.failed.len()), (KEPT, KEPT));
        assert_eq!(view.done[0].peer.to_string(), "10.77.0.199");
    }
}
