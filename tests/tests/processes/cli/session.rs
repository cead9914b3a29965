//! What commands print, written down: the command as one would type it, what it says, how it ends,
//! with everything masked that differs from run to run. Compared with a file that people review.
//!
//! `UPDATE=1` writes the file anew. Masked are ids (numbered as they appear, so that two mentions of
//! one job stay one job), ports, times, long numbers, who runs the test and where.

use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, Said};

/// How many characters a UUID has.
const UUID: usize = 36;

/// Digits from which on a number is a time in microseconds or the like.
const LONG_NUMBER: usize = 10;

/// A transcript that grows.
pub(super) struct Session<'a> {
    cluster: &'a Cluster,
    name: &'static str,
    /// The ids so far; each is shown as its position.
    ids: Vec<String>,
    text: String,
}

impl<'a> Session<'a> {
    /// An empty one, to be compared with `snapshots/NAME.txt`.
    pub(super) fn new(cluster: &'a Cluster, name: &'static str) -> Session<'a> {
        Session { cluster, name, ids: Vec::new(), text: String::new() }
    }

    /// Runs a command and writes down what it says.
    pub(super) fn run(&mut self, line: &str) -> Said {
        let said = self.cluster.run(&words(line).iter().map(String::as_str).collect::<Vec<_>>());
        self.write(line, &said, false);
        said
    }

    /// The same for what tells amounts of this machine: every number is masked.
    pub(super) fn run_numbers(&mut self, line: &str) {
        let said = self.cluster.run(&words(line).iter().map(String::as_str).collect::<Vec<_>>());
        self.write(line, &said, true);
    }

    fn write(&mut self, line: &str, said: &Said, without_numbers: bool) {
        let mut mask = |text: &str| {
            let masked = self.mask(text);
            if without_numbers { squeeze(&units(&numbers(&masked, 1))) } else { masked }
        };
        let (stdout, stderr) = (mask(&said.stdout), mask(&said.stderr));
        self.text.push_str(&format!("$ remuda {line}\n{stdout}"));
        if !stderr.is_empty() {
            self.text.push_str(&format!("--- standard error\n{stderr}"));
        }
        if said.exit != 0 {
            self.text.push_str(&format!("--- exit code {}\n", said.exit));
        }
        self.text.push('\n');
        assert!(!self.text.contains('\x1b'), "colours without a terminal: {said:?}");
    }

    fn mask(&mut self, text: &str) -> String {
        let place = self.cluster.place().display().to_string();
        let text = ports(&self.uuids(&text.replace(&place, "HOME")));
        let masked = numbers(&words_of_this_run(&text), LONG_NUMBER);
        // What is masked had another width: columns would stand elsewhere each time.
        if masked == text && !text.contains(":PORT") { masked } else { squeeze(&masked) }
    }

    /// Ids as their position, as wide as they were.
    fn uuids(&mut self, text: &str) -> String {
        let mut masked = String::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            match rest.get(..UUID).filter(|it| is_uuid(it)) {
                Some(id) => {
                    let known = self.ids.iter().position(|it| it == id);
                    let position = known.unwrap_or_else(|| {
                        self.ids.push(id.to_owned());
                        self.ids.len() - 1
                    });
                    masked.push_str(&format!("id-{:-<33}", position + 1));
                    rest = &rest[UUID..];
                }
                None => {
                    masked.push(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
        masked
    }

    /// Compares what was written down with what was reviewed.
    #[track_caller]
    pub(super) fn end(self) {
        check(self.name, &self.text);
    }
}

/// Compares a text with a reviewed one, or makes it the reviewed one for `UPDATE=1`.
#[track_caller]
pub(super) fn check(name: &str, text: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/processes/cli/snapshots");
    let path: PathBuf = folder.join(format!("{name}.txt"));
    // The help has blanks at the ends of lines, which no file of the repository may have.
    let text: String = text.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &text).expect("write what is to be reviewed");
        return;
    }
    let reviewed = std::fs::read_to_string(&path).unwrap_or_default();
    if reviewed == text {
        return;
    }
    let mut lines = reviewed.lines().zip(text.lines()).enumerate();
    let different = lines.find(|(_, (one, other))| one != other);
    let shown = match different {
        Some((at, (one, other))) => format!("line {}:\n- {one}\n+ {other}", at + 1),
        None => format!("{} lines became {}", reviewed.lines().count(), text.lines().count()),
    };
    let now = path.with_extension("now");
    let now = Path::new(env!("CARGO_TARGET_TMPDIR")).join(now.file_name().unwrap_or_default());
    std::fs::write(&now, &text).expect("write what it says now");
    panic!(
        "{} differs, {shown}\nall of it: {}; if it is meant: UPDATE=1 cargo test -p cluster-tests \
         --test processes cli:: and review the changes",
        path.display(),
        now.display()
    );
}

/// A line as a shell would split it; only single quotes are known.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in line.split('\'').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

fn is_uuid(text: &str) -> bool {
    text.bytes().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
    })
}

/// Ports of addresses.
fn ports(text: &str) -> String {
    let mut parts = text.split("127.0.0.1:");
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        masked.push_str("127.0.0.1:PORT");
        masked.push_str(part.trim_start_matches(|it: char| it.is_ascii_digit()));
    }
    masked
}

