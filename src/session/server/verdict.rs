//! What a client has under a name, what is served there, and what follows.
//!
//! Every name that a step looks at is judged here alone: [`View::judge`] for one
//! that is an exception, [`View::compare`] for one that is in step with a tree.

use super::held::Exception;
use super::poll::Look;
use super::subscription::Subscription;
use crate::breaks;
use crate::content::{self, Body, Entry, ServedType};
use crate::xds::name::Glob;
use crate::xds::{Name, Status, code};
use std::cell::OnceCell;
use std::sync::Arc;

/// What the client has under a name.
#[derive(Clone, Debug)]
pub(super) enum Has {
    /// Nothing that counts: never sent, or asked for again.
    Nothing,
    /// Something of a version that is not the current one (C-093).
    Unknown,
    /// A version of our form that was never seen here (C-093, decision).
    Stated([u8; 16]),
    Present(Arc<Entry>),
    /// It was told that there is none.
    Absent,
    Error(Status),
}

/// What the served tree says of a name.
pub(super) enum Target<'a> {
    Present(&'a Arc<Entry>),
    Absent,
    Expired,
    Error(&'a Status),
    /// No word on it.
    Unknown,
}

/// What is to be said of a name.
pub(super) enum Verdict {
    Send(Arc<Entry>),
    Remove,
    Fail(Status),
    /// Nothing to say, and as the tree says.
    InStep,
    /// Nothing to say yet.
    Keep,
    /// A removal that waits for the settle window.
    Withhold,
}

/// What a step reads.
pub(super) struct View<'a> {
    pub(super) look: &'a Look<'a>,
    pub(super) subscription: &'a Subscription,
    pub(super) served: &'a ServedType,
    /// The type is refused: every name is absent.
    pub(super) refused: bool,
    /// Whatever is served is for this stream, under whatever name (C-196).
    pub(super) takes_all: bool,
    /// Removals may go out (C-105).
    pub(super) may_remove: bool,
    /// Globs of the subscription of which there is a word, once somebody asked.
    pub(super) globs: OnceCell<Vec<&'a Name>>,
}

impl Has {
    /// What a client in step with this target has.
    pub(super) fn told(target: &Target<'_>) -> Self {
        match target {
            Target::Present(entry) => Self::Present((*entry).clone()),
            Target::Absent | Target::Expired => Self::Absent,
            Target::Error(status) => Self::Error((*status).clone()),
            Target::Unknown => Self::Nothing,
        }
    }

    /// What a stream in step with a tree has, where the tree has `entry`.
    pub(super) fn of(entry: Option<&Arc<Entry>>) -> Self {
        Self::told(&Target::of(entry))
    }

    /// Is it what a client in step with this target has?
    pub(super) fn is(&self, target: &Target<'_>) -> bool {
        match (self, target) {
            (Self::Nothing, Target::Unknown) | (Self::Absent, Target::Absent | Target::Expired) => true,
            (Self::Present(held), Target::Present(entry)) => held.id() == entry.id(),
            (Self::Error(told), Target::Error(status)) => told == *status,
            _ => false,
        }
    }
}

impl<'a> Target<'a> {
    pub(super) fn of(entry: Option<&'a Arc<Entry>>) -> Self {
        let Some(entry) = entry else { return Self::Unknown };
        match entry.body() {
            Body::Empty if breaks::on("C-085") => Self::Absent,
            Body::Resource(_) | Body::Empty => Self::Present(entry),
            Body::Absent => Self::Absent,
            Body::Expired => Self::Expired,
            Body::Error(status) => Self::Error(status),
        }
    }

    /// The client states just what is served.
    pub(super) fn is_stated(&self, has: &Has) -> bool {
        match (has, self) {
            (Has::Stated(half), Self::Present(entry)) => entry.id().half() == half,
            _ => false,
        }
    }
}

