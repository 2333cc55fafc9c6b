//! Topics: which are devices', and who has subscribed to which.

use std::collections::HashMap;
use std::sync::Arc;

use super::mailbox::Mailbox;

/// The most levels of a topic filter.
pub const MAX_LEVELS: usize = 32;

/// The device whose readings a topic carries: `iot/device/<id>`, or the same behind `$aws/rules/<rule>/`, which is how
/// devices publish to AWS IoT Core's Basic Ingest. The id may be any text.
pub fn device_of(topic: &str) -> Option<&str> {
    let plain = match topic.strip_prefix("$aws/rules/") {
        Some(rest) => rest.split_once('/')?.1,
        None => topic,
    };
    plain.strip_prefix("iot/device/").filter(|id| !id.contains('/'))
}

/// Whether a message may be published to `topic`.
pub fn valid_topic(topic: &str) -> bool {
    !topic.is_empty() && !topic.contains(['+', '#'])
}

/// Whether `filter` may be subscribed to: wildcards stand alone in their level, `#` in the last.
pub fn valid_filter(filter: &str) -> bool {
    let mut levels = filter.split('/').peekable();
    let (mut count, mut valid) = (0, !filter.is_empty());
    while let Some(level) = levels.next() {
        count += 1;
        valid &= match level {
            "+" => true,
            "#" => levels.peek().is_none(),
            level => !level.contains(['+', '#', '\0']),
        };
    }
    valid && count <= MAX_LEVELS
}

/// Somebody who wants copies.
#[derive(Clone)]
pub struct Subscriber {
    pub connection: u64,
    /// Wants no copies of what it publishes itself.
    pub no_local: bool,
    pub mailbox: Arc<Mailbox>,
}

/// The subscriptions of all connections, as a tree of topic levels.
#[derive(Default)]
pub struct Subscriptions {
    root: Level,
}

#[derive(Default)]
struct Level {
    /// The levels below, by name; `+` is one of them, as no topic has it.
    below: HashMap<Box<str>, Level>,
    /// Filters that end here.
    here: Vec<Subscriber>,
    /// Filters that end in `#` here.
    rest: Vec<Subscriber>,
}

impl Subscriptions {
    /// Adds a subscription, in the place of an earlier one of the same connection to the same filter. Gives whether it is
    /// an additional one.
    pub fn add(&mut self, filter: &str, subscriber: Subscriber) -> bool {
        let mut level = &mut self.root;
        let mut hash = false;
        for name in filter.split('/') {
            if name == "#" {
                hash = true;
            } else {
                level = level.below.entry(name.into()).or_default();
            }
        }
        let subscribers = if hash { &mut level.rest } else { &mut level.here };
        let earlier = subscribers.iter_mut().find(|other| other.connection == subscriber.connection);
        match earlier {
            Some(earlier) => {
                *earlier = subscriber;
                false
            }
            None => {
                subscribers.push(subscriber);
                true
            }
        }
    }

    /// Takes a subscription away. Gives whether there was one.
    pub fn remove(&mut self, filter: &str, connection: u64) -> bool {
        self.root.remove(filter.split('/'), connection)
    }

    /// Who gets a copy of what `publisher` publishes to `topic`, each once.
    pub fn matching(&self, topic: &str, publisher: u64) -> Vec<Subscriber> {
        // The specification keeps wildcards of the first level away from `$aws`, `$SYS` and the like.
        let hidden = topic.starts_with('$');
        let mut found = Vec::new();
        if !hidden {
            found.extend_from_slice(&self.root.rest);
        }
        let mut levels = vec![&self.root];
        for (depth, name) in topic.split('/').enumerate() {
            let mut next = Vec::new();
            for level in levels {
                next.extend(level.below.get(name));
                if !(hidden && depth == 0) {
                    next.extend(level.below.get("+"));
                }
            }
            // `a/#` is for `a` as well.
            found.extend(next.iter().flat_map(|level| &level.rest).cloned());
            levels = next;
            if levels.is_empty() {
                break;
            }
        }
        found.extend(levels.iter().flat_map(|level| &level.here).cloned());
        found.retain(|subscriber| !(subscriber.no_local && subscriber.connection == publisher));
        found.sort_unstable_by_key(|subscriber| subscriber.connection);
        found.dedup_by_key(|subscriber| subscriber.connection);
        found
    }
}

