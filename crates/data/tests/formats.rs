//! Every format and container, read from a file; every fault reported with its line.

mod common;

use common::file;
use ounce_data::{Content, DataError, Dataset, Format, Part, load};
use serde_json::{Value, json};

fn chat(dataset: &Dataset, i: usize) -> &Value {
    match &dataset.examples[i].turns {
        Content::Chat { messages, .. } => messages,
        other => panic!("not a chat: {other:?}"),
    }
}

fn auto(path: &str) -> Dataset {
    load(&[path.to_owned()], "auto", Part::Train).expect("load")
}

fn bad(path: &str, format: &str) -> Vec<(usize, String)> {
    match load(&[path.to_owned()], format, Part::Train) {
        Err(DataError::BadRows { bad }) => bad.into_iter().map(|b| (b.line, b.reason)).collect(),
        other => panic!("no bad rows: {other:?}"),
    }
}

#[test]
fn messages_keep_calls_and_join_text_parts() {
    let dir = tempfile::tempdir().unwrap();
    let rows = [
        json!({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}),
        json!({"messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]},
            {"role": "tool", "content": "3", "tool_call_id": "x", "name": null},
            {"role": "assistant", "content": "three"}],
          "tools": [{"type": "function", "function": {"name": "f"}}]}),
    ];
    let text: String = rows.iter().map(|r| format!("{r}\n")).collect();
    let data = auto(&file(&dir, "a.jsonl", text));
    assert_eq!(data.files[0].because, "messages: every row has `messages`");
    assert_eq!(data.examples[1].source, (0, 2));
    let messages = chat(&data, 1);
    assert_eq!(messages[0]["content"], "ab");
    assert_eq!(messages[1]["content"], Value::Null);
    assert!(messages[2].get("name").is_none(), "null fields are absent fields");
    assert!(matches!(&data.examples[1].turns, Content::Chat { tools: Some(t), .. } if t[0]["function"]["name"] == "f"));
}

#[test]
fn alpaca_becomes_a_conversation() {
    let dir = tempfile::tempdir().unwrap();
    let rows = json!([
        {"instruction": "add", "input": "1 2", "output": "3"},
        {"instruction": "go on", "input": "", "output": "5", "system": "terse", "history": [["one", "two"]]},
    ]);
    let data = auto(&file(&dir, "a.json", serde_json::to_string_pretty(&rows).unwrap()));
    assert_eq!(data.files[0].format, Format::Alpaca);
    assert_eq!(data.examples.iter().map(|e| e.source.1).collect::<Vec<_>>(), [2, 7], "lines where the rows start");
    assert_eq!(
        *chat(&data, 0),
        json!([{"role": "user", "content": "add\n1 2"}, {"role": "assistant", "content": "3"}])
    );
    let roles: Vec<_> = chat(&data, 1).as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
}

#[test]
fn sharegpt_roles_are_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let row = json!({"system": "s", "tools": "[{\"name\": \"f\"}]", "conversations": [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},
        {"from": "observation", "value": "1"},
        {"from": "gpt", "value": "a"}]});
    let data = auto(&file(&dir, "a.jsonl", row.to_string()));
    assert_eq!(
        *chat(&data, 0),
        json!([
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]},
            {"role": "tool", "content": "1"},
            {"role": "assistant", "content": "a"}
        ])
    );
    assert!(matches!(&data.examples[0].turns, Content::Chat { tools: Some(_), .. }));
}

#[test]
fn prompt_and_completion_as_strings_and_as_messages() {
    let dir = tempfile::tempdir().unwrap();
    let text = "\u{feff}prompt,completion\r\n\"a, \"\"b\"\"\",x\r\n\r\n\"two\r\nlines\",y\r\n";
    let data = auto(&file(&dir, "a.csv", text));
    let pair = |p: &str, c: &str| Content::PromptCompletion { prompt: p.into(), completion: c.into() };
    assert_eq!(data.examples[0].turns, pair("a, \"b\"", "x"));
    assert_eq!(data.examples[1].turns, pair("two\nlines", "y"));
    assert_eq!(data.examples[1].source.1, 4);

    let semicolons = auto(&file(&dir, "b.csv", "prompt;completion\n1,5;2\n"));
    assert_eq!(semicolons.examples[0].turns, pair("1,5", "2"));

    let row = json!({"prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "given"},
                                {"role": "user", "content": "r"}],
                     "completion": [{"role": "assistant", "content": "a"}]});
    let data = auto(&file(&dir, "c.jsonl", row.to_string()));
    assert!(matches!(&data.examples[0].turns, Content::Chat { given_answers: 1, messages, .. }
        if messages.as_array().is_some_and(|m| m.len() == 4)));
}

