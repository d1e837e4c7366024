//! Reads the body of a create.

use serde_json::Value;
use types::limits::{MEMORY_BYTES_MIN, PIDS_MIN, TIMEOUT_SECONDS_MAX};
use types::{CreateRequest, ErrorCode, Lifetime, NetworkMode, OnNodeLoss, WarrenError};

use crate::fields::Fields;
use crate::limits::{BYTES_MAX, CPU_MAX, IMAGE_BYTES_MAX, NAME_BYTES_MAX, PIDS_MAX, PORTS_MAX};
use crate::{mounts, values};

/// A checked create. Every field is looked at before one that is not built yet is refused, so that
/// a wrong value is always called wrong.
pub(crate) fn read(body: Value, never_expires: bool) -> Result<CreateRequest, WarrenError> {
    let mut fields = Fields::of_body(body)?;
    let mut unbuilt = Unbuilt::default();
    let request = CreateRequest {
        image: image(&mut fields)?,
        template: values::name_field(&mut fields, "template", NAME_BYTES_MAX)?,
        env: values::env_field(&mut fields, "env")?,
        workdir: values::path_field(&mut fields, "workdir")?,
        lifetime: lifetime(&mut fields, never_expires)?,
        cpu: resource(&mut fields, "cpu", 0, CPU_MAX)?,
        memory: resource(&mut fields, "memory", MEMORY_BYTES_MIN, BYTES_MAX)?,
        disk: resource(&mut fields, "disk", 0, BYTES_MAX)?,
        pids: resource(&mut fields, "pids", PIDS_MIN, PIDS_MAX)?,
        network_mode: network_mode(&mut fields)?,
        writable_rootfs: fields.boolean("writable_rootfs")?,
        tmpfs: mounts::read(&mut fields, &mut unbuilt)?,
        labels: values::labels_field(&mut fields, "labels")?,
        name: values::name_field(&mut fields, "name", NAME_BYTES_MAX)?,
        command: values::argv_field(&mut fields, "command")?,
        user: values::name_field(&mut fields, "user", NAME_BYTES_MAX)?,
        on_node_loss: on_node_loss(&mut fields)?,
        idempotency: None,
    };
    ports(&mut fields, &mut unbuilt)?;
    later(&mut fields, &mut unbuilt)?;
    unbuilt.refuse()?;
    Ok(request)
}

/// The first field that asks for something that is not built.
#[derive(Default)]
pub(crate) struct Unbuilt(Option<WarrenError>);

impl Unbuilt {
    pub(crate) fn note(&mut self, field: &str, why: &str) {
        self.0.get_or_insert_with(|| {
            WarrenError::new(ErrorCode::NotImplemented, format!("{field}: {why}")).with("field", field)
        });
    }

    fn refuse(self) -> Result<(), WarrenError> {
        self.0.map_or(Ok(()), Err)
    }
}

fn image(fields: &mut Fields) -> Result<Option<String>, WarrenError> {
    let image = fields.filled_text("image")?;
    if let Some(text) = &image {
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/:@+".contains(&byte));
        if text.len() > IMAGE_BYTES_MAX || !plain || !text.as_bytes()[0].is_ascii_alphanumeric() {
            return Err(fields.wrong("image", "must be an image reference"));
        }
    }
    Ok(image)
}

fn lifetime(fields: &mut Fields, never_expires: bool) -> Result<Lifetime, WarrenError> {
    match fields.raw("timeout") {
        None => Ok(Lifetime::Default),
        Some(Value::Null) if never_expires => Ok(Lifetime::Never),
        Some(Value::Null) => Err(fields.wrong("timeout", "a sandbox that never expires is not allowed here")),
        Some(Value::Number(number)) => match fields.unsigned_of("timeout", &number, TIMEOUT_SECONDS_MAX)? {
            0 => Ok(Lifetime::Default),
            seconds => Ok(Lifetime::Seconds(seconds)),
        },
        Some(_) => Err(fields.wrong("timeout", "must be a whole number of seconds or null")),
    }
}

/// A limit; 0 asks for the default, as an absent one does.
fn resource(fields: &mut Fields, name: &str, min: u64, max: u64) -> Result<Option<u64>, WarrenError> {
    match fields.unsigned(name, max)? {
        None | Some(0) => Ok(None),
        Some(value) if value < min => Err(fields.wrong(name, format_args!("must be at least {min}"))),
        some => Ok(some),
    }
}

fn network_mode(fields: &mut Fields) -> Result<Option<NetworkMode>, WarrenError> {
    match fields.filled_text("network_mode")?.as_deref() {
        None => Ok(None),
        Some("none") => Ok(Some(NetworkMode::None)),
        Some("internet") => Ok(Some(NetworkMode::Internet)),
        Some(_) => Err(fields.wrong("network_mode", "must be none or internet")),
    }
}

fn on_node_loss(fields: &mut Fields) -> Result<OnNodeLoss, WarrenError> {
    match fields.filled_text("on_node_loss")?.as_deref() {
        None | Some("wait") => Ok(OnNodeLoss::Wait),
        Some("restart") => Ok(OnNodeLoss::Restart),
        Some("restore") => Ok(OnNodeLoss::Restore),
        Some("fail") => Ok(OnNodeLoss::Fail),
        Some(_) => Err(fields.wrong("on_node_loss", "must be wait, restart, restore or fail")),
    }
}

fn ports(fields: &mut Fields, unbuilt: &mut Unbuilt) -> Result<(), WarrenError> {
    let ports = fields.objects("ports", PORTS_MAX)?;
    if !ports.is_empty() {
        unbuilt.note("ports", "ports of a sandbox are not built yet");
    }
    for mut port in ports {
        match port.unsigned("sandbox_port", 65_535)? {
            None => return Err(port.wrong("sandbox_port", "is required")),
            Some(0) => return Err(port.wrong("sandbox_port", "must be from 1 to 65535")),
            Some(_) => {}
        }
        port.unsigned("host_port", 65_535)?;
        match port.filled_text("protocol")?.as_deref() {
            None | Some("tcp") => {}
            Some(_) => return Err(port.wrong("protocol", "must be tcp")),
        }
    }
    Ok(())
}

/// Fields of the contract whose function comes later: their types are checked, the value that
/// changes nothing is taken, any other is refused.
fn later(fields: &mut Fields, unbuilt: &mut Unbuilt) -> Result<(), WarrenError> {
    if fields.unsigned("idle_timeout", TIMEOUT_SECONDS_MAX)?.is_some_and(|seconds| seconds > 0) {
        unbuilt.note("idle_timeout", "acting on idle sandboxes is not built yet");
    }
    match fields.filled_text("on_idle")?.as_deref() {
        None => {}
        Some("pause" | "stop" | "destroy") => unbuilt.note("on_idle", "acting on idle sandboxes is not built yet"),
        Some(_) => return Err(fields.wrong("on_idle", "must be pause, stop or destroy")),
    }
    if fields.boolean("auto_resume")? == Some(false) {
        unbuilt.note("auto_resume", "pausing sandboxes is not built yet");
    }
    if values::name_field(fields, "snapshot", NAME_BYTES_MAX)?.is_some() {
        unbuilt.note("snapshot", "starting from a snapshot is not built yet");
    }
    if values::name_field(fields, "runtime", NAME_BYTES_MAX)?.is_some() {
        unbuilt.note("runtime", "choosing an OCI runtime is not built yet");
    }
    Ok(())
}
