//! What tools and operators see of real sidecars: client status by an
//! independent client, and an Envoy that boots from what `envoy-bootstrap` wrote.

use crate::Test;
use crate::mesh::Mesh;
use crate::support::backend::Backend;
use crate::support::control_plane::ControlPlane;
use crate::support::envoy::{Bootstrap, Envoy, Variant};
use crate::support::outpost::{Outpost, run};
use crate::support::resources::{assignment, cluster, listener, route, secret, tls_listener};
use crate::support::tls::{Authority, ClientFiles};
use crate::support::{check, eventually};
use serde_json::Value;
use std::process::Command;
use std::time::Instant;

/// What tests/support/status_client.py saw.
fn ask(test: &Test, port: u16, identity: Option<&ClientFiles>) -> Result<Value, String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/status_client.py");
    let mut command = Command::new(&test.clients.python);
    command.arg(script).arg(format!("127.0.0.1:{port}"));
    if let Some(files) = identity {
        command.args([&files.authority, &files.certificate, &files.key]);
    }
    let output = command.output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    check(output.status.success(), || String::from_utf8_lossy(&output.stderr).into_owned())?;
    serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))
}

/// The resources of an answer: (short type, name) → the rest.
fn find<'a>(answer: &'a Value, kind: &str, name: &str) -> Option<&'a Value> {
    let configs = answer["config"].as_array()?.iter().flat_map(|config| config["genericXdsConfigs"].as_array());
    configs
        .flatten()
        .find(|each| each["name"] == name && each["typeUrl"].as_str().is_some_and(|url| url.ends_with(kind)))
}

const SERVICE: &str = "envoy.service.status.v3.ClientStatusDiscoveryService";

pub(crate) async fn client_status(test: Test, variant: Variant) {
    let mesh = Mesh::start(test, variant).await;
    let seen = eventually("all is acknowledged", || async {
        let seen = ask(&mesh.test, mesh.outpost.port, None)?;
        let synced = ["ClusterLoadAssignment", "Cluster", "Listener", "RouteConfiguration"].iter().all(|kind| {
            let name = if kind.starts_with('C') {
                "c1"
            } else if kind.starts_with('L') {
                "l1"
            } else {
                "rc1"
            };
            find(&seen["all"], kind, name).is_some_and(|each| each["configStatus"] == "SYNCED")
        });
        check(synced, || seen.to_string())?;
        Ok(seen)
    })
    .await;
    let services = seen["services"].as_array().expect("a list");
    for wanted in [SERVICE, "envoy.service.discovery.v3.AggregatedDiscoveryService", "grpc.health.v1.Health"] {
        assert!(services.iter().any(|name| name == wanted), "{wanted} in {services:?}");
    }
    assert_eq!(seen["methods"], serde_json::json!(["StreamClientStatus", "FetchClientStatus"]));
    let config = &seen["all"]["config"][0];
    assert_eq!((&config["node"]["id"], &config["clientScope"]), (&"n1".into(), &"ads".into()));
    assert_eq!(config["node"]["metadata"]["role"], "demo");
    let cluster = find(&seen["all"], ".Cluster", "c1").expect("c1");
    assert_eq!(cluster["clientStatus"], "ACKED");
    assert_eq!(cluster["xdsConfig"]["name"], "c1", "the content");
    assert!(cluster["lastUpdated"].as_str().is_some_and(|at| at.starts_with("20")), "{cluster}");
    let bare = find(&seen["bare"], ".Cluster", "c1").expect("c1");
    assert_eq!((&bare["versionInfo"], bare.get("xdsConfig")), (&cluster["versionInfo"], None));
    assert_eq!(seen["streamed"][0]["config"].as_array().map(Vec::len), Some(1));
    assert_eq!(seen["streamed"][1], serde_json::json!({}), "nobody of that name");
    mesh.done("reflection and client status by an independent client").await;
}

