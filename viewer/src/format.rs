//! Numbers as people read them.

/// Bytes in binary units: `512 B`, `1.5 GiB`.
pub fn bytes(bytes: f64) -> String {
    scaled(
        bytes,
        1024.0,
        &[" B", " KiB", " MiB", " GiB", " TiB", " PiB"],
    )
}

/// A count in decimal units: `512`, `1.5k`, `3.2M`.
pub fn count(count: f64) -> String {
    scaled(count, 1000.0, &["", "k", "M", "G", "T"])
}

/// A whole number with its thousands apart: `1,234,567`.
pub fn whole(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A measured value in about four digits: `4.497`, `0.0012`, `1.2e-7`.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        "–".to_owned()
    } else if size == 0.0 {
        "0".to_owned()
    } else if size < 1e-3 {
        format!("{value:.2e}")
    } else if size < 1.0 {
        trim(format!("{value:.4}"))
    } else if size < 100.0 {
        trim(format!("{value:.3}"))
    } else if size < 10_000.0 {
        trim(format!("{value:.1}"))
    } else {
        count(value)
    }
}

/// A share of 1 as a percentage: `12.5 %`.
pub fn percent(share: f32) -> String {
    if !share.is_finite() {
        return "–".to_owned();
    }
    let percent = f64::from(share) * 100.0;
    if percent != 0.0 && percent.abs() < 10.0 {
        format!("{percent:.1} %")
    } else {
        format!("{percent:.0} %")
    }
}

/// A load or a lift, in shares of what is even: `1.25×`.
pub fn times(value: f32) -> String {
    if value.is_finite() {
        format!("{value:.2}×")
    } else {
        "–".to_owned()
    }
}

/// A token's text with what cannot be seen made visible.
pub fn token(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            ' ' => shown.push('·'),
            '\n' => shown.push('↵'),
            '\t' => shown.push('→'),
            other if other.is_control() => shown.extend(other.escape_default()),
            other => shown.push(other),
        }
    }
    shown
}

fn trim(text: String) -> String {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

fn scaled(value: f64, base: f64, units: &[&str]) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let (mut value, mut unit) = (value, 0);
    // 999.95 and more would print as 1000.0: on to the next unit.
    while value.abs() >= base - 0.05 * f64::from(u8::from(unit > 0)) && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    if unit == 0 && value.fract() == 0.0 {
        format!("{value:.0}{}", units[unit])
    } else if value.abs() < 100.0 {
        format!("{}{}", trim(format!("{value:.1}")), units[unit])
    } else {
        format!("{value:.0}{}", units[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_say_them() {
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(bytes(512.0), "512 B");
        assert_eq!(bytes(1024.0 * 1023.99), "1 MiB");
        assert_eq!(count(12_345.0), "12.3k");
        assert_eq!(whole(1_234_567), "1,234,567");
        assert_eq!(number(4.4966), "4.497");
        assert_eq!(number(1.2345e-7), "1.23e-7");
        assert_eq!(number(f64::NAN), "–");
        assert_eq!(percent(0.125), "12 %");
        assert_eq!(percent(0.012), "1.2 %");
        assert_eq!(token(" a\n\u{7}"), "·a↵\\u{7}");
    }
}
