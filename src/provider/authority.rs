//! Makes every client's `:authority` one that `h2` accepts.
//!
//! Drivers before 1.6 (grpc-go 1.56 and older) send the socket's path as `:authority`, Python's gRPC sends
//! it percent-encoded, others send nothing. `h2` resets such a stream before a handler sees it
//! (hyperium/h2#487), so no volume would mount. On a Unix socket the authority names nothing, so this
//! layer, between the accepted socket and `h2`, replaces it with `localhost` in every request.
//!
//! Only header blocks are touched. All other frames are passed on in the caller's own buffer, uncopied.
//!
//! It also ends, at a shutdown, the connections that have not sent a request yet: hyper waits for a client's
//! preface or PING acknowledgement, and one that stays silent would hold up the drain to its deadline.

mod frames;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use frames::Rewriter;

/// A connection whose client may send any `:authority`. Bytes to the client are passed on unchanged.
///
/// Cancellation-safe: what was read and not yet delivered is kept for the next read.
pub struct AnyAuthority<S> {
    stream: S,
    rewriter: Rewriter,
    /// Until the first request.
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl<S> AnyAuthority<S> {
    /// Wraps an accepted connection. It ends when `closing` is cancelled before its first request.
    pub fn new(stream: S, closing: &CancellationToken) -> Self {
        Self {
            stream,
            rewriter: Rewriter::new(),
            closing: Some(Box::pin(closing.clone().cancelled_owned())),
        }
    }

    fn is_closed(&mut self, context: &mut Context<'_>) -> bool {
        if self.rewriter.has_seen_headers() {
            self.closing = None;
        }
        let closing = self.closing.as_mut();
        closing.is_some_and(|closing| closing.as_mut().poll(context).is_ready())
    }
}

impl<S: Connected> Connected for AnyAuthority<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AnyAuthority<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if buffer.remaining() == 0 || this.rewriter.deliver(buffer) {
                return Poll::Ready(Ok(()));
            }
            // Only when the last output is gone: one read may hold a thousand header blocks, and each
            // may grow to many times its size.
            if this.rewriter.advance() {
                continue;
            }
            if this.is_closed(context) {
                return Poll::Ready(Ok(()));
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
            let fresh = buffer.filled().get(before..).unwrap_or_default();
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let passed = this.rewriter.accept(fresh);
            buffer.set_filled(before + passed);
            // A read that returned nothing would mean the end of the stream.
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AnyAuthority<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
