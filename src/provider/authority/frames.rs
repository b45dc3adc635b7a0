//! Client frames in, the same frames out, with `:authority` replaced in every header block.
//!
//! HPACK's state spans the connection, so a block cannot be changed alone: `h2`'s table would no longer
//! be the client's. Every block is therefore decoded here, with the client's table, and written anew as
//! literals that touch no table: `h2` needs none.
//!
//! Nothing is refused here. Bytes that cannot be followed (no preface, a broken frame, a block that does
//! not decode or is too large) are handed to `h2` as they came, and so is the rest of that connection:
//! `h2` ends it with the error code that HTTP/2 has for it. Its table being empty, it cannot take such a
//! block for another one: an index of an entry that it has not seen is an error.

use bytes::BytesMut;
use loona_hpack::Decoder;
use loona_hpack::encoder::encode_integer_into;
use tokio::io::ReadBuf;

/// RFC 9113 §3.4.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The length of a frame's head.
pub const HEAD: usize = 9;
pub const HEADERS: u8 = 1;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
pub const PADDED: u8 = 0x8;
pub const PRIORITY: u8 = 0x20;
pub const PRIORITY_LENGTH: usize = 5;
/// What our server's SETTINGS leave at HTTP/2's defaults: a client may use no larger frame and no larger
/// table. `http2::the_server_announces_the_default_frame_and_table_sizes` holds it.
pub const LARGEST_FRAME: usize = 16 * 1024;
const LARGEST_TABLE: usize = 4096;
/// The largest encoded header block. `h2` answers 431 from 16 KiB of decoded fields on, so a block above
/// this cannot become a request.
pub const LARGEST_BLOCK: usize = 32 * 1024;
/// The most that is written of a block's decoded fields: from here on `h2` ends the connection.
pub const LARGEST_LIST: usize = 64 * 1024;
/// Frames that one block may come in: empty ones would otherwise never end it.
pub const MOST_FRAMES: usize = 64;
/// What each field adds to a decoded block's size (RFC 9113 §6.5.2).
pub const FIELD_OVERHEAD: usize = 32;
const AUTHORITY: &[u8] = b":authority";
const REPLACEMENT: &[u8] = b"localhost";

/// Where in the client's bytes we are.
enum Position {
    /// Within the connection preface, of which this many bytes were seen.
    Preface(usize),
    /// Before a frame's head.
    Head,
    /// Within a frame that is passed on, with this many bytes to come.
    Payload(usize),
    /// In bytes that are left to `h2`, to the connection's end.
    Unfollowed,
}

/// A frame's head.
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: [u8; 4],
}

impl Head {
    fn read(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, ref stream @ ..] = bytes.first_chunk::<HEAD>()?;
        Some(Self {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream: *stream,
        })
    }

    fn is_of_a_header_block(&self) -> bool {
        matches!(self.kind, HEADERS | CONTINUATION)
    }
}

/// A header block whose end has not come.
struct Block {
    stream: [u8; 4],
    end_stream: bool,
    priority: Vec<u8>,
    fragment: Vec<u8>,
    frames: usize,
}

/// The client's half of one connection.
pub struct Rewriter {
    position: Position,
    decoder: Decoder<'static>,
    block: Option<Block>,
    has_seen_headers: bool,
    /// Read, and not yet processed. At most one frame and one read.
    held: BytesMut,
    /// Processed, and not yet delivered. At most one header block.
    output: BytesMut,
}

