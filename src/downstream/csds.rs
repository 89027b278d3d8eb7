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
//! * A caller without identity sees no content of what a stream asked in a private
//!   group: others cannot be told from the one whose it is.
//!
//! Promise: a request is read and answered off the threads that serve sidecars, two
//! at a time, and no answer is larger than [`MOST`]; it counts until it is put
//! together, however soon the caller goes, and then until the caller has taken it. No
//! session is held up for longer than it takes to look at it.

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
use crate::transport::routes::Kept;
use crate::xds::{Moment, TypeUrl};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use matcher::Matchers;
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status, Streaming};

/// Of one answer, in bytes.
const MOST: usize = 64 << 20;
/// Answers that are put together, or not taken yet, at once.
const AT_ONCE: usize = 2;
/// So long a request waits for its turn.
const TURN: Duration = Duration::from_secs(5);
/// Of one request.
pub(super) const REQUEST_BYTES: usize = 64 << 10;

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
    pub(super) fn new(identity: Option<Arc<str>>, viewers: &[String], sensitive: Arc<[TypeUrl]>) -> Self {
        let viewer = viewers.iter().any(|viewer| Some(&**viewer) == identity.as_deref());
        Self { identity, viewer, sensitive }
    }

    /// A stream of that identity.
    fn may_see(&self, identity: Option<&str>) -> bool {
        self.viewer || self.identity.as_deref() == identity
    }
}

#[derive(Clone)]
pub(super) struct Csds(Arc<Inner>);

struct Inner {
    clients: Arc<Clients>,
    exchange: Arc<Exchange>,
    clock: Clock,
    room: Arc<Semaphore>,
}

impl Csds {
    pub(super) fn new(clients: Arc<Clients>, exchange: Arc<Exchange>, clock: Clock) -> Self {
        Self(Arc::new(Inner { clients, exchange, clock, room: Arc::new(Semaphore::new(AT_ONCE)) }))
    }

