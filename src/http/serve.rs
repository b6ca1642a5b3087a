//! The listener: connections, header limits, graceful shutdown, and the last guard before the socket.
//!
//! Owns: sockets. Keeps its part of invariant 5: plaintext of a forgotten person may already stand in a connection's
//! write buffer when the forget arrives. Every write to a socket first checks the leases of the answers in that buffer
//! and breaks the connection when one is lost; a lease ends only when its answer has been flushed.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Frame, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tower::ServiceExt;

use crate::clock::Boottime;
use crate::config::Limits;
use crate::keystore::lease::Lease;

/// How long answers in flight may take after the server was told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Serves until `shutdown` resolves, then lets answers in flight end.
pub async fn serve(router: Router, listener: TcpListener, limits: &Limits, shutdown: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(limits.headers)
        .max_buf_size((limits.header_bytes + limits.uri_bytes).max(8192));
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // Out of file descriptors or a client that left already: neither is a reason to stop.
            Err(error) => {
                tracing::warn!(kind = ?error.kind(), "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let guard = SocketGuard::default();
        let service = router.clone().map_request({
            let guard = guard.clone();
            move |mut request: hyper::Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(guard.clone());
                request.map(Body::new)
            }
        });
        let io = TokioIo::new(GuardedSocket { stream, guard, patience: None });
        let connection = builder.serve_connection(io, TowerToHyperService::new(service));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "a connection ended early");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("some answers did not end in time");
    }
}

/// The leases of the answers in one connection's write buffer.
#[derive(Clone, Default)]
pub struct SocketGuard(Arc<Mutex<Vec<Lease>>>);

impl SocketGuard {
    fn hold(&self, lease: Lease) {
        self.lock().push(lease);
    }

    fn allows(&self) -> bool {
        self.lock().iter().all(|lease| lease.check().is_ok())
    }

    fn deadline(&self) -> Option<Boottime> {
        self.lock().iter().filter_map(Lease::deadline).min()
    }

    fn flushed(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Lease>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A body of chunks, each under a lease: the lease is checked when the chunk is handed over and passes to the
/// connection, which checks it before every write and lets it go when the chunk has been flushed.
pub struct LeasedBody<S> {
    chunks: S,
    guard: Option<SocketGuard>,
}

/// A chunk of an answer, and the lease under which it may leave.
pub type LeasedChunk = (Bytes, Option<Lease>);

/// Turns chunks into a body. Without a connection (in tests of the router alone) leases end with their chunk.
pub fn leased(
    chunks: impl Stream<Item = Result<LeasedChunk, Infallible>> + Send + 'static,
    guard: Option<SocketGuard>,
) -> Body {
    Body::from_stream(LeasedBody { chunks: Box::pin(chunks), guard })
}

/// A body of one chunk, whose length is known.
pub fn leased_whole(bytes: Bytes, lease: Lease, guard: Option<SocketGuard>) -> Body {
    Body::new(WholeBody { bytes: Some((bytes, lease)), guard })
}

struct WholeBody {
    bytes: Option<(Bytes, Lease)>,
    guard: Option<SocketGuard>,
}

impl hyper::body::Body for WholeBody {
    type Data = Bytes;
    type Error = LeaseLost;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, LeaseLost>>> {
        let Some((bytes, lease)) = self.bytes.take() else { return Poll::Ready(None) };
        if lease.check().is_err() {
            return Poll::Ready(Some(Err(LeaseLost)));
        }
        if let Some(guard) = &self.guard {
            guard.hold(lease);
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |(bytes, _)| bytes.len() as u64))
    }
}

/// The lease of a chunk was lost before it could leave: the answer is broken off.
#[derive(Debug, thiserror::Error)]
#[error("the data of this answer was erased while it was being sent")]
pub struct LeaseLost;

impl<S: Stream<Item = Result<LeasedChunk, Infallible>> + Unpin> Stream for LeasedBody<S> {
    type Item = Result<Bytes, LeaseLost>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Poll::Ready(next) = Pin::new(&mut self.chunks).poll_next(cx) else { return Poll::Pending };
        let Some(Ok((bytes, lease))) = next else { return Poll::Ready(None) };
        let Some(lease) = lease else { return Poll::Ready(Some(Ok(bytes))) };
        if lease.check().is_err() {
            return Poll::Ready(Some(Err(LeaseLost)));
        }
        if let Some(guard) = &self.guard {
            guard.hold(lease);
        }
        Poll::Ready(Some(Ok(bytes)))
    }
}

/// A socket that refuses to write plaintext whose lease is lost.
struct GuardedSocket {
    stream: TcpStream,
    guard: SocketGuard,
    /// Runs while a write waits for a client that does not read: at the lease's end the connection is broken.
    patience: Option<Pin<Box<Sleep>>>,
}

impl GuardedSocket {
    /// What a write that cannot go on now means: to wait, but not beyond the first lease in the buffer.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(deadline) = self.guard.deadline() else { return Poll::Pending };
        let patience =
            self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(Boottime::now().until(deadline))));
        match patience.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn written(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if result.is_pending() {
            return self.wait(cx);
        }
        self.patience = None;
        result
    }
}

impl AsyncRead for GuardedSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for GuardedSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !self.guard.allows() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.guard.allows() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection flushes the socket only after its own buffer is empty: everything handed over has left.
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.guard.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
