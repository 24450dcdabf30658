//! Numbers as people read them.

use std::time::Duration;

/// Bytes in binary units: `512 B`, `1.5 KiB`, `24 GiB`.
pub fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// A count in decimal units: `512`, `1.5k`, `3.2M`, `7B`.
pub fn count(count: u64) -> String {
    scaled(count as f64, 1000.0, &["", "k", "M", "B", "T"]).replace(' ', "")
}

/// So many of `what` a second: `950 tokens/s`, `12.3k tokens/s`.
pub fn rate(per_second: f64, what: &str) -> String {
    if per_second.is_finite() && per_second >= 0.0 {
        format!("{} {what}/s", count(per_second.round() as u64))
    } else {
        format!("– {what}/s")
    }
}

/// A duration: `0.4 s`, `12 s`, `3 min 20 s`, `5 h 2 min`, `3 d 4 h`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

fn scaled(value: f64, base: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut unit = 0;
    // 999.95 and more would print as 1000.0: move on to the next unit.
    while value >= base - 0.05 * f64::from(unit > 0) && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let whole = unit == 0 || value >= 100.0;
    let decimals = if whole { 0 } else { 1 };
    format!("{value:.decimals$} {}", units[unit])
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_say_them() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(24 << 30), "24.0 GiB");
        assert_eq!(count(999), "999");
        assert_eq!(count(12_345), "12.3k");
        assert_eq!(count(7_000_000_000), "7.0B");
        assert_eq!(rate(950.2, "tokens"), "950 tokens/s");
        assert_eq!(rate(f64::NAN, "tokens"), "– tokens/s");
        assert_eq!(duration(Duration::from_millis(420)), "0.4 s");
        assert_eq!(duration(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(duration(Duration::from_secs(18_120)), "5 h 2 min");
    }
}
