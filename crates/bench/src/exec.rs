//! P4: `true` in a live sandbox, beside the floor, Podman's API and `podman exec`.

use anyhow::{Context, Result};

use crate::floor::Floor;
use crate::node::Node;
use crate::podman::Podman;
use crate::processes;
use crate::report::{Bar, Section, millis};
use crate::samples::Samples;
use crate::stop::Stop;
use crate::turns::turns;

/// Bar and stretch against the floor.
const BAR_FLOOR: (f64, f64) = (2.0, 1.6);

/// Bar and stretch against Podman's API.
const BAR_API: (f64, f64) = (1.0 / 50.0, 1.0 / 70.0);

/// Bar and stretch against the command line.
const BAR_COMMAND_LINE: (f64, f64) = (1.0 / 60.0, 1.0 / 100.0);

/// Rounds against the floor for one against the engine: the ones take two milliseconds, the others two hundred.
pub const FLOOR_ROUNDS: usize = 20;

/// Commands before the first that counts.
const WARM_UP: usize = 50;

/// What is run on every side; the floor knows where it is.
const COMMAND: [&str; 1] = ["true"];

/// Measures it in one image: first in rounds with the floor, then in rounds with the engine.
pub fn measure(node: &mut Node, podman: &mut Podman, image: &str, rounds: usize, stop: &Stop) -> Result<Section> {
    let (sandbox, _) = node.create(Some(image))?;
    let id = sandbox["id"].as_str().context("a sandbox without an id")?.to_owned();
    let inspected = podman.inspect(&format!("warren-{id}"))?;
    let pid = inspected["State"]["Pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).context("no pid")?;
    let container = inspected["Id"].as_str().context("a container without an id")?;
    processes::wait_until_tidy(container)?;

    let mut section = Section::new(&format!("P4: exec `true` in a live sandbox, {image}"));
    against_floor(node, &id, &mut Floor::start(pid)?, rounds * FLOOR_ROUNDS, stop, &mut section)?;
    against_engine(node, podman, &id, image, rounds, stop, &mut section)?;
    node.delete(&id)?;
    processes::wait_until_gone(container)?;
    Ok(section)
}

fn against_floor(
    node: &mut Node,
    id: &str,
    floor: &mut Floor,
    rounds: usize,
    stop: &Stop,
    section: &mut Section,
) -> Result<()> {
    for _ in 0..WARM_UP {
        node.exec(id, &COMMAND)?;
        floor.exec()?;
    }
    let [mut ours, mut control, mut bottom] = [const { Samples::new() }; 3];
    for round in 0..rounds {
        stop.check()?;
        for side in turns::<3>(round) {
            match side {
                0 => ours.push(node.exec(id, &COMMAND)?.1),
                1 => control.push(node.exec(id, &COMMAND)?.1),
                _ => bottom.push(floor.exec()?),
            }
        }
    }
    section.times(&[
        ("Warren: exec over HTTP, kept connection", &ours),
        ("Warren, control", &control),
        ("floor: setns, user switch, execve, wait", &bottom),
    ]);
    section.bars(&[Bar {
        what: "Warren / floor",
        ratio: ours.ratio_to(&bottom),
        bar: BAR_FLOOR.0,
        stretch: Some(BAR_FLOOR.1),
    }]);
    section.control(&ours, &control);
    Ok(())
}

fn against_engine(
    node: &mut Node,
    podman: &mut Podman,
    id: &str,
    image: &str,
    rounds: usize,
    stop: &Stop,
    section: &mut Section,
) -> Result<()> {
    let (container, _) = podman.run(image)?;
    let [mut ours, mut control, mut api, mut command_line] = [const { Samples::new() }; 4];
    for round in 0..rounds {
        stop.check()?;
        for side in turns::<4>(round) {
            // Every side runs twice and the second counts: the first pays for what the side before it left
            // in caches and on the processors, which is nobody's own cost.
            for counts in [false, true] {
                let (samples, took) = match side {
                    0 => (&mut ours, node.exec(id, &COMMAND)?.1),
                    1 => (&mut control, node.exec(id, &COMMAND)?.1),
                    2 => (&mut api, podman.exec(&container, &COMMAND)?),
                    _ => (&mut command_line, podman.exec_by_command_line(&container, &COMMAND)?),
                };
                if counts {
                    samples.push(took);
                }
                processes::wait_until_tidy(&container)?;
            }
        }
    }
    podman.remove(&container)?;
    section.line("In rounds with the engine (every side runs twice in its turn, the second counts):");
    section.times(&[
        ("Warren: exec over HTTP, kept connection", &ours),
        ("Warren, control", &control),
        ("Podman's API: exec create, exec start attached", &api),
        ("`podman exec`", &command_line),
    ]);
    section.bars(&[
        Bar { what: "Warren / Podman's API", ratio: ours.ratio_to(&api), bar: BAR_API.0, stretch: Some(BAR_API.1) },
        Bar {
            what: "Warren / `podman exec`",
            ratio: ours.ratio_to(&command_line),
            bar: BAR_COMMAND_LINE.0,
            stretch: Some(BAR_COMMAND_LINE.1),
        },
    ]);
    section.control(&ours, &control);
    section.line(&match command_line.modes() {
        Some(modes) => format!(
            "`podman exec` has two modes: {} ({:.0} % of its calls) and {}.",
            millis(modes.fast),
            modes.share_fast * 100.0,
            millis(modes.slow),
        ),
        None => "`podman exec` had one mode in this run.".to_owned(),
    });
    Ok(())
}
