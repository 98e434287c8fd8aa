//! Where op instances run: one executor over one [`Device`] interface.
//!
//! A [`Device`] is one memory space that can run launches. There are three: the CPU emulator, CUDA, and the proxy to
//! a confined worker process that hosts either of the two. The oracle is not a device: it is computed by the executor
//! in host memory, where the plan places it.
//!
//! Devices know nothing of ops. They get compiled modules, buffers and [`Launch`]es whose argument struct is a list of
//! [`Field`]s; the layout of that struct in memory is [`pack`]'s alone, and the generated C header's
//! (`ops::header`) must agree with it: pointers first, then 32-bit scalars.

pub mod cuda;
pub mod emulator;
pub mod executor;
pub mod source;
pub mod upload;
pub mod worker;

use serde::{Deserialize, Serialize};

pub use self::upload::FilePart;
use crate::error::{Error, Result};
use crate::model::gguf::Source;

/// A device buffer, as named by the device that allocated it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BufferId(pub u32);

/// A loaded module, as named by the device that loaded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModuleId(pub u32);

/// A recorded graph, as named by the device that recorded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GraphId(pub u32);

/// What kind of place ran a kernel. Only `Device` can turn a node green.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    Device,
    Emulator,
    Oracle,
}

/// What a device says of itself. Informative: digests bind the architecture alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    pub placement: Placement,
    /// `sm_90` for an H200; `emulator` for the emulator.
    pub arch: String,
    /// Marketing name, e.g. `NVIDIA H200`; the host compiler's version line for the emulator.
    pub name: String,
    /// CUDA driver version, e.g. `13.0`; empty for the emulator.
    pub driver: String,
    /// Bytes of memory that can be allocated in all.
    pub memory: u64,
    /// Most dynamic shared memory a block may ask for (opt-in limit), bytes.
    pub shared_max: u32,
}

/// What a device loads: a cubin for CUDA, the path of a shared object for the emulator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Module {
    Cubin(#[serde(with = "serde_bytes_b64")] Vec<u8>),
    SharedObject(std::path::PathBuf),
}

/// A compiled source, and what confined its compiler when it was made, which may have been long ago.
#[derive(Clone, Debug)]
pub struct Built {
    pub module: Module,
    pub compiler: worker::Sandbox,
}

/// One member of a kernel's argument struct, in the struct's order.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Field {
    /// Address of `buffer` plus `offset` bytes.
    Pointer {
        buffer: BufferId,
        offset: u64,
    },
    /// An optional argument that this instance does not have.
    Null,
    I32(i32),
    F32(f32),
}

/// One kernel launch. `name` is for traces and error messages (`blk.3.attn_q_a: matmul_q8_0`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    pub name: String,
    pub module: ModuleId,
    pub entry: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared: u32,
    pub args: Vec<Field>,
}

/// What the device saw itself run, to be compared with what the schedule asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Traced {
    pub entry: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
}

/// `len` bytes of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub buffer: BufferId,
    pub offset: u64,
    pub len: u64,
}

/// A replay of a recorded graph, with the little that goes in before it and comes out behind it.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// What is written first, in this order.
    pub writes: &'a [Span],
    /// What they hold, one after the other.
    pub bytes: &'a [u8],
    pub graph: GraphId,
    pub read: Option<Span>,
}

impl Step<'_> {
    /// Each part by the device's own method.
    pub fn one_by_one(&self, device: &mut (impl Device + ?Sized), into: &mut [u8]) -> Result<()> {
        let mut rest = self.bytes;
        for span in self.writes {
            let (bytes, others) = self.cut(rest, span)?;
            device.write(span.buffer, span.offset, bytes)?;
            rest = others;
        }
        device.replay(self.graph)?;
        device.sync()?;
        match self.read {
            Some(span) => device.read(span.buffer, span.offset, into),
            None => Ok(()),
        }
    }

    /// The bytes of the next write, and those of the writes behind it.
    pub fn cut<'b>(&self, bytes: &'b [u8], span: &Span) -> Result<(&'b [u8], &'b [u8])> {
        usize::try_from(span.len)
            .ok()
            .and_then(|n| bytes.split_at_checked(n))
            .ok_or_else(|| Error::internal("a step's writes are longer than their bytes"))
    }
}

/// One memory space that can run launches, in order.
///
/// Every method returns errors with the launch's or buffer's name in them. After a sticky CUDA error every later call
/// fails with the same code; the caller drops the device (and with it the worker process).
pub trait Device {
    fn info(&self) -> &DeviceInfo;

