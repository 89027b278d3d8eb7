//! The one thing that is read inside a Cluster.

use super::wire::{Field, Fields, Value};
use bytes::Bytes;

const EDS: u64 = 3;

/// The name under which a Cluster's assignment is asked for by EDS:
/// `eds_cluster_config.service_name`, else its own name. `None` for a cluster
/// that is not discovered by EDS, and for bytes that are no message.
pub fn eds_name(cluster: &Bytes) -> Option<String> {
    let (mut name, mut service, mut eds) = (String::new(), String::new(), false);
    for field in Fields::new(cluster.clone()) {
        match field.ok()? {
            field @ Field { number: 1, .. } => name = field.string().ok()?,
            Field { number: 2, value: Value::Varint(kind), .. } => eds = kind == EDS,
            Field { number: 3, value: Value::Bytes(config), .. } => {
                service = super::wire::first_string(&config, 2).ok()?;
            }
            _ => {}
        }
    }
    let called = if service.is_empty() { name } else { service };
    eds.then_some(called)
}
