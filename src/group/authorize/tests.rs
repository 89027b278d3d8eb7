use super::*;
use serde_json::json;

const CART: &str = "spiffe://mesh.example/ns/shop/sa/cart";

fn node(id: &str, metadata: Json) -> Node {
    Node { id: id.into(), metadata, ..Node::default() }
}

fn denied(field: &str) -> Option<String> {
    Some(field.into())
}

/// The field for which a node is refused, by the rules that count by default.
#[test]
fn whom_an_identity_may_be() {
    let (ns, sa, id) = ("metadata.NAMESPACE", "metadata.SERVICE_ACCOUNT", "id.namespace");
    let own = "sidecar~10.0.0.1~cart-1.shop~shop.svc.cluster.local";
    let other = "sidecar~10.0.0.1~pay-1.bank~bank.svc.cluster.local";
    let table = [
        ("what is its own", CART, node(own, json!({"NAMESPACE": "shop", "SERVICE_ACCOUNT": "cart"})), None),
        ("nothing", CART, node("n1", Json::Null), None),
        ("nothing in empty texts", CART, node("n1", json!({"NAMESPACE": "", "SERVICE_ACCOUNT": null})), None),
        ("another namespace", CART, node(own, json!({"NAMESPACE": "bank"})), denied(ns)),
        ("another account", CART, node(own, json!({"NAMESPACE": "shop", "SERVICE_ACCOUNT": "pay"})), denied(sa)),
        ("only the account, another", CART, node(own, json!({"SERVICE_ACCOUNT": "pay"})), denied(sa)),
        ("a longer namespace", CART, node(own, json!({"NAMESPACE": "shop2"})), denied(ns)),
        ("in other letters", CART, node(own, json!({"namespace": "bank"})), denied(ns)),
        ("beside its own", CART, node(own, json!({"NAMESPACE": "shop", "Namespace": "bank"})), denied(ns)),
        ("in a letter that Go folds", CART, node(own, json!({"NAMEſPACE": "bank"})), denied(ns)),
        ("in a number", CART, node(own, json!({"NAMESPACE": 7})), denied(ns)),
        ("in a list", CART, node(own, json!({"NAMESPACE": ["shop"]})), denied(ns)),
        ("an id of another's", CART, node(other, Json::Null), denied(id)),
        ("an id of another's, with its own namespace", CART, node(other, json!({"NAMESPACE": "shop"})), denied(id)),
        ("an id that reads as another's", CART, node("a~b~x.bank.shop~d", Json::Null), denied(id)),
        ("a name with a dot", CART, node("a~b~x.y.shop~d", json!({"NAMESPACE": "shop"})), None),
        ("another's domain", CART, node("a~b~x.shop~bank.svc.cluster.local", Json::Null), denied(id)),
        ("another's domain alone", CART, node("a~b~x~bank.svc", Json::Null), denied(id)),
        ("its own domain", CART, node("a~b~x.shop~shop.svc.cluster.local", Json::Null), None),
        (
            "a domain that nobody reads",
            CART,
            node("a~b~x.shop~bank.svc.cluster.local", json!({"NAMESPACE": "shop"})),
            None,
        ),
        ("an id of another form", CART, node("a~b~x.bank", Json::Null), None),
        ("a namespace of a DNS name", "cart.shop", node("n1", json!({"NAMESPACE": "bank"})), denied(ns)),
        ("a namespace of a subject", "jwt:alice", node("n1", json!({"NAMESPACE": "bank"})), denied(ns)),
        ("an account of a subject", "jwt:alice", node("n1", json!({"SERVICE_ACCOUNT": "pay"})), denied(sa)),
        ("a longer path", "spiffe://mesh.example/ns/shop/sa/cart/x", node(other, Json::Null), denied(id)),
        ("nothing of a DNS name", "cart.shop", node("n1", json!({"NAMESPACE": ""})), None),
    ];
    let rules = Authorize::default();
    assert_eq!(rules.0.len(), DEFAULTS.len());
    for (name, identity, node, want) in table {
        let got = rules.decide(&Identity::new(identity), &node);
        assert_eq!(got.err().map(|denied| denied.field), want.map(Some), "{name}");
    }
}

