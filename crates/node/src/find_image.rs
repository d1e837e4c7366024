//! A create whose image the asked node lacks: it goes to a node that has the image, or this one pulls it, once.

use std::sync::Arc;

use runtime::ImageFacts;
use tokio::sync::oneshot;
use types::{CreateRequest, Sandbox, WarrenError};
use warren_core::images::may_be_pulled;
use warren_core::scheduler::{Ask, AskedImage, Refusal};

use crate::actors::scheduler::{Choose, Chosen, no_capacity};
use crate::offers::Sending;
use crate::operations::{NodeOperations, busy, node_is_ending};

/// What has become of a create.
pub enum Made {
    /// It was made, here or where another request under its key has made it.
    Here(Box<Sandbox>),
    /// Another node is to make it.
    Elsewhere(Sending),
}

impl From<Sandbox> for Made {
    fn from(sandbox: Sandbox) -> Self {
        Self::Here(Box::new(sandbox))
    }
}

/// Where a create's image is.
pub(crate) enum Found {
    /// On this node.
    Here(Arc<ImageFacts>),
    /// This node need not have it.
    Elsewhere(Sending),
}

impl NodeOperations {
    /// The image of a create that other nodes may take besides those that were `tried`.
    pub(crate) async fn find_image(
        &self,
        request: &CreateRequest,
        tried: &mut Vec<Refusal>,
    ) -> Result<Found, WarrenError> {
        let me = self.view.me();
        let reference = self.reference(request);
        match self.engine.find_image(reference).await {
            Ok(Some(image)) => return Ok(Found::Here(image)),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, reference, "an image could not be looked up");
                tried.push(Refusal { node: me.clone(), reason: "the engine does not answer".to_owned() });
            }
        }
        let spec = self.spec(request, reference, "")?;
        let mut pull = may_be_pulled(reference);
        let mut not_there = None;
        loop {
            let image = AskedImage::Missing { pull };
            let ask = Ask { need: spec.resources, shape: spec.slot_shape(), image, tried: tried.clone() };
            let (tell, told) = oneshot::channel();
            self.scheduler.try_send(Choose { ask, tell }).map_err(|_| busy())?;
            match told.await.map_err(|_| node_is_ending())? {
                Ok(Chosen::Elsewhere(sending)) => return Ok(Found::Elsewhere(sending)),
                Ok(Chosen::Here) => match self.image(request).await {
                    Ok(image) => return Ok(Found::Here(image)),
                    // Who has it or may have it is asked; whoever surely lacks it would fail as this node has.
                    Err(error) => {
                        pull = false;
                        tried.push(Refusal { node: me.clone(), reason: error.message.clone() });
                        not_there = Some(error);
                    }
                },
                Err(none) if none.no_image => match not_there {
                    Some(error) => return Err(error),
                    // No registry is asked for such a name: this says why.
                    None => return self.image(request).await.map(Found::Here),
                },
                Err(none) => return Err(no_capacity(none)),
            }
        }
    }
}
