//! Client status discovery: which sidecar has which resource, for grpcdebug and
//! the like.
//!
//! Who may see what:
//!
//! * An identity that is named as a viewer (`--status-viewer`) sees every stream.
//! * Any other verified identity sees the streams of that identity.
//! * A caller without identity sees the streams without identity: such a caller
//!   could open the like and be served the same.
//! * Nobody sees content of a sensitive type or of what must not be cached, and of
//!   other types no field that is annotated as sensitive: what is shown is a
//!   redacted copy.
//!
//! Promise: an answer is put together off the threads that serve sidecars, two at
//! a time, and none is larger than [`MOST`]; no session is held up for longer than
//! it takes to look at it.

mod matcher;

use super::clients::{Client, Clients};
use crate::clock::Clock;
use crate::content::{Body, Entry};
use crate::descriptors;
use crate::exchange::Exchange;
use crate::proto::admin::{ClientResourceStatus, UpdateFailureState};
use crate::proto::core::Node;
use crate::proto::protobuf::{Any, Timestamp};
use crate::proto::status::client_config::GenericXdsConfig;
use crate::proto::status::client_status_discovery_service_server::ClientStatusDiscoveryService;
use crate::proto::status::{ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus};
use crate::session::server::{Listed, Listing, Standing};
use crate::xds::{Moment, TypeUrl};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use matcher::Matchers;
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

/// Of one answer, in bytes.
const MOST: usize = 64 << 20;
/// Answers that are put together at once.
const AT_ONCE: usize = 2;

/// Who asks, as the connection and not the request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) identity: Option<Arc<str>>,
    /// It may see every stream.
    pub(super) viewer: bool,
    /// Types of which nobody sees content.
    pub(super) sensitive: Arc<[TypeUrl]>,
}

impl Caller {
    fn may_see(&self, client: &Client) -> bool {
        self.viewer || self.identity == client.identity
    }
}

#[derive(Clone)]
pub(super) struct Csds(Arc<Inner>);

struct Inner {
    clients: Arc<Clients>,
    exchange: Arc<Exchange>,
    clock: Clock,
    room: Semaphore,
}

impl Csds {
    pub(super) fn new(clients: Arc<Clients>, exchange: Arc<Exchange>, clock: Clock) -> Self {
        Self(Arc::new(Inner { clients, exchange, clock, room: Semaphore::new(AT_ONCE) }))
    }

    async fn answer(&self, caller: Caller, request: ClientStatusRequest) -> Result<ClientStatusResponse, Status> {
        let matchers = Matchers::read(&request.node_matchers).map_err(Status::invalid_argument)?;
        // It is never closed.
        let _room = self.0.room.acquire().await.map_err(|_| Status::unavailable("this server ends"))?;
        let this = self.0.clone();
        let answer = move || this.look(&caller, &matchers, !request.exclude_resource_contents);
        tokio::task::spawn_blocking(answer).await.map_err(|error| Status::internal(error.to_string()))?
    }
}

/// A client that says nothing about who it is has passed no check.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get().cloned().ok_or_else(|| Status::internal("it is not known who asks"))
}

#[tonic::async_trait]
impl ClientStatusDiscoveryService for Csds {
    type StreamClientStatusStream = BoxStream<'static, Result<ClientStatusResponse, Status>>;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Self::StreamClientStatusStream>, Status> {
        let caller = caller(&request)?;
        let state = (self.clone(), caller, request.into_inner());
        let answers = stream::unfold(Some(state), |state| async {
            let (csds, caller, mut requests) = state?;
            let answer = match requests.message().await {
                Ok(None) => return None,
                Ok(Some(request)) => csds.answer(caller.clone(), request).await,
                Err(status) => Err(status),
            };
            let next = answer.is_ok().then_some((csds, caller, requests));
            Some((answer, next))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        let caller = caller(&request)?;
        self.answer(caller, request.into_inner()).await.map(Response::new)
    }
}

impl Inner {
    fn look(&self, caller: &Caller, matchers: &Matchers, contents: bool) -> Result<ClientStatusResponse, Status> {
        let mut show = Show {
            sensitive: caller.sensitive.clone(),
            now: self.clock.now(),
            wall: SystemTime::now(),
            contents,
            seen: HashMap::new(),
            bytes: 0,
        };
        let mut response = ClientStatusResponse::default();
        for client in self.clients.all().iter().filter(|client| caller.may_see(client)) {
            let Some(node) = self.node(client).filter(|node| matchers.match_node(node)) else { continue };
            let mut config =
                ClientConfig { node: Some(node), client_scope: client.service.into(), ..Default::default() };
            show.count(config.encoded_len())?;
            for listing in client.listings(show.now) {
                for listed in listing.resources() {
                    let shown = show.resource(&listing, listed);
                    show.count(shown.encoded_len())?;
                    config.generic_xds_configs.push(shown);
                }
            }
            response.config.push(config);
        }
        Ok(response)
    }

