//! A stream of numbers from a seed: whatever is drawn for a case, by integer arithmetic alone.

/// A stream of numbers from a seed.
pub struct Draw(blake3::OutputReader);

impl Draw {
    /// An independent stream for every label.
    pub fn new(seed: &[u8; 32], label: &str) -> Draw {
        Draw(blake3::Hasher::new_keyed(seed).update(label.as_bytes()).finalize_xof())
    }

    pub fn bytes(&mut self, out: &mut [u8]) {
        self.0.fill(out);
    }

    pub fn u32(&mut self) -> u32 {
        let mut b = [0; 4];
        self.bytes(&mut b);
        u32::from_le_bytes(b)
    }

    /// Uniform in `0..n`; n must not be 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.u32()) * n as u64) >> 32) as usize
    }

    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f32 {
        (self.u32() >> 8) as f32 / (1 << 24) as f32
    }

    /// Nearly normal with variance 1: a sum of uniforms, since a logarithm's last bit differs between machines. One value
    /// in 32 is smaller by a power of two, down to 2^-32, so that what takes small for nothing shows.
    pub fn fill_noise(&mut self, out: &mut [f32]) {
        let mut bytes = [0u8; 4096];
        for chunk in out.chunks_mut(512) {
            self.bytes(&mut bytes);
            for (v, b) in chunk.iter_mut().zip(bytes.chunks_exact(8)) {
                // Eight bytes: mean 8·127.5, variance 8·(256² − 1)/12.
                let sum: i32 = b.iter().map(|x| i32::from(*x)).sum();
                *v = (sum - 1020) as f32 * (1.0 / 205.73);
                if b[0].is_multiple_of(32) {
                    *v *= 1.0 / (1u64 << (1 + b[1] % 32)) as f32;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_variance_one() {
        let mut v = vec![0.0; 100_000];
        Draw::new(&[7; 32], "x").fill_noise(&mut v);
        let mean = v.iter().sum::<f32>() / v.len() as f32;
        let var = v.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / v.len() as f32;
        assert!(mean.abs() < 0.02 && (var - 1.0).abs() < 0.03, "{mean} {var}");
    }
}
