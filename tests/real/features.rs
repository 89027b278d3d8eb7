//! The other types that a sidecar takes from its stream: secrets, filters,
//! runtime values, virtual hosts on demand.

use crate::Test;
use crate::mesh::Mesh;
use crate::support::backend::Backend;
use crate::support::control_plane::ControlPlane;
use crate::support::envoy::{Bootstrap, Envoy, Variant};
use crate::support::http;
use crate::support::load::Load;
use crate::support::outpost::Outpost;
use crate::support::resources::{
    ads, assignment, cluster, extension, http_filter, listener, listener_with, route, router, routes, secret, text,
    tls_listener, virtual_host,
};
use crate::support::tls::{Authority, presented};
use crate::support::{check, eventually, within};
use outpost::proto::core::{ConfigSource, ExtensionConfigSource};
use outpost::proto::http_connection_manager::http_filter::ConfigType;
use outpost::proto::lua::Lua;
use outpost::proto::on_demand::OnDemand;
use outpost::proto::pack;
use outpost::proto::protobuf::{Duration as ProtoDuration, Struct, Value, value::Kind};
use outpost::proto::route::{RouteConfiguration, Vhds, VirtualHost};
use outpost::proto::runtime::Runtime;
use prost::Name;
use serde_json::Value as Json;
use std::time::{Duration, Instant};

/// Envoy proves who it is to Outpost, gets a key over that stream, serves TLS
/// with it, and serves with the next one after a rotation.
pub(crate) async fn secret_rotation(test: Test, variant: Variant) {
    let authority = Authority::new();
    let relay = authority.write(&test.dir, "outpost", &authority.server("outpost.test"));
    let workload = authority.workload("spiffe://test/ns/default/sa/envoy");
    let workload = authority.write(&test.dir, "envoy", &workload);
    let (first, second) = (authority.server("svc.test"), authority.server("svc.test"));

    let a = Backend::start("a").await;
    let control_plane = ControlPlane::start().await;
    control_plane.edit(|world| {
        world.set(&cluster("c1"));
        world.set(&assignment("c1", &[a.port]));
        world.set(&listener("l1", "rc1"));
        world.set(&tls_listener("l2", "rc1", "server-key"));
        world.set(&route("rc1", "c1"));
        world.set(&secret("server-key", &first.certificate, &first.key));
    });
    let path = |path: &std::path::Path| path.display().to_string();
    let (certificate, key, ca) = (path(&relay.certificate), path(&relay.key), path(&relay.authority));
    let flags = ["--tls-cert", &certificate, "--tls-key", &key, "--client-ca", &ca];
    let mut outpost = Outpost::start(&test.dir, control_plane.port, &flags).await;
    let bootstrap = Bootstrap::new("n1", variant, outpost.port).mutual_tls(&workload, "outpost.test");
    let envoy = Envoy::start(test.clients, &test.dir, "envoy", &bootstrap).await;
    let load = Load::start(envoy.listener("l1").await, "any");
    let port = envoy.listener("l2").await;
    let serves = async |identity: &crate::support::tls::Identity| {
        eventually("Envoy serves TLS with the key it was sent", || async {
            let seen = presented(port, "svc.test", &authority).await?;
            check(seen == identity.der(), || "another certificate".to_owned())
        })
        .await;
    };
    serves(&first).await;
    let changed = control_plane.edit(|world| world.set(&secret("server-key", &second.certificate, &second.key)));
    serves(&second).await;
    let took = changed.elapsed();

    // A key that does not fit: Envoy refuses it and keeps the one it has.
    control_plane.edit(|world| world.set(&secret("server-key", &first.certificate, &second.key)));
    envoy
        .until("the mismatched key is refused", |stats| {
            let refused = stats.sum(|name| name.contains("server-key") && name.ends_with("update_rejected"));
            check(refused == 1, || format!("{refused} refused"))
        })
        .await;
    serves(&second).await;
    load.flows(100).await;
    let shown = outpost.run(&["status"]).expect("outpost status");
    assert!(!shown.contains("PRIVATE KEY"), "a private key in the status");
    assert!(!outpost.log().contains("PRIVATE KEY"), "a private key in the log");
    outpost.alive().expect("Outpost is alive at the end");
    test.measured(format_args!("rotated in {took:?}; {}", load.stop().await.clean()));
}

