//! A gRPC client that writes its frames itself: any authority, any encoding, any fault.

use std::path::Path;
use std::time::Duration;

use leasehold::provider::proto::{MountResponse, VersionRequest, VersionResponse};
use loona_hpack::Decoder;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(20);

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
pub const PADDED: u8 = 0x8;
pub const PRIORITY: u8 = 0x20;

/// A connection; streams are numbered as they are opened.
pub struct Client {
    socket: UnixStream,
    decoder: Decoder<'static>,
    stream: u32,
    /// The server's first SETTINGS.
    pub settings: Vec<u8>,
}

/// How a call ended.
#[derive(Debug, PartialEq)]
pub enum Ended {
    /// `grpc-status`, and the message's bytes.
    Answered(u32, Vec<u8>),
    /// RST_STREAM, with its code.
    Reset(u32),
    /// GOAWAY with its code, or the connection's end.
    Disconnected(Option<u32>),
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("a length")
        .to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A string literal without Huffman coding, shorter than 127 bytes or of two or three length bytes.
pub fn text(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    loona_hpack::encoder::encode_integer_into(text.len(), 7, 0, &mut out).expect("memory");
    out.extend(text);
    out
}

/// A literal field with a literal name: 0x00 not indexed, 0x10 never, 0x40 with indexing.
pub fn literal(representation: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    [vec![representation], text(name), text(value)].concat()
}

/// The fields of a call to `method` besides its authority, as literals.
pub fn call(method: &str) -> Vec<u8> {
    [
        vec![0x83, 0x86],
        literal(
            0,
            b":path",
            format!("/v1alpha1.CSIDriverProvider/{method}").as_bytes(),
        ),
        literal(0, b"content-type", b"application/grpc"),
        literal(0, b"te", b"trailers"),
    ]
    .concat()
}

/// A gRPC message.
pub fn message(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).expect("a length").to_be_bytes();
    [&[0], &length[..], &bytes].concat()
}

/// The message of a `Version` call.
pub fn version() -> Vec<u8> {
    message(&VersionRequest {
        version: "v1alpha1".to_owned(),
    })
}

/// Whether that call was answered.
pub fn is_version(ended: &Ended) -> bool {
    let Ended::Answered(0, message) = ended else {
        return false;
    };
    let answer = VersionResponse::decode(&message[..]).expect("a message");
    answer.version == "v1alpha1" && answer.runtime_name == "leasehold"
}

/// The answer of a Mount that has succeeded.
pub fn mounted(ended: &Ended, who: &str) -> MountResponse {
    match ended {
        Ended::Answered(0, message) => MountResponse::decode(&message[..]).expect("a message"),
        other => panic!("{who}: {other:?}"),
    }
}

impl Client {
    pub async fn connect(socket: &Path, settings: &[u8]) -> Self {
        let mut socket = UnixStream::connect(socket).await.expect("the socket");
        socket.write_all(PREFACE).await.expect("a preface");
        let sent = frame(SETTINGS, 0, 0, settings);
        socket.write_all(&sent).await.expect("settings");
        Self {
            socket,
            decoder: Decoder::new(),
            stream: 1,
            settings: Vec::new(),
        }
    }

    /// The next stream.
    pub fn open(&mut self) -> u32 {
        let stream = self.stream;
        self.stream += 2;
        stream
    }

    /// Sends bytes as they are. The server may have closed already.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes).await;
    }

    /// A call in the usual frames: HEADERS, and one DATA that ends it.
    pub async fn call(&mut self, block: &[u8], body: &[u8]) -> Ended {
        let stream = self.open();
        self.send(&frame(HEADERS, END_HEADERS, stream, block)).await;
        self.body(stream, body).await;
        self.ended(stream).await
    }

    /// DATA that ends a stream.
    pub async fn body(&mut self, stream: u32, body: &[u8]) {
        self.send(&frame(DATA, END_STREAM, stream, body)).await;
    }

    async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.socket.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], head[4], stream, payload))
    }

    /// Reads until a stream, or the connection, has ended.
    pub async fn ended(&mut self, stream: u32) -> Ended {
        let reading = self.read_until_ended(stream);
        tokio::time::timeout(PATIENCE, reading)
            .await
            .expect("an answer in time")
    }

    async fn read_until_ended(&mut self, wanted: u32) -> Ended {
        let code = |at: &[u8]| u32::from_be_bytes(at.try_into().expect("a code"));
        let mut body = Vec::new();
        loop {
            let Some((kind, flags, stream, payload)) = self.next().await else {
                return Ended::Disconnected(None);
            };
            match kind {
                SETTINGS if flags & 1 == 0 => {
                    if self.settings.is_empty() {
                        self.settings = payload;
                    }
                    self.send(&frame(SETTINGS, 1, 0, &[])).await;
                }
                PING if flags & 1 == 0 => self.send(&frame(PING, 1, 0, &payload)).await,
                GOAWAY => return Ended::Disconnected(Some(code(&payload[4..8]))),
                RST_STREAM if stream == wanted => return Ended::Reset(code(&payload)),
                DATA if stream == wanted => body.extend(payload),
                HEADERS => {
                    let fields = self.decoder.decode(&payload).expect("the server's HPACK");
                    if stream == wanted && flags & END_STREAM != 0 {
                        let status = fields.iter().find(|(name, _)| name == b"grpc-status");
                        let (_, status) = status.expect("a status");
                        let status = std::str::from_utf8(status).expect("a number");
                        let message = body.get(5..).unwrap_or_default().to_vec();
                        return Ended::Answered(status.parse().expect("a number"), message);
                    }
                }
                _ => {}
            }
        }
    }

    /// The `:status` of an answer that is no gRPC.
    pub async fn refused(&mut self, wanted: u32) -> Option<String> {
        loop {
            let (kind, flags, stream, payload) = self.next().await?;
            if kind == SETTINGS && flags & 1 == 0 {
                self.send(&frame(SETTINGS, 1, 0, &[])).await;
            }
            if kind != HEADERS {
                continue;
            }
            let fields = self.decoder.decode(&payload).expect("the server's HPACK");
            if stream == wanted {
                let status = fields.into_iter().find(|(name, _)| name == b":status");
                return status.and_then(|(_, value)| String::from_utf8(value).ok());
            }
        }
    }

    /// Reads until the server has closed; the code of its GOAWAY.
    pub async fn closed(&mut self) -> Option<u32> {
        let mut said = None;
        loop {
            match self.ended(0).await {
                Ended::Disconnected(Some(code)) => said = Some(code),
                Ended::Disconnected(None) => return said,
                _ => {}
            }
        }
    }
}
