//! What the three attention ops share: one joint softmax with a sink over window rows and compressed rows
//! (docs/model.md §12).

use std::ops::Range;

use super::cases::POSITIONS;
use super::{Draft, Rounding, math};

/// Output of one head: `o[d] = Σ_j exp(s_j − m)·kv_j / (exp(sink − m) + Σ_j exp(s_j − m))`, s_j = q·kv_j·scale.
///
/// Keys are the values too. The sink takes part in the maximum and the sum, and has no value. Where operands are rounded
/// the weights are as well, which are multiplied with the values; what is divided by is their sum, not that of others.
pub(super) fn head<'r>(
    q: &[f32],
    rows: impl Iterator<Item = &'r [f32]> + Clone,
    sink: f32,
    scale: f32,
    rounding: Rounding,
    out: &mut [f32],
) {
    let scores: Vec<f32> = rows.clone().map(|kv| math::dot(q, kv) * scale).collect();
    let max = scores.iter().copied().fold(sink, f32::max);
    let mut denominator = libm::exp(f64::from(sink - max));
    out.fill(0.0);
    for (weight, kv) in weights(&scores, max, rounding).into_iter().zip(rows) {
        denominator += f64::from(weight);
        for (o, v) in out.iter_mut().zip(kv) {
            *o += weight * v;
        }
    }
    let inverse = (1.0 / denominator) as f32;
    out.iter_mut().for_each(|o| *o *= inverse);
}

/// exp(s − max), rounded as numbers up to 1: a sink far above all scores must not make them too small for f16.
fn weights(scores: &[f32], max: f32, rounding: Rounding) -> Vec<f32> {
    let weigh = |max: f32| -> Vec<f32> { scores.iter().map(|s| libm::expf(s - max)).collect() };
    if rounding == Rounding::None {
        return weigh(max);
    }
    let best = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut rounded = math::round_rows(&weigh(best), scores.len(), rounding);
    rounded.iter_mut().for_each(|w| *w *= libm::expf(best - max));
    rounded
}

/// Window rows of the token at `position`: ring rows of positions max(0, position − window + 1) ..= position.
pub(super) fn window(
    ring: &[f32],
    cap: usize,
    d: usize,
    position: usize,
    window: usize,
) -> impl Iterator<Item = &[f32]> + Clone {
    ((position + 1).saturating_sub(window)..position + 1).map(move |q| &ring[q % cap * d..][..d])
}

/// Sizes of an attention case: a ring that holds step and window, and a position from which compressed rows are seen:
/// in half of those that do not start at 0, nearly all of them.
pub(super) fn size(d: &mut Draft<'_>) {
    let (tokens, window, rows, ratio) = (d.tokens, d.dim("window"), d.dim("C"), d.dim("ratio"));
    let last = (rows * ratio).saturating_sub(tokens);
    let most = match ratio {
        0 if d.far => POSITIONS - tokens,
        0 => 600,
        _ if d.far || d.draw.below(2) == 0 => last,
        _ => last.min(4 * rows.max(150)),
    };
    let pos0 = (full_list(d, last).or_else(|| straddling(d, most, window))).unwrap_or_else(|| d.position(most));
    if let Some(complete) = (pos0 + tokens).checked_div(ratio) {
        d.set_dim("C", rows.max(complete + 1));
    }
    // Seven times 256: a far position must not fall on the row of its last bits.
    d.set_dim("cap", (tokens + window).next_multiple_of(256) + if d.far { 1536 } else { 0 });
    // Nothing larger: the lifted scores' last bits would be larger errors than f32 may make.
    let scale = f64::from(0.5 + 0.5 * d.draw.unit()) / (d.dim("D") as f64).sqrt();
    d.set_scalar("scale", scale);
}

/// A position from which window and list are full: where the last row is then alone in the block of rows that a kernel
/// takes, where one token's heads are a tile, which has several blocks then, and where many blocks share a list.
fn full_list(d: &mut Draft<'_>, last: usize) -> Option<usize> {
    let (k, window) = (d.dim("k"), d.dim("window"));
    let first = window.max(k * d.dim("ratio"));
    (k > 0 && (ends_in_one(d) || is_a_tile(d) || is_shared_out(d)) && first <= last).then(|| {
        let pos0 = d.draw.between(first, last);
        d.set_step("pos0", pos0);
        pos0
    })
}