#[test]
fn a_text_file_is_one_document_and_jsonl_text_is_one_per_row() {
    let dir = tempfile::tempdir().unwrap();
    let data = auto(&file(&dir, "a.txt", "one\r\n\r\ntwo"));
    assert_eq!(data.examples[0].turns, Content::Text("one\n\ntwo".into()));
    let data = auto(&file(&dir, "a.jsonl", "{\"text\": \"one\"}\r\n\r\n  \n{\"text\": \"two\"}"));
    assert_eq!(data.examples.len(), 2);
    assert_eq!(data.examples[1].source.1, 4, "blank lines are counted, not read");
}

#[test]
fn json_lines_under_the_name_json_and_a_list_inside_an_object() {
    let dir = tempfile::tempdir().unwrap();
    let lines = auto(&file(&dir, "a.json", "{\"text\": \"1\"}\n{\"text\": \"2\"}\n"));
    assert_eq!(lines.examples.len(), 2);
    let wrapped = auto(&file(&dir, "b.json", "{\"data\":\n[{\"text\": \"1\"},\n{\"text\": \"2\"}]}"));
    assert_eq!(wrapped.examples[1].source.1, 3);
    // On one line a line says nothing: the row's place in the list does.
    let dense = file(&dir, "c.json", "\n[{\"text\": \"1\"}, {\"text\": 2}, {\"text\": \"3\"}]");
    assert_eq!(bad(&dense, "auto"), [(2, "`text` is a number, not a string".into())]);
}

#[test]
fn the_format_of_most_rows_is_taken_and_the_rest_are_bad_rows() {
    let dir = tempfile::tempdir().unwrap();
    let pair = r#"{"prompt": "p", "completion": "c"}"#;
    let most = file(&dir, "a.jsonl", [pair, pair, r#"{"prompt": "p"}"#, pair, r#"{"text": "t"}"#].join("\n"));
    assert_eq!(bad(&most, "auto").into_iter().map(|(line, _)| line).collect::<Vec<_>>(), [3, 5]);
    // Half are not most.
    let half = file(&dir, "b.jsonl", [pair, r#"{"text": "t"}"#].join("\n"));
    assert!(matches!(load(&[half], "auto", Part::Train), Err(DataError::Undetected { .. })));
}

#[test]
fn parquet_rows_with_nested_messages_are_read() {
    use parquet::{
        data_type::{ByteArray, ByteArrayType},
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };
    let dir = tempfile::tempdir().unwrap();
    let schema = "message m { optional group messages (LIST) { repeated group list { optional group element {
        optional binary role (UTF8); optional binary content (UTF8); } } } }";
    let schema = std::sync::Arc::new(parse_message_type(schema).unwrap());
    let path = dir.path().join("a.parquet");
    let out = std::fs::File::create(&path).unwrap();
    let properties = WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).build();
    let mut writer = SerializedFileWriter::new(out, schema, properties.into()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for texts in [["user", "assistant", "user", "assistant"], ["q1", "a1", "q2", "a2"]] {
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = texts.iter().map(|t| ByteArray::from(*t)).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&[4, 4, 4, 4]), Some(&[0, 1, 0, 1])).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    let data = auto(path.to_str().unwrap());
    assert_eq!(data.examples.len(), 2);
    assert_eq!(*chat(&data, 1), json!([{"role": "user", "content": "q2"}, {"role": "assistant", "content": "a2"}]));

    // The same file with a compression that is not read: in a column's metadata it follows the path, 1 is snappy, 2 gzip.
    let mut bytes = std::fs::read(&path).unwrap();
    let codec = bytes.windows(9).position(|part| part == b"content\x15\x02").unwrap() + 8;
    bytes[codec] = 4;
    let refused = bad(&file(&dir, "b.parquet", bytes), "auto");
    let want =
        "column messages.list.element.content is compressed with gzip; save it with snappy, zstd or no compression";
    assert_eq!(refused, [(1, want.to_owned())]);
}