    /// What is kept is for the time until the answer is taken.
    async fn answer(
        &self,
        caller: Caller,
        request: ClientStatusRequest,
    ) -> Result<(ClientStatusResponse, OwnedSemaphorePermit), Status> {
        let room = tokio::select! {
            // It is never closed.
            room = self.0.room.clone().acquire_owned() => room.map_err(|_| Status::unavailable("this server ends"))?,
            () = self.0.clock.sleep_until(self.0.clock.now() + TURN) => {
                return Err(Status::unavailable("other answers are put together or not taken yet; try again"));
            }
        };
        let this = self.0.clone();
        // A caller that goes ends our waiting, not this: so the place goes with it.
        let answer = move || {
            let matchers = Matchers::read(&request.node_matchers).map_err(Status::invalid_argument)?;
            Ok((this.look(&caller, &matchers, !request.exclude_resource_contents)?, room))
        };
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
        let state = (self.clone(), caller, request.into_inner(), None);
        let answers = stream::unfold(Some(state), |state| async {
            let (csds, caller, mut requests, taken) = state?;
            // The next is asked for when the one before has been taken.
            drop(taken);
            let answer = match requests.message().await {
                Ok(None) => return None,
                Ok(Some(request)) => csds.answer(caller.clone(), request).await,
                Err(status) => Err(status),
            };
            Some(match answer {
                Ok((answer, room)) => (Ok(answer), Some((csds, caller, requests, Some(room)))),
                Err(status) => (Err(status), None),
            })
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        let caller = caller(&request)?;
        let (answer, room) = self.answer(caller, request.into_inner()).await?;
        let mut response = Response::new(answer);
        response.extensions_mut().insert(Kept::new(room));
        Ok(response)
    }
}

impl Inner {
    fn look(&self, caller: &Caller, matchers: &Matchers, contents: bool) -> Result<ClientStatusResponse, Status> {
        let mut show = Show::new(caller, self.clock.now(), contents);
        let mut response = ClientStatusResponse::default();
        for client in self.clients.all().iter().filter(|client| caller.may_see(client.identity.as_deref())) {
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
    /// Of private groups too.
    private: bool,
    /// Redacted copies by the id of what they were made from: groups share much.
    seen: HashMap<[u8; 32], Bytes>,
    bytes: usize,
}

impl Show {
    fn new(caller: &Caller, now: Moment, contents: bool) -> Self {
        Self {
            sensitive: caller.sensitive.clone(),
            now,
            wall: SystemTime::now(),
            contents,
            private: caller.identity.is_some(),
            seen: HashMap::new(),
            bytes: 0,
        }
    }

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
            xds_config: entry.and_then(|entry| self.content(&entry, listing.is_private())),
            last_updated: report.sent.filter(|_| standing != Standing::NotSent).map(|at| self.time(at)),
            config_status: status.into(),
            client_status: client.into(),
            error_state,
            is_static_resource: false,
        }
    }

    /// `private`: it came from the stream's private group.
    fn content(&mut self, entry: &Entry, private: bool) -> Option<Any> {
        let Body::Resource(blob) = entry.body() else { return None };
        // What must not be cached is for its subscription only (C-145).
        let withheld = entry.attributes().do_not_cache || private && !self.private;
        if !self.contents || withheld || self.sensitive.contains(blob.type_url()) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Store, entry::Attributes};
    use crate::xds::Name;

    const VIEWER: &str = "spiffe://a/ns/o/sa/operator";

    fn caller(identity: Option<&str>) -> Caller {
        let sensitive = [TypeUrl::from_short("sds").unwrap()].into();
        Caller::new(identity.map(Arc::from), &[VIEWER.to_owned()], sensitive)
    }

    #[test]
    fn who_may_see_which_stream() {
        let table = [
            (None, None, true),
            (None, Some("a"), false),
            (Some("a"), Some("a"), true),
            (Some("a"), Some("b"), false),
            (Some("a"), None, false),
            (Some(VIEWER), Some("a"), true),
            (Some(VIEWER), None, true),
        ];
        for (asks, stream, want) in table {
            assert_eq!(caller(asks).may_see(stream), want, "{asks:?} of {stream:?}");
        }
    }

    #[test]
    fn whose_content_is_shown() {
        let store = Store::new();
        let entry = |short: &str, do_not_cache: bool| {
            let body = Body::Resource(store.blob(&TypeUrl::from_short(short).unwrap(), b"\x0a\x01a"));
            store.entry(Name::from("a"), body, Attributes { do_not_cache, ..Attributes::default() })
        };
        let (plain, once, secret) = (entry("cds", false), entry("cds", true), entry("sds", false));
        let table = [
            (None, &plain, false, true),
            (None, &plain, true, false),
            (Some("a"), &plain, true, true),
            (Some(VIEWER), &plain, true, true),
            (None, &once, false, false),
            (Some("a"), &once, true, false),
            (Some(VIEWER), &once, true, false),
            (Some(VIEWER), &secret, false, false),
        ];
        for (asks, entry, private, want) in table {
            let mut show = Show::new(&caller(asks), Moment::START, true);
            assert_eq!(show.content(entry, private).is_some(), want, "{asks:?} {entry:?} {private}");
            let mut show = Show::new(&caller(asks), Moment::START, false);
            assert_eq!(show.content(entry, private), None);
        }
    }

    /// The place is held until the answer is let go, and who finds none is told so.
    #[tokio::test]
    async fn no_more_than_two_answers_are_held_at_once() {
        let clock = Clock::manual();
        let exchange = Exchange::new(Store::new(), crate::xds::Timing::default(), clock.clone());
        let csds = Csds::new(Arc::default(), exchange, clock.clone());
        let ask = || csds.answer(caller(None), ClientStatusRequest::default());
        let (_, first) = ask().await.unwrap();
        let _second = ask().await.unwrap();
        let (csds, asks) = (csds.clone(), caller(None));
        let third = tokio::spawn(async move { csds.answer(asks, ClientStatusRequest::default()).await.map(drop) });
        while !third.is_finished() {
            clock.advance(TURN);
            tokio::task::yield_now().await;
        }
        assert_eq!(third.await.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
        drop(first);
        assert!(ask().await.is_ok());
    }
}
