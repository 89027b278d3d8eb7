use super::*;
use crate::admin::report::HeldResource;
use crate::content::{Body, Store, entry::Attributes};
use crate::xds::Status;
use serde_json::{Value, json};

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

fn asked(query: &[(&str, &str)]) -> Asked {
    let mut asked = Asked::default();
    for (key, value) in query {
        let value = Some((*value).to_owned());
        match *key {
            "node" => asked.node = value,
            "group" => asked.group = value,
            "type" => asked.type_url = value,
            "resource" => asked.resource = value,
            "mask" => asked.mask = value,
            "name_regex" => asked.name_regex = value,
            _ => asked.include_eds = value,
        }
    }
    asked
}

fn section(short: &str, group: &str, resources: &[(&str, &'static [u8])], store: &Store) -> Section {
    let type_url = TypeUrl::from_short(short).unwrap_or_else(|| TypeUrl::new(short));
    let held = |(name, value): &(&str, &'static [u8])| {
        let body = Body::Resource(store.blob(&type_url, value));
        let entry = store.entry(Name::from(*name), body, Attributes::default());
        Held { name: Name::from(*name), entry: Some(entry), standing: None }
    };
    Section {
        group: group.into(),
        node: None,
        version: "v7".into(),
        updated: Some(SystemTime::UNIX_EPOCH),
        sensitive: short == "sds",
        resources: resources.iter().map(held).collect(),
        type_url,
    }
}

/// Two clusters, a listener and a secret; names of clusters are their field 1.
fn world(store: &Store) -> Vec<Section> {
    vec![
        section("cds", "g1", &[("a", b"\x0a\x01a\x22\x02\x08\x01"), ("b", b"\x0a\x01b")], store),
        section("lds", "g1", &[("l", b"\x0a\x01l")], store),
        section("sds", "g1", &[("key", b"\x0a\x03key")], store),
        section("type.example/unknown.Type", "g1", &[("u", b"\xff\xff")], store),
        section("eds", "g1", &[], store),
    ]
}

fn dump(query: &[(&str, &str)], sections: Vec<Section>) -> Value {
    let query = Query::read(asked(query)).unwrap();
    let mut out = Vec::new();
    let sections: Vec<_> = sections.into_iter().filter(|section| query.takes(&section.type_url)).collect();
    write(&query, Box::new(sections.into_iter()), &mut out).unwrap();
    serde_json::from_slice(&out).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&out)))
}

#[test]
fn of_one_group_it_is_what_envoy_says() {
    let store = Store::new();
    let version = |section: &Section, at: usize| section.resources[at].entry.as_ref().unwrap().id().version();
    let world = world(&store);
    let (a, l) = (version(&world[0], 0), version(&world[1], 0));
    let got = dump(&[("group", "g1")], world);
    let clusters = &got["configs"][0];
    assert_eq!(clusters["@type"], "type.googleapis.com/envoy.admin.v3.ClustersConfigDump");
    assert_eq!((&clusters["version_info"], clusters.get("group")), (&json!("v7"), None));
    let first = json!({
        "version_info": a,
        "cluster": {"@type": CLUSTER, "name": "a", "connect_timeout": "1s"},
        "last_updated": "1970-01-01T00:00:00.000Z",
    });
    assert_eq!(clusters["dynamic_active_clusters"][0], first);
    assert_eq!(clusters["dynamic_active_clusters"].as_array().map(Vec::len), Some(2));
    let listener = &got["configs"][1]["dynamic_listeners"][0];
    assert_eq!((&listener["name"], &listener["active_state"]["version_info"]), (&json!("l"), &json!(l)));
    assert_eq!(listener["active_state"]["listener"]["name"], "l");
    let secret = &got["configs"][2]["dynamic_active_secrets"][0];
    assert_eq!((&secret["name"], secret.get("secret")), (&json!("key"), None), "never its content");
    let unknown = &got["configs"][3]["generic_xds_configs"][0];
    assert_eq!(unknown["xds_config"]["@unparsed"]["length"], 2);
    assert_eq!(got["configs"].as_array().map(Vec::len), Some(4), "what holds nothing is left out");
}

