use super::*;
use crate::transport::jwt::tests::Signer;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn set(ids: &[&str]) -> String {
    let signer = Signer::new();
    let keys: Vec<_> = ids.iter().map(|id| signer.ec_key(id)).collect();
    json!({ "keys": keys }).to_string()
}

/// As one change: half a file is nobody's to read.
fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn ids(jwks: &Jwks) -> String {
    jwks.keys().map_or_else(|| "none".into(), |keys| format!("{keys:?}"))
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let missing = Jwks::file(path.clone(), Clock::manual()).unwrap_err().to_string();
    assert!(missing.contains("cannot read the JWKS") && missing.contains("check the path"), "{missing}");
    write(&path, &set(&["a"]));
    let clock = Clock::manual();
    let jwks = Arc::new(Jwks::file(path.clone(), clock.clone()).unwrap());
    assert_eq!(ids(&jwks), r#"[Some("a")]"#);
    write(&path, &set(&["a", "b"]));
    assert_eq!(ids(&jwks), r#"[Some("a")]"#, "who asks for the keys reads no file");
    assert!(!jwks.lacks(), "a file is looked at anyway");
    let running = jwks.clone();
    let task = tokio::spawn(async move { running.run().await });
    let looked = async |what: &str, check: &dyn Fn() -> bool| {
        eventually(what, || {
            clock.advance(LOOK);
            check()
        })
        .await;
    };
    looked("the next set", &|| ids(&jwks) == r#"[Some("a"), Some("b")]"#).await;
    write(&path, "{");
    looked("what is wrong with it", &|| jwks.look().problem.is_some()).await;
    let seen = jwks.look();
    assert_eq!((seen.keys, seen.failures), (2, 1), "what was good stays");
    assert!(seen.problem.unwrap().contains("is no JWKS"));
    write(&path, &set(&["c"]));
    looked("a good set", &|| ids(&jwks) == r#"[Some("c")]"#).await;
    assert_eq!(jwks.look().problem, None);
    task.abort();
}

/// A web server that answers with what `answer` holds.
struct Web {
    port: u16,
    heard: Arc<Mutex<String>>,
    answer: Arc<Mutex<(u16, String)>>,
}

async fn web(tls: Option<tokio_rustls::TlsAcceptor>) -> Web {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(String::new()));
    let answer = Arc::new(Mutex::new((200, set(&["one"]))));
    let web = Web { port, heard: heard.clone(), answer: answer.clone() };
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let mut socket: Box<dyn crate::transport::io::Socket> = match &tls {
                None => Box::new(socket),
                Some(tls) => match tls.accept(socket).await {
                    Ok(socket) => Box::new(socket),
                    Err(_) => continue,
                },
            };
            let mut request = vec![0; 4096];
            let read = socket.read(&mut request).await.unwrap_or(0);
            *heard.lock().unwrap() = String::from_utf8_lossy(&request[..read]).into_owned();
            let (status, body) = answer.lock().unwrap().clone();
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = socket.write_all(format!("{head}{body}").as_bytes()).await;
            let _ = socket.shutdown().await;
        }
    });
    web
}

async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !check() {
        assert!(std::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_url_is_fetched_again_and_what_was_good_stays() {
    let web = web(None).await;
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let url = format!("http://127.0.0.1:{}/keys?of=outpost", web.port);
    let clock = Clock::manual();
    let jwks = Arc::new(Jwks::url(Site::new(&url, None, Some(token)).unwrap(), clock.clone()));
    assert_eq!(ids(&jwks), "none", "nothing was fetched yet");
    let running = jwks.clone();
    let task = tokio::spawn(async move { running.run().await });
    eventually("the first set", || ids(&jwks) == r#"[Some("one")]"#).await;
    let heard = web.heard.lock().unwrap().to_lowercase();
    assert!(heard.starts_with("get /keys?of=outpost http/1.1"), "{heard}");
    assert!(heard.contains("authorization: bearer s3cret") && heard.contains(&format!("host: 127.0.0.1:{}", web.port)));
    // A failure is told and changes nothing; the next fetch comes sooner.
    *web.answer.lock().unwrap() = (503, String::new());
    clock.advance(PERIOD + PERIOD / 10);
    eventually("the failure is known", || jwks.look().problem.is_some()).await;
    let problem = jwks.look().problem.unwrap();
    assert!(problem.contains(&url) && problem.contains("503") && !problem.contains("s3cret"), "{problem}");
    assert_eq!(ids(&jwks), r#"[Some("one")]"#);
    *web.answer.lock().unwrap() = (200, "x".repeat(LARGEST + 1));
    clock.advance(RETRY_LEAST * 2);
    eventually("too large", || jwks.look().problem.is_some_and(|text| text.contains("larger"))).await;
    *web.answer.lock().unwrap() = (200, set(&["two"]));
    clock.advance(RETRY_LEAST * 4);
    eventually("the next set", || ids(&jwks) == r#"[Some("two")]"#).await;
    assert_eq!(jwks.look().problem, None);
    // A key that is missing is looked for at once, but not by every token.
    assert!(!jwks.lacks(), "it was fetched just now");
    clock.advance(UNKNOWN);
    *web.answer.lock().unwrap() = (200, set(&["three"]));
    assert!(jwks.lacks());
    eventually("the key that was missing", || ids(&jwks) == r#"[Some("three")]"#).await;
    task.abort();
}

#[tokio::test]
async fn a_url_is_fetched_over_tls_from_whom_we_trust() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let mut leaf = rcgen::CertificateParams::default();
    leaf.subject_alt_names = vec![rcgen::SanType::IpAddress([127, 0, 0, 1].into())];
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let pair = crate::transport::tls::Pair { cert: dir.path().join("s.pem"), key: dir.path().join("s.key") };
    std::fs::write(&pair.cert, leaf.signed_by(&leaf_key, &issuer).unwrap().pem()).unwrap();
    std::fs::write(&pair.key, leaf_key.serialize_pem()).unwrap();
    let chain = vec![rustls::pki_types::pem::PemObject::from_pem_file(&pair.cert).unwrap()];
    let key = rustls::pki_types::pem::PemObject::from_pem_file(&pair.key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let web = web(Some(Arc::new(config).into())).await;
    let clock = Clock::system();
    let good = Site::new(&format!("https://127.0.0.1:{}/", web.port), Some(ca.clone()), None).unwrap();
    assert_eq!(format!("{:?}", fetch(&good, &clock).await.unwrap()), r#"[Some("one")]"#);
    // The same server by another name, and without its authority.
    let other = Site::new(&format!("https://localhost:{}/", web.port), Some(ca), None).unwrap();
    let error = fetch(&other, &clock).await.unwrap_err().to_string();
    assert!(error.contains("TLS: ") && error.contains("cannot fetch the JWKS https://localhost"), "{error}");
}
