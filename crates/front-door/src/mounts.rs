//! Reads the `storage` of a create.

use std::collections::BTreeSet;

use types::WarrenError;
use types::limits::TMPFS_BYTES_MAX;
use types::spec::Tmpfs;

use crate::create_body::Unbuilt;
use crate::fields::Fields;
use crate::limits::{MOUNTS_MAX, NAME_BYTES_MAX};
use crate::values;

/// Options that a tmpfs may be given; `size` is a field of its own.
const TMPFS_OPTIONS: [&str; 8] = ["rw", "ro", "exec", "noexec", "nosuid", "nodev", "noatime", "relatime"];

/// Names of volumes that belong to the system.
const RESERVED_VOLUME_PREFIXES: [&str; 2] = ["warren-", "den-"];

/// The tmpfs mounts; volumes and S3 are checked and noted as not built.
pub(crate) fn read(fields: &mut Fields, unbuilt: &mut Unbuilt) -> Result<Vec<Tmpfs>, WarrenError> {
    let Some(mut storage) = fields.object("storage")? else { return Ok(Vec::new()) };
    let mut mount_points = BTreeSet::new();
    let tmpfs = storage
        .objects("tmpfs", MOUNTS_MAX)?
        .into_iter()
        .map(|entry| tmpfs(entry, &mut mount_points))
        .collect::<Result<_, _>>()?;
    volumes(&mut storage, &mut mount_points, unbuilt)?;
    s3(&mut storage, unbuilt)?;
    Ok(tmpfs)
}

fn tmpfs(mut entry: Fields, mount_points: &mut BTreeSet<String>) -> Result<Tmpfs, WarrenError> {
    let path = mount_point(&mut entry, "path", mount_points)?;
    let size = tmpfs_size(&mut entry)?;
    let options = entry.text("options")?.unwrap_or_default();
    if let Some(option) = options.split(',').find(|option| !option.is_empty() && !is_tmpfs_option(option)) {
        return Err(entry.wrong("options", format_args!("{:?} is not allowed", crate::fields::quoted(option))));
    }
    Ok(Tmpfs { path, size, options })
}

fn is_tmpfs_option(option: &str) -> bool {
    TMPFS_OPTIONS.contains(&option)
        || option.strip_prefix("mode=").is_some_and(|mode| {
            (1..=4).contains(&mode.len()) && mode.bytes().all(|digit| (b'0'..=b'7').contains(&digit))
        })
}

/// Bytes, as a number or as a text like `256m`.
fn tmpfs_size(entry: &mut Fields) -> Result<u64, WarrenError> {
    let size = match entry.raw("size") {
        Some(serde_json::Value::Number(number)) => entry.unsigned_of("size", &number, TMPFS_BYTES_MAX)?,
        Some(serde_json::Value::String(text)) => {
            bytes_of(&text).ok_or_else(|| entry.wrong("size", "must be bytes or a text like \"256m\""))?
        }
        None | Some(serde_json::Value::Null) => return Err(entry.wrong("size", "is required")),
        Some(_) => return Err(entry.wrong("size", "must be a number of bytes or a text like \"256m\"")),
    };
    match size {
        0 => Err(entry.wrong("size", "must be more than 0")),
        size if size > TMPFS_BYTES_MAX => {
            Err(entry.wrong("size", format_args!("must be at most {TMPFS_BYTES_MAX} bytes")))
        }
        size => Ok(size),
    }
}

/// `256m`, `1g`, `64k`, `4096`, `4096b`; powers of 1024, in either case. `None` where it is none of
/// these; what overflows is as large as can be said, so that it is called too large.
fn bytes_of(text: &str) -> Option<u64> {
    let digits_end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return None,
    };
    match digits {
        "" => None,
        digits => Some(digits.parse::<u64>().ok().and_then(|count| count.checked_mul(1 << shift)).unwrap_or(u64::MAX)),
    }
}

