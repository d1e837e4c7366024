//! The leader's care for the sandboxes of lost nodes. What is done is decided by `warren_core::repair`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use types::{ErrorCode, Generation, HostId, SandboxId, WarrenError};
use warren_core::placement::Command;
use warren_core::repair::{Repair, Repairs};
use warren_core::wiring::Message;

use crate::cluster::Cluster;
use crate::hub::{Hub, boottime_ms, now};
use crate::kill_point;
use crate::offers::Capacity;
use crate::operations::NodeOperations;
use crate::remote::{Fault, Remote};
use crate::take_over::TakesOver;

/// Time between two looks for what is to be repaired.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Looks after them for as long as the node lives, while it leads.
pub async fn keep(hub: Rc<Hub>, here: Arc<NodeOperations>, cluster: Arc<Cluster>, capacity: Capacity) {
    let repairs = Rc::new(RefCell::new(Repairs::default()));
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let view = hub.view();
        if view.leader().as_ref() != Some(view.me()) {
            continue;
        }
        let placement = Arc::clone(&view.placement());
        let mut candidates = vec![view.offers().here(view.me(), &placement, capacity, hub.closed())];
        candidates.extend(view.offers().others(view.me(), &placement, |host| cluster.reaches(host)));
        let planned = repairs.borrow_mut().plan(boottime_ms(), now(), &placement, candidates);
        for repair in planned {
            match repair {
                Repair::Propose(kind) => hub.deliver(Message::Propose(Command { time: now(), kind })),
                Repair::Replace { id, generation, on } => {
                    let (here, cluster, repairs) = (Arc::clone(&here), Arc::clone(&cluster), Rc::clone(&repairs));
                    kill_point::reached("repair.asked");
                    actix::spawn(async move {
                        let done = replace(&here, &cluster, id, generation, &on).await;
                        match &done {
                            Ok(()) => tracing::info!(sandbox = %id, node = %on, "placed again"),
                            Err(error) => tracing::warn!(sandbox = %id, node = %on, %error, "not placed again"),
                        }
                        repairs.borrow_mut().ended(boottime_ms(), id, done.is_ok());
                    });
                }
            }
        }
    }
}

async fn replace(
    here: &NodeOperations,
    cluster: &Cluster,
    id: SandboxId,
    generation: Generation,
    on: &HostId,
) -> Result<(), WarrenError> {
    if on == here.view.me() {
        return here.take_over(id, generation).await;
    }
    let gone = || WarrenError::new(ErrorCode::Unavailable, "the chosen node can not be reached");
    let caller = cluster.caller(on).filter(|_| cluster.reaches(on)).ok_or_else(gone)?;
    Remote::new(caller).take_over(id, generation).await.map_err(|fault| match fault {
        Fault::Failed(error) => error,
        Fault::Moved { .. } => WarrenError::new(ErrorCode::WrongState, "the sandbox is placed elsewhere by now"),
    })
}
