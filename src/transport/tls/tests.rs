use super::*;
use rcgen::{CertificateParams, KeyPair};

const START: u64 = 1_900_000_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(START + seconds)
}

/// Writes a pair that is valid from `from` until `until`.
fn write(pair: &Pair, from: u64, until: u64) {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (at(from).into(), at(until).into());
    let key = KeyPair::generate().unwrap();
    let text = params.self_signed(&key).unwrap().pem();
    std::fs::write(&pair.cert, text).unwrap();
    std::fs::write(&pair.key, key.serialize_pem()).unwrap();
}

#[test]
fn a_certificate_that_is_not_valid_replaces_no_good_one() {
    let dir = tempfile::tempdir().unwrap();
    let pair = Pair { cert: dir.path().join("cert"), key: dir.path().join("key") };
    write(&pair, 0, 1000);
    let tls = ServerTls::new(pair.clone(), ClientAuth::None).unwrap();
    let in_use = |now: u64| {
        tls.0.current_at(at(now));
        let state = tls.0.lock();
        let until = state.loaded.expires().unwrap().duration_since(at(0)).unwrap().as_secs();
        (until, state.problem.clone().unwrap_or_default(), state.failures)
    };
    let good = |until: u64, failures: u64| (until, String::new(), failures);
    assert_eq!(in_use(10), good(1000, 0));

    write(&pair, 600, 2000);
    let (until, problem, failures) = in_use(60);
    assert_eq!((until, failures), (1000, 1), "it begins later: {problem}");
    assert!(problem.contains("is not valid before 2030-03-17T17:56:40.000Z, in 9m; is the clock"), "{problem}");
    assert_eq!(in_use(70).2, 1, "told once");
    assert_eq!(in_use(600), good(2000, 1), "it begins now");

    write(&pair, 0, 500);
    let (until, problem, failures) = in_use(700);
    assert_eq!((until, failures), (2000, 2), "it has ended: {problem}");
    assert!(problem.contains("ended 2030-03-17T17:55:00.000Z, 3m ago; have it issued anew"), "{problem}");

    write(&pair, 5000, 6000);
    assert_eq!((in_use(800).0, in_use(1999).0), (2000, 2000));
    assert_eq!(in_use(2001), good(6000, 3), "neither is valid: the newer one will be");
    write(&pair, 0, 900);
    assert_eq!(in_use(2002), good(900, 3), "and what an operator wrote last counts");
    assert!(tls.0.lock().told);
    write(&pair, 0, 3000);
    assert_eq!(in_use(2003), good(3000, 3));
    assert!(!tls.0.lock().told);
}

#[test]
fn at_start_one_that_is_not_valid_is_used_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let pair = Pair { cert: dir.path().join("cert"), key: dir.path().join("key") };
    write(&pair, 0, 1000);
    assert!(matches!(not_valid(&pair.cert, at(2000)), Some(TlsError::Ended { .. })));
    assert!(matches!(not_valid(&pair.cert, at(0) - Duration::from_secs(1)), Some(TlsError::NotYet { .. })));
    assert!(not_valid(&pair.cert, at(0)).is_none() && not_valid(&pair.cert, at(1000)).is_none());
    // By the clock of this machine it begins in years.
    let tls = ServerTls::new(pair, ClientAuth::None).unwrap();
    let seen = tls.look();
    assert_eq!((seen.problem.clone(), seen.starts, seen.expires), (None, Some(at(0)), Some(at(1000))));
    assert!(tls.0.lock().told && !seen.is_valid(SystemTime::now()) && seen.is_valid(at(500)));
    tls.0.current_at(at(500));
    assert!(!tls.0.lock().told, "it became good without a restart");
}
