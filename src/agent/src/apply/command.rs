//! Programs run in the installed system.
//!
//! The agent starts itself again as `exec-in-root ROOT -- PROGRAM…`; that
//! child enters the root and becomes the program. So the agent's own view
//! never changes, and no code runs between fork and exec.
//!
//! The caller has `/proc`, `/sys` and `/dev` mounted below the root while
//! steps run, and unmounts them afterwards. There is no network for the
//! program unless the caller's own reaches out.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use groundcrew_core::bundle::{Argv, step::EnvName, step::EnvValue};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};

/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Output passed on at most, bytes; the rest is read and dropped.
const MAX_OUTPUT: u64 = 1 << 20;
/// How long the output may stay open after the program has ended.
const GRACE: Duration = Duration::from_millis(500);
/// How often it is looked whether the program has ended.
const TICK: Duration = Duration::from_millis(50);

/// A program to run.
#[derive(Clone, Debug)]
pub struct Invocation<'a> {
    /// The program and its arguments.
    pub argv: &'a Argv,
    /// Its environment, besides PATH, HOME and LANG.
    pub env: &'a BTreeMap<EnvName, EnvValue>,
    /// When it is killed, with all that it has started.
    pub timeout: Duration,
}

/// A program could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It did not start, or could not be watched.
    #[error("`{command}` could not be run: {source}")]
    Run {
        /// What.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// It took too long.
    #[error("`{command}` was killed after {} seconds (`timeout`)", .after.as_secs())]
    Timeout {
        /// What.
        command: String,
        /// The step's timeout.
        after: Duration,
    },
}

/// How programs are run: in the installed system's root, or otherwise in
/// tests.
pub trait Runner {
    /// Runs a program to its end. `output` gets what it says, both streams as
    /// they come.
    fn run(
        &mut self,
        invocation: &Invocation<'_>,
        output: &mut dyn FnMut(&[u8]),
    ) -> Result<ExitStatus, CommandError>;
}

/// Runs programs through a helper that enters the root:
/// `HELPER… ROOT -- PROGRAM…`.
#[derive(Clone, Debug)]
pub struct ChrootRunner {
    helper: Vec<OsString>,
    root: PathBuf,
}

/// The argument that makes this program a helper.
pub const EXEC_IN_ROOT: &str = "exec-in-root";

impl ChrootRunner {
    /// The helper is this program itself; its `main` passes on to
    /// [`exec_in_root`].
    pub fn new(root: &Path) -> Self {
        Self::with_helper(vec!["/proc/self/exe".into(), EXEC_IN_ROOT.into()], root)
    }

    /// Another helper.
    pub fn with_helper(helper: Vec<OsString>, root: &Path) -> Self {
        Self {
            helper,
            root: root.to_owned(),
        }
    }

    fn command(&self, invocation: &Invocation<'_>) -> Command {
        let mut words = self.helper.iter();
        let mut command = Command::new(words.next().cloned().unwrap_or_default());
        command
            .args(words)
            .arg(&self.root)
            .arg("--")
            .args(invocation.argv.words())
            .env_clear()
            .envs([
                ("PATH", PATH),
                ("HOME", "/root"),
                ("LANG", "C.UTF-8"),
                ("DEBIAN_FRONTEND", "noninteractive"),
            ])
            .envs(
                invocation
                    .env
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_str())),
            )
            .stdin(Stdio::null())
            .process_group(0);
        command
    }
}

impl Runner for ChrootRunner {
    fn run(
        &mut self,
        invocation: &Invocation<'_>,
        output: &mut dyn FnMut(&[u8]),
    ) -> Result<ExitStatus, CommandError> {
        let failed = |source| CommandError::Run {
            command: invocation.argv.to_string(),
            source,
        };
        let (reader, writer) = io::pipe().map_err(failed)?;
        let mut command = self.command(invocation);
        command
            .stdout(writer.try_clone().map_err(failed)?)
            .stderr(writer);
        let child = command.spawn().map_err(failed)?;
        // the command holds the pipe's other end: without this it never closes
        drop(command);
        let mut watch = Watch {
            child,
            reader,
            passed: 0,
            open: true,
        };
        let ended = watch.until_end(invocation.timeout, output);
        watch.kill_group();
        match ended.map_err(failed)? {
            Some(status) => Ok(status),
            None => {
                let _ = watch.child.wait();
                Err(CommandError::Timeout {
                    command: invocation.argv.to_string(),
                    after: invocation.timeout,
                })
            }
        }
    }
}

struct Watch {
    child: Child,
    reader: io::PipeReader,
    passed: u64,
    open: bool,
}

impl Watch {
    /// None where the time is over.
    fn until_end(
        &mut self,
        timeout: Duration,
        output: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        let mut ended: Option<(ExitStatus, Instant)> = None;
        loop {
            if ended.is_none() {
                ended = self
                    .child
                    .try_wait()?
                    .map(|status| (status, Instant::now() + GRACE));
            }
            let now = Instant::now();
            match ended {
                Some((status, last)) if !self.open || now >= last => return Ok(Some(status)),
                None if now >= deadline => return Ok(None),
                _ => self.read(TICK.min(deadline.saturating_duration_since(now)), output)?,
            }
        }
    }

    /// Waits a moment for output, or, where none can come any more, for the
    /// program itself.
    fn read(&mut self, wait: Duration, output: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        if !self.open {
            std::thread::sleep(wait.min(Duration::from_millis(2)));
            return Ok(());
        }
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let mut ready = [PollFd::new(&self.reader, PollFlags::IN)];
        match poll(&mut ready, Some(&wait)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
            Ok(_) => {}
            Err(err) => return Err(err.into()),
        }
        let mut buffer = [0; 8192];
        let got = self.reader.read(&mut buffer)?;
        self.open = got > 0;
        let left = MAX_OUTPUT.saturating_sub(self.passed);
        self.passed += got as u64;
        let pass = got.min(usize::try_from(left).unwrap_or(usize::MAX));
        if pass > 0 {
            output(buffer.get(..pass).unwrap_or_default());
        }
        Ok(())
    }

