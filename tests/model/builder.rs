//! Writes GGUF files byte by byte, right or wrong. Independent of the crate's own writer.

pub const U32: u32 = 4;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;

/// A file to be; every field may lie.
#[derive(Clone)]
pub struct File {
    pub magic: [u8; 4],
    pub version: u32,
    /// Counts in the header, where they are not the true ones.
    pub tensor_count: Option<u64>,
    pub kv_count: Option<u64>,
    /// Key, type id, value bytes.
    pub kv: Vec<(Vec<u8>, u32, Vec<u8>)>,
    pub tensors: Vec<Tensor>,
    pub alignment: usize,
    pub data: Vec<u8>,
}

#[derive(Clone)]
pub struct Tensor {
    pub name: Vec<u8>,
    pub dims: Vec<u64>,
    pub ggml_type: u32,
    pub offset: u64,
}

impl File {
    /// Two keys, two tensors of 64 bytes each, 32-byte aligned.
    pub fn valid() -> File {
        let tensor = |name: &str, offset| Tensor { name: name.into(), dims: vec![8, 2], ggml_type: 0, offset };
        File {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            kv_count: None,
            kv: vec![
                (b"general.architecture".to_vec(), STRING, string("test")),
                (b"test.numbers".to_vec(), ARRAY, array(U32, 3, &[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0])),
            ],
            tensors: vec![tensor("a.weight", 0), tensor("b.weight", 64)],
            alignment: 32,
            data: vec![0; 128],
        }
    }

    pub fn with_kv(mut self, key: impl Into<Vec<u8>>, type_id: u32, value: Vec<u8>) -> File {
        self.kv.push((key.into(), type_id, value));
        self
    }

    pub fn with_tensor(mut self, change: impl FnOnce(&mut Tensor)) -> File {
        change(&mut self.tensors[1]);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.kv_count.unwrap_or(self.kv.len() as u64).to_le_bytes());
        for (key, type_id, value) in &self.kv {
            out.extend(text(key));
            out.extend(type_id.to_le_bytes());
            out.extend(value);
        }
        for t in &self.tensors {
            out.extend(text(&t.name));
            out.extend((t.dims.len() as u32).to_le_bytes());
            t.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(t.ggml_type.to_le_bytes());
            out.extend(t.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(&self.data);
        out
    }
}

/// Length and bytes.
pub fn text(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u64).to_le_bytes().to_vec();
    out.extend(bytes);
    out
}

pub fn string(s: &str) -> Vec<u8> {
    text(s.as_bytes())
}

/// Element type, length and the elements' bytes.
pub fn array(element: u32, len: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = element.to_le_bytes().to_vec();
    out.extend(len.to_le_bytes());
    out.extend(bytes);
    out
}
