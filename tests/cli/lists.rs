//! Lists, descriptions and dumps of an Outpost with sidecars: the same in every
//! format, and never a secret.

use crate::support::control_plane::ControlPlane;
use crate::support::outpost::{Outpost, Ran};
use crate::support::resources::{cluster, secret};
use crate::support::sidecar::{CDS, Sidecar};
use crate::support::{check, eventually};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const SDS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// Node `n1` has clusters `c1` and `c2` and a secret, `n2` has rejected its clusters.
struct Scene {
    outpost: Outpost,
    _dir: tempfile::TempDir,
    control_plane: ControlPlane,
    _sidecars: [Sidecar; 2],
}

async fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = ControlPlane::start().await;
    control_plane.edit(|world| {
        world.set(&cluster("c1"));
        world.set(&cluster("c2"));
        world.set(&secret("key", "CERTIFICATE OF TEST", "PRIVATE KEY OF TEST"));
    });
    let outpost = Outpost::start(dir.path(), control_plane.port, &["--secrets=trustNetwork"]).await;
    let mut one = Sidecar::connect(outpost.port, "n1").await;
    let clusters = one.hear().await;
    one.answer(&clusters, None);
    one.ask(SDS, &["key"]);
    let secret = one.hear().await;
    one.answer_for(&secret, &["key"], None);
    let mut two = Sidecar::connect(outpost.port, "n2").await;
    let clusters = two.hear().await;
    two.answer(&clusters, Some("bad clusters"));
    let scene = Scene { outpost, _dir: dir, control_plane, _sidecars: [one, two] };
    eventually("all have answered", || async {
        let ran = scene.run(&["get", "sidecars"]);
        check(ran.data.contains("SYNCED") && ran.data.contains("REJECTED"), || ran.data.clone())
    })
    .await;
    scene
}

impl Scene {
    fn run(&self, verb: &[&str]) -> Ran {
        self.outpost.verb(verb)
    }

    fn good(&self, verb: &[&str]) -> String {
        let ran = self.run(verb);
        assert_eq!(ran.code, Some(0), "{verb:?}: {ran:?}");
        ran.data
    }

    fn json(&self, verb: &[&str]) -> Value {
        serde_json::from_str(&self.good(&[verb, &["-o", "json"]].concat())).unwrap()
    }
}

