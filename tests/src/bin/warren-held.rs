//! Says what the host that it runs on holds of a node, as JSON: started on a host of namespaces, since processes,
//! mounts and containers are only seen whole from within.

use std::path::PathBuf;

use tests::Held;
use tests::identity::Identity;

fn main() {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [data_dir, run_dir] = paths.as_slice() else { panic!("usage: warren-held DATA_DIR RUN_DIR") };
    let identity = Identity::read(data_dir).expect("a node that has an identity");
    let held = Held::by_whole_host(&identity, run_dir);
    println!("{}", serde_json::to_string(&held).expect("what is held can be said"));
}
