//! Outpost itself, as an operator runs it: a process with flags.

use super::http;
use super::process::{Process, free_port};
use super::{check, eventually};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Debug)]
pub struct Outpost {
    /// Where sidecars connect.
    pub port: u16,
    admin: u16,
    dir: PathBuf,
    flags: Vec<String>,
    /// Beside the environment of the test.
    variables: Vec<(String, String)>,
    process: Process,
}

impl Outpost {
    /// `outpost serve` in front of the control plane on port `upstream`.
    pub async fn start(dir: &Path, upstream: u16, extra: &[&str]) -> Self {
        Self::start_in(dir, upstream, extra, &[]).await
    }

    /// … with these variables of the environment.
    pub async fn start_in(dir: &Path, upstream: u16, extra: &[&str], variables: &[(&str, &str)]) -> Self {
        let (port, admin) = (free_port(), free_port());
        let own = [("--listen", port), ("--upstream", upstream), ("--admin", admin)];
        let mut flags = vec!["serve".to_owned()];
        flags.extend(own.into_iter().flat_map(|(flag, port)| [flag.to_owned(), format!("127.0.0.1:{port}")]));
        flags.extend(extra.iter().map(|&flag| flag.to_owned()));
        Self::launch(dir, port, admin, flags, variables).await
    }

    /// `outpost serve` with these flags and values, addresses among them.
    pub async fn start_at(dir: &Path, flags: &[&str]) -> Self {
        let port = |flag: &str| {
            let at = flags.iter().position(|given| *given == flag).expect("the flag");
            flags[at + 1].rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
        };
        let all = std::iter::once("serve").chain(flags.iter().copied()).map(str::to_owned).collect();
        Self::launch(dir, port("--listen"), port("--admin"), all, &[]).await
    }

    async fn launch(dir: &Path, port: u16, admin: u16, flags: Vec<String>, variables: &[(&str, &str)]) -> Self {
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let process = spawn(dir, &flags, &variables);
        let mut this = Self { port, admin, dir: dir.to_owned(), flags, variables, process };
        this.ready().await;
        this
    }

    /// Where operators ask.
    pub fn admin_address(&self) -> String {
        format!("127.0.0.1:{}", self.admin)
    }

    /// Runs another verb against this one, whatever becomes of it.
    pub fn verb(&self, arguments: &[&str]) -> Ran {
        run_with(arguments, &[("OUTPOST_ADMIN", &self.admin_address())])
    }

    /// `outpost serve` of the files in a directory, ready.
    pub async fn of_files(dir: &Path, files: &Path) -> Self {
        let mut this = Self::of_files_unready(dir, files);
        this.ready().await;
        this
    }

    /// The same, which may have nothing to serve yet.
    pub fn of_files_unready(dir: &Path, files: &Path) -> Self {
        let (port, admin) = (free_port(), free_port());
        let (listen, answer) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{admin}"));
        let files = files.to_str().expect("a path that is text");
        let flags = ["serve", "--listen", &listen, "--admin", &answer, "--files", files].map(str::to_owned).to_vec();
        let process = spawn(dir, &flags, &[]);
        Self { port, admin, dir: dir.to_owned(), flags, variables: Vec::new(), process }
    }

    pub fn admin_port(&self) -> u16 {
        self.admin
    }

    /// SIGKILL: no goodbye to anyone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// The same command line again. Does not wait for readiness: without its
    /// upstream a cold Outpost has none.
    pub fn restart(&mut self) {
        self.kill();
        self.process = spawn(&self.dir, &self.flags, &self.variables);
    }

    pub async fn ready(&mut self) {
        let admin = self.admin;
        eventually("Outpost is ready", || {
            let alive = self.process.alive();
            async move {
                alive?;
                let answer = http::get(admin, "admin", "/readyz?verbose").await?;
                check(answer.status == 200, || format!("{}: {}", answer.status, answer.body))
            }
        })
        .await;
    }

    pub async fn admin(&self, path: &str) -> Result<String, String> {
        http::get(self.admin, "admin", path).await.map(|answer| answer.body)
    }

    pub async fn json(&self, path: &str) -> Result<Value, String> {
        let text = self.admin(path).await?;
        serde_json::from_str(&text).map_err(|e| format!("{path}: {e} in {text:.200}"))
    }

    /// Runs another verb of the same program against this one.
    pub fn run(&self, verb: &[&str]) -> Result<String, String> {
        let output = Command::new(program())
            .args(verb)
            .env("OUTPOST_ADMIN", format!("127.0.0.1:{}", self.admin))
            .output()
            .map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        check(output.status.success(), || format!("{verb:?}: {}", String::from_utf8_lossy(&output.stderr)))?;
        Ok(text)
    }

    /// Of the process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn resident(&self) -> std::io::Result<u64> {
        self.process.resident()
    }

    pub fn alive(&mut self) -> Result<(), String> {
        self.process.alive()
    }
}

/// What a verb printed, and how it exited.
#[derive(Clone, Debug)]
pub struct Ran {
    pub code: Option<i32>,
    /// Of stdout, and of stderr.
    pub data: String,
    pub messages: String,
}

/// Runs the program to its end.
pub fn run(arguments: &[&str]) -> Ran {
    run_with(arguments, &[])
}

fn run_with(arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
    let mut command = Command::new(program());
    command.args(arguments).env_remove("OUTPOST_ADMIN").envs(environment.iter().copied());
    let output = command.output().expect("the program runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code(), data: text(&output.stdout), messages: text(&output.stderr) }
}

fn program() -> &'static str {
    env!("CARGO_BIN_EXE_outpost")
}

fn spawn(dir: &Path, flags: &[String], variables: &[(String, String)]) -> Process {
    let mut command = Command::new(program());
    command.args(flags).env("RUST_BACKTRACE", "1").envs(variables.iter().cloned());
    Process::start(dir, "outpost", &mut command)
}
