//! What the cache counts. No label names a group, a file or an error's text.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::time::SystemTime;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    pub(super) groups: Gauge,
    pub(super) bytes: Gauge,
    saves: Family<ResultLabels, Counter>,
    saved: Gauge,
    written: Counter,
    refused: Family<ReasonLabels, Counter>,
    restored: Family<ResultLabels, Counter>,
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        let registry = registry.sub_registry_with_prefix("persist");
        registry.register("groups", "Groups that are on disk", this.groups.clone());
        registry.register_with_unit("size", "What the cache takes on disk", Unit::Bytes, this.bytes.clone());
        registry.register("saves", "States written, or why not", this.saves.clone());
        let help = "When the newest state was written or was found to be the newest still";
        registry.register_with_unit("saved_timestamp", help, Unit::Seconds, this.saved.clone());
        registry.register_with_unit("written", "Written to disk", Unit::Bytes, this.written.clone());
        registry.register("refused", "States on disk that were not used, and why", this.refused.clone());
        registry.register("restored", "Groups asked of the disk, and what came of it", this.restored.clone());
        this
    }

    pub(super) fn saved(&self, now: SystemTime, written: u64) {
        self.saves.get_or_create(&ResultLabels { result: if written > 0 { "written" } else { "unchanged" } }).inc();
        self.saved.set((super::millis(now) / 1000) as i64);
        self.written.inc_by(written);
    }

    pub(super) fn failed(&self, reason: &'static str) {
        self.saves.get_or_create(&ResultLabels { result: reason }).inc();
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(super) fn restored(&self, result: &'static str) {
        self.restored.get_or_create(&ResultLabels { result }).inc();
    }
}
