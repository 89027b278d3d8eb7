//! What operators and probes see, over HTTP. Nothing here changes what is served.
//!
//! | verb, path | effect |
//! |---|---|
//! | `GET /livez` | 200 while the process answers |
//! | `GET /readyz` | 200 or 503 (see [`ready`]); `?verbose` says why, and how the certificate stands |
//! | `GET /metrics` | what `app` registered, in the text form of OpenMetrics |
//! | `GET /clients` | streams of sidecars, as JSON; `?node=` for those of one node |
//! | `GET /groups` | what is held and wanted, as JSON |
//! | `GET /upstreams` | addresses of the control plane, as JSON |
//! | `GET /configuration` | how the last reading of the configuration went, as JSON |
//! | `GET /disk` | what is kept on disk, where anything is, as JSON |
//! | `GET /notices` | what wants a hand: certificate, keys of tokens, credentials, disk; as JSON |
//! | `GET /explain?node=&type=&name=` | why a node has a resource or not, as JSON |
//! | `GET /config_dump?…` | what is held with its content, as Envoy shows it (see [`dump`]) |
//! | `GET /resources?…` | the same without content, as JSON |
//! | `GET /logging`, `POST /logging?level=&for=`, `POST /logging?reset` | log levels, and others for a while (see [`logging`]) |
//!
//! JSON is our own schema ([`report`]) with an `apiVersion`. No payload of a
//! resource is ever part of it but in `/config_dump`, and no secret of any.
//!
//! Promise: an answer costs the parts that it asks and never waits for a
//! sidecar or the upstream. No page in a browser is answered (see [`host`]). `app` fills
//! [`Sources`]; this module knows no other part.

pub mod convert;
pub mod dump;
pub mod glob;
mod host;
pub mod logging;
pub mod ready;
pub mod report;

use crate::config;
use crate::xds::{Name, TypeUrl};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{MethodRouter, get};
use futures_util::future::BoxFuture;
use prometheus_client::registry::Registry;
use ready::{Certificate, Facts};
use report::{Client, Configuration, Disk, Explanation, Group, List, Notice, Upstream};
use serde::Deserialize;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Asks a part of the program for a report.
pub type Source<Q, R> = Box<dyn Fn(Q) -> BoxFuture<'static, R> + Send + Sync>;

/// Where the answers come from.
pub struct Sources {
    pub registry: Registry,
    pub facts: Box<dyn Fn() -> Facts + Send + Sync>,
    /// What sidecars are shown, where there is TLS.
    pub certificate: Box<dyn Fn() -> Option<Certificate> + Send + Sync>,
    /// What wants a hand.
    pub notices: Box<dyn Fn() -> Vec<Notice> + Send + Sync>,
    /// Why what the files say now is not served, where they are the upstream.
    pub files: Box<dyn Fn() -> Option<String> + Send + Sync>,
    /// All streams, or those of one node id.
    pub clients: Source<Option<String>, Vec<Client>>,
    pub groups: Source<(), Vec<Group>>,
    pub upstreams: Source<(), Vec<Upstream>>,
    /// One for each stream of the node.
    pub explain: Source<Question, Vec<Explanation>>,
    /// One.
    pub configuration: Source<(), Vec<Configuration>>,
    /// One, where something is kept.
    pub disk: Source<(), Vec<Disk>>,
    /// The sections that a dump asks for.
    pub dump: Box<dyn Fn(&dump::Query) -> dump::Sections + Send + Sync>,
    pub room: dump::Room,
    /// Or why it cannot be.
    pub levels: Box<dyn Fn(logging::Change) -> Result<report::Levels, String> + Send + Sync>,
}

/// What `outpost explain` asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub node: String,
    pub type_url: Option<TypeUrl>,
    /// Only with a type.
    pub name: Option<Name>,
}

/// A report that takes longer than this is given up.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("cannot listen on {address} for --admin ({source}); free the port, or name another with --admin")]
    Bind { address: SocketAddr, source: io::Error },
}

/// Listens where [`config::Admin`] says. Where the default is taken a free port
/// is used; an address that was asked for and is taken is an error.
pub async fn bind(admin: config::Admin) -> Result<TcpListener, AdminError> {
    let error = match TcpListener::bind(admin.address).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    if error.kind() == io::ErrorKind::AddrInUse && !admin.asked {
        let free = SocketAddr::new(admin.address.ip(), 0);
        if let Ok(listener) = TcpListener::bind(free).await {
            return Ok(listener);
        }
    }
    Err(AdminError::Bind { address: admin.address, source: error })
}

/// Every path, with what answers there.
fn routes() -> Vec<(&'static str, MethodRouter<Arc<Sources>>)> {
    vec![
        ("/", get(index)),
        ("/livez", get(async || "ok\n")),
        ("/readyz", get(readyz)),
        ("/metrics", get(metrics)),
        ("/clients", get(clients)),
        ("/groups", get(groups)),
        ("/upstreams", get(upstreams)),
        ("/explain", get(explain)),
        ("/configuration", get(configuration)),
        ("/disk", get(disk)),
        ("/notices", get(notices)),
        ("/config_dump", get(config_dump)),
        ("/resources", get(resources)),
        ("/logging", get(logging::show).post(logging::set)),
    ]
}

/// Every path that is served, so that no test forgets one.
pub fn paths() -> Vec<&'static str> {
    routes().into_iter().map(|(path, _)| path).collect()
}