/// A filter's configuration that comes by itself: the script answers with its
/// own version.
pub(crate) async fn extension_config(test: Test, variant: Variant) {
    let script = |answer: &str| {
        let code = format!("function envoy_on_request(h) h:respond({{[':status'] = '200'}}, '{answer}') end");
        extension("script", &Lua { default_source_code: Some(text(&code)) })
    };
    let discovery =
        ExtensionConfigSource { config_source: Some(ads()), type_urls: vec![Lua::type_url()], ..Default::default() };
    let filter = http_filter("script", ConfigType::ConfigDiscovery(discovery));
    let mesh = Mesh::with(test, variant, |world| {
        world.set(&script("one"));
        world.set(&listener_with("l2", "rc1", vec![filter, router()]));
    })
    .await;
    let port = mesh.envoy.listener("l2").await;
    let answers = async |wanted: &str| {
        eventually("the script answers", || async {
            let answer = http::get(port, "any", "/").await?;
            check(answer.body == wanted, || format!("{answer:?}"))
        })
        .await;
    };
    answers("one").await;
    let changed = mesh.control_plane.edit(|world| world.set(&script("two")));
    answers("two").await;
    mesh.done(format_args!("script changed in {:?}", changed.elapsed())).await;
}

pub(crate) async fn runtime_layer(test: Test, variant: Variant) {
    let layer = |value: f64| {
        let fields = [("test.dial".to_owned(), Value { kind: Some(Kind::NumberValue(value)) })];
        Runtime { name: "dials".to_owned(), layer: Some(Struct { fields: fields.into() }) }
    };
    let control_plane = ControlPlane::start().await;
    control_plane.edit(|world| world.set(&layer(1.0)));
    let outpost = Outpost::start(&test.dir, control_plane.port, &[]).await;
    let bootstrap = Bootstrap::new("n1", variant, outpost.port).runtime_layer("dials");
    let envoy = Envoy::start(test.clients, &test.dir, "envoy", &bootstrap).await;
    let dial = async |wanted: &str| {
        eventually("the runtime value", || async {
            let page = envoy.admin("/runtime").await?;
            let page: Json = serde_json::from_str(&page).map_err(|e| e.to_string())?;
            let value = &page["entries"]["test.dial"]["final_value"];
            check(value == wanted, || format!("{page}"))
        })
        .await;
    };
    dial("1").await;
    let changed = control_plane.edit(|world| world.set(&layer(2.0)));
    dial("2").await;
    test.measured(format_args!("value changed in {:?}", changed.elapsed()));
}

/// Virtual hosts on demand (CLIENTS V1): the empty first request gets nothing,
/// a host that exists is served when a request needs it, one that does not is
/// a 404 at once.
pub(crate) async fn virtual_host_on_demand(test: Test) {
    let on_demand = http_filter("envoy.filters.http.on_demand", ConfigType::TypedConfig(pack(&OnDemand {})));
    // Envoy would wait as long for an answer to the request without names.
    let brief = ConfigSource { initial_fetch_timeout: Some(ProtoDuration { seconds: 0, nanos: 200_000_000 }), ..ads() };
    let table = RouteConfiguration { vhds: Some(Vhds { config_source: Some(brief) }), ..routes("rc2", vec![]) };
    let mesh = Mesh::with(test, Variant::Delta, |world| {
        world.set(&listener_with("l2", "rc2", vec![on_demand, router()]));
        world.set(&table);
        world.set_as("rc2/one", &virtual_host("one", "one.test", "c1"), &["rc2/one.test"]);
        world.set_as("rc2/two", &virtual_host("two", "two.test", "c2"), &["rc2/two.test"]);
        world.set_absent::<VirtualHost>("rc2/none.test");
    })
    .await;
    let port = mesh.envoy.listener("l2").await;
    let known = async |host: &str| {
        let dump = mesh.envoy.config_dump().await.expect("Envoy dumps its configuration").to_string();
        dump.contains(&format!("\"{host}\""))
    };
    assert!(!known("one.test").await, "the request without names was taken for a wildcard");

    let began = Instant::now();
    let answer = http::get(port, "one.test", "/").await.expect("an answer for a host that exists");
    assert_eq!((answer.status, answer.body.as_str()), (200, "a"));
    let found = began.elapsed();
    let answer = http::get(port, "none.test", "/").await.expect("an answer for a host that does not exist");
    assert_eq!(answer.status, 404);
    let absent = began.elapsed() - found;
    assert!(absent < Duration::from_secs(3), "an absent host took {absent:?}");
    assert!(!known("two.test").await, "a host came that nobody asked for");

    // It follows a change, as anything subscribed does.
    mesh.control_plane.edit(|world| world.set_as("rc2/one", &virtual_host("one", "one.test", "c2"), &["rc2/one.test"]));
    within(Duration::from_secs(5), "the host's new cluster", || async {
        let answer = http::get(port, "one.test", "/").await?;
        check(answer.body == "b", || format!("{answer:?}"))
    })
    .await;
    mesh.done(format_args!("host found in {found:?}, absence in {absent:?}")).await;
}
