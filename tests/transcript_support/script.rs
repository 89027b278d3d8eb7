//! A transcript, parsed. The format is told in tests/transcripts/README.md.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// SotW or delta: which messages are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wire {
    Sotw,
    Delta,
}

/// What a transcript is replayed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The aggregated stream, without sockets and over one.
    Ads,
    /// The service of the transcript's one type, likewise.
    Service,
    /// The aggregated stream, over a socket only.
    Socket,
}

#[derive(Clone, Debug)]
pub struct Script {
    pub id: String,
    pub rules: Vec<String>,
    pub forms: Vec<Form>,
    pub upstreams: Vec<Wire>,
    pub lines: Vec<Line>,
}

#[derive(Clone, Debug)]
pub struct Line {
    pub number: usize,
    pub text: String,
    pub step: Step,
}

#[derive(Clone, Debug)]
pub enum Step {
    Ask {
        streams: Vec<u32>,
        ask: Ask,
        after_optional: bool,
    },
    Answer {
        streams: Vec<u32>,
        answer: Answer,
        after_optional: bool,
    },
    Expect {
        streams: Vec<u32>,
        any_of: Vec<Message>,
        how: How,
    },
    ExpectEnd {
        streams: Vec<u32>,
        code: i32,
        within: Duration,
    },
    CloseSend {
        streams: Vec<u32>,
    },
    Lost {
        streams: Vec<u32>,
    },
    Heard {
        stream: u32,
        kind: String,
    },
    Silence {
        streams: Vec<u32>,
        allowing: Vec<Message>,
        time_passes: bool,
    },
    Advance(Duration),
    /// The upstream's world before anything was asked.
    Start {
        of: Option<String>,
        type_url: String,
        resources: Vec<Resource>,
        errors: Vec<(String, i32)>,
    },
    World(Vec<Edit>),
    Says {
        type_url: String,
        resources: Vec<Resource>,
    },
    Touch {
        type_url: String,
        names: Vec<String>,
    },
    Hold {
        type_url: String,
        on: bool,
    },
    Reachable(bool),
    Node(Node),
    Service {
        stream: u32,
        type_url: String,
    },
    Setting(Vec<String>),
    Upstream(Upstream),
    Stall {
        stream: u32,
        on: bool,
    },
    Streams(usize),
    Pushes {
        count: u64,
        type_url: String,
        resource: Resource,
        reader: u32,
    },
    Flood {
        stream: u32,
        count: usize,
        type_url: String,
    },
    Pings {
        count: usize,
        every: Duration,
    },
    Drain,
    Memory(usize),
    /// A client may send at least this much before Outpost reads.
    Window(usize),
}

/// A request, as the sidecar would state it.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    pub wire: Option<Wire>,
    pub type_url: String,
    pub names: Vec<Locator>,
    pub unsubscribe: Vec<Locator>,
    pub initial: Vec<(String, Version)>,
    pub version_info: String,
    pub nonce: Nonce,
    pub error: Option<(i32, String)>,
    pub node: AskNode,
}

#[derive(Clone, Debug, Default)]
pub struct Locator {
    pub name: String,
    pub params: Vec<(String, String)>,
    pub is_locator: bool,
}

#[derive(Clone, Debug)]
pub enum Version {
    Literal(String),
    /// The version that Outpost states for this content.
    Of(Resource),
}

#[derive(Clone, Debug, Default)]
pub enum Nonce {
    #[default]
    None,
    /// Bound by the response that carries the same mark.
    Mark(String),
    Literal(String),
}

#[derive(Clone, Debug, Default)]
pub enum AskNode {
    /// In the first request of a stream the default one, else none.
    #[default]
    Usual,
    Without,
    Named(String),
}

/// `ack` and `nack`.
#[derive(Clone, Debug)]
pub struct Answer {
    pub type_url: Option<String>,
    pub error: Option<(i32, String)>,
}

/// A response, as it must be.
#[derive(Clone, Debug)]
pub struct Message {
    pub wire: Wire,
    pub type_url: String,
    pub resources: Vec<Resource>,
    pub removed: Vec<String>,
    pub errors: Option<Vec<(String, i32)>>,
    pub label: Option<String>,
    pub label_mark: Option<String>,
    pub nonce_mark: Option<String>,
}

/// How a response may come.
#[derive(Clone, Debug)]
pub struct How {
    pub optional: bool,
    pub within: Duration,
    /// In how many messages at least, where it may be split.
    pub split: Option<usize>,
    pub most_bytes: Option<usize>,
    /// Others of the same type may come before it.
    pub skipping: bool,
}

impl Message {
    pub fn new(wire: Wire, type_url: String) -> Self {
        Self {
            wire,
            type_url,
            resources: Vec::new(),
            removed: Vec::new(),
            errors: None,
            label: None,
            label_mark: None,
            nonce_mark: None,
        }
    }
}

impl How {
    pub fn usual() -> Self {
        Self { optional: false, within: super::parse::USUAL, split: None, most_bytes: None, skipping: false }
    }
}

/// A resource with numbered content.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    pub name: String,
    pub content: u64,
    pub optional: bool,
    pub ttl: Option<Duration>,
    pub aliases: Vec<String>,
    /// A cluster that uses EDS; the name of its assignment, empty where its own.
    pub eds: Option<String>,
    /// Fields that nobody knows stand in payload and wrapper.
    pub unknown: bool,
    pub heartbeat: bool,
    pub nobody: bool,
    pub size: usize,
    pub only: Option<(String, String)>,
    /// The control plane says that it must not be cached.
    pub uncached: bool,
    /// The upstream's version of it, where the transcript states one.
    pub version: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Edit {
    pub type_url: String,
    pub put: Vec<Resource>,
    pub remove: Vec<String>,
    /// The label it comes under; the next number where none is stated.
    pub label: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Node {
    pub name: String,
    pub id: String,
    pub features: Vec<String>,
    pub generator: Option<String>,
    pub agent: Option<String>,
    pub unknown: bool,
}

/// What is expected of the requests that reach the upstream.
#[derive(Clone, Debug)]
pub enum Upstream {
    Request(UpstreamRequest),
    Never(UpstreamRequest),
    /// One subscription (or unsubscription) of a name, over all streams.
    Once {
        type_url: String,
        subscribe: bool,
        name: String,
    },
    Streams(usize),
}

#[derive(Clone, Debug, Default)]
pub struct UpstreamRequest {
    pub type_url: String,
    pub subscribe: Vec<String>,
    pub unsubscribe: Vec<String>,
    pub initial: Vec<String>,
    /// `Some(false)`: an ACK; `Some(true)`: a NACK.
    pub error: Option<bool>,
    pub node_unknown: bool,
    /// Without nonce.
    pub plain: bool,
    /// With an error.
    pub failing: bool,
}

impl Script {
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        super::parse::script(id, &text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Every stream that the transcript speaks of.
    pub fn streams(&self) -> BTreeSet<u32> {
        let of = |line: &Line| match &line.step {
            Step::Ask { streams, .. } => streams.clone(),
            _ => Vec::new(),
        };
        self.lines.iter().flat_map(of).collect()
    }

    /// The one type that its sidecars speak of, for the service form.
    pub fn only_type(&self) -> Option<String> {
        let service = self.lines.iter().find_map(|line| match &line.step {
            Step::Service { type_url, .. } => Some(type_url.clone()),
            _ => None,
        });
        service.or_else(|| {
            self.lines.iter().find_map(|line| match &line.step {
                Step::Ask { ask, .. } => Some(ask.type_url.clone()),
                _ => None,
            })
        })
    }
}
