use super::*;
use crate::group::GroupKey;
use crate::xds::TypeUrl;
use tempfile::TempDir;

const CLUSTER: &str = "\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ROUTES: &str = "\"@type\": type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

fn directory(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn loaded(files: &[(&str, &str)]) -> Loaded {
    let dir = directory(files);
    load(dir.path()).unwrap_or_else(|problems| panic!("{problems}")).1
}

/// Without the directory's own name.
fn problems(files: &[(&str, &str)]) -> String {
    let dir = directory(files);
    let text = load(dir.path()).expect_err("something is wrong").to_string();
    text.replace(&format!("{}/", dir.path().display()), "").replace(&dir.path().display().to_string(), "DIR")
}

fn names(view: &View, short: &str) -> Vec<String> {
    let content = view.of(&TypeUrl::from_short(short).unwrap()).cloned().unwrap_or_default();
    content.all().map(|resource| resource.name.as_deref().unwrap_or_default().to_owned()).collect()
}

fn view<'l>(loaded: &'l Loaded, key: &str) -> &'l View {
    loaded.view(GroupKey::new(key).called())
}

fn label(loaded: &Loaded, key: &str, short: &str) -> String {
    let content = view(loaded, key).of(&TypeUrl::from_short(short).unwrap());
    content.map(|content| content.label.to_string()).unwrap_or_default()
}

#[test]
fn each_form_is_read() {
    let two = format!("{CLUSTER}\nname: a\n---\n{CLUSTER}\nname: b\n");
    let list = format!("- {CLUSTER}\n  name: c\n- {ROUTES}\n  name: r\n");
    let response = format!("version_info: \"7\"\nresources:\n- {CLUSTER}\n  name: d\n");
    let json = r#"{"resources": [{"@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "clusterName": "e"}]}"#;
    let wrapped = r#"{"@type": "type.googleapis.com/envoy.service.discovery.v3.Resource", "name": "r/host",
        "aliases": ["r/other"], "resource": {
        "@type": "type.googleapis.com/envoy.config.route.v3.VirtualHost", "name": "host", "domains": ["*"]}}"#;
    let files = [
        ("two.yaml", two.as_str()),
        ("list.yml", &list),
        ("response.yaml", &response),
        ("assignment.json", json),
        ("wrapped.json", wrapped),
        ("empty.yaml", "# nothing\n"),
        ("README.md", "no resources"),
        (".hidden.yaml", "no: {resources"),
        ("..data/old.yaml", "no: {resources"),
    ];
    let loaded = loaded(&files);
    let view = loaded.view(Some("n"));
    assert_eq!(names(view, "cds"), ["a", "b", "c", "d"]);
    assert_eq!((names(view, "rds"), names(view, "eds")), (vec!["r".into()], vec!["e".into()]));
    assert_eq!(names(view, "vhds"), ["r/host"]);
    let hosts = view.of(&TypeUrl::from_short("vhds").unwrap()).unwrap();
    assert_eq!(hosts.named("r/other").len(), 1);
    assert_eq!((loaded.files, loaded.resources), (6, 7));
}

#[test]
fn a_group_adds_and_replaces() {
    let own = format!("{CLUSTER}\nname: a\nalt_stat_name: own\n---\n{ROUTES}\nname: own\n");
    let all = format!("{CLUSTER}\nname: a\n---\n{CLUSTER}\nname: b\n---\n{ROUTES}\nname: all\n");
    let loaded = loaded(&[("all.yaml", &all), ("web%2Fold/own.yaml", &own)]);
    assert_eq!(loaded.groups().collect::<Vec<_>>(), ["web/old"]);
    for key in ["web/old", "web/old;node;features=12", "web%2Fold;node;identity=a"] {
        assert_eq!(names(view(&loaded, key), "rds"), ["all", "own"], "{key}");
        assert_eq!(names(view(&loaded, key), "cds"), ["a", "b"], "{key}");
        assert_ne!(label(&loaded, key, "cds"), label(&loaded, "other", "cds"), "{key}");
    }
    for key in ["web", "", ";nodeless", "web/old/er", "web/old;unmatched", "web/old;unmatched;identity=a"] {
        assert_eq!(names(view(&loaded, key), "rds"), ["all"], "{key}");
    }
}

#[test]
fn equal_content_has_equal_labels_however_it_is_written() {
    let (a, b) = (format!("{CLUSTER}\nname: a\nconnect_timeout: 1s\n"), format!("{CLUSTER}\nname: b\n"));
    let one = loaded(&[("z.yaml", &format!("{b}---\n{a}"))]);
    let json =
        r#"[{"connectTimeout": "1s", "name": "a", "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster"}]"#;
    let two = loaded(&[("a.json", json), ("b.yaml", &b)]);
    let other = loaded(&[("b.yaml", &b)]);
    assert_eq!(label(&one, "", "cds"), label(&two, "", "cds"));
    assert_ne!(label(&one, "", "cds"), label(&other, "", "cds"));
}