impl Rewriter {
    /// At a connection's start.
    pub fn new() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(LARGEST_TABLE);
        Self {
            position: Position::Preface(0),
            decoder,
            block: None,
            has_seen_headers: false,
            held: BytesMut::new(),
            output: BytesMut::new(),
        }
    }

    /// Takes what was read: returns how many bytes of it, from its start, are to be delivered as they are,
    /// and keeps the rest. Call it only when [`Self::advance`] had nothing to do.
    pub fn accept(&mut self, fresh: &[u8]) -> usize {
        let passed = if self.held.is_empty() {
            self.unchanged(fresh)
        } else {
            0
        };
        self.held
            .extend_from_slice(fresh.get(passed..).unwrap_or_default());
        passed
    }

    /// Processes what is kept, by one frame or one stretch of other frames. False if more must be read.
    pub fn advance(&mut self) -> bool {
        if self.held.is_empty() {
            return false;
        }
        let held = std::mem::take(&mut self.held);
        let unchanged = self.unchanged(&held);
        self.held = held;
        if unchanged > 0 {
            self.output = self.held.split_to(unchanged);
            release(&mut self.held);
            return true;
        }
        let Some(head) = Head::read(&self.held) else {
            return false;
        };
        if !head.is_of_a_header_block() || head.length > LARGEST_FRAME {
            self.give_up();
            return true;
        }
        if self.held.len() < HEAD + head.length {
            return false;
        }
        self.header_frame(&head);
        true
    }

    /// Fills `buffer` with output. False if there is none.
    pub fn deliver(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        if self.output.is_empty() {
            return false;
        }
        let length = self.output.len().min(buffer.remaining());
        buffer.put_slice(&self.output.split_to(length));
        release(&mut self.output);
        true
    }

    /// Whether the client has begun a request.
    pub fn has_seen_headers(&self) -> bool {
        self.has_seen_headers
    }

    /// How many bytes, from the start, are to be passed on as they are: those before the next frame of a
    /// header block or the next incomplete head.
    fn unchanged(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while let Some(rest @ [_, ..]) = bytes.get(passed..) {
            match self.position {
                Position::Unfollowed => return bytes.len(),
                Position::Preface(seen) => {
                    let expected = PREFACE.get(seen..).unwrap_or_default();
                    let length = expected.len().min(rest.len());
                    if expected.get(..length) != rest.get(..length) {
                        self.position = Position::Unfollowed;
                    } else if length == expected.len() {
                        self.position = Position::Head;
                        passed += length;
                    } else {
                        self.position = Position::Preface(seen + length);
                        passed += length;
                    }
                }
                Position::Payload(left) => {
                    let length = left.min(rest.len());
                    passed += length;
                    self.position = match left - length {
                        0 => Position::Head,
                        left => Position::Payload(left),
                    };
                }
                Position::Head => match Head::read(rest) {
                    // Nothing else may come within a block: `advance` sees to it.
                    Some(head) if self.block.is_none() && !head.is_of_a_header_block() => {
                        passed += HEAD;
                        self.position = match head.length {
                            0 => Position::Head,
                            length => Position::Payload(length),
                        };
                    }
                    _ => break,
                },
            }
        }
        passed
    }

    /// Takes a whole frame of a header block out of `held`.
    fn header_frame(&mut self, head: &Head) {
        self.has_seen_headers = true;
        let frame = self.held.split_to(HEAD + head.length);
        release(&mut self.held);
        let payload = frame.get(HEAD..).unwrap_or_default();
        let block = match (head.kind, self.block.take()) {
            (HEADERS, None) => begun(head, payload),
            (CONTINUATION, Some(mut block))
                if block.stream == head.stream && block.frames < MOST_FRAMES =>
            {
                block.fragment.extend_from_slice(payload);
                block.frames += 1;
                Some(block)
            }
            (_, unfinished) => {
                self.block = unfinished;
                None
            }
        };
        let Some(block) = block else {
            self.give_up();
            self.output.extend_from_slice(&frame);
            return;
        };
        let ends = head.flags & END_HEADERS != 0;
        if block.fragment.len() > LARGEST_BLOCK {
            self.position = Position::Unfollowed;
            self.output = framed(&block, &block.fragment, ends);
        } else if !ends {
            self.block = Some(block);
        } else if let Some(rewritten) = rewritten(&mut self.decoder, &block.fragment) {
            self.output = framed(&block, &rewritten, true);
        } else {
            self.position = Position::Unfollowed;
            self.output = framed(&block, &block.fragment, true);
        }
    }

    /// Leaves the rest of the connection to `h2`, what is kept of an unfinished block first.
    fn give_up(&mut self) {
        self.position = Position::Unfollowed;
        if let Some(block) = self.block.take() {
            self.output = framed(&block, &block.fragment, false);
        }
    }

    /// Bytes of the client's that are kept.
    #[cfg(any(test, fuzzing))]
    pub fn kept(&self) -> usize {
        let block = self.block.as_ref().map_or(0, |block| block.fragment.len());
        self.held.len() + self.output.len() + block
    }
}

