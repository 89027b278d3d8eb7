use super::*;
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: Flags,
}

fn check(args: &[&str]) -> Result<Config, Problems> {
    let line = Line::try_parse_from(["outpost"].iter().chain(args)).expect("a command line");
    Config::check(&line.flags)
}

#[test]
fn defaults() {
    let config = check(&["--upstream", "istiod:15010"]).unwrap();
    assert_eq!(config.downstream.listen, [Listen::Tcp(([127, 0, 0, 1], 18000).into())]);
    assert_eq!(config.downstream.tls, None);
    assert_eq!((config.downstream.connections, config.downstream.pending_bytes), (20_000, 512 << 20));
    assert_eq!(config.downstream.limits.streams_per_connection, 1000);
    assert_eq!(config.downstream.limits.message_bytes, 32 << 20);
    assert_eq!(config.downstream.limits.ask.names, Limits::default().names);
    assert_eq!(config.downstream.limits.ask.name_bytes, Limits::default().name_bytes);
    assert_eq!(config.downstream.limits.node.metadata_bytes, NodeLimits::default().metadata_bytes);
    assert_eq!(config.downstream.limits.node.metadata_depth, NodeLimits::default().metadata_depth);
    assert_eq!(config.protocol.split_bytes, 3_670_016);
    assert_eq!(config.protocol.trust_initial_versions, TrustVersions::Wildcard);
    assert_eq!(config.upstream.endpoints[0].to_string(), "istiod:15010");
    assert_eq!((config.upstream.tls, config.upstream.speak), (None, Speak::Auto));
    assert_eq!(config.admin, Admin { address: ([127, 0, 0, 1], 19901).into(), asked: false });
}

#[test]
fn upstreams_have_priorities() {
    let config = check(&["--upstream", "a:1,b:2", "--upstream", "[::1]:3 d:4"]).unwrap();
    let endpoints: Vec<_> = config.upstream.endpoints.iter().map(|e| (e.to_string(), e.priority)).collect();
    let want = [("a:1", 0), ("b:2", 0), ("[::1]:3", 1), ("d:4", 2)];
    assert_eq!(endpoints, want.map(|(text, priority)| (text.to_owned(), priority)));
}

#[test]
fn choices() {
    let config = check(&[
        "--upstream=a:1",
        "--upstream-server-name=istiod.istio-system.svc",
        "--upstream-metadata=ClusterID=edge",
        "--no-legacy-wildcard=type=cds,agent=gRPC",
        "--trust-initial-versions=all",
        "--listen=unix:/run/outpost.sock",
        "--drain=1.5m",
        "--admin=127.0.0.1:0",
    ])
    .unwrap();
    assert!(config.upstream.tls.is_some());
    assert_eq!(config.upstream.metadata, [("clusterid".to_owned(), "edge".to_owned())]);
    let off = [NoWildcard::Type(TypeUrl::from_short("cds").unwrap()), NoWildcard::Agent("gRPC".into())];
    assert_eq!(config.protocol.no_legacy_wildcard, off);
    assert_eq!(config.protocol.trust_initial_versions, TrustVersions::All);
    assert_eq!(config.downstream.drain, Duration::from_secs(90));
    assert!(config.downstream.listen[0].is_local());
    assert!(config.admin.asked);
}

#[test]
fn every_problem_is_named_at_once() {
    let error = check(&[
        "--listen=localhost",
        "--tls-cert=/nonexistent/cert.pem",
        "--upstream=http://a:1",
        "--upstream=a:0",
        "--upstream-token-file=/nonexistent/token",
        "--upstream-connections=9",
        "--upstream-metadata=grpc-timeout=1",
        "--group={id}",
        "--secrets=all",
        "--max-names=-1",
        "--max-connections=0",
        "--max-pending-bytes=lots",
        "--max-message-bytes=12XB",
        "--no-legacy-wildcard=cds",
        "--admin=19901",
        "--log-level=loud=very",
        "--drain=30",
    ])
    .unwrap_err();
    let text = error.to_string();
    for want in [
        "--listen \"localhost\" is no IP:PORT and no unix:PATH",
        "--tls-cert \"/nonexistent/cert.pem\" cannot be read",
        "--tls-cert is given without its key; add --tls-key",
        "--upstream \"http://a:1\" has a scheme; write HOST:PORT, and say --upstream-tls for TLS",
        "--upstream \"a:0\" has no port between 1 and 65535",
        "--upstream-token-file would be sent in plain text; add --upstream-tls or --upstream-ca",
        "--upstream-connections \"9\" is no number between 1 and 8",
        "--upstream-metadata \"grpc-timeout\" is no request metadata",
        "--group \"{id}\" {id} would give each node a group of its own; say perNode",
        "--secrets \"all\" is none of identity, trustNetwork",
        "--max-names \"-1\" is no number between 1 and",
        "--max-connections \"0\" is no number between 1 and",
        "--max-pending-bytes \"lots\" is no size",
        "--max-message-bytes \"12XB\" is no size",
        "--no-legacy-wildcard \"cds\" is neither type=TYPE nor agent=PREFIX",
        "--admin \"19901\" is no IP:PORT",
        "--log-level \"loud=very\" is no level",
        "--drain \"30\" is no span of time",
    ] {
        assert!(text.contains(want), "{want:?} is not in:\n{text}");
    }
}

