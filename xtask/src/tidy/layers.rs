//! Which crate may use which: the table in `docs/ARCHITECTURE.md` is the law, the `Cargo.toml` files are held against it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::{Finding, manifests};

const PAGE: &str = "docs/ARCHITECTURE.md";
const BEGIN: &str = "<!-- crate edges -->";
const END: &str = "<!-- end of crate edges -->";

type Edges = BTreeMap<String, BTreeSet<String>>;

pub fn check(root: &Path, findings: &mut Vec<Finding>) -> Result<(), String> {
    let path = root.join(PAGE);
    let page = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let allowed = table(&page)?;
    let mut real = Edges::new();
    for (name, text) in manifests(root)? {
        real.insert(name, uses(&text));
    }
    findings.extend(compare(&allowed, &real));
    Ok(())
}

/// The table between the two marks: `| crate | may use |`, names apart by commas, `–` for none.
fn table(page: &str) -> Result<Edges, String> {
    let between = page.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).map(|(table, _)| table);
    let rows = between.ok_or_else(|| format!("{PAGE} has no table between `{BEGIN}` and `{END}`"))?;
    let mut edges = Edges::new();
    for row in rows.lines().filter(|l| l.starts_with('|')).skip(2) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(|c| c.trim()).collect();
        let &[name, uses] = cells.as_slice() else { return Err(format!("{PAGE}: `{row}` has not two cells")) };
        let name = name.trim_matches('`');
        let uses = uses.split(',').map(|u| u.trim().trim_matches('`')).filter(|u| !u.is_empty() && *u != "–");
        if edges.insert(name.into(), uses.map(String::from).collect()).is_some() {
            return Err(format!("{PAGE} lists {name} twice"));
        }
    }
    Ok(edges)
}

/// The workspace crates that a manifest's code depends on. Tests may use more: they open files, for one.
fn uses(manifest: &str) -> BTreeSet<String> {
    let mut inside = false;
    let mut found = BTreeSet::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.contains("dependencies") && !section.contains("dev-dependencies");
        } else if let Some(rest) = line.strip_prefix("ounce-").filter(|_| inside) {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect();
            found.insert(name);
        }
    }
    found
}

fn compare(allowed: &Edges, real: &Edges) -> Vec<Finding> {
    let finding = |path: String, what: String| Finding { path, line: 0, what };
    let mut findings = Vec::new();
    for (name, uses) in real {
        let path = format!("crates/{name}/Cargo.toml");
        let Some(may) = allowed.get(name) else {
            findings.push(finding(path, format!("{PAGE} does not list the crate {name}")));
            continue;
        };
        for other in uses.difference(may) {
            let what = format!("uses {other}, an edge that {PAGE} does not allow");
            findings.push(finding(path.clone(), what));
        }
    }
    for name in allowed.keys().filter(|n| !real.contains_key(*n)) {
        findings.push(finding(PAGE.into(), format!("lists the crate {name}, which does not exist")));
    }
    for name in allowed.keys().filter(|n| reaches(allowed, n, n, &mut BTreeSet::new())) {
        findings.push(finding(PAGE.into(), format!("the edges from {name} lead back to it: no circles")));
    }
    findings
}

fn reaches(edges: &Edges, from: &str, goal: &str, seen: &mut BTreeSet<String>) -> bool {
    let next = edges.get(from).into_iter().flatten();
    next.into_iter().any(|n| n == goal || (seen.insert(n.clone()) && reaches(edges, n, goal, seen)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(list: &[(&str, &[&str])]) -> Edges {
        list.iter().map(|(n, u)| ((*n).into(), u.iter().map(|u| (*u).into()).collect())).collect()
    }

    #[test]
    fn the_table_is_read() {
        let page = format!("text\n{BEGIN}\n\n| crate | may use |\n|---|---|\n| `a` | – |\n| `b` | `a`, `c` |\n{END}\n");
        assert_eq!(table(&page), Ok(edges(&[("a", &[]), ("b", &["a", "c"])])));
        assert!(table("no table").is_err());
    }

    #[test]
    fn a_manifest_names_its_edges() {
        let text = "[package]\nname = \"ounce-b\"\n[dependencies]\nounce-a.workspace = true\nserde = \"1\"\n\
            [target.'cfg(unix)'.dependencies]\nounce-c = { path = \"../c\" }\n[dev-dependencies]\nounce-d.workspace = true\n\
            [lints]\nounce-e = 1";
        assert_eq!(uses(text), edges(&[("x", &["a", "c"])])["x"]);
    }

    #[test]
    fn edges_beyond_the_table_are_found() {
        let allowed = edges(&[("a", &[]), ("b", &["a"])]);
        assert_eq!(compare(&allowed, &allowed), []);
        assert_eq!(compare(&allowed, &edges(&[("a", &[]), ("b", &[])])), [], "fewer edges are fine");
        let turned = compare(&allowed, &edges(&[("a", &["b"]), ("b", &["a"])]));
        assert_eq!(turned.len(), 1);
        assert!(turned[0].what.contains("uses b"));
        assert_eq!(compare(&allowed, &edges(&[("a", &[]), ("b", &[]), ("c", &[])])).len(), 1, "unlisted crate");
        assert_eq!(compare(&allowed, &edges(&[("a", &[])])).len(), 1, "listed crate that is gone");
    }

    #[test]
    fn circles_are_found() {
        let round = edges(&[("a", &["b"]), ("b", &["c"]), ("c", &["a"]), ("d", &["a"])]);
        assert_eq!(compare(&round, &round).len(), 3);
    }
}
