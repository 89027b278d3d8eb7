//! The extensions that nodes list, each list held once.
//!
//! An Envoy lists some five hundred in 61 kB, the same as every other Envoy of
//! its build. A group presents them upstream whenever it opens a stream, so
//! they are kept; once, whatever the number of groups.

use super::lock;
use crate::xds::node::Presented;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Mutex;

#[derive(Debug, Default)]
pub(super) struct Extensions(Mutex<Lists>);

#[derive(Debug, Default)]
struct Lists {
    by_hash: HashMap<[u8; 32], Bytes>,
    /// When there are more than this, those that nobody uses are dropped.
    sweep_at: usize,
}

impl Extensions {
    /// The same node, with the list that others have too.
    pub(super) fn share(&self, mut node: Presented) -> Presented {
        if !node.extensions.is_empty() {
            let hash = *blake3::hash(&node.extensions).as_bytes();
            let mut lists = lock(&self.0);
            lists.sweep();
            node.extensions = lists.by_hash.entry(hash).or_insert(node.extensions).clone();
        }
        node
    }
}

impl Lists {
    fn sweep(&mut self) {
        if self.by_hash.len() >= self.sweep_at {
            self.by_hash.retain(|_, list| !list.is_unique());
            self.sweep_at = (self.by_hash.len() * 2).max(16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(head: &'static str, list: &str) -> Presented {
        Presented { head: head.into(), extensions: Bytes::copy_from_slice(list.as_bytes()) }
    }

    #[test]
    fn equal_lists_are_one_and_unused_ones_go() {
        let extensions = Extensions::default();
        let (a, b) = (extensions.share(node("a", "list")), extensions.share(node("b", "list")));
        assert_eq!(a.extensions.as_ptr(), b.extensions.as_ptr());
        assert_eq!((&a.message()[..], &b.message()[..]), (&b"alist"[..], &b"blist"[..]));
        for number in 0..1000 {
            extensions.share(node("c", &format!("list {number}")));
        }
        assert!(lock(&extensions.0).by_hash.len() <= 16);
        assert_eq!(a.extensions.as_ptr(), extensions.share(node("d", "list")).extensions.as_ptr());
    }
}
