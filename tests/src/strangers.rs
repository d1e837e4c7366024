//! Containers that are not ours and stand beside ours: nobody may touch them.

use crate::engine::{BUSYBOX, need_image, podman, podman_says};
use crate::remains::FOREIGN_PREFIX;

/// Containers that are not ours: without labels, of another cluster, of another node of our cluster.
pub struct Strangers {
    before: Vec<(String, String)>,
}

impl Strangers {
    /// Makes them, without starting them.
    #[must_use]
    pub fn make() -> Self {
        need_image(BUSYBOX);
        let labels: [&[&str]; 2] = [&[], &["--label=warren.cluster=another", "--label=warren.node=another"]];
        let mut before = Vec::new();
        for (number, labels) in labels.iter().enumerate() {
            let name = format!("{FOREIGN_PREFIX}-{}-{number}", std::process::id());
            let mut arguments = vec!["create", "--network=none", "--name", &name];
            arguments.extend(*labels);
            arguments.extend([BUSYBOX, "/bin/true"]);
            before.push((podman_says(&arguments), String::new()));
        }
        for (id, state) in &mut before {
            *state = Self::state(id);
        }
        Self { before }
    }

    fn state(id: &str) -> String {
        podman_says(&["inspect", "--format", "{{.Id}} {{.Created}} {{.State.Status}} {{.State.FinishedAt}}", id])
    }

    /// Demands that they are as they were.
    ///
    /// # Panics
    /// They are not.
    pub fn are_as_they_were(&self) {
        for (id, before) in &self.before {
            assert_eq!(Self::state(id), *before);
        }
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        for (id, _) in &self.before {
            if !podman(&["rm", "--force", "--time=0", id]).status.success() {
                eprintln!("the stranger {id} stays");
            }
        }
    }
}
