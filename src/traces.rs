//! A trace of each patch: from its arrival from upstream to the last ACK.
//!
//! ```text
//! patch   received ───────────────────────────────────────────── last answer
//!           commit ──┐
//!                    └ prepare: difference and encoding, by the stream that was first
//!                       └ fan-out: until the last byte to the last sidecar
//!                            └ answer: from the first byte written to the last answer
//! ```
//!
//! [`Patches`] is told what happens, in any order and by whoever sees it, and only
//! where traces are asked for. A sidecar costs no span: a patch counts them and
//! names the [`SLOWEST`]. The trace of a patch is known from its beginning on, so that a
//! latency can point to it (an exemplar).

use crate::clock::Clock;
use crate::xds::{Moment, TypeUrl};
use opentelemetry::trace::{Span as _, SpanBuilder, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span, SpanData, SpanExporter};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// So many sidecars of a patch are named.
pub const SLOWEST: usize = 10;
/// Patches followed at once; more are not traced.
const MOST: usize = 1000;
/// A patch ends when it was quiet this long and nobody owes an answer …
const QUIET: Duration = Duration::from_secs(2);
/// … or this long after it came.
const LONGEST: Duration = Duration::from_secs(60);
/// How often patches that ended are looked for.
const LOOK: Duration = Duration::from_millis(250);

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be sent as the OTEL_ variables say: {0}")]
pub struct TraceError(#[from] opentelemetry_otlp::ExporterBuildError);

/// Which patch: what one message from upstream changed of one type in one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Patch {
    pub group: Arc<str>,
    pub type_url: TypeUrl,
    pub received: Moment,
}

/// What is known of a patch when it is committed.
#[derive(Clone, Debug)]
pub struct Commit {
    pub at: Moment,
    /// Names that changed.
    pub changed: usize,
    /// What the upstream calls it.
    pub label: Arc<str>,
}

/// One sidecar had the last byte of it.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    pub at: Moment,
    pub bytes: usize,
    /// When its difference and encoding began and ended.
    pub prepared: (Moment, Moment),
}

/// What became of a patch when it had ended.
#[derive(Clone, Debug)]
pub struct Ended {
    pub patch: Patch,
    pub commit: Commit,
    /// The last byte to the first sidecar and to the last one.
    pub first: Option<Moment>,
    pub written: Option<Moment>,
    /// The last answer.
    pub answered: Option<Moment>,
    /// Sidecars that had it.
    pub sent: u64,
}

type Observer = Box<dyn Fn(Ended) + Send + Sync>;

/// Patches under way. Cheap where nothing is sampled.
pub struct Patches {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    clock: Clock,
    active: Mutex<HashMap<Patch, Active>>,
    observer: Option<Observer>,
}

impl std::fmt::Debug for Patches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Patches").field("active", &self.active).finish_non_exhaustive()
    }
}

