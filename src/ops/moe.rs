//! What the two expert ops share.

use super::{Draft, router};

/// (token, slot) pairs of every expert that has any, in ascending order.
pub(super) fn by_expert(sel: &[i32], experts: usize) -> Vec<(usize, Vec<usize>)> {
    let mut lists = vec![Vec::new(); experts];
    for (pair, expert) in sel.iter().enumerate() {
        if let Some(list) = usize::try_from(*expert).ok().and_then(|e| lists.get_mut(e)) {
            list.push(pair);
        }
    }
    lists.into_iter().enumerate().filter(|(_, l)| !l.is_empty()).collect()
}

/// Numbers of pairs at which tiles end, and right behind: kernels compute those of an expert together.
const EDGES: [usize; 10] = [8, 9, 16, 17, 32, 33, 48, 49, 64, 65];

/// The distinct experts of every token. Where there are pairs enough each of [`EDGES`] is the number of some expert's,
/// else as many as find room, in every other case; the others choose at random.
pub(super) fn chosen_experts(d: &mut Draft<'_>) -> Vec<i32> {
    let (e, u, rows) = (d.dim("E"), d.dim("U"), d.tokens);
    let room = rows * u >= EDGES.iter().sum() && e > EDGES.len() + 2;
    if d.far || u > e || !(room || d.turn.is_multiple_of(2)) {
        return router::drawn_experts(d, rows);
    }
    let counts = dealt(d, e, rows, rows * u);
    // The pairs stand expert by expert and go round the tokens: no expert has more than there are tokens, so none meets
    // a token twice.
    let mut order: Vec<i32> = (0..e as i32).collect();
    shuffle(d, &mut order);
    let mut tokens = vec![Vec::with_capacity(u); rows];
    let pairs = order.iter().zip(counts).flat_map(|(expert, n)| std::iter::repeat_n(*expert, n));
    for (i, expert) in pairs.enumerate() {
        tokens[i % rows].push(expert);
    }
    shuffle(d, &mut tokens);
    for slots in &mut tokens {
        shuffle(d, slots);
    }
    tokens.concat()
}

/// How many of `pairs` each of `experts` has: [`EDGES`] in a drawn order as long as they leave what the others can take,
/// up to `most` each; what is left is shared by chance.
fn dealt(d: &mut Draft<'_>, experts: usize, most: usize, pairs: usize) -> Vec<usize> {
    let mut edges = EDGES;
    shuffle(d, &mut edges);
    let (mut edges, mut left) = (edges.into_iter(), pairs);
    (1..=experts)
        .rev()
        .map(|experts| {
            let (low, high) = (left.saturating_sub((experts - 1) * most), most.min(left));
            let n = edges.find(|n| (low..=high).contains(n)).unwrap_or_else(|| {
                let even = (2 * left / experts).clamp(low, high);
                d.draw.between(low, even)
            });
            left -= n;
            n
        })
        .collect()
}

fn shuffle<T>(d: &mut Draft<'_>, items: &mut [T]) {
    for i in 1..items.len() {
        items.swap(i, d.draw.below(i + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::quant::DType;
    use crate::ops::cases::{Sizes, Values, draw_case};
    use crate::ops::draw::Draw;
    use crate::ops::find;

    fn counts(dims: &[i64], tokens: usize, turn: usize) -> Vec<usize> {
        let (op, types) = (find("moe_down").unwrap(), [DType::Q2_K]);
        let sizes = Sizes { turn, ..Sizes::of(dims, &types) };
        let case = draw_case(op, &sizes, tokens, &mut Draw::new(&[turn as u8; 32], "x"), "x".into()).unwrap();
        let (e, u) = (dims[2] as usize, dims[3] as usize);
        let Some(Values::I32(sel)) = &case.args[1] else { panic!("no sel") };
        for token in sel.chunks(u) {
            assert!(token.iter().all(|s| (0..e as i32).contains(s)), "{token:?}");
            assert!((0..u).all(|i| !token[..i].contains(&token[i])), "{token:?}");
        }
        let mut counts = vec![0; e];
        sel.iter().for_each(|s| counts[*s as usize] += 1);
        counts
    }

    #[test]
    fn some_expert_has_as_many_pairs_as_a_tile() {
        for turn in 0..6 {
            let counts = counts(&[256, 9, 24, 3], 124 + turn, turn);
            assert!(EDGES.iter().all(|n| counts.contains(n)), "{counts:?}");
        }
    }

    #[test]
    fn every_token_has_distinct_experts_at_any_size() {
        for dims in [[256, 9, 4, 2], [256, 9, 2, 2], [256, 9, 16, 6], [256, 9, 256, 6], [256, 9, 3, 1]] {
            for tokens in [1, 2, 9, 31, 129] {
                for turn in 0..4 {
                    assert_eq!(counts(&dims, tokens, turn).iter().sum::<usize>(), tokens * dims[3] as usize);
                }
            }
        }
    }
}
