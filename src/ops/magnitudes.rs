//! Activations of every size, for cases.
//!
//! What a kernel keeps of an activation often hangs on its neighbours: a power of two that a row or 32 elements share, a
//! maximum, a quantiser's scale. So rows of one step differ in size, and some have an element that towers over the
//! others, or groups of zeros, whose scale is that of nothing.

use super::Draft;
use super::contract::Rounding;

/// The size of the smallest rows of products, where what they are multiplied with may be as small as 1e-8.
pub(super) const LEAST: f32 = 1e-20;

/// Elements that share a scale in many kernels.
const GROUP: usize = 32;

/// Gives every token's `width` elements of an argument, which are operands of `k` elements each, a size between `least`
/// and `most` (half of them that of noise), and changes one operand of some: an outlier so many times as large, zero
/// groups, nothing but zeros.
pub(super) fn vary_tokens(d: &mut Draft<'_>, name: &str, [width, k]: [usize; 2], [least, most, outlier]: [f32; 3]) {
    let f16 = d.rounding == Rounding::F16;
    // With outliers f16 holds the largest, and without its smallest steps the least.
    let (least, most, outlier) = if f16 { (1e-2, most.min(100.0), outlier.min(100.0)) } else { (least, most, outlier) };
    let (tokens, operands) = (d.f32(name).len() / width.max(1), (width / k.max(1)).max(1));
    for t in 0..tokens {
        let factor = match d.draw.below(2) {
            0 => 1.0,
            _ => least * libm::powf(most / least, d.draw.unit()),
        };
        d.f32(name)[t * width..][..width].iter_mut().for_each(|v| *v *= factor);
        let from = t * width + d.draw.below(operands) * k;
        change_some(d, name, from, k, outlier, tokens > 1);
    }
}

/// Changes the row of `k` elements from `from` on, in half of the cases.
fn change_some(d: &mut Draft<'_>, name: &str, from: usize, k: usize, outlier: f32, zeros: bool) {
    match d.draw.below(8) {
        0 if zeros => d.f32(name)[from..][..k].fill(0.0),
        1 => {
            // The last one in half of them.
            let at = from + if d.draw.below(2) == 0 { k - 1 } else { d.draw.below(k) };
            d.f32(name)[at] *= outlier;
        }
        2 => {
            let kept = d.draw.below(k.div_ceil(GROUP));
            for group in (0..k.div_ceil(GROUP)).filter(|g| *g != kept) {
                if d.draw.below(2) == 0 {
                    let end = k.min((group + 1) * GROUP);
                    d.f32(name)[from + group * GROUP..from + end].fill(0.0);
                }
            }
        }
        3 => {
            let kept = GROUP * d.draw.below(k.div_ceil(GROUP));
            let row = &mut d.f32(name)[from..][..k];
            row.iter_mut().enumerate().filter(|(i, _)| *i / GROUP != kept / GROUP).for_each(|(_, v)| *v = 0.0);
        }
        _ => {}
    }
}

/// Gives each row of `width` elements a factor of its own.
pub(super) fn scale_rows(d: &mut Draft<'_>, name: &str, width: usize, factors: &[f32]) {
    for (row, factor) in d.f32(name).chunks_exact_mut(width.max(1)).zip(factors) {
        row.iter_mut().for_each(|v| *v *= factor);
    }
}

/// Rows for a norm: some small enough to feel the epsilon, some of an outlier and little else, some of zeros alone.
pub(super) fn vary_rows(d: &mut Draft<'_>, name: &str, width: usize) {
    let width = width.max(1);
    let rows = d.f32(name).len() / width;
    for row in 0..rows {
        let factor = d.draw.pick(&[1.0, 1.0, 1e-3, 20.0, 1e-6, 3e3]);
        d.f32(name)[row * width..][..width].iter_mut().for_each(|v| *v *= factor);
        match d.draw.below(8) {
            0 => {
                let at = row * width + d.draw.below(width);
                d.f32(name)[at] *= 1000.0;
            }
            1 if rows > 1 => d.f32(name)[row * width..][..width].fill(0.0),
            _ => {}
        }
    }
}

/// Puts what is at the ends of f32's range in the place of one value in sixteen: a copy keeps it.
pub(super) fn extremes(d: &mut Draft<'_>, name: &str) {
    let ends = [0.0, -0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, f32::from_bits(1), -f32::from_bits(0x7f_ffff), 1e-30];
    for i in 0..d.f32(name).len() {
        if d.draw.below(16) == 0 {
            let end = d.draw.pick(&ends);
            d.f32(name)[i] = end;
        }
    }
}

/// A towering element in every fourth row of `width`, in half of the cases.
pub(super) fn outliers(d: &mut Draft<'_>, name: &str, width: usize, factor: f32) {
    if width == 0 || d.draw.below(2) == 0 {
        return;
    }
    for row in 0..d.f32(name).len() / width {
        if d.draw.below(4) == 0 {
            let at = row * width + d.draw.below(width);
            d.f32(name)[at] *= factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::model::quant::DType;
    use crate::ops::cases::{Case, Sizes, Values, draw_case};
    use crate::ops::draw::Draw;
    use crate::ops::{Rounding, find};

    fn rows(rounding: Rounding) -> Vec<Vec<f32>> {
        let types = [DType::Q8_0];
        let sizes = Sizes { rounding, ..Sizes::of(&[256, 24], &types) };
        let case: Case =
            draw_case(find("matmul").unwrap(), &sizes, 300, &mut Draw::new(&[5; 32], "x"), "matmul".into()).unwrap();
        let Some(Values::F32(x)) = &case.args[0] else { panic!("no x") };
        x.chunks_exact(256).map(<[f32]>::to_vec).collect()
    }

    fn largest(row: &[f32]) -> f32 {
        row.iter().fold(0.0, |m, v| m.max(v.abs()))
    }

    #[test]
    fn a_step_has_rows_of_every_size_and_kind() {
        let rows = rows(Rounding::None);
        assert!(rows.iter().any(|r| (1e-16..1e-4).contains(&largest(r))));
        assert!(rows.iter().any(|r| largest(r) > 1e3));
        assert!(rows.iter().any(|r| largest(r) == 0.0));
        let groups = |r: &Vec<f32>| r.chunks(32).filter(|g| largest(g) == 0.0).count();
        assert!(rows.iter().any(|r| (1..8).contains(&groups(r))));
        let towers = |r: &&Vec<f32>| r.iter().filter(|v| v.abs() > 0.02 * largest(r)).count() == 1;
        assert!(rows.iter().find(towers).is_some());
    }

    /// What f16 cannot hold the honest implementation would lose, and with it the tolerance its meaning.
    #[test]
    fn f16_holds_what_a_variant_in_f16_is_given() {
        for row in rows(Rounding::F16) {
            assert!(largest(&row) == 0.0 || (1e-3..65504.0).contains(&largest(&row)));
        }
    }
}
