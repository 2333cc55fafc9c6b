//! A single pass over JSON text that keeps nothing.
//!
//! Packets are short, a few fields of each are wanted, and their reasons for rejection are stored for ever; so the
//! scanner tells syntax from nesting, never allocates, never recurses, and reads numbers exactly. It accepts the grammar
//! of RFC 8259 and nothing beyond it.

use super::Key;
use crate::reading::Reason;

/// How many arrays and objects may be open at once. One bit each: the type of [`Cursor::skip_value`]'s stack.
pub(super) const MAX_DEPTH: u32 = u64::BITS;

/// A place in JSON text. Every method starts at the current place and leaves it behind what it read.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

/// A string between its quotes, perhaps with escapes in it.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    pub raw: &'a str,
    pub escaped: bool,
}

/// A number: `mantissa · 10^exponent` where `exact`, else only its text.
pub(super) struct Number<'a> {
    raw: &'a str,
    negative: bool,
    mantissa: u64,
    exponent: i32,
    exact: bool,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Where the cursor is, in bytes.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The byte at the cursor; 0, which JSON never has outside of strings, at the end.
    #[inline]
    fn byte(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    /// The first byte of the next token, which stays there.
    #[inline]
    pub fn token(&mut self) -> u8 {
        loop {
            match self.byte() {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                byte => return byte,
            }
        }
    }

    /// Takes the next token if it starts with `byte`.
    #[inline]
    pub fn take(&mut self, byte: u8) -> bool {
        let found = self.token() == byte;
        self.at += usize::from(found);
        found
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Result<(), Reason> {
        if self.take(byte) { Ok(()) } else { Err(Reason::NotJson) }
    }

    /// Makes sure that nothing follows.
    pub fn end(&mut self) -> Result<(), Reason> {
        self.token();
        if self.at == self.text.len() { Ok(()) } else { Err(Reason::NotJson) }
    }

    /// The next key of an object whose brace is behind us, with its colon; `None` with the closing brace.
    #[inline(always)]
    pub fn next_key(&mut self, first: bool) -> Result<Option<Text<'a>>, Reason> {
        if self.take(b'}') {
            return Ok(None);
        }
        if !first {
            self.expect(b',')?;
        }
        self.key().map(Some)
    }

    /// Takes `key`, and the comma before it unless it is the `first` of its object, where these very bytes come next.
    #[inline(always)]
    pub fn take_key(&mut self, key: &Key, first: bool) -> bool {
        let bytes = self.text.as_bytes();
        let at = self.at + usize::from(!first);
        let found = (first || self.byte() == b',') && bytes.get(at..).is_some_and(|rest| key.begins(rest));
        if found {
            self.at = at + key.len;
        }
        found
    }

    /// Whether an array whose bracket is behind us has another element; takes comma or closing bracket.
    pub fn next_element(&mut self, first: bool) -> Result<bool, Reason> {
        if self.take(b']') {
            return Ok(false);
        }
        if !first {
            self.expect(b',')?;
        }
        Ok(true)
    }

    #[inline(always)]
    fn key(&mut self) -> Result<Text<'a>, Reason> {
        if self.token() != b'"' {
            return Err(Reason::NotJson);
        }
        let key = self.string()?;
        self.expect(b':')?;
        Ok(key)
    }

    /// Reads over the next value, however it is nested.
    pub fn skip_value(&mut self, depth: u32) -> Result<(), Reason> {
        let (mut open, mut objects) = (0, 0u64); // The lowest bit tells whether the innermost is an object.
        loop {
            match self.token() {
                bracket @ (b'{' | b'[') => {
                    if depth + open >= MAX_DEPTH {
                        return Err(Reason::TooDeep);
                    }
                    self.at += 1;
                    open += 1;
                    let object = bracket == b'{';
                    objects = objects << 1 | u64::from(object);
                    if self.token() != if object { b'}' } else { b']' } {
                        if object {
                            self.key()?;
                        }
                        continue;
                    }
                }
                b'"' => {
                    self.string()?;
                }
                b'-' | b'0'..=b'9' => {
                    self.number()?;
                }
                b't' => self.word("true")?,
                b'f' => self.word("false")?,
                b'n' => self.word("null")?,
                _ => return Err(Reason::NotJson),
            }
            // A value is complete: so is every array and object that ends here.
            loop {
                if open == 0 {
                    return Ok(());
                }
                let object = objects & 1 == 1;
                if self.take(b',') {
                    if object {
                        self.key()?;
                    }
                    break;
                }
                self.expect(if object { b'}' } else { b']' })?;
                open -= 1;
                objects >>= 1;
            }
        }
    }

    /// Takes `word`, which must be here.
    pub fn word(&mut self, word: &str) -> Result<(), Reason> {
        let found = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        self.at += word.len();
        if found { Ok(()) } else { Err(Reason::NotJson) }
    }

    /// The string whose opening quote is at the cursor.
    #[inline(always)] // Its result is looked at at once: through memory it would cost more than the scan.
    pub fn string(&mut self) -> Result<Text<'a>, Reason> {
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let (mut at, mut escaped) = (start, false);
        loop {
            // Eight bytes at a time, up to the first that may end the string or needs a look.
            while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
                let special = special_bytes(u64::from_le_bytes(*chunk));
                at += special.trailing_zeros() as usize / 8;
                if special != 0 {
                    break;
                }
            }
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    at += escape_len(&bytes[at..])?;
                }
                Some(0x20..) => at += 1,
                Some(_) | None => return Err(Reason::NotJson),
            }
        }
        self.at = at + 1;
        // Quotes and backslashes are characters of their own, so that the slice is whole.
        Ok(Text { raw: self.text.get(start..at).unwrap_or_default(), escaped })
    }

    /// The number that starts at the cursor.
    #[inline(always)] // As above.
    pub fn number(&mut self) -> Result<Number<'a>, Reason> {
        let start = self.at;
        let negative = self.byte() == b'-';
        self.at += usize::from(negative);
        let mut number = Number { raw: "", negative, mantissa: 0, exponent: 0, exact: true };
        if self.byte() == b'0' {
            self.at += 1;
        } else {
            self.digits(&mut number)?;
        }
        if self.byte() == b'.' {
            self.at += 1;
            number.exponent = -self.digits(&mut number)?;
        }
        if matches!(self.byte(), b'e' | b'E') {
            self.at += 1;
            let minus = self.byte() == b'-';
            self.at += usize::from(matches!(self.byte(), b'-' | b'+'));
            let mut power = Number { raw: "", negative: false, mantissa: 0, exponent: 0, exact: true };
            self.digits(&mut power)?;
            let power_of_ten = i32::try_from(power.mantissa).unwrap_or(i32::MAX);
            number.exact &= power.exact && power_of_ten < 1000;
            number.exponent = number.exponent.saturating_add(if minus { -power_of_ten } else { power_of_ten });
        }
        number.raw = self.text.get(start..self.at).unwrap_or_default();
        Ok(number)
    }

    /// At least one digit, appended to the mantissa; how many there were.
    #[inline]
    fn digits(&mut self, number: &mut Number<'_>) -> Result<i32, Reason> {
        let start = self.at;
        while let digit @ b'0'..=b'9' = self.byte() {
            number.exact &= number.mantissa < u64::MAX / 10;
            number.mantissa = number.mantissa.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        match self.at - start {
            0 => Err(Reason::NotJson),
            count => Ok(count as i32), // A packet is far shorter than i32::MAX.
        }
    }
}

