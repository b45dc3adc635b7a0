//! DER as strictly as Go's `cryptobyte` reads it: full tag bytes, shortest lengths, nothing passed over. A
//! lenient reader loses the name constraints that it cannot read, and trusts what they exclude.

pub const BOOLEAN: u8 = 0x01;
pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const OCTET_STRING: u8 = 0x04;
pub const OBJECT_IDENTIFIER: u8 = 0x06;
pub const SEQUENCE: u8 = 0x30;

/// A primitive element that is tagged by its context.
pub const fn primitive(number: u8) -> u8 {
    0x80 | number
}

/// A constructed element that is tagged by its context.
pub const fn constructed(number: u8) -> u8 {
    0xa0 | number
}

/// Elements that follow one another.
#[derive(Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tag and the content of the next element.
    pub fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        // A number above 30, in bytes of its own: no element of a certificate has one.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let add = |length: usize, byte: &u8| (length << 8) | usize::from(*byte);
                let length = bytes.iter().fold(0, add);
                if bytes.first() == Some(&0) || length < 0x80 {
                    return None;
                }
                (length, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next element, which must have this tag.
    pub fn element(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.any()
            .filter(|(found, _)| *found == tag)
            .map(|(_, content)| content)
    }

    /// The content of the next element where it has this tag; nothing where that is broken.
    pub fn optional(&mut self, tag: u8) -> Option<Option<&'a [u8]>> {
        match self.0.first() == Some(&tag) {
            true => self.element(tag).map(Some),
            false => Some(None),
        }
    }

    pub fn sequence(&mut self) -> Option<Self> {
        self.element(SEQUENCE).map(Self)
    }
}

pub fn boolean(content: &[u8]) -> Option<bool> {
    match content {
        [0] => Some(false),
        [0xff] => Some(true),
        _ => None,
    }
}

/// An integer of 8 bytes at most.
pub fn integer(content: &[u8]) -> Option<i64> {
    let is_shortest = match content {
        [] => false,
        [0, second, ..] => *second >= 0x80,
        [0xff, second, ..] => *second < 0x80,
        _ => true,
    };
    if !is_shortest || content.len() > 8 {
        return None;
    }
    let sign = match content.first() {
        Some(0x80..) => -1,
        _ => 0,
    };
    let add = |value: i64, byte: &u8| (value << 8) | i64::from(*byte);
    Some(content.iter().fold(sign, add))
}

/// The bytes of a bit string; the bits that fill up the last one must be zero.
pub fn bits(content: &[u8]) -> Option<&[u8]> {
    let (&unused, bytes) = content.split_first()?;
    let is_filled = match bytes.last() {
        Some(last) => unused <= 7 && last.trailing_zeros() >= u32::from(unused),
        None => unused == 0,
    };
    is_filled.then_some(bytes)
}

/// Whether an object identifier is complete, and each of its numbers the shortest and below 2^31.
pub fn is_identifier(content: &[u8]) -> bool {
    let mut number: Option<u32> = None;
    for byte in content {
        let before = number.unwrap_or_default();
        if (number.is_none() && *byte == 0x80) || before >= 1 << 24 {
            return false;
        }
        number = match byte & 0x80 {
            0 => None,
            _ => Some((before << 7) | u32::from(byte & 0x7f)),
        };
    }
    number.is_none() && !content.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_the_shortest_and_tags_are_whole() {
        for (bytes, read) in [
            (&b"\x82\x01a"[..], Some((0x82, &b"a"[..]))),
            (b"\x82\x00", Some((0x82, b""))),
            (b"\x82\x81\x01a", None),
            (b"\x82\x80a\0\0", None),
            (b"\x82\x85\0\0\0\0\x01a", None),
            (b"\x82\x02a", None),
            (b"\x9f\x22\x01a", None),
            (b"\x82", None),
            (b"", None),
        ] {
            assert_eq!(Reader::new(bytes).any(), read, "{bytes:x?}");
        }
        let long = [&[4, 0x81, 0x80][..], &[7; 128]].concat();
        assert_eq!(Reader::new(&long).element(OCTET_STRING).unwrap().len(), 128);
        assert_eq!(Reader::new(&long).element(SEQUENCE), None);
        assert_eq!(Reader::new(&long).optional(SEQUENCE), Some(None));
        assert_eq!(Reader::new(&[4, 1]).optional(OCTET_STRING), None);
    }

    #[test]
    fn values_have_one_form() {
        assert_eq!(boolean(&[0xff]), Some(true));
        assert_eq!(boolean(&[1]), None);
        for (bytes, read) in [
            (&[5][..], Some(5)),
            (&[0, 0x80], Some(128)),
            (&[0xff], Some(-1)),
            (&[0x80, 0], Some(-32768)),
            (&[0, 1], None),
            (&[0xff, 0x80], None),
            (&[1; 9], None),
            (&[], None),
        ] {
            assert_eq!(integer(bytes), read, "{bytes:?}");
        }
        for (bytes, read) in [
            (&[3, 0x88][..], Some(&[0x88][..])),
            (&[4, 0x88], None),
            (&[8, 0], None),
            (&[0], Some(&[])),
            (&[1], None),
            (&[], None),
        ] {
            assert_eq!(bits(bytes), read, "{bytes:?}");
        }
        for (bytes, is_good) in [
            (&[0x2a, 3][..], true),
            (&[0x2a, 0x87, 0xff, 0xff, 0xff, 0x7f], true),
            (&[0x2a, 0x88, 0x80, 0x80, 0x80, 0], false),
            (&[0x2a, 0x80, 1], false),
            (&[0x2a, 0x83], false),
            (&[], false),
        ] {
            assert_eq!(is_identifier(bytes), is_good, "{bytes:x?}");
        }
    }
}