impl Level {
    /// The depth of the recursion is that of a filter, at most [`MAX_LEVELS`].
    fn remove(&mut self, mut names: std::str::Split<'_, char>, connection: u64) -> bool {
        let subscribers = match names.next() {
            None => &mut self.here,
            Some("#") => &mut self.rest,
            Some(name) => {
                let Some(level) = self.below.get_mut(name) else { return false };
                let removed = level.remove(names, connection);
                if level.below.is_empty() && level.here.is_empty() && level.rest.is_empty() {
                    self.below.remove(name);
                }
                return removed;
            }
        };
        let before = subscribers.len();
        subscribers.retain(|subscriber| subscriber.connection != connection);
        subscribers.len() < before
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn devices_are_known_by_their_topics() {
        assert_eq!(device_of("iot/device/device_1"), Some("device_1"));
        assert_eq!(device_of("$aws/rules/to_kafka/iot/device/device_1"), Some("device_1"));
        assert_eq!(device_of("iot/device/"), Some(""));
        assert_eq!(device_of("iot/device/no id ä"), Some("no id ä"));
        for other in ["iot/device", "iot/device/a/b", "x/iot/device/a", "$aws/rules/iot/device/a", "$aws/rules/a", ""] {
            assert_eq!(device_of(other), None, "{other}");
        }
    }

    #[test]
    fn filters_have_wildcards_in_their_places_only() {
        for good in ["a", "/", "#", "+", "a/+/b", "+/+", "a/#", "+/#", "$SYS/#", &["a"; 32].join("/")] {
            assert!(valid_filter(good), "{good}");
        }
        for bad in ["", "a#", "#/a", "a+", "+a/b", "a/#/b", "a/b#", "a\0", &["a"; 33].join("/")] {
            assert!(!valid_filter(bad), "{bad}");
        }
    }

    fn subscriber(connection: u64) -> Subscriber {
        Subscriber { connection, no_local: connection.is_multiple_of(2), mailbox: Mailbox::for_tests() }
    }

    fn matches(filter: &str, topic: &str) -> bool {
        let mut subscriptions = Subscriptions::default();
        assert!(subscriptions.add(filter, subscriber(1)));
        !subscriptions.matching(topic, 9).is_empty()
    }

    /// The specification's rule, word by word.
    fn should_match(filter: &str, topic: &str) -> bool {
        if topic.starts_with('$') && filter.starts_with(['+', '#']) {
            return false;
        }
        let (filter, topic): (Vec<_>, Vec<_>) = (filter.split('/').collect(), topic.split('/').collect());
        match filter.split_last() {
            Some((&"#", front)) => {
                topic.len() >= front.len() && front.iter().zip(&topic).all(|(f, t)| *f == "+" || f == t)
            }
            _ => topic.len() == filter.len() && filter.iter().zip(&topic).all(|(f, t)| *f == "+" || f == t),
        }
    }

    #[test]
    fn the_specifications_examples_hold() {
        for (filter, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/monitor", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/monitor", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
            assert_eq!(should_match(filter, topic), expected, "{filter} {topic}");
        }
    }

    proptest! {
        #[test]
        fn the_tree_matches_as_the_rule_says(filter in "[ab$+/]{0,5}(/#|a)?", topic in "[ab$/]{1,6}") {
            if valid_filter(&filter) {
                prop_assert_eq!(matches(&filter, &topic), should_match(&filter, &topic));
            }
        }
    }

    #[test]
    fn one_connection_gets_one_copy_and_none_after_unsubscribing() {
        let mut subscriptions = Subscriptions::default();
        for filter in ["a/b", "a/+", "#"] {
            assert!(subscriptions.add(filter, subscriber(1)));
            assert!(subscriptions.add(filter, subscriber(2)));
        }
        assert!(!subscriptions.add("#", subscriber(1)), "the same again");
        let found = |subscriptions: &Subscriptions, publisher| {
            subscriptions.matching("a/b", publisher).iter().map(|s| s.connection).collect::<Vec<_>>()
        };
        assert_eq!(found(&subscriptions, 1), [1, 2]);
        assert_eq!(found(&subscriptions, 2), [1], "2 wants none of its own");
        for filter in ["a/b", "a/+", "#"] {
            assert_eq!(found(&subscriptions, 0), [1, 2]);
            assert!(subscriptions.remove(filter, 1));
            assert!(!subscriptions.remove(filter, 1));
        }
        assert_eq!(found(&subscriptions, 0), [2]);
        for filter in ["a/b", "a/+", "#"] {
            assert!(subscriptions.remove(filter, 2));
        }
        assert!(subscriptions.root.below.is_empty());
    }
}
