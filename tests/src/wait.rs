//! Waiting for a state of real processes: looked for until it is there or the time is over.
//!
//! A state, not an event: what came and went between two looks was not waited for. It proves that
//! something comes, never how fast.

use node::clock::Clock;
use proto::time::Duration;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks until there is something to see.
///
/// # Panics
/// Where there is nothing after `longest`; the text says what was waited for.
#[track_caller]
pub fn until<T>(what: &str, longest: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let clock = Clock::start();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(clock.now().0 < longest.0, "{longest} passed without: {what}");
        std::thread::park_timeout(PAUSE.to_std());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_until_there_is_something() {
        let mut looks = 0;
        let seen = until("the third look", Duration::from_secs(10), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(seen, 3);
    }

    #[test]
    #[should_panic(expected = "passed without: a wonder")]
    fn it_gives_up_and_says_on_what() {
        until("a wonder", Duration::from_millis(30), || None::<()>);
    }
}
