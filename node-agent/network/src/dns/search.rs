//! The search path of a pod: which names it will ask for when the one it asks for now does not exist.
//!
//! A resolver that looks for `example.com` with fewer dots than `ndots` asks for `example.com.apps.svc.cluster.local`,
//! then with each further suffix of the path, and for the name as it stands last. Who knows the path can say from the
//! first question what the others will be.

use serde::{Deserialize, Serialize};

/// What `/etc/resolv.conf` of a pod says about names that are not complete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Search {
    suffixes: Vec<String>,
    dots: usize,
}

impl Search {
    pub fn of(resolv_conf: &str) -> Search {
        let mut search = Search { suffixes: Vec::new(), dots: 1 };
        for line in resolv_conf.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                // The last line of several counts.
                Some("search") => {
                    search.suffixes = words.map(|word| word.trim_matches('.').to_lowercase()).collect();
                }
                Some("options") => {
                    let mut dots = words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                    search.dots = dots.next_back().unwrap_or(search.dots);
                }
                _ => {}
            }
        }
        search
    }

    /// The names that would be asked for after `name`, if it is the first that this path makes of something; both
    /// without the dot at their end. A name of one word is left out as such: nothing outside is called so.
    pub fn after(&self, name: &str) -> Vec<String> {
        let Some((first, others)) = self.suffixes.split_first() else { return Vec::new() };
        let Some(asked) = name.strip_suffix(first.as_str()).and_then(|asked| asked.strip_suffix('.')) else {
            return Vec::new();
        };
        let dots = asked.matches('.').count();
        // With enough dots the name was asked for as it stands before any other.
        let as_such = (0 < dots && dots < self.dots).then(|| asked.to_owned());
        others.iter().map(|suffix| format!("{asked}.{suffix}")).chain(as_such).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(name: &str) -> String {
        let conf =
            "nameserver 10.96.0.10\nsearch a.svc.cluster.local svc.cluster.local Example.org.\noptions ndots:3\n";
        Search::of(conf).after(name).join(" ")
    }

    #[test]
    fn a_name_with_the_first_suffix_is_followed_by_those_with_the_others() {
        assert_eq!(after("web.b.a.svc.cluster.local"), "web.b.svc.cluster.local web.b.example.org web.b");
        assert_eq!(after("web.a.svc.cluster.local"), "web.svc.cluster.local web.example.org");
    }

    #[test]
    fn a_name_with_enough_dots_was_asked_for_as_such_before() {
        assert_eq!(after("a.b.c.d.a.svc.cluster.local"), "a.b.c.d.svc.cluster.local a.b.c.d.example.org");
    }

    #[test]
    fn other_names_are_followed_by_nothing() {
        for name in ["web.svc.cluster.local", "example.com", "a.svc.cluster.local", "", "xa.svc.cluster.local"] {
            assert_eq!(after(name), "", "{name}");
        }
        assert!(Search::of("nameserver 192.0.2.1\n").after("web.example.org").is_empty());
    }
}
