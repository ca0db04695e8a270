//! How notes say things: for each slot the wordings of all files, and those that only `test` has.
//!
//! `{he}`, `{He}`, `{his}`, `{man}`, `{sex}`, `{s}` and `{title}` tell the sex: a wording with one of them is used only
//! where the sex is known, and one with `{name}`, `{age}` or `{ayo}` only where that is.

/// Wordings of one slot.
pub struct Pool {
    pub seen: &'static [&'static str],
    pub held_out: &'static [&'static str],
}

/// Who and what, in sentences.
pub const OPENING: Pool = Pool {
    seen: &[
        "Thank you for seeing {name}, {ayo} {man}, with {problem}.",
        "I would be grateful for your opinion on {name}, aged {age}, who has {problem}.",
        "Please could you see {name}, {ayo} {man}, about {problem}.",
        "{title} {name} is {age} and has developed {problem}.",
        "I am referring {name} ({age}), who presents with {problem}.",
        "May I ask you to review {name}, {age} years old, because of {problem}.",
        "{name} is {ayo} {man} complaining of {problem}.",
        "Thank you for seeing {name}, who has {problem}.",
        "I am referring {title} {name} with {problem}.",
        "{name} came to the surgery with {problem}.",
        "Thank you for seeing {ayo} {man} with {problem}.",
        "I saw {ayo} patient with {problem} today.",
        "Thank you for seeing a patient of ours with {problem}.",
        "I saw a {man} with {problem} today.",
    ],
    held_out: &[
        "Many thanks for accepting {name}, {ayo} {man}; the trouble is {problem}.",
        "The reason for writing is {problem} in {name}, a {man} of {age}.",
        "Would you kindly look at {name}, now {age}, on account of {problem}.",
        "{problem} is the worry for {name}, {ayo} {man} on our list.",
        "Would you kindly look at {name} on account of {problem}.",
        "{name}, a {man} on our list, is troubled by {problem}.",
        "Many thanks for accepting {ayo} person troubled by {problem}.",
        "The reason for writing is {problem} in a {man} known to us.",
        "Kindly look at someone from our list on account of {problem}.",
    ],
};

/// Who, in note form.
pub const WHO: Pool = Pool {
    seen: &[
        "{name}, {age}{s}",
        "{name} {age}y {sex}",
        "{age}yo {sex}, {name}",
        "Pt {name}, {age} {s}",
        "{name}, age {age}",
        "Pt {name}, {age}y",
        "{name}, {sex}",
        "Pt {name}",
        "{age}yo {sex}",
        "Pt aged {age}",
        "{sex} pt",
        "Adult pt",
    ],
    held_out: &[
        "Re {title} {name} {age}/{s}",
        "{sex} {age} yrs = {name}",
        "Re {name}, {age} yrs",
        "Re {title} {name}",
        "Re {name}",
        "Re {sex}, {age} yrs",
        "Re someone of {age} yrs",
        "Re {man} on list",
        "Re adult on list",
    ],
};

pub const WHAT: Pool = Pool {
    seen: &["c/o {problem}", "PC: {problem}", "ref re {problem}", "has {problem}"],
    held_out: &["main issue {problem}", "bothered by {problem}"],
};

pub const COURSE: Pool = Pool {
    seen: &[
        "This began {n} weeks ago.",
        "It has gone on for {n} months.",
        "Symptoms started after a holiday.",
        "It is worse at night.",
    ],
    held_out: &["First noticed about {n} weeks back.", "Simple measures have not helped."],
};

pub const MEDS: Pool = Pool {
    seen: &[
        "Current medication is {meds}.",
        "{He} takes {meds}.",
        "Regular tablets: {meds}.",
        "On {meds} at present.",
        "Repeat prescription: {meds}.",
    ],
    held_out: &["The repeat list shows {meds}.", "{He} is maintained on {meds}.", "Drugs at present are {meds}."],
};

pub const NO_MEDS: Pool = Pool {
    seen: &["No regular medication.", "{He} takes no medicines.", "Not on any medication."],
    held_out: &["The repeat list is empty.", "Drug free."],
};

/// Medicines that are not taken now, or not by the patient.
pub const OTHER_MEDS: Pool = Pool {
    seen: &["{Drug} was stopped last year.", "{Drug} did not help and was stopped.", "The spouse takes {drug}."],
    held_out: &["{Drug} was tried in the past without benefit.", "A sister uses {drug}."],
};

pub const ALLERGY: Pool = Pool {
    seen: &[
        "Allergic to {allergy}.",
        "Allergies: {allergy}.",
        "{He} is allergic to {allergy}.",
        "{Allergy} causes a rash.",
        "Known allergy to {allergy}.",
    ],
    held_out: &["{Allergy} must be avoided, it brought {him} out in hives.", "Reacts badly to {allergy}."],
};

