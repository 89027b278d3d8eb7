//! What wakes one task, and work of that task which is looked at only when it was
//! woken itself.
//!
//! A task that waits for several things looks at all of them, whichever it was
//! that woke it. Of ten thousand streams each such look reads memory that no cache
//! holds, and leaving a watch or a timer to join it again writes it. What is
//! seldom ready stands in an [`Aside`], which costs a look at one flag.

use futures_util::task::AtomicWaker;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Rung from anywhere, heard by one task. Rings before it is heard are one.
#[derive(Debug, Default)]
pub struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Bell {
    pub fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }

    /// Ready where it rang since it was last ready.
    pub fn poll_rung(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.rung.load(Ordering::Acquire) {
            self.task.register(cx.waker());
        }
        if self.rung.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

/// Looks at work when that was woken, and not whenever its task is.
pub struct Aside {
    bell: Arc<Bell>,
    waker: Waker,
}

impl Aside {
    /// The first look is at once.
    pub fn new() -> Self {
        let bell = Arc::new(Bell::default());
        bell.ring();
        Self { waker: bell.clone().into(), bell }
    }

    /// The work is not what it was: it is looked at the next time, woken or not. To be
    /// called by the task itself, before it waits.
    pub fn renew(&self) {
        self.bell.rung.store(true, Ordering::Release);
    }

    /// `work` is to look at everything that may be ready, each time in the same
    /// order; it is looked at again after it was ready.
    pub fn poll<T>(&self, cx: &Context<'_>, work: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        if self.bell.poll_rung(cx).is_pending() {
            return Poll::Pending;
        }
        let done = work(&mut Context::from_waker(&self.waker));
        let again = done.is_ready() || self.bell.poll_rung(cx).is_ready();
        if again {
            self.bell.rung.store(true, Ordering::Release);
        }
        if again && done.is_pending() {
            // It was woken while it was looked at. Not at once: it may only have had
            // its share of this turn.
            cx.waker().wake_by_ref();
        }
        done
    }
}

impl Default for Aside {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aside").field("bell", &self.bell).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker;
    use std::sync::atomic::AtomicUsize;

    /// A task that counts how often it is woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn task() -> (Arc<Task>, Waker) {
        let task = Arc::new(Task::default());
        (task.clone(), task.into())
    }

    #[test]
    fn rings_before_it_is_heard_are_one() {
        let (task, waker) = task();
        let (bell, cx) = (Bell::default(), Context::from_waker(&waker));
        bell.ring();
        bell.ring();
        assert!(bell.poll_rung(&cx).is_ready());
        assert!(bell.poll_rung(&cx).is_pending());
        assert_eq!(task.0.load(Ordering::Relaxed), 0, "nobody waited");
        bell.ring();
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        assert!(bell.poll_rung(&cx).is_ready());
    }

    #[test]
    fn what_stands_aside_is_looked_at_when_it_was_woken_itself() {
        let (task, waker) = task();
        let cx = Context::from_waker(&waker);
        let aside = Aside::new();
        let mut own = noop_waker();
        let pending = |cx: &mut Context<'_>| -> Poll<()> {
            own = cx.waker().clone();
            Poll::Pending
        };
        assert!(aside.poll(&cx, pending).is_pending());
        let never = |_: &mut Context<'_>| -> Poll<()> { panic!("nothing woke it") };
        assert!(aside.poll(&cx, never).is_pending());
        own.wake_by_ref();
        assert_eq!(task.0.load(Ordering::Relaxed), 1, "and its task with it");
        assert!(aside.poll(&cx, |_| Poll::Ready(())).is_ready());
        assert!(aside.poll(&cx, |_| Poll::Ready(())).is_ready(), "there may be more");
        assert!(aside.poll(&cx, |_| Poll::<()>::Pending).is_pending());
        aside.renew();
        assert!(aside.poll(&cx, |_| Poll::Ready(())).is_ready());
    }

    #[test]
    fn what_is_woken_while_it_is_looked_at_is_looked_at_in_the_next_turn() {
        let (task, waker) = task();
        let cx = Context::from_waker(&waker);
        let aside = Aside::new();
        let yields = |cx: &mut Context<'_>| -> Poll<()> {
            cx.waker().wake_by_ref();
            Poll::Pending
        };
        assert!(aside.poll(&cx, yields).is_pending());
        assert!(task.0.load(Ordering::Relaxed) > 0);
        assert!(aside.poll(&cx, |_| Poll::Ready(())).is_ready());
    }
}
