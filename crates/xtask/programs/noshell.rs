//! The only program of the test image without a shell: enough to see arguments, environment, user, streams and
//! exit codes from outside. Built alone by rustc, statically, so it uses the standard library only.

use std::io::{self, Write};
use std::process::exit;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let verb = arguments.first().map(String::as_str).unwrap_or("true");
    let rest = arguments.get(1..).unwrap_or_default();
    match verb {
        "true" => {}
        "exit" => exit(rest.first().and_then(|code| code.parse().ok()).unwrap_or(1)),
        "args" => rest.iter().for_each(|argument| println!("{argument}")),
        "env" => std::env::vars().for_each(|(name, value)| println!("{name}={value}")),
        "cwd" => println!("{}", std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default()),
        "status" => print!("{}", std::fs::read_to_string("/proc/self/status").unwrap_or_default()),
        "cat" => {
            if io::copy(&mut io::stdin(), &mut io::stdout()).and_then(|_| io::stdout().flush()).is_err() {
                exit(1)
            }
        }
        "err" => rest.iter().for_each(|argument| eprintln!("{argument}")),
        "abort" => std::process::abort(),
        "sleep" => {
            let seconds = rest.first().and_then(|seconds| seconds.parse().ok()).unwrap_or(3600);
            std::thread::sleep(std::time::Duration::from_secs(seconds));
        }
        other => {
            eprintln!("unknown verb {other}");
            exit(64)
        }
    }
}