    /// Allocates `bytes` (> 0), 256-byte aligned, contents undefined. The emulator puts an inaccessible page right
    /// behind the last byte, so `bytes` must be what the kernel may touch and no more.
    fn alloc(&mut self, bytes: u64) -> Result<BufferId>;
    fn free(&mut self, buffer: BufferId) -> Result<()>;
    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<()>;
    fn read(&mut self, buffer: BufferId, offset: u64, bytes: &mut [u8]) -> Result<()>;
    /// Puts parts of a file into buffers. Refuses a file that is no longer what it was.
    fn read_file(&mut self, source: &Source, parts: &[FilePart]) -> Result<()> {
        upload::through_host(self, source, parts)
    }
    /// Repeats the 32-bit `pattern` over the whole buffer (rounded down to 4 bytes).
    fn fill(&mut self, buffer: BufferId, pattern: u32) -> Result<()>;

    /// A buffer that launches only read until it is next written from here. The emulator refuses the first write of a
    /// kernel, even of one that puts back what was there; on CUDA nothing watches, and what stands there afterwards tells.
    fn seal(&mut self, _buffer: BufferId) -> Result<()> {
        Ok(())
    }

    fn load(&mut self, module: &Module) -> Result<ModuleId>;

    /// In which order threads and blocks take their turns from now on. A device that has its own keeps it.
    fn set_thread_order(&mut self, order: emulator::ThreadOrder) -> Result<()>;
    /// How long a launch may take from now on; on CUDA, what lies between two waits.
    fn set_time_limit(&mut self, limit: std::time::Duration) -> Result<()>;

    /// Enqueues a launch on the device's one stream. The emulator runs it before it returns.
    fn launch(&mut self, launch: &Launch) -> Result<()>;
    /// Waits for everything enqueued, and reports the first failure with the launch's name.
    fn sync(&mut self) -> Result<()>;
    /// The launches since the last call, as the device saw them.
    fn take_trace(&mut self) -> Result<Vec<Traced>>;

    /// Keeps `launches` as one graph, to be replayed any number of times, and returns its kernels as the device has
    /// them: on CUDA, read back from the captured graph through the driver. The emulator keeps the list.
    fn record(&mut self, launches: &[Launch]) -> Result<(GraphId, Vec<Traced>)>;
    /// Enqueues a recorded graph. It is no part of the trace: its kernels are known since it was recorded.
    fn replay(&mut self, graph: GraphId) -> Result<()>;
    /// Writes, replays, waits, and reads into `into`, which is as long as what is read: a whole step in one call. A
    /// token of a generation should cost one such call and no other.
    fn step(&mut self, step: &Step<'_>, into: &mut [u8]) -> Result<()> {
        step.one_by_one(self, into)
    }
    fn forget(&mut self, graph: GraphId) -> Result<()>;
    /// Milliseconds that every launch took in its place among the others, by the device's own clock; reading the clock is
    /// in each of them.
    fn time_each(&mut self, launches: &[Launch]) -> Result<Vec<f32>>;
    /// Milliseconds that the replays took which ended since the last call, by the device's own clock.
    fn replayed_ms(&mut self) -> Result<f64>;
    /// Copies the first `bytes` of one buffer over another's.
    fn copy(&mut self, from: BufferId, to: BufferId, bytes: u64) -> Result<()>;
    /// Bytes that can be allocated now.
    fn free_memory(&mut self) -> Result<u64>;
}

/// Lays out an argument struct as the C compiler does: fields in order, pointers 8-byte and scalars 4-byte aligned,
/// the whole padded to 8 bytes. `address` resolves a buffer to its device address.
pub fn pack(fields: &[Field], mut address: impl FnMut(BufferId) -> Result<u64>) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(fields.len() * 8);
    for field in fields {
        match *field {
            Field::Pointer { buffer, offset } => {
                out.resize(out.len().next_multiple_of(8), 0);
                out.extend_from_slice(&(address(buffer)? + offset).to_ne_bytes());
            }
            Field::Null => {
                out.resize(out.len().next_multiple_of(8), 0);
                out.extend_from_slice(&0u64.to_ne_bytes());
            }
            Field::I32(v) => out.extend_from_slice(&v.to_ne_bytes()),
            Field::F32(v) => out.extend_from_slice(&v.to_ne_bytes()),
        }
    }
    out.resize(out.len().next_multiple_of(8), 0);
    Ok(out)
}

pub(crate) mod serde_bytes_b64 {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(d)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_puts_pointers_on_eight_bytes() {
        let fields = [
            Field::Pointer { buffer: BufferId(1), offset: 16 },
            Field::Null,
            Field::I32(7),
            Field::F32(1.0),
            Field::I32(-1),
        ];
        let bytes = pack(&fields, |b| Ok(u64::from(b.0) * 256)).unwrap();
        assert_eq!(bytes.len(), 32);
        assert_eq!(bytes[0..8], 272u64.to_ne_bytes());
        assert_eq!(bytes[16..20], 7i32.to_ne_bytes());
        assert_eq!(bytes[24..28], (-1i32).to_ne_bytes());
    }
}
