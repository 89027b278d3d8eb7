//! Is a response fit for use? Before anything of it is (C-135).

use crate::breaks;
use crate::xds::envelope::{Envelope, Resource};
use crate::xds::naming::{self, Naming};
use crate::xds::wire::{Fields, WireError};
use crate::xds::{Name, TypeUrl, Variant};
use bytes::Bytes;
use std::collections::HashSet;

/// Names listed in one NACK; the rest is counted.
const NAMES_SHOWN: usize = 10;

/// A response whose every resource has a name of its own and the right type.
#[derive(Debug)]
pub(super) struct Valid {
    pub(super) resources: Vec<Resource>,
    /// Some were named by content: the response is the whole opaque set.
    pub(super) opaque: bool,
    /// A SotW heartbeat: it states nothing but TTLs (C-133).
    pub(super) heartbeat: bool,
}

/// Why a response is refused as a whole; the text goes into the NACK.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    #[error("undecodable response: {0}")]
    Wire(#[from] WireError),
    #[error("resource names stated twice: {}", shown(.0))]
    Twice(Vec<Name>),
    #[error("resource names both in resources and in removed_resources: {}", shown(.0))]
    Both(Vec<Name>),
    #[error("resources of another type than {expected}: {}", shown(.found))]
    Type { expected: String, found: Vec<String> },
    #[error("resource number {index} of {type_url} is undecodable: {source}")]
    Resource { type_url: String, index: usize, source: WireError },
}

/// Checks the resources of `envelope`, which are left in it as they came.
pub(super) fn check(type_url: &TypeUrl, variant: Variant, envelope: &mut Envelope) -> Result<Valid, Invalid> {
    let mut valid = Valid { resources: Vec::with_capacity(envelope.resources.len()), opaque: false, heartbeat: false };
    let mut foreign = Vec::new();
    for (index, mut resource) in std::mem::take(&mut envelope.resources).into_iter().enumerate() {
        if let Some(found) = foreign_type(type_url, &resource) {
            let name = resource.name.as_deref().unwrap_or("(unnamed)");
            foreign.push(format!("{name:?} is {found:?}"));
            continue;
        }
        name_it(type_url, variant, &mut resource, &mut valid).map_err(|source| Invalid::Resource {
            type_url: type_url.as_str().into(),
            index,
            source,
        })?;
        valid.heartbeat |= variant == Variant::Sotw && resource.payload.is_none();
        if resource.name.as_deref() != Some("") || !breaks::on("C-191") {
            valid.resources.push(resource);
        }
    }
    if !foreign.is_empty() {
        return Err(Invalid::Type { expected: type_url.as_str().into(), found: foreign });
    }
    unique(&mut valid, &envelope.removed)?;
    Ok(valid)
}

fn foreign_type<'a>(type_url: &TypeUrl, resource: &'a Resource) -> Option<&'a str> {
    let found = resource.payload.as_ref()?.type_url.as_str();
    (found != type_url.as_str() || breaks::on("C-022")).then_some(found)
}

/// A bare resource, or one whose wrapper states no name, is named by its bytes.
fn name_it(type_url: &TypeUrl, variant: Variant, resource: &mut Resource, valid: &mut Valid) -> Result<(), WireError> {
    let stated = resource.name.as_ref().is_some_and(|name| variant == Variant::Delta || !name.is_empty());
    let Some(value) = resource.payload.as_ref().map(|payload| payload.value.clone()).filter(|_| !stated) else {
        return Ok(());
    };
    let name = match naming::of(type_url, &value)? {
        Naming::Named(name) => name,
        Naming::ByContent(name) => {
            valid.opaque = true;
            name
        }
    };
    resource.name = Some(name);
    Ok(())
}

/// No name twice (C-012). Variants of one name differ in their constraints.
/// Members of an opaque set that are equal are one.
fn unique(valid: &mut Valid, removed: &[Name]) -> Result<(), Invalid> {
    let mut twice = Vec::new();
    let mut seen: HashSet<(Name, Option<Bytes>)> = HashSet::with_capacity(valid.resources.len());
    let opaque = valid.opaque;
    valid.resources.retain(|resource| {
        let name = resource.name.clone().unwrap_or_default();
        let new = seen.insert((name.clone(), resource.constraints.clone()));
        if !new && !opaque {
            twice.push(name);
        }
        new || !opaque
    });
    let mut gone: HashSet<&Name> = HashSet::with_capacity(removed.len());
    twice.extend(removed.iter().filter(|name| !gone.insert(*name)).cloned());
    if !twice.is_empty() && !breaks::on("C-135") {
        return Err(Invalid::Twice(twice));
    }
    let both: Vec<Name> = valid
        .resources
        .iter()
        .filter(|resource| resource.constraints.is_none())
        .filter_map(|resource| resource.name.clone())
        .filter(|name| gone.contains(name))
        .collect();
    if both.is_empty() { Ok(()) } else { Err(Invalid::Both(both)) }
}

fn shown<T: AsRef<str>>(names: &[T]) -> String {
    let mut text = names.iter().take(NAMES_SHOWN).map(AsRef::as_ref).collect::<Vec<&str>>().join(", ");
    if names.len() > NAMES_SHOWN {
        text.push_str(&format!(" and {} more", names.len() - NAMES_SHOWN));
    }
    text
}

/// Type and nonce of a response that cannot be read as a whole, so that it can
/// be refused: both variants have them in the same fields.
pub(super) fn salvage(message: Bytes) -> Option<(String, String)> {
    let (mut type_url, mut nonce) = (String::new(), String::new());
    for field in Fields::new(message) {
        let field = field.ok()?;
        match field.number {
            4 => type_url = field.string().ok()?,
            5 => nonce = field.string().ok()?,
            _ => {}
        }
    }
    (!type_url.is_empty() && !nonce.is_empty()).then_some((type_url, nonce))
}