#[test]
fn what_is_withheld_has_its_name_and_type() {
    let store = Store::new();
    let mut sections: Vec<_> = ["cds", "rds", "eds", "ecds", "lds"]
        .map(|short| section(short, "g1", &[("a", b"\x0a\x01a\x22\x02\x08\x01")], &store))
        .into();
    sections.iter_mut().for_each(|section| section.sensitive = true);
    let absent = Held { name: Name::from("gone"), entry: None, standing: Some(Standing::Absent) };
    sections[0].resources.push(absent);
    let got = dump(&[("group", "g1"), ("include_eds", "")], sections);
    let clusters = &got["configs"][0]["dynamic_active_clusters"];
    assert_eq!(clusters[0]["cluster"], json!({"@type": CLUSTER, "name": "a"}));
    assert_eq!(clusters[1]["cluster"], json!({"@type": CLUSTER, "name": "gone"}));
    assert_eq!(got["configs"][1]["dynamic_route_configs"][0]["route_config"]["name"], "a");
    assert_eq!(got["configs"][2]["dynamic_endpoint_configs"][0]["endpoint_config"]["cluster_name"], "a");
    assert_eq!(got["configs"][3]["ecds_filters"][0]["ecds_filter"]["name"], "a");
    let listener = &got["configs"][4]["dynamic_listeners"][0];
    assert_eq!((&listener["name"], listener["active_state"].get("listener")), (&json!("a"), None));
}

#[test]
fn queries_are_envoys() {
    let store = Store::new();
    let items = json!([
        {"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.DynamicCluster",
         "cluster": {"@type": CLUSTER, "name": "b"}},
    ]);
    let query =
        [("group", "g1"), ("resource", "dynamic_active_clusters"), ("mask", "cluster.name"), ("name_regex", "b")];
    assert_eq!(dump(&query, world(&store))["configs"], items);
    let masked = dump(&[("group", "g1"), ("mask", "dynamic_active_clusters.cluster.name")], world(&store));
    let want = json!({
        "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
        "dynamic_active_clusters": [{"cluster": {"@type": CLUSTER, "name": "a"}},
                                    {"cluster": {"@type": CLUSTER, "name": "b"}}],
    });
    assert_eq!(masked["configs"][0], want);
    let many = dump(&[("type", "lds")], world(&store));
    assert_eq!((&many["configs"][0]["group"], many["configs"].as_array().map(Vec::len)), (&json!("g1"), Some(1)));
    assert_eq!(dump(&[("name_regex", "no")], world(&store)), json!({"configs": []}));
    let endpoints = |query: &[(&str, &str)]| {
        let query = Query::read(asked(query)).unwrap();
        query.takes(&TypeUrl::from_short("eds").unwrap())
    };
    assert!(!endpoints(&[]) && endpoints(&[("include_eds", "")]) && endpoints(&[("type", "eds")]));
    assert!(endpoints(&[("resource", "dynamic_endpoint_configs")]) && !endpoints(&[("include_eds", "false")]));
}

