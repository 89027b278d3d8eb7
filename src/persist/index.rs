//! The index: which groups there are, and where their trees stand in the data file.
//!
//! ```text
//! head   magic, format version, closed or not, salt
//! body   closed where there is a key:
//!        cluster, upstreams, when it was written,
//!        groups: key, types (roots, labels, TTLs), confirmations
//!        parts that a later program may add: tag, bytes
//! sum    BLAKE3 of all before it
//! ```
//!
//! It is written whole, beside the one before, and then renamed. What a group's part
//! says is looked at when the group is.

use super::object::{Link, put_link, read_link};
use super::seal::{Key, SALT, Seal};
use super::wire::{Malformed, Put, Reader};
use crate::exchange::KeptLabel;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Of this program's files, and the name of their directory. Another form is another
/// number.
pub(super) const VERSION: u16 = 1;
const INDEX: &[u8; 8] = b"OUTP-IDX";
const DATA: &[u8; 8] = b"OUTP-DAT";
/// Of a head.
pub(super) const HEAD: usize = 8 + 2 + 1 + SALT;
const SUM: usize = 32;
/// Tag of a part.
const RULES: &[u8] = b"rules";

/// Whose state it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) cluster: String,
    /// Addresses of the control plane.
    pub(super) upstreams: Vec<String>,
    /// What keys of groups mean; empty where that is not known.
    pub(super) rules: String,
}

impl Owner {
    /// Is what `other` kept ours? One common address is enough: addresses are added and
    /// taken away while the control plane stays.
    fn accepts(&self, other: &Self) -> bool {
        let rules = self.rules == other.rules || other.rules.is_empty();
        rules && self.cluster == other.cluster && self.upstreams.iter().any(|address| other.upstreams.contains(address))
    }
}

/// Why a file is not used. Every text says what is wrong and what follows.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("cannot be read ({0})")]
    Unreadable(#[from] std::io::Error),
    #[error("is damaged: {0}")]
    Damaged(&'static str),
    #[error("is of format {0}, and this program knows {VERSION}; it is kept for a program that knows it")]
    Newer(u16),
    #[error("belongs to {0}")]
    Foreign(String),
    #[error("is encrypted, and no key is given; give --persist-encryption-key-file")]
    NoKey,
    #[error("is not encrypted, and a key is given; what the control plane says is written anew, encrypted")]
    Plain,
    #[error("does not open with the key of --persist-encryption-key-file")]
    WrongKey,
    #[error("is larger than --persist-max-bytes")]
    TooLarge,
}

impl Refused {
    /// Metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::Damaged(_) => "damaged",
            Self::Newer(_) => "newer",
            Self::Foreign(_) => "foreign",
            Self::NoKey => "no_key",
            Self::Plain => "plain",
            Self::WrongKey => "wrong_key",
            Self::TooLarge => "too_large",
        }
    }
}

impl From<Malformed> for Refused {
    fn from(_: Malformed) -> Self {
        Self::Damaged("its parts do not have the form that they should have")
    }
}

/// One group as it stands in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Its types, encoded: equal where nothing changed.
    pub(super) types: Bytes,
    /// When each type was last what the upstream says: milliseconds since 1970; 0 where
    /// that is not known.
    pub(super) confirmed: Vec<u64>,
}

/// One type of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Type {
    pub(super) type_url: String,
    /// `None` where nothing is in it.
    pub(super) tree: Option<Link>,
    pub(super) versions: Option<Link>,
    pub(super) label: KeptLabel,
    pub(super) complete: bool,
    /// Milliseconds since 1970.
    pub(super) expires: Vec<(String, u64)>,
    /// Names of what must not be kept.
    pub(super) apart: Vec<String>,
}

impl Type {
    pub(super) fn encode(types: &[Self]) -> Bytes {
        let mut bytes = Vec::with_capacity(types.len() * 256);
        bytes.number(types.len() as u64);
        for of in types {
            bytes.bytes(of.type_url.as_bytes());
            let KeptLabel { current, shown, diverged, dropped } = &of.label;
            let flags =
                [of.tree.is_some(), of.versions.is_some(), of.complete, *diverged, *dropped, !of.apart.is_empty()];
            bytes.push(flags.iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(*flag)));
            of.tree.iter().chain(&of.versions).for_each(|link| put_link(&mut bytes, link));
            bytes.bytes(current.as_bytes());
            bytes.bytes(shown.as_bytes());
            bytes.number(of.expires.len() as u64);
            for (name, at) in &of.expires {
                bytes.bytes(name.as_bytes());
                bytes.number(*at);
            }
            if !of.apart.is_empty() {
                bytes.number(of.apart.len() as u64);
                of.apart.iter().for_each(|name| bytes.bytes(name.as_bytes()));
            }
        }
        bytes.into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Self>, Malformed> {
        let mut reader = Reader(bytes);
        let count = reader.count()?;
        let types = (0..count).map(|_| Self::read(&mut reader)).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(types)
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let type_url = from.text()?.to_owned();
        let flags = from.byte()?;
        let is = |bit: u8| flags >> bit & 1 == 1;
        let tree = is(0).then(|| read_link(from)).transpose()?;
        let versions = is(1).then(|| read_link(from)).transpose()?;
        let (current, shown): (Arc<str>, Arc<str>) = (from.text()?.into(), from.text()?.into());
        let label = KeptLabel { current, shown, diverged: is(3), dropped: is(4) };
        let count = from.count()?;
        let expires =
            (0..count).map(|_| Ok((from.text()?.to_owned(), from.number()?))).collect::<Result<_, Malformed>>()?;
        let count = if is(5) { from.count()? } else { 0 };
        let apart = (0..count).map(|_| from.text().map(str::to_owned)).collect::<Result<_, _>>()?;
        Ok(Self { type_url, tree, versions, label, complete: is(2), expires, apart })
    }
}

