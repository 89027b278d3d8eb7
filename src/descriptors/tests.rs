use super::*;
use crate::yaml;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde_json::{Value as Json, json};

fn url(name: &str) -> String {
    format!("type.googleapis.com/{name}")
}

/// From YAML to bytes.
fn bytes(text: &str) -> Encoded {
    let (nodes, faults) = yaml::read_all(text);
    assert!(faults.is_empty(), "{faults:?}");
    read(&nodes[0], "").unwrap_or_else(|wrongs| panic!("{wrongs}"))
}

/// What is wrong with it.
fn wrongs(text: &str) -> String {
    let (nodes, faults) = yaml::read_all(text);
    assert!(faults.is_empty(), "{faults:?}");
    let Err(wrongs) = read(&nodes[0], "") else { panic!("nothing is wrong with {text}") };
    let shown = wrongs.0.iter().map(|wrong| format!("{}:{}: {wrong}", wrong.place.line, wrong.place.column));
    shown.collect::<Vec<_>>().join("\n")
}

const LISTENER: &str = r#"
"@type": type.googleapis.com/envoy.config.listener.v3.Listener
name: ingress
address: { socket_address: { address: 127.0.0.1, port_value: 10000 } }
filterChains:
- filters:
  - name: envoy.filters.network.http_connection_manager
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: ingress
      codec_type: HTTP2
      stream_idle_timeout: 1.5s
      max_request_headers_kb: 96
      access_log:
      - name: envoy.access_loggers.stdout
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
          log_format: { json_format: { b: [1, two, null, true], a: "%PROTOCOL%" } }
      http_filters:
      - name: envoy.filters.http.router
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
metadata:
  filter_metadata: { z: { n: 1 }, a: { m: -2.5 } }
"#;

#[test]
fn the_pool_holds_the_api() {
    assert!(pool().all_messages().len() > 1_500, "{}", pool().all_messages().len());
    for name in [
        "envoy.config.cluster.v3.Cluster",
        "envoy.extensions.filters.http.wasm.v3.Wasm",
        "envoy.service.runtime.v3.Runtime",
        "envoy.service.discovery.v3.Resource",
        "udpa.type.v1.TypedStruct",
        "xds.type.v3.TypedStruct",
    ] {
        assert!(message(&url(name)).is_some(), "{name}");
    }
    assert!(SENSITIVE.contains("envoy.extensions.transport_sockets.tls.v3.TlsCertificate.private_key"));
    assert!(SENSITIVE.contains("envoy.extensions.transport_sockets.tls.v3.GenericSecret.secret"));
    assert!(SENSITIVE.len() > 5 && SENSITIVE.len() < 100, "{}", SENSITIVE.len());
}

#[test]
fn what_is_read_is_shown_again() {
    let read = bytes(LISTENER);
    let shown = to_json(&read.type_url, &read.value);
    let manager = &shown["filter_chains"][0]["filters"][0]["typed_config"];
    assert_eq!(manager["stream_idle_timeout"], "1.500s");
    assert_eq!(manager["codec_type"], "HTTP2");
    assert_eq!(manager["max_request_headers_kb"], 96);
    assert_eq!(
        manager["http_filters"][0]["typed_config"]["@type"],
        url("envoy.extensions.filters.http.router.v3.Router")
    );
    let format = &manager["access_log"][0]["typed_config"]["log_format"]["json_format"];
    assert_eq!(*format, json!({ "a": "%PROTOCOL%", "b": [1.0, "two", null, true] }));
    let again = from_json(&shown).unwrap();
    assert_eq!(again, read, "{shown:#}");
    assert_eq!(to_redacted_json(&read.type_url, &read.value), shown, "nothing is sensitive");
    assert_eq!(redact(&read.type_url, &read.value).len(), read.value.len());
}

#[test]
fn equal_content_is_equal_bytes() {
    let order = |keys: &[&str]| {
        let entries: Vec<_> = keys.iter().map(|key| format!("{key}: {{ n: 1, \"a b\": [x] }}")).collect();
        let text = format!(
            "metadata: {{ filter_metadata: {{ {} }} }}\nname: c\n\"@type\": {}",
            entries.join(", "),
            url("envoy.config.cluster.v3.Cluster")
        );
        bytes(&text)
    };
    let keys = ["a", "b", "c", "d", "e", "f", "g"];
    let mut turned = keys;
    turned.reverse();
    assert_eq!(order(&keys), order(&turned));
    // Known bytes: no process, and no version of a library, makes others.
    let known = bytes(&format!("\"@type\": {}\nname: c\nconnect_timeout: 2s", url("envoy.config.cluster.v3.Cluster")));
    assert_eq!(known.value, b"\x0a\x01c\x22\x02\x08\x02");
}

