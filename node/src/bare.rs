//! What bare ZeroMQ sockets reach on this machine: the yardstick that figures are printed beside.
//!
//! No sessions, no packing, no records: two contexts, one connection over loopback TCP, as between
//! two processes. Deliberately without any use in a daemon.

use std::thread;

use proto::time::Duration;

use crate::clock::Clock;

/// Rounds before those that count.
const WARM_UP: usize = 100;

/// How long a round may take before the measurement is given up.
const TIMEOUT_MS: i32 = 5_000;

/// Sends a message of `bytes` bytes from a DEALER to a ROUTER in another thread and back, one at a
/// time, `count` times. The times of all rounds, shortest first.
///
/// # Errors
/// What libzmq says; `EAGAIN` where a round takes longer than five seconds.
pub fn round_trips(clock: Clock, count: usize, bytes: usize) -> zmq::Result<Vec<Duration>> {
    let (near, far) = (zmq::Context::new(), zmq::Context::new());
    let router = socket(&far, zmq::ROUTER)?;
    router.bind("tcp://127.0.0.1:*")?;
    let address = router.get_last_endpoint()?.unwrap_or_default();
    let echo = thread::spawn(move || echo(&router, WARM_UP + count));
    let dealer = socket(&near, zmq::DEALER)?;
    dealer.connect(&address)?;
    let (request, mut reply) = (vec![7; bytes], zmq::Message::new());
    let mut times = Vec::with_capacity(count);
    for round in 0..WARM_UP + count {
        let begin = clock.now();
        dealer.send(request.as_slice(), 0)?;
        dealer.recv(&mut reply, 0)?;
        if round >= WARM_UP {
            times.push(clock.now().since(begin));
        }
    }
    echo.join().unwrap_or(Err(zmq::Error::ETERM))?;
    times.sort_unstable();
    Ok(times)
}

fn socket(context: &zmq::Context, kind: zmq::SocketType) -> zmq::Result<zmq::Socket> {
    let socket = context.socket(kind)?;
    socket.set_linger(0)?;
    socket.set_rcvtimeo(TIMEOUT_MS)?;
    socket.set_sndtimeo(TIMEOUT_MS)?;
    Ok(socket)
}

fn echo(router: &zmq::Socket, count: usize) -> zmq::Result<()> {
    for _ in 0..count {
        let id = router.recv_msg(0)?;
        let frame = router.recv_msg(0)?;
        router.send(id, zmq::SNDMORE)?;
        router.send(frame, 0)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_is_timed() {
        let times = round_trips(Clock::start(), 50, 100).unwrap();
        assert_eq!(times.len(), 50);
        assert!(times.is_sorted() && times[0] > Duration::ZERO);
    }
}
