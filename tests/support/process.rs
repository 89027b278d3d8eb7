//! A child process with a log, killed when dropped.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

/// How much of a log is shown when a test failed.
const TAIL: usize = 12;
/// Envoy's lines can be very long.
const LINE: usize = 400;

#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to `dir/NAME.log`.
    pub fn start(dir: &Path, name: &str, command: &mut Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        let open = || File::options().create(true).append(true).open(&log);
        let started = open().and_then(|out| Ok((out.try_clone()?, out))).and_then(|(out, err)| {
            command.stdout(out).stderr(err);
            command.stdin(Stdio::piped()).spawn()
        });
        match started {
            Ok(child) => Self { child, name: name.to_owned(), log },
            Err(error) => panic!("cannot start {name} ({:?}): {error}", command.get_program()),
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child's standard input; its end tells a helper script to stop.
    pub fn stdin(&mut self) -> Option<&mut std::process::ChildStdin> {
        self.child.stdin.as_mut()
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// `Err` with the end of the log if the process has ended by itself.
    pub fn alive(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("{} ended with {status}:\n{}", self.name, self.tail())),
            Err(error) => Err(format!("{}: {error}", self.name)),
        }
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let cut = |line: &&str| line.chars().take(LINE).collect::<String>();
        lines[lines.len().saturating_sub(TAIL)..].iter().map(cut).collect::<Vec<_>>().join("\n")
    }

    /// Resident memory in bytes, where the system tells.
    pub fn resident(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let kib = line.trim().trim_end_matches(" kB").parse::<u64>().map_err(io::Error::other)?;
        Ok(kib * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- end of {} ---\n{}\n---", self.log.display(), self.tail());
        }
    }
}

/// A port on which nothing listens, below the range the system gives to
/// outgoing connections: so it is still free when a process comes back to it,
/// and a client that keeps trying it cannot connect to itself.
pub fn free_port() -> u16 {
    const RANGE: std::ops::Range<u16> = 20_000..32_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let size = RANGE.end - RANGE.start;
    let start = (std::process::id() % 197) as u16 * 61;
    for _ in 0..size {
        let port = RANGE.start + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % size;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {} and {}", RANGE.start, RANGE.end)
}
