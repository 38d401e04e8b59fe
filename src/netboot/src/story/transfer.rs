//! Transfers that began and did not end yet: TFTP's and HTTP's ends are noted by
//! the server itself, so nobody has to guess from silence.

use super::event::{Event, HttpFile, TftpFile, TftpStep, What};

/// A transfer whose end was not noted for so long ended all the same, in
/// milliseconds: an hour, as long as TFTP lets any of them live.
pub(super) const LONGEST: u64 = 3_600_000;

/// The last beginnings of transfers that did not end.
pub(super) fn open<'a>(events: impl Iterator<Item = &'a Event>) -> Vec<&'a Event> {
    let mut open: Vec<(&str, u32, &Event)> = Vec::new();
    for event in events {
        let Some((file, begins)) = step(&event.what) else {
            continue;
        };
        let known = open.iter_mut().find(|(of, ..)| *of == file);
        match (known, begins) {
            (Some(known), true) => {
                *known = (file, known.1.saturating_add(event.times), event);
            }
            (Some(known), false) => known.1 = known.1.saturating_sub(event.times),
            (None, true) => open.push((file, event.times, event)),
            (None, false) => {}
        }
    }
    open.retain(|(_, times, _)| *times > 0);
    open.into_iter().map(|(.., event)| event).collect()
}

/// Of which file it tells, and whether that begins.
fn step(what: &What) -> Option<(&str, bool)> {
    match what {
        What::Tftp(TftpFile { file, step }) => match step {
            TftpStep::Begun { .. } => Some((file, true)),
            TftpStep::Missing | TftpStep::Refused { .. } | TftpStep::Busy => None,
            _ => Some((file, false)),
        },
        What::Http(http) if http.status < 400 => Some((&http.path, http.open)),
        _ => None,
    }
}

const RESTARTED: &str = "the appliance was restarted";

/// How a beginning ends with the process that noted it.
pub(super) fn let_go(begun: &What) -> Option<What> {
    match begun {
        What::Tftp(TftpFile {
            file,
            step: TftpStep::Begun { size, .. },
        }) => Some(What::Tftp(TftpFile {
            file: file.clone(),
            step: TftpStep::stopped(0, *size, RESTARTED),
        })),
        What::Http(http) => Some(What::Http(HttpFile {
            open: false,
            why: Some(RESTARTED.to_owned()),
            ..http.clone()
        })),
        _ => None,
    }
}