#[test]
fn another_encoder_agrees() {
    // prost-reflect writes fields in the same order; without maps it must say the same.
    let read = bytes(&LISTENER.replace("{ z: { n: 1 }, a: { m: -2.5 } }", "{ a: { m: -2.5 } }"));
    let decoded = DynamicMessage::decode(message(&read.type_url).unwrap(), read.value.as_slice()).unwrap();
    assert_eq!(decoded.encode_to_vec(), read.value);
}

#[test]
fn what_is_unknown_is_shown_by_length_and_hash() {
    let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
    let shown = to_json("type.googleapis.com/istio.workload.Address", b"abc");
    assert_eq!(shown["@type"], "type.googleapis.com/istio.workload.Address");
    assert_eq!(shown["@unparsed"], json!({ "length": 3, "hash": hash(b"abc") }));
    // Of a known type, and cut off.
    let cluster = url("envoy.config.cluster.v3.Cluster");
    assert_eq!(to_json(&cluster, b"\x0a\x09c")["@unparsed"]["length"], 3);
    // Deep within.
    let any = prost_types::Any { type_url: "x/y.Z".into(), value: b"secret".to_vec() };
    let entry =
        [b"\x0a\x01k\x12".as_slice(), &[u8::try_from(any.encoded_len()).unwrap()], &any.encode_to_vec()].concat();
    let mut value = Vec::new();
    // Cluster.typed_extension_protocol_options
    super::read::put(36, &super::number::Raw::Bytes(entry), &mut value);
    super::read::put(19_999, &super::number::Raw::Bytes(b"new".to_vec()), &mut value);
    for shown in [to_json(&cluster, &value), to_redacted_json(&cluster, &value)] {
        let inner = &shown["typed_extension_protocol_options"]["k"];
        assert_eq!(*inner, json!({ "@type": "x/y.Z", "@unparsed": { "length": 6, "hash": hash(b"secret") } }));
        assert_eq!(shown["@unknown"][0]["field"], 19_999);
        assert!(!shown.to_string().contains("secret"));
    }
    let redacted = redact(&cluster, &value);
    assert!(!redacted.windows(6).any(|window| window == b"secret"));
    assert!(!redacted.windows(3).any(|window| window == b"new"));
}

#[test]
fn nesting_without_end_ends() {
    let mut value = Vec::new();
    for _ in 0..5_000 {
        value = prost_types::Any { type_url: url("google.protobuf.Any"), value }.encode_to_vec();
    }
    let shown = to_json(&url("google.protobuf.Any"), &value).to_string();
    assert!(shown.contains("@unparsed"));
    assert!(redact(&url("google.protobuf.Any"), &value).len() < value.len());
}

const SECRET: &str = "hunter2";

/// A cluster with keys where keys can be: in an `Any` in a transport socket.
fn secretive() -> Encoded {
    bytes(&format!(
        r#"
"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
name: open
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
    sni: open
    common_tls_context:
      tls_certificates:
      - certificate_chain: {{ inline_string: open }}
        private_key: {{ inline_string: {SECRET} }}
        password: {{ inline_bytes: {} }}
"#,
        STANDARD.encode(SECRET)
    ))
}

fn holds_secret(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
}

#[test]
fn what_is_sensitive_is_redacted_within_anything() {
    let read = secretive();
    let before = read.value.clone();
    let shown = to_redacted_json(&read.type_url, &read.value);
    let text = shown.to_string();
    assert!(!text.contains(SECRET) && !text.contains(&STANDARD.encode(SECRET)), "{text}");
    let certificate = &shown["transport_socket"]["typed_config"]["common_tls_context"]["tls_certificates"][0];
    assert_eq!(certificate["private_key"]["inline_string"], REDACTED);
    assert_eq!(certificate["password"]["inline_bytes"], STANDARD.encode(REDACTED));
    assert_eq!(certificate["certificate_chain"]["inline_string"], "open");
    assert!(to_json(&read.type_url, &read.value).to_string().contains(SECRET), "in clear it is there");

    let redacted = redact(&read.type_url, &read.value);
    assert!(!holds_secret(&redacted));
    assert_eq!(to_json(&read.type_url, &redacted), shown, "both views say the same");
    assert_eq!(read.value, before, "the shared bytes are not touched");
}

