//! Picking the next token from logits.

use super::argmax;
use crate::error::{Error, Result};
use crate::ops::draw::Draw;

/// How to pick (docs/model.md §16.4). The default is greedy: a workbench wants the same text twice.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Sampling {
    /// 0 takes the largest logit, whatever the rest says.
    pub temperature: f64,
    /// Keep the likeliest tokens until their probabilities sum to this; 1 keeps all.
    pub top_p: f64,
    /// Drop tokens less likely than this times the likeliest; 0 drops none.
    pub min_p: f64,
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { temperature: 0.0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

impl Sampling {
    /// What upstream's server samples with: temperature 1, top-p 1, min-p 0.05.
    pub const UPSTREAM_MIN_P: f64 = 0.05;

    fn check(&self) -> Result<()> {
        let range = |name: &str, value: f64, most: f64| {
            if value.is_finite() && (0.0..=most).contains(&value) {
                return Ok(());
            }
            Err(Error::usage(format!("{name} is out of range")).expected(format!("0 to {most}")).found(value))
        };
        range("--temperature", self.temperature, 100.0)?;
        range("--top-p", self.top_p, 1.0)?;
        range("--min-p", self.min_p, 1.0)
    }
}

/// Weights from 0 to 1 by their size: sixteen bins to a power of two.
const SHIFT: u32 = 19;
const BINS: usize = (1f32.to_bits() >> SHIFT) as usize + 1;

fn bin(weight: f32) -> usize {
    (weight.to_bits() >> SHIFT) as usize
}

/// Picks token after token; the same seed and logits give the same tokens on every machine.
pub struct Sampler {
    sampling: Sampling,
    draw: Draw,
    /// Of the logits at hand: every token's weight, and each bin's sum of them.
    weights: Vec<f32>,
    sums: Vec<f64>,
    /// The tokens of one bin.
    open: Vec<(u32, f32)>,
}

impl Sampler {
    pub fn new(sampling: Sampling) -> Result<Sampler> {
        sampling.check()?;
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&sampling.seed.to_le_bytes());
        Ok(Sampler {
            sampling,
            draw: Draw::new(&key, "sampler"),
            weights: Vec::new(),
            sums: vec![0.0; BINS],
            open: Vec::new(),
        })
    }

    /// The next token. Errors: `logits-nan`.
    pub fn pick(&mut self, logits: &[f32]) -> Result<u32> {
        let nan = || {
            Error::new(&super::session::LOGITS_NAN, "the logits hold a NaN: there is no next token")
                .hint(
                    "the same `assay run` with --compare a=device b=oracle in place of --backend names the op that it comes \
                     from; a=emulator or a=oracle where that ran",
                )
        };
        let best = argmax(logits).ok_or_else(nan)?;
        let most = logits[best];
        if self.sampling.temperature == 0.0 || !most.is_finite() {
            return Ok(best as u32);
        }
        self.weights.resize(logits.len(), 0.0);
        let total = softmax(logits, most, (1.0 / self.sampling.temperature) as f32, &mut self.weights);
        self.sums.fill(0.0);
        for w in &self.weights {
            self.sums[bin(*w)] += f64::from(*w);
        }
        let (sum, cut) = self.kept(total);
        // 53 bits would be finer than what a float holds of the sum; 24 decide between tokens well enough.
        let mut left = f64::from(self.draw.unit()) * sum;
        let mut last = best as u32;
        for bin in (0..BINS).rev() {
            let stay = cut.filter(|(at, _)| *at == bin).map(|(_, stay)| stay);
            if stay.is_none() && left >= self.sums[bin] {
                left -= self.sums[bin];
                continue;
            }
            self.open(bin);
            for (token, p) in self.open.iter().take(stay.unwrap_or(usize::MAX)) {
                left -= f64::from(*p);
                last = *token;
                if left < 0.0 {
                    return Ok(last);
                }
            }
            if stay.is_some() {
                break;
            }
        }
        Ok(last)
    }

    /// What the tokens that may be drawn weigh together, and where they end: in which bin, and after how many of it.
    fn kept(&mut self, total: f64) -> (f64, Option<(usize, usize)>) {
        let Sampling { top_p, min_p, .. } = self.sampling;
        if top_p == 1.0 && min_p == 0.0 {
            return (total, None);
        }
        let mut sum = 0.0;
        for bin in (0..BINS).rev() {
            let least = f64::from(f32::from_bits((bin as u32) << SHIFT));
            if self.sums[bin] == 0.0 || (sum + self.sums[bin] < top_p * total && least >= min_p) {
                sum += self.sums[bin];
                continue;
            }
            self.open(bin);
            for (n, (_, p)) in self.open.iter().enumerate() {
                // The likeliest has weight 1. It always stays.
                if sum > 0.0 && (sum >= top_p * total || f64::from(*p) < min_p) {
                    return (sum, Some((bin, n)));
                }
                sum += f64::from(*p);
            }
        }
        (sum, None)
    }

    /// Brings the tokens of a bin, by falling weight, of equal ones the lower id first: hardly ever more than some
    /// thousands of a vocabulary, however flat.
    fn open(&mut self, at: usize) {
        self.open.clear();
        let tokens = self.weights.iter().enumerate().filter(|(_, w)| bin(**w) == at);
        self.open.extend(tokens.map(|(t, w)| (t as u32, *w)));
        self.open.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    }
}

