//! A walk over JSON text that is known to be valid: nothing is copied, nothing recurses, and a number keeps
//! its spelling. What a parser would make of a reply can take many times its size.

use super::gojson::Unreadable;

/// A place in a text.
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The next byte that is no space, or 0 at the end.
    pub fn peek(&mut self) -> u8 {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let space = rest.iter().take_while(|byte| byte.is_ascii_whitespace());
        self.at += space.count();
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    /// Passes over this byte, if it is the next one.
    pub fn takes(&mut self, byte: u8) -> bool {
        let takes = self.peek() == byte;
        self.at += usize::from(takes);
        takes
    }

    /// The next text with its quotes, as it is written.
    pub fn string(&mut self) -> Result<&'a str, Unreadable> {
        if !self.takes(b'"') {
            return Err(Unreadable);
        }
        let begin = self.at - 1;
        let mut rest = self
            .text
            .as_bytes()
            .get(self.at..)
            .unwrap_or_default()
            .iter();
        while let Some(byte) = rest.next() {
            match byte {
                b'"' => {
                    self.at = self.text.len() - rest.len();
                    return self.text.get(begin..self.at).ok_or(Unreadable);
                }
                // Whatever it is, it ends no text.
                b'\\' => drop(rest.next()),
                _ => {}
            }
        }
        Err(Unreadable)
    }

    /// The next value, as it is written.
    pub fn value(&mut self) -> Result<&'a str, Unreadable> {
        let mut open = 0_usize;
        self.peek();
        let begin = self.at;
        loop {
            match self.peek() {
                b'"' => drop(self.string()?),
                b'{' | b'[' => {
                    open += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    open = open.checked_sub(1).ok_or(Unreadable)?;
                    self.at += 1;
                }
                b',' | b':' if open > 0 => self.at += 1,
                _ => drop(self.scalar()?),
            }
            if open == 0 {
                return self.text.get(begin..self.at).ok_or(Unreadable);
            }
        }
    }

    /// The next number, `true`, `false` or `null`.
    pub fn scalar(&mut self) -> Result<&'a str, Unreadable> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let ends = |c: char| {
            c.is_ascii_whitespace() || matches!(c, ',' | ':' | '}' | ']' | '{' | '[' | '"')
        };
        let scalar = rest.split(ends).next().unwrap_or_default();
        if scalar.is_empty() {
            return Err(Unreadable);
        }
        self.at += scalar.len();
        Ok(scalar)
    }
}

/// The fields of a map, in their order: each name as it is written, with its quotes, and each value.
pub struct Entries<'a> {
    scanner: Scanner<'a>,
    /// Nothing comes any more.
    over: bool,
}

impl<'a> Entries<'a> {
    /// The fields of a map; none of anything else.
    pub fn of(map: &'a str) -> Self {
        let mut scanner = Scanner::new(map);
        let over = !scanner.takes(b'{') || scanner.takes(b'}');
        Self { scanner, over }
    }

    fn entry(&mut self) -> Result<(&'a str, &'a str), Unreadable> {
        self.scanner.peek();
        let name = self.scanner.string()?;
        if !self.scanner.takes(b':') {
            return Err(Unreadable);
        }
        let value = self.scanner.value()?;
        self.over = !self.scanner.takes(b',');
        Ok((name, value))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(&'a str, &'a str), Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let entry = self.entry();
        self.over |= entry.is_err();
        Some(entry)
    }
}