/// Ages, such as `12s`, times, and who runs the test.
fn words_of_this_run(text: &str) -> String {
    let is_word = |it: char| !it.is_whitespace() && !"\",:{}".contains(it);
    let masked = each_run(text, is_word, |word| {
        let is_age = word.strip_suffix(['s', 'm', 'h']).is_some_and(is_number);
        let is_user = word.split_once('@').is_some_and(|(user, _)| !user.is_empty());
        match (is_age, is_user) {
            (true, _) => Some("AGE"),
            (_, true) => Some("USER@HOST"),
            _ => None,
        }
    });
    times(&masked)
}

/// What was measured, with the unit behind it: times, which have a point, and space.
fn times(text: &str) -> String {
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    for at in 1..words.len() {
        let unit = words[at].clone();
        if !is_number(&words[at - 1]) {
            continue;
        }
        if words[at - 1].contains('.') && (unit == "s" || unit.starts_with("s\n")) {
            words[at - 1] = "#.#".to_owned();
        }
        if let Some(rest) = ["KiB", "MiB", "GiB", "TiB"].iter().find_map(|it| unit.strip_prefix(it))
        {
            words[at - 1] = "#".to_owned();
            words[at] = format!("BYTES{rest}");
        }
    }
    words.join(" ")
}

/// Digits, with at most one point between them.
fn is_number(text: &str) -> bool {
    let is_digits = |it: &str| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once('.') {
        Some((whole, part)) => is_digits(whole) && is_digits(part),
        None => is_digits(text),
    }
}

/// Bytes that are few, and times: others have their unit masked already.
fn units(text: &str) -> String {
    let mask = |text: String, unit: &str, word: &str| {
        let (amid, at_end) = (format!("# {unit} "), format!("# {unit}\n"));
        text.replace(&amid, &format!("{word} ")).replace(&at_end, &format!("{word}\n"))
    };
    let text = text.replace("#.#", "#");
    let bytes = ["B", "KiB", "MiB", "GiB", "TiB"];
    let text = bytes.iter().fold(text, |text, unit| mask(text, unit, "# BYTES"));
    ["µs", "ms", "s"].iter().fold(text, |text, unit| mask(text, unit, "TIME"))
}

/// Numbers of that many digits at least.
fn numbers(text: &str, digits: usize) -> String {
    each_run(text, |it| it.is_ascii_digit(), |run| (run.len() >= digits).then_some("#"))
}

/// Replaces runs of such characters, as told for each.
fn each_run(
    text: &str,
    is_in: impl Fn(char) -> bool,
    replace: impl Fn(&str) -> Option<&'static str>,
) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let outside = rest.find(&is_in).unwrap_or(rest.len());
        masked.push_str(&rest[..outside]);
        rest = &rest[outside..];
        let inside = rest.find(|it| !is_in(it)).unwrap_or(rest.len());
        let run = &rest[..inside];
        masked.push_str(replace(run).unwrap_or(run));
        rest = &rest[inside..];
    }
    masked
}

/// Two blanks in place of more.
fn squeeze(text: &str) -> String {
    let mut text = text.to_owned();
    while text.contains("   ") {
        text = text.replace("   ", "  ");
    }
    text
}

#[test]
fn masks_hide_what_differs_and_nothing_else() {
    let cluster = Cluster::home();
    let mut session = Session::new(&cluster, "none");
    let one = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";
    let other = "00000000-0000-0000-0000-000000000001";
    let masked = session.mask(&format!("{one} {other} {one}"));
    let ids: Vec<&str> = masked.split(' ').collect();
    assert!(ids[0] == ids[2] && ids[0] != ids[1] && ids[0].len() == one.len(), "{masked}");
    assert_eq!(session.mask("tcp://127.0.0.1:4711    x"), "tcp://127.0.0.1:PORT  x");
    assert_eq!(session.mask("time  0.25 s\n"), "time  #.# s\n");
    assert_eq!(session.mask("within 10.001 s"), "within #.# s");
    assert_eq!(
        session.mask("1. of 3, 0.1.0, 17, 0.5 CPUs, 90 s"),
        "1. of 3, 0.1.0, 17, 0.5 CPUs, 90 s"
    );
    assert_eq!(session.mask("owner me@here  12s"), "owner USER@HOST  AGE");
    assert_eq!(session.mask("2 CPUs and 23.5 GiB, 1 TiB"), "2 CPUs and # BYTES, # BYTES");
    assert_eq!(units("# BYTES of # B\n"), "# BYTES of # BYTES\n");
    assert_eq!(units("#.# ms  # µs\n# s\n# slots\n"), "TIME  TIME\nTIME\n# slots\n");
    assert_eq!(session.mask("1763749556123456 us"), "# us");
    assert_eq!(session.mask("a    b"), "a    b", "columns stay where nothing was masked");
    let place = cluster.place().join("x");
    assert_eq!(session.mask(&place.display().to_string()), "HOME/x");
    assert_eq!(words("a 'b  c' d"), ["a", "b  c", "d"]);
}
