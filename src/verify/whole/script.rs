//! Which steps are run: lengths of every class, as a seed draws them.
//!
//! All scripts of one numerics are over one stream of tokens, so that whatever ends at the same position must give the
//! same logits, however it came there.

use crate::model::Model;
use crate::ops::draw::Draw;
use crate::plan::Numerics;

/// Most tokens of a step, as `run` and `bench` have it by default.
pub const CHUNK: usize = 2048;
/// Decode steps after each prefill.
const DECODED: usize = 6;
/// In a large file: launch by launch with checks, and as graphs, which cost as little as in `run`.
const DECODED_LARGE: usize = 16;
const REPLAYED_LARGE: usize = 128;
/// Short chunks of a large file that run launch by launch.
const SHORT_LARGE: usize = 8;
/// On the emulator a step of up to so many tokens is also replayed.
const EMULATED_REPLAY: usize = 8;

/// One sequence from position 0, as the lengths of its steps.
pub struct Script {
    pub name: String,
    pub lengths: Vec<usize>,
    /// So many of its steps are run launch by launch, with in-situ checks.
    pub eager: usize,
    /// Run as `run` runs it, through recorded graphs, to its end.
    pub graph: bool,
    /// Steps up to this length are replayed from a graph on the spot and compared byte by byte.
    pub replayed: usize,
}

/// One for a session of its own.
pub struct Other {
    pub script: Script,
    pub chunk: usize,
    pub all_logits: bool,
}

pub struct Scripts {
    pub chunk: usize,
    pub context: usize,
    pub list: Vec<Script>,
    pub others: Vec<Other>,
    /// How many positions the oracle computes too.
    pub oracle: Option<usize>,
    /// Steps by which the effect of rounding alone is measured; the list's scripts give logits at their ends.
    pub perturbed: Option<Vec<usize>>,
}

impl Scripts {
    /// `bounds` are the longest steps of the variants that are for short ones only.
    pub fn draw(
        model: &Model,
        bounds: &[usize],
        numerics: Numerics,
        device: bool,
        large: bool,
        thorough: bool,
        draw: &mut Draw,
    ) -> Scripts {
        match (device || thorough, large) {
            (false, _) => emulated(Landmarks::of(model), draw),
            (true, false) => small(Landmarks::of(model), bounds, draw),
            (true, true) => big(numerics, bounds, thorough, draw),
        }
    }

    /// Lengths of all steps of all scripts.
    pub fn lists(&self) -> Vec<Vec<usize>> {
        let others = self.others.iter().map(|o| &o.script);
        let scripts = self.list.iter().chain(others).map(|s| s.lengths.clone());
        scripts.chain(self.perturbed.clone()).collect()
    }
}

/// Positions of a model at which something new happens.
#[derive(Clone, Copy)]
struct Landmarks {
    /// The first at which the indexer has to choose; 0 where it never does.
    selecting: usize,
    /// The longest window that is compressed to a row.
    window: usize,
}

impl Landmarks {
    fn of(model: &Model) -> Landmarks {
        let c = &model.config;
        Landmarks {
            selecting: if c.ratios.contains(&4) { 4 * (c.indexer_top_k + 1) } else { 0 },
            window: c.ratios.iter().copied().max().unwrap_or(0) as usize,
        }
    }
}

fn eager(name: String, lengths: Vec<usize>) -> Script {
    Script { name, eager: lengths.len(), lengths, graph: true, replayed: usize::MAX }
}

fn as_graphs(name: String, lengths: Vec<usize>) -> Script {
    Script { name, lengths, eager: 0, graph: true, replayed: 0 }
}

/// `n` in chunks, then single tokens.
fn then_decode(n: usize, chunk: usize, decoded: usize) -> Vec<usize> {
    let mut out = chunks(n, chunk);
    out.extend(std::iter::repeat_n(1, decoded));
    out
}

fn chunks(n: usize, chunk: usize) -> Vec<usize> {
    let mut out = vec![chunk; n / chunk];
    out.extend((!n.is_multiple_of(chunk)).then_some(n % chunk));
    out
}