#[test]
fn every_bad_row_is_listed_with_its_line_and_reason() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = Vec::new();
    text.extend(b"{\"messages\": [{\"role\": \"user\", \"content\": \"ok\"}]}\n");
    text.extend(b"{\"messages\": [{\"role\": \"user\", \"content\": \n");
    text.extend(b"[1]\n\n");
    text.extend(b"{\"messages\": []}\n");
    text.extend(b"{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\"}]}\n");
    text.extend(b"{\"messages\": [{\"role\": \"boss\", \"content\": \"x\"}]}\n");
    text.extend(b"{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]}\n");
    text.extend("[".repeat(200_000).as_bytes());
    text.extend(b"\n{\"other\": 1}\n");
    let bad = bad(&file(&dir, "a.jsonl", text), "messages");
    let lines: Vec<usize> = bad.iter().map(|b| b.0).collect();
    assert_eq!(lines, [2, 3, 5, 6, 7, 8, 9, 10]);
    let expect = [
        "not JSON: EOF while parsing a value",
        "a list, not an object",
        "`messages` is empty",
        "not UTF-8: byte 0xff at column 44",
        "messages[0]: unknown role `boss`",
        "messages[0]: `content` has a part of type `image_url`",
        "not JSON: recursion limit exceeded",
        "no `messages`; fields: other",
    ];
    for ((_, reason), expect) in bad.iter().zip(expect) {
        assert!(reason.starts_with(expect), "{reason}\nshould start with\n{expect}");
    }
}

#[test]
fn faults_of_whole_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(bad(&file(&dir, "u.jsonl", b"\xff\xfe{\0"), "auto")[0].1, "the file is UTF-16; save it as UTF-8");
    assert_eq!(
        bad(&file(&dir, "u.txt", b"ab\ncd\xe9"), "auto"),
        [(2, "not UTF-8: byte 0xe9 at column 3; save the file as UTF-8".into())]
    );
    let long = format!("{{\"text\": \"{}\"}}\n{{\"text\": \"b\"}}\n", "a".repeat(16 << 20));
    assert!(bad(&file(&dir, "l.jsonl", long), "auto")[0].1.starts_with("the line has 16777"));
    let csv = bad(&file(&dir, "a.csv", "prompt,completion\n1,2\n1\n3,4,5\n"), "auto");
    assert_eq!(csv.iter().map(|b| b.0).collect::<Vec<_>>(), [3, 4]);
    assert!(csv[0].1.starts_with("1 fields, but the header has 2"), "{}", csv[0].1);
    assert!(bad(&file(&dir, "a.parquet", "PAR1 cut off"), "auto")[0].1.starts_with("not Parquet"));
    let says = |path: &str, format: &str| load(&[path.to_owned()], format, Part::Train).unwrap_err().to_string();
    assert!(says(&file(&dir, "e.jsonl", "\n"), "auto").contains("holds no rows"));
    assert!(says(&file(&dir, "a.gz", ""), "auto").contains("unpack it first"));
    let preference = says(&file(&dir, "p.jsonl", "{\"chosen\": 1, \"rejected\": 2}"), "auto");
    assert!(preference.contains("preference pairs"), "{preference}");
    let unknown = says(&file(&dir, "q.jsonl", "{\"question\": 1, \"reply\": 2}"), "auto");
    assert!(unknown.contains("cannot be told from the fields question, reply"), "{unknown}");
    assert!(says("x.jsonl", "parrot").contains("unknown data format `parrot`"));
    let missing = says(&dir.path().join("nope.jsonl").display().to_string(), "auto");
    assert!(missing.contains("does not exist") && missing.contains("a.csv"), "{missing}");
}