impl<'a> View<'a> {
    pub(super) fn target(&self, name: &str) -> Target<'a> {
        self.target_at(name, self.served.tree.get(name))
    }

    /// The same where it is known what the served tree has under this very name.
    pub(super) fn target_at(&self, name: &str, entry: Option<&'a Arc<Entry>>) -> Target<'a> {
        let served = self.served;
        match Target::of(entry.or_else(|| served.tree.get(served.canonical(name)?))) {
            Target::Unknown if self.refused || name.is_empty() => Target::Absent,
            target => target,
        }
    }

    pub(super) fn covers(&self, name: &str, aliases: &[Name]) -> bool {
        self.takes_all || self.subscription.covers(name, aliases)
    }

    /// The word on a name that must not be kept is still to come (C-145).
    pub(super) fn awaits_own(&self, name: &str) -> bool {
        !self.served.apart.is_empty()
            && self.served.apart.contains(name)
            && matches!(self.target(name), Target::Unknown)
    }

    /// What is served under this name another process held, and the upstream has not
    /// spoken of it: a client that states something else keeps that (C-118, C-137).
    fn is_recalled(&self, name: &str) -> bool {
        let recalled = &self.served.recalled;
        !recalled.is_empty()
            && (recalled.get(name).is_some()
                || self.served.canonical(name).is_some_and(|name| recalled.get(name).is_some()))
    }

    /// What `*`, or the glob over `name`, covers is known, so that what the tree lacks
    /// does not exist. Of a glob there is a word once the tree has a member of it, or
    /// says that there is none; while the upstream is away a member may be there for
    /// another reason.
    fn set_is_known(&self, name: &str) -> bool {
        if self.subscription.wildcard() {
            return self.served.complete && !self.served.wildcard_awaited;
        }
        let globs = self.globs.get_or_init(|| {
            let tree = &self.served.tree;
            let has_member = |glob: &Glob<'_>| tree.iter().any(|it| it.is_present() && glob.covers(it.name()));
            let live = self.look.line.upstream == content::Reach::Answering;
            let stated = |glob: &Name| Glob::parse(glob).is_some_and(|it| has_member(&it));
            let known = |glob: &&Name| {
                let waits = self.served.awaited.contains(glob);
                tree.get(glob).is_some() && !self.is_recalled(glob) || live && !waits && stated(glob)
            };
            self.subscription.globs().iter().filter(known).collect()
        });
        globs.iter().any(|glob| Glob::parse(glob).is_some_and(|glob| glob.covers(name)))
    }

    /// There is no word on a subscribed name, or its word is awaited.
    pub(super) fn lacks_word(&self) -> bool {
        self.subscription.names().look_up(&self.served.tree).any(|(name, entry)| {
            matches!(self.target_at(name, entry), Target::Unknown) && self.look.unavailable.is_none()
                || self.served.awaited.contains(name)
        })
    }

    /// A subscribed name is there to be sent.
    pub(super) fn knows_some(&self) -> bool {
        let mut found = self.subscription.names().look_up(&self.served.tree);
        found.any(|(name, entry)| matches!(self.target_at(name, entry), Target::Present(_)))
    }

    /// What is to be said of an exception, of which `target` is served.
    pub(super) fn judge(&self, name: &Name, exception: &Exception, target: &Target<'_>) -> Verdict {
        if exception.until.is_some_and(|until| self.look.now < until) && !target.is_stated(&exception.has) {
            return Verdict::Keep;
        }
        let stated = matches!(exception.has, Has::Unknown | Has::Stated(_));
        if stated && !exception.mention && !target.is_stated(&exception.has) && self.is_recalled(name) {
            return Verdict::Keep;
        }
        if exception.mention {
            if !self.subscription.by_set(name) {
                // What covered it was unsubscribed since.
                return Verdict::InStep;
            }
            let known = self.set_is_known(name) && !self.awaits_own(name) && !self.served.recalled_set;
            return match target {
                Target::Present(entry) => Verdict::Send((*entry).clone()),
                Target::Unknown if !known => Verdict::Keep,
                _ => Verdict::Remove,
            };
        }
        if exception.follow_up {
            if self.served.restating.contains(name) {
                return Verdict::Keep;
            }
            if let Target::Present(entry) = target {
                return Verdict::Send((*entry).clone());
            }
        }
        if self.served.awaited.contains(name) {
            return Verdict::Keep;
        }
        if let (Has::Nothing, Target::Unknown, Some(reason)) = (&exception.has, target, self.look.unavailable) {
            return Verdict::Fail(Status::new(code::UNAVAILABLE, reason));
        }
        self.compare(name, &exception.has, target)
    }

    /// What is to be said to a client that has `has`, where `target` is served.
    pub(super) fn compare(&self, name: &Name, has: &Has, target: &Target<'_>) -> Verdict {
        let named = || self.subscription.by_name(name, &[]);
        let gone = || if self.may_remove { Verdict::Remove } else { Verdict::Withhold };
        // Of what must not be kept the tree says nothing (C-145).
        let kept = || self.served.apart.is_empty() || !self.served.apart.contains(name);
        let vanished = || self.subscription.by_set(name) && self.set_is_known(name) && kept();
        match (has, target) {
            (Has::Present(held), Target::Present(entry)) if held.id() == entry.id() => Verdict::InStep,
            (Has::Stated(_), Target::Present(_)) if target.is_stated(has) => Verdict::InStep,
            (Has::Absent, Target::Present(_)) if breaks::on("C-038") => Verdict::InStep,
            (_, Target::Present(entry)) => Verdict::Send((*entry).clone()),

            (Has::Error(told), Target::Error(status)) if told == *status => Verdict::InStep,
            (Has::Nothing, Target::Error(_)) if !named() => Verdict::InStep,
            (_, Target::Error(status)) => Verdict::Fail((*status).clone()),

            (Has::Nothing, Target::Absent) if breaks::on("C-076") => Verdict::InStep,
            (Has::Nothing, Target::Unknown) if named() && breaks::on("C-077") => Verdict::Remove,
            (Has::Present(_), Target::Expired) if breaks::on("C-132") => Verdict::Remove,
            (Has::Unknown | Has::Stated(_), _) if breaks::on("C-092") => Verdict::InStep,
            (Has::Nothing, Target::Absent | Target::Expired) if named() => Verdict::Remove,
            (Has::Unknown | Has::Stated(_), Target::Absent) => Verdict::Remove,
            (Has::Present(_), Target::Absent) => gone(),
            (Has::Error(told), Target::Absent) if told.code != code::NOT_FOUND => Verdict::Remove,
            (_, Target::Absent | Target::Expired) => Verdict::InStep,

            (Has::Unknown | Has::Stated(_), Target::Unknown) if vanished() && !self.served.recalled_set => {
                Verdict::Remove
            }
            (Has::Present(_), Target::Unknown) if vanished() => gone(),
            (Has::Absent, Target::Unknown) => Verdict::InStep,
            (Has::Nothing, Target::Unknown) if vanished() && !named() => Verdict::InStep,
            (_, Target::Unknown) => Verdict::Keep,
        }
    }
}