/// The highest bit of each byte that is a quote, a backslash or a control character. Above the lowest such byte others may
/// be marked as well: the borrow of the subtraction.
#[inline]
fn special_bytes(chunk: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let below = |value: u64, limit: u64| value.wrapping_sub(ONES * limit) & !value;
    let is = |byte: u8| below(chunk ^ (ONES * u64::from(byte)), 1);
    (is(b'"') | is(b'\\') | below(chunk, 0x20)) & HIGH
}

/// The length of the escape at the start of `bytes`, which start with a backslash.
fn escape_len(bytes: &[u8]) -> Result<usize, Reason> {
    match bytes.get(1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(2),
        Some(b'u') if bytes.len() >= 6 && bytes[2..6].iter().all(u8::is_ascii_hexdigit) => Ok(6),
        _ => Err(Reason::NotJson),
    }
}

impl<'a> Text<'a> {
    /// What the string says. `scratch` holds it where there are escapes.
    #[inline]
    pub fn resolve<'s>(self, scratch: &'s mut String) -> &'s str
    where
        'a: 's,
    {
        if self.escaped { self.unescape(scratch) } else { self.raw }
    }

    #[cold]
    fn unescape(self, scratch: &mut String) -> &str {
        scratch.clear();
        let mut rest = self.raw;
        while let Some((plain, escape)) = rest.split_once('\\') {
            scratch.push_str(plain);
            let (character, length) = match escape.as_bytes().first() {
                Some(b'u') => unicode_escape(escape),
                Some(b'b') => ('\u{8}', 1),
                Some(b'f') => ('\u{c}', 1),
                Some(b'n') => ('\n', 1),
                Some(b'r') => ('\r', 1),
                Some(b't') => ('\t', 1),
                Some(&other) => (char::from(other), 1),
                None => return scratch, // The scanner refused such a string.
            };
            scratch.push(character);
            rest = escape.get(length..).unwrap_or_default();
        }
        scratch.push_str(rest);
        scratch
    }
}