pub const NO_ALLERGY: Pool = Pool {
    seen: &["NKDA.", "No known allergies.", "No drug allergies.", "Allergies: none."],
    held_out: &["{He} is allergic to nothing.", "Nil allergies of note."],
};

pub const OTHER_ALLERGY: Pool = Pool {
    seen: &["A daughter is allergic to {allergen}.", "Tolerates {allergen} well."],
    held_out: &["A brother reacts to {allergen}."],
};

pub const WEIGHT: Pool = Pool {
    seen: &["Weight {weight}.", "{He} weighs {weight}.", "Weighed {weight} in clinic.", "Weight today {weight}."],
    held_out: &["The scales read {weight}.", "{He} is {weight} on our scales."],
};

/// Numbers that no field wants.
pub const OBSERVATIONS: Pool = Pool {
    seen: &[
        "BP {bp}.",
        "BP {bp}, pulse {pulse}.",
        "Temp {temp}.",
        "Height {height} cm.",
        "Weight was {old_weight} kg in {year}.",
    ],
    held_out: &["Blood pressure measured {bp}.", "Temperature was {temp}, heart rate {pulse}."],
};

/// Other people and earlier times.
pub const HISTORY: Pool = Pool {
    seen: &[
        "{His} father had a stroke at {other_age}.",
        "Mother died of a heart attack aged {other_age}.",
        "Past history of {symptom} in {year}.",
        "Seen by Dr {doctor} in {year} for {symptom}.",
        "Denies {symptom}.",
        "No {symptom} and no weight loss.",
        "Lives with {other_age}-year-old sibling.",
        "Last seen here on {old_date}.",
    ],
    held_out: &[
        "An aunt developed diabetes at {other_age}.",
        "Dr {doctor} treated {symptom} back in {year}, now gone.",
        "There is no {symptom} at all.",
        "Came with a neighbour, {other_age}.",
    ],
};

pub const ROUTINE: Pool = Pool {
    seen: &[
        "Routine referral.",
        "Whenever there is a slot.",
        "No rush.",
        "Routine appointment please.",
        "Happy to wait for the next clinic.",
        "Not urgent.",
    ],
    held_out: &["This can wait its turn.", "At your convenience.", "Nothing pressing."],
};

pub const URGENT: Pool = Pool {
    seen: &[
        "Two-week wait please.",
        "Urgent please.",
        "Please see within two weeks.",
        "I would be grateful for an urgent appointment.",
        "Suspected cancer pathway.",
        "Please expedite.",
    ],
    held_out: &["Should be seen inside a fortnight.", "Please bring this forward.", "2WW."],
};

pub const EMERGENCY: Pool = Pool {
    seen: &[
        "Please see today.",
        "Same day assessment please.",
        "Sending over to you now.",
        "Emergency referral.",
        "Needs to be seen immediately.",
    ],
    held_out: &["Cannot wait until tomorrow.", "On the way to you by ambulance."],
};

/// To whom, in sentences and in note form.
pub const DEAR: Pool = Pool {
    seen: &["Dear {specialty} team,", "To: {specialty}", "{Specialty} clinic,", "FAO {specialty}:"],
    held_out: &["For the attention of {specialty} colleagues,", "{Specialty} department -"],
};

pub const DEAR_ANYONE: Pool = Pool {
    seen: &["Dear colleague,", "Dear doctor,", "To whom it may concern,", "Hello,"],
    held_out: &["Dear all,", "Good morning,"],
};

pub const DATED: Pool = Pool {
    seen: &["{date}", "Date: {date}", "Referred {date}", "Seen {date}"],
    held_out: &["Written on {date}", "Date of referral {date}"],
};

pub const SIGNED: Pool = Pool {
    seen: &["Dr {doctor}", "Yours sincerely, Dr {doctor}", "Kind regards, Dr {doctor}, GP"],
    held_out: &["With thanks, Dr {doctor}", "Signed: Dr {doctor} (GP partner)"],
};

/// Labels of lists: name, age, sex, problem, medicines, allergies, weight, urgency, date.
pub const LABELS: [[&str; 9]; 3] = [
    ["Name", "Age", "Sex", "Problem", "Medication", "Allergies", "Weight", "Priority", "Date"],
    ["Patient", "Age", "Gender", "Reason", "Meds", "Allergies", "Wt", "Urgency", "Referred on"],
    ["Pt", "Years", "Sex", "Presenting complaint", "Drugs", "Allergy", "Weight", "How soon", "Dated"],
];

pub const HELD_OUT_LABELS: [[&str; 9]; 1] = [[
    "Full name",
    "Age in years",
    "M or F",
    "Why",
    "Takes",
    "Reacts to",
    "Body weight",
    "Time frame",
    "Referral date",
]];
