//! What a template may do to us (nothing) and what it may say to the user.

use ounce_formats::template::{CHATML, ChatTemplate, MAX_SOURCE_BYTES, RenderOptions, TemplateError};
use serde_json::{Value, json};

fn render(source: &str) -> Result<String, TemplateError> {
    ChatTemplate::new(source, Some("<s>"), Some("</s>"))?
        .render(&json!([{"role": "user", "content": "hi"}]), &RenderOptions::default())
}

/// A piece repeated until the source is as long as it may be.
fn filled(before: &str, piece: &str, after: &str) -> String {
    let count = (MAX_SOURCE_BYTES - before.len() - after.len()) / piece.len();
    format!("{before}{}{after}", piece.repeat(count))
}

#[test]
fn hostile_templates_end_in_time_and_not_in_an_abort() {
    let nested = |open: &str, close: &str, n: usize| format!("{}{}", open.repeat(n), close.repeat(n));
    let cases = [
        ("not", filled("{{ ", "not ", "x }}")),
        ("attributes", filled("{{ m", ".a", " }}")),
        ("items", filled("{{ m", "[0]", " }}")),
        ("filters", filled("{{ 'a'", "|upper", " }}")),
        ("powers", filled("{{ 2", "**2", " }}")),
        ("sums", filled("{{ 1", "+1", " }}")),
        ("joins", filled("{{ 1", "~1", " }}")),
        ("and", filled("{{ 1", " and 1", " }}")),
        ("or", filled("{{ 0", " or 0", " }}")),
        ("calls", filled("{{ x", "()", " }}")),
        ("choices", filled("{{ 1", " if 1 else 1", " }}")),
        ("elif", filled("{% if 0 %}", "{% elif 0 %}", "{% endif %}")),
        ("minus", filled("{{ ", "-", "1 }}")),
        ("comparisons", filled("{{ 1", " < 1", " }}")),
        ("tests", filled("{{ 1", " is odd", " }}")),
        ("parentheses", format!("{{{{ {} }}}}", nested("(", ")", 8_000))),
        ("lists", format!("{{{{ {} }}}}", nested("[", "]", 8_000))),
        ("ifs", nested("{% if 1 %}", "{% endif %}", 1_500)),
        ("loops", nested("{% for x in [1, 2, 3] %}", "{% endfor %}", 800)),
        ("long loop", "{% for x in range(1000000000) %}a{% endfor %}".into()),
        ("loops in loops", "{% for x in range(9999) %}{% for y in range(9999) %}{% for z in range(9999) %}{% endfor %}{% endfor %}{% endfor %}".into()),
        ("long text", "{{ 'a' * 2000000000 }}".into()),
        ("doubling", "{% set ns = namespace(s='aaaaaaaa') %}{% for x in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}".into()),
        ("doubling lists", "{% set ns = namespace(s=[1]) %}{% for x in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s|length }}".into()),
        ("recursion", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".into()),
        ("cycle", "{% for x in [1] %}{{ loop.cycle() }}{% endfor %}".into()),
        ("much output", "{% for x in range(4000000) %}aaaaaaaaaaaaaaaa{% endfor %}".into()),
        ("replace", "{{ ('a' * 60000).replace('a', 'b' * 60000)|length }}".into()),
        ("indent", "{{ [[[[1]]]]|tojson(indent=1000000000) }}".into()),
        ("pad", "{{ '%2000000000d' | format(1) }}".into()),
    ];
    for (name, source) in cases {
        let start = std::time::Instant::now();
        let result = render(&source);
        let seconds = start.elapsed().as_secs_f64();
        // Compiling and rendering have two seconds each; the rest is for a busy machine.
        assert!(seconds < 60.0, "{name}: {seconds} s");
        if let Ok(text) = result {
            assert!(text.len() < 20 << 20, "{name}: {} bytes", text.len());
        }
    }
    // The process still works.
    assert_eq!(render("{{ messages[0].content }}").unwrap(), "hi");
}

#[test]
fn errors_say_what_and_where() {
    let check = |source: &str, want: &str| {
        let error = render(source).expect_err(source).to_string();
        assert!(error.contains(want), "{source}: {error}");
    };
    check("{{ raise_exception('roles must alternate') }}", "refuses this conversation: roles must alternate");
    check("a\n{% if %}", "does not compile");
    check("a\n{{ nothing.at.all }}", "line 2");
    check(&"x".repeat(MAX_SOURCE_BYTES + 1), "the limit is 32768");
    check("{{ messages.__class__.__mro__ }}", "cannot render");
    check("{% include 'secrets' %}", "cannot render");
    let template = ChatTemplate::new(CHATML, None, None).unwrap();
    let options = RenderOptions::default();
    let error = |messages: Value| template.render(&messages, &options).unwrap_err().to_string();
    assert!(error(json!("hi")).contains("this is no list"));
    assert!(error(json!([{"role": "user"}, {"content": "x"}, 7])).contains("2 messages have none, the first is 1"));
    let extra = [("messages".to_string(), json!([]))].into_iter().collect();
    let taken = template.render(&json!([]), &RenderOptions { extra, ..Default::default() }).unwrap_err();
    assert!(matches!(taken, TemplateError::ReservedName { .. }));
}

#[test]
fn chatml_is_chatml() {
    let template = ChatTemplate::new(CHATML, None, None).unwrap();
    let messages = json!([{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]);
    let options = RenderOptions { add_generation_prompt: true, ..Default::default() };
    let want = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(template.render(&messages, &options).unwrap(), want);
}

fn spans(source: &str, messages: Value) -> Result<(String, Vec<String>), TemplateError> {
    let template = ChatTemplate::new(source, None, None).unwrap();
    let (text, spans) = template.render_with_answer_spans(&messages, &RenderOptions::default())?;
    assert_eq!(text, template.render(&messages, &RenderOptions::default()).unwrap());
    let answers = spans.iter().map(|span| text[span.clone()].to_string()).collect();
    Ok((text, answers))
}

fn conversation() -> Value {
    json!([
        {"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"},
        {"role": "user", "content": "q2"}, {"role": "assistant", "content": "a2"},
    ])
}

#[test]
fn answers_of_plain_templates_come_from_prefixes() {
    assert_eq!(spans(CHATML, conversation()).unwrap().1, ["a1<|im_end|>\n", "a2<|im_end|>\n"]);
}

#[test]
fn answers_of_generation_blocks_come_from_the_blocks() {
    let source = "{% for m in messages %}\n<{{ m.role }}>\n  {% if m.role == 'assistant' %}\n  {%- generation %}\n{{ m.content }}<end>\n  {%- endgeneration -%}\n  {% else %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}\n";
    let (text, answers) = spans(source, conversation()).unwrap();
    // Text and ranges are those of Hugging Face.
    assert_eq!(text, "<user>\nq1\n<assistant>\na1<end><user>\nq2\n<assistant>\na2<end>");
    assert_eq!(answers, ["a1<end>", "a2<end>"]);
    assert!(ChatTemplate::new(source, None, None).unwrap().has_generation_blocks());
    let odd = json!([{"role": "assistant", "content": "\u{fdd0}0:<\u{fdd0}0:>"}]);
    assert_eq!(spans(source, odd).unwrap().1, ["\u{fdd0}0:<\u{fdd0}0:><end>"]);
}

#[test]
fn answers_of_templates_that_change_the_last_turn_come_from_their_content() {
    // Like Qwen 3: only the last turn has a thought.
    let source = "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ m.content }}[end]{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
    assert_eq!(spans(source, conversation()).unwrap().1, ["a1[end]", "<think></think>a2[end]"]);
    // The generation prompt goes on where the turn does not.
    let source = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}{% if add_generation_prompt %}[assistant]<think>\n{% endif %}";
    assert_eq!(spans(source, conversation()).unwrap().1, ["a1[end]", "a2[end]"]);
}

#[test]
fn answers_that_cannot_be_found_are_an_error_and_not_a_guess() {
    let source = "{% for m in messages %}{{ m.content|reverse }}{{ loop.length }}{% endfor %}";
    let error = spans(source, conversation()).unwrap_err();
    assert!(matches!(error, TemplateError::NoSpan { message: 1, .. }), "{error}");
    assert!(error.to_string().contains("{% generation %}"), "{error}");
}
