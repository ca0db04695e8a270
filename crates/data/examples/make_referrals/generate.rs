//! Referral notes and what they say: the truth is drawn first, the note is written from it, and a field is in the answer
//! only if the note told it.

use std::fmt::Write as _;

use super::{
    note,
    numbers::Date,
    words::{ALLERGENS, DRUGS, EITHER, HELD_OUT_SURNAMES, MEN, PROBLEMS, Problem, SURNAMES, WOMEN},
};

/// What every row begins with. Short: it is in every row.
pub const SYSTEM: &str = "Write the referral as JSON.";

/// SplitMix64: small, and the same on every machine.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64, stream: u64) -> Rng {
        let mut rng = Rng(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ stream.wrapping_mul(0x2545_f491_4f6c_dd1d));
        rng.next();
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` up to but without `high`.
    pub fn range(&mut self, low: u32, high: u32) -> u32 {
        low + ((u128::from(self.next()) * u128::from(high - low)) >> 64) as u32
    }

    pub fn percent(&mut self, chance: u32) -> bool {
        self.range(0, 100) < chance
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.range(0, items.len() as u32) as usize]
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.range(0, i as u32 + 1) as usize);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sex {
    Female,
    Male,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Urgency {
    Routine,
    Urgent,
    Emergency,
}

/// A weight as it is written. Pounds are whole tens and stones whole, so that each conversion is one of a few.
#[derive(Clone, Copy, Debug)]
pub enum Weight {
    Kg(u32),
    Stone(u32),
    Pounds(u32),
}

impl Weight {
    pub fn kg(self) -> u32 {
        match self {
            Weight::Kg(n) => n,
            Weight::Stone(n) => (f64::from(n) * 6.350_293_18).round() as u32,
            Weight::Pounds(n) => (f64::from(n) * 0.453_592_37).round() as u32,
        }
    }
}

/// What a note says. `None`: it does not say. An empty list: it says that there are none.
pub struct Case {
    pub first: Option<&'static str>,
    pub last: &'static str,
    pub age: Option<u32>,
    pub sex: Option<Sex>,
    pub problem: &'static Problem,
    pub urgency: Option<Urgency>,
    pub medications: Option<Vec<(&'static str, &'static str)>>,
    pub allergies: Option<Vec<&'static str>>,
    pub weight: Option<Weight>,
    pub date: Option<Date>,
    /// Written with the wordings that `train` and `valid` do not have.
    pub held_out: bool,
}

impl Case {
    pub fn draw(rng: &mut Rng, held_out: bool) -> Case {
        let sex = match rng.range(0, 100) {
            0..44 => Some(Sex::Female),
            44..88 => Some(Sex::Male),
            _ => None,
        };
        let neutral = sex.is_none() || rng.percent(8);
        let first = *match sex {
            _ if neutral => rng.pick(&EITHER),
            Some(Sex::Female) => rng.pick(&WOMEN),
            _ => rng.pick(&MEN),
        };
        let surnames: &[&'static str] = if held_out { &HELD_OUT_SURNAMES } else { &SURNAMES };
        let weight = match rng.range(0, 100) {
            0..34 => Some(Weight::Kg(rng.range(42, 125))),
            34..47 => Some(Weight::Stone(rng.range(8, 19))),
            47..60 => Some(Weight::Pounds(rng.range(11, 26) * 10)),
            _ => None,
        };
        let date = Date { year: rng.range(2023, 2026), month: rng.range(1, 13), day: rng.range(1, 29) };
        let mut drugs = DRUGS;
        rng.shuffle(&mut drugs);
        let medications = match rng.range(0, 100) {
            0..35 => Some(vec![drugs[0]]),
            35..65 => Some(vec![drugs[0], drugs[1]]),
            65..80 => Some(vec![]),
            _ => None,
        };
        let allergies = match rng.range(0, 100) {
            0..38 => Some(vec![*rng.pick(&ALLERGENS)]),
            38..65 => Some(vec![]),
            _ => None,
        };
        Case {
            first: (!rng.percent(6)).then_some(first),
            last: rng.pick::<&'static str>(surnames),
            age: (!rng.percent(8)).then(|| rng.range(18, 95)),
            sex,
            problem: rng.pick(&PROBLEMS),
            urgency: match rng.range(0, 100) {
                0..38 => Some(Urgency::Routine),
                38..70 => Some(Urgency::Urgent),
                70..88 => Some(Urgency::Emergency),
                _ => None,
            },
            medications,
            allergies,
            weight,
            date: (!rng.percent(12)).then_some(date),
            held_out,
        }
    }

    /// The canonical answer: one line of JSON, fields always in this order, null for what the note does not tell.
    pub fn answer(&self) -> String {
        let text = |s: Option<String>| s.map_or("null".into(), |s| format!("\"{s}\""));
        let number = |n: Option<u32>| n.map_or("null".into(), |n| n.to_string());
        let list = |items: Option<Vec<&str>>| match items {
            None => "null".to_owned(),
            Some(items) => format!("[{}]", items.iter().map(|i| format!("\"{i}\"")).collect::<Vec<_>>().join(",")),
        };
        let mut out = String::from("{");
        let _ = write!(out, "\"name\":{},", text(self.first.map(|first| format!("{first} {}", self.last))));
        let _ = write!(out, "\"age\":{},", number(self.age));
        let sex = self.sex.map(|s| if s == Sex::Female { "female" } else { "male" }.to_owned());
        let _ = write!(out, "\"sex\":{},", text(sex));
        let _ = write!(out, "\"problem\":\"{}\",", self.problem.label);
        let _ = write!(out, "\"specialty\":\"{}\",", self.problem.specialty);
        let urgency = self.urgency.map(|u| match u {
            Urgency::Routine => "routine".to_owned(),
            Urgency::Urgent => "urgent".to_owned(),
            Urgency::Emergency => "emergency".to_owned(),
        });
        let _ = write!(out, "\"urgency\":{},", text(urgency));
        let drugs = self.medications.as_ref().map(|m| m.iter().map(|(drug, _)| *drug).collect());
        let _ = write!(out, "\"medications\":{},", list(drugs));
        let _ = write!(out, "\"allergies\":{},", list(self.allergies.clone()));
        let _ = write!(out, "\"weight_kg\":{},", number(self.weight.map(Weight::kg)));
        let _ = write!(out, "\"date\":{}}}", text(self.date.map(Date::iso)));
        out
    }
}

/// One file's rows as JSON Lines. Of 100 rows, `held_out_share` are worded as no row of the other files.
pub fn file(seed: u64, stream: u64, rows: usize, held_out_share: u32) -> String {
    let mut out = String::new();
    for row in 0..rows {
        let mut rng = Rng::new(seed, (stream << 32) | row as u64);
        // Spread evenly, so that any first part of the file has its share.
        let held_out = (row as u32 * held_out_share) % 100 < held_out_share;
        let case = Case::draw(&mut rng, held_out);
        let note = note::write(&case, &mut rng);
        let mut line = serde_json::json!({ "messages": [
            { "role": "system", "content": SYSTEM },
            { "role": "user", "content": note },
            { "role": "assistant", "content": case.answer() },
        ] });
        if held_out_share > 0 {
            line["held_out"] = held_out.into();
        }
        let _ = writeln!(out, "{line}");
    }
    out
}

/// The three files: name and contents.
pub fn files(seed: u64) -> [(&'static str, String); 3] {
    [
        ("train.jsonl", file(seed, 1, 2000, 0)),
        ("valid.jsonl", file(seed, 2, 100, 0)),
        ("test.jsonl", file(seed, 3, 200, 30)),
    ]
}