/// Whose certificate asks decides what it is told, and secrets are told to nobody.
pub(crate) async fn client_status_by_identity(test: Test) {
    let authority = Authority::new();
    let server = authority.write(&test.dir, "outpost", &authority.server("outpost.test"));
    let of = |name: &str| {
        let identity = authority.workload(&format!("spiffe://test/ns/default/sa/{name}"));
        authority.write(&test.dir, name, &identity)
    };
    let (one, other, operator) = (of("one"), of("other"), of("operator"));
    let served = authority.server("svc.test");
    let a = Backend::start("a").await;
    let control_plane = ControlPlane::start().await;
    control_plane.edit(|world| {
        world.set(&cluster("c1"));
        world.set(&assignment("c1", &[a.port]));
        world.set(&tls_listener("l1", "rc1", "server-key"));
        world.set(&route("rc1", "c1"));
        world.set(&secret("server-key", &served.certificate, &served.key));
    });
    let path = |path: &std::path::Path| path.display().to_string();
    let (certificate, key, ca) = (path(&server.certificate), path(&server.key), path(&server.authority));
    let flags = ["--tls-cert", &certificate, "--tls-key", &key, "--client-ca", &ca];
    let viewer = "--status-viewer=spiffe://test/ns/default/sa/operator";
    let outpost = Outpost::start(&test.dir, control_plane.port, &[&flags[..], &[viewer]].concat()).await;
    let bootstrap = Bootstrap::new("n1", Variant::Delta, outpost.port).mutual_tls(&one, "outpost.test");
    let envoy = Envoy::start(test.clients, &test.dir, "envoy", &bootstrap).await;
    envoy.listener("l1").await;
    let secret_of = |seen: &Value| find(&seen["all"], ".Secret", "server-key").cloned();
    for (who, sees) in [(&one, true), (&other, false), (&operator, true)] {
        let seen = ask(&test, outpost.port, Some(who)).expect("an answer");
        let text = seen.to_string();
        assert_eq!(seen["all"]["config"].is_array(), sees, "{text}");
        assert_eq!(secret_of(&seen).is_some(), sees, "{text}");
        let content = secret_of(&seen).and_then(|secret| secret.get("xdsConfig").cloned());
        assert!(content.is_none() && !text.contains("PRIVATE KEY") && !text.contains("inlineBytes"), "{text}");
    }
    ask(&test, outpost.port, None).expect_err("who shows no certificate is not connected at all");
    test.measured("each identity sees its own streams, a viewer all, nobody a secret");
}

/// Envoy takes the file, boots from it and serves traffic.
pub(crate) async fn bootstrap(test: Test, variant: Variant, tls: bool) {
    let a = Backend::start("a").await;
    let control_plane = ControlPlane::start().await;
    control_plane.edit(|world| {
        world.set(&cluster("c1"));
        world.set(&assignment("c1", &[a.port]));
        world.set(&listener("l1", "rc1"));
        world.set(&route("rc1", "c1"));
    });
    let authority = Authority::new();
    let server = authority.write(&test.dir, "outpost", &authority.server("outpost.test"));
    let client = authority.write(&test.dir, "client", &authority.workload("spiffe://test/ns/default/sa/one"));
    let path = |path: &std::path::Path| path.display().to_string();
    let (mut flags, mut more) = (Vec::new(), Vec::new());
    if tls {
        for (flag, file) in
            [("--tls-cert", &server.certificate), ("--tls-key", &server.key), ("--client-ca", &server.authority)]
        {
            flags.push(format!("{flag}={}", path(file)));
        }
        for (flag, file) in
            [("--tls-cert", &client.certificate), ("--tls-key", &client.key), ("--tls-ca", &client.authority)]
        {
            more.push(format!("{flag}={}", path(file)));
        }
        more.push("--tls-server-name=outpost.test".into());
    }
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let outpost = Outpost::start(&test.dir, control_plane.port, &flags).await;
    let spoken = if variant == Variant::Delta { "--variant=delta" } else { "--variant=sotw" };
    // By name, as in real life: it is resolved.
    let address = format!("--address=localhost:{}", outpost.port);
    let mut verb = vec!["envoy-bootstrap", "--node-id=n1", "--node-cluster=demo", &address, spoken];
    verb.extend(["--envoy-admin=127.0.0.1:0", "--metadata=role=demo"]);
    verb.extend(more.iter().map(String::as_str));
    let yaml = run(&verb);
    assert_eq!(yaml.code, Some(0), "{}", yaml.messages);
    let file = test.dir.join("bootstrap.yaml");
    std::fs::write(&file, &yaml.data).expect("write the bootstrap");
    let mut validate = Command::new(&test.clients.envoy);
    let validated = validate.args(["--mode", "validate", "-c"]).arg(&file).output().expect("run Envoy");
    assert!(validated.status.success(), "{}\n{}", yaml.data, String::from_utf8_lossy(&validated.stderr));

    let json = run(&[&verb[..], &["-o", "json"]].concat());
    let bootstrap = Bootstrap::of(serde_json::from_str(&json.data).expect("JSON"));
    let began = Instant::now();
    let envoy = Envoy::start(test.clients, &test.dir, "envoy", &bootstrap).await;
    let port = envoy.listener("l1").await;
    let took = began.elapsed();
    eventually("traffic flows", || async {
        let answer = crate::support::http::get(port, "any", "/").await?;
        check(answer.body == "a", || format!("{answer:?}"))
    })
    .await;
    test.measured(format_args!("validated, and booted in {took:?}"));
}
