//! The text of the repository as the rules read it: which files are ours, what of a Rust file is
//! code rather than comment or literal, which paths it imports, what it makes public.
//!
//! This is a scanner, not a parser: it knows where comments, literals and brackets end and
//! nothing of types. Macros can fool it; it is a fence against slips, not against intent.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A text file that git tracks or would track.
pub(crate) struct Source {
    /// Relative to the repository, with `/`.
    pub(crate) path: String,
    /// As on disk.
    pub(crate) text: String,
    /// For Rust files the text with comments and literals blanked out, line for line; else empty.
    pub(crate) code: String,
}

impl Source {
    /// A source that is not on disk, for tests of the rules themselves.
    pub(crate) fn planted(path: &str, text: &str) -> Source {
        let code = if path.ends_with(".rs") { blank(text) } else { String::new() };
        Source { path: path.to_owned(), text: text.to_owned(), code }
    }

    /// True for Rust files.
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// True for the pure part of a tier.
    pub(crate) fn is_logic(&self) -> bool {
        self.path.contains("/src/logic/") || self.path.ends_with("/src/logic.rs")
    }

    /// Lines of code (imports written out) in which one of `words` occurs, as `path:line: word`.
    pub(crate) fn uses_of(&self, words: &[&str]) -> Vec<String> {
        let mut lines: Vec<(usize, String)> =
            self.code.lines().enumerate().map(|(at, line)| (at + 1, line.to_owned())).collect();
        lines.extend(imports(&self.code).into_iter().map(|import| (import.line, import.path)));
        let mut found = Vec::new();
        for (line, text) in lines {
            for word in words.iter().filter(|word| has_word(&text, word)) {
                found.push(format!("{}:{line}: {word}", self.path));
            }
        }
        found.sort();
        found.dedup();
        found
    }
}

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests are a folder of the workspace").to_owned()
}

/// Every text file that is tracked, or untracked and not ignored.
pub(crate) fn tree() -> Vec<Source> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("paths are UTF-8");
    let sources: Vec<Source> = names
        .split_terminator('\0')
        .filter_map(|path| {
            // Deleted but not yet committed files are listed; binary files are not text.
            let bytes = std::fs::read(root().join(path)).ok()?;
            let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))?;
            Some(Source::planted(path, &text))
        })
        .collect();
    assert!(sources.iter().any(|source| source.is_rust()), "the tree has no Rust file");
    sources
}

fn is_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// True if `word` occurs in `line` and is not part of a longer name.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let open = word.starts_with(is_name) && before.is_some_and(is_name);
        let goes_on = word.ends_with(is_name) && after.is_some_and(is_name);
        !open && !goes_on
    })
}

/// Replaces comments and literals by spaces; line breaks stay.
pub(crate) fn blank(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < letters.len() {
        let length = comment_length(&letters, at)
            .or_else(|| raw_string_length(&letters, at))
            .or_else(|| quoted_length(&letters, at));
        let end = (at + length.unwrap_or(1)).min(letters.len());
        for &letter in &letters[at..end] {
            code.push(if length.is_some() && letter != '\n' { ' ' } else { letter });
        }
        at = end;
    }
    code
}

fn comment_length(letters: &[char], at: usize) -> Option<usize> {
    let rest = &letters[at..];
    if rest.starts_with(&['/', '/']) {
        return Some(rest.iter().position(|&letter| letter == '\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with(&['/', '*']) {
        return None;
    }
    let (mut depth, mut length) = (0_usize, 0);
    while length < rest.len() {
        let ahead = &rest[length..];
        if ahead.starts_with(&['/', '*']) {
            depth += 1;
            length += 2;
        } else if ahead.starts_with(&['*', '/']) {
            depth -= 1;
            length += 2;
            if depth == 0 {
                break;
            }
        } else {
            length += 1;
        }
    }
    Some(length)
}

fn raw_string_length(letters: &[char], at: usize) -> Option<usize> {
    let rest = &letters[at..];
    let before = at.checked_sub(1).map(|before| letters[before]);
    if rest[0] != 'r' || before.is_some_and(|letter| is_name(letter) && !"bc".contains(letter)) {
        return None;
    }
    let hashes = rest[1..].iter().take_while(|&&letter| letter == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let mut end = vec!['"'];
    end.resize(1 + hashes, '#');
    let body = 2 + hashes;
    let close = rest[body..].windows(end.len()).position(|window| window == end);
    Some(close.map_or(rest.len(), |close| body + close + end.len()))
}

fn quoted_length(letters: &[char], at: usize) -> Option<usize> {
    let rest = &letters[at..];
    let quote = rest[0];
    let is_char = || rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'');
    if quote != '"' && !(quote == '\'' && is_char()) {
        return None;
    }
    let mut length = 1;
    while length < rest.len() && rest[length] != quote {
        length += if rest[length] == '\\' { 2 } else { 1 };
    }
    Some(length + 1)
}

/// One imported path, with groups written out.
#[derive(Debug, PartialEq)]
pub(crate) struct Import {
    /// Where its `use` stands, from 1.
    pub(crate) line: usize,
    /// `a::b::c`, `a::b::*` for a glob.
    pub(crate) path: String,
    /// The name by which the file knows it.
    pub(crate) name: String,
}

/// All imports of a Rust file, given its code.
pub(crate) fn imports(code: &str) -> Vec<Import> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        if code[..at].ends_with(is_name) {
            continue;
        }
        let statement = code[at + "use ".len()..].split(';').next().unwrap_or_default();
        let line = code[..at].matches('\n').count() + 1;
        let statement: String = statement.split_whitespace().collect::<Vec<_>>().join(" ");
        write_out("", &statement, line, &mut found);
    }
    found
}

