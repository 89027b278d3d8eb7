use super::*;
use crate::xds::node::NodeLimits;
use proptest::prelude::*;
use serde_json::json;
use std::collections::HashMap;

fn node(id: &str, cluster: &str, metadata: Json) -> Node {
    let mut out = Writer::default();
    out.string(1, id);
    out.string(2, cluster);
    out.message(3, |out| write_struct(&metadata, out));
    out.message(4, |out| out.string(1, "eu-1"));
    out.string(6, "envoy");
    out.bytes(9, b"\x0a\x03ext");
    out.string(10, "xds.config.resource-in-sotw");
    out.string(2047, "unknown");
    read(out.finish())
}

fn read(message: Bytes) -> Node {
    Node::read(message, NodeLimits::default()).unwrap()
}

fn rules(grouping: &str) -> Rules {
    Rules::new(grouping.parse().unwrap(), Secrets::Identity, SharedNode::default()).unwrap()
}

#[test]
fn one_group_per_node_presents_the_node_as_it_stands() {
    let node = node("n1", "c1", json!({}));
    let assigned = rules("perNode").assign(&node, None);
    assert_eq!(assigned.key.as_str(), "n1;node");
    assert_eq!(assigned.presented, node.presented());
    assert_eq!((assigned.rule, assigned.unmatched, assigned.sensitive_ok), (Rule::PerNode, None, false));
    let identity = Identity::new("spiffe://td/ns/a/sa/b");
    let verified = rules("perNode").assign(&node, Some(&identity));
    assert_eq!(verified.key.as_str(), "n1;node;identity=spiffe://td/ns/a/sa/b");
    assert!(verified.sensitive_ok);
}

#[test]
fn a_shared_group_presents_only_what_its_rule_names() {
    let metadata = json!({"NAMESPACE": "shop", "LABELS": {"app": "cart", "pod": "cart-1"}, "INSTANCE_IPS": "10.1.2.3"});
    let node = node("sidecar~10.1.2.3~cart-1.shop", "c1", metadata);
    let rules = rules("{metadata.NAMESPACE}/{metadata.LABELS.app}/{locality.region}");
    let assigned = rules.assign(&node, None);
    assert_eq!(assigned.key.as_str(), "shop/cart/eu-1");
    assert_eq!(assigned.rule, Rule::Template);
    let presented = read(assigned.presented.message());
    assert_eq!(presented.id, "outpost~shop/cart/eu-1");
    assert_eq!(presented.metadata, json!({"NAMESPACE": "shop", "LABELS": {"app": "cart"}}));
    assert_eq!((&*presented.cluster, &*presented.region, &*presented.user_agent_name), ("outpost", "eu-1", "outpost"));
    assert!(presented.takes_wrapped_resources() && presented.takes_heartbeats());
    let wire = String::from_utf8_lossy(&assigned.presented.message()).into_owned();
    for secret in ["10.1.2.3", "cart-1", "c1", "ext", "unknown"] {
        assert!(!wire.contains(secret), "{secret} leaves in {wire:?}");
    }
}

#[test]
fn the_id_of_a_shared_node_is_a_template_over_common_fields() {
    let grouping: Grouping = "{metadata.NAMESPACE}".parse().unwrap();
    let id = |id: &str| SharedNode { id: Some(id.into()), metadata: vec![("CLUSTER_ID".into(), "edge".into())] };
    let text = "sidecar~192.0.2.1~outpost.{metadata.NAMESPACE}~{metadata.NAMESPACE}.svc.cluster.local";
    let rules = Rules::new(grouping.clone(), Secrets::Identity, id(text)).unwrap();
    let presented = read(rules.assign(&node("n", "c", json!({"NAMESPACE": "shop"})), None).presented.message());
    assert_eq!(presented.id, "sidecar~192.0.2.1~outpost.shop~shop.svc.cluster.local");
    assert_eq!(presented.metadata, json!({"CLUSTER_ID": "edge", "NAMESPACE": "shop"}));
    let error = Rules::new(grouping, Secrets::Identity, id("{cluster}")).unwrap_err();
    assert_eq!(error, TemplateError::NotCommon("cluster".into()));
}

#[test]
fn an_unmatched_field_gives_a_group_of_its_own() {
    let node = node("n1", "c1", json!({"NAMESPACE": 7}));
    for (rule, field) in [
        ("{cluster}/{metadata.NAMESPACE}", "metadata.NAMESPACE"),
        ("{metadata.LABELS[app.kubernetes.io/name]}", "metadata.LABELS[app.kubernetes.io/name]"),
        ("{identity}", "identity"),
        ("{locality.zone}", "locality.zone"),
    ] {
        let assigned = rules(rule).assign(&node, None);
        assert_eq!(assigned.key.as_str(), "n1;unmatched", "{rule}");
        assert_eq!(assigned.unmatched.as_deref(), Some(field), "{rule}");
        assert_eq!(assigned.presented, node.presented());
    }
}