/// Window and list of a multiple of 32 rows and one more, and few enough that one row counts.
pub(super) fn ends_in_one(d: &Draft<'_>) -> bool {
    d.dim("k") > 0 && (d.dim("window") + d.dim("k")) % 32 == 1 && !is_shared_out(d)
}

/// One token, and as many heads as the largest tile has queries.
fn is_a_tile(d: &Draft<'_>) -> bool {
    d.tokens == 1 && d.dim("H") >= 64
}

/// In most cases of several tokens, and in all of few, a position from which the number of rows that they see, window and
/// pooled ones, passes a multiple of 16 or 32: kernels share rows out in such numbers, and what one token's share is must not
/// be taken for its neighbour's.
fn straddling(d: &mut Draft<'_>, most: usize, window: usize) -> Option<usize> {
    if d.far || d.tokens < 2 || (d.tokens > 8 && d.draw.below(4) == 0) {
        return None;
    }
    let unit = if window < 32 { 16 } else { d.draw.pick(&[16, 32]) };
    let before = 1 + d.draw.below((d.tokens - 1).min(unit - 1));
    let (ratio, list) = (d.dim("ratio"), d.dim("k"));
    let rows = |position: usize| {
        let pooled = (position + 1).checked_div(ratio).unwrap_or(0);
        (position + 1).min(window) + if list > 0 { pooled.min(list) } else { pooled }
    };
    // Near the first window: far behind it the rows of a file's context are many.
    let most = most.min(2 * window + 64);
    let multiples = (rows(most) - 1) / unit;
    let passed = unit * (1 + d.draw.below(multiples.max(1)));
    let pos0 = (0..=most).find(|p| rows(*p) > passed)?.checked_sub(before)?;
    d.set_step("pos0", pos0);
    Some(pos0)
}

/// What the scores and sinks of a case are like.
#[derive(Clone, Copy)]
enum Scores {
    /// Around 0, and the sinks among them.
    Usual,
    /// Near 100: their exponentials are no numbers unless the maximum is taken off first.
    High,
    /// Near −100, and the sinks with them: what takes a maximum to be 0 at least divides nothing by nothing.
    Low,
    /// Far below the sinks, so that the outputs are small, and no less right for it.
    BelowSinks,
    /// Far above the sinks, which have no part in anything.
    AboveSinks,
    /// Higher by more than f16 has room for in the rows that come last: a maximum that is kept for too long overflows. For
    /// half of the queries, the first among them; a tile has the others beside them, whose scores are usual ones.
    Rising,
    /// The same by what a maximum may not be kept for, and not by so much that rows before no longer count.
    RisingLess,
}

/// Sets scores and sinks apart, or moves both. The model's own sinks stay, and so do the scores that go with them.
pub(super) fn move_scores(d: &mut Draft<'_>) {
    use Scores::*;
    let scores = match d.weight("sinks") {
        None => [Usual, Rising, RisingLess, High][d.turn % 4],
        // With blocks of rows enough, which others have by chance.
        Some(_) if d.far => Rising,
        Some(_) if is_a_tile(d) || is_shared_out(d) || ends_in_one(d) => [Rising, RisingLess][d.turn % 2],
        Some(_) => [Rising, RisingLess, High, Rising, Low, BelowSinks, Rising, AboveSinks, RisingLess][d.turn % 9],
    };
    let width = d.dim("D");
    let (size, sign, sinks) = match scores {
        Usual => (0.0, 1.0, 0.0),
        High => (100.0 / (width as f32).sqrt(), 1.0, 0.0),
        // No higher than −100 whatever the scale, and not much lower.
        Low => (104.0 / (width as f32 * scale(d)), -1.0, -104.0),
        BelowSinks => (0.0, 1.0, 14.0),
        AboveSinks => (0.0, 1.0, d.draw.pick(&[-200.0, -1e4, -1e30])),
        Rising => (RISE / (width as f32 * scale(d)), 1.0, 0.0),
        RisingLess => (RISE_LESS / (width as f32 * scale(d)), 1.0, 0.0),
    };
    if let Some(mut weights) = d.weight("sinks").filter(|_| sinks != 0.0) {
        weights.iter_mut().for_each(|s| *s += sinks);
        d.set_weight("sinks", &weights);
    }
    if size == 0.0 {
        return;
    }
    // One vector, added to all queries and, with the sign, to all rows.
    let size = size.sqrt();
    let lift: Vec<f32> = (0..width).map(|_| d.draw.pick(&[-size, size])).collect();
    let Lifted { ring, comp, run } = match scores {
        Rising | RisingLess => late(d),
        _ => Lifted::ALL,
    };
    let some = matches!(scores, Rising | RisingLess);
    let queries: Vec<bool> = (0..d.tokens * d.dim("H")).map(|i| !some || i == 0 || d.draw.below(2) == 0).collect();
    let (newest, cap) = (d.dim("pos0") + d.tokens.max(1) - 1, d.dim("cap").max(1));
    // The position that a row of the ring holds last.
    let position = |row: usize| newest - ((newest % cap + cap - row) % cap).min(newest);
    let add = |rows: &mut [f32], sign: f32, lifted: &dyn Fn(usize) -> bool| {
        for (_, row) in rows.chunks_exact_mut(width).enumerate().filter(|(i, _)| lifted(*i)) {
            row.iter_mut().zip(&lift).for_each(|(v, l)| *v += sign * l);
        }
    };
    add(d.f32("q"), 1.0, &|query| queries.get(query).copied().unwrap_or(true));
    add(d.f32("ring"), sign, &|row| ring.contains(&position(row)));
    add(d.f32("comp"), sign, &|row| comp.contains(&row) && run.is_none_or(|run| (row / run) % 2 == 1));
}