/// Weights e^((logit − most) · scale) and their sum. A vocabulary's worth for every token of a text: nothing here but
/// what a compiler turns into vector instructions, and only operations that round alike on every machine.
fn softmax(logits: &[f32], most: f32, scale: f32, weights: &mut [f32]) -> f64 {
    const LANES: usize = 16;
    let mut total = 0.0;
    for (logits, weights) in logits.chunks(16 * LANES).zip(weights.chunks_mut(16 * LANES)) {
        for (w, v) in weights.iter_mut().zip(logits) {
            *w = exp((*v - most) * scale);
        }
        let mut lanes = [0.0f32; LANES];
        for weights in weights.chunks(LANES) {
            for (lane, w) in lanes.iter_mut().zip(weights) {
                *lane += w;
            }
        }
        total += f64::from(lanes.iter().sum::<f32>());
    }
    total
}

/// e^x for x ≤ 0 to 2^-22, relatively; 0 below −60, where nothing is ever drawn.
fn exp(x: f32) -> f32 {
    // Adding it rounds to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x.max(-60.0) * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, of which the first times n is exact.
    let r = (x.max(-60.0) - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let mut p = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    let scaled = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x < -60.0 { 0.0 } else { scaled }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 3.0, 1.0, 3.0, f32::NEG_INFINITY];

    fn picks(sampling: Sampling, n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling).unwrap();
        (0..n).map(|_| sampler.pick(&LOGITS).unwrap()).collect()
    }

    #[test]
    fn greedy_takes_the_lower_of_equals() {
        assert_eq!(picks(Sampling::default(), 3), [1, 1, 1]);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let n = 20_000;
        let found = picks(Sampling { temperature: 1.0, seed: 7, ..Sampling::default() }, n);
        let total = 1.0 + 2.0 * 3f64.exp() + 1f64.exp();
        for (token, weight) in [(0, 1.0), (1, 3f64.exp()), (2, 1f64.exp()), (3, 3f64.exp())] {
            let share = found.iter().filter(|t| **t == token).count() as f64 / n as f64;
            assert!((share - weight / total).abs() < 0.012, "token {token}: {share}, not {}", weight / total);
        }
        assert!(!found.contains(&4));
    }

    #[test]
    fn cuts_leave_out_the_unlikely() {
        let of = |top_p, min_p, temperature| picks(Sampling { temperature, top_p, min_p, seed: 1 }, 300);
        let set = |v: Vec<u32>| v.into_iter().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(set(of(0.4, 0.0, 1.0)), [1].into());
        assert_eq!(set(of(0.8, 0.0, 1.0)), [1, 3].into());
        assert_eq!(set(of(1.0, 0.1, 1.0)), [1, 2, 3].into());
        assert_eq!(set(of(1.0, 0.2, 1.0)), [1, 3].into());
        assert_eq!(set(of(0.0, 1.0, 1.0)), [1].into());
        // A hot sampler takes everything that is possible at all.
        assert_eq!(set(of(1.0, 0.0, 100.0)), [0, 1, 2, 3].into());
    }

    /// Against the definition: sort all, cut, draw.
    #[test]
    fn a_vocabulary_is_drawn_from_as_if_it_were_sorted() {
        let mut random = Draw::new(&[1; 32], "test");
        let logits: Vec<f32> = (0..20_000).map(|_| (random.unit() + random.unit() + random.unit()) * 12.0).collect();
        let most = f64::from(logits[argmax(&logits).unwrap()]);
        for (temperature, top_p, min_p) in
            [(1.0, 1.0, 0.0), (0.6, 0.9, 0.0), (2.0, 1.0, 0.05), (20.0, 0.999, 0.0), (1.0, 0.5, 0.3)]
        {
            let weight = |v: &f32| ((f64::from(*v) - most) / temperature).exp();
            let mut all: Vec<(usize, f64)> = logits.iter().map(weight).enumerate().collect();
            all.sort_by(|a, b| b.1.total_cmp(&a.1));
            let total: f64 = all.iter().map(|(_, p)| p).sum();
            let mut before = 0.0;
            let kept = all.iter().take_while(|(_, p)| {
                let keep = before == 0.0 || (before < top_p * total && *p >= min_p);
                before += p;
                keep
            });
            let kept: Vec<(usize, f64)> = kept.copied().collect();
            let sum: f64 = kept.iter().map(|(_, p)| p).sum();
            let sampling = Sampling { temperature, top_p, min_p, seed: 5 };
            let (mut sampler, mut twin) = (Sampler::new(sampling).unwrap(), Sampler::new(sampling).unwrap());
            let mut other = 0;
            for _ in 0..200 {
                let mut left = f64::from(twin.draw.unit()) * sum;
                let right = kept.iter().find(|(_, p)| {
                    left -= p;
                    left < 0.0
                });
                let right = right.or(kept.last()).unwrap().0 as u32;
                other += usize::from(sampler.pick(&logits).unwrap() != right);
            }
            // A draw that falls within a float's error of the border between two tokens may go either way.
            assert!(other <= 2, "{other} of 200 differ at {sampling:?}");
        }
    }

    #[test]
    fn exponentials_are_near_enough() {
        for i in 0..60_000 {
            let x = -(i as f32) / 1000.0;
            let right = f64::from(x).exp();
            assert!((f64::from(exp(x)) - right).abs() <= 3e-7 * right, "{x}: {} for {right}", exp(x));
        }
        assert_eq!((exp(f32::NEG_INFINITY), exp(-61.0), exp(0.0)), (0.0, 0.0, 1.0));
    }

    #[test]
    fn a_seed_repeats_and_another_does_not() {
        let of = |seed| picks(Sampling { temperature: 1.0, seed, ..Sampling::default() }, 64);
        assert_eq!(of(3), of(3));
        assert_ne!(of(3), of(4));
        // The stream is part of what a seed means: it must not change between versions or machines.
        assert_eq!(of(3)[..8], PINNED);
    }

    const PINNED: [u32; 8] = [1, 1, 3, 3, 1, 3, 1, 3];

    #[test]
    fn nonsense_is_refused() {
        for bad in [f64::NAN, -0.1, f64::INFINITY] {
            assert!(Sampler::new(Sampling { temperature: bad, ..Sampling::default() }).is_err());
            assert!(Sampler::new(Sampling { top_p: bad, ..Sampling::default() }).is_err());
        }
        assert!(Sampler::new(Sampling { min_p: 1.5, ..Sampling::default() }).is_err());
        let mut sampler = Sampler::new(Sampling::default()).unwrap();
        assert_eq!(sampler.pick(&[0.0, f32::NAN]).unwrap_err().code().id, "logits-nan");
        assert_eq!(sampler.pick(&[]).unwrap_err().code().id, "logits-nan");
    }
}