/// Drawn lengths that add up to `n`.
fn drawn(n: usize, most: usize, draw: &mut Draw) -> Vec<usize> {
    let (mut out, mut left) = (Vec::new(), n);
    while left > 0 {
        let next = draw.between(1, most.min(left));
        out.push(next);
        left -= next;
    }
    out
}

/// A prefill of `n` tokens in steps of at most `bound`, as a short prompt's session has them; within the context.
fn short(bound: usize, n: usize, context: usize, draw: &mut Draw) -> Other {
    let (n, bound) = (n.min(context), bound.min(context));
    let mut lengths = vec![bound];
    lengths.extend(drawn(n.saturating_sub(bound), bound, draw));
    let name = format!("prefill of {n} with chunks of up to {bound}");
    Other { script: eager(name, lengths), chunk: bound, all_logits: false }
}

/// What a CPU can do in a minute: one prompt in chunks that ends in single tokens, past a window of every ratio and past
/// top-k, and the same prompt at once.
fn emulated(landmarks: Landmarks, draw: &mut Draw) -> Scripts {
    let Landmarks { selecting, window } = landmarks;
    let first = window.max(16) - draw.between(1, 3);
    let mut lengths = vec![first];
    // Single tokens up to the window's end and no further: the next chunk begins where a window does.
    lengths.extend(std::iter::repeat_n(1, window.max(16) - first));
    let so_far = window.max(16);
    let end = selecting.max(so_far + 8) + draw.between(2, 3);
    let decoded = 4;
    lengths.push(end - decoded - so_far);
    lengths.extend(std::iter::repeat_n(1, decoded));
    let name = format!("prefill of {end} in {} steps", lengths.len());
    let chunked = Script { name, eager: lengths.len(), lengths, graph: false, replayed: EMULATED_REPLAY };
    let whole =
        Script { name: format!("prefill of {end} at once"), lengths: vec![end], eager: 1, graph: false, replayed: 0 };
    let list = vec![chunked, whole];
    Scripts { chunk: end, context: end, list, others: Vec::new(), oracle: Some(end), perturbed: None }
}

fn small(landmarks: Landmarks, bounds: &[usize], draw: &mut Draw) -> Scripts {
    let Landmarks { selecting, window } = landmarks;
    let mut starts = vec![draw.between(5, 40)];
    // The decode steps cross the end of a window, and the position from which rows are chosen.
    starts.extend((window > 8).then(|| window - 4));
    starts.extend((selecting > 8).then(|| selecting - 5));
    let far = 2 * selecting.max(window).max(64) + draw.between(0, 40);
    let mut list = vec![eager(format!("{DECODED} tokens one by one"), vec![1; DECODED])];
    for start in starts {
        // Every n mod 4.
        for n in start..start + 4 {
            list.push(eager(format!("prefill of {n}, {DECODED} decoded"), then_decode(n, CHUNK, DECODED)));
        }
    }
    list.push(eager(format!("prefill of {far}, {DECODED} decoded"), then_decode(far, CHUNK, DECODED)));
    let context = far + DECODED;
    // The first chunk ends inside a window of either ratio, the last completes both.
    let w = window.max(32);
    let odd = vec![w - 2, 5, 3, 6, 5, 1, 3, 5, w - 30];
    let odd_total: usize = odd.iter().sum();
    if odd_total <= context {
        list.push(eager(format!("prefill of {odd_total} in {} chunks", odd.len()), odd));
    }
    let lengths = drawn(context, 90, draw);
    list.push(eager(format!("prefill of {context} in {} drawn chunks", lengths.len()), lengths));
    let chunk = draw.between(33, 100);
    let mut others = vec![
        Other {
            script: as_graphs(format!("prefill of {context}, logits of every position"), vec![context]),
            chunk: context,
            all_logits: true,
        },
        Other {
            script: as_graphs(format!("prefill of {context} with chunks of {chunk}"), chunks(context, chunk)),
            chunk,
            all_logits: false,
        },
    ];
    others.extend(bounds.iter().map(|b| short(*b, selecting.max(window) + 3 * b + 2, context, draw)));
    let perturbed = Some(then_decode(if window > 8 { window - 3 } else { far }, CHUNK, DECODED));
    Scripts { chunk: CHUNK.min(context), context, list, others, oracle: Some(context), perturbed }
}