/// What is in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Index {
    pub(super) owner: Owner,
    /// Milliseconds since 1970.
    pub(super) written: u64,
    pub(super) groups: BTreeMap<Arc<str>, Group>,
}

impl Index {
    pub(super) fn encode(&self, key: Option<&Key>, salt: &[u8; SALT]) -> Vec<u8> {
        let mut body = Vec::new();
        body.bytes(self.owner.cluster.as_bytes());
        body.number(self.owner.upstreams.len() as u64);
        self.owner.upstreams.iter().for_each(|address| body.bytes(address.as_bytes()));
        body.number(self.written);
        body.number(self.groups.len() as u64);
        for (name, group) in &self.groups {
            body.bytes(name.as_bytes());
            body.bytes(&group.types);
            body.number(group.confirmed.len() as u64);
            group.confirmed.iter().for_each(|at| body.number(*at));
        }
        // Parts that a later program may add to.
        body.number(u64::from(!self.owner.rules.is_empty()));
        if !self.owner.rules.is_empty() {
            body.bytes(RULES);
            body.bytes(self.owner.rules.as_bytes());
        }
        let seal = Seal::of(key, salt);
        seal.close(HEAD as u64, &mut body);
        let mut file = head(INDEX, key.is_some(), salt);
        file.raw(&body);
        let sum = *blake3::hash(&file).as_bytes();
        file.raw(&sum);
        file
    }

    pub(super) fn decode(file: Vec<u8>, key: Option<&Key>, owner: &Owner) -> Result<Self, Refused> {
        let salt = read_head(INDEX, &file, key)?;
        let (content, sum) = file.split_last_chunk::<SUM>().ok_or(Refused::Damaged("it is cut off"))?;
        if blake3::hash(content).as_bytes() != sum {
            return Err(Refused::Damaged("its sum is another"));
        }
        let body = content.get(HEAD..).ok_or(Refused::Damaged("it is cut off"))?.to_vec();
        let body = Seal::of(key, &salt).open(HEAD as u64, body).map_err(|_| Refused::WrongKey)?;
        let index = Self::read(&Bytes::from(body))?;
        if !owner.accepts(&index.owner) {
            return Err(Refused::Foreign(foreign(&index.owner, owner)));
        }
        Ok(index)
    }

    fn read(body: &Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader(body);
        let cluster = reader.text()?.to_owned();
        let count = reader.count()?;
        let upstreams = (0..count).map(|_| reader.text().map(str::to_owned)).collect::<Result<_, _>>()?;
        let written = reader.number()?;
        let count = reader.count()?;
        let (mut groups, mut rules) = (BTreeMap::new(), String::new());
        for _ in 0..count {
            let name = reader.text()?.into();
            let types = body.slice_ref(reader.bytes()?);
            let count = reader.count()?;
            let confirmed = (0..count).map(|_| reader.number()).collect::<Result<_, _>>()?;
            groups.insert(name, Group { types, confirmed });
        }
        for _ in 0..reader.count()? {
            let (tag, part) = (reader.bytes()?, reader.bytes()?);
            if tag == RULES {
                rules = String::from_utf8_lossy(part).into_owned();
            }
        }
        reader.end()?;
        Ok(Self { owner: Owner { cluster, upstreams, rules }, written, groups })
    }
}

fn foreign(theirs: &Owner, ours: &Owner) -> String {
    if theirs.cluster != ours.cluster {
        return format!("cluster {:?}, and this is {:?}", theirs.cluster, ours.cluster);
    }
    if theirs.upstreams.iter().any(|address| ours.upstreams.contains(address)) {
        return "other rules of groups (--group, --secrets and what shared groups present)".into();
    }
    format!("the control plane at {}, and this one is at {}", theirs.upstreams.join(", "), ours.upstreams.join(", "))
}

fn head(magic: &[u8; 8], closed: bool, salt: &[u8; SALT]) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD);
    head.raw(magic);
    head.raw(&VERSION.to_le_bytes());
    head.push(u8::from(closed));
    head.raw(salt);
    head
}