    /// The node as its group presents it: as it stands, unless the group is shared.
    /// Then only what the rule names is known beside the id. `None` before the
    /// first request.
    fn node(&self, client: &Client) -> Option<Node> {
        let known = client.known()?;
        let presented = self.exchange.group(&known.group).map(|group| group.presented());
        let head = presented.map(|presented| presented.head).unwrap_or_default();
        // It was read when it came.
        let node = Node::decode(head).unwrap_or_default();
        Some(Node { id: known.node.to_string(), user_agent_name: known.user_agent.to_string(), ..node })
    }
}

/// Puts one answer together.
struct Show {
    sensitive: Arc<[TypeUrl]>,
    now: Moment,
    wall: SystemTime,
    contents: bool,
    /// Redacted copies by the id of what they were made from: groups share much.
    seen: HashMap<[u8; 32], Bytes>,
    bytes: usize,
}

impl Show {
    fn count(&mut self, bytes: usize) -> Result<(), Status> {
        self.bytes += bytes;
        if self.bytes <= MOST {
            return Ok(());
        }
        let hint = "name fewer nodes by node_matchers, or set exclude_resource_contents";
        Err(Status::resource_exhausted(format!("the answer is larger than {} MiB; {hint}", MOST >> 20)))
    }

    fn resource(&mut self, listing: &Listing, listed: Listed) -> GenericXdsConfig {
        let Listed { name, entry, standing } = listed;
        let report = &listing.report;
        let (status, client) = words(&standing);
        let version = entry.as_ref().map(|entry| entry.id().version()).unwrap_or_default();
        let error_state = match (&standing, &report.nacked) {
            (Standing::Rejected, Some((at, status))) => Some(UpdateFailureState {
                last_update_attempt: Some(self.time(*at)),
                details: status.message.clone(),
                version_info: version.clone(),
                ..Default::default()
            }),
            (Standing::Failed(status), _) => {
                Some(UpdateFailureState { details: status.message.clone(), ..Default::default() })
            }
            _ => None,
        };
        GenericXdsConfig {
            type_url: report.type_url.as_str().into(),
            name: name.to_string(),
            version_info: version,
            xds_config: entry.and_then(|entry| self.content(&entry)),
            last_updated: report.sent.filter(|_| standing != Standing::NotSent).map(|at| self.time(at)),
            config_status: status.into(),
            client_status: client.into(),
            error_state,
            is_static_resource: false,
        }
    }

    fn content(&mut self, entry: &Entry) -> Option<Any> {
        let Body::Resource(blob) = entry.body() else { return None };
        // What must not be cached is for its subscription only (C-145).
        if !self.contents || self.sensitive.contains(blob.type_url()) || entry.attributes().do_not_cache {
            return None;
        }
        let type_url = blob.type_url().as_str();
        let made = || descriptors::redact(type_url, blob.value()).into();
        let value = self.seen.entry(*blob.id()).or_insert_with(made).clone();
        Some(Any { type_url: type_url.into(), value })
    }

    fn time(&self, at: Moment) -> Timestamp {
        let at = self.wall.checked_sub(self.now.since(at)).unwrap_or(SystemTime::UNIX_EPOCH);
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
        }
    }
}

fn words(standing: &Standing) -> (ConfigStatus, ClientResourceStatus) {
    match standing {
        Standing::Synced => (ConfigStatus::Synced, ClientResourceStatus::Acked),
        Standing::Stale => (ConfigStatus::Stale, ClientResourceStatus::Requested),
        Standing::NotSent => (ConfigStatus::NotSent, ClientResourceStatus::Requested),
        Standing::Rejected => (ConfigStatus::Error, ClientResourceStatus::Nacked),
        Standing::Absent => (ConfigStatus::Synced, ClientResourceStatus::DoesNotExist),
        Standing::Failed(_) => (ConfigStatus::Error, ClientResourceStatus::ReceivedError),
    }
}
