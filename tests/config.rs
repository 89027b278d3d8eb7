//! `outpost config` and `--config`, as an operator meets them: output and exit
//! code of the real program.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs the program in `dir`, with these variables and no others of ours.
fn run(dir: &Path, env: &[(&str, &str)], args: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outpost"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OUTPOST_")) {
        command.env_remove(name);
    }
    let output = command.current_dir(dir).envs(env.iter().copied()).args(args).output().expect("outpost runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// A directory with a file `o.yaml`.
fn with(text: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("o.yaml"), text).unwrap();
    dir
}

/// What `config validate` says of a file: the exit code and stderr.
fn validate(text: &str) -> (Option<i32>, String) {
    let dir = with(text);
    let said = run(dir.path(), &[], &["config", "validate", "--config=o.yaml"]);
    assert_eq!(said.out.is_empty(), said.code != Some(0), "data only where it is valid: {}", said.out);
    (said.code, said.err)
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn parsed(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Dotted keys of all that is no section.
fn keys(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value.as_object() {
        Some(object) if !path.ends_with("metadata") => {
            for (name, below) in object {
                let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                keys(below, &key, into);
            }
        }
        _ => {
            into.insert(path.into());
        }
    }
}

#[test]
fn a_sound_file_is_valid() {
    let said = run(&root("deploy/examples"), &[], &["config", "validate", "--config", "outpost.yaml"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "the configuration is valid\n"));
    assert!(said.err.starts_with("outpost: warning: sidecars connect in plain text"), "{}", said.err);
    for text in [
        "upstream: {addresses: [a:1]}",
        "{\"upstream\": {\"addresses\": [\"a:1\"], \"connections\": 3}}",
        "\u{feff}upstream:\n  addresses: ['a:1 b:2', \"c:3,d:4\"]\n  metadata: [A=1, A=2]\ndownstream:\nlimits:\n  nameBytes: 4096\n",
        "---\nupstream: { addresses: [\"[::1]:1\"], tls: { enabled: True } }\n...\n",
    ] {
        assert_eq!(validate(text), (Some(0), String::new()), "{text}");
    }
}

#[test]
fn a_variable_that_is_none_is_told() {
    let dir = with("upstream: {addresses: [a:1]}");
    let env = [("OUTPOST_MAX_NAME", "7"), ("OUTPOST_SERVICE_HOST", "10.0.0.1")];
    let said = run(dir.path(), &env, &["config", "validate", "--config=o.yaml"]);
    let told = "outpost: warning: \"OUTPOST_MAX_NAME\" is no variable of Outpost, and changes nothing; did you mean \
                OUTPOST_MAX_NAMES?\n";
    assert_eq!((said.code, said.err.as_str()), (Some(0), told));
}

#[test]
fn every_error_is_told_at_once_with_its_place() {
    let text = "\
identifier: 7
downstream:
  listen: [localhost, 127.0.0.1:1, 127.0.0.1:1]
  tls:
    certificate: /nonexistent
  listn: []
  drain: 30
upstream:
\taddresses: []
";
    // Of what is no YAML nothing else is known.
    let (code, said) = validate(text);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("o.yaml:9:") && said.contains("this is not YAML: "), "{said}");
    assert!(!said.contains("is missing"), "what is known only of a file that is read: {said}");

    let text = text.replace('\t', "  ");
    let (code, said) = validate(&text);
    assert_eq!(code, Some(3), "{said}");
    let want = "\
outpost: the configuration is not valid:
  o.yaml:1:13: identifier: expected text, found a number; write \"7\"
      1 | identifier: 7
        |             ^
  o.yaml:3:12: downstream.listen \"localhost\" is no IP:PORT and no unix:PATH
      3 |   listen: [localhost, 127.0.0.1:1, 127.0.0.1:1]
        |            ^^^^^^^^^
  o.yaml:3:36: downstream.listen \"127.0.0.1:1\" is given twice; leave one out
      3 |   listen: [localhost, 127.0.0.1:1, 127.0.0.1:1]
        |                                    ^^^^^^^^^^^
  o.yaml:5:5: downstream.tls.certificate is given without its key; add downstream.tls.key
      5 |     certificate: /nonexistent
        |     ^^^^^^^^^^^
  o.yaml:5:18: downstream.tls.certificate \"/nonexistent\" cannot be read (No such file or directory (os error 2)); name a file that this user may read
      5 |     certificate: /nonexistent
        |                  ^^^^^^^^^^^^
  o.yaml:6:3: unknown key downstream.listn; did you mean downstream.listen?
      6 |   listn: []
        |   ^^^^^
  o.yaml:7:10: downstream.drain: expected a span of time such as 30s, found a number
      7 |   drain: 30
        |          ^^
  o.yaml:9:3: upstream.addresses is missing; name the control plane, such as istiod.example:15012, or a directory with upstream.files
      9 |   addresses: []
        |   ^^^^^^^^^
";
    assert_eq!(said, want, "{said}");
    let dir = with(&text);
    let served = run(dir.path(), &[], &["serve", "--config=o.yaml"]);
    assert_eq!((served.code, served.err), (Some(3), said), "serve says the same");
}

#[test]
fn what_a_file_may_not_hold() {
    let rows = [
        ("upstream: {adresses: [a:1]}", "1:12: unknown key upstream.adresses; did you mean upstream.addresses?"),
        ("max-streams: 5", "1:1: unknown key max-streams; did you mean limits.streams?"),
        ("upstream: {tls: {server_name: a}}", "did you mean upstream.tls.serverName?"),
        ("log: {colour: red}", "1:7: unknown key log.colour; expected one of format, level"),
        ("log: {level: info}\nlog: {level: warn}", "2:1: duplicate key log; it is given in line 1 already"),
        ("upstream: {metadata: {A: b, A: c}}", "1:29: duplicate key upstream.metadata.A"),
        ("limits: {streams: many}", "1:19: limits.streams: expected a number, found text"),
        ("limits: {streams: \"5\"}", "found text; leave the quotes out"),
        ("limits: {streams: 0}", "1:19: limits.streams \"0\" is no number between 1 and 1000000"),
        ("limits: {streams: {}}", "expected a number, found keys and values"),
        ("limits: 5", "1:9: limits: expected keys and values, found a number"),
        ("limits: {messageBytes: 12XB}", "1:24: limits.messageBytes \"12XB\" is no size"),
        ("protocol: {coldErrors: yes}", "protocol.coldErrors: expected true or false, found text"),
        ("protocol: {coldErrors: \"true\"}", "found text; leave the quotes out"),
        ("downstream: {listen: 127.0.0.1:1}", "expected a list of text, found text; write [127.0.0.1:1]"),
        ("downstream: {listen: []}", "1:14: downstream.listen names no address"),
        ("downstream: {listen: [1]}", "expected text, found a number; write \"1\""),
        ("downstream: {drain: ~}", "found nothing; give one, or leave the key out"),
        ("upstream: {metadata: {A=: b}}", "this is no key; leave = out"),
        ("upstream: {metadata: {A: 5}}", "1:26: upstream.metadata: expected text, found a number; put it in quotes"),
        ("upstream: {addresses: [\"http://a:1\"]}", "write HOST:PORT, and say upstream.tls.enabled for TLS"),
        ("groups: {secrets: all}", "1:19: groups.secrets \"all\" is none of identity, trustNetwork"),
        ("log: {level: &a info, format: *a}", "1:31: aliases are not read here; write the value itself"),
        ("log: {level: !x info}", "tags are not read here"),
        ("log: {[a]: b}", "1:7: expected a key, found a list"),
        ("log: {}\n---\nlog: {}", "3:1: a second document begins here"),
        ("log: {level: info", "this is not YAML: "),
    ];
    for (text, want) in rows {
        let (code, said) = validate(text);
        assert_eq!(code, Some(3), "{text}: {said}");
        assert!(said.contains(want), "{text}: {want:?} is not in {said}");
        // Of what may hold a credential, no line is shown.
        assert_eq!(said.contains(" | "), !text.contains("metadata"), "{text}: {said}");
    }
    for (text, found) in [("- a", "a list"), ("s3cr3t", "text")] {
        let (code, said) = validate(text);
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains(&format!("1:1: the file: expected keys and values, found {found}\n")), "{said}");
        assert!(!said.contains("s3cr3t"), "what is no configuration may be a secret: {said}");
    }
    let dir = with("");
    for (name, want) in [("nothing.yaml", "cannot be read"), (".", "is a directory"), ("bytes", "is no UTF-8 text")] {
        std::fs::write(dir.path().join("bytes"), [0xff, 0xfe]).unwrap();
        let flag = format!("--config={name}");
        let said = run(dir.path(), &[], &["config", "validate", &flag]);
        assert_eq!(said.code, Some(3));
        assert_eq!(said.err.lines().count(), 2, "only that: {}", said.err);
        assert!(said.err.contains(&format!("--config {name:?} {want}")), "{}", said.err);
    }
    let said = run(dir.path(), &[("OUTPOST_CONFIG", "nothing.yaml")], &["config", "validate"]);
    assert!(said.code == Some(3) && said.err.contains("OUTPOST_CONFIG \"nothing.yaml\" cannot"), "{}", said.err);
}