#[test]
fn what_cannot_be_asked_says_why() {
    let table: [(&[(&str, &str)], &str); 11] = [
        (&[("node", "n"), ("group", "g")], "not both"),
        (&[("type", "nope")], "no such type"),
        (&[("resource", "clusters")], "dynamic_active_clusters, dynamic_listeners"),
        (&[("mask", "a..b")], "no path of fields"),
        (&[("mask", "nope")], "\"nope\" is no field"),
        (&[("mask", "version_info.x")], "is no field"),
        (&[("mask", "dynamic_active_clusters.cluster.nme")], "is no field"),
        (&[("mask", "cluster.name")], "is no field"),
        (&[("resource", "dynamic_active_clusters"), ("mask", "listener")], "is no field"),
        (&[("name_regex", "(")], "no regular expression"),
        (&[("name_regex", "(a{1000}){1000}")], "no regular expression"),
    ];
    for (query, want) in table {
        let said = Query::read(asked(query)).unwrap_err();
        assert!(said.contains(want), "{said}");
    }
    // What cannot be told from the descriptors, or Envoy has and we do not say.
    let good: [&[(&str, &str)]; 8] = [
        &[("mask", "version_info,dynamic_active_clusters.cluster.name,static_clusters,group")],
        &[("mask", "dynamic_listeners.active_state.listener.filter_chains.filters.typed_config.stat_prefix")],
        &[("mask", "generic_xds_configs.xds_config.anything")],
        &[("mask", "dynamic_active_clusters.cluster.metadata.filter_metadata.some.key")],
        &[("resource", "dynamic_active_clusters"), ("mask", "cluster.name,client_status")],
        &[("resource", "dynamic_active_secrets"), ("mask", "name,secret.tls_certificate")],
        &[("resource", "ecds_filters"), ("mask", "ecds_filter.typed_config.x")],
        &[("resource", "generic_xds_configs"), ("mask", "name,type_url,client_status")],
    ];
    for query in good {
        Query::read(asked(query)).unwrap();
    }
}

#[test]
fn a_list_without_content() {
    let store = Store::new();
    let mut world = world(&store);
    world[0].node = Some("n1".into());
    world[0].resources[0].standing = Some(Standing::Failed(Status::new(14, "later")));
    let query = Query::read(Asked::default()).unwrap();
    let mut out = Vec::new();
    resources(&query, Box::new(world.into_iter()), &mut out).unwrap();
    let got: crate::admin::report::List<HeldResource> = serde_json::from_slice(&out).unwrap();
    assert_eq!((got.kind.as_str(), got.items.len()), ("Resources", 5));
    let first = &got.items[0];
    assert_eq!((first.name.as_str(), first.bytes, first.status.as_deref()), ("a", Some(7), Some("RECEIVED_ERROR")));
    assert_eq!((first.short.as_str(), first.node.as_deref()), ("cds", Some("n1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_answer_waits_for_its_reader() {
    use http_body_util::BodyExt;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let room = Room::default();
    let response = room.stream(move |out| {
        for _ in 0..1000 {
            out.write_all(&[b'x'; 10_000])?;
            count.fetch_add(10_000, Ordering::Relaxed);
        }
        Ok(())
    });
    let mut body = response.await.into_body();
    let mut read = 0;
    // It is never further than its reader and a few parts, of which one is made.
    let ahead = |read: usize| {
        let ahead = written.load(Ordering::Relaxed).saturating_sub(read);
        assert!(ahead <= 8 * PART, "{ahead}");
        ahead
    };
    let begun = std::time::Instant::now();
    while ahead(0) < 4 * PART {
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "nothing is written ahead");
        tokio::task::yield_now().await;
    }
    while let Some(frame) = body.frame().await {
        read += frame.unwrap().into_data().unwrap().len();
        ahead(read);
    }
    assert_eq!(read, 10_000_000);
    // Who goes away ends it, and gives the place back.
    for _ in 0..5 {
        drop(
            room.stream(|out| {
                loop {
                    out.write_all(&[b'x'; 10_000])?
                }
            })
            .await,
        );
    }
}

#[test]
fn what_must_not_be_cached_is_shown_by_name() {
    let store = Store::new();
    let mut section = section("lds", "g1", &[("l", b"\x0a\x01l")], &store);
    let body = section.resources[0].entry.as_ref().unwrap().body().clone();
    let attributes = Attributes { do_not_cache: true, ..Attributes::default() };
    section.resources[0].entry = Some(store.entry(Name::from("l"), body, attributes));
    let got = dump(&[("group", "g1")], vec![section]);
    let shown = &got["configs"][0]["dynamic_listeners"][0];
    assert_eq!(shown["name"], "l", "{got}");
    assert!(shown["active_state"].get("listener").is_none(), "{got}");
}