/// The character of an escape that starts with `u`, and its length; half a surrogate pair is U+FFFD.
fn unicode_escape(escape: &str) -> (char, usize) {
    let unit = |at: usize| escape.get(at..at + 4).and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or(0xFFFD);
    let high = unit(1);
    if (0xD800..0xDC00).contains(&high) && escape.get(5..7) == Some("\\u") {
        let low = unit(7);
        if (0xDC00..0xE000).contains(&low) {
            let code = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
            return (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 11);
        }
    }
    (char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER), 5)
}

/// Powers of ten that a double holds exactly.
const POWERS_OF_TEN: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

impl Number<'_> {
    /// The nearest double; `None` where that is not finite.
    #[inline]
    pub fn to_f64(&self) -> Option<f64> {
        // Both operands are exact, and the operation rounds once: Clinger's fast path (PLDI 1990).
        if self.exact && self.mantissa <= 1 << 53 && self.exponent.unsigned_abs() < POWERS_OF_TEN.len() as u32 {
            let mantissa = self.mantissa as f64;
            let power = POWERS_OF_TEN[self.exponent.unsigned_abs() as usize];
            let value = if self.exponent < 0 { mantissa / power } else { mantissa * power };
            return Some(if self.negative { -value } else { value });
        }
        self.raw.parse().ok().filter(|value: &f64| value.is_finite())
    }

    /// The whole number that this is, however it is written; `None` where it isn't one, or one that a double with a
    /// fraction or exponent can't tell from its neighbours.
    #[inline]
    pub fn to_i64(&self) -> Option<i64> {
        if self.exact && self.exponent == 0 {
            return if self.negative {
                0i64.checked_sub_unsigned(self.mantissa)
            } else {
                i64::try_from(self.mantissa).ok()
            };
        }
        let value = self.to_f64()?;
        (value.fract() == 0.0 && value.abs() <= (1i64 << 53) as f64).then_some(value as i64)
    }
}

/// Reads text that is one JSON number.
pub(super) fn parse_number(text: &str) -> Option<Number<'_>> {
    let mut cursor = Cursor::new(text);
    let number = cursor.number().ok()?;
    (cursor.at == text.len()).then_some(number)
}