fn big(numerics: Numerics, bounds: &[usize], thorough: bool, draw: &mut Draw) -> Scripts {
    let mut lengths = vec![4 * draw.between(5, 20) + 1, 4 * draw.between(5, 20) + 2, 128, 2048, 2051];
    // The production numerics alone go on: in `exact` nothing new would be seen, at several times the cost.
    if numerics == Numerics::Ds4 {
        lengths.extend([8192, 32768, 65536]);
    } else if thorough {
        lengths.push(8192);
    }
    let perturbed = Some(then_decode(lengths[2], CHUNK, REPLAYED_LARGE));
    let context = lengths.iter().copied().max().unwrap_or(CHUNK) + REPLAYED_LARGE;
    let mut list = Vec::new();
    for n in &lengths {
        let name = format!("prefill of {n}, {REPLAYED_LARGE} decoded");
        let decoded = eager(name, then_decode(*n, CHUNK, REPLAYED_LARGE));
        let launches = decoded.lengths.len() - REPLAYED_LARGE + DECODED_LARGE;
        list.push(Script { eager: launches, ..decoded });
        let all = n + REPLAYED_LARGE;
        list.push(as_graphs(format!("prefill of {all}"), chunks(all, CHUNK)));
    }
    let all = 2051 + REPLAYED_LARGE;
    list.push(eager(format!("prefill of {all} in drawn chunks"), drawn(all, 900, draw)));
    let chunk = draw.between(400, 1000);
    let mut others = vec![Other {
        script: as_graphs(format!("prefill of {all} with chunks of {chunk}"), chunks(all, chunk)),
        chunk,
        all_logits: false,
    }];
    others.extend(bounds.iter().map(|b| {
        let mut other = short(*b, 128 + 3 * b + 2, context, draw);
        other.script.eager = other.script.eager.min(SHORT_LARGE);
        other
    }));
    let oracle = thorough.then_some(192);
    if oracle.is_some() {
        list.extend([64, 192].map(|n| as_graphs(format!("prefill of {n}"), vec![n])));
    }
    Scripts { chunk: CHUNK, context, list, others, oracle, perturbed }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model whose longest window is 4 measures rounding by a prompt longer than a chunk.
    #[test]
    fn no_step_is_longer_than_its_sessions_chunk_or_ends_past_its_context() {
        for (selecting, window) in [(0, 0), (0, 128), (2052, 4), (2052, 128), (132, 4), (196, 128)] {
            for round in 0..20 {
                let mut draw = Draw::new(&[round; 32], "scripts");
                let landmarks = Landmarks { selecting, window };
                for s in [
                    emulated(landmarks, &mut draw),
                    small(landmarks, &[8, 16], &mut draw),
                    big(Numerics::Ds4, &[8, 16], true, &mut draw),
                    big(Numerics::Exact, &[4], false, &mut draw),
                ] {
                    let list = s.list.iter().map(|l| (s.chunk, &l.lengths));
                    let others = s.others.iter().map(|o| (o.chunk, &o.script.lengths));
                    for (chunk, lengths) in list.chain(others).chain(s.perturbed.iter().map(|l| (s.chunk, l))) {
                        assert!(lengths.iter().all(|n| (1..=chunk).contains(n)), "{lengths:?} in chunks of {chunk}");
                        assert!(lengths.iter().sum::<usize>() <= s.context, "{lengths:?} in {}", s.context);
                    }
                    if let Some(lengths) = &s.perturbed {
                        let ends = |l: &[usize]| l.iter().scan(0, |at, n| (*at += n, Some(*at)).1).collect::<Vec<_>>();
                        let known: Vec<usize> = s.list.iter().flat_map(|l| ends(&l.lengths)).collect();
                        assert!(ends(lengths).iter().filter(|n| known.contains(n)).count() > 1, "{lengths:?}");
                    }
                }
            }
        }
    }
}
