//! Writes a case as a note: a letter, a message, a dictation, a telegram or a list.

use super::{
    generate::{Case, Rng, Sex, Urgency, Weight},
    numbers::{Date, article, words},
    phrases::{self as say, Pool},
    words::{ALLERGENS, DOCTORS, DRUGS, SYMPTOMS},
};

#[derive(Clone, Copy, PartialEq)]
enum Style {
    Letter,
    Message,
    Dictation,
    Telegram,
    List,
}

/// The note. Where the case has a sex, some words tell it; where it has none, none do.
pub fn write(case: &Case, rng: &mut Rng) -> String {
    // A wording that happens to hide the sex, or one long beyond use, is drawn again.
    loop {
        let style = *rng.pick(&[Style::Letter, Style::Message, Style::Dictation, Style::Telegram, Style::List]);
        let mut writer = Writer { case, rng, style, told_sex: false };
        let note = match style {
            Style::Telegram => writer.telegram(),
            Style::List => writer.list(),
            _ => writer.prose(),
        };
        let told_sex = writer.told_sex;
        if told_sex == case.sex.is_some() && note.len() <= 480 {
            return note;
        }
    }
}

struct Writer<'a> {
    case: &'a Case,
    rng: &'a mut Rng,
    style: Style,
    told_sex: bool,
}

