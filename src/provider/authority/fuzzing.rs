//! The fuzz target of this module (see `src/fuzzing.rs`): a client's bytes, in any pieces.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::task::noop_waker_ref;
use loona_hpack::Decoder;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::AnyAuthority;
use super::frames::{
    CONTINUATION, END_HEADERS, END_STREAM, FIELD_OVERHEAD, HEAD, HEADERS, LARGEST_BLOCK,
    LARGEST_FRAME, LARGEST_LIST, MOST_FRAMES, PADDED, PREFACE, PRIORITY, PRIORITY_LENGTH,
};

/// What one connection may keep: a frame and a read, a block, and the output of one block.
const MOST_KEPT: usize = 512 * 1024;
/// Output after which an input is left: a block of sixteen bytes may decode to 64 KiB.
const ENOUGH: usize = 4 * 1024 * 1024;

/// The first two bytes say in which pieces the client's bytes arrive and are read; they follow.
pub fn client(data: &[u8]) {
    let Some((&[piece, room], sent)) = data.split_first_chunk::<2>() else {
        return;
    };
    let whole = through(sent, usize::MAX, 64 * 1024);
    let pieces = through(sent, usize::from(piece) + 1, usize::from(room) + 1);
    if whole.len() >= ENOUGH || pieces.len() >= ENOUGH {
        return;
    }
    assert_eq!(whole, pieces, "the pieces make no difference");
    let is_http2 = PREFACE
        .iter()
        .zip(sent)
        .all(|(expected, byte)| expected == byte);
    if !is_http2 {
        assert_eq!(whole, sent, "what is no HTTP/2 is left to h2");
    } else if let Some(mut expected) = items(sent, true) {
        for item in &mut expected {
            let Item::Headers { fields, .. } = item else {
                continue;
            };
            for (name, value) in fields {
                if name == b":authority" {
                    *value = b"localhost".to_vec();
                }
            }
        }
        let received = items(&whole, false);
        assert_eq!(received, Some(expected), "only the authority differs");
    }
}

/// A client whose bytes arrive in pieces of this length.
struct Client<'a> {
    sent: &'a [u8],
    piece: usize,
}

impl AsyncRead for Client<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let length = this.piece.min(buffer.remaining()).min(this.sent.len());
        let (piece, rest) = this.sent.split_at_checked(length).unwrap_or_default();
        buffer.put_slice(piece);
        this.sent = rest;
        Poll::Ready(Ok(()))
    }
}

/// What `h2` reads.
fn through(sent: &[u8], piece: usize, room: usize) -> Vec<u8> {
    let mut stream = AnyAuthority::new(Client { sent, piece }, &CancellationToken::new());
    let mut context = Context::from_waker(noop_waker_ref());
    let mut received = Vec::new();
    let mut space = vec![0; room];
    loop {
        let mut buffer = ReadBuf::new(&mut space);
        let read = Pin::new(&mut stream).poll_read(&mut context, &mut buffer);
        assert!(matches!(read, Poll::Ready(Ok(()))), "the bytes are there");
        let kept = stream.rewriter.kept();
        assert!(kept <= MOST_KEPT, "{kept} bytes are kept");
        received.extend_from_slice(buffer.filled());
        if buffer.filled().is_empty() || received.len() >= ENOUGH {
            return received;
        }
    }
}

type Field = (Vec<u8>, Vec<u8>);

/// What a client sends, in words of the protocol.
#[derive(Debug, PartialEq)]
enum Item {
    Frame(Vec<u8>),
    Headers {
        stream: Vec<u8>,
        end_stream: bool,
        priority: Vec<u8>,
        fields: Vec<Field>,
    },
}

/// The complete items of a client's bytes; none if there is a fault or too much in them. `with_table`
/// decodes with one table for all blocks, as a client encodes, else each block by itself.
fn items(bytes: &[u8], with_table: bool) -> Option<Vec<Item>> {
    let mut rest = bytes.strip_prefix(PREFACE).unwrap_or_default();
    let mut items = Vec::new();
    let mut decoder = decoder();
    let mut open: Option<(Item, Vec<u8>, usize)> = None;
    while let Some((head, after)) = rest.split_first_chunk::<HEAD>() {
        let [a, b, c, kind, flags, stream @ ..] = *head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let is_of_block = matches!(kind, HEADERS | CONTINUATION);
        if (is_of_block && length > LARGEST_FRAME) || (open.is_some() && kind != CONTINUATION) {
            return None;
        }
        let Some((mut payload, next)) = after.split_at_checked(length) else {
            break;
        };
        if !is_of_block {
            items.push(Item::Frame([head, payload].concat()));
            rest = next;
            continue;
        }
        let (item, mut fragment, frames) = if kind == CONTINUATION {
            open.take()?
        } else {
            let mut padding = 0;
            if flags & PADDED != 0 {
                padding = usize::from(*payload.first()?);
                payload = payload.get(1..)?;
            }
            let mut priority = Vec::new();
            if flags & PRIORITY != 0 {
                priority = payload.get(..PRIORITY_LENGTH)?.to_vec();
                payload = payload.get(PRIORITY_LENGTH..)?;
            }
            payload = payload.get(..payload.len().checked_sub(padding)?)?;
            let item = Item::Headers {
                stream: stream.to_vec(),
                end_stream: flags & END_STREAM != 0,
                priority,
                fields: Vec::new(),
            };
            (item, Vec::new(), 0)
        };
        let Item::Headers {
            stream: opened,
            end_stream,
            priority,
            ..
        } = item
        else {
            return None;
        };
        fragment.extend_from_slice(payload);
        if *opened != stream || frames == MOST_FRAMES || fragment.len() > LARGEST_BLOCK {
            return None;
        }
        let mut fields = Vec::new();
        if flags & END_HEADERS != 0 {
            if !with_table {
                decoder = self::decoder();
            }
            fields = decoder.decode(&fragment).ok()?;
            let sizes = fields
                .iter()
                .map(|(name, value)| name.len() + value.len() + FIELD_OVERHEAD);
            // Half: replaced authorities may be longer than they were.
            if sizes.sum::<usize>() > LARGEST_LIST / 2 {
                return None;
            }
        }
        let item = Item::Headers {
            stream: opened,
            end_stream,
            priority,
            fields,
        };
        if flags & END_HEADERS != 0 {
            items.push(item);
        } else {
            open = Some((item, fragment, frames + 1));
        }
        rest = next;
    }
    Some(items)
}

fn decoder() -> Decoder<'static> {
    let mut decoder = Decoder::new();
    decoder.set_max_allowed_table_size(4096);
    decoder
}
