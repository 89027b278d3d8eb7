//! The JSON that operators read: plain data, without payloads.
//!
//! Fields are only ever added under one [`API_VERSION`].

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Version of this schema.
pub const API_VERSION: &str = "outpost/v1";

/// An answer: some items of one kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct List<T> {
    pub api_version: String,
    pub kind: String,
    pub items: Vec<T>,
}

impl<T> List<T> {
    pub fn new(kind: &str, items: Vec<T>) -> Self {
        Self { api_version: API_VERSION.into(), kind: kind.into(), items }
    }
}

/// Seconds, to the millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seconds(pub f64);

impl From<Duration> for Seconds {
    fn from(span: Duration) -> Self {
        Self((span.as_secs_f64() * 1000.0).round() / 1000.0)
    }
}

/// How a stream stands with one type. Sorted from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Sync {
    /// The client has acknowledged what is served.
    #[serde(rename = "SYNCED")]
    Synced,
    /// Subscribed, and nothing was sent yet.
    #[serde(rename = "NOT SENT")]
    NotSent,
    /// What is served is newer than what the client has acknowledged.
    #[serde(rename = "STALE")]
    Stale,
    /// The client rejected what is served.
    #[serde(rename = "REJECTED")]
    Rejected,
}

impl Sync {
    pub fn label(self) -> &'static str {
        match self {
            Self::Synced => "SYNCED",
            Self::NotSent => "NOT SENT",
            Self::Stale => "STALE",
            Self::Rejected => "REJECTED",
        }
    }
}

/// How the last reading of the configuration went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// The file, where there is one.
    pub file: Option<String>,
    /// Since it was read and valid.
    pub read_seconds: Seconds,
    /// Why what it says now does not count.
    pub problem: Option<String>,
    pub problem_seconds: Option<Seconds>,
    /// Keys that were changed and wait for a restart.
    pub needs_restart: Vec<String>,
}

/// Something of the process as a whole that wants a hand. What is served goes on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// `certificate`, `keys`, `credentials` or `disk`.
    pub about: String,
    pub text: String,
}

/// What is kept on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    pub directory: String,
    pub encrypted: bool,
    /// On disk, and those of an earlier process to which nobody came yet.
    pub groups: usize,
    pub unclaimed: usize,
    /// Changed since, and not on disk yet.
    pub unsaved: usize,
    pub bytes: u64,
    /// Since it was last written, or found to need no writing.
    pub saved_seconds: Option<Seconds>,
    /// How old what was found at start is.
    pub found_seconds: Option<Seconds>,
    /// Why it cannot be written, and since when.
    pub problem: Option<String>,
    pub problem_seconds: Option<Seconds>,
    /// Files that are not used, and why.
    pub unused: Vec<String>,
    /// Groups that were put back; those of them for which an older state had to do; those
    /// of which nothing could be read.
    pub restored: usize,
    pub older: usize,
    pub lost: usize,
}

/// One stream of one sidecar.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Client {
    /// Counts streams of this process.
    pub stream: u64,
    pub node: String,
    pub peer: String,
    /// What its certificate proves, if it showed one.
    pub identity: Option<String>,
    pub group: String,
    /// Which rule chose the group; see [`crate::group::Rule`].
    pub rule: String,
    /// The field of the rule that the node lacks: an error of its operator.
    pub unmatched: Option<String>,
    pub user_agent: String,
    /// `ads`, or the type of a service of one type.
    pub service: String,
    /// `delta` or `sotw`.
    pub variant: String,
    pub connected_seconds: Seconds,
    /// What waits because the client takes no bytes.
    pub unsent_bytes: usize,
    pub types: Vec<ClientType>,
}

impl Client {
    /// The worst of its types; a stream that asked for nothing is in sync.
    pub fn sync(&self) -> Sync {
        self.types.iter().map(|each| each.sync).max().unwrap_or(Sync::Synced)
    }
}

/// One type on one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientType {
    pub type_url: String,
    /// `cds`, `eds`, … or `other`.
    pub short: String,
    pub sync: Sync,
    /// How long it has been so.
    pub age_seconds: Seconds,
    pub wildcard: bool,
    /// Subscribed by name.
    pub names: usize,
    /// The label of the newest response.
    pub version: String,
    pub last_nack: Option<Nack>,
    /// Empty where nothing is awaited.
    pub waits: Vec<Wait>,
    /// Why it, or names of it, are asked in a private group.
    #[serde(default)]
    pub private: Option<String>,
}

/// What a client said about the last response, which it rejected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nack {
    pub text: String,
    /// A gRPC code.
    pub code: i32,
    pub age_seconds: Seconds,
}