fn names(value: &Value, key: &str) -> Vec<String> {
    let items = value["items"].as_array().expect("items");
    items.iter().map(|item| item[key].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_the_same_in_every_format() {
    let scene = scene().await;
    // What, its key in JSON, a filter, and who is left.
    let table: [(&str, &str, &[&str], &[&str]); 9] = [
        ("sidecars", "node", &[], &["n2", "n1"]),
        ("sidecars", "node", &["--node=*1"], &["n1"]),
        ("sidecars", "node", &["--type=sds"], &["n1"]),
        ("sidecars", "node", &["--group=n2;*"], &["n2"]),
        ("groups", "key", &[], &["n1;node", "n2;node"]),
        ("groups", "key", &["--node=n2"], &["n2;node"]),
        ("groups", "key", &["--type=sds"], &["n1;node"]),
        ("resources", "name", &["--node=n1"], &["c1", "c2", "key"]),
        ("resources", "name", &["--group=n*", "--type=cds", "--name-regex=.*2"], &["c2", "c2"]),
    ];
    for (what, key, filter, want) in table {
        let verb = [&["get", what], filter].concat();
        let list = scene.json(&verb);
        assert_eq!(list["apiVersion"], "outpost/v1");
        assert_eq!(names(&list, key), want, "{verb:?}");
        let yaml = scene.good(&[&verb[..], &["-o", "yaml"]].concat());
        let yaml: Value = serde_saphyr::from_str(&yaml).unwrap();
        assert_eq!(names(&yaml, key), want, "{verb:?}");
        let lines = scene.good(&[&verb[..], &["-o", "name"]].concat());
        assert_eq!(lines.lines().collect::<Vec<_>>(), want, "{verb:?}");
        for format in ["table", "wide"] {
            let rows = scene.good(&[&verb[..], &["-o", format]].concat());
            assert_eq!(rows.lines().count(), want.len() + 1, "{verb:?}: {rows}");
            assert!(rows.lines().skip(1).zip(want).all(|(row, name)| row.contains(name)), "{rows}");
        }
    }
    let status = scene.json(&["status", "--node=n1", "--type=cds"]);
    assert_eq!(
        (names(&status, "node"), status["items"][0]["types"].as_array().map(Vec::len)),
        (vec!["n1".into()], Some(1))
    );
    let checked = scene.run(&["status", "--check", "--node=n1", "-o", "yaml"]);
    assert_eq!(checked.code, Some(0), "the other is not looked at: {checked:?}");
    assert_eq!(scene.run(&["status", "--check", "-o", "name"]).code, Some(1));
    // Who waits for a node in a pipeline must not be told that it is well.
    let verbs =
        [("status", &["--check"][..], "nobody of that name is connected\n"), ("config-dump", &[], "there are none\n")];
    for (verb, check, said) in verbs {
        for format in ["table", "wide", "json", "yaml", "name"] {
            let nobody = scene.run(&[&[verb, "--node=nobody", "-o", format], check].concat());
            assert_eq!((nobody.code, nobody.messages.as_str()), (Some(1), said), "{verb} -o {format}: {nobody:?}");
        }
    }
    let nobody = scene.run(&["status", "--node=nobody"]);
    assert!(nobody.code == Some(0) && nobody.data.starts_with("no such sidecar is connected\n"), "{nobody:?}");

    let upstreams = scene.json(&["get", "upstreams"]);
    let address = format!("127.0.0.1:{}", scene.control_plane.port);
    assert_eq!(names(&upstreams, "address"), [address.as_str()]);
    let none = scene.run(&["get", "sidecars", "--node=nobody"]);
    assert_eq!((none.code, none.data.as_str(), none.messages.as_str()), (Some(0), "", "there are none\n"));
    assert_eq!(scene.json(&["get", "sidecars", "--node=nobody"])["items"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_thing_is_described_or_is_a_finding() {
    let scene = scene().await;
    let address = format!("127.0.0.1:{}", scene.control_plane.port);
    let table: [(&str, &str, &[&str]); 3] = [
        ("sidecar", "n2", &["node n2: stream", "group n2;node by rule perNode", "rejected", "bad clusters"]),
        ("group", "n1;node", &["1 member", "its stream to 127.0.0.1", "cds", "sds", "NODE", "SYNCED"]),
        ("upstream", &address, &["state", "connected", "delta", "round trip"]),
    ];
    for (what, name, wanted) in table {
        let text = scene.good(&["describe", what, name]);
        for wanted in wanted {
            assert!(text.contains(wanted), "no {wanted:?} in:\n{text}");
        }
        assert_eq!(scene.json(&["describe", what, name])["apiVersion"], "outpost/v1");
        assert_eq!(scene.good(&["describe", what, name, "-o", "name"]).trim(), name);
        for format in ["table", "wide", "json", "yaml", "name"] {
            let nobody = scene.run(&["describe", what, "nobody", "-o", format]);
            assert_eq!((nobody.code, nobody.data.as_str()), (Some(1), ""), "{what} {format}");
            assert!(nobody.messages.contains("\"nobody\" is not among the"), "{}", nobody.messages);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_is_envoys_and_holds_no_secret() {
    let scene = scene().await;
    let dump =
        |more: &[&str]| -> Value { serde_json::from_str(&scene.good(&[&["config-dump"], more].concat())).unwrap() };
    let of_group = dump(&["--group=n1;node"]);
    let clusters = &of_group["configs"][0];
    assert_eq!(clusters["@type"], "type.googleapis.com/envoy.admin.v3.ClustersConfigDump");
    let first = &clusters["dynamic_active_clusters"][0];
    assert_eq!((&first["cluster"]["name"], &first["cluster"]["@type"]), (&"c1".into(), &CDS.into()));
    let secret = &of_group["configs"][1];
    assert_eq!(secret["@type"], "type.googleapis.com/envoy.admin.v3.SecretsConfigDump");
    assert_eq!(secret["dynamic_active_secrets"][0]["name"], "key");

    let of_node = dump(&["--node=n2", "--resource=dynamic_active_clusters", "--mask=cluster.name,client_status"]);
    let rejected = &of_node["configs"][1];
    assert_eq!((&rejected["cluster"]["name"], &rejected["client_status"]), (&"c2".into(), &"NACKED".into()));
    assert_eq!(rejected.get("version_info"), None, "it is masked");
    let all = dump(&[]);
    let groups: Vec<_> = all["configs"].as_array().unwrap().iter().map(|each| each["group"].as_str()).collect();
    assert_eq!(groups, [Some("n1;node"), Some("n1;node"), Some("n2;node")]);

    let yaml = scene.good(&["config-dump", "--group=n1;node", "-o", "yaml"]);
    assert_eq!(serde_saphyr::from_str::<Value>(&yaml).unwrap(), of_group);
    assert_eq!(scene.good(&["config-dump", "--node=n1", "-o", "name"]), "c1\nc2\nkey\n");
    assert!(scene.good(&["config-dump", "--node=n2", "-o", "table"]).contains("NACKED"));
    let texts = [
        scene.outpost.admin("/config_dump").await.unwrap(),
        scene.outpost.admin("/config_dump?node=*&include_eds").await.unwrap(),
        scene.outpost.admin("/resources").await.unwrap(),
        scene.good(&["get", "resources", "-o", "json"]),
        scene.outpost.log(),
    ];
    for text in texts {
        assert!(!text.contains("OF TEST") && !text.contains("T0YgVEVTV"), "a secret in {text}");
    }
    for format in ["json", "yaml", "table", "wide", "name"] {
        let nobody = scene.run(&["config-dump", "--node=nobody", "-o", format]);
        assert_eq!(nobody.code, Some(1), "{format}: {nobody:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watching_shows_what_changes() {
    let scene = scene().await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_outpost"))
        .args(["get", "resources", "--group=n1;node", "--type=cds", "-o", "name", "--watch"])
        .env("OUTPOST_ADMIN", scene.outpost.admin_address())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (seen, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let out = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || out.lines().map_while(Result::ok).for_each(|line| drop(seen.send(line))));
    let mut next = async || {
        let line = tokio::time::timeout(crate::support::PATIENCE, lines.recv()).await.expect("a line in time");
        line.expect("it goes on")
    };
    assert_eq!([next().await, next().await], ["c1", "c2"]);
    scene.control_plane.edit(|world| world.set(&cluster("c3")));
    assert_eq!([next().await, next().await, next().await], ["c1", "c2", "c3"]);
    child.kill().unwrap();
    child.wait().unwrap();
}
