//! Progress to the appliance, beside the work: a bounded queue and a thread.
//! What does not fit is left out; the work never waits for it.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use groundcrew_core::enroll::{Progress, path};

use crate::http::Api;

/// Takes progress from the work.
#[derive(Clone)]
pub struct Reporter(SyncSender<Job>);

enum Job {
    Progress(Progress),
    Flush(SyncSender<()>),
}

impl Reporter {
    /// Starts the thread; `api` speaks for the enrollment.
    pub fn start(api: Api) -> Self {
        let (sender, jobs) = sync_channel(64);
        std::thread::spawn(move || run(&api, &jobs));
        Self(sender)
    }

    /// Tells the appliance, if there is room in the queue.
    pub fn tell(&self, phase: &str, done: u64, total: u64, message: impl Into<String>) {
        let _ = self.0.try_send(Job::Progress(Progress {
            phase: phase.to_owned(),
            done,
            total,
            message: message.into(),
        }));
    }

    /// Waits until everything told so far is sent, or until `patience` ends.
    pub fn flush(&self, patience: Duration) {
        let (sender, done) = sync_channel(1);
        if self.0.try_send(Job::Flush(sender)).is_ok() {
            let _ = done.recv_timeout(patience);
        }
    }
}

fn run(api: &Api, jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        match job {
            // Progress that does not arrive is not worth a second attempt.
            Job::Progress(progress) => drop(api.tell(path::PROGRESS, &progress)),
            Job::Flush(sender) => drop(sender.try_send(())),
        }
    }
}
