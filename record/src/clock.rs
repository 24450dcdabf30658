use time::OffsetDateTime;

/// The present time in UTC, cut to milliseconds: what every time stamp in a record holds.
pub fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_millisecond(now.millisecond()).unwrap_or(now)
}
