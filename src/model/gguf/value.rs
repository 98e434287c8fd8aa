//! Metadata values: GGUF's thirteen types.

use std::fmt;

use super::codes::*;
use super::cursor::Cursor;
use crate::Result;

/// Arrays of arrays of … : the format allows it, no model needs more than two. The limit keeps 100,000 nested
/// headers from overflowing the stack.
const MAX_DEPTH: u32 = 4;

const STRING: u32 = 8;
const ARRAY: u32 = 9;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array's elements all have one type, so it is stored as a vector of that.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    Str(Vec<String>),
    Array(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// Each variant with its id in the file and its name, for both enums.
macro_rules! per_type {
    ($enum:ident) => {
        impl $enum {
            /// GGUF's id and name of the type; of an array's elements, not of arrays.
            fn type_row(&self) -> (u32, &'static str) {
                match self {
                    $enum::U8(_) => (0, "u8"),
                    $enum::I8(_) => (1, "i8"),
                    $enum::U16(_) => (2, "u16"),
                    $enum::I16(_) => (3, "i16"),
                    $enum::U32(_) => (4, "u32"),
                    $enum::I32(_) => (5, "i32"),
                    $enum::F32(_) => (6, "f32"),
                    $enum::Bool(_) => (7, "bool"),
                    $enum::Str(_) => (STRING, "string"),
                    $enum::Array(_) => (ARRAY, "array"),
                    $enum::U64(_) => (10, "u64"),
                    $enum::I64(_) => (11, "i64"),
                    $enum::F64(_) => (12, "f64"),
                }
            }
        }
    };
}

per_type!(Value);
per_type!(Array);

impl Value {
    pub fn type_name(&self) -> &'static str {
        self.type_row().1
    }

    pub(super) fn type_id(&self) -> u32 {
        self.type_row().0
    }

    /// The number of a u32 or u64, the two types that the format's writers use for counts.
    pub fn as_count(&self) -> Option<u64> {
        match self {
            Value::U32(v) => Some(u64::from(*v)),
            Value::U64(v) => Some(*v),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(s) => Some(s),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Value::Array(a) => Some(a),
            _ => None,
        }
    }

    /// The elements of an array of strings.
    pub fn as_strings(&self) -> Option<&[String]> {
        match self {
            Value::Array(Array::Str(v)) => Some(v),
            _ => None,
        }
    }
}

impl Array {
    pub fn len(&self) -> usize {
        match self {
            Array::U8(v) => v.len(),
            Array::I8(v) => v.len(),
            Array::U16(v) => v.len(),
            Array::I16(v) => v.len(),
            Array::U32(v) => v.len(),
            Array::I32(v) => v.len(),
            Array::F32(v) => v.len(),
            Array::Bool(v) => v.len(),
            Array::Str(v) => v.len(),
            Array::Array(v) => v.len(),
            Array::U64(v) => v.len(),
            Array::I64(v) => v.len(),
            Array::F64(v) => v.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn element_name(&self) -> &'static str {
        self.type_row().1
    }

    pub(super) fn element_type_id(&self) -> u32 {
        self.type_row().0
    }
}

/// Scalars as they are, text quoted, arrays by type and length: short enough for a message.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(v) => v.fmt(f),
            Value::I8(v) => v.fmt(f),
            Value::U16(v) => v.fmt(f),
            Value::I16(v) => v.fmt(f),
            Value::U32(v) => v.fmt(f),
            Value::I32(v) => v.fmt(f),
            Value::F32(v) => v.fmt(f),
            Value::Bool(v) => v.fmt(f),
            Value::Str(s) if s.chars().count() > 60 => {
                write!(f, "\"{}…\"", s.chars().take(60).collect::<String>().escape_debug())
            }
            Value::Str(s) => write!(f, "\"{}\"", s.escape_debug()),
            Value::Array(a) => write!(f, "{} × {}", a.len(), a.element_name()),
            Value::U64(v) => v.fmt(f),
            Value::I64(v) => v.fmt(f),
            Value::F64(v) => v.fmt(f),
        }
    }
}