#[test]
fn what_is_wrong_is_told_by_file_line_column_and_field() {
    let one = |text: &str| problems(&[("a.yaml", text)]);
    let table = [
        (format!("{CLUSTER}\nname: 5\n"), "a.yaml:2:7: name: expected text, found a number; put it in quotes"),
        (
            format!("resources:\n- {CLUSTER}\n  name: a\n  load_assignment: {{endpoints: [{{lb_endpoint: []}}]}}\n"),
            "a.yaml:4:34: resources[0].load_assignment.endpoints[0]: envoy.config.endpoint.v3.LocalityLbEndpoints has \
             no field \"lb_endpoint\"; did you mean lb_endpoints?",
        ),
        ("a: [1\n".into(), "this is not YAML"),
        ("just text".into(), "a.yaml:1:1: expected a resource, a list of them, or resources:, found text"),
        ("name: a".into(), "a.yaml:1:1: expected \"@type\", found none"),
        ("resource: []".into(), "expected \"@type\", found none"),
        ("resources: {}".into(), "a.yaml:1:12: resources: expected a list, found keys and values"),
        ("resources: []\nresource: 1\n".into(), "a.yaml:2:1: unknown key \"resource\" beside resources"),
        ("resources: []\nhunter2: 1\n".into(), "a.yaml:2:1: a key that is not known beside resources"),
        (CLUSTER.into(), "a.yaml:1:1: expected a name, found none; give name"),
        (
            "\"@type\": type.googleapis.com/envoy.config.endpoint.v3.LbEndpoint".into(),
            "this type has no name of its own; give it within \"@type\": type.googleapis.com/envoy.service.discovery",
        ),
        (
            "\"@type\": other.example/envoy.config.cluster.v3.Cluster\nname: a".into(),
            "is no type that is served; write type.googleapis.com/",
        ),
        (
            format!(
                "\"@type\": type.googleapis.com/envoy.service.discovery.v3.Resource\nttl: 1s\nresource: {{{CLUSTER}, \
                 name: a}}"
            ),
            "a ttl runs out unless it is refreshed",
        ),
    ];
    for (text, want) in table {
        let said = one(&text);
        assert!(said.contains(want), "{text}\n  said {said}\n  want {want}");
    }
    let two = problems(&[("a.yaml", &format!("{CLUSTER}\nname: 5\n")), ("b.yaml", "[}")]);
    assert!(two.contains("a.yaml:2:7") && two.contains("b.yaml:1:1"), "all at once: {two}");
}

#[test]
fn two_of_one_name_are_told_with_both_places() {
    let text = format!("# one\n{CLUSTER}\nname: a\n");
    let said = problems(&[("a.yaml", &text), ("b.yaml", &format!("- {CLUSTER}\n  name: a\n"))]);
    assert_eq!(said, "b.yaml:1:3: cds \"a\" is given twice; it is in a.yaml:2 already");
    let own = [("a.yaml", text.as_str()), ("g/a.yaml", &text), ("g/b.yaml", &text)];
    assert_eq!(problems(&own), "g/b.yaml:2:1: cds \"a\" is given twice; it is in g/a.yaml:2 already");
    loaded(&own[..2]);
}

#[test]
fn a_directory_that_cannot_be_meant_is_refused() {
    assert!(problems(&[]).starts_with("DIR: holds no file of resources"));
    assert!(problems(&[("a.txt", "x")]).starts_with("DIR: holds no file of resources"));
    assert_eq!(loaded(&[("a.yaml", "resources: []")]).resources, 0);
    assert!(problems(&[("a.yaml", "[]"), ("g/h/a.yaml", "[]")]).starts_with("g/h: is a directory in that of a group"));
    assert!(problems(&[("a.yaml", "[]"), ("g%2/a.yaml", "[]")]).starts_with("g%2: names no group"));
    let socket = directory(&[("b.yaml", "[]")]);
    let _bound = std::os::unix::net::UnixListener::bind(socket.path().join("a.yaml")).unwrap();
    assert!(load(socket.path()).unwrap_err().to_string().contains("a.yaml: is no file of text"));
    std::os::unix::fs::symlink("/dev/zero", socket.path().join("b.json")).unwrap();
    assert!(load(socket.path()).unwrap_err().to_string().contains("b.json: is no file of text"));
    let dir = directory(&[("b.yaml", "[]")]);
    std::os::unix::fs::symlink("/nonexistent", dir.path().join("a.yaml")).unwrap();
    assert!(load(dir.path()).unwrap_err().to_string().contains("a.yaml: cannot be read (No such file"));
    assert!(load(&dir.path().join("c")).unwrap_err().to_string().contains("cannot be read (No such file"));
    let bytes = directory(&[]);
    std::fs::write(bytes.path().join("a.yaml"), [0xff, 0xfe, 0]).unwrap();
    assert!(load(bytes.path()).unwrap_err().to_string().contains("is no UTF-8 text"));
}

#[test]
fn a_look_sees_every_change() {
    let dir = directory(&[("..1/a.yaml", "[]"), ("..2/a.yaml", "[]")]);
    let path = |name: &str| dir.path().join(name);
    std::os::unix::fs::symlink("..1", path("..data")).unwrap();
    std::os::unix::fs::symlink("..data/a.yaml", path("a.yaml")).unwrap();
    let first = scan(dir.path()).unwrap();
    assert_eq!(scan(dir.path()).unwrap(), first);
    std::os::unix::fs::symlink("..2", path("..new")).unwrap();
    std::fs::rename(path("..new"), path("..data")).unwrap();
    let second = scan(dir.path()).unwrap();
    assert_ne!(second, first, "the symlink was swapped");
    std::fs::write(path("b.yaml"), "[]").unwrap();
    assert_ne!(scan(dir.path()).unwrap(), second);
}