#[test]
fn patterns() {
    let table = [
        ("spiffe://{td}/ns/{ns}/sa/*", CART, Some("ns=shop td=mesh.example")),
        ("spiffe://mesh.example/**", CART, Some("")),
        ("spiffe://mesh.example/**", "spiffe://mesh.example", Some("")),
        ("spiffe://mesh.example/**", "spiffe://mesh.example.evil/x", None),
        ("spiffe://*/ns/*/sa/c*t", CART, Some("")),
        ("spiffe://*", CART, None),
        ("**", "anybody/at/all", Some("")),
        ("**", "jwt:alice", Some("")),
        ("*.shop.svc", "x.shop.svc", Some("")),
        ("*.shop.svc", "jwt:x.shop.svc", None),
        ("{name}.shop.svc", "jwt:x.shop.svc", None),
        ("*/**", "jwt:alice", None),
        ("jwt:*.svc", "jwt:x.shop.svc", Some("")),
        ("jwt:{user}", "jwt:alice", Some("user=alice")),
        ("jwt:{user}@example.com", "jwt:alice@example.com", Some("user=alice")),
        ("jwt:{user}@example.com", "jwt:@example.com", None),
        ("{a}/{a}", "x/x", Some("a=x")),
        ("{a}/{a}", "x/y", None),
        ("{a}", "", None),
    ];
    for (pattern, identity, want) in table {
        let pattern = Pattern::read(pattern).unwrap();
        let parts = pattern.fit(identity);
        let shown = parts.map(|parts| parts.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" "));
        assert_eq!(shown.as_deref(), want, "{pattern:?} {identity}");
    }
}

#[test]
fn what_comes_of_an_identity_is_text() {
    let template = Template::read("a{x}*b").unwrap();
    let bound = template.bind(&Parts::from([("x", "*")]));
    let table =
        [("a*b", true), ("a*cb", true), ("a*", false), ("acb", false), ("a*bxb", true), ("a*bx", false), ("", false)];
    for (text, want) in table {
        assert_eq!(bound.is(text), want, "{text}");
    }
    let any = Template::read("*x*").unwrap().bind(&Parts::new());
    assert!(any.is("axb") && any.is("x") && !any.is("ab"));
    assert!(Template::read("").unwrap().bind(&Parts::new()).is(""));
}

#[test]
fn names() {
    let sds = TypeUrl::from_short("sds").unwrap();
    let cds = TypeUrl::from_short("cds").unwrap();
    let rule = json!({
        "identity": "spiffe://*/ns/{ns}/sa/*",
        "names": {"sds": ["default", "kubernetes://{ns}/*"], "type.googleapis.com/x.Y": []},
    });
    let rules = Authorize::read([rule.to_string()]).unwrap();
    let allowed = rules.decide(&Identity::new(CART), &Node::default()).unwrap();
    assert!(allowed.is_limited() && allowed.limits(&sds) && !allowed.limits(&cds));
    let table = [("default", true), ("kubernetes://shop/tls", true), ("kubernetes://bank/tls", false), ("", false)];
    for (name, want) in table {
        assert_eq!(allowed.has(&sds, name), want, "{name}");
    }
    assert!(allowed.has(&cds, "anything") && !allowed.has(&TypeUrl::new("type.googleapis.com/x.Y"), "anything"));
    let nobody = rules.decide(&Identity::new("cart.shop"), &Node::default());
    assert_eq!(nobody.unwrap_err(), Denied { field: None }, "no rule is for it");
}

#[test]
fn what_is_no_rule_says_why() {
    let table = [
        (r#"{}"#, "missing field `identity`"),
        (r#"{"identity": "**", "nodes": {}}"#, "unknown field `nodes`"),
        (r#"{"identity": ""}"#, "no pattern"),
        (r#"{"identity": "a{b"}"#, "brace"),
        (r#"{"identity": "a}"}"#, "brace"),
        (r#"{"identity": "{a}{b}"}"#, "one part of an identity"),
        (r#"{"identity": "{a}*"}"#, "one part of an identity"),
        (r#"{"identity": "**/a"}"#, "one part of an identity"),
        (r#"{"identity": "**", "node": {"cluster": "{ns}"}}"#, "names {ns}"),
        (r#"{"identity": "**", "node": {"metadata": "x"}}"#, "no field of a node"),
        (r#"{"identity": "**", "names": {"nothing": []}}"#, "no type"),
        (r#"{"identity": "**", "names": {"sds": ["{ns}"]}}"#, "names {ns}"),
    ];
    for (text, want) in table {
        let error = Authorize::read([text]).unwrap_err().to_string();
        assert!(error.contains(want) && !error.contains("line 1"), "{text}: {error}");
    }
}
