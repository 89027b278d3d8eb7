//! Every question about sidecars that cannot be answered, and why.

use crate::support::control_plane::ControlPlane;
use crate::support::http;
use crate::support::outpost::Outpost;
use outpost::proto::matcher::list_matcher::MatchPattern as List;
use outpost::proto::matcher::string_matcher::MatchPattern as Text;
use outpost::proto::matcher::struct_matcher::PathSegment;
use outpost::proto::matcher::struct_matcher::path_segment::Segment;
use outpost::proto::matcher::value_matcher::MatchPattern as Pattern;
use outpost::proto::matcher::{ListMatcher, NodeMatcher, RegexMatcher, StringMatcher, StructMatcher, ValueMatcher};
use outpost::proto::protobuf::Any;
use outpost::proto::status::{ClientStatusRequest, ClientStatusResponse};
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

const SERVICE: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService";

fn rows() -> Vec<[&'static str; 3]> {
    let lines = include_str!("bad_questions.txt").lines().filter(|line| !line.starts_with('#'));
    let row = |line: &'static str| {
        let columns: Vec<_> = line.split('|').map(str::trim).collect();
        columns.try_into().unwrap_or_else(|_| panic!("three columns: {line}"))
    };
    lines.map(row).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_cannot_be_answered_is_told_why() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = ControlPlane::start().await;
    let outpost = Outpost::start(dir.path(), control_plane.port, &[]).await;
    let channel = Endpoint::new(format!("http://127.0.0.1:{}", outpost.port)).unwrap().connect().await.unwrap();
    let (http, csds): (Vec<_>, Vec<_>) = rows().into_iter().partition(|[what, ..]| what.contains('/'));
    assert!(http.len() > 20 && csds.len() > 10);
    // No path passes over what it does not know, but for probes and scrapers.
    let theirs = ["/livez", "/readyz", "/metrics"];
    for path in theirs {
        let answer = http::get(outpost.admin_port(), "admin", &format!("{path}?of=theirs")).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    for path in outpost::admin::paths().into_iter().filter(|path| !theirs.contains(path)) {
        let asked = format!("GET {path}?no_such_key=1");
        let known = http.iter().any(|[what, ..]| what.starts_with(&format!("GET {path}?")));
        let answer = http::get(outpost.admin_port(), "admin", &asked[4..]).await.unwrap();
        assert!(known && answer.status == 400, "{asked}: {answer:?}");
    }
    for [what, status, said] in http {
        let (method, path) = what.split_once(' ').unwrap();
        let answer = match method {
            "POST" => http::post(outpost.admin_port(), path).await,
            _ => http::get(outpost.admin_port(), "admin", path).await,
        };
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(Ok(answer.status), status.parse(), "{what}: {}", answer.body);
        assert!(answer.body.contains(said), "{what}: {}", answer.body);
    }
    for [what, code, said] in csds {
        for method in ["FetchClientStatus", "StreamClientStatus"] {
            let answer = asked(&channel, method, question(what)).await;
            let error = answer.expect_err(&format!("{method}, {what}: answered"));
            assert_eq!(format!("{:?}", error.code()), code, "{method}, {what}: {error}");
            assert!(error.message().contains(said), "{method}, {what}: {error}");
        }
    }
}

/// The bytes of a request.
fn question(what: &str) -> Vec<u8> {
    let id = |pattern| NodeMatcher { node_id: Some(text(Some(pattern))), node_metadatas: vec![] };
    let regex = |regex: &str| id(Text::SafeRegex(RegexMatcher { regex: regex.into() }));
    let yes = || value(Pattern::BoolMatch(true));
    let matchers = match what {
        "17 node matchers" => vec![id(Text::Prefix("n".into())); 17],
        "a matcher of 5000 bytes" => vec![id(Text::Exact("x".repeat(5000)))],
        "17 conditions of metadata" => vec![metadata(vec![within("a", Some(yes())); 17])],
        "a text without a pattern" => vec![NodeMatcher { node_id: Some(text(None)), node_metadatas: vec![] }],
        "a regex that is none" => vec![regex("(")],
        "a regex that grows" => vec![regex("((a{100}){100}){100}")],
        "a path without a key" => {
            vec![metadata(vec![StructMatcher { path: vec![PathSegment { segment: None }], value: Some(yes()) }])]
        }
        "metadata without a value" => vec![metadata(vec![within("a", None)])],
        "a value without a pattern" => vec![metadata(vec![within("a", Some(ValueMatcher::default()))])],
        "values in values" => vec![metadata(vec![within("a", Some((0..16).fold(yes(), |inner, _| one_of(inner))))])],
        "a request of 70000 bytes" => vec![id(Text::Exact("x".repeat(70_000)))],
        // Its first field is text where a message is due.
        "no client status request" => return Any { type_url: "x".into(), ..Default::default() }.encode_to_vec(),
        other => panic!("bad_questions.txt has a row that is not asked: {other}"),
    };
    ClientStatusRequest { node_matchers: matchers, ..Default::default() }.encode_to_vec()
}

fn text(match_pattern: Option<Text>) -> StringMatcher {
    StringMatcher { match_pattern, ignore_case: false }
}

fn value(pattern: Pattern) -> ValueMatcher {
    ValueMatcher { match_pattern: Some(pattern) }
}

fn one_of(inner: ValueMatcher) -> ValueMatcher {
    value(Pattern::ListMatch(Box::new(ListMatcher { match_pattern: Some(List::OneOf(Box::new(inner))) })))
}

fn within(key: &str, value: Option<ValueMatcher>) -> StructMatcher {
    StructMatcher { path: vec![PathSegment { segment: Some(Segment::Key(key.into())) }], value }
}

fn metadata(matchers: Vec<StructMatcher>) -> NodeMatcher {
    NodeMatcher { node_id: None, node_metadatas: matchers }
}

/// What is said to a request of these bytes.
async fn asked(channel: &Channel, method: &str, bytes: Vec<u8>) -> Result<ClientStatusResponse, tonic::Status> {
    let path = format!("{SERVICE}/{method}").parse().unwrap();
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let request = tonic::Request::new(tokio_stream::once(Raw(bytes)));
    let codec = ProstCodec::<Raw, ClientStatusResponse>::default();
    let mut answers = client.streaming(request, path, codec).await?.into_inner();
    Ok(answers.message().await?.unwrap_or_default())
}

/// Bytes in the place of a message.
#[derive(Debug, Default)]
struct Raw(Vec<u8>);

impl Message for Raw {
    fn encode_raw(&self, buffer: &mut impl bytes::BufMut) {
        buffer.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}
