//! One try of each address, for those who want to know why a control plane
//! gives nothing: how far a connection comes, and what a first ask is answered.

use super::metadata::Metadata;
use super::{SetupError, client_files};
use crate::clock::Clock;
use crate::config::{self, Credentials, Speak};
use crate::proto::core::Node;
use crate::proto::discovery::{DeltaDiscoveryRequest, DiscoveryRequest};
use crate::transport::client::{Address, ConnectError, Connection, Dialer, Options, StreamEnd};
use crate::transport::frame::Limit;
use crate::transport::tls::ClientTls;
use crate::xds::{TypeUrl, Variant, code};
use bytes::Bytes;
use futures_util::future::join_all;
use http::HeaderMap;
use prost::Message;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How far a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The name has an address.
    Resolve,
    /// Something accepts connections there.
    Connect,
    Tls,
    Http2,
}

/// What came of one address.
#[derive(Clone, Debug)]
pub struct Probe {
    pub address: String,
    /// It is a name, which was resolved.
    pub named: bool,
    pub tls: bool,
    /// Where it ended, and why.
    pub broke: Option<(Stage, String)>,
    /// It was because a certificate is not valid now.
    pub dates: bool,
    pub round_trip: Duration,
    /// `None` where no connection came about.
    pub answer: Option<Answer>,
    /// Our clock against the peer's, where it told its time.
    pub ahead: Option<Ahead>,
}

/// What a first ask for clusters is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Response(Variant),
    /// The stream stands, and nothing came.
    Silence(Variant),
    /// Streams are opened by the tokens of sidecars, and here is none.
    NotTried,
    Ended {
        code: i32,
        text: String,
    },
}

/// By how much our clock is ahead of the peer's, or behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    By(Duration),
    Behind(Duration),
}

const PATIENCE: Duration = Duration::from_secs(5);

/// Tries every address once, all at the same time. The asks present a node of
/// the id `node`.
pub async fn probe(config: &config::Upstream, node: &str, clock: &Clock) -> Result<Vec<Probe>, SetupError> {
    let tls = config.tls.as_ref().map(|tls| ClientTls::new(client_files(tls))).transpose()?.map(Arc::new);
    let receive_limit = Limit { bytes: config.message_bytes, remedy: "raise --upstream-max-message-bytes" };
    let options = Options { tls, receive_limit, ..Options::default() };
    let metadata = Metadata::new(&config.metadata, config.token_file.clone())?.read(None)?;
    let ask = First {
        metadata: Some(metadata).filter(|_| config.credentials != Credentials::Member),
        speak: config.speak,
        node,
    };
    let tries = config.endpoints.iter().map(|endpoint| try_one(endpoint, &options, &ask, clock));
    Ok(join_all(tries).await)
}

/// The first ask.
struct First<'a> {
    /// `None`: none can be made.
    metadata: Option<HeaderMap>,
    speak: Speak,
    node: &'a str,
}

async fn try_one(endpoint: &config::Endpoint, options: &Options, asked: &First<'_>, clock: &Clock) -> Probe {
    let address = Address::Tcp { host: endpoint.host.clone(), port: endpoint.port };
    let mut probe = Probe {
        address: endpoint.to_string(),
        named: endpoint.host.parse::<IpAddr>().is_err(),
        tls: options.tls.is_some(),
        broke: None,
        dates: false,
        round_trip: Duration::ZERO,
        answer: None,
        ahead: None,
    };
    match Dialer::new(address, options.clone(), clock.clone()).connect().await {
        Err(error) => {
            probe.dates = matches!(error, ConnectError::Tls { dates: true, .. });
            probe.broke = Some((stage(&error), error.to_string()));
        }
        Ok(connection) => {
            probe.round_trip = connection.round_trip();
            let &First { ref metadata, speak, node } = asked;
            let Some(metadata) = metadata else {
                probe.answer = Some(Answer::NotTried);
                return probe;
            };
            let first = if speak == Speak::Sotw { Variant::Sotw } else { Variant::Delta };
            let (mut answer, mut date) = ask(&connection, metadata, first, node, clock).await;
            let lacks = matches!(answer, Answer::Ended { code: code::UNIMPLEMENTED, .. });
            if lacks && speak == Speak::Auto {
                (answer, date) = ask(&connection, metadata, Variant::Sotw, node, clock).await;
            }
            probe.answer = Some(answer);
            probe.ahead = date.map(|theirs| ahead(SystemTime::now(), theirs));
        }
    }
    probe
}

fn stage(error: &ConnectError) -> Stage {
    match error {
        ConnectError::Resolve { .. } => Stage::Resolve,
        ConnectError::Connect { .. } | ConnectError::ConnectTimeout { .. } => Stage::Connect,
        ConnectError::Tls { .. } | ConnectError::HandshakeTimeout { stage: "TLS", .. } => Stage::Tls,
        ConnectError::HandshakeTimeout { .. } | ConnectError::NotHttp2 { .. } | ConnectError::Closed { .. } => {
            Stage::Http2
        }
    }
}

fn ahead(ours: SystemTime, theirs: SystemTime) -> Ahead {
    match ours.duration_since(theirs) {
        Ok(by) => Ahead::By(by),
        Err(error) => Ahead::Behind(error.duration()),
    }
}

async fn ask(
    connection: &Connection,
    metadata: &HeaderMap,
    variant: Variant,
    node: &str,
    clock: &Clock,
) -> (Answer, Option<SystemTime>) {
    let ended = |code: i32, text: String| Answer::Ended { code, text };
    let path = match variant {
        Variant::Delta => super::stream::DELTA,
        Variant::Sotw => super::stream::SOTW,
    };
    let (mut sender, mut receiver) = match connection.open(path, metadata) {
        Ok(call) => call,
        Err(error) => return (ended(code::UNAVAILABLE, error.to_string()), None),
    };
    let exchange = async {
        if sender.push(&[], request(variant, node)).is_err() || sender.flush().await.is_err() {
            return Err(StreamEnd::Lost("the peer took no request".into()));
        }
        receiver.message().await
    };
    let came = tokio::select! {
        came = exchange => Some(came),
        () = clock.sleep_until(clock.now() + PATIENCE) => None,
    };
    let date = receiver.date();
    let answer = match came {
        None => Answer::Silence(variant),
        Some(Ok(_)) => Answer::Response(variant),
        Some(Err(end)) => ended(end.code(), end.to_string()),
    };
    (answer, date)
}

/// For all clusters.
fn request(variant: Variant, node: &str) -> Bytes {
    let node =
        Node { id: node.into(), cluster: "outpost".into(), user_agent_name: "outpost".into(), ..Node::default() };
    let clusters = TypeUrl::from_short("cds").map(|url| url.as_str().to_owned()).unwrap_or_default();
    match variant {
        Variant::Sotw => {
            DiscoveryRequest { node: Some(node), type_url: clusters, ..Default::default() }.encode_to_vec()
        }
        Variant::Delta => {
            DeltaDiscoveryRequest { node: Some(node), type_url: clusters, ..Default::default() }.encode_to_vec()
        }
    }
    .into()
}
