//! Numbers and dates as people write and say them.

use super::words::MONTHS;

const ONES: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
const ORDINALS: [&str; 20] = [
    "zeroth",
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
    "eighteenth",
    "nineteenth",
];

/// 0 to 199 in words; `joint` is between tens and ones.
pub fn words(n: u32, joint: &str) -> String {
    match n {
        0..20 => ONES[n as usize].into(),
        20..100 if n.is_multiple_of(10) => TENS[n as usize / 10].into(),
        20..100 => format!("{}{joint}{}", TENS[n as usize / 10], ONES[n as usize % 10]),
        100 => "one hundred".into(),
        _ => format!("one hundred and {}", words(n - 100, joint)),
    }
}

fn ordinal(day: u32) -> String {
    match day {
        0..20 => ORDINALS[day as usize].into(),
        20 => "twentieth".into(),
        30 => "thirtieth".into(),
        _ => format!("{}-{}", TENS[day as usize / 10], ORDINALS[day as usize % 10]),
    }
}

/// `a` or `an`, for an age: it follows the sound.
pub fn article(n: u32) -> &'static str {
    if matches!(n, 8 | 11 | 18 | 80..90) { "an" } else { "a" }
}

/// A day of the years 2023 to 2025.
#[derive(Clone, Copy, Debug)]
pub struct Date {
    pub year: u32,
    pub month: u32,
    pub day: u32,
}

impl Date {
    pub fn iso(self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }

    /// How many ways `written` knows; the last two are only in `test`.
    pub const WAYS: usize = 9;
    pub const HELD_OUT_WAYS: usize = 2;

    /// Day first, as in the clinics these notes pretend to come from.
    pub fn written(self, way: usize) -> String {
        let Date { year, month, day } = self;
        let name = MONTHS[month as usize - 1];
        let short = &name[..3];
        match way {
            0 => format!("{day} {name} {year}"),
            1 => format!("{day:02}/{month:02}/{year}"),
            2 => format!("{day}{} {name} {year}", suffix(day)),
            3 => format!("{day}.{month}.{}", year % 100),
            4 => self.iso(),
            5 => format!("{day} {short} {}", year % 100),
            6 => format!("{day}/{month}/{}", year % 100),
            7 => format!("{name} {day}, {year}"),
            _ => format!("{day}-{}-{year}", short.to_uppercase()),
        }
    }

    pub fn spoken(self) -> String {
        let month = MONTHS[self.month as usize - 1];
        format!("the {} of {month} twenty {}", ordinal(self.day), words(self.year % 100, " "))
    }
}

fn suffix(day: u32) -> &'static str {
    match day {
        1 | 21 | 31 => "st",
        2 | 22 => "nd",
        3 | 23 => "rd",
        _ => "th",
    }
}