/// An emptied buffer still holds its memory, for as long as its connection idles.
fn release(buffer: &mut BytesMut) {
    if buffer.is_empty() {
        *buffer = BytesMut::new();
    }
}

/// The beginning of a block, without its padding. None if the frame is too short for what its flags say.
fn begun(head: &Head, mut payload: &[u8]) -> Option<Block> {
    let mut padding = 0;
    if head.flags & PADDED != 0 {
        let (length, rest) = payload.split_first()?;
        padding = usize::from(*length);
        payload = rest;
    }
    let mut priority: &[u8] = &[];
    if head.flags & PRIORITY != 0 {
        (priority, payload) = payload.split_at_checked(PRIORITY_LENGTH)?;
    }
    let fragment = payload.get(..payload.len().checked_sub(padding)?)?;
    Some(Block {
        stream: head.stream,
        end_stream: head.flags & END_STREAM != 0,
        priority: priority.to_vec(),
        fragment: fragment.to_vec(),
        frames: 1,
    })
}

/// A header block with its authority replaced, as literals that are not indexed (RFC 7541 §6.2.2).
/// None if it does not decode.
fn rewritten(decoder: &mut Decoder<'static>, fragment: &[u8]) -> Option<Vec<u8>> {
    let mut output = Vec::with_capacity(fragment.len().saturating_mul(2));
    let mut size = 0;
    let mut written = Ok(());
    let decoded = decoder.decode_with_cb(fragment, |name, value| {
        // What is above the limit is decoded for the table's sake alone. `h2` has enough to refuse it by.
        if size <= LARGEST_LIST && written.is_ok() {
            let value = if *name == *AUTHORITY {
                REPLACEMENT
            } else {
                &value
            };
            size += name.len() + value.len() + FIELD_OVERHEAD;
            output.push(0);
            written = literal(&name, &mut output).and_then(|()| literal(value, &mut output));
        }
    });
    (decoded.is_ok() && written.is_ok()).then_some(output)
}

fn literal(text: &[u8], output: &mut Vec<u8>) -> std::io::Result<()> {
    encode_integer_into(text.len(), 7, 0, output)?;
    output.extend_from_slice(text);
    Ok(())
}

/// HEADERS, and CONTINUATION frames as needed.
fn framed(block: &Block, fragment: &[u8], ends: bool) -> BytesMut {
    let mut output = BytesMut::with_capacity(fragment.len() + 2 * HEAD + PRIORITY_LENGTH);
    let mut priority: &[u8] = &block.priority;
    let mut rest = fragment;
    let (mut kind, mut flags) = (HEADERS, 0);
    if block.end_stream {
        flags |= END_STREAM;
    }
    if !priority.is_empty() {
        flags |= PRIORITY;
    }
    loop {
        let (part, after) = rest
            .split_at_checked(LARGEST_FRAME - priority.len())
            .unwrap_or((rest, &[]));
        if ends && after.is_empty() {
            flags |= END_HEADERS;
        }
        // At most LARGEST_FRAME, which fits in three bytes.
        let length = u32::try_from(priority.len() + part.len()).unwrap_or(0);
        let [_, length @ ..] = length.to_be_bytes();
        output.extend_from_slice(&length);
        output.extend_from_slice(&[kind, flags]);
        output.extend_from_slice(&block.stream);
        output.extend_from_slice(priority);
        output.extend_from_slice(part);
        if after.is_empty() {
            return output;
        }
        (kind, flags, priority, rest) = (CONTINUATION, 0, &[], after);
    }
}
