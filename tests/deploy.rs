//! What deploy/ says is what the program takes.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn outpost(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outpost"));
    command.args(args);
    command
}

fn help(args: &[&str]) -> String {
    let output = outpost(args).output().expect("outpost runs");
    String::from_utf8(output.stdout).expect("text")
}

/// Flags and variables of the environment that `outpost serve --help` lists.
fn known() -> BTreeSet<String> {
    let text = help(&["serve", "--help"]);
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'));
    let known: BTreeSet<_> =
        words.filter(|word| word.starts_with("--") || word.starts_with("OUTPOST_")).map(str::to_owned).collect();
    assert!(known.len() > 40, "{known:?}");
    known
}

fn flag(argument: &str) -> &str {
    argument.split('=').next().unwrap_or_default()
}

fn manifest() -> Vec<Value> {
    serde_saphyr::from_multiple(&read("deploy/outpost.yaml")).expect("YAML")
}

fn find<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    documents.iter().find(|document| document["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

#[test]
fn the_manifest_uses_flags_that_exist() {
    let documents = manifest();
    let container = &find(&documents, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    let args: Vec<_> =
        container["args"].as_array().expect("args").iter().map(|arg| arg.as_str().expect("text")).collect();
    assert_eq!(args[0], "serve");
    let known = known();
    for arg in &args[1..] {
        assert!(known.contains(flag(arg)), "outpost serve has no {arg}");
    }
    for variable in container["env"].as_array().expect("env") {
        let name = variable["name"].as_str().expect("a name");
        assert!(!name.starts_with("OUTPOST_") || known.contains(name), "outpost reads no {name}");
    }
    // The whole line is taken: what fails is only that this address is not ours.
    let mut line = args.clone();
    line.push("--listen=999.0.0.1:1");
    let output = outpost(&line).output().expect("outpost runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert_eq!(said.lines().count(), 2, "more is wrong than the address: {said}");
}

#[test]
fn the_manifest_hangs_together() {
    let documents = manifest();
    let (deployment, service) = (find(&documents, "Deployment"), find(&documents, "Service"));
    let pod = &deployment["spec"]["template"];
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]);
    assert_eq!(pod["metadata"]["labels"], service["spec"]["selector"]);
    let container = &pod["spec"]["containers"][0];
    let ports = container["ports"].as_array().expect("ports");
    let port = |name: &Value| {
        let found = ports.iter().find(|port| port["name"] == *name).unwrap_or_else(|| panic!("no port {name}"));
        found["containerPort"].as_u64().expect("a number")
    };
    let args = container["args"].as_array().expect("args");
    let listens = |flag: &str, port: u64| {
        let want = format!("{flag}=0.0.0.0:{port}");
        assert!(args.iter().any(|arg| *arg == want.as_str()), "no {want}");
    };
    listens("--listen", port(&service["spec"]["ports"][0]["targetPort"]));
    for (probe, path) in [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        assert_eq!(container[probe]["httpGet"]["path"], path);
        listens("--admin", port(&container[probe]["httpGet"]["port"]));
    }
    let drain = args.iter().find_map(|arg| arg.as_str()?.strip_prefix("--drain=")?.strip_suffix('s')).expect("--drain");
    let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().expect("a number");
    assert!(grace > drain.parse().expect("seconds"), "killed while it drains");
    assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true);
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
}

#[test]
fn the_image_uses_flags_and_ports_that_exist() {
    let text = read("deploy/Dockerfile");
    let line = |start: &str| {
        text.lines().rev().find_map(|line| line.strip_prefix(start)).unwrap_or_else(|| panic!("no {start}"))
    };
    let command: Vec<String> = serde_json::from_str(line("CMD ")).expect("a list");
    assert_eq!(command[0], "serve");
    let known = known();
    for arg in &command[1..] {
        assert!(known.contains(flag(arg)), "outpost serve has no {arg}");
    }
    for port in line("EXPOSE ").split_whitespace() {
        assert!(command.iter().any(|arg| arg.ends_with(&format!(":{port}"))), "nothing listens on {port}");
    }
    assert!(!line("USER ").starts_with('0'), "runs as root");
}

#[test]
fn the_example_is_a_valid_configuration() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples/outpost.yaml");
    let output = outpost(&["config", "validate", "--config"]).arg(&example).output().expect("outpost runs");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_example_of_files_is_valid() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples/files");
    let output = outpost(&["config", "validate", "--files"]).arg(&example).output().expect("outpost runs");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("4 resources of 3 files"));
}

/// README names flags in code; each must exist.
#[test]
fn the_readme_names_flags_that_exist() {
    let mut known = known();
    for verb in [
        "status",
        "explain",
        "version",
        "demo",
        "bench",
        "config",
        "check",
        "log-level",
        "envoy-bootstrap",
        "config-dump",
    ] {
        let text = help(&[verb, "--help"])
            + &if verb == "bench" { help(&["bench", "compare", "--help"]) } else { String::new() };
        known.extend(text.split(|c: char| !(c.is_alphanumeric() || c == '-')).map(str::to_owned));
    }
    known.extend(["--release", "--test", "--lib", "--namespace", "--all-targets", "--open"].map(str::to_owned));
    let text = read("README.md");
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'));
    for word in words.filter(|word| word.len() > 2 && word.starts_with("--") && !word.starts_with("---")) {
        assert!(known.contains(word), "README.md names {word}, which is no flag");
    }
}