#[test]
fn an_error_names_where_the_value_came_from() {
    let dir = with("upstream: {addresses: [a:1]}\nlog: {level: info}\n");
    let validate = |env: &[(&str, &str)], flag: &str| {
        let said = run(dir.path(), env, &["config", "validate", "--config=o.yaml", flag]);
        assert_eq!(said.code, Some(3), "{}", said.err);
        said.err
    };
    let said = validate(&[("OUTPOST_LOG_LEVEL", "loud=very"), ("OUTPOST_UPSTREAM_TOKEN_FILE", "o.yaml")], "--drain=x");
    for want in [
        "  OUTPOST_LOG_LEVEL \"loud=very\" is no level",
        "  --drain \"x\" is no span of time",
        "  OUTPOST_UPSTREAM_TOKEN_FILE would be sent in plain text; add upstream.tls.enabled or upstream.tls.ca",
    ] {
        assert!(said.contains(want), "{want:?} is not in {said}");
    }
    let alone = run(dir.path(), &[], &["config", "validate"]);
    assert!(alone.err.contains("  --upstream is missing; name the control plane"), "{}", alone.err);
    let warned = run(dir.path(), &[], &["config", "validate", "--config=o.yaml", "--listen=0.0.0.0:1"]);
    assert_eq!(warned.code, Some(0));
    let want = "reaches --listen can state any node and read what it gets; give downstream.tls.certificate";
    assert!(warned.err.contains(want), "{}", warned.err);
}