impl Writer<'_> {
    /// A wording of the pool that says only what is known, filled in.
    fn say(&mut self, pool: &Pool) -> String {
        let wordings = if self.case.held_out { pool.held_out } else { pool.seen };
        let fits: Vec<&str> = wordings.iter().copied().filter(|w| self.fits(w)).collect();
        assert!(!fits.is_empty(), "no wording fits the case: {wordings:?}");
        let wording = *self.rng.pick(&fits);
        self.fill(wording)
    }

    fn fits(&self, wording: &str) -> bool {
        let has = |key: &str| wording.contains(key);
        let case = self.case;
        let about_sex =
            ["{he}", "{He}", "{his}", "{His}", "{him}", "{man}", "{sex}", "{s}", "{title}"].iter().any(|k| has(k));
        // The wordings that open a note hold the name and the age if they are known; others hold neither.
        let opens = has("{problem}") && wording.ends_with('.') || is_who(wording);
        let names = !opens || has("{name}") == case.first.is_some();
        let ages = !opens || (has("{age}") || has("{ayo}")) == case.age.is_some();
        (!about_sex || case.sex.is_some()) && names && ages
    }

    fn fill(&mut self, wording: &str) -> String {
        let mut out = String::new();
        let mut rest = wording;
        while let Some((before, after)) = rest.split_once('{') {
            let (key, after) = after.split_once('}').expect("wordings close their braces");
            out += before;
            let value = self.value(key);
            // What opens a sentence has a capital.
            if out.is_empty() && wording.ends_with('.') {
                out += &capital(&value)
            } else {
                out += &value
            }
            rest = after;
        }
        out + rest
    }

    fn value(&mut self, key: &str) -> String {
        let case = self.case;
        let sexed = |female: &str, male: &str| match case.sex {
            Some(Sex::Male) => male.to_owned(),
            _ => female.to_owned(),
        };
        self.told_sex |= matches!(key, "he" | "He" | "his" | "His" | "him" | "man" | "sex" | "s" | "title");
        match key {
            "name" => format!("{} {}", case.first.unwrap_or_default(), case.last),
            "age" => self.age(),
            "ayo" => self.year_old(),
            "he" => sexed("she", "he"),
            "He" => sexed("She", "He"),
            "his" => sexed("her", "his"),
            "His" => sexed("Her", "His"),
            "him" => sexed("her", "him"),
            "s" => sexed("F", "M"),
            "sex" => sexed("female", "male"),
            "title" => sexed(if self.rng.percent(50) { "Mrs" } else { "Ms" }, "Mr"),
            "man" => {
                let other = self.rng.percent(30);
                if other { sexed("lady", "gentleman") } else { sexed("woman", "man") }
            }
            "problem" => self.problem(),
            "specialty" => case.problem.specialty.into(),
            "Specialty" => capital(case.problem.specialty),
            "meds" => self.drugs(),
            "allergy" => case.allergies.iter().flatten().next().copied().unwrap_or_default().into(),
            "Allergy" => capital(case.allergies.iter().flatten().next().copied().unwrap_or_default()),
            "weight" => self.weight(),
            "date" => case.date.map_or(String::new(), |date| self.date(date)),
            "n" => self.rng.range(2, 11).to_string(),
            "other_age" => self.rng.range(22, 88).to_string(),
            "doctor" => (*self.rng.pick(&DOCTORS)).into(),
            "year" => self.rng.range(2008, 2022).to_string(),
            "symptom" => self.other(&SYMPTOMS, case.problem.label),
            "allergen" => {
                let own = case.allergies.iter().flatten().next().copied().unwrap_or_default();
                self.other(&ALLERGENS, own)
            }
            "drug" => self.other_drug(),
            "Drug" => capital(&self.other_drug()),
            "bp" => format!("{}/{}", self.rng.range(105, 178), self.rng.range(62, 102)),
            "pulse" => self.rng.range(56, 112).to_string(),
            "height" => self.rng.range(150, 194).to_string(),
            "old_weight" => self.rng.range(48, 118).to_string(),
            "temp" => match self.rng.percent(60) {
                true => format!("{}.{} C", self.rng.range(36, 39), self.rng.range(0, 10)),
                false => format!("{}.{} F", self.rng.range(97, 102), self.rng.range(0, 10)),
            },
            "old_date" => {
                let date =
                    Date { year: self.rng.range(2012, 2021), month: self.rng.range(1, 13), day: self.rng.range(1, 29) };
                date.written(self.rng.range(0, 3) as usize)
            }
            other => panic!("no value for {other}"),
        }
    }

    fn age(&mut self) -> String {
        let age = self.case.age.unwrap_or_default();
        if self.style == Style::Dictation { words(age, " ") } else { age.to_string() }
    }

    /// `a 54-year-old`, in figures or words.
    fn year_old(&mut self) -> String {
        let age = self.case.age.unwrap_or_default();
        let a = article(age);
        match (self.style, self.rng.range(0, 10)) {
            (Style::Dictation, _) => format!("{a} {} year old", words(age, " ")),
            (_, 0..5) => format!("{a} {age}-year-old"),
            (_, 5..8) => format!("{a} {age} year old"),
            _ => format!("{a} {}-year-old", words(age, "-")),
        }
    }

    fn problem(&mut self) -> String {
        let problem = self.case.problem;
        // Half of the held-out notes also name the complaint as no other file does.
        if self.case.held_out && self.rng.percent(50) {
            problem.held_out.into()
        } else {
            (*self.rng.pick(&problem.said)).into()
        }
    }

    fn drugs(&mut self) -> String {
        let doses = self.rng.percent(50);
        let drugs = self.case.medications.clone().unwrap_or_default();
        let names: Vec<String> =
            drugs.iter().map(|(drug, dose)| if doses { format!("{drug} {dose}") } else { (*drug).into() }).collect();
        names.join(if self.rng.percent(50) { " and " } else { ", " })
    }

    fn weight(&mut self) -> String {
        let spoken = self.style == Style::Dictation;
        let number = |n: u32| if spoken { words(n, " ") } else { n.to_string() };
        match self.case.weight {
            Some(Weight::Kg(n)) => {
                let unit = if spoken { " kilos" } else { self.rng.pick(&[" kg", "kg", " kilos", " kg"]) };
                format!("{}{unit}", number(n))
            }
            Some(Weight::Stone(n)) => {
                format!("{}{}", number(n), if spoken { " stone" } else { self.rng.pick(&[" stone", " st"]) })
            }
            Some(Weight::Pounds(n)) if spoken => format!("{n} pounds"),
            Some(Weight::Pounds(n)) => format!("{n}{}", self.rng.pick(&[" lb", " pounds", "lb"])),
            None => String::new(),
        }
    }

    fn date(&mut self, date: Date) -> String {
        let known = Date::WAYS - Date::HELD_OUT_WAYS;
        match (self.style, self.case.held_out) {
            (Style::Dictation, _) => date.spoken(),
            (_, false) => date.written(self.rng.range(0, known as u32) as usize),
            (_, true) => date.written(self.rng.range(known as u32, Date::WAYS as u32) as usize),
        }
    }

    fn other(&mut self, items: &[&str], not: &str) -> String {
        loop {
            let item = *self.rng.pick(items);
            if item != not {
                return item.into();
            }
        }
    }

    fn other_drug(&mut self) -> String {
        let own = self.case.medications.clone().unwrap_or_default();
        loop {
            let (drug, _) = *self.rng.pick(&DRUGS);
            if own.iter().all(|(mine, _)| *mine != drug) {
                return drug.into();
            }
        }
    }

    /// The sentences between opening and urgency, in any order: what fields want, and what they do not.
    fn middle(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        match &self.case.medications {
            Some(drugs) if drugs.is_empty() => out.push(self.say(&say::NO_MEDS)),
            Some(_) => out.push(self.say(&say::MEDS)),
            None => {}
        }
        match &self.case.allergies {
            Some(list) if list.is_empty() => out.push(self.say(&say::NO_ALLERGY)),
            Some(_) => out.push(self.say(&say::ALLERGY)),
            None => {}
        }
        if self.case.weight.is_some() {
            out.push(self.say(&say::WEIGHT));
        }
        for (pool, chance) in [
            (&say::COURSE, 25),
            (&say::OBSERVATIONS, 30),
            (&say::HISTORY, 60),
            (&say::OTHER_MEDS, 15),
            (&say::OTHER_ALLERGY, 8),
        ] {
            if self.rng.percent(chance) {
                out.push(self.say(pool));
            }
        }
        self.rng.shuffle(&mut out);
        out
    }

    fn urgency(&mut self) -> Option<String> {
        let pool = match self.case.urgency? {
            Urgency::Routine => &say::ROUTINE,
            Urgency::Urgent => &say::URGENT,
            Urgency::Emergency => &say::EMERGENCY,
        };
        Some(self.say(pool))
    }

    fn prose(&mut self) -> String {
        let mut head = Vec::new();
        let dated = self.case.date.is_some().then(|| self.say(&say::DATED));
        let date_first = self.rng.percent(65);
        if date_first {
            head.extend(dated.clone());
        }
        let greeting = if self.rng.percent(45) { &say::DEAR } else { &say::DEAR_ANYONE };
        head.push(self.say(greeting));
        let mut body = vec![self.say(&say::OPENING)];
        body.extend(self.middle());
        let urgency = self.urgency();
        // Most say it last, some at once.
        if self.rng.percent(25) {
            body.splice(0..0, urgency)
        } else {
            body.splice(body.len()..body.len(), urgency)
        };
        let mut foot = Vec::new();
        if self.rng.percent(70) {
            foot.push(self.say(&say::SIGNED));
        }
        if !date_first {
            foot.extend(dated);
        }
        let (head, body, foot) = (head.join("\n"), body.join(" "), foot.join("\n"));
        match self.style {
            Style::Letter => [head, body, foot].join("\n").trim_end().to_owned(),
            Style::Message => {
                format!("{} {body} {}", head.replace('\n', ". "), foot.replace('\n', ". ")).trim_end().to_owned()
            }
            _ => {
                // Typed from a tape: the marks are spoken.
                let body = body.trim_end_matches('.').replace(". ", " full stop ").replace(", ", " comma ");
                [head, body, foot].join(" ").replace('\n', " ").trim_end().to_owned()
            }
        }
    }

    fn telegram(&mut self) -> String {
        let mut parts = vec![self.say(&say::WHO), self.say(&say::WHAT)];
        if self.rng.percent(45) {
            parts.insert(0, self.say(&say::DEAR));
        }
        parts.extend(self.middle());
        parts.extend(self.urgency());
        if self.case.date.is_some() {
            let dated = self.say(&say::DATED);
            let at = if self.rng.percent(40) { 0 } else { parts.len() };
            parts.insert(at, dated);
        }
        if self.rng.percent(35) {
            parts.push(self.say(&say::SIGNED));
        }
        let joint = *self.rng.pick(&[". ", "; ", " / ", "\n"]);
        let parts: Vec<&str> = parts.iter().map(|p| p.trim_end_matches(['.', ',', ':', '-', ' '])).collect();
        parts.join(joint)
    }

    fn list(&mut self) -> String {
        let labels = *self.rng.pick(if self.case.held_out { &say::HELD_OUT_LABELS[..] } else { &say::LABELS[..] });
        let case = self.case;
        let mut lines: Vec<(usize, String)> = vec![(3, self.problem())];
        if case.first.is_some() {
            lines.push((0, self.value("name")));
        }
        if case.age.is_some() {
            lines.push((1, self.age()));
        }
        if case.sex.is_some() {
            let key = if self.rng.percent(50) { "s" } else { "sex" };
            lines.push((2, self.value(key)));
        }
        match &case.medications {
            Some(drugs) if drugs.is_empty() => lines.push((4, self.rng.pick(&["none", "nil"]).to_string())),
            Some(_) => lines.push((4, self.drugs())),
            None => {}
        }
        match &case.allergies {
            Some(list) if list.is_empty() => lines.push((5, self.rng.pick(&["none", "NKDA"]).to_string())),
            Some(_) => lines.push((5, self.value("allergy"))),
            None => {}
        }
        if case.weight.is_some() {
            lines.push((6, self.weight()));
        }
        if let Some(urgency) = self.urgency() {
            lines.push((7, urgency.trim_end_matches('.').to_owned()));
        }
        if let Some(date) = case.date {
            lines.push((8, self.date(date)));
        }
        // Most forms keep their order; what is not known is left out or left open.
        for field in [1, 4, 5, 6] {
            if lines.iter().all(|(f, _)| *f != field) && self.rng.percent(25) {
                lines.push((field, self.rng.pick(&["not recorded", "?", "unknown"]).to_string()));
            }
        }
        lines.sort_by_key(|(field, _)| *field);
        if self.rng.percent(25) {
            self.rng.shuffle(&mut lines);
        }
        let mut out = Vec::new();
        if self.rng.percent(45) {
            out.push(self.say(&say::DEAR));
        }
        let bullet = *self.rng.pick(&["- ", "* ", ""]);
        out.extend(lines.into_iter().map(|(field, value)| format!("{bullet}{}: {value}", labels[field])));
        if self.rng.percent(40) {
            let note = self.say(&say::HISTORY);
            out.push(format!("{bullet}Note: {note}"));
        }
        if self.rng.percent(30) {
            out.push(self.say(&say::SIGNED));
        }
        out.join("\n")
    }
}

fn is_who(wording: &str) -> bool {
    say::WHO.seen.contains(&wording) || say::WHO.held_out.contains(&wording)
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
