//! A SOCKS5 proxy (RFC 1928 and 1929) that knows one server, whatever the name it is asked for by.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

const VERSION: u8 = 5;
const OPEN: u8 = 0;
const PASSWORD: u8 = 2;
const DOMAIN: u8 = 3;

/// The proxy.
pub struct Socks {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Socks {
    /// One before `to`, for anybody or for `user:secret` alone.
    pub async fn start(to: SocketAddr, is_closed: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let told = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, to, is_closed, Arc::clone(&told)));
            }
        });
        Self { address, asked }
    }

    /// The names that it was asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn text(stream: &mut TcpStream) -> io::Result<String> {
    let length = stream.read_u8().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    String::from_utf8(bytes).map_err(io::Error::other)
}

async fn serve(
    mut stream: TcpStream,
    to: SocketAddr,
    is_closed: bool,
    asked: Arc<Mutex<Vec<String>>>,
) -> io::Result<()> {
    assert_eq!(stream.read_u8().await?, VERSION);
    let methods = text(&mut stream).await?;
    let method = if is_closed { PASSWORD } else { OPEN };
    if !methods.bytes().any(|offered| offered == method) {
        return stream.write_all(&[VERSION, 0xff]).await;
    }
    stream.write_all(&[VERSION, method]).await?;
    if is_closed {
        assert_eq!(stream.read_u8().await?, 1);
        let user = text(&mut stream).await?;
        let known = text(&mut stream).await? == "secret" && user == "user";
        stream.write_all(&[1, u8::from(!known)]).await?;
        if !known {
            return Ok(());
        }
    }
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    assert_eq!(head, [VERSION, 1, 0, DOMAIN], "the proxy looks names up");
    let name = text(&mut stream).await?;
    let port = stream.read_u16().await?;
    asked.lock().unwrap().push(format!("{name}:{port}"));
    stream
        .write_all(&[VERSION, 0, 0, 1, 0, 0, 0, 0, 0, 0])
        .await?;
    let mut server = TcpStream::connect(to).await?;
    copy_bidirectional(&mut stream, &mut server).await.map(drop)
}