#[test]
fn a_typed_struct_is_redacted_by_what_it_stands_for() {
    let typed = |of: &str, inner: &str| {
        bytes(&format!(
            "\"@type\": {}\nname: s\ntyped_config:\n  \"@type\": {}\n  type_url: {of}\n  value: {inner}",
            url("envoy.config.core.v3.TypedExtensionConfig"),
            url("xds.type.v3.TypedStruct"),
        ))
    };
    let certificate = url("envoy.extensions.transport_sockets.tls.v3.TlsCertificate");
    let known = format!(
        "{{ privateKey: {{ inline_string: {SECRET} }}, certificate_chain: {{ filename: open }}, new: {SECRET} }}"
    );
    let context = url("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext");
    let nested = format!("{{ sni: open, common_tls_context: {{ tls_certificates: [{known}] }} }}");
    let any = format!("{{ transport_socket: {{ typed_config: {{ \"@type\": {certificate}, password: {SECRET} }} }} }}");
    let cluster = url("envoy.config.cluster.v3.Cluster");
    let cases = [
        (certificate.as_str(), known.as_str(), true),
        (context.as_str(), nested.as_str(), true),
        (&cluster, any.as_str(), false),
        (&url("nobody.knows.This"), "{ open: hunter2 }", false),
        (&cluster, &format!("{{ name: {{ open: {SECRET} }} }}"), false),
        (&cluster, &format!("{{ name: [open, {SECRET}] }}"), false),
        (&cluster, &format!("{{ connect_timeout: {{ seconds: {{ open: {SECRET} }} }} }}"), false),
        (&cluster, &format!("{{ per_connection_buffer_limit_bytes: [{SECRET}], name: open }}"), true),
        (&cluster, &format!("{{ typed_extension_protocol_options: {SECRET}, name: open }}"), true),
    ];
    for (of, inner, open) in cases {
        let read = typed(of, inner);
        assert!(holds_secret(&read.value));
        let shown = to_redacted_json(&read.type_url, &read.value).to_string();
        let redacted = redact(&read.type_url, &read.value);
        assert!(!shown.contains(SECRET) && !holds_secret(&redacted), "{of}: {shown}");
        assert_eq!(shown.contains("open"), open, "{of}: {shown}");
        assert_eq!(to_json(&read.type_url, &redacted).to_string().contains("open"), open, "{of}");
    }
}

#[test]
fn numbers_and_texts_are_what_json_says() {
    let value = |field: &str| {
        let text = format!("\"@type\": {}\n{field}", url("google.protobuf.UInt64Value"));
        let read = bytes(&text);
        to_json(&read.type_url, &read.value)["value"].clone()
    };
    for (text, want) in [
        ("value: 7", "7"),
        ("value: \"18446744073709551615\"", "18446744073709551615"),
        ("value: 1e3", "1000"),
        ("value: 0x1f", "31"),
    ] {
        assert_eq!(value(text), Json::String(want.into()), "{text}");
    }
    let fraction = bytes(&format!("\"@type\": {}\nvalue: 0.1", url("google.protobuf.FloatValue")));
    assert_eq!(to_json(&fraction.type_url, &fraction.value)["value"].to_string(), "0.1");
    let odd = bytes(&format!("\"@type\": {}\nvalue: NaN", url("google.protobuf.DoubleValue")));
    assert_eq!(to_json(&odd.type_url, &odd.value)["value"], "NaN");
    let at = bytes(&format!("\"@type\": {}\nvalue: \"2026-01-31T12:00:00.5Z\"", url("google.protobuf.Timestamp")));
    assert_eq!(to_json(&at.type_url, &at.value)["value"], "2026-01-31T12:00:00.500Z");
}