/// Nats: 2^17.7, where f16 ends at 2^16 and a maximum kept until it grows by 2^20 is kept.
const RISE: f32 = 12.3;

/// 2^9.4, where a maximum is kept until it grows by 2^8.
const RISE_LESS: f32 = 6.5;

/// Positions of the window, and compressed rows, of which the scores are higher.
struct Lifted {
    ring: Range<usize>,
    comp: Range<usize>,
    /// Of the compressed ones every other run of so many rows.
    run: Option<usize>,
}

impl Lifted {
    const ALL: Lifted = Lifted { ring: 0..usize::MAX, comp: 0..usize::MAX, run: None };
}

/// The last half or all of one of both. Where many blocks of threads share the rows, the scores of each block's share are
/// to rise in its midst: they rise again and again.
fn late(d: &mut Draft<'_>) -> Lifted {
    let (pos0, none) = (d.dim("pos0"), 0..0);
    let kind = match d.f32("comp").is_empty() {
        true => 0,
        // Of many rows those of a later block.
        false if d.far => 1,
        // The row that is alone in its block is not to be one without weight.
        false if is_a_tile(d) || ends_in_one(d) => 3,
        false if is_shared_out(d) => 4,
        false => d.draw.below(4),
    };
    let (ring, comp) = match kind {
        0 => ((pos0 + d.tokens / 2).saturating_sub(d.dim("window") / 2)..usize::MAX, none),
        1 => (none, (pos0 + d.tokens) / d.dim("ratio").max(1) / 2..usize::MAX),
        2 => (0..usize::MAX, none),
        _ => (none, 0..usize::MAX),
    };
    Lifted { ring, comp, run: (kind == 4).then(|| d.draw.between(64, 96)) }
}

/// A list so long that one token's rows are shared out to many blocks of threads, and each still takes several turns.
fn is_shared_out(d: &Draft<'_>) -> bool {
    d.dim("k") >= 1024
}

fn scale(d: &Draft<'_>) -> f32 {
    let at = d.case.contract().scalars.iter().position(|s| s.name == "scale");
    at.map_or(1.0, |i| d.case.scalars[i] as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a trained model rows and queries may all be f16 numbers already. What is left of the honest implementation's
    /// error is then that of the weights, and without it a right kernel was refused.
    #[test]
    fn weights_are_operands_too() {
        let (q, rows) = ([1.0f32, 0.0], [[0.0f32, 8.0], [-0.1, -8.0]]);
        let out = |rounding, sink| {
            let mut o = [0.0f32; 2];
            head(&q, rows.iter().map(|r| &r[..]), sink, 1.0, rounding, &mut o);
            o
        };
        for sink in [-3.0, 14.0] {
            let (exact, f16) = (out(Rounding::None, sink), out(Rounding::F16, sink));
            let off = ((exact[1] - f16[1]) / exact[1]).abs();
            assert!((1e-5..5e-3).contains(&off), "sink {sink}: {exact:?} {f16:?}");
        }
    }
}
