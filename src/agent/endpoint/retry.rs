//! How long to wait before the next try.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a Retry-After header asks for: seconds, or a date (RFC 9110 §10.2.3, all three forms). `None`: it says nothing
/// that can be understood.
pub fn after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return (seconds.is_finite() && seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(1e9)));
    }
    let then = UNIX_EPOCH.checked_add(Duration::from_secs(date(value)?))?;
    // A date in the past: now.
    Some(then.duration_since(now).unwrap_or_default())
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT` or `Sun Nov  6 08:49:37 1994`.
fn date(text: &str) -> Option<u64> {
    let words: Vec<&str> = text.split([' ', ',', '-']).filter(|w| !w.is_empty()).collect();
    let (day, month, year, time) = match words[..] {
        [_, day, month, year, time, "GMT" | "UTC"] => (day, month, year, time),
        [_, month, day, time, year] => (day, month, year, time),
        _ => return None,
    };
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS.iter().position(|m| *m == month)? as u64 + 1;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let year = match year {
        0..70 => year + 2000,
        70..100 => year + 1900,
        _ => year,
    };
    let clock: Vec<u64> = time.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [hour, minute, second] = clock[..] else { return None };
    if !(1970..10_000).contains(&year) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days from 1 March 0000 to the date, less those to 1970.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Before try `n` (the second is 1): twice as long each time, at most a minute.
pub fn pause(base: Duration, n: u32) -> Duration {
    base.saturating_mul(1 << (n.saturating_sub(1)).min(16)).min(Duration::from_secs(60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_all_three_forms_of_a_date_are_understood() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777 - 30);
        for text in [
            "30",
            " 30 ",
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(after(text, now), Some(Duration::from_secs(30)), "{text}");
        }
        assert_eq!(after("0", now), Some(Duration::ZERO));
        assert_eq!(after("1.5", now), Some(Duration::from_millis(1500)));
        assert_eq!(after("Sun, 06 Nov 1983 08:49:37 GMT", now), Some(Duration::ZERO));
        assert_eq!(after("Thu, 29 Feb 2024 00:00:00 GMT", UNIX_EPOCH), Some(Duration::from_secs(1_709_164_800)));
        for text in ["", "soon", "-1", "NaN", "inf", "Sun, 06 Non 1994 08:49:37 GMT", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(after(text, now), None, "{text}");
        }
        assert!(after("1e300", now).is_some());
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let base = Duration::from_millis(500);
        assert_eq!([1, 2, 3, 40].map(|n| pause(base, n).as_millis()), [500, 1000, 2000, 60_000]);
    }
}
