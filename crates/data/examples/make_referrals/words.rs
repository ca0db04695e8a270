//! The closed sets: names, problems, drugs, allergens. Everything is invented; no line comes from a real record.

/// A complaint: what the answer calls it, who treats it, and how notes say it. The last wording is never in `train`.
pub struct Problem {
    pub label: &'static str,
    pub specialty: &'static str,
    pub said: [&'static str; 3],
    pub held_out: &'static str,
}

const fn p(specialty: &'static str, label: &'static str, said: [&'static str; 3], held_out: &'static str) -> Problem {
    Problem { label, specialty, said, held_out }
}

pub const PROBLEMS: [Problem; 36] = [
    p(
        "cardiology",
        "chest pain",
        ["chest pain on exertion", "tightness across the chest when climbing stairs", "central chest pain"],
        "a squeezing feeling behind the breastbone on effort",
    ),
    p(
        "cardiology",
        "palpitations",
        ["palpitations", "a racing heart at rest", "episodes of fast irregular heartbeat"],
        "a fluttering heart most evenings",
    ),
    p(
        "cardiology",
        "ankle swelling",
        ["ankle swelling", "ankles that swell by evening", "pitting oedema of both ankles"],
        "puffy feet and ankles",
    ),
    p(
        "orthopaedics",
        "knee pain",
        ["knee pain", "a painful left knee", "pain in the right knee on stairs"],
        "an aching knee that gives way",
    ),
    p(
        "orthopaedics",
        "hip pain",
        ["hip pain", "pain in the left hip", "a stiff painful hip"],
        "a sore hip that disturbs sleep",
    ),
    p(
        "orthopaedics",
        "shoulder pain",
        ["shoulder pain", "a frozen right shoulder", "pain in the shoulder on lifting the arm"],
        "an achy shoulder with little movement",
    ),
    p(
        "dermatology",
        "rash",
        ["an itchy rash", "a widespread rash", "a scaly rash on the elbows"],
        "red itchy patches of skin",
    ),
    p(
        "dermatology",
        "changing mole",
        ["a changing mole", "a mole that has darkened", "a growing mole on the back"],
        "a pigmented spot with an irregular edge",
    ),
    p(
        "dermatology",
        "acne",
        ["severe acne", "acne not responding to creams", "scarring acne"],
        "persistent facial spots and pustules",
    ),
    p(
        "neurology",
        "headache",
        ["daily headaches", "a throbbing one-sided headache", "recurrent headache"],
        "pounding pain in the head",
    ),
    p(
        "neurology",
        "seizure",
        ["a first seizure", "a fit at home", "two seizures this month"],
        "a convulsion witnessed at work",
    ),
    p(
        "neurology",
        "tremor",
        ["a tremor of the hands", "a resting tremor", "shaking of the right hand"],
        "trembling fingers when holding a cup",
    ),
    p(
        "neurology",
        "numbness",
        ["numbness of the fingers", "numb feet", "tingling and numbness in both hands"],
        "loss of feeling in the toes",
    ),
    p(
        "gastroenterology",
        "abdominal pain",
        ["abdominal pain", "cramping pain in the abdomen", "upper abdominal pain"],
        "a griping belly ache",
    ),
    p(
        "gastroenterology",
        "rectal bleeding",
        ["rectal bleeding", "bright red blood in the stool", "bleeding from the back passage"],
        "blood on the paper after opening bowels",
    ),
    p(
        "gastroenterology",
        "difficulty swallowing",
        ["difficulty swallowing", "food sticking on swallowing", "trouble swallowing solids"],
        "meat getting stuck on the way down",
    ),
    p(
        "gastroenterology",
        "heartburn",
        ["heartburn", "acid reflux", "burning behind the sternum after meals"],
        "acid coming up at night",
    ),
    p(
        "ENT",
        "hearing loss",
        ["hearing loss", "deafness in the left ear", "gradual loss of hearing"],
        "not following conversations any more, both ears",
    ),
    p(
        "ENT",
        "nosebleeds",
        ["recurrent nosebleeds", "heavy nosebleeds", "bleeding from the nose"],
        "a nose that bleeds every week",
    ),
    p("ENT", "hoarseness", ["hoarseness", "a hoarse voice", "a husky voice"], "a croaky voice"),
    p(
        "ENT",
        "tinnitus",
        ["tinnitus", "ringing in the ears", "a constant ringing in one ear"],
        "a whistling noise in both ears",
    ),
    p(
        "ophthalmology",
        "blurred vision",
        ["blurred vision", "blurring of vision on the left", "cloudy vision in one eye"],
        "sight that has become misty",
    ),
    p(
        "ophthalmology",
        "eye pain",
        ["eye pain", "a painful red eye", "pain in the left eye"],
        "a sore eye that dislikes light",
    ),
    p(
        "ophthalmology",
        "floaters",
        ["new floaters", "floaters in the right eye", "flashes and floaters"],
        "black specks drifting across the view",
    ),
    p(
        "urology",
        "blood in urine",
        ["blood in the urine", "visible haematuria", "painless haematuria"],
        "urine that turned pink",
    ),
    p(
        "urology",
        "incontinence",
        ["urinary incontinence", "leaking urine on coughing", "incontinence of urine"],
        "not reaching the toilet in time",
    ),
    p(
        "urology",
        "kidney stones",
        ["kidney stones", "renal stones on a scan", "renal colic from stones"],
        "gravel and small stones passed in urine",
    ),
    p(
        "respiratory",
        "cough",
        ["a persistent cough", "a dry cough", "a chronic cough"],
        "coughing that will not settle",
    ),
    p(
        "respiratory",
        "breathlessness",
        ["breathlessness", "shortness of breath", "shortness of breath on walking"],
        "getting out of puff on the flat",
    ),
    p(
        "respiratory",
        "wheeze",
        ["wheeze", "wheezing at night", "an expiratory wheeze"],
        "a whistling chest after exercise",
    ),
    p(
        "rheumatology",
        "joint swelling",
        ["joint swelling in the hands", "swelling of several joints", "swollen finger joints"],
        "puffy knuckles and wrists",
    ),
    p(
        "rheumatology",
        "morning stiffness",
        ["morning stiffness", "stiffness for hours after waking", "prolonged early morning stiffness"],
        "hands that will not bend until noon",
    ),
    p("psychiatry", "low mood", ["low mood", "persistent low mood", "depressed mood"], "feeling down and tearful"),
    p("psychiatry", "anxiety", ["anxiety", "severe anxiety", "constant worry and anxiety"], "fear and worry all day"),
    p(
        "endocrinology",
        "thirst",
        ["excessive thirst", "constant thirst", "marked thirst and polyuria"],
        "drinking litres of water a day",
    ),
    p(
        "endocrinology",
        "thyroid lump",
        ["a thyroid lump", "a thyroid nodule", "a lump in the thyroid"],
        "a swelling low in the front of the neck",
    ),
];

pub const WOMEN: [&str; 36] = [
    "Mary", "Helen", "Susan", "Fatima", "Grace", "Priya", "Anna", "Margaret", "Chloe", "Olivia", "Ruth", "Amina",
    "Joan", "Linda", "Sofia", "Emma", "Nadia", "Irene", "Wendy", "Patricia", "Claire", "Hannah", "Mei", "Zainab",
    "Doris", "Elena", "Maria", "Karen", "Janet", "Sarah", "Lucy", "Yasmin", "Brenda", "Esther", "Nicola", "Freya",
];

pub const MEN: [&str; 36] = [
    "John", "Peter", "Ahmed", "David", "Samuel", "Raj", "Thomas", "George", "Oliver", "Daniel", "Victor", "Hassan",
    "Brian", "Kevin", "Marco", "James", "Omar", "Walter", "Stephen", "Patrick", "Colin", "Henry", "Wei", "Kwame",
    "Albert", "Ivan", "Carlos", "Martin", "Gareth", "Simon", "Luke", "Yusuf", "Derek", "Joseph", "Neil", "Finlay",
];

/// Names that do not tell the sex: the only ones in notes that do not say it.
pub const EITHER: [&str; 12] =
    ["Alex", "Sam", "Robin", "Jordan", "Taylor", "Morgan", "Casey", "Jamie", "Charlie", "Frankie", "Kim", "Lee"];

pub const SURNAMES: [&str; 60] = [
    "Collins", "Hughes", "Patel", "Okafor", "Brown", "Walker", "Novak", "Khan", "Evans", "Murphy", "Taylor", "Singh",
    "Wright", "Fraser", "Adeyemi", "Lewis", "Hill", "Campbell", "Rossi", "Begum", "Turner", "Ward", "Mensah", "Clarke",
    "Shah", "Bennett", "Gray", "Kowalski", "Price", "Hussain", "Reid", "Foster", "Nguyen", "Dixon", "Graham", "Ali",
    "Jenkins", "Osei", "Palmer", "Stone", "Chapman", "Iqbal", "Webb", "Silva", "Barnes", "Kaur", "Dunn", "Harvey",
    "Lowe", "Mills", "Rahman", "Sutton", "Vaughan", "Yates", "Abbott", "Chen", "Doyle", "Fox", "Grant", "Holt",
];

/// Surnames of patients that only `test` has.
pub const HELD_OUT_SURNAMES: [&str; 20] = [
    "Ashworth",
    "Birch",
    "Cartwright",
    "Danso",
    "Ellery",
    "Fenwick",
    "Gupta",
    "Hobbs",
    "Ibrahim",
    "Jarvis",
    "Kendrick",
    "Lockhart",
    "Maddox",
    "Norris",
    "Ogden",
    "Pereira",
    "Quinn",
    "Rowland",
    "Sharma",
    "Thorne",
];

pub const DOCTORS: [&str; 14] = [
    "Whitfield",
    "Acheampong",
    "Bose",
    "Carver",
    "Delaney",
    "Everett",
    "Farouk",
    "Goldman",
    "Hargreaves",
    "Ingram",
    "Joshi",
    "Kerr",
    "Lindqvist",
    "Moreau",
];

/// Drug and a usual dose.
pub const DRUGS: [(&str, &str); 26] = [
    ("ramipril", "5 mg"),
    ("amlodipine", "5 mg"),
    ("metformin", "500 mg twice daily"),
    ("atorvastatin", "20 mg"),
    ("simvastatin", "40 mg"),
    ("aspirin", "75 mg"),
    ("bisoprolol", "2.5 mg"),
    ("omeprazole", "20 mg"),
    ("lansoprazole", "30 mg"),
    ("levothyroxine", "75 micrograms"),
    ("sertraline", "50 mg"),
    ("citalopram", "20 mg"),
    ("salbutamol", "inhaler"),
    ("warfarin", "3 mg"),
    ("apixaban", "5 mg bd"),
    ("furosemide", "40 mg"),
    ("losartan", "50 mg"),
    ("gabapentin", "300 mg tds"),
    ("naproxen", "250 mg"),
    ("paracetamol", "1 g prn"),
    ("codeine", "30 mg prn"),
    ("prednisolone", "5 mg"),
    ("methotrexate", "10 mg weekly"),
    ("allopurinol", "100 mg"),
    ("tamsulosin", "400 micrograms"),
    ("insulin", "twice daily"),
];

pub const ALLERGENS: [&str; 10] = [
    "penicillin",
    "latex",
    "trimethoprim",
    "erythromycin",
    "ibuprofen",
    "nuts",
    "shellfish",
    "doxycycline",
    "iodine",
    "eggs",
];

/// Symptoms that notes deny or remember.
pub const SYMPTOMS: [&str; 14] = [
    "chest pain",
    "palpitations",
    "headache",
    "abdominal pain",
    "cough",
    "rash",
    "knee pain",
    "dizziness",
    "fever",
    "nausea",
    "tinnitus",
    "blurred vision",
    "back pain",
    "heartburn",
];

pub const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