#[test]
fn addresses() {
    let hosts = [
        ("10.0.0.1:80", true),
        ("[::1]:80", true),
        ("istiod.istio-system.svc:15012", true),
        ("::1:80", false),
        ("[10.0.0.1]:80", false),
        (":80", false),
        ("a", false),
        ("a b:80", false),
        ("a:65536", false),
    ];
    for (text, fits) in hosts {
        assert_eq!(Endpoint::parse(text, 0).is_ok(), fits, "{text}");
    }
}

#[test]
fn whoever_trusts_more_is_warned() {
    let dir = tempfile::tempdir().unwrap();
    let file = |flag: &str| {
        let path = dir.path().join("pem");
        std::fs::write(&path, "").unwrap();
        format!("{flag}={}", path.display())
    };
    let (cert, key, ca) = (file("--tls-cert"), file("--tls-key"), file("--client-ca"));
    let tls = [&*cert, &*key, &*ca];
    let warned = |extra: &[&str]| {
        let warnings = check(&[&["--upstream=a:1"], extra].concat()).unwrap().warnings();
        ["can be any node", "whoever can connect", "in plain text"]
            .map(|text| warnings.iter().any(|warning| warning.contains(text)))
    };
    let told = |extra: &[&str], text: &str| {
        let warnings = check(&[&["--upstream=a:1"], extra].concat()).unwrap().warnings();
        warnings.iter().any(|warning| warning.contains(text))
    };
    let names = r#"--authorize={"identity": "**", "names": {"sds": ["default"]}}"#;
    for flag in ["--trust-domain=a", "--status-viewer=a", names] {
        assert!(told(&[flag], "no client proves it"), "{flag}");
        assert!(!told(&[&tls[..], &[flag]].concat(), "no client proves it"), "{flag}");
    }
    assert!(!told(&[], "no client proves it") && !told(&[], "name sds too"));
    assert!(told(&["--sensitive-types=cds"], "name sds too"));
    assert!(!told(&["--sensitive-types=cds", "--sensitive-types=sds"], "name sds too"));
    assert_eq!(warned(&[]), [false, false, false], "a loopback address by default");
    assert_eq!(warned(&["--listen=0.0.0.0:1", "--secrets=trustNetwork"]), [false, true, true]);
    assert_eq!(warned(&tls), [false, false, false]);
    assert_eq!(warned(&[&tls[..], &["--client-auth=optional"]].concat()), [true, false, false]);
}

/// What is derived from a setting that waits for a restart waits with it.
#[test]
fn what_counts_at_once_is_not_mixed_with_what_waits() {
    #[derive(Parser)]
    struct Whole {
        #[command(flatten)]
        given: Given,
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("outpost.yaml");
    let read = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let config = format!("--config={}", file.display());
        Layers::read(&Whole::try_parse_from(["outpost", "--upstream=a:1", &config]).unwrap().given)
    };
    let started = read("identifier: one\n");
    let later = "identifier: two\nupstream: { connections: 3 }\nlog: { level: debug }\n";
    assert_eq!(read(later).check().unwrap().upstream.connections, 3);
    let counts = read(later).live_over(&started);
    let config = counts.check().unwrap();
    assert_eq!((config.identifier.as_str(), config.upstream.connections), ("two", 2));
    assert_eq!(config.log.filter, "debug");
    let value = |key: &str| counts.values().iter().find(|value| value.setting.key == key).unwrap();
    assert_eq!(value("upstream.connections").origin, Origin::Default);
}

/// A key of an API is given as request metadata, and is in no message.
#[test]
fn values_of_metadata_are_not_told() {
    #[derive(Parser)]
    struct Whole {
        #[command(flatten)]
        given: Given,
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("outpost.yaml");
    let read = |text: &str, flags: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let config = format!("--config={}", file.display());
        let line = ["outpost", "--upstream=a:1", &config].into_iter().chain(flags.iter().copied());
        Layers::read(&Whole::try_parse_from(line).unwrap().given)
    };
    for key in ["upstream: {metadata: ", "groups: {sharedNode: {metadata: "] {
        for value in [
            "hunter2",
            "[hunter2]",
            "[=hunter2]",
            "{grpc-key=hunter2: x}",
            "{k: [hunter2]}",
            "{k: {hunter2: x}}",
            "{k: 0xhunter2, k: hunter2}",
            "[\"hunter2==\", 7]",
        ] {
            let text = format!("{key}{value}{}", "}".repeat(key.matches('{').count()));
            let problems = read(&text, &[]).check().map(|_| ()).expect_err(&text);
            assert!(!problems.to_string().contains("hunter2") && !problems.brief().contains("hunter2"), "{problems}");
        }
    }
    let bad = ["--upstream-metadata=te=hunter2", "--upstream-metadata=hunter2", "--shared-node-metadata=hunter2"];
    let said = read("", &bad).check().unwrap_err().to_string();
    assert!(said.contains("--upstream-metadata \"te\" is no request metadata") && !said.contains("hunter2"), "{said}");
    let layers = read("upstream: {metadata: {X-Key: hunter2}}", &["--shared-node-metadata=K=hunter2"]);
    layers.check().unwrap();
    let shown = super::effective(layers.values());
    assert!(shown.contains("X-Key: \"[redacted]\"") && shown.contains("K: \"[redacted]\""), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}
