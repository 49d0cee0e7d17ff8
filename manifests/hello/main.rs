//! A small HTTP server for demonstrations and tests: answers with the name of its pod.
//!
//! `GET /` says who answers, `GET /healthz` says `ok`, `GET /slow` answers after half a second, `GET /crash` ends the
//! process with code 3. After SIGTERM it takes no new connections, finishes what it has begun, and ends.
//! It uses the standard library only, so one call of rustc makes a static program of it.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    process, thread,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

static STOPPING: AtomicBool = AtomicBool::new(false);
static OPEN: AtomicUsize = AtomicUsize::new(0);

const SIGTERM: i32 = 15;

unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
}

/// Only sets a flag, which is all that a signal handler may safely do.
extern "C" fn on_term(_: i32) {
    STOPPING.store(true, Ordering::SeqCst);
}

fn main() {
    // The first process of a container is sent no signal that it does not handle.
    let handler: extern "C" fn(i32) = on_term;
    // SAFETY: the handler has the signature that signal(2) asks for, and touches nothing but an atomic flag.
    unsafe { signal(SIGTERM, handler as usize) };
    thread::spawn(|| {
        while !STOPPING.load(Ordering::SeqCst) || OPEN.load(Ordering::SeqCst) > 0 {
            thread::sleep(Duration::from_millis(5));
        }
        println!("stopped");
        process::exit(0);
    });

    let port = env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080);
    let listener = TcpListener::bind(("0.0.0.0", port)).unwrap_or_else(|error| {
        eprintln!("cannot listen on port {port}: {error}");
        process::exit(1);
    });
    println!("listening on port {port}");
    for stream in listener.incoming().flatten() {
        OPEN.fetch_add(1, Ordering::SeqCst);
        thread::spawn(move || {
            let _ = answer(stream);
            OPEN.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let path = request.split(' ').nth(1).unwrap_or("/");
    let (status, body) = match path {
        "/" => ("200 OK", format!("{}\n", greeting())),
        "/healthz" => ("200 OK", "ok\n".to_owned()),
        "/slow" => {
            thread::sleep(Duration::from_millis(500));
            ("200 OK", format!("{}\n", greeting()))
        }
        "/crash" => {
            eprintln!("asked to crash");
            process::exit(3);
        }
        _ => ("404 Not Found", "no such page\n".to_owned()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn greeting() -> String {
    let word = |name: &str, otherwise: &str| env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    format!("{} from {} on {}", word("GREETING", "hello"), word("POD_NAME", "a pod"), word("NODE_NAME", "a node"))
}
