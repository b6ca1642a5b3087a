//! A server in this process, on loopback, over a directory that goes away.
//!
//! Owns: its directory and its end. Must not know: tests. Keeps: only a directory that was made here is removed, and it is
//! removed whatever happens.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::super::client::{ApiKey, Client};
use super::super::failure::Failure;
use crate::app::App;
use crate::clock::Clock;
use crate::config::{Config, SchemaPolicy};
use crate::http;
use crate::secret::Entropy;
use crate::telemetry::Metrics;

/// A running server.
pub struct Throwaway {
    app: Arc<App>,
    url: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    directory: Directory,
}

/// A directory of our own.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Throwaway {
    /// Starts a server as `serve --dev` would, on a free port.
    pub async fn start() -> Result<Self, Failure> {
        let directory = Directory::make()?;
        let failed = |what: &str, why: String| Failure::failed(format!("{what}: {why}"));
        let mut config = Config::in_dir(&directory.0.join("data"));
        config.dev = true;
        config.schema_policy = SchemaPolicy::Open;
        config.readers = 2;
        config.cache_kib = 2048;
        let limits = config.limits.clone();
        let clock = Clock::System;
        let metrics = Metrics::new(http::route_templates(), clock.now());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let started = App::start(config, clock, metrics).await;
        let (app, _) = started.map_err(|error| failed("the server does not start", error.to_string()))?;
        let (stop, stopped) = oneshot::channel();
        let (router, stopping) = (http::router(Arc::clone(&app)), Arc::clone(&app));
        let task = tokio::spawn(async move {
            let shutdown = async move {
                let _ = stopped.await;
                stopping.begin_to_stop();
            };
            http::serve::serve(router, listener, &limits, shutdown).await;
        });
        Ok(Self { app, url, stop, task, directory })
    }

    /// A client that may do everything there.
    pub fn client(&self) -> Result<Client, Failure> {
        Client::new(&self.url, ApiKey::find(None, Some("dev".into()))?, false)
    }

    /// Stops it and removes what it wrote.
    pub async fn end(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
        self.app.stop().await;
        drop(self.directory);
    }
}

impl Directory {
    fn make() -> Result<Self, Failure> {
        let random: [u8; 8] =
            Entropy::system().draw().map_err(|_| Failure::failed("the system gives no random bytes"))?;
        let path = std::env::temp_dir().join(format!("oubliette-test-{}", hex::encode(random)));
        // Not recursive: a directory that is there already is somebody else's.
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|error| {
            Failure::failed(format!("cannot make a directory in {}: {}", std::env::temp_dir().display(), error.kind()))
        })?;
        Ok(Self(path))
    }
}
