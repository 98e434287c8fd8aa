//! One invocation of an op, as its oracle sees it: named slices in host memory.

use super::contract::{Contract, Rounding};
use crate::error::{Error, Result};
use crate::model::quant::DType;

/// A tensor of the model, still in its blocks.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    pub dtype: DType,
    /// Elements of the contiguous dimension.
    pub k: usize,
    /// Product of the other dimensions.
    pub rows: usize,
    pub bytes: &'a [u8],
}

impl<'a> Weight<'a> {
    /// Dequantises row `row` (of all rows, whatever the outer dimensions) to `out[k]`.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let stride = self.bytes.len() / self.rows;
        self.dtype.dequantise(&self.bytes[row * stride..][..stride], out);
    }

    /// The whole tensor as f32; meant for small ones (norms, sinks, scales).
    pub fn to_vec(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.k * self.rows];
        self.dtype.dequantise(self.bytes, &mut out);
        out
    }

    /// Element `i` of an I32 table.
    pub fn i32_at(&self, i: usize) -> i32 {
        let b = &self.bytes[4 * i..4 * i + 4];
        i32::from_le_bytes([b[0], b[1], b[2], b[3]])
    }
}

/// One argument's storage.
#[derive(Debug)]
pub enum Slot<'a> {
    /// An optional argument that this instance does not have, or one already taken by `*_mut`.
    Absent,
    F32(&'a [f32]),
    I32(&'a [i32]),
    F32Mut(&'a mut [f32]),
    I32Mut(&'a mut [i32]),
}

/// Arguments of one invocation, in the contract's order.
///
/// A wrong name, type or access is our bug, never the input's, and is reported as an internal error.
pub struct Call<'a> {
    pub contract: &'static Contract,
    pub slots: Vec<Slot<'a>>,
    pub weights: Vec<Option<Weight<'a>>>,
    pub steps: Vec<i32>,
    pub dims: Vec<i64>,
    /// i32 scalars are exact in f64 too.
    pub scalars: Vec<f64>,
    pub rounding: Rounding,
}

impl<'a> Call<'a> {
    fn bug(&self, name: &str) -> Error {
        Error::internal(format!(
            "op {}: the oracle asked for `{name}` in a way its contract does not give",
            self.contract.op
        ))
    }

    fn slot(&mut self, name: &str) -> Result<&mut Slot<'a>> {
        match self.contract.arg(name) {
            Some(i) if i < self.slots.len() => Ok(&mut self.slots[i]),
            _ => Err(self.bug(name)),
        }
    }

    pub fn f32(&mut self, name: &str) -> Result<&'a [f32]> {
        match self.slot(name)? {
            Slot::F32(s) => Ok(s),
            _ => Err(self.bug(name)),
        }
    }

    pub fn f32_opt(&mut self, name: &str) -> Result<Option<&'a [f32]>> {
        match self.slot(name)? {
            Slot::F32(s) => Ok(Some(s)),
            Slot::Absent => Ok(None),
            _ => Err(self.bug(name)),
        }
    }

    pub fn i32(&mut self, name: &str) -> Result<&'a [i32]> {
        match self.slot(name)? {
            Slot::I32(s) => Ok(s),
            _ => Err(self.bug(name)),
        }
    }

    /// Takes the writable slice out of the call; a second time is an error.
    pub fn f32_mut(&mut self, name: &str) -> Result<&'a mut [f32]> {
        match std::mem::replace(self.slot(name)?, Slot::Absent) {
            Slot::F32Mut(s) => Ok(s),
            _ => Err(self.bug(name)),
        }
    }

    pub fn i32_mut(&mut self, name: &str) -> Result<&'a mut [i32]> {
        match std::mem::replace(self.slot(name)?, Slot::Absent) {
            Slot::I32Mut(s) => Ok(s),
            _ => Err(self.bug(name)),
        }
    }

    pub fn weight(&self, name: &str) -> Result<Weight<'a>> {
        self.weight_opt(name)?.ok_or_else(|| self.bug(name))
    }

    pub fn weight_opt(&self, name: &str) -> Result<Option<Weight<'a>>> {
        self.contract.weight(name).and_then(|i| self.weights.get(i)).copied().ok_or_else(|| self.bug(name))
    }

    pub fn step(&self, name: &str) -> Result<usize> {
        let i = self.contract.steps.iter().position(|s| *s == name).ok_or_else(|| self.bug(name))?;
        usize::try_from(self.steps[i]).map_err(|_| self.bug(name))
    }

    pub fn dim(&self, name: &str) -> Result<usize> {
        let i = self.contract.dims.iter().position(|s| *s == name).ok_or_else(|| self.bug(name))?;
        usize::try_from(self.dims[i]).map_err(|_| self.bug(name))
    }

    pub fn scalar(&self, name: &str) -> Result<f64> {
        let i = self.contract.scalars.iter().position(|s| s.name == name).ok_or_else(|| self.bug(name))?;
        Ok(self.scalars[i])
    }
}