/// Reads a value's type and the value.
pub(super) fn read(c: &mut Cursor) -> Result<Value> {
    let at = c.pos();
    let id = c.u32("the value's type")?;
    Ok(match id {
        0 => Value::U8(c.array::<1>("a u8")?[0]),
        1 => Value::I8(c.array::<1>("an i8")?[0] as i8),
        2 => Value::U16(u16::from_le_bytes(c.array("a u16")?)),
        3 => Value::I16(i16::from_le_bytes(c.array("an i16")?)),
        4 => Value::U32(c.u32("a u32")?),
        5 => Value::I32(i32::from_le_bytes(c.array("an i32")?)),
        6 => Value::F32(f32::from_le_bytes(c.array("an f32")?)),
        7 => {
            let at = c.pos();
            let byte = c.array::<1>("a bool")?[0];
            Value::Bool(bool_of(c, byte, at)?)
        }
        STRING => Value::Str(c.string("a string", &GGUF_VALUE)?.to_owned()),
        ARRAY => Value::Array(read_array(c, 1)?),
        10 => Value::U64(c.u64("a u64")?),
        11 => Value::I64(i64::from_le_bytes(c.array("an i64")?)),
        12 => Value::F64(f64::from_le_bytes(c.array("an f64")?)),
        other => return Err(unknown_type(c, "value", other, at)),
    })
}

fn read_array(c: &mut Cursor, depth: u32) -> Result<Array> {
    if depth > MAX_DEPTH {
        return Err(c
            .error(&GGUF_VALUE, "arrays nested too deep")
            .expected(format!("at most {MAX_DEPTH} levels"))
            .found(format!("level {depth}")));
    }
    let at = c.pos();
    let id = c.u32("an array's element type")?;
    let count = c.u64("an array's length")?;
    Ok(match id {
        0 => Array::U8(numbers(c, count, |b: [u8; 1]| b[0])?),
        1 => Array::I8(numbers(c, count, |b: [u8; 1]| b[0] as i8)?),
        2 => Array::U16(numbers(c, count, u16::from_le_bytes)?),
        3 => Array::I16(numbers(c, count, i16::from_le_bytes)?),
        4 => Array::U32(numbers(c, count, u32::from_le_bytes)?),
        5 => Array::I32(numbers(c, count, i32::from_le_bytes)?),
        6 => Array::F32(numbers(c, count, f32::from_le_bytes)?),
        7 => {
            c.bound(count, 1, "array elements")?;
            let start = c.pos();
            let bytes = c.take(count, "an array of bools")?;
            let bools = bytes.iter().enumerate().map(|(i, &b)| bool_of(c, b, start + i as u64));
            Array::Bool(bools.collect::<Result<_>>()?)
        }
        STRING => {
            // A length each, at least.
            c.bound(count, 8, "array elements")?;
            let mut strings = Vec::with_capacity(count.min(4096) as usize);
            for _ in 0..count {
                strings.push(c.string("a string of an array", &GGUF_VALUE)?.to_owned());
            }
            Array::Str(strings)
        }
        ARRAY => {
            // An element type and a length each, at least.
            c.bound(count, 12, "array elements")?;
            let mut arrays = Vec::with_capacity(count.min(4096) as usize);
            for _ in 0..count {
                arrays.push(read_array(c, depth + 1)?);
            }
            Array::Array(arrays)
        }
        10 => Array::U64(numbers(c, count, u64::from_le_bytes)?),
        11 => Array::I64(numbers(c, count, i64::from_le_bytes)?),
        12 => Array::F64(numbers(c, count, f64::from_le_bytes)?),
        other => return Err(unknown_type(c, "array element", other, at)),
    })
}

fn numbers<T, const N: usize>(c: &mut Cursor, count: u64, of: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
    c.bound(count, N as u64, "array elements")?;
    // No overflow: the bound says count · N ≤ file size.
    let bytes = c.take(count * N as u64, "an array")?;
    let (chunks, _) = bytes.as_chunks::<N>();
    Ok(chunks.iter().map(|b| of(*b)).collect())
}

fn bool_of(c: &Cursor, byte: u8, at: u64) -> Result<bool> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(crate::Error::new(&GGUF_VALUE, c.at("a bool that is none", at)).expected("0 or 1").found(other)),
    }
}

fn unknown_type(c: &Cursor, of: &str, id: u32, at: u64) -> crate::Error {
    crate::Error::new(&GGUF_VALUE, c.at(&format!("unknown {of} type"), at))
        .expected("a GGUF type id, 0 to 12")
        .found(id)
}
