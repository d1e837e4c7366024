//! Makes hosts and holds them until its input ends: to look around by hand, and to be killed by a test.
//!
//! `hosts-stand NAME COUNT [SCRIPT]` runs the shell script on each host. Look around with
//! `nsenter --all --target PID` and a pid that it prints. `hosts-stand --sweep PREFIX` takes away what dead ones left.

use std::io::Read;
use std::process::Command;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let usage = "usage: hosts-stand NAME COUNT [SCRIPT], or hosts-stand --sweep PREFIX";
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().context(usage)?;
    if name == "--sweep" {
        hosts::sweep(&arguments.next().context(usage)?)?.iter().for_each(|taken| println!("{taken}"));
        return Ok(());
    }
    let machine = hosts::Machine::new(&name)?;
    let count: u8 = arguments.next().and_then(|count| count.parse().ok()).context(usage)?;
    let script = arguments.next().unwrap_or_else(|| "exec sleep infinity".to_owned());
    for number in 1..=count {
        let host = machine.add_host(&format!("n{number}"))?;
        let process = host.spawn(Command::new("sh").args(["-c", &script]))?;
        println!("{} {} {}", host.name(), host.address(), process.id());
    }
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
