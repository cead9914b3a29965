//! Patterns of `--output`: which files of a scratch folder they mean.
//!
//! As in a shell: `*`, `?`, `[a-z]`, `[!a-z]` and `\` inside a name, `**` for any folders, and a
//! leading dot is matched by a dot only. A folder that matches is meant with all that is in it.
//! Whether a pattern is acceptable at all is said where descriptions are validated.

/// A pattern for paths.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    text: String,
    parts: Vec<Part>,
}

/// What one name of a path is compared with.
#[derive(Clone, Debug)]
enum Part {
    /// `**`: any number of names.
    Folders,
    Name(Vec<Token>),
}

/// What one character of a name is compared with.
#[derive(Clone, Debug)]
enum Token {
    /// `*`: any number of characters.
    Any,
    /// `?`
    One,
    Just(char),
    Class {
        is_negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Pattern {
    pub(super) fn new(text: &str) -> Pattern {
        let part = |part: &str| match part {
            "**" => Part::Folders,
            name => Part::Name(tokens(name)),
        };
        Pattern { text: text.to_owned(), parts: text.split('/').map(part).collect() }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// True where the pattern means this path.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        self.places(path).last() == Some(&true)
    }

    /// True where it may mean something inside this folder.
    pub(super) fn reaches_into(&self, path: &[u8]) -> bool {
        self.places(path).iter().take(self.parts.len()).any(|&is_here| is_here)
    }

    /// How much of the pattern may have been used up by a path: one flag for each number of parts.
    fn places(&self, path: &[u8]) -> Vec<bool> {
        let mut places = vec![false; self.parts.len() + 1];
        places[0] = true;
        self.skip_folders(&mut places);
        for name in path.split(|&byte| byte == b'/') {
            let mut next = vec![false; places.len()];
            for (at, part) in self.parts.iter().enumerate().filter(|(at, _)| places[*at]) {
                match part {
                    Part::Folders => next[at] |= !name.starts_with(b"."),
                    Part::Name(tokens) => next[at + 1] |= is_name(tokens, name),
                }
            }
            self.skip_folders(&mut next);
            places = next;
        }
        places
    }

    /// `**` may stand for no name at all.
    fn skip_folders(&self, places: &mut [bool]) {
        for (at, part) in self.parts.iter().enumerate() {
            if places[at] && matches!(part, Part::Folders) {
                places[at + 1] = true;
            }
        }
    }
}

fn tokens(name: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = name.chars();
    while let Some(first) = rest.next() {
        tokens.push(match first {
            '*' => Token::Any,
            '?' => Token::One,
            '\\' => Token::Just(rest.next().unwrap_or('\\')),
            '[' => match class(rest.as_str()) {
                Some((class, behind)) => {
                    rest = behind.chars();
                    class
                }
                None => Token::Just('['),
            },
            other => Token::Just(other),
        });
    }
    tokens
}

/// The class whose opening bracket was read, and what stands behind it; `None` where it does not
/// end.
fn class(text: &str) -> Option<(Token, &str)> {
    let inner = text.strip_prefix(['!', '^']);
    let is_negated = inner.is_some();
    let mut rest = inner.unwrap_or(text).chars();
    let mut ranges = Vec::new();
    loop {
        let low = match rest.next()? {
            ']' if !ranges.is_empty() => {
                return Some((Token::Class { is_negated, ranges }, rest.as_str()));
            }
            '\\' => rest.next()?,
            low => low,
        };
        let mut ahead = rest.clone();
        let high = match (ahead.next(), ahead.next()) {
            (Some('-'), Some(high)) if high != ']' => {
                rest = ahead;
                high
            }
            _ => low,
        };
        ranges.push((low, high));
    }
}

fn is_name(tokens: &[Token], name: &[u8]) -> bool {
    if name.starts_with(b".") && !matches!(tokens.first(), Some(Token::Just('.'))) {
        return false;
    }
    // A byte that is no character is matched by what matches anything.
    let mut characters = Vec::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        characters.extend(chunk.valid().chars().map(Some));
        characters.extend(chunk.invalid().iter().map(|_| None));
    }
    let (mut token, mut character) = (0, 0);
    // Behind the last `*`: what follows it in the pattern, and the first character not tried as
    // its end.
    let mut retry = None;
    loop {
        match (tokens.get(token), characters.get(character)) {
            (None, None) => return true,
            (Some(Token::Any), _) => {
                token += 1;
                retry = Some((token, character));
                continue;
            }
            (Some(is), Some(&one)) if is_one(is, one) => {
                (token, character) = (token + 1, character + 1);
                continue;
            }
            _ => {}
        }
        match retry {
            Some((behind, end)) if end < characters.len() => {
                retry = Some((behind, end + 1));
                (token, character) = (behind, end + 1);
            }
            _ => return false,
        }
    }
}

fn is_one(token: &Token, character: Option<char>) -> bool {
    match token {
        Token::Any | Token::One => true,
        Token::Just(just) => character == Some(*just),
        Token::Class { is_negated, ranges } => {
            let is_inside = |it: char| ranges.iter().any(|&(low, high)| (low..=high).contains(&it));
            character.is_some_and(is_inside) != *is_negated
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_a_shell_means() {
        for (pattern, meant, not_meant) in [
            ("result.txt", &["result.txt"][..], &["result.tx", "a/result.txt", "result.txt2"][..]),
            ("*", &["a", "a.b", "ä"], &[".hidden", "a/b"]),
            ("*.txt", &["a.txt", "a.txt.txt"], &["a.txt.gz", ".txt", "a/b.txt"]),
            ("a*b*c", &["abc", "aXbYbZc", "abbc"], &["ab", "acb", "abcd"]),
            ("out/*.gz", &["out/a.gz"], &["out/a/b.gz", "a.gz", "out"]),
            ("**/*.o", &["a.o", "x/a.o", "x/y/a.o"], &[".git/a.o", "x/.y/a.o", "a.c"]),
            ("out/**", &["out", "out/a", "out/a/b"], &["outer", "a/out", "out/.a"]),
            ("a/**/z", &["a/z", "a/b/z", "a/b/c/z"], &["a/bz", "az", "a"]),
            (".hid*", &[".hidden"], &["hidden"]),
            ("?x", &["äx", "ax"], &["x", "abx", ".x"]),
            ("[a-c]1", &["a1", "c1"], &["d1", "-1", "1"]),
            ("[!a-c]1", &["d1", "é1"], &["a1", ".1"]),
            ("[]x]", &["]", "x"], &["[", "]x"]),
            ("[a-]", &["a", "-"], &["b"]),
            ("[ab", &["[ab"], &["a", "b"]),
            ("\\*", &["*"], &["a", "\\*"]),
            ("a?", &["ab"], &["a"]),
        ] {
            let it = Pattern::new(pattern);
            assert_eq!(it.text(), pattern);
            for path in meant {
                assert!(it.matches(path.as_bytes()), "{pattern} means {path}");
                let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
                for parent in parents {
                    assert!(it.reaches_into(parent.as_bytes()), "{pattern} reaches into {parent}");
                }
            }
            for path in not_meant {
                assert!(!it.matches(path.as_bytes()), "{pattern} does not mean {path:?}");
            }
        }
        assert!(!Pattern::new("a/*.txt").reaches_into(b"b"));
        assert!(!Pattern::new("*.txt").reaches_into(b"folder"));
        assert!(Pattern::new("?*").matches(b"\xff\xfe") && !Pattern::new("a").matches(b"\xff"));
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = Pattern::new(&"*a".repeat(500));
        assert!(!pattern.matches("a".repeat(255).as_bytes()));
        let pattern = Pattern::new(&format!("{}b", "**/".repeat(300)));
        assert!(!pattern.matches("a/".repeat(200).as_bytes()));
    }
}