/// An absolute, plain path where nothing else is mounted and the kernel's own trees are not.
fn mount_point(entry: &mut Fields, name: &str, taken: &mut BTreeSet<String>) -> Result<String, WarrenError> {
    let path = entry.filled_text(name)?.ok_or_else(|| entry.wrong(name, "is required"))?;
    values::absolute_path(&path).map_err(|why| entry.wrong(name, why))?;
    let plain = path.trim_end_matches('/');
    if plain.split('/').skip(1).any(|part| matches!(part, "" | "." | "..")) {
        return Err(entry.wrong(name, "must be a plain path without empty, . or .. parts"));
    }
    // A colon or comma would end the path where mounts are written as text.
    if plain.contains([':', ',', '\\']) || plain.chars().any(char::is_control) {
        return Err(entry.wrong(name, "must not contain a colon, a comma, a backslash or control characters"));
    }
    if plain.is_empty()
        || ["/dev", "/proc", "/sys"].contains(&plain)
        || plain.starts_with("/proc/")
        || plain.starts_with("/sys/")
    {
        return Err(entry.wrong(name, "must not hide the system's own directories"));
    }
    match taken.insert(plain.to_owned()) {
        true => Ok(plain.to_owned()),
        false => Err(entry.wrong(name, "something else is mounted there")),
    }
}

fn volumes(
    storage: &mut Fields,
    mount_points: &mut BTreeSet<String>,
    unbuilt: &mut Unbuilt,
) -> Result<(), WarrenError> {
    let mut names = BTreeSet::new();
    for mut volume in storage.objects("volumes", MOUNTS_MAX)? {
        let name = values::name_field(&mut volume, "name", NAME_BYTES_MAX)?
            .ok_or_else(|| volume.wrong("name", "is required"))?;
        if RESERVED_VOLUME_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(volume.wrong("name", "names with warren- or den- in front are reserved"));
        }
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            || !name.as_bytes()[0].is_ascii_alphanumeric()
        {
            return Err(volume.wrong("name", "must consist of letters, digits, dots, dashes and underscores"));
        }
        if !names.insert(name) {
            return Err(volume.wrong("name", "is there twice"));
        }
        mount_point(&mut volume, "mount_path", mount_points)?;
        volume.boolean("read_only")?;
        unbuilt.note("storage.volumes", "volumes are not built yet");
    }
    Ok(())
}

fn s3(storage: &mut Fields, unbuilt: &mut Unbuilt) -> Result<(), WarrenError> {
    let Some(mut s3) = storage.object("s3")? else { return Ok(()) };
    for name in ["endpoint", "prefix", "region", "access_key", "secret_key"] {
        s3.text(name)?;
    }
    s3.filled_text("bucket")?.ok_or_else(|| s3.wrong("bucket", "is required"))?;
    for name in ["mount_path", "sync_path"] {
        values::path_field(&mut s3, name)?;
    }
    match s3.filled_text("mode")?.as_deref() {
        Some("fuse") => unbuilt.note("storage.s3.mode", "mounting a bucket is not built yet"),
        Some("hooks" | "on_demand") => unbuilt.note("storage.s3", "S3 storage is not built yet"),
        _ => return Err(s3.wrong("mode", "must be hooks, on_demand or fuse")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::bytes_of;

    #[test]
    fn sizes_are_read_as_powers_of_1024() {
        for (text, bytes) in [
            ("4096", Some(4096)),
            ("1b", Some(1)),
            ("64k", Some(64 << 10)),
            ("256m", Some(256 << 20)),
            ("256MiB", Some(256 << 20)),
            ("1G", Some(1 << 30)),
            ("99999999999999999999g", Some(u64::MAX)),
            ("", None),
            ("m", None),
            ("1.5g", None),
            ("-1m", None),
            ("1 m", None),
            ("1t", None),
        ] {
            assert_eq!(bytes_of(text), bytes, "{text:?}");
        }
    }
}