#[test]
fn directories_parts_weights_and_dataset_info() {
    let dir = tempfile::tempdir().unwrap();
    for part in ["train", "valid", "test"] {
        file(&dir, &format!("{part}.jsonl"), format!("{{\"text\": \"{part}\"}}\n"));
    }
    let path = dir.path().to_str().unwrap().to_owned();
    for (part, name) in [(Part::Train, "train"), (Part::Valid, "valid"), (Part::Test, "test")] {
        let data = load(std::slice::from_ref(&path), "auto", part).unwrap();
        assert_eq!(data.examples[0].turns, Content::Text(name.into()));
    }
    let weighted = load(&[format!("{path}/train.jsonl:0.25"), format!("{path}/valid.jsonl")], "auto", Part::Train);
    assert_eq!(weighted.unwrap().files.iter().map(|f| f.weight).collect::<Vec<_>>(), [0.25, 1.0]);
    assert!(load(&[format!("{path}/train.jsonl:-1")], "auto", Part::Train).is_err());

    let info = json!({
        "mine": {"file_name": "mine.json", "columns": {"prompt": "frage", "response": "antwort"}, "num_samples": 1},
        "talk": {"file_name": "talk.json", "formatting": "sharegpt", "columns": {"messages": "turns"},
                 "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "U", "assistant_tag": "A"}},
        "pairs": {"file_name": "mine.json", "ranking": true}
    });
    let other = tempfile::tempdir().unwrap();
    file(&other, "dataset_info.json", info.to_string());
    file(&other, "mine.json", json!([{"frage": "q", "antwort": "a"}, {"frage": "q", "antwort": "b"}]).to_string());
    file(&other, "talk.json", json!([{"turns": [{"who": "U", "says": "q"}, {"who": "A", "says": "a"}]}]).to_string());
    let named = |name: &str| other.path().join(name).display().to_string();
    let expect = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
    let mine = auto(&named("mine"));
    assert_eq!((mine.examples.len(), chat(&mine, 0)), (1, &expect));
    assert_eq!(*chat(&auto(&named("talk")), 0), expect);
    let says = |path: String| load(&[path], "auto", Part::Train).unwrap_err().to_string();
    assert!(says(named("pairs")).contains("preference pairs"));
    assert!(says(named("none")).contains("mine, talk, pairs"));
    assert!(says(named("")).contains("choose one"));
}

#[test]
fn splits_and_samples_are_drawn_by_content_and_seed() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..200).map(|i| format!("{{\"text\": \"{}\"}}\n", i % 190)).collect();
    let data = auto(&file(&dir, "a.jsonl", text));
    let (rest, held) = data.clone().split(0.1, 7);
    assert!((20..=22).contains(&held.examples.len()));
    assert_eq!(rest.examples.len() + held.examples.len(), 200);
    assert_eq!(rest.files[0].rows, rest.examples.len());
    assert!(held.examples.iter().all(|h| rest.examples.iter().all(|r| r.turns != h.turns)), "copies stay together");
    assert_eq!(data.clone().split(0.1, 7).1, held);
    assert_ne!(data.clone().split(0.1, 8).1, held);
    assert_eq!(data.clone().split(0.0, 7).1.examples.len(), 0);
    let mut drawn = data.clone();
    drawn.limit(50, 3);
    assert_eq!(drawn.examples.len(), 50);
    assert!(drawn.examples.is_sorted_by_key(|e| e.source.1));
}

#[test]
fn a_fingerprint_follows_contents_and_weights_not_places() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = auto(&file(&a, "a.jsonl", "{\"text\": \"x\"}")).fingerprint();
    assert_eq!(one, auto(&file(&b, "other.jsonl", "{\"text\": \"x\"}")).fingerprint());
    assert_ne!(one, auto(&file(&b, "third.jsonl", "{\"text\": \"y\"}")).fingerprint());
    let weighted = format!("{}:2", a.path().join("a.jsonl").display());
    assert_ne!(one, auto(&weighted).fingerprint());
}