/// Says it when spans cannot be sent, and when they can again; the library is silent.
#[derive(Debug)]
struct Telling<E> {
    exporter: E,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Telling<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.exporter.export(batch).await;
        match (&sent, self.failing.swap(sent.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => {
                tracing::warn!(error = ?error.to_string(), "traces cannot be sent; they are lost until they can")
            }
            (Ok(()), true) => tracing::info!("traces are sent again"),
            _ => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[derive(Debug)]
struct Active {
    span: Span,
    /// When the patch was received.
    began: SystemTime,
    commit: Commit,
    prepared: Option<(Moment, Moment)>,
    first: Option<Moment>,
    written: Option<Moment>,
    answered: Option<Moment>,
    /// Of streams: those that had it, and what they said.
    sent: u64,
    acked: u64,
    rejected: u64,
    bytes: usize,
    /// By how long their answers took, the slowest first.
    slowest: Vec<(Duration, Arc<str>)>,
    /// Something happened last.
    last: Moment,
}

impl Patches {
    /// Sends spans by OTLP (gRPC), as the standard variables say; needs a runtime.
    /// `named`: they name the service too.
    pub fn otlp(clock: Clock, named: bool) -> Result<Arc<Self>, TraceError> {
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().build()?;
        let resource = Resource::builder();
        let resource = if named { resource } else { resource.with_service_name("outpost") };
        let exporter = Telling { exporter, failing: AtomicBool::new(false) };
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build());
        Ok(Self::new(provider.build(), clock))
    }

    /// Needs nothing but the provider of a tracer.
    pub fn new(provider: SdkTracerProvider, clock: Clock) -> Arc<Self> {
        let tracer = provider.tracer("outpost");
        Self { provider, tracer, clock, active: Mutex::default(), observer: None }.into()
    }

    /// Sends nothing: `tell` hears of each patch that has ended.
    pub fn observed(clock: Clock, tell: impl Fn(Ended) + Send + Sync + 'static) -> Arc<Self> {
        let provider = SdkTracerProvider::builder().build();
        let tracer = provider.tracer("outpost");
        Self { provider, tracer, clock, active: Mutex::default(), observer: Some(Box::new(tell)) }.into()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Patch, Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wall(&self, moment: Moment) -> SystemTime {
        let ago = self.clock.now().since(moment);
        self.clock.wall().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    // ---- what happens ----

    /// A message changed something.
    pub fn committed(&self, patch: Patch, commit: Commit) {
        if let Some(known) = self.lock().get_mut(&patch) {
            // Said in two parts: clusters, and then the assignments that these want.
            known.commit.changed += commit.changed;
            return;
        }
        let began = self.wall(patch.received);
        let builder = SpanBuilder::from_name("patch").with_start_time(began).with_attributes([
            KeyValue::new("xds.type", patch.type_url.short()),
            KeyValue::new("xds.version", commit.label.to_string()),
            KeyValue::new("outpost.group", patch.group.to_string()),
        ]);
        let span = self.tracer.build_with_context(builder, &Context::new());
        if !span.span_context().is_sampled() {
            return;
        }
        let mut active = self.lock();
        if active.len() < MOST {
            active.insert(patch, Active::new(span, began, commit));
        }
    }

    /// Returns the trace that the patch has.
    pub fn written(&self, patch: &Patch, written: Written) -> Option<String> {
        let mut active = self.lock();
        let active = active.get_mut(patch)?;
        active.sent += 1;
        active.bytes += written.bytes;
        active.prepared.get_or_insert(written.prepared);
        active.first.get_or_insert(written.at);
        (active.written, active.last) = (Some(written.at), written.at);
        Some(active.span.span_context().trace_id().to_string())
    }

    /// A sidecar's answer, after [`written`](Self::written). Returns the trace that
    /// the patch has.
    pub fn answered(&self, patch: &Patch, node: &Arc<str>, at: Moment, accepted: bool) -> Option<String> {
        let mut active = self.lock();
        let active = active.get_mut(patch)?;
        *(if accepted { &mut active.acked } else { &mut active.rejected }) += 1;
        (active.answered, active.last) = (Some(at), at);
        active.note(at.since(patch.received), node);
        Some(active.span.span_context().trace_id().to_string())
    }

    // ---- ends ----

    /// Ends patches as they are done, for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            self.clock.sleep_until(self.clock.now() + LOOK).await;
            self.end_those_done(self.clock.now());
        }
    }

    fn end_those_done(&self, now: Moment) {
        let done: Vec<_> = self.lock().extract_if(|patch, active| active.is_done(patch, now)).collect();
        done.into_iter().for_each(|(patch, active)| self.end(&patch, active));
    }

    fn end(&self, patch: &Patch, active: Active) {
        if let Some(tell) = &self.observer {
            let Active { commit, first, written, answered, sent, .. } = active;
            return tell(Ended { patch: patch.clone(), commit, first, written, answered, sent });
        }
        let Active { mut span, began, commit, prepared, first, written, answered, slowest, .. } = active;
        span.set_attribute(KeyValue::new("outpost.names", int(commit.changed)));
        // From one reading of the clock: no part begins before the whole.
        let wall = |moment: Moment| began + moment.since(patch.received);
        let parent = Context::new().with_remote_span_context(span.span_context().clone());
        let child = |name: &'static str, from: Moment, to: Option<Moment>| {
            let Some(to) = to else { return };
            let builder = SpanBuilder::from_name(name).with_start_time(wall(from));
            self.tracer.build_with_context(builder, &parent).end_with_timestamp(wall(to));
        };
        child("commit", patch.received, Some(commit.at));
        prepared.into_iter().for_each(|(from, to)| child("prepare", from, Some(to)));
        child("fan-out", commit.at, written);
        first.into_iter().for_each(|first| child("answer", first, answered));
        for (latency, node) in slowest {
            let at = wall(patch.received + latency);
            let facts = vec![
                KeyValue::new("outpost.node", node.to_string()),
                KeyValue::new("outpost.latency_seconds", latency.as_secs_f64()),
            ];
            span.add_event_with_timestamp("slow sidecar", at, facts);
        }
        span.set_attributes([
            KeyValue::new("outpost.sidecars", int(active.sent)),
            KeyValue::new("outpost.acknowledged", int(active.acked)),
            KeyValue::new("outpost.rejected", int(active.rejected)),
            KeyValue::new("outpost.bytes", int(active.bytes)),
        ]);
        let last = [Some(commit.at), written, answered].into_iter().flatten().max().unwrap_or(commit.at);
        span.end_with_timestamp(wall(last));
    }

    /// Ends what is under way and sends what is left. Blocks for a few seconds at most.
    pub fn shutdown(&self) {
        let rest: Vec<_> = self.lock().drain().collect();
        rest.into_iter().for_each(|(patch, active)| self.end(&patch, active));
        if let Err(error) = self.provider.shutdown_with_timeout(Duration::from_secs(3)) {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

impl Active {
    fn new(span: Span, began: SystemTime, commit: Commit) -> Self {
        Self {
            span,
            began,
            last: commit.at,
            commit,
            prepared: None,
            first: None,
            written: None,
            answered: None,
            sent: 0,
            acked: 0,
            rejected: 0,
            bytes: 0,
            slowest: Vec::new(),
        }
    }

    fn note(&mut self, latency: Duration, node: &Arc<str>) {
        let at = self.slowest.partition_point(|(slower, _)| *slower >= latency);
        if at < SLOWEST {
            self.slowest.truncate(SLOWEST - 1);
            self.slowest.insert(at, (latency, node.clone()));
        }
    }

    fn is_done(&self, patch: &Patch, now: Moment) -> bool {
        let owed = self.sent > self.acked + self.rejected;
        now.since(patch.received) >= LONGEST || !owed && now.since(self.last) >= QUIET
    }
}

fn int(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_sdk::trace::InMemorySpanExporter;

    const MS: Duration = Duration::from_millis(1);

    fn scene() -> (Clock, InMemorySpanExporter, Arc<Patches>, Patch) {
        let (clock, exporter) = (Clock::manual(), InMemorySpanExporter::default());
        clock.advance(Duration::from_secs(1));
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let patches = Patches::new(provider, clock.clone());
        let type_url = TypeUrl::from_short("eds").expect("a type");
        let patch = Patch { group: "g".into(), type_url, received: clock.now() };
        (clock, exporter, patches, patch)
    }

    fn span<'a>(spans: &'a [SpanData], name: &str) -> &'a SpanData {
        spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no span {name} in {spans:?}"))
    }

    fn lasts(span: &SpanData) -> Duration {
        span.end_time.duration_since(span.start_time).expect("it ends after it began")
    }

    fn commit(clock: &Clock) -> Commit {
        Commit { at: clock.now(), changed: 1, label: "7".into() }
    }

    fn send(clock: &Clock, patches: &Patches, patch: &Patch) -> Option<String> {
        let now = clock.now();
        patches.written(patch, Written { at: now, bytes: 100, prepared: (now, now) })
    }

    #[test]
    fn a_patch_is_followed_to_its_last_answer() {
        let (clock, exporter, patches, patch) = scene();
        clock.advance(MS);
        patches.committed(patch.clone(), commit(&clock));
        clock.advance(MS);
        let trace = send(&clock, &patches, &patch).expect("it is traced");
        for number in 0..SLOWEST + 2 {
            clock.advance(MS);
            if number > 0 {
                send(&clock, &patches, &patch);
            }
            let node: Arc<str> = format!("n{number}").into();
            assert_eq!(patches.answered(&patch, &node, clock.now(), number != 3).as_ref(), Some(&trace));
        }
        clock.advance(QUIET);
        patches.end_those_done(clock.now());
        let spans = exporter.get_finished_spans().expect("spans");
        assert_eq!(spans.len(), 5, "{spans:?}");
        let root = span(&spans, "patch");
        assert_eq!(root.span_context.trace_id().to_string(), trace);
        for (name, wanted) in [("commit", MS), ("prepare", Duration::ZERO), ("fan-out", 13 * MS), ("answer", 12 * MS)] {
            let child = span(&spans, name);
            assert_eq!(child.parent_span_id, root.span_context.span_id(), "{name}");
            assert_eq!(lasts(child), wanted, "{name}");
        }
        assert_eq!(lasts(root), 14 * MS);
        let fact = |name: &str| {
            let found = root.attributes.iter().find(|fact| fact.key.as_str() == name);
            found.map(|fact| fact.value.to_string()).unwrap_or_default()
        };
        assert_eq!(
            (fact("xds.type"), fact("xds.version"), fact("outpost.group")),
            ("eds".into(), "7".into(), "g".into())
        );
        assert_eq!((fact("outpost.acknowledged"), fact("outpost.rejected")), ("11".to_owned(), "1".to_owned()));
        assert_eq!(fact("outpost.bytes"), "1200");
        let slow: Vec<_> = root.events.iter().map(|event| event.attributes[0].value.to_string()).collect();
        assert_eq!((slow.len(), slow.first().map(String::as_str)), (SLOWEST, Some("n11")));
    }

    #[test]
    fn an_observer_hears_when_a_patch_was_where() {
        let (clock, _, _, patch) = scene();
        let told = Arc::new(Mutex::new(Vec::new()));
        let into = told.clone();
        let patches = Patches::observed(clock.clone(), move |ended| into.lock().unwrap().push(ended));
        clock.advance(MS);
        patches.committed(patch.clone(), commit(&clock));
        for _ in 0..2 {
            clock.advance(MS);
            send(&clock, &patches, &patch);
            patches.answered(&patch, &"n".into(), clock.now(), true);
        }
        clock.advance(QUIET);
        patches.end_those_done(clock.now());
        let told = told.lock().unwrap();
        let ended = told.first().expect("it ended");
        let after = |moment: Option<Moment>| moment.map(|moment| moment - patch.received);
        assert_eq!((after(ended.first), after(ended.written)), (Some(2 * MS), Some(3 * MS)));
        assert_eq!((after(ended.answered), after(Some(ended.commit.at)), ended.sent), (Some(3 * MS), Some(MS), 2));
    }

    #[test]
    fn who_owes_an_answer_is_waited_for_but_not_for_ever() {
        let (clock, exporter, patches, patch) = scene();
        patches.committed(patch.clone(), commit(&clock));
        send(&clock, &patches, &patch);
        clock.advance(QUIET * 2);
        patches.end_those_done(clock.now());
        assert!(exporter.get_finished_spans().expect("spans").is_empty());
        clock.advance(LONGEST);
        patches.end_those_done(clock.now());
        assert_eq!(exporter.get_finished_spans().expect("spans").len(), 4, "no answer");
        assert_eq!(patches.answered(&patch, &"n".into(), clock.now(), true), None, "it is over");
    }

    #[test]
    fn what_is_not_known_is_not_traced_and_many_are_not_kept() {
        let (clock, _, patches, patch) = scene();
        assert_eq!(send(&clock, &patches, &patch), None);
        for number in 0..MOST + 10 {
            let group = format!("g{number}").into();
            patches.committed(Patch { group, ..patch.clone() }, commit(&clock));
        }
        assert_eq!(patches.lock().len(), MOST);
    }
}
