//! Error codes of malformed files. All are `CouldNotRun`: such a file says nothing about a model, good or bad.

crate::codes! {
    GGUF_MAGIC: "gguf-magic", CouldNotRun, "The file does not begin like a little-endian GGUF file of version 2 or 3. \
        It may be another format, a web page saved under the wrong name, or a Git LFS pointer.";
    GGUF_TRUNCATED: "gguf-truncated", CouldNotRun, "The file ends before something that its own header announces. \
        Most often a download or a copy stopped early: compare the size with the source's.";
    GGUF_COUNT: "gguf-count", CouldNotRun, "A count or length in the file is larger than the rest of the file could \
        hold. Nothing was allocated for it. The file is damaged or was made to mislead.";
    GGUF_KEY: "gguf-key", CouldNotRun, "Metadata keys must be unique, non-empty UTF-8 of at most 65535 bytes; with a \
        duplicate nobody can say which value counts.";
    GGUF_VALUE: "gguf-value", CouldNotRun, "A metadata value has a type that GGUF does not define, a bool that is \
        neither 0 nor 1, text that is not UTF-8, or arrays nested deeper than any model needs.";
    GGUF_ALIGNMENT: "gguf-alignment", CouldNotRun, "general.alignment says on which byte multiple tensors start. It \
        must be a u32, a power of two, and at least 8.";
    GGUF_TENSOR: "gguf-tensor", CouldNotRun, "A tensor's entry is wrong in itself: its name, a dimension of 0, too \
        many dimensions, an element count beyond 64 bits, an unknown type, or rows that are no whole number of blocks.";
    GGUF_OFFSET: "gguf-offset", CouldNotRun, "A tensor's data is not where a tensor can be: its offset is not \
        aligned, or its bytes run past the end of the file (or past 2^64, back to its start).";
    GGUF_CHANGED: "gguf-changed", CouldNotRun, "The model's file was written to, cut or replaced while it was in use. \
        Some of its weights may have been read before and some after, so nothing that came of them counts.";
    GGUF_OVERLAP: "gguf-overlap", CouldNotRun, "Two tensors share some bytes but not all. Identical ranges are \
        aliases and fine; a partial overlap means that at least one offset is wrong.";
}