/// Why something was not sent yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wait {
    pub what: WaitFor,
    pub seconds: Seconds,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WaitFor {
    /// The client's answer to the response before.
    Turn,
    /// The client's answer for clusters, which come first.
    Order,
    /// The client, to take what was written.
    Bytes,
    /// The settle window, before something is removed.
    Settle,
    /// The control plane's answer.
    Upstream,
    /// Proof that a name does not exist.
    Absence,
    /// An identity: secrets are refused to this group.
    Credentials,
}

impl WaitFor {
    pub fn label(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Order => "order",
            Self::Bytes => "bytes",
            Self::Settle => "settle",
            Self::Upstream => "upstream",
            Self::Absence => "absence",
            Self::Credentials => "credentials",
        }
    }
}

/// What one group holds and wants.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    pub key: String,
    pub members: usize,
    /// Its stream upstream.
    pub upstream: Stream,
    /// No member's token is good any more: what is held is served.
    #[serde(default)]
    pub auth_stale: bool,
    /// Since what an earlier process held of it was put back from disk, if it was.
    #[serde(default)]
    pub restored_seconds: Option<Seconds>,
    pub types: Vec<GroupType>,
}

/// One stream upstream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stream {
    pub open: bool,
    /// Which address of the control plane it is on.
    pub address: Option<String>,
    /// How long it has been so, where that is known.
    pub seconds: Option<Seconds>,
    /// Why the last one ended.
    pub last_error: Option<String>,
}

/// One type of one group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupType {
    pub type_url: String,
    pub short: String,
    pub resources: usize,
    /// The label that is served.
    pub version: String,
    /// The id of what is held: equal where the content is equal.
    pub tree: String,
    /// The upstream has answered every ask, or may still do so in time.
    pub synced: bool,
    pub wildcard: bool,
    /// Names that its members want.
    pub names: usize,
    /// Since the newest change was committed.
    pub committed_seconds: Option<Seconds>,
    /// Since it was last known to be what the upstream says.
    pub confirmed_seconds: Option<Seconds>,
    /// How long the oldest ask has no answer.
    pub unanswered_seconds: Option<Seconds>,
    /// What the upstream said that is wrong with a name, newest last.
    pub errors: Vec<String>,
}

/// One address of the control plane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    pub address: String,
    pub priority: usize,
    /// No address of a better priority stands.
    pub active: bool,
    pub connections: usize,
    pub streams: usize,
    /// `delta` or `sotw`, once it is known.
    pub variant: Option<String>,
    /// How long it has been connected, or could not be.
    pub seconds: Option<Seconds>,
    pub last_error: Option<String>,
    /// Since the last response of any stream.
    pub last_message_seconds: Option<Seconds>,
    pub round_trip_seconds: Option<Seconds>,
    /// On the wire.
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// Why the newest certificate files are not in use.
    pub tls_problem: Option<String>,
    /// Until our own certificate ends.
    pub tls_expires_seconds: Option<Seconds>,
    /// Where a directory stands in the place of a control plane: what was read of it.
    /// `seconds` count from then, and `lastError` is why what it says now is not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Directory>,
}

/// What was read of a directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Directory {
    pub files: usize,
    pub resources: usize,
}

/// Why one stream of a node has what it has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Only the types that were asked for.
    pub client: Client,
    /// What its group has of these types.
    pub group: Group,
    /// The same of the group of this stream alone, where it has one.
    #[serde(default)]
    pub private_group: Option<Group>,
    /// Where a name was asked for.
    pub resource: Option<Resource>,
}

/// One resource of a group, or of one stream; without what is in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldResource {
    pub group: String,
    /// Where it is of a stream.
    pub node: Option<String>,
    pub type_url: String,
    pub short: String,
    pub name: String,
    /// What the stream was sent, or is served.
    pub version: Option<String>,
    pub bytes: Option<usize>,
    /// How the stream stands with it, in Envoy's words: ACKED, NACKED, …
    pub status: Option<String>,
}

/// What is logged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Levels {
    pub api_version: String,
    pub kind: String,
    /// As configured.
    pub configured: String,
    /// What is laid over that, and for how long.
    pub temporary: Option<String>,
    pub remaining_seconds: Option<Seconds>,
}

/// One resource, as one stream sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    pub name: String,
    /// `name`, `wildcard or glob`, or `no`.
    pub subscribed: String,
    /// The version that the stream was sent.
    pub sent_version: Option<String>,
    /// The version that the group serves.
    pub held_version: Option<String>,
    /// The version that the control plane stated, where it states any.
    pub upstream_version: Option<String>,
    /// The control plane said that it does not exist.
    pub absent: bool,
    /// Its size; never what is in it.
    pub bytes: Option<usize>,
    /// The error that the control plane gave for it.
    pub error: Option<String>,
    pub waits: Vec<Wait>,
}
