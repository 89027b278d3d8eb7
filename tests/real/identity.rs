//! Who is served: Envoys that prove who they are, and one that claims to be another.

use crate::Test;
use crate::support::backend::Backend;
use crate::support::control_plane::ControlPlane;
use crate::support::envoy::{Bootstrap, Envoy, Variant};
use crate::support::jwt::{AUDIENCE, ISSUER, Issuer};
use crate::support::outpost::Outpost;
use crate::support::resources::{assignment, cluster, listener, route};
use crate::support::tls::Authority;
use crate::support::{check, eventually, http};
use serde_json::json;

const SERVER: &str = "outpost.test";

/// One Envoy proves by a certificate who it is, one by a token; both are served.
/// Two claim the namespace of another, each in its own way, and are not.
pub(crate) async fn who_is_served(test: Test, variant: Variant) {
    let (authority, issuer) = (Authority::new(), Issuer::new());
    let relay = authority.write(&test.dir, "outpost", &authority.server(SERVER));
    let workload = |name: &str, uri: &str| authority.write(&test.dir, name, &authority.workload(uri));
    let cart = workload("cart", "spiffe://cluster.local/ns/shop/sa/cart");
    let token = |account: &str| issuer.token(&format!("system:serviceaccount:{account}"), &json!({}));

    let a = Backend::start("a").await;
    let control_plane = ControlPlane::start().await;
    control_plane.edit(|world| {
        world.set(&cluster("c1"));
        world.set(&assignment("c1", &[a.port]));
        world.set(&listener("l1", "rc1"));
        world.set(&route("rc1", "c1"));
    });
    let path = |path: &std::path::Path| path.display().to_string();
    let (certificate, key, ca) = (path(&relay.certificate), path(&relay.key), path(&relay.authority));
    let jwks = path(&issuer.write(&test.dir));
    let flags = [
        ["--tls-cert", &certificate],
        ["--tls-key", &key],
        ["--client-ca", &ca],
        ["--jwt-jwks", &jwks],
        ["--jwt-issuer", ISSUER],
        ["--jwt-audience", AUDIENCE],
        ["--trust-domain", "cluster.local"],
    ];
    let mut outpost = Outpost::start(&test.dir, control_plane.port, flags.as_flattened()).await;
    let node = |id: &str| Bootstrap::new(id, variant, outpost.port).claiming("shop", "cart");
    let by_token = |id: &str, account: &str| node(id).token(&relay.authority, SERVER, &token(account));
    let bank = workload("pay", "spiffe://cluster.local/ns/bank/sa/pay");
    let start = async |name: &str, bootstrap: Bootstrap| Envoy::start(test.clients, &test.dir, name, &bootstrap).await;

    let good = [
        start("mtls", node("by-certificate").mutual_tls(&cart, SERVER)).await,
        start("token", by_token("by-token", "shop:cart")).await,
    ];
    for envoy in &good {
        let port = envoy.listener("l1").await;
        eventually("traffic flows", || async {
            let answer = http::get(port, "any", "/").await?;
            check(answer.body == "a", || format!("{answer:?}"))
        })
        .await;
    }
    let clients = outpost.admin("/clients").await.expect("the streams");
    assert_eq!(clients.matches("\"spiffe://cluster.local/ns/shop/sa/cart\"").count(), 2, "{clients}");

    let bad = [
        start("liar-mtls", node("liar-1").mutual_tls(&bank, SERVER)).await,
        start("liar-token", by_token("liar-2", "bank:pay")).await,
    ];
    for envoy in &bad {
        envoy
            .until("it is refused again and again", |stats| {
                let tries = stats.sum(|name| name.ends_with("control_plane.connected_state"));
                let errors = stats.number("cluster_manager.cds.update_failure");
                check(errors > 0 || tries == 0, || format!("{tries} {errors}"))
            })
            .await;
    }
    eventually("both are counted, and told", || async {
        let metrics = outpost.admin("/metrics").await?;
        let counts = |line: &&str| line.starts_with("outpost_downstream_rejected_total{reason=\"node_not_allowed\"}");
        let count = metrics.lines().find(counts).and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        check(count.is_some_and(|count| count >= 2), || format!("{count:?}"))?;
        let log = outpost.log();
        let audit =
            log.lines().any(|line| line.contains("audit") && line.contains("ns/bank/sa/pay") && line.contains("liar-"));
        check(audit, || log.clone())
    })
    .await;
    for envoy in &bad {
        let clusters = envoy.clusters("dynamic_active_clusters").await.expect("Envoy dumps its configuration");
        assert!(clusters.is_empty(), "{clusters:?}");
    }
    let log = outpost.log();
    assert!(!log.contains("eyJ"), "a token in the log");
    outpost.alive().expect("Outpost is alive at the end");
    test.measured("a certificate and a token are served; two who claim another's namespace are not");
}
