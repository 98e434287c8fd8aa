//! Chunk size changes nothing: not a bit, since the oracle computes a token the same way whatever stands beside it.

use assay::plan::Numerics;

use crate::{arbitrary, bundled, every, relative};

#[test]
fn chunk_size_changes_nothing() {
    let model = bundled();
    // Past the window, past 128 and into selection, with a ragged end.
    let n = 4 * model.config.indexer_top_k + 19;
    let tokens = arbitrary(model, n, 3);
    for (numerics, chunks) in [(Numerics::Exact, &[1, 3, 64, 128][..]), (Numerics::Ds4, &[3, 128])] {
        let whole = every(model, numerics, &tokens, n);
        for chunk in chunks {
            let found = every(model, numerics, &tokens, *chunk);
            let error = relative(&found, &whole);
            assert!(found == whole, "{}: chunks of {chunk} change the logits by {error:.1e}", numerics.name());
        }
    }
}