#[test]
fn later_layers_win_and_each_value_tells_its_origin() {
    let file = "\
upstream:
  addresses:
    - a:1
  tls:
    enabled: true
  metadata:
    K: \"x,y=z\"
limits:
  streams: 11
  names: 12
  connections: 13
";
    let dir = with(file);
    let env = [("OUTPOST_CONFIG", "o.yaml"), ("OUTPOST_MAX_NAMES", "22"), ("OUTPOST_MAX_CONNECTIONS", "23")];
    let env = [&env[..], &[("OUTPOST_LISTEN", "127.0.0.1:1,127.0.0.1:2")]].concat();
    let flags = ["--max-connections=33", "--upstream-tls=false", "--cold-errors"];
    let said = run(dir.path(), &env, &[&["config", "effective"], &flags[..]].concat());
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    for want in [
        "  listen: # OUTPOST_LISTEN\n    - 127.0.0.1:1\n    - 127.0.0.1:2\n",
        "    # certificate is not set\n",
        "  addresses: # o.yaml:2\n    - a:1\n",
        "    enabled: false # --upstream-tls\n",
        "  metadata: # o.yaml:6\n    K: \"[redacted]\"\n",
        "  streams: 11 # o.yaml:9\n",
        "  names: 22 # OUTPOST_MAX_NAMES\n",
        "  connections: 33 # --max-connections\n",
        "  coldErrors: true # --cold-errors\n",
        "  nameBytes: 4KiB # default\n",
    ] {
        assert!(said.out.contains(want), "{want:?} is not in {}", said.out);
    }
    // It is a configuration itself, and gives the same.
    let same = with(&said.out);
    let again = run(same.path(), &[], &["config", "effective", "--config=o.yaml"]);
    assert_eq!(again.code, Some(0), "{}", again.err);
    assert_eq!(parsed(&again.out), parsed(&said.out));

    let said = run(dir.path(), &env, &[&["config", "effective", "-o", "json"], &flags[..]].concat());
    assert_eq!(said.code, Some(0), "{}", said.err);
    let json: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&json["apiVersion"], &json["kind"]), (&"outpost/v1".into(), &"Settings".into()));
    let item = |key: &str| json["items"].as_array().unwrap().iter().find(|item| item["key"] == key).unwrap().clone();
    let streams = serde_json::json!({
        "key": "limits.streams", "value": 11, "origin": "file", "file": "o.yaml", "line": 9,
        "flag": "--max-streams", "environment": "OUTPOST_MAX_STREAMS",
    });
    assert_eq!(item("limits.streams"), streams);
    let rows = [
        ("limits.names", "environment", serde_json::json!(22)),
        ("limits.connections", "flag", serde_json::json!(33)),
        ("upstream.tls.enabled", "flag", serde_json::json!(false)),
        ("upstream.tls.ca", "unset", Value::Null),
        ("upstream.metadata", "file", serde_json::json!({ "K": "[redacted]" })),
        ("limits.nameBytes", "default", serde_json::json!("4KiB")),
    ];
    for (key, origin, value) in rows {
        let item = item(key);
        assert_eq!((&item["origin"], &item["value"]), (&origin.into(), &value), "{key}");
    }
    let bad = run(dir.path(), &env, &["config", "effective", "--drain=x"]);
    assert_eq!((bad.code, bad.out.as_str()), (Some(3), ""), "{}", bad.err);
}

