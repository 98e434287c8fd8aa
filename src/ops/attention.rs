//! What the three attention ops share: one joint softmax with a sink over window rows and compressed rows
//! (docs/model.md §12).

use super::cases::POSITIONS;
use super::{Draft, math};

/// Output of one head: `o[d] = Σ_j exp(s_j − m)·kv_j / (exp(sink − m) + Σ_j exp(s_j − m))`, s_j = q·kv_j·scale.
///
/// Keys are the values too. The sink takes part in the maximum and the sum, and has no value.
pub(super) fn head<'r>(
    q: &[f32],
    rows: impl Iterator<Item = &'r [f32]> + Clone,
    sink: f32,
    scale: f32,
    out: &mut [f32],
) {
    let scores: Vec<f32> = rows.clone().map(|kv| math::dot(q, kv) * scale).collect();
    let max = scores.iter().copied().fold(sink, f32::max);
    let mut denominator = libm::exp(f64::from(sink - max));
    out.fill(0.0);
    for (s, kv) in scores.iter().zip(rows) {
        let weight = libm::expf(s - max);
        denominator += f64::from(weight);
        for (o, v) in out.iter_mut().zip(kv) {
            *o += weight * v;
        }
    }
    let inverse = (1.0 / denominator) as f32;
    out.iter_mut().for_each(|o| *o *= inverse);
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
    let pos0 = straddling(d, most, window).unwrap_or_else(|| d.position(most));
    if let Some(complete) = (pos0 + tokens).checked_div(ratio) {
        d.set_dim("C", rows.max(complete + 1));
    }
    // Seven times 256: a far position must not fall on the row of its last bits.
    d.set_dim("cap", (tokens + window).next_multiple_of(256) + if d.far { 1536 } else { 0 });
    // Nothing larger: the lifted scores' last bits would be larger errors than f32 may make.
    let scale = f64::from(0.5 + 0.5 * d.draw.unit()) / (d.dim("D") as f64).sqrt();
    d.set_scalar("scale", scale);
}

/// In most cases of several tokens, a position inside the first window from which the number of rows that they
/// see passes a multiple of 16 or 32: kernels share rows out in such numbers, and what one token's share is must not be
/// taken for its neighbour's.
fn straddling(d: &mut Draft<'_>, most: usize, window: usize) -> Option<usize> {
    if d.far || d.tokens < 2 || d.draw.below(4) == 0 {
        return None;
    }
    let unit = if window < 32 { 16 } else { d.draw.pick(&[16, 32]) };
    let before = 1 + d.draw.below((d.tokens - 1).min(unit - 1));
    let multiples = most.min(window) / unit;
    (multiples > 0).then(|| {
        let pos0 = unit * (1 + d.draw.below(multiples)) - before;
        d.set_step("pos0", pos0);
        pos0
    })
}

/// In a third of the cases adds one vector to all queries and rows, so that every score lies near 100: its exponential
/// is no number unless the maximum is taken off first.
pub(super) fn lift_scores(d: &mut Draft<'_>) {
    if d.draw.below(3) != 0 {
        return;
    }
    let width = d.dim("D");
    let size = (100.0 / (width as f32).sqrt()).sqrt();
    let lift: Vec<f32> = (0..width).map(|_| d.draw.pick(&[-size, size])).collect();
    for name in ["q", "ring", "comp"] {
        for row in d.f32(name).chunks_exact_mut(width) {
            row.iter_mut().zip(&lift).for_each(|(v, l)| *v += l);
        }
    }
}
