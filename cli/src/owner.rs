//! Who uses this program: `USER@HOST`, for people who read listings. Nothing is decided by it.

use std::fs;

/// The user of this process and this machine, as far as they can be told.
pub(crate) fn of_this_process() -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let uid = rustix::process::getuid().as_raw();
    // Users that a directory service knows are in no file.
    let user = name_of(&users, uid).or_else(|| std::env::var("USER").ok());
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    owner(&user.unwrap_or_else(|| uid.to_string()), host.trim())
}

fn owner(user: &str, host: &str) -> String {
    let text = if host.is_empty() { user.to_owned() } else { format!("{user}@{host}") };
    let mut text = text.replace(char::is_control, "");
    text.truncate(text.floor_char_boundary(proto::limits::NAME_BYTES));
    text
}

/// The name that a file like `/etc/passwd` has for a user.
fn name_of(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, number) = (fields.next()?, fields.next()?, fields.next()?);
        (!name.is_empty() && number.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_named_as_the_machine_names_him() {
        let users = "root:x:0:0:root:/root:/bin/sh\n\nodd line\nann:x:1000:1000::/home/ann:\n";
        assert_eq!(name_of(users, 0).as_deref(), Some("root"));
        assert_eq!(name_of(users, 1000).as_deref(), Some("ann"));
        assert_eq!(name_of(users, 7), None);
        assert_eq!(owner("ann", "field"), "ann@field");
        assert_eq!(owner("ann", ""), "ann");
        assert_eq!(owner("a\nb", "c"), "ab@c", "no master would take it otherwise");
        assert_eq!(owner(&"ä".repeat(200), "c").len(), 254);
        assert!(!of_this_process().is_empty());
    }
}
