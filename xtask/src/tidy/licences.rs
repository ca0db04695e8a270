//! What the binary is made of: every package's licence against the list in `deny.toml`, and the number of packages against
//! the budget. Reads what cargo says of the locked packages; asks nothing outside.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::Finding;
use crate::proc;

/// Packages of others in the default binary on this system. Procedural macros run in the compiler and do not count.
const BUDGET: usize = 180;

pub fn check(root: &Path, findings: &mut Vec<Finding>) -> Result<(), String> {
    let deny = fs::read_to_string(root.join("deny.toml")).map_err(|e| format!("cannot read deny.toml: {e}"))?;
    let allowed = allow_list(&deny)?;
    let finding = |what: String| Finding { path: "Cargo.lock".into(), line: 0, what };

    let mut metadata = Command::new("cargo");
    metadata.current_dir(root).args(["metadata", "--locked", "--format-version", "1"]);
    let metadata: Value =
        serde_json::from_str(&proc::capture(&mut metadata)?).map_err(|e| format!("cargo metadata is no JSON: {e}"))?;
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let id = format!("{} {}", package["name"].as_str().unwrap_or("?"), package["version"].as_str().unwrap_or("?"));
        match package["license"].as_str() {
            Some(licence) if satisfied(licence, &allowed) => {}
            Some(licence) => findings.push(finding(format!("{id} has the licence {licence}, not in deny.toml's list"))),
            None => findings.push(finding(format!("{id} names no licence"))),
        }
    }

    let mut tree = Command::new("cargo");
    tree.current_dir(root);
    tree.args([
        "tree",
        "--locked",
        "--package",
        "ounce-cli",
        "--edges",
        "normal,no-proc-macro",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    let tree = proc::capture(&mut tree)?;
    let packages: BTreeSet<&str> =
        tree.lines().filter_map(|l| l.split(" (").next()).filter(|l| !l.is_empty()).collect();
    let ours = packages.iter().filter(|p| p.starts_with("ounce-")).count();
    println!("packages in the binary: {} of {BUDGET}, and {ours} of our own", packages.len() - ours);
    if packages.len() - ours > BUDGET {
        findings.push(finding(format!("{} packages in the binary, the budget is {BUDGET}", packages.len() - ours)));
    }
    Ok(())
}

/// The strings of `allow = […]` in the table `[licenses]`.
fn allow_list(deny: &str) -> Result<BTreeSet<String>, String> {
    let list = deny
        .split_once("[licenses]")
        .and_then(|(_, rest)| rest.split_once("allow = ["))
        .and_then(|(_, rest)| rest.split_once(']'))
        .map(|(list, _)| list)
        .ok_or("deny.toml has no `allow = […]` under [licenses]")?;
    Ok(list.split('"').skip(1).step_by(2).map(String::from).collect())
}

/// Whether an SPDX expression can be met with the allowed licences. `/` is the old way to write OR.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    any_of(&words, &mut at, allowed) && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut ok = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        ok |= all_of(words, at, allowed);
    }
    ok
}

fn all_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut ok = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        ok &= one(words, at, allowed);
    }
    ok
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let Some(&word) = words.get(*at) else { return false };
    *at += 1;
    if word == "(" {
        let ok = any_of(words, at, allowed);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return ok && closed;
    }
    // `Apache-2.0 WITH LLVM-exception` is one licence.
    if words.get(*at) == Some(&"WITH") && *at + 1 < words.len() {
        let whole = format!("{word} WITH {}", words[*at + 1]);
        *at += 2;
        return allowed.contains(&whole);
    }
    allowed.contains(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_weighed() {
        let allowed =
            allow_list("[licenses]\nallow = [\"MIT\", \"Zlib\",\n \"Apache-2.0 WITH LLVM-exception\"]").expect("list");
        assert_eq!(allowed.len(), 3);
        for good in
            ["MIT", "GPL-3.0 OR MIT", "GPL-3.0/MIT", "MIT AND (GPL-3.0 OR Zlib)", "Apache-2.0 WITH LLVM-exception"]
        {
            assert!(satisfied(good, &allowed), "{good}");
        }
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT", "", "Apache-2.0", "MIT MIT", "(GPL-3.0 OR BSD) AND MIT"] {
            assert!(!satisfied(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn a_page_without_a_list_is_an_error() {
        assert!(allow_list("[bans]\nallow = [\"MIT\"]").is_err());
    }
}
