//! Numbers as people read them, short enough for a column.

/// Bytes in binary units: `512 B`, `1.5 GiB`.
pub fn bytes(bytes: u64) -> String {
    scaled(
        bytes as f64,
        1024.0,
        &[" B", " KiB", " MiB", " GiB", " TiB"],
    )
}

/// A count in decimal units: `512`, `1.5k`, `3.2M`.
pub fn count(count: f64) -> String {
    if count.is_finite() {
        scaled(count, 1000.0, &["", "k", "M", "G", "T"])
    } else {
        "–".to_owned()
    }
}

/// A whole count with its thousands apart: `1,234,567`.
pub fn whole(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A measured value in about four digits: `4.497`, `0.00123`, `1.2e-7`.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        "not finite".to_owned()
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

/// A duration: `12 s`, `3 min 20 s`, `5 h 02 min`, `3 d 4 h`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".to_owned();
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3600..86400 => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86400, whole % 86400 / 3600),
    }
}

/// How long ago: `now`, `12 s`, `5 min`, `3 h`, `2 d`.
pub fn age(seconds: i64) -> String {
    match seconds {
        ..3 => "now".to_owned(),
        3..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

/// The first `width` columns of a text, an ellipsis where something is missing.
pub fn clip(text: &str, width: usize) -> String {
    use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};
    if text.width() <= width {
        return text.to_owned();
    }
    let mut clipped = String::new();
    let mut taken = 1;
    for character in text.chars() {
        taken += character.width().unwrap_or(0);
        if taken > width {
            break;
        }
        clipped.push(character);
    }
    if width > 0 {
        clipped.push('…');
    }
    clipped
}

fn trim(text: String) -> String {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn scaled(value: f64, base: f64, units: &[&str]) -> String {
    let (mut value, mut unit) = (value, 0);
    // 999.95 and more would print as 1000.0: on to the next unit.
    while value.abs() >= base - 0.05 * f64::from(unit > 0) && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    if unit == 0 && value.fract() != 0.0 && value.abs() < 100.0 {
        return format!("{}{}", trim(format!("{value:.1}")), units[unit]);
    }
    let decimals = usize::from(unit > 0 && value.abs() < 100.0);
    format!("{value:.decimals$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_say_them() {
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(count(12_345.0), "12.3k");
        assert_eq!(count(950.0), "950");
        assert_eq!(whole(1_234_567), "1,234,567");
        assert_eq!(number(4.4966), "4.497");
        assert_eq!(number(0.002), "0.002");
        assert_eq!(number(1.2345e-7), "1.23e-7");
        assert_eq!(number(f64::NAN), "not finite");
        assert_eq!(duration(18_120.0), "5 h 02 min");
        assert_eq!(clip("abcdef", 4), "abc…");
        assert_eq!(clip("abc", 3), "abc");
    }
}
