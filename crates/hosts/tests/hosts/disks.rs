//! What a host writes outlives its power, and its machine where that is asked for.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use hosts::{Machine, sweep};

use crate::traces::Swept;
use crate::wait::fresh_name;

#[test]
fn a_disk_outlives_its_hosts_power_and_a_kept_one_its_machine() {
    let name = fresh_name();
    let _swept = Swept(name.clone());
    let machine = Machine::new(&name).unwrap();
    let host = machine.add_host("n1").unwrap();
    let directory: PathBuf = host.directory().to_owned();
    let storage = PathBuf::from("/var/lib/containers/of-this-host");
    host.says(Command::new("touch").arg(directory.join("file")).arg(&storage)).unwrap();
    assert!(directory.join("file").exists() && !storage.exists());
    host.kill_power().unwrap();
    host.power_on().unwrap();
    host.says(Command::new("ls").arg(directory.join("file")).arg(&storage)).unwrap();
    machine.keep_disks().unwrap();
    drop(machine);

    let machine = Machine::new(&name).unwrap();
    let host = machine.add_host("n1").unwrap();
    host.says(Command::new("ls").arg(directory.join("file")).arg(&storage)).unwrap();
    assert!(sweep(&name).unwrap().is_empty(), "it lives");
    drop(machine);
    assert_eq!(sweep(&name).unwrap(), [format!("directory /var/lib/warren-hosts/{name}")]);
    assert!(!fs::exists(directory).unwrap());
}