/// Answers until `stop` is done. It should outlive the drain, so that probes
/// see a draining process as alive and not ready.
pub async fn serve(listener: TcpListener, sources: Sources, stop: impl Future<Output = ()> + Send + 'static) {
    let router = routes().into_iter().fold(axum::Router::new(), |router, (path, method)| router.route(path, method));
    let router = router.layer(axum::middleware::from_fn(host::guard));
    let router = router.with_state(Arc::new(sources)).into_make_service_with_connect_info::<SocketAddr>();
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
        tracing::warn!(%error, "the admin endpoint ended");
    }
}

type Shared = State<Arc<Sources>>;

/// What takes no query refuses one: it would be passed over in silence. Probes and
/// scrapers, which ask with keys of their own, are not held to that.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

async fn index(_: Query<Nothing>) -> &'static str {
    "outpost: /livez /readyz?verbose /metrics /clients /groups /upstreams /configuration /disk /notices /resources /config_dump \
     /explain?node=&type=&name= \
     /logging\n"
}

async fn readyz(State(sources): Shared, Query(query): Query<Verbose>) -> (StatusCode, String) {
    let facts = (sources.facts)();
    let status = if facts.ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if query.verbose.is_none() {
        return (status, format!("{}\n", facts.verdict()));
    }
    let certificate = (sources.certificate)().filter(Certificate::is_good);
    let mut text =
        certificate.map(|certificate| format!("[+]certificate {}\n", certificate.text())).unwrap_or_default();
    for notice in (sources.notices)() {
        text.push_str(&format!("[!]{} {}\n", notice.about, notice.text));
    }
    let files = (sources.files)().map(|problem| format!("[!]files are not valid: {problem}\n"));
    (status, text + &files.unwrap_or_default() + &facts.explain())
}

/// Probes and scrapers ask with keys of their own.
#[derive(Deserialize)]
struct Verbose {
    verbose: Option<String>,
}

async fn metrics(State(sources): Shared) -> Response {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &sources.registry);
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}

async fn clients(State(sources): Shared, Query(query): Query<OfNode>) -> Response {
    within((sources.clients)(query.node), "Clients").await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfNode {
    node: Option<String>,
}

async fn groups(State(sources): Shared, _: Query<Nothing>) -> Response {
    within((sources.groups)(()), "Groups").await
}

async fn upstreams(State(sources): Shared, _: Query<Nothing>) -> Response {
    within((sources.upstreams)(()), "Upstreams").await
}

async fn configuration(State(sources): Shared, _: Query<Nothing>) -> Response {
    within((sources.configuration)(()), "Configurations").await
}

async fn disk(State(sources): Shared, _: Query<Nothing>) -> Response {
    within((sources.disk)(()), "Disks").await
}

async fn notices(State(sources): Shared, _: Query<Nothing>) -> Response {
    within(Box::pin(std::future::ready((sources.notices)())), "Notices").await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Explain {
    node: Option<String>,
    #[serde(rename = "type")]
    type_url: Option<String>,
    name: Option<String>,
}

async fn explain(State(sources): Shared, Query(query): Query<Explain>) -> Response {
    match question(query) {
        Ok(question) => within((sources.explain)(question), "Explanations").await,
        Err(text) => (StatusCode::BAD_REQUEST, text).into_response(),
    }
}

/// A type as people name it.
pub fn type_of(text: &str) -> Result<TypeUrl, &'static str> {
    let known = if text.contains('/') { Some(TypeUrl::new(text)) } else { TypeUrl::from_short(text) };
    known.ok_or("no such type; say cds, eds, lds, rds, … or a whole type URL")
}

async fn config_dump(sources: Shared, asked: Query<dump::Asked>) -> Response {
    dumped(sources, asked, dump::write).await
}

async fn resources(sources: Shared, asked: Query<dump::Asked>) -> Response {
    dumped(sources, asked, dump::resources).await
}

type Write = fn(&dump::Query, dump::Sections, &mut dyn io::Write) -> io::Result<()>;

async fn dumped(State(sources): Shared, Query(asked): Query<dump::Asked>, write: Write) -> Response {
    match dump::Query::read(asked) {
        Ok(query) => {
            let room = sources.room.clone();
            room.stream(move |out| write(&query, (sources.dump)(&query), out)).await
        }
        Err(text) => (StatusCode::BAD_REQUEST, text + "\n").into_response(),
    }
}

fn question(query: Explain) -> Result<Question, &'static str> {
    let node = query.node.ok_or("name a node: /explain?node=ID\n")?;
    let type_url = query.type_url.as_deref().map(type_of).transpose()?;
    if query.name.is_some() && type_url.is_none() {
        return Err("a name needs a type: /explain?node=ID&type=cds&name=NAME\n");
    }
    let name = query.name.map(|name| crate::xds::name::normal(&name));
    Ok(Question { node, type_url, name })
}

async fn within<T: serde::Serialize>(report: BoxFuture<'static, Vec<T>>, kind: &'static str) -> Response {
    answer(report, kind, PATIENCE).await
}

async fn answer<T: serde::Serialize>(report: BoxFuture<'_, Vec<T>>, kind: &str, patience: Duration) -> Response {
    match tokio::time::timeout(patience, report).await {
        Ok(items) => Json(List::new(kind, items)).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "this process is too busy to report; try again\n").into_response(),
    }
}

#[cfg(test)]
mod tests;