    /// Ends what the program has left running in its group.
    fn kill_group(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.kill_group();
        let _ = self.child.wait();
    }
}

/// How a program ended, in words; none where it succeeded.
pub fn failure(status: ExitStatus) -> Option<String> {
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("exit code {code}")),
        (None, Some(signal)) => Some(format!("killed by signal {signal}")),
        (None, None) => Some("ended without a code".into()),
    }
}

/// Enters `root` and becomes the program: the helper's side. Returns only
/// where that failed, with the reason; `main` prints it and exits 127.
pub fn exec_in_root(root: &Path, argv: &[OsString]) -> io::Error {
    let Some((program, arguments)) = argv.split_first() else {
        return io::Error::new(
            io::ErrorKind::InvalidInput,
            "no program given: exec-in-root ROOT -- PROGRAM…",
        );
    };
    let entered = rustix::process::chroot(root).and_then(|()| rustix::process::chdir("/"));
    if let Err(err) = entered {
        return io::Error::other(format!(
            "cannot enter {}: {}",
            root.display(),
            io::Error::from(err)
        ));
    }
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    let err = Command::new(program).args(arguments).exec();
    io::Error::new(err.kind(), format!("{}: {err}", program.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs without a chroot: the root becomes the working folder.
    fn runner(root: &Path) -> ChrootRunner {
        let script = "cd \"$1\" && shift 2 && exec \"$@\"";
        ChrootRunner::with_helper(
            ["/bin/sh", "-c", script, "sh"].map(OsString::from).to_vec(),
            root,
        )
    }

    fn run(script: &str, seconds: u64) -> (Result<ExitStatus, CommandError>, String) {
        let argv = Argv::try_from(vec!["sh".into(), "-c".into(), script.into()]).unwrap();
        let env = BTreeMap::from([("CREW".parse().unwrap(), "ground".parse().unwrap())]);
        let mut said = Vec::new();
        let invocation = Invocation {
            argv: &argv,
            env: &env,
            timeout: Duration::from_secs(seconds),
        };
        let status =
            runner(Path::new("/")).run(&invocation, &mut |bytes| said.extend_from_slice(bytes));
        (status, String::from_utf8_lossy(&said).into_owned())
    }

    #[test]
    fn output_and_code_come_back() {
        let (status, said) = run("echo out; echo $CREW $HOME >&2; exit 3", 10);
        assert_eq!(failure(status.unwrap()).unwrap(), "exit code 3");
        assert_eq!(said, "out\nground /root\n");
        assert_eq!(failure(run("true", 10).0.unwrap()), None);
        assert_eq!(
            failure(run("kill -9 $$", 10).0.unwrap()).unwrap(),
            "killed by signal 9"
        );
    }

    #[test]
    fn what_hangs_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("alive");
        let begun = Instant::now();
        let (status, _) = run(
            &format!("(sleep 3; touch {}) & sleep 60", mark.display()),
            1,
        );
        assert!(matches!(status, Err(CommandError::Timeout { .. })));
        assert!(begun.elapsed() < Duration::from_secs(3));
        std::thread::sleep(Duration::from_secs(3));
        assert!(!mark.exists(), "a child outlived the timeout");
    }

    #[test]
    fn a_service_left_behind_does_not_hold_us_up() {
        let begun = Instant::now();
        let (status, said) = run("sleep 60 & echo started", 30);
        assert!(status.unwrap().success());
        assert_eq!(said, "started\n");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn output_is_bounded() {
        let (status, said) = run("head -c 3000000 /dev/zero | tr '\\0' x", 20);
        assert!(status.unwrap().success());
        assert_eq!(said.len() as u64, MAX_OUTPUT);
    }

    #[test]
    fn a_missing_helper_is_an_error() {
        let argv = Argv::try_from(vec!["true".into()]).unwrap();
        let invocation = Invocation {
            argv: &argv,
            env: &BTreeMap::new(),
            timeout: TICK,
        };
        let mut runner = ChrootRunner::with_helper(vec!["/nonexistent".into()], Path::new("/"));
        assert!(matches!(
            runner.run(&invocation, &mut |_| {}),
            Err(CommandError::Run { .. })
        ));
    }

    const CHILD: &str = "GROUNDCREW_TEST_EXEC_IN_ROOT";

    /// Not a test by itself: the body of the process that the next one starts.
    #[test]
    fn exec_in_root_child() {
        if let Some(root) = std::env::var_os(CHILD) {
            let argv = ["/bin/marker", "a", "b"].map(OsString::from);
            let err = exec_in_root(Path::new(&root), &argv);
            println!("exec failed: {err}");
        }
    }

    #[test]
    fn entering_a_root_needs_the_program_there() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("bin")).unwrap();
        let child = |root: &Path| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args([
                "--exact",
                "apply::command::tests::exec_in_root_child",
                "--nocapture",
            ]);
            let output = command.env(CHILD, root).output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let said = child(root.path());
        if rustix::process::geteuid().is_root() {
            assert!(
                said.contains("exec failed: /bin/marker: No such file"),
                "{said}"
            );
            assert!(
                child(Path::new("/nonexistent")).contains("exec failed: cannot enter /nonexistent")
            );
        } else {
            assert!(said.contains("exec failed: cannot enter"), "{said}");
        }
        assert!(
            exec_in_root(root.path(), &[])
                .to_string()
                .contains("no program")
        );
    }
}