pub(super) fn data_head(closed: bool, salt: &[u8; SALT]) -> Vec<u8> {
    head(DATA, closed, salt)
}

pub(super) fn read_data_head(file: &[u8], key: Option<&Key>) -> Result<[u8; SALT], Refused> {
    read_head(DATA, file, key)
}

fn read_head(magic: &[u8; 8], file: &[u8], key: Option<&Key>) -> Result<[u8; SALT], Refused> {
    let mut reader = Reader(file);
    let cut = |_| Refused::Damaged("it is cut off");
    if reader.array::<8>().map_err(cut)? != *magic {
        return Err(Refused::Damaged("it does not begin as such a file does"));
    }
    let version = u16::from_le_bytes(reader.array().map_err(cut)?);
    if version != VERSION {
        return Err(Refused::Newer(version));
    }
    match (reader.byte().map_err(cut)?, key) {
        (0, None) | (1, Some(_)) => reader.array().map_err(cut),
        (1, None) => Err(Refused::NoKey),
        (0, Some(_)) => Err(Refused::Plain),
        _ => Err(Refused::Damaged("it does not begin as such a file does")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::persist::object::Spot;
    use proptest::prelude::*;

    fn owner(upstreams: &[&str]) -> Owner {
        Owner {
            cluster: "edge".into(),
            upstreams: upstreams.iter().map(|it| (*it).to_owned()).collect(),
            rules: "per node".into(),
        }
    }

    fn index() -> Index {
        let link = |seed: u8| Link { id: [seed; 32], spot: Spot { at: 300, len: 9, sum: [seed; 16] } };
        let label = KeptLabel { current: "7".into(), shown: "7~ab".into(), diverged: true, dropped: false };
        let of = Type {
            type_url: "t/cds".into(),
            tree: Some(link(1)),
            versions: None,
            label,
            complete: true,
            expires: vec![("a".into(), 1 << 41)],
            apart: vec!["d".into()],
        };
        let bare =
            Type { tree: None, versions: Some(link(2)), complete: false, expires: vec![], apart: vec![], ..of.clone() };
        let types = Type::encode(&[of.clone(), bare.clone()]);
        assert_eq!(Type::decode(&types), Ok(vec![of, bare]));
        let groups = [("g".into(), Group { types, confirmed: vec![5, 0] })].into();
        Index { owner: owner(&["a:1", "b:1"]), written: 1 << 40, groups }
    }

    fn key(directory: &tempfile::TempDir, byte: u8) -> Key {
        let path = directory.path().join(format!("{byte}"));
        std::fs::write(&path, [byte; 32]).unwrap();
        Key::read(&path).unwrap()
    }

    #[test]
    fn whose_it_is_and_who_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (key(&directory, 1), key(&directory, 2));
        let read = |written: Option<&Key>, read: Option<&Key>, by: &Owner| {
            let file = index().encode(written, &[3; SALT]);
            Index::decode(file, read, by).map_err(|refused| refused.reason())
        };
        let ours = owner(&["b:1", "c:1"]);
        assert_eq!(read(None, None, &ours), Ok(index()), "one common address is enough");
        assert_eq!(read(Some(&one), Some(&one), &ours), Ok(index()));
        let table = [
            (None, None, owner(&["c:1"]), "foreign"),
            (None, None, Owner { cluster: "other".into(), ..ours.clone() }, "foreign"),
            (None, None, Owner { rules: "all".into(), ..ours.clone() }, "foreign"),
            (Some(&one), None, ours.clone(), "no_key"),
            (Some(&one), Some(&other), ours.clone(), "wrong_key"),
            (None, Some(&one), ours.clone(), "plain"),
        ];
        for (written, by, owner, want) in table {
            assert_eq!(read(written, by, &owner), Err(want));
        }
        let closed = index().encode(Some(&one), &[3; SALT]);
        assert!(!closed.windows(4).any(|part| part == b"edge"), "the names are not to be read");
        let mut newer = index().encode(None, &[3; SALT]);
        newer[8] = 2;
        let refused = Index::decode(newer, None, &ours).unwrap_err();
        assert_eq!((refused.reason(), refused.to_string().contains("format 2")), ("newer", true));
    }

    #[test]
    fn no_flip_and_no_cut_goes_unseen() {
        let file = index().encode(None, &[3; SALT]);
        let ours = owner(&["a:1"]);
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut flipped = file.clone();
                flipped[at] ^= 1 << bit;
                assert!(Index::decode(flipped, None, &ours).is_err(), "bit {bit} of byte {at}");
            }
            assert!(Index::decode(file[..at].to_vec(), None, &ours).is_err(), "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(body: Vec<u8>) {
            let _ = Index::read(&Bytes::from(body.clone()));
            let _ = Type::decode(&body);
            let _ = Index::decode(body, None, &owner(&[]));
        }
    }
}
