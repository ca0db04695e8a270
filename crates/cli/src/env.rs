//! The environment, read once. No other file of the project looks at it.

use std::path::PathBuf;

/// Where the hub's cache is and how the hub is reached, by the variables that Hugging Face's own tools use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Env {
    /// `HF_HUB_CACHE`, or `$HF_HOME/hub`.
    pub hub_cache: PathBuf,
    /// `HF_ENDPOINT`, without a slash at its end.
    pub endpoint: String,
    /// `HF_TOKEN`, or the content of the file `HF_TOKEN_PATH` (`$HF_HOME/token`).
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// `NO_COLOR`.
    pub no_color: bool,
    /// `$XDG_CACHE_HOME/ounce`: what can be measured again.
    pub cache: PathBuf,
    /// `OMP_NUM_THREADS`.
    pub threads: Option<usize>,
}

impl Env {
    pub fn read() -> Env {
        Env::from(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from(var: impl Fn(&str) -> Option<String>) -> Env {
        let home = PathBuf::from(var("HOME").unwrap_or_else(|| ".".into()));
        let cache = var("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from);
        let hf_home = var("HF_HOME").map_or_else(|| cache.join("huggingface"), PathBuf::from);
        let hub_cache = var("HF_HUB_CACHE").or_else(|| var("HUGGINGFACE_HUB_CACHE"));
        let token_file = var("HF_TOKEN_PATH").map_or_else(|| hf_home.join("token"), PathBuf::from);
        let token = var("HF_TOKEN").or_else(|| std::fs::read_to_string(token_file).ok());
        Env {
            hub_cache: hub_cache.map_or_else(|| hf_home.join("hub"), PathBuf::from),
            endpoint: var("HF_ENDPOINT")
                .map_or_else(|| "https://huggingface.co".into(), |url| url.trim_end_matches('/').to_owned()),
            token: token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()),
            offline: var("HF_HUB_OFFLINE").is_some_and(|v| yes(&v)),
            no_color: var("NO_COLOR").is_some(),
            cache: cache.join("ounce"),
            threads: var("OMP_NUM_THREADS").and_then(|n| n.parse().ok()).filter(|&n| n > 0),
        }
    }
}

fn yes(value: &str) -> bool {
    matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        let pairs = pairs.to_vec();
        Env::from(move |name| pairs.iter().find(|p| p.0 == name).map(|p| p.1.to_owned()))
    }

    #[test]
    fn the_hubs_own_rules_of_precedence_hold() {
        let e = env(&[("HOME", "/h")]);
        assert_eq!(e.hub_cache, PathBuf::from("/h/.cache/huggingface/hub"));
        assert_eq!((e.endpoint.as_str(), e.offline, e.token), ("https://huggingface.co", false, None));
        assert_eq!(env(&[("XDG_CACHE_HOME", "/x")]).hub_cache, PathBuf::from("/x/huggingface/hub"));
        assert_eq!(env(&[("HF_HOME", "/f")]).hub_cache, PathBuf::from("/f/hub"));
        assert_eq!(env(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]).hub_cache, PathBuf::from("/c"));
        let e = env(&[("HF_ENDPOINT", "http://localhost:1/"), ("HF_TOKEN", " t\n"), ("HF_HUB_OFFLINE", "True")]);
        assert_eq!((e.endpoint.as_str(), e.token.as_deref(), e.offline), ("http://localhost:1", Some("t"), true));
        assert!(!env(&[("HF_HUB_OFFLINE", "0")]).offline);
    }
}
