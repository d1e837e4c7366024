//! The images that a node has, as it tells the others: names, what they mean there, and whether that is all.

use std::collections::{BTreeMap, BTreeSet};

/// Names that a node tells at most: what goes to every other node again and again has to stay small.
pub const NAMES_TOLD_MAX: usize = 256;

/// Letters of an id's beginning that still name an image.
const ID_LETTERS_MIN: usize = 12;

/// Letters of a whole id.
const ID_LETTERS: usize = 64;

/// What a name means on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// The image of this id.
    Image(&'a str),
    /// Surely nothing.
    Nothing,
    /// The node has not said.
    Unknown,
}

/// The images of one node. The default is a node that has said nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Images {
    /// Ids by name.
    names: BTreeMap<String, String>,
    ids: BTreeSet<String>,
    /// What is not among them is not there.
    whole: bool,
}

impl Images {
    /// Images by their ids, each with its names. `whole`: the node has no others.
    pub fn new<N: IntoIterator<Item = String>>(listed: impl IntoIterator<Item = (String, N)>, whole: bool) -> Self {
        let mut images = Self { whole, ..Self::default() };
        for (id, names) in listed {
            for name in names {
                if images.len() >= NAMES_TOLD_MAX {
                    images.whole = false;
                    break;
                }
                images.names.insert(name, id.clone());
            }
            if images.len() >= NAMES_TOLD_MAX {
                images.whole = false;
                break;
            }
            images.ids.insert(id);
        }
        images
    }

    fn len(&self) -> usize {
        self.names.len().max(self.ids.len())
    }

    /// Every id with its names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Vec<&str>)> {
        self.ids.iter().map(|id| {
            let names = self.names.iter().filter(move |(_, named)| *named == id);
            (id.as_str(), names.map(|(name, _)| name.as_str()).collect())
        })
    }

    /// What is not among them is not there.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// What a client's reference means there.
    #[must_use]
    pub fn find(&self, reference: &str) -> Meaning<'_> {
        let name = with_tag(reference);
        let found = if is_qualified(&name) {
            self.names.get(&name)
        } else {
            // Whichever registry it came from: the engine looks through them as well.
            self.names.iter().find(|(known, _)| is_short_for(&name, known)).map(|(_, id)| id)
        };
        let id = reference.strip_prefix("sha256:").unwrap_or(reference);
        self.meaning(found.or_else(|| self.by_id(id)))
    }

    /// Whether this very image is there.
    #[must_use]
    pub fn find_id(&self, id: &str) -> Meaning<'_> {
        self.meaning(self.ids.get(id))
    }

    fn meaning<'a>(&self, found: Option<&'a String>) -> Meaning<'a> {
        match found {
            Some(id) => Meaning::Image(id),
            None if self.whole => Meaning::Nothing,
            None => Meaning::Unknown,
        }
    }

    fn by_id(&self, id: &str) -> Option<&String> {
        if id.len() < ID_LETTERS_MIN || !is_hexadecimal(id) {
            return None;
        }
        self.ids.range(id.to_owned()..).next().filter(|known| known.starts_with(id))
    }
}

/// Whether a node that lacks it could find it in a registry.
#[must_use]
pub fn may_be_pulled(reference: &str) -> bool {
    let is_id = reference.starts_with("sha256:") || (reference.len() == ID_LETTERS && is_hexadecimal(reference));
    !reference.starts_with("localhost/") && !is_id
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// A name without a tag means the latest.
fn with_tag(reference: &str) -> String {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    if last.contains([':', '@']) { reference.to_owned() } else { format!("{reference}:latest") }
}

/// Whether a name says which registry it is from.
fn is_qualified(name: &str) -> bool {
    name.split_once('/').is_some_and(|(first, _)| first == "localhost" || first.contains(['.', ':']))
}

fn is_short_for(short: &str, name: &str) -> bool {
    name.strip_suffix(short).is_some_and(|rest| rest.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(letter: char) -> String {
        letter.to_string().repeat(ID_LETTERS)
    }

    fn images(whole: bool) -> Images {
        let listed = [
            (id('a'), vec!["localhost/warren/default:latest".to_owned()]),
            (id('b'), vec!["docker.io/library/busybox:1.36".to_owned(), "localhost/b@sha256:00ff".to_owned()]),
            (id('c'), Vec::new()),
        ];
        Images::new(listed, whole)
    }

    #[test]
    fn a_reference_means_what_the_engine_would_take_it_for() {
        let (a, b, c) = (id('a'), id('b'), id('c'));
        let table = [
            ("localhost/warren/default:latest", Some(&a)),
            ("localhost/warren/default", Some(&a)),
            ("warren/default", Some(&a)),
            ("default:latest", Some(&a)),
            ("localhost/warren/default:old", None),
            ("ault:latest", None),
            ("docker.io/library/busybox:1.36", Some(&b)),
            ("busybox:1.36", Some(&b)),
            ("busybox", None),
            ("quay.io/library/busybox:1.36", None),
            ("localhost/b@sha256:00ff", Some(&b)),
            ("localhost/b@sha256:00fe", None),
            (c.as_str(), Some(&c)),
            ("cccccccccccc", Some(&c)),
            ("ccccccccccc", None),
            ("dddddddddddd", None),
        ];
        let (whole, part, silent) = (images(true), images(false), Images::default());
        for (reference, meant) in table {
            let found = meant.map(|id| Meaning::Image(id));
            assert_eq!(whole.find(reference), found.clone().unwrap_or(Meaning::Nothing), "{reference}");
            assert_eq!(part.find(reference), found.unwrap_or(Meaning::Unknown), "{reference}");
            assert_eq!(silent.find(reference), Meaning::Unknown, "{reference}");
        }
        assert_eq!(whole.find(&format!("sha256:{c}")), Meaning::Image(&c));
        let by_id = [whole.find_id(&c), whole.find_id("cccccccccccc"), silent.find_id(&c)];
        assert_eq!(by_id, [Meaning::Image(&c), Meaning::Nothing, Meaning::Unknown]);
    }

    #[test]
    fn what_is_told_is_bounded_and_says_so() {
        let many = |count: usize| Images::new((0..count).map(|at| (format!("{at:064x}"), [format!("x/{at}:1")])), true);
        assert!(many(NAMES_TOLD_MAX - 1).is_whole());
        let cut = many(NAMES_TOLD_MAX + 1);
        assert!(!cut.is_whole() && cut.iter().count() <= NAMES_TOLD_MAX);
        let unnamed = Images::new((0..NAMES_TOLD_MAX + 9).map(|at| (format!("{at:064x}"), Vec::new())), true);
        assert!(!unnamed.is_whole() && unnamed.iter().count() <= NAMES_TOLD_MAX);
        let images = images(true);
        let told = images.iter().map(|(id, names)| (id.to_owned(), names.into_iter().map(str::to_owned)));
        assert_eq!(Images::new(told.collect::<Vec<_>>(), images.is_whole()), images);
    }

    #[test]
    fn what_no_registry_can_have_is_not_pulled() {
        let (whole_id, prefixed) = (id('a'), format!("sha256:{}", id('a')));
        let table =
            [("localhost/x", false), (&whole_id, false), (&prefixed, false), ("x", true), ("quay.io/x/y:1", true)];
        for (reference, may) in table {
            assert_eq!(may_be_pulled(reference), may, "{reference}");
        }
    }
}
