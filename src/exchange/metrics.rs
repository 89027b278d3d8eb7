//! What the exchange counts. No label names a group, a node or a resource.

use super::core::Applied;
use super::private::Counts;
use super::slot::Inner;
use super::{Exchange, GroupHandle};
use crate::traces::{Commit, Patch};
use crate::xds::{Moment, TypeUrl};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// In seconds, from a millisecond to a minute.
const LATENCY: [f64; 16] =
    [0.0001, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommitLabels {
    r#type: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabels {
    r#type: &'static str,
}

#[derive(Clone, Debug)]
pub(super) struct Metrics {
    commits: Family<CommitLabels, Counter>,
    ignored: Family<TypeLabels, Counter>,
    wakeups: Counter,
    latency: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            commits: Family::default(),
            ignored: Family::default(),
            wakeups: Counter::default(),
            latency: Histogram::new(LATENCY),
        }
    }
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry, private: &Counts) {
        let help = "Streams that found no place for the private group that they need";
        registry.register("private_groups_full", help, private.full.clone());
        let help = "Health information passed on to the upstream";
        registry.register("passed_health", help, private.health.clone());
        let help = "Requests for debug types passed on to the upstream";
        registry.register("passed_debug", help, private.debug.clone());
        registry.register("commits", "Upstream responses committed, by what they did", self.commits.clone());
        registry.register(
            "resources_ignored",
            "Resources the upstream sent that no subscription covers",
            self.ignored.clone(),
        );
        registry.register("wakeups", "Streams told that something concerns them", self.wakeups.clone());
        registry.register_with_unit(
            "commit_latency",
            "From the arrival of an upstream response to its commit",
            Unit::Seconds,
            self.latency.clone(),
        );
    }

    pub(super) fn committed(&self, type_url: &TypeUrl, applied: Applied, took: Duration) {
        let result = match applied {
            Applied { changed: 1.., .. } => "changed",
            Applied { touched: 1.., .. } => "touched",
            _ => "unchanged",
        };
        let r#type = type_url.short();
        self.commits.get_or_create(&CommitLabels { r#type, result }).inc();
        if applied.ignored > 0 {
            self.ignored.get_or_create(&TypeLabels { r#type }).inc_by(applied.ignored as u64);
        }
        self.latency.observe(took.as_secs_f64());
    }

    pub(super) fn woke(&self, streams: usize) {
        self.wakeups.inc_by(streams as u64);
    }
}

/// Gauges that are read when somebody asks.
#[derive(Debug)]
pub(super) struct Gauges(pub(super) Arc<Exchange>);

/// The sum of what the groups hold of one type.
#[derive(Debug, Default)]
struct Total {
    resources: usize,
    oldest: Option<Duration>,
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (mut groups, mut members, mut stale) = (0, 0, 0);
        let mut types: BTreeMap<&'static str, Total> = BTreeMap::new();
        let now: Moment = self.0.clock.now();
        self.0.each(|inner| {
            groups += 1;
            members += inner.members();
            stale += usize::from(is_stale(inner));
            for (type_url, resources) in inner.state().sizes() {
                types.entry(type_url.short()).or_default().resources += resources;
            }
            if inner.members() > 0 {
                for (type_url, age) in inner.state().confirmations(now) {
                    let total = types.entry(type_url.short()).or_default();
                    total.oldest = total.oldest.max(age);
                }
            }
        });
        gauge(&mut encoder, "groups", "Groups known", None, [(None, groups as f64)])?;
        gauge(&mut encoder, "members", "Streams that are members of a group", None, [(None, members as f64)])?;
        let help = "Groups of one stream each, for what must not be shared; counted nowhere else";
        gauge(&mut encoder, "private_groups", help, None, [(None, self.0.private.len() as f64)])?;
        let help = "Private groups that there may be";
        gauge(&mut encoder, "private_groups_limit", help, None, [(None, self.0.most_private() as f64)])?;
        let help = "Groups of which no member has a token that is still good: they serve what they hold";
        gauge(&mut encoder, "groups_auth_stale", help, None, [(None, stale as f64)])?;
        let held = types.iter().map(|(name, total)| (Some(*name), total.resources as f64));
        gauge(&mut encoder, "resources", "Names held, summed over groups", None, held)?;
        let ages = types.iter().filter_map(|(name, total)| Some((Some(*name), total.oldest?.as_secs_f64())));
        let help = "Since the upstream last confirmed it, of the group with members that waits longest";
        gauge(&mut encoder, "snapshot_age", help, Some(&Unit::Seconds), ages)
    }
}

impl Exchange {
    /// Groups of which no member has a token that is still good.
    pub fn auth_stale(&self) -> usize {
        let mut stale = 0;
        self.each(|inner| stale += usize::from(is_stale(inner)));
        stale
    }
}

/// Of a group without members nobody is served, and nobody could bring a token.
fn is_stale(inner: &Inner) -> bool {
    inner.members() > 0 && inner.credentials.is_stale()
}

impl GroupHandle {
    /// Begins the trace of a patch, where they are asked for: before anybody is woken,
    /// who would tell more of it.
    pub(super) fn trace(&self, type_url: &TypeUrl, received: Moment, commit: Commit) {
        let patches = self.exchange.patches.get().filter(|_| commit.changed > 0 && !self.key().is_private());
        if let Some(patches) = patches {
            let patch = Patch { group: self.key().text().clone(), type_url: type_url.clone(), received };
            patches.committed(patch, commit);
        }
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    values: impl IntoIterator<Item = (Option<&'static str>, f64)>,
) -> Result<(), std::fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (r#type, value) in values {
        let value = ConstGauge::new(value);
        match r#type {
            Some(r#type) => value.encode(metric.encode_family(&TypeLabels { r#type })?)?,
            None => return value.encode(metric),
        }
    }
    Ok(())
}
