//! prefill(n) and then k decode steps is prefill(n + k): bit for bit, since the oracle computes a token the same way
//! whatever stands beside it. Kernels need not; they get a tolerance.

use assay::plan::Numerics;

use crate::{arbitrary, bundled, every, last, relative, session};

const STEPS: usize = 4;

/// Every n mod 4 at the beginning, around the window and the ratio of 128, where selection by the indexer sets in (48 rows
/// of 4 tokens are the most that are all attended to), and well behind.
fn lengths() -> Vec<usize> {
    let top_k = bundled().config.indexer_top_k;
    [1..=5, 125..=128, 4 * top_k - 2..=4 * top_k + 2, 255..=257].into_iter().flatten().collect()
}

/// A prefill's last row is also compared with the same row of the longest prefill, so that the steps' rows can be.
fn decode_is_prefill(numerics: Numerics, lengths: impl Iterator<Item = usize>) {
    let model = bundled();
    let lengths: Vec<usize> = lengths.collect();
    let longest = lengths.iter().max().unwrap() + STEPS;
    let tokens = arbitrary(model, longest, 1);
    let whole = every(model, numerics, &tokens, longest);
    let row = |n: usize| &whole[(n - 1) * model.config.vocab..n * model.config.vocab];
    for n in lengths {
        let mut s = session(model, numerics, n, n + STEPS, false);
        let prefilled = s.feed(&tokens[..n]).unwrap();
        assert!(
            prefilled == row(n),
            "{}: prefill({n}) differs by {:.1e}",
            numerics.name(),
            relative(&prefilled, row(n))
        );
        for k in 1..=STEPS {
            let stepped = s.feed(&tokens[n + k - 1..n + k]).unwrap();
            let error = relative(&stepped, row(n + k));
            assert!(stepped == row(n + k), "{}: prefill({n}) + {k} steps differs by {error:.1e}", numerics.name());
        }
    }
}

#[test]
fn decode_is_prefill_in_exact() {
    decode_is_prefill(Numerics::Exact, lengths().into_iter());
}

/// Every other length: what steps do is the same code, with other roundings.
#[test]
fn decode_is_prefill_in_ds4() {
    decode_is_prefill(Numerics::Ds4, lengths().into_iter().step_by(2));
}

/// The comparison above would be empty if the logits did not depend on where the caches stand.
#[test]
fn a_step_at_the_wrong_position_is_noticed() {
    let model = bundled();
    let tokens = arbitrary(model, 140, 2);
    let mut s = session(model, Numerics::Exact, 139, 140, false);
    s.feed(&tokens[1..]).unwrap();
    let shifted = s.feed(&tokens[139..]).unwrap();
    assert!(relative(&shifted, &last(model, Numerics::Exact, &tokens)) > 1e-3);
}
