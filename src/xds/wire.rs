//! Protobuf fields, read and written one by one.
//!
//! The relay must pass on what it does not know (C-021), which generated code
//! drops. So envelopes are read field by field: known ones become values,
//! others stay the bytes they were. Nothing here allocates for payloads: a
//! [`Value::Bytes`] is a slice of the message it came in.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};

/// Why bytes are not a protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("malformed protobuf: a number is cut off or longer than 10 bytes")]
    Varint,
    #[error("malformed protobuf: field {0} is longer than the message")]
    Truncated(u32),
    #[error("malformed protobuf: field number 0 or wire type of a group")]
    Key,
    #[error("malformed protobuf: field {0} has another wire type than expected")]
    Type(u32),
    #[error("malformed protobuf: field {0} is not UTF-8")]
    Utf8(u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(Bytes),
}

/// One field of a message, with the bytes it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub number: u32,
    pub value: Value,
    /// Key and value as they stood on the wire.
    pub raw: Bytes,
}

impl Field {
    /// The value of a length-delimited field.
    pub fn bytes(self) -> Result<Bytes, WireError> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(WireError::Type(self.number)),
        }
    }

    pub fn string(self) -> Result<String, WireError> {
        let number = self.number;
        let bytes = self.bytes()?;
        String::from_utf8(bytes.into()).map_err(|_| WireError::Utf8(number))
    }

    pub fn varint(self) -> Result<u64, WireError> {
        match self.value {
            Value::Varint(number) => Ok(number),
            _ => Err(WireError::Type(self.number)),
        }
    }
}

/// The fields of one message, in wire order.
#[derive(Clone, Debug)]
pub struct Fields {
    rest: Bytes,
}

impl Fields {
    pub fn new(message: Bytes) -> Self {
        Self { rest: message }
    }

    fn read(&mut self) -> Result<Field, WireError> {
        let start = self.rest.clone();
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| WireError::Key)?;
        if number == 0 {
            return Err(WireError::Key);
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.take(number, 8)?.get_u64_le()),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated(number))?;
                Value::Bytes(self.take(number, length)?)
            }
            5 => Value::Fixed32(self.take(number, 4)?.get_u32_le()),
            _ => return Err(WireError::Key),
        };
        let raw = start.slice(..start.len() - self.rest.len());
        Ok(Field { number, value, raw })
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        decode_varint(&mut self.rest).map_err(|_| WireError::Varint)
    }

    fn take(&mut self, number: u32, length: usize) -> Result<Bytes, WireError> {
        if length > self.rest.len() {
            return Err(WireError::Truncated(number));
        }
        Ok(self.rest.split_to(length))
    }
}

impl Iterator for Fields {
    type Item = Result<Field, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.rest = Bytes::new();
        }
        Some(field)
    }
}

/// One key and one value of a `map<string, string>` entry.
pub fn string_pair(entry: Bytes) -> Result<(String, String), WireError> {
    let (mut key, mut value) = (String::new(), String::new());
    for field in Fields::new(entry) {
        let field = field?;
        match field.number {
            1 => key = field.string()?,
            2 => value = field.string()?,
            _ => {}
        }
    }
    Ok((key, value))
}

/// The first string under field `number`, or the empty one: how a resource
/// states its name (field 1 in nearly every type).
pub fn first_string(message: &Bytes, number: u32) -> Result<String, WireError> {
    for field in Fields::new(message.clone()) {
        let field = field?;
        if field.number == number {
            return field.string();
        }
    }
    Ok(String::new())
}

/// Builds one message. Fields of default value are left out, as proto3 does,
/// except where a method says otherwise.
#[derive(Debug, Default)]
pub struct Writer {
    out: BytesMut,
}

impl Writer {
    pub fn with_capacity(bytes: usize) -> Self {
        Self { out: BytesMut::with_capacity(bytes) }
    }

    pub fn varint(&mut self, number: u32, value: u64) {
        if value != 0 {
            encode_varint(u64::from(number) << 3, &mut self.out);
            encode_varint(value, &mut self.out);
        }
    }

    pub fn string(&mut self, number: u32, value: &str) {
        if !value.is_empty() {
            self.bytes(number, value.as_bytes());
        }
    }

    /// A length-delimited field, written also when it is empty: an element of
    /// a repeated field, or a message that is there.
    pub fn bytes(&mut self, number: u32, value: &[u8]) {
        self.head(number, value.len());
        self.out.put_slice(value);
    }

    /// The key and length of a length-delimited field whose `length` bytes the
    /// caller writes next.
    pub fn head(&mut self, number: u32, length: usize) {
        encode_varint(u64::from(number) << 3 | 2, &mut self.out);
        encode_varint(length as u64, &mut self.out);
    }

    /// Bytes that are fields already.
    pub fn raw(&mut self, fields: &[u8]) {
        self.out.put_slice(fields);
    }

    /// A nested message, written also when it is empty.
    pub fn message(&mut self, number: u32, write: impl FnOnce(&mut Writer)) {
        let mut nested = Writer::default();
        write(&mut nested);
        self.bytes(number, &nested.out);
    }

    pub fn len(&self) -> usize {
        self.out.len()
    }

    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    pub fn finish(self) -> Bytes {
        self.out.freeze()
    }
}

/// Size on the wire of a length-delimited field of `length` bytes.
pub fn field_len(number: u32, length: usize) -> usize {
    encoded_len_varint(u64::from(number) << 3) + encoded_len_varint(length as u64) + length
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn unknown_fields_keep_their_bytes() {
        let mut writer = Writer::default();
        writer.string(1, "a");
        writer.varint(2047, 7);
        writer.bytes(2, b"");
        let message = writer.finish();
        let fields: Vec<_> = Fields::new(message.clone()).map(Result::unwrap).collect();
        assert_eq!(fields.iter().map(|field| field.number).collect::<Vec<_>>(), [1, 2047, 2]);
        let glued: Vec<u8> = fields.iter().flat_map(|field| field.raw.to_vec()).collect();
        assert_eq!(glued, message);
    }

    #[test]
    fn lengths_beyond_the_message_are_refused() {
        let error = Fields::new(Bytes::from_static(&[0x0a, 0x05, 1])).next().unwrap();
        assert_eq!(error, Err(WireError::Truncated(1)));
        assert_eq!(Fields::new(Bytes::from_static(&[0x03])).next().unwrap(), Err(WireError::Key));
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let total: usize = Fields::new(bytes.clone().into()).filter_map(Result::ok).map(|f| f.raw.len()).sum();
            prop_assert!(total <= bytes.len());
        }
    }
}
