//! Certificates that are no good: ours, and those of sidecars.

use super::support::control_plane::ControlPlane;
use super::support::outpost::{self, Outpost};
use super::support::tls::{Authority, ClientFiles};
use super::support::{check, eventually};
use ::outpost::clock::Clock;
use ::outpost::transport::client::{Address, Dialer, Options};
use ::outpost::transport::tls;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const HOUR: Duration = Duration::from_secs(3600);

fn flag(flag: &str, path: &Path) -> String {
    format!("{flag}={}", path.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_cannot_be_loaded_again_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = ControlPlane::start().await;
    let authority = Authority::new();
    let files = authority.write(dir.path(), "outpost", &authority.server("outpost.test"));
    let flag = |flag: &str, path: &std::path::Path| format!("{flag}={}", path.display());
    let (cert, key) = (flag("--tls-cert", &files.certificate), flag("--tls-key", &files.key));
    let outpost = Outpost::start(dir.path(), control_plane.port, &[&cert, &key]).await;
    let ready = outpost.admin("/readyz?verbose").await.unwrap();
    assert!(ready.contains("[+]certificate ends in "), "{ready}");
    let metrics = outpost.admin("/metrics").await.unwrap();
    for wanted in ["outpost_downstream_tls_problem 0\n", "outpost_downstream_tls_expiry_timestamp_seconds "] {
        assert!(metrics.contains(wanted), "no {wanted} in:\n{metrics}");
    }
    // Nobody connects meanwhile: a scrape is enough to find out.
    std::fs::write(&files.key, "half a key").unwrap();
    let metrics = outpost.admin("/metrics").await.unwrap();
    for wanted in ["outpost_downstream_tls_problem 1\n", "outpost_downstream_tls_load_failures_total 1\n"] {
        assert!(metrics.contains(wanted), "no {wanted} in:\n{metrics}");
    }
    let ready = outpost.admin("/readyz?verbose").await.unwrap();
    assert!(ready.contains("[!]certificate ends in ") && ready.contains("its newest files are not in use"), "{ready}");
    assert!(ready.ends_with("\nready\n"), "what was loaded stays in use: {ready}");
}

/// The files of a server; writes them anew with other dates.
fn server(authority: &Authority, dir: &Path, from: SystemTime, until: SystemTime) -> ClientFiles {
    authority.write(dir, "outpost", &authority.server_between("outpost.test", from, until))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_valid_now_is_never_used_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (control_plane, authority) = (ControlPlane::start().await, Authority::new());
    let now = SystemTime::now();
    let ended = || server(&authority, dir, now - 2 * HOUR, now - HOUR);
    // A restart while it has ended is no outage for those who do not check it.
    let files = ended();
    let (cert, key) = (flag("--tls-cert", &files.certificate), flag("--tls-key", &files.key));
    let outpost = Outpost::start(dir, control_plane.port, &[&cert, &key]).await;
    let told = "the certificate in use is not valid: who checks it refuses it";
    let log = outpost.log();
    assert!(log.contains(told) && log.contains("60m ago; have it issued anew"), "{log}");
    let ready = async || outpost.admin("/readyz?verbose").await.unwrap();
    let metric = async |name: &str| {
        let metrics = outpost.admin("/metrics").await.unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("outpost_downstream_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {metrics}")).to_owned()
    };
    assert!(ready().await.contains("[!]certificate has ended\n"));
    assert_eq!(metric("tls_valid").await, "0");
    let valid = outpost::run(&["config", "validate", "--upstream=a:1", &cert, &key]);
    assert_eq!(valid.code, Some(0));
    assert!(
        valid.messages.contains("warning: --tls-cert: certificate ") && valid.messages.contains(" ended "),
        "{valid:?}"
    );

    server(&authority, dir, now - HOUR, now + 24 * HOUR);
    assert_eq!(metric("tls_valid").await, "1");
    assert!(ready().await.contains("[+]certificate ends in "));
    // Neither of these replaces it.
    for (text, from, until) in
        [("ended", now - 2 * HOUR, now - HOUR), ("is not valid before", now + HOUR, now + 2 * HOUR)]
    {
        server(&authority, dir, from, until);
        let seen = ready().await;
        let in_use =
            seen.contains("[!]certificate ends in 2") && seen.contains("its newest files are not in use: certificate ");
        assert!(in_use && seen.contains(text), "{seen}");
        assert_eq!((metric("tls_problem").await, metric("tls_valid").await), ("1".into(), "1".into()));
        let status = outpost.run(&["status"]).unwrap();
        assert!(status.contains("error: certificate ends in ") && status.contains(text), "{status}");
        let line = outpost
            .log()
            .lines()
            .rfind(|line| line.contains("changed certificates are not usable"))
            .unwrap()
            .to_owned();
        assert!(line.contains(text), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_in_the_handshake_is_audited() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (control_plane, authority) = (ControlPlane::start().await, Authority::new());
    let own = authority.write(dir, "outpost", &authority.server("outpost.test"));
    let flags =
        [flag("--tls-cert", &own.certificate), flag("--tls-key", &own.key), flag("--client-ca", &own.authority)];
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let outpost = Outpost::start(dir, control_plane.port, &flags).await;
    let connect = async |pair: Option<tls::Pair>| {
        let files =
            tls::ClientFiles { ca: Some(own.authority.clone()), pair, server_name: Some("outpost.test".into()) };
        let options = Options { tls: Some(tls::ClientTls::new(files).unwrap().into()), ..Options::default() };
        let address = Address::Tcp { host: "127.0.0.1".into(), port: outpost.port };
        let connected = Dialer::new(address, options, Clock::system()).connect().await;
        connected.map(drop).expect_err("it is refused");
    };
    // Who does not speak TLS, or goes away, is nobody's sidecar.
    drop(TcpStream::connect(("127.0.0.1", outpost.port)).await.unwrap());
    let mut plain = TcpStream::connect(("127.0.0.1", outpost.port)).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: outpost\r\n\r\n").await.unwrap();
    let counts = async |line: &str| {
        eventually(line, || async {
            let metrics = outpost.admin("/metrics").await?;
            check(metrics.contains(line), || metrics.clone())
        })
        .await;
    };
    counts("outpost_downstream_accepted_total{result=\"tls_failed\"} 2\n").await;
    assert!(!outpost.log().contains("audit"), "{}", outpost.log());
    let uri = "spiffe://mesh.example/ns/shop/sa/cart";
    let now = SystemTime::now();
    let pair = |authority: &Authority, name: &str, from: SystemTime, until: SystemTime| {
        let files = authority.write(dir, name, &authority.workload_between(uri, from, until));
        Some(tls::Pair { cert: files.certificate, key: files.key })
    };
    let stranger = Authority::new();
    let table = [
        ("expired", pair(&authority, "expired", now - 2 * HOUR, now - 60 * Duration::from_secs(1)), "has ended 6"),
        ("not_yet", pair(&authority, "early", now + HOUR, now + 2 * HOUR), "is not valid yet for 3"),
        ("unknown_issuer", pair(&stranger, "stranger", now - HOUR, now + HOUR), "is of no authority in --client-ca"),
        ("none", None, "shows no certificate, and one is required"),
    ];
    for (reason, pair, said) in table {
        for _ in 0..3 {
            connect(pair.clone()).await;
        }
        counts(&format!("outpost_downstream_refused_certificates_total{{reason=\"{reason}\"}} 3\n")).await;
        let log = outpost.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains("audit") && line.contains(said)).collect();
        let [line] = lines[..] else { panic!("not one line of {reason} in a minute:\n{log}") };
        assert!(line.contains("127.0.0.1:") && line.contains(&format!("reason=\"{reason}\"")), "{line}");
        assert!(!line.contains(uri), "nobody proved that name: {line}");
    }
}
