//! Python's gRPC, which takes its configuration from an xDS server itself.

use super::clients::Clients;
use super::process::Process;
use super::{check, eventually};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;

/// So many calls in a row say that a change has arrived.
const STEADY: usize = 10;

/// gRPC servers that answer with their names.
#[derive(Debug)]
pub struct Servers {
    pub ports: Vec<u16>,
    _process: Process,
}

impl Servers {
    pub async fn start(clients: &Clients, dir: &Path, names: &[&str]) -> Self {
        let mut process = Process::start(dir, "grpc-servers", peer(clients).arg("serve").args(names));
        let ports = eventually("gRPC servers listen", || {
            let said = process.alive().map(|()| process.log());
            async { said.and_then(|log| listed(&log, names)) }
        })
        .await;
        Self { ports, _process: process }
    }
}

fn listed(log: &str, names: &[&str]) -> Result<Vec<u16>, String> {
    let port = |name: &str| log.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    names.iter().map(|name| port(name).ok_or_else(|| log.to_owned())).collect()
}

/// A client that calls `xds:///TARGET` a hundred times a second.
#[derive(Debug)]
pub struct Caller {
    process: Process,
}

impl Caller {
    /// Its control plane is on `port` of this machine.
    pub fn start(clients: &Clients, dir: &Path, target: &str, port: u16) -> Self {
        let bootstrap = dir.join("grpc.json");
        let config = json!({
            "xds_servers": [{
                "server_uri": format!("127.0.0.1:{port}"), "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }],
            "node": {
                "id": "grpc", "cluster": "demo", "locality": {"region": "r1", "zone": "z1"}, "metadata": {},
            },
        });
        std::fs::write(&bootstrap, config.to_string()).expect("write the bootstrap");
        let mut command = peer(clients);
        command.args(["call", &format!("xds:///{target}")]).env("GRPC_XDS_BOOTSTRAP", &bootstrap);
        Self { process: Process::start(dir, "grpc-client", &mut command) }
    }

    /// What each call got so far: `ok NAME` or `failed CODE ...`.
    pub fn results(&self) -> Vec<String> {
        let log = self.process.log();
        let result = |line: &&str| line.starts_with("ok ") || line.starts_with("failed ");
        log.lines().filter(result).map(str::to_owned).collect()
    }

    /// Waits until every new call gets a result that begins with `wanted`.
    pub async fn gets(&mut self, wanted: &str) {
        let before = self.results().len();
        eventually(&format!("calls get {wanted:?}"), || {
            let alive = self.process.alive();
            let results = self.results();
            async move {
                alive?;
                let new = &results[before.min(results.len())..];
                let tail = &new[new.len().saturating_sub(STEADY)..];
                let steady = tail.len() == STEADY && tail.iter().all(|result| result.starts_with(wanted));
                check(steady, || format!("{:?}", tail.last()))
            }
        })
        .await;
    }
}

fn peer(clients: &Clients) -> Command {
    let script: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/grpc_peer.py");
    let mut command = Command::new(&clients.python);
    command.arg("-u").arg(script);
    command
}