#[test]
fn the_defaults_are_a_valid_file_that_names_everything() {
    let dir = with("");
    let said = run(dir.path(), &[], &["config", "defaults"]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    assert_eq!(validate(&said.out), (Some(0), String::new()), "{}", said.out);
    let serve = run(dir.path(), &[], &["serve", "--help"]).out;
    let words = serve.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'));
    let names: BTreeSet<_> = words.filter(|word| word.starts_with("--") || word.starts_with("OUTPOST_")).collect();
    let not_keys = ["--config", "--help", "OUTPOST_CONFIG"];
    for name in names.iter().filter(|name| name.len() > 2 && !not_keys.contains(name)) {
        assert!(said.out.contains(name), "{name} is not in {}", said.out);
    }
    for want in [
        "# A flag wins over the environment",
        "  # Serve xDS here: IP:PORT or unix:PATH\n",
        "  # With downstream.tls.clientCa or downstream.jwt.jwks: must a client prove who it is? required or optional\n",
        "    # one of required, optional; --client-auth; OUTPOST_CLIENT_AUTH\n    clientAuth: required\n",
        "    # certificate: /etc/outpost/tls/tls.crt\n",
        "  # a number; --max-streams; OUTPOST_MAX_STREAMS\n  streams: 1000\n",
    ] {
        assert!(said.out.contains(want), "{want:?} is not in {}", said.out);
    }
    // With every comment that is an example taken away, it is valid in shape too.
    let key = |line: &&str| line.trim_start().strip_prefix("# ").is_some_and(|line| !line.contains(';'));
    let all: Vec<_> = said.out.lines().collect();
    let uncommented: Vec<String> = all
        .iter()
        .map(|line| {
            let example =
                key(line) && line.trim_start()[2..].split_once(':').is_some_and(|(name, _)| !name.contains(' '));
            let item = line.trim_start().starts_with("#   ");
            if example || item { line.replacen("# ", "", 1) } else { (*line).to_owned() }
        })
        .collect();
    let (_, wrong) = validate(&uncommented.join("\n"));
    for line in wrong.lines().filter(|line| line.starts_with("  o.yaml")) {
        // Of a control plane, or a cache of it, and files, one is left out.
        let both = ["stands in the place of a control plane", "stands in its place"].iter().any(|it| line.contains(it));
        assert!(both || line.contains("cannot be read"), "only the files are not here: {wrong}");
    }
    let mut found = BTreeSet::new();
    keys(&parsed(&uncommented.join("\n")), "", &mut found);
    let json = run(dir.path(), &[], &["config", "effective", "-o", "json", "--upstream=a:1"]).out;
    let json: Value = serde_json::from_str(&json).unwrap();
    let settings = json["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap().to_owned());
    assert_eq!(found, settings.collect());
}

/// `outpost config schema > deploy/schema/outpost.schema.json` after a change.
#[test]
fn the_schema_that_is_committed_is_the_schema() {
    let said = run(Path::new("."), &[], &["config", "schema"]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    let committed = std::fs::read_to_string(root("deploy/schema/outpost.schema.json")).unwrap();
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_eq!(json(&said.out), json(&committed), "run: outpost config schema > deploy/schema/outpost.schema.json");
    let schema = json(&said.out);
    assert_eq!(schema["additionalProperties"], false);
    let tls = &schema["properties"]["downstream"]["properties"]["tls"];
    assert_eq!(tls["additionalProperties"], false);
    assert_eq!(tls["properties"]["clientAuth"]["enum"], serde_json::json!(["required", "optional"]));
    assert_eq!(schema["properties"]["limits"]["properties"]["streams"]["default"], 1000);
}

/// A choice in the schema is one that the program takes, and the other way round.
#[test]
fn choices_are_those_that_are_checked() {
    for setting in outpost::config::Setting::all() {
        let outpost::config::Kind::Choice(choices) = setting.kind else { continue };
        let flag = |value: &str| format!("{}={value}", setting.flag);
        let dir = with("upstream: {addresses: [a:1]}");
        let check = |value: &str| run(dir.path(), &[], &["config", "validate", "--config=o.yaml", &flag(value)]);
        let refused = check("nonsense").err;
        assert!(refused.contains(&format!("is none of {}\n", choices.join(", "))), "{refused}");
        for choice in choices {
            // Some want others beside them.
            let said = check(choice);
            assert!(said.code == Some(0) || !said.err.contains("is none of"), "{}: {}", setting.key, said.err);
        }
    }
}

#[test]
fn usage() {
    let dir = with("");
    for args in [&["config"][..], &["config", "nothing"], &["config", "effective", "-o", "table"]] {
        assert_eq!(run(dir.path(), &[], args).code, Some(2), "{args:?}");
    }
    let help = run(dir.path(), &[], &["config", "--help"]);
    assert_eq!(help.code, Some(0));
    for verb in ["validate", "defaults", "schema", "effective"] {
        assert!(help.out.contains(verb), "{}", help.out);
    }
}