#[test]
fn everything_wrong_is_told_with_its_path_and_place() {
    let cluster = "\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n";
    let table = [
        ("name: 5", "2:7: name: expected text, found a number; put it in quotes"),
        ("nmae: c", "2:1: envoy.config.cluster.v3.Cluster has no field \"nmae\"; did you mean name?"),
        ("connect_timeout: 5", "2:18: connect_timeout: expected a span of time such as 1.5s, found a number"),
        ("lb_policy: ROUND_ROBINN", "2:12: lb_policy: expected one of ROUND_ROBIN, LEAST_REQUEST"),
        (
            "respect_dns_ttl: \"true\"",
            "2:18: respect_dns_ttl: expected true or false, found text; leave the quotes out",
        ),
        ("name: a\nname: b", "3:1: this key is given twice in line 2 already"),
        (
            "alt_stat_name: a\naltStatName: b",
            "3:1: altStatName is alt_stat_name in another spelling; it is given in line 2 already",
        ),
        (
            "type: EDS\ncluster_type: {}",
            "3:1: cluster_type and type exclude each other; type is given in line 2 already",
        ),
        (
            "per_connection_buffer_limit_bytes: -1",
            "2:36: per_connection_buffer_limit_bytes: expected a whole number from 0 to 4294967295, found a number",
        ),
        ("per_connection_buffer_limit_bytes: 0644", "expected a whole number from 0 to 4294967295, found a number"),
        ("health_checks: {}", "2:16: health_checks: expected a list, found keys and values"),
        (
            "health_checks: [{}, {timeout: 1s, interval: x}]",
            "2:45: health_checks[1].interval: expected a span of time such as 1.5s, found text",
        ),
        (
            "typed_extension_protocol_options: {a: {}, b: {x: 1}}",
            "typed_extension_protocol_options[1]: expected \"@type\", found none",
        ),
        (
            "typed_extension_protocol_options: {b: {\"@type\": type.googleapis.com/envoy.config.cluster.v3.Clutser}}",
            "typed_extension_protocol_options[0].@type: \"type.googleapis.com/envoy.config.cluster.v3.Clutser\" is no \
             type that is known; did you mean type.googleapis.com/envoy.config.cluster.v3.Cluster?",
        ),
        ("<<: {name: a}", "merge keys are not read here"),
    ];
    for (text, want) in table {
        let found = wrongs(&format!("{cluster}{text}"));
        assert!(found.contains(want), "{text}\n  {found}\n  {want}");
    }
    assert_eq!(
        wrongs(&format!("{cluster}name: 5\nconnect_timeout: 7\nnope_at_all: 1")).lines().count(),
        3,
        "all at once"
    );
    assert!(wrongs("name: x").contains("expected \"@type\", found none"));
    assert!(wrongs("- 1").contains("expected keys and values with \"@type\", found a list"));
    let error = from_json(&json!({ "@type": url("envoy.config.cluster.v3.Cluster"), "name": 5 })).unwrap_err();
    assert_eq!(error.to_string(), "name: expected text, found a number; put it in quotes");
}

#[test]
fn no_value_is_in_an_error() {
    let text = format!(
        "\"@type\": {}\nname: n\ngeneric_secret: {{ secret: {{ inline_bytes: \"{SECRET} %\", inline_string: 90210 }} }}",
        url("envoy.extensions.transport_sockets.tls.v3.Secret")
    );
    let found = wrongs(&text);
    assert!(!found.contains(SECRET) && !found.contains("90210"), "{found}");
    assert!(found.contains("expected bytes in base64, found text"), "{found}");
}

/// A colon is forgotten, or a key: then the value stands where a key would.
#[test]
fn no_key_is_in_an_error_that_may_be_a_value() {
    let cluster = url("envoy.config.cluster.v3.Cluster");
    for text in [
        "hunter2: x",
        "name hunter2: x",
        "{hunter2: a, hunter2: b}",
        "typed_extension_protocol_options: {hunter2}",
        "typed_extension_protocol_options: {a: {\"@type\": type.googleapis.com/google.protobuf.Duration, hunter2: 1s}}",
        "typed_extension_protocol_options: {a: {\"@type\": type.googleapis.com/google.protobuf.Empty, value: {hunter2: 1}}}",
        "metadata: {filter_metadata: {hunter2: {hunter2: {hunter2: .inf}}, a: 1}}",
        "metadata: {filter_metadata: {hunter2: 5}}",
        "nmae0123456789012345678901234567890123456789012345678901234567890hunter2: x",
    ] {
        let flow = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
        let text = flow.map_or_else(|| text.to_owned(), |text| text.replace(", ", "\n"));
        let found = wrongs(&format!("\"@type\": {cluster}\n{text}"));
        assert!(!found.contains(SECRET), "{found}");
    }
}