/// An id is what a node says of itself: it is no name that a rule gives.
#[test]
fn who_lacks_a_field_is_not_called_as_its_id() {
    let identity = Identity::new("spiffe://td/ns/a/sa/b");
    let claims = node("payments", "", json!({"GENERATOR": "x"}));
    let honest = node("n1", "payments", json!({}));
    let called = |rule: &str, node: &Node| {
        let key = rules(rule).assign(node, Some(&identity)).key;
        assert_eq!(GroupKey::private(7, &key).called(), key.called());
        key.called().map(str::to_owned)
    };
    assert_eq!(called("{cluster}", &honest).as_deref(), Some("payments"));
    assert_eq!(called("{cluster}", &claims), None);
    assert_eq!(called("all", &claims).as_deref(), Some("all"));
    assert_eq!(called("perNode", &claims).as_deref(), Some("payments"));
    assert_eq!(called("perNode", &node("", "payments", json!({}))), None);
}

#[test]
fn features_and_generator_are_part_of_every_key() {
    for rule in ["perNode", "all", "{cluster}"] {
        let rules = rules(rule);
        let plain = node("n", "c", json!({}));
        let with = |features: &[&str]| {
            let mut node = plain.clone();
            node.client_features = features.iter().map(|&feature| feature.into()).collect();
            rules.assign(&node, None).key
        };
        let key = with(&[]);
        assert_eq!(with(&["xds.config.supports-resource-in-sotw", "envoy.config.resource-ttl"]), key, "{rule}");
        assert_ne!(with(&["envoy.lb"]), key, "{rule}");
        assert_eq!(with(&["b", "a", "b"]), with(&["a", "b"]), "{rule}");
        assert_ne!(with(&["a", "b"]), with(&["ab"]), "{rule}");
        let generator = |value: Json| rules.assign(&node("n", "c", json!({ "GENERATOR": value })), None).key;
        assert_ne!(generator(json!("grpc")), key, "{rule}");
        assert_ne!(generator(json!("1")), generator(json!(1)), "{rule}");
    }
}

#[test]
fn secrets_need_an_identity_in_the_key() {
    let node = node("n", "c", json!({}));
    let identity = Identity::new("spiffe://td/a");
    let table = [
        ("perNode", true, true),
        ("perNode", false, false),
        ("all", true, false),
        ("{cluster}", true, false),
        ("{cluster}/{identity}", true, true),
        ("{cluster}/{identity}", false, false),
        ("{metadata.missing}", true, true),
    ];
    for (rule, verified, want) in table {
        let assigned = rules(rule).assign(&node, verified.then_some(&identity));
        assert_eq!(assigned.sensitive_ok, want, "{rule}, verified: {verified}");
    }
    let trusting = Rules::new(Grouping::All, Secrets::TrustNetwork, SharedNode::default()).unwrap();
    assert!(trusting.assign(&node, None).sensitive_ok);
}

#[test]
fn nodes_without_an_id_share_a_group_of_their_own() {
    let assigned = rules("perNode").assign(&Node::default(), None);
    assert_eq!((assigned.key.as_str(), assigned.rule), (";nodeless", Rule::Nodeless));
    assert_eq!(read(assigned.presented.message()).id, "outpost~nodeless");
}

#[test]
fn what_is_no_rule_is_refused() {
    use TemplateError::*;
    let table = [
        ("pernode", NoField("pernode".into())),
        ("", NoField(String::new())),
        ("{cluster", Brace("{cluster".into())),
        ("cluster}", Brace("cluster}".into())),
        ("{{cluster}}", Brace("{{cluster}}".into())),
        ("{id}", Id),
        ("{group}", UnknownField("group".into())),
        ("{locality}", UnknownField("locality".into())),
        ("{metadata.}", UnknownField("metadata.".into())),
        ("{metadata.A..B}", UnknownField("metadata.A..B".into())),
        ("{metadata.A[b}", UnknownField("metadata.A[b".into())),
        ("{cluster}{identity}", Adjacent("cluster".into(), "identity".into())),
        ("{cluster};{identity}", Separator(';')),
        ("{cluster} {identity}", Separator(' ')),
    ];
    for (text, want) in table {
        assert_eq!(text.parse::<Grouping>(), Err(want), "{text}");
    }
}

proptest! {
    #[test]
    fn keys_are_injective(nodes in proptest::collection::vec(("[a/%;~ n]{0,4}", "[a/%;~ n]{0,4}", "[a/%;~ n]{0,4}"), 2..30)) {
        for rule in ["perNode", "{cluster}/{metadata.N}", "x{cluster}~a{identity}/{metadata.N}"] {
            let rules = rules(rule);
            let mut seen: HashMap<GroupKey, (String, String, String)> = HashMap::new();
            for (id, cluster, third) in &nodes {
                let node = node(id, cluster, json!({"N": third}));
                let identity = (!third.is_empty()).then(|| Identity::new(third.as_str()));
                let assigned = rules.assign(&node, identity.as_ref());
                let what = match assigned.rule {
                    Rule::Template => (String::new(), cluster.clone(), third.clone()),
                    Rule::Nodeless => ("nodeless".into(), String::new(), third.clone()),
                    _ => (format!("node {id}"), String::new(), third.clone()),
                };
                let before = seen.insert(assigned.key.clone(), what.clone());
                prop_assert!(before.is_none_or(|before| before == what), "{}", assigned.key);
            }
        }
    }
}
