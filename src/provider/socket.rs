//! The Unix socket: bound privately, never in a living daemon's place, and served to root alone.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::Sleep;
use tokio_stream::Stream;
use tracing::warn;

/// `sun_path` of unix(7), less its closing zero.
const LONGEST_PATH: usize = 107;
/// How long nothing is accepted after a failed accept: the caller stays in the queue, so without a pause
/// a process out of descriptors would try again at once, for ever, on a whole core.
const PAUSE: Duration = Duration::from_millis(100);

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// It cannot be made.
    #[error("socket {path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another daemon answers there.
    #[error(
        "socket {path}: another daemon is serving it; stop that one, or choose another -endpoint"
    )]
    Alive {
        /// Where.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("socket {path}: there is a file that is no socket; it was left alone")]
    NotASocket {
        /// Where.
        path: PathBuf,
    },
    /// The path does not fit.
    #[error(
        "socket {path}: the path is longer than {LONGEST_PATH} bytes; choose a shorter -endpoint"
    )]
    TooLong {
        /// Where.
        path: PathBuf,
    },
}

/// A bound socket: a stream of the connections that may speak to us. Its file goes with it.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    own_uid: u32,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// Binds at `path`. The file appears there under its final mode, 0600, at once: it is bound beside
    /// and renamed, so that there is no moment in which anyone else could connect.
    ///
    /// # Errors
    /// The place is taken, unsuitable, or cannot be written.
    pub async fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Io {
            path: path.to_owned(),
            source,
        };
        // ss(8) goes on showing the name that it was bound by: it must be recognised.
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        if temporary.as_os_str().len() > LONGEST_PATH {
            return Err(SocketError::TooLong {
                path: path.to_owned(),
            });
        }
        clear_stale(path).await?;
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&temporary).map_err(failed)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let inode = fs::symlink_metadata(&temporary).map_err(failed)?.ino();
        fs::rename(&temporary, path).map_err(failed)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            inode,
            own_uid: rustix::process::geteuid().as_raw(),
            pause: None,
        })
    }

    fn allowed(&self, stream: &UnixStream) -> bool {
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == 0 || peer.uid() == self.own_uid => true,
            Ok(peer) => {
                warn!(
                    uid = peer.uid(),
                    "a caller that is not root was turned away"
                );
                false
            }
            Err(error) => {
                warn!(%error, "a caller without credentials was turned away");
                false
            }
        }
    }
}

/// Removes what a killed daemon left, for one that cannot start. While it is there the driver waits for an
/// answer until kubelet's deadline, after which kubelet keeps the target path, and driver 1.6 takes the next
/// attempt for a poll: the pod would start with an empty volume. Where there is no socket it says at once that
/// there is no provider.
pub async fn remove_stale(path: &Path) {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket
        && clear_stale(path).await.is_ok()
        && let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(%error, path = %path.display(), "a socket that nobody serves was left behind");
    }
}

async fn clear_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket {
            path: path.to_owned(),
        });
    }
    match UnixStream::connect(path).await {
        // Nobody listens: it is what a killed daemon left. The new one replaces it by its rename.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        // It went away meanwhile, with its daemon.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A full queue is a busy daemon's, and no dead one's.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(SocketError::Alive {
            path: path.to_owned(),
        }),
        Ok(_) => Err(SocketError::Alive {
            path: path.to_owned(),
        }),
        // Another kind of socket, or one that we may not ask: not ours to replace.
        Err(error) => Err(failed(error)),
    }
}

impl Stream for Socket {
    type Item = io::Result<UnixStream>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = self.pause.as_mut() {
                std::task::ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match self.listener.poll_accept(context) {
                Poll::Ready(Ok((stream, _))) if self.allowed(&stream) => {
                    return Poll::Ready(Some(Ok(stream)));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    warn!(%error, "a call was not accepted; it waits");
                    self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A successor may have put its own there already.
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode)
            && let Err(error) = fs::remove_file(&self.path)
        {
            warn!(%error, path = %self.path.display(), "the socket's file was left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn binds_privately_and_serves() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vault.sock");
        let mut socket = Socket::bind(&path).await.unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let client = UnixStream::connect(&path).await.unwrap();
        assert!(socket.next().await.unwrap().is_ok());
        drop((client, socket));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_living_daemon_is_never_displaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vault.sock");
        let _first = Socket::bind(&path).await.unwrap();
        let second = Socket::bind(&path).await;
        assert!(matches!(second, Err(SocketError::Alive { .. })));
        assert!(path.exists());
    }

    #[tokio::test]
    async fn what_a_killed_daemon_left_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vault.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _socket = Socket::bind(&path).await.unwrap();
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn one_that_cannot_start_leaves_no_socket_that_nobody_serves() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vault.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        remove_stale(&path).await;
        assert!(!path.exists());
        let _living = Socket::bind(&path).await.unwrap();
        remove_stale(&path).await;
        assert!(path.exists());
        let file = directory.path().join("file");
        fs::write(&file, "precious").unwrap();
        remove_stale(&file).await;
        assert!(file.exists());
    }

    #[tokio::test]
    async fn a_daemon_too_busy_to_answer_is_alive() {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vault.sock");
        let busy = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&busy, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&busy, 0).unwrap();
        let _queued = UnixStream::connect(&path).await.unwrap();
        let full = UnixStream::connect(&path).await.err().unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let inode = fs::metadata(&path).unwrap().ino();
        let second = Socket::bind(&path).await;
        assert!(matches!(second, Err(SocketError::Alive { .. })));
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    }

    #[tokio::test]
    async fn another_kind_of_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vault.sock");
        let _datagram = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        assert!(matches!(
            Socket::bind(&path).await,
            Err(SocketError::Io { .. })
        ));
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vault.sock");
        fs::write(&path, "precious").unwrap();
        let bound = Socket::bind(&path).await;
        assert!(matches!(bound, Err(SocketError::NotASocket { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
