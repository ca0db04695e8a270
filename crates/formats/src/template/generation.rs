//! The `{% generation %}` blocks that Hugging Face added to Jinja: they mark what the assistant says. The engine does not
//! know them, so they are rewritten to blocks that it knows, with room for a mark at each end. It knows no messages.

/// The variables whose values are written where a block begins and ends; nothing is written where they are undefined.
pub(super) const BEGIN: &str = "__generation_begins";
pub(super) const END: &str = "__generation_ends";

/// The source with every generation block rewritten, and whether there was one.
///
/// `{% generation %}…{% endgeneration %}` becomes `{% with %}{{ BEGIN }}…{{ END }}{% endwith %}`: a scope, as in Jinja.
/// A block of its own stands between each mark and the neighbouring text, because white space after a block is treated
/// differently from that after an expression.
pub(super) fn rewrite(source: &str) -> (String, bool) {
    let (mut out, mut rest, mut found) = (String::with_capacity(source.len()), source, false);
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open);
        out += before;
        let Some(close) = tag[2..].find("%}").map(|at| at + 2) else {
            rest = tag;
            break;
        };
        let inner = &tag[2..close];
        let left = if inner.starts_with(['-', '+']) { &inner[..1] } else { "" };
        let right = if inner.ends_with(['-', '+']) { &inner[inner.len() - 1..] } else { "" };
        let name = inner.trim_matches(['-', '+']).trim();
        match name {
            "generation" => {
                out += &format!("{{%{left} with %}}{{{{ {BEGIN} }}}}{{% if true %}}{{% endif {right}%}}");
            }
            "endgeneration" => {
                out += &format!("{{%{left} if true %}}{{% endif %}}{{{{ {END} }}}}{{% endwith {right}%}}");
            }
            _ => {
                out += &tag[..close + 2];
                rest = &tag[close + 2..];
                continue;
            }
        }
        found = true;
        rest = &tag[close + 2..];
    }
    out += rest;
    (out, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_blocks_stay_as_they_are() {
        let source = "{% if x %}a{%- generation -%} b {% endgeneration %}{{ '{%' }}";
        let (out, found) = rewrite(source);
        assert!(found);
        assert!(out.starts_with("{% if x %}a{%- with %}"), "{out}");
        assert!(out.contains("{% endif -%} b {% if true"), "{out}");
        assert!(out.ends_with("{% endwith %}{{ '{%' }}"), "{out}");
        assert_eq!(rewrite("{% if a %}{{ b }}{% endif %}"), ("{% if a %}{{ b }}{% endif %}".into(), false));
    }
}
