//! The usual set-up: a control plane, Outpost in front of it, one Envoy in
//! front of two backends, and traffic through it.

use crate::Test;
use crate::support::backend::Backend;
use crate::support::control_plane::ControlPlane;
use crate::support::envoy::{Bootstrap, Envoy, Variant};
use crate::support::load::Load;
use crate::support::outpost::Outpost;
use crate::support::resources::{assignment, cluster, listener, route};
use crate::support::world::World;
use crate::support::{check, eventually};
use std::time::{Duration, Instant};

/// Cluster `c1` is served by backend `a`, `c2` by `b`; every request goes to `c1`.
pub(crate) struct Mesh {
    pub(crate) test: Test,
    pub(crate) a: Backend,
    pub(crate) b: Backend,
    pub(crate) control_plane: ControlPlane,
    pub(crate) outpost: Outpost,
    pub(crate) envoy: Envoy,
    pub(crate) load: Load,
    /// How long Envoy took until it accepted connections.
    pub(crate) started: Duration,
}

impl Mesh {
    pub(crate) async fn start(test: Test, variant: Variant) -> Self {
        Self::with(test, variant, |_| ()).await
    }

    /// With more in the world before anybody asks.
    pub(crate) async fn with(test: Test, variant: Variant, more: impl FnOnce(&mut World)) -> Self {
        Self::behind(test, variant, ControlPlane::start().await, more).await
    }

    /// Behind a control plane of a kind of its own.
    pub(crate) async fn behind(
        test: Test,
        variant: Variant,
        control_plane: ControlPlane,
        more: impl FnOnce(&mut World),
    ) -> Self {
        Self::made(test, variant, control_plane, &[], more).await
    }

    /// Behind an Outpost that keeps what it holds on disk, and has done so.
    pub(crate) async fn keeping(test: Test, variant: Variant) -> Self {
        let cache = format!("--persist-dir={}", test.dir.join("cache").display());
        let mesh = Self::made(test, variant, ControlPlane::start().await, &[&cache], |_| ()).await;
        eventually("what is held is on disk", || async {
            let report = mesh.outpost.json("/disk").await?;
            let kept = &report["items"][0];
            check(kept["groups"] == 1 && kept["unsaved"] == 0, || report.to_string())
        })
        .await;
        mesh
    }

    async fn made(
        test: Test,
        variant: Variant,
        control_plane: ControlPlane,
        flags: &[&str],
        more: impl FnOnce(&mut World),
    ) -> Self {
        let (a, b) = (Backend::start("a").await, Backend::start("b").await);
        control_plane.edit(|world| {
            world.set(&cluster("c1"));
            world.set(&assignment("c1", &[a.port]));
            world.set(&cluster("c2"));
            world.set(&assignment("c2", &[b.port]));
            world.set(&listener("l1", "rc1"));
            world.set(&route("rc1", "c1"));
            more(world);
        });
        let outpost = Outpost::start(&test.dir, control_plane.port, flags).await;
        let bootstrap = Bootstrap::new("n1", variant, outpost.port);
        let began = Instant::now();
        let envoy = Envoy::start(test.clients, &test.dir, "envoy", &bootstrap).await;
        let port = envoy.listener("l1").await;
        let started = began.elapsed();
        let load = Load::start(port, "any");
        load.served_by("a", Instant::now()).await;
        Self { test, a, b, control_plane, outpost, envoy, load, started }
    }

    /// Moves cluster `c1` to the port of another backend: the shortest proof
    /// that changes arrive, and a barrier behind all that was sent before.
    pub(crate) async fn move_c1(&self, to: &Backend) -> Duration {
        let changed = self.control_plane.edit(|world| world.set(&assignment("c1", &[to.port])));
        self.load.served_by(to.name, changed).await
    }

    /// Envoy says whether its stream stands.
    pub(crate) async fn connected(&self, wanted: bool) {
        self.envoy.stat_is("control_plane.connected_state", wanted.into()).await;
    }

    /// Ends the traffic, which must not have failed once, and reports. Envoy says
    /// who it is with each request, in bytes that differ and mean the same: that
    /// never costs another stream upstream.
    pub(crate) async fn done(mut self, measured: impl std::fmt::Display) {
        let report = self.load.stop().await.clean();
        self.envoy.alive().expect("Envoy is alive at the end");
        self.outpost.alive().expect("Outpost is alive at the end");
        let metrics = self.outpost.admin("/metrics").await.expect("Outpost tells its metrics");
        assert!(metrics.contains("outpost_upstream_migrations_total 0\n"), "a stream upstream was replaced");
        self.test.measured(format_args!("{measured}; {report}"));
    }
}
