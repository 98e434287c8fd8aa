//! Picking the next token from logits.

use super::argmax;
use crate::error::{Error, Result};
use crate::ops::cases::Draw;

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

/// Picks token after token; the same seed and logits give the same tokens on every machine.
pub struct Sampler {
    sampling: Sampling,
    draw: Draw,
}

impl Sampler {
    pub fn new(sampling: Sampling) -> Result<Sampler> {
        sampling.check()?;
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&sampling.seed.to_le_bytes());
        Ok(Sampler { sampling, draw: Draw::new(&key, "sampler") })
    }

    /// The next token. Errors: `logits-nan`.
    pub fn pick(&mut self, logits: &[f32]) -> Result<u32> {
        let nan = || {
            Error::new(&super::session::LOGITS_NAN, "the logits hold a NaN: there is no next token")
                .hint("assay run --compare a=device b=oracle shows where it comes from")
        };
        let best = argmax(logits).ok_or_else(nan)?;
        let most = f64::from(logits[best]);
        if self.sampling.temperature == 0.0 || !most.is_finite() {
            return Ok(best as u32);
        }
        let mut kept = self.candidates(logits, most);
        let total: f64 = kept.iter().map(|(_, p)| p).sum();
        // 53 bits would be finer than what a float holds of the sum; 24 decide between tokens well enough.
        let mut left = f64::from(self.draw.unit()) * total;
        let last = kept.pop().map_or(best, |(token, _)| token);
        for (token, p) in kept {
            left -= p;
            if left < 0.0 {
                return Ok(token as u32);
            }
        }
        Ok(last as u32)
    }

    /// Tokens that may be drawn with their weights, the likeliest first: softmax at the temperature, cut by top-p, then
    /// by min-p.
    fn candidates(&self, logits: &[f32], most: f64) -> Vec<(usize, f64)> {
        let weight = |v: &f32| libm::exp((f64::from(*v) - most) / self.sampling.temperature);
        let mut all: Vec<(usize, f64)> = logits.iter().map(weight).enumerate().collect();
        // Stable: of equal weights the lower id comes first.
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        let total: f64 = all.iter().map(|(_, p)| p).sum();
        let mut sum = 0.0;
        let mut keep = 0;
        for (_, p) in &all {
            // The likeliest has weight 1. It always stays.
            if keep > 0 && (sum >= self.sampling.top_p * total || *p < self.sampling.min_p) {
                break;
            }
            sum += p;
            keep += 1;
        }
        all.truncate(keep);
        all
    }
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