fn write_out(prefix: &str, tree: &str, line: usize, found: &mut Vec<Import>) {
    for part in split_outside_braces(tree) {
        let part = part.trim();
        if let Some((head, rest)) = part.split_once('{') {
            let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
            write_out(&format!("{prefix}{}", head.trim()), inner, line, found);
        } else if !part.is_empty() {
            let (path, alias) = part.split_once(" as ").unwrap_or((part, ""));
            let path = format!("{prefix}{path}");
            let path = path.strip_suffix("::self").unwrap_or(&path).to_owned();
            let last = path.rsplit("::").next().unwrap_or_default();
            let name = if alias.is_empty() { last } else { alias }.to_owned();
            found.push(Import { line, path, name });
        }
    }
}

fn split_outside_braces(tree: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (at, letter) in tree.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&tree[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[start..]);
    parts
}

/// What a Rust file shows to other crates, as (line, text): signatures, public fields, and whole
/// enums and traits. What is `pub(crate)` is not shown, and the compiler's `unreachable_pub`
/// sees to it that a plain `pub` means what it says.
pub(crate) fn public_items(code: &str) -> Vec<(usize, &str)> {
    let mut items = Vec::new();
    for (at, _) in code.match_indices("pub ") {
        if code[..at].ends_with(is_name) {
            continue;
        }
        let item = &code[at..];
        let kind = item
            .split_whitespace()
            .skip(1)
            .find(|word| !["async", "const", "unsafe", "extern"].contains(word))
            .unwrap_or_default();
        let end = match kind {
            "enum" | "trait" => item.find('{').map(|open| open + braces_length(&item[open..])),
            "fn" => signature_end(item),
            "struct" | "union" => item.find(['{', ';', '(']),
            "type" | "use" => item.find(';'),
            _ => item.find(['\n', ';', '{', '=']),
        };
        let line = code[..at].matches('\n').count() + 1;
        items.push((line, &item[..end.unwrap_or(item.len())]));
    }
    items
}

/// Where the signature that begins at `code` ends: at its body or its semicolon.
fn signature_end(code: &str) -> Option<usize> {
    let mut depth = 0_usize;
    code.char_indices().find_map(|(at, letter)| {
        match letter {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            '{' | ';' if depth == 0 => return Some(at),
            _ => {}
        }
        None
    })
}

/// Length of the bracketed text that begins at `code`, brackets included.
fn braces_length(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, letter) in code.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// Functions of a Rust file as (line, name, number of lines).
pub(crate) fn functions(code: &str) -> Vec<(usize, &str, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let rest = &code[at..];
        let Some(open) = signature_end(rest).filter(|&end| rest[end..].starts_with('{')) else {
            continue;
        };
        if code[..at].ends_with(is_name) {
            continue;
        }
        let name = rest["fn ".len()..].split(|letter| !is_name(letter)).next().unwrap_or_default();
        let body = &rest[..open + braces_length(&rest[open..])];
        let line = code[..at].matches('\n').count() + 1;
        found.push((line, name, body.matches('\n').count() + 1));
    }
    found
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = "a(\"x // y\", 'c', '\\'', r#\"q\"r\"#) // HashMap\n/* b /* c */ d */ e::<'l>()";
    let code = blank(text);
    assert_eq!(code.lines().count(), 2);
    let words: Vec<&str> = code.split_whitespace().collect();
    assert_eq!(words, ["a(", ",", ",", ",", ")", "e::<'l>()"]);
}

#[test]
fn grouped_imports_are_written_out() {
    let code = "pub use std::{\n    fs,\n    io::{self, Read as R},\n};\nuse raft::prelude::*;";
    let paths: Vec<String> =
        imports(code).into_iter().map(|i| format!("{} {} {}", i.line, i.path, i.name)).collect();
    let expected = ["1 std::fs fs", "1 std::io io", "1 std::io::Read R", "5 raft::prelude::* *"];
    assert_eq!(paths, expected);
}

#[test]
fn words_are_whole() {
    assert!(has_word("a std::net::X", "std::net"));
    assert!(!has_word("mystd::network", "std::net"));
    assert!(!has_word("abcabc", "abc"));
    assert!(has_word("println!(x)", "println!"));
}

#[test]
fn public_items_are_signatures_fields_and_whole_enums() {
    let code = "pub struct A {\n    hidden: B,\n    pub shown: C,\n}\npub enum D { E(F) }\n\
                pub fn g(h: [I; 2]) -> J { K }\npub struct O(P, pub Q);\npub(crate) fn l(m: N) {}\n";
    let shown: Vec<&str> = public_items(code).into_iter().map(|(_, text)| text.trim()).collect();
    let expected = [
        "pub struct A",
        "pub shown: C,",
        "pub enum D { E(F) }",
        "pub fn g(h: [I; 2]) -> J",
        "pub struct O",
        "pub Q)",
    ];
    assert_eq!(shown, expected);
}

#[test]
fn functions_have_a_length() {
    let code = "fn a(z: [u8; 2]) {\n    if b {\n    }\n}\ntrait T {\n    fn c(&self);\n}\n";
    assert_eq!(functions(code), [(1, "a", 4)]);
}
