//! Who a command runs as. A static binary has no NSS, so `/etc/passwd` and `/etc/group` are read here.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use crate::refusal::Refusal;
use crate::state::Defaults;

/// The agent's own uid and gid. Nobody else may be it: its processes could be signalled and their limits changed.
pub const AGENT_ID: u32 = 65000;

/// Ids at and above it are not mapped into a sandbox; -1, which means "no change" to the kernel, is among them.
const ID_LIMIT: u32 = 65535;

/// Uid and gid where neither the image nor the spec names a user.
const FALLBACK_ID: u32 = 1000;

/// Name of that user.
const FALLBACK_NAME: &str = "sandbox";

const ROOT_NAME: &str = "root";

/// What is read of a user or group file: it belongs to the sandbox and may be anything.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Room beyond a file's size: with less, the standard library first looks for its end in a buffer of its own.
const READ_AHEAD: usize = 64;

/// Supplementary groups taken.
const GROUPS_MAX: usize = 256;

/// Someone to run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// For USER and LOGNAME.
    pub name: String,
    /// For HOME.
    pub home: String,
}

/// The text of the sandbox's user and group files.
pub struct Database {
    passwd: String,
    group: String,
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl Database {
    /// Reads the sandbox's files; what is not there is empty.
    pub fn load() -> Self {
        Self { passwd: read_bounded("/etc/passwd"), group: read_bounded("/etc/group") }
    }

    /// Who runs a command that asks for `wanted` (empty: the sandbox's default).
    pub fn resolve(&self, wanted: &str, defaults: &Defaults) -> Result<User, Refusal> {
        let user = if wanted.is_empty() { self.default_user(defaults)? } else { self.lookup(wanted)? };
        if user.uid == 0 && !defaults.allow_root {
            return Err(Refusal::forbidden(
                "user",
                "the template does not allow root (sudo and su can not change that: no new privileges)",
            ));
        }
        Ok(user)
    }

    fn default_user(&self, defaults: &Defaults) -> Result<User, Refusal> {
        if !defaults.user.is_empty() {
            return self.lookup(&defaults.user);
        }
        if !defaults.image_user.is_empty() {
            let user = self.lookup(&defaults.image_user)?;
            if user.uid != 0 {
                return Ok(user);
            }
        }
        match self.passwd_by_name(FALLBACK_NAME) {
            Some(entry) if entry.uid != 0 => self.user_of(&entry, None),
            _ => self.lookup(&FALLBACK_ID.to_string()),
        }
    }

    /// `name`, `name:group`, `uid` or `uid:gid`. An explicit group leaves out the supplementary ones.
    fn lookup(&self, wanted: &str) -> Result<User, Refusal> {
        let (name, group) = match wanted.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (wanted, None),
        };
        let gid = group.map(|group| self.gid_of(group)).transpose()?;
        if let Some(entry) = self.passwd_by_name(name) {
            return self.user_of(&entry, gid);
        }
        let uid = match name {
            // Known without a user file.
            ROOT_NAME => 0,
            FALLBACK_NAME => FALLBACK_ID,
            _ => name.parse().map_err(|_| Refusal::invalid("user", format!("no user {name:?} in the sandbox")))?,
        };
        if let Some(entry) = self.passwd_entries().find(|entry| entry.uid == uid) {
            return self.user_of(&entry, gid);
        }
        let (name, home) = match uid {
            0 => (ROOT_NAME.to_owned(), "/root".to_owned()),
            FALLBACK_ID => (FALLBACK_NAME.to_owned(), format!("/home/{FALLBACK_NAME}")),
            _ => (uid.to_string(), "/".to_owned()),
        };
        // As the kernel has it for a user without an entry, except that ours has a group of its own.
        let gid = gid.unwrap_or(if uid == FALLBACK_ID { FALLBACK_ID } else { 0 });
        let user = User { uid, gid, groups: Vec::new(), name, home };
        user.checked()
    }

    fn user_of(&self, entry: &Passwd, gid: Option<u32>) -> Result<User, Refusal> {
        let groups = match gid {
            Some(_) => Vec::new(),
            None => self.groups_of(entry.name),
        };
        User {
            uid: entry.uid,
            gid: gid.unwrap_or(entry.gid),
            groups,
            name: entry.name.to_owned(),
            home: if entry.home.starts_with('/') { entry.home.to_owned() } else { "/".to_owned() },
        }
        .checked()
    }

    fn passwd_entries(&self) -> impl Iterator<Item = Passwd<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            let home = fields.nth(1).unwrap_or("/");
            Some(Passwd { name, uid, gid, home })
        })
    }

    fn passwd_by_name(&self, name: &str) -> Option<Passwd<'_>> {
        self.passwd_entries().find(|entry| entry.name == name)
    }

    fn group_entries(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let gid = fields.nth(1)?.parse().ok()?;
            Some((name, gid, fields.next().unwrap_or("")))
        })
    }

    fn gid_of(&self, group: &str) -> Result<u32, Refusal> {
        if let Some((_, gid, _)) = self.group_entries().find(|(name, _, _)| *name == group) {
            return Ok(gid);
        }
        group.parse().map_err(|_| Refusal::invalid("user", format!("no group {group:?} in the sandbox")))
    }

    fn groups_of(&self, name: &str) -> Vec<u32> {
        self.group_entries()
            .filter(|(_, gid, members)| usable(*gid) && members.split(',').any(|member| member == name))
            .map(|(_, gid, _)| gid)
            .take(GROUPS_MAX)
            .collect()
    }
}

impl User {
    fn checked(self) -> Result<Self, Refusal> {
        if !usable(self.uid) || !usable(self.gid) {
            return Err(Refusal::invalid("user", format!("{}:{} can not be used in a sandbox", self.uid, self.gid)));
        }
        Ok(self)
    }
}

fn usable(id: u32) -> bool {
    id < ID_LIMIT && id != AGENT_ID
}

fn read_bounded(path: &str) -> String {
    let mut bytes = Vec::new();
    // Not blocking: the sandbox's root may have put a pipe there.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    if let Ok(file) = opened {
        let metadata = file.metadata().ok().filter(|m| m.is_file() && !m.file_type().is_fifo());
        if let Some(metadata) = metadata {
            // Room for all of it and a last look beyond: two reads, where guessing its size takes nine.
            bytes.reserve(usize::try_from(metadata.len().min(FILE_BYTES_MAX)).unwrap_or(0) + READ_AHEAD);
            // A file that can not be read is one that names nobody.
            if file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).is_err() {
                bytes.clear();
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proto::agent::ErrorCode;

    use super::*;

    fn database() -> Database {
        Database {
            passwd: "root:x:0:0:root:/root:/bin/sh\nbroken line\napp:x:101:102::/srv:/bin/false\n\
                     evil:x:65000:65000::/:\nminus:x:4294967295:0::/:\nsandbox:x:1000:1000::/home/sandbox:/bin/bash\n"
                .into(),
            group: "root:x:0:\nadm:x:4:app,sandbox\nagent:x:65000:app\nvideo:x:44:app\n".into(),
        }
    }

    fn defaults(user: &str, image_user: &str, allow_root: bool) -> Defaults {
        Defaults { user: user.into(), image_user: image_user.into(), allow_root, ..Defaults::default() }
    }

    #[test]
    fn names_numbers_and_groups() {
        let database = database();
        let defaults = defaults("", "", true);
        for (wanted, uid, gid, groups, home) in [
            ("app", 101, 102, vec![4, 44], "/srv"),
            ("101", 101, 102, vec![4, 44], "/srv"),
            ("app:video", 101, 44, vec![], "/srv"),
            ("app:7", 101, 7, vec![], "/srv"),
            ("root", 0, 0, vec![], "/root"),
            ("0", 0, 0, vec![], "/root"),
            ("555", 555, 0, vec![], "/"),
            ("555:556", 555, 556, vec![], "/"),
        ] {
            let user = database.resolve(wanted, &defaults).unwrap();
            assert_eq!((user.uid, user.gid, user.groups, user.home.as_str()), (uid, gid, groups, home), "{wanted}");
        }
    }

    #[test]
    fn ids_of_the_agent_and_beyond_the_map_are_refused() {
        let defaults = defaults("", "", true);
        for wanted in [
            "evil",
            "65000",
            "1000:65000",
            "minus",
            "4294967295",
            "1:4294967295",
            "65535",
            "nobody-here",
            "a:b",
            "-1",
            ":",
        ] {
            let refusal = database().resolve(wanted, &defaults).expect_err(wanted);
            assert_eq!(refusal.code, ErrorCode::Invalid, "{wanted}");
        }
    }

    #[test]
    fn the_default_user_is_the_images_unless_that_is_root() {
        let database = database();
        let uid = |d: &Defaults| database.resolve("", d).map(|user| user.uid).map_err(|refusal| refusal.code);
        assert_eq!(uid(&defaults("", "app", false)), Ok(101));
        assert_eq!(uid(&defaults("", "root", false)), Ok(1000));
        assert_eq!(uid(&defaults("", "0:0", false)), Ok(1000));
        assert_eq!(uid(&defaults("", "", false)), Ok(1000));
        assert_eq!(uid(&defaults("app", "root", false)), Ok(101));
        assert_eq!(uid(&defaults("root", "", false)), Err(ErrorCode::Forbidden));
        assert_eq!(uid(&defaults("root", "", true)), Ok(0));
        let empty = Database { passwd: String::new(), group: String::new() };
        let user = empty.resolve("", &defaults("", "", false)).unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (1000, 1000, "/home/sandbox"));
        assert_eq!(empty.resolve("sandbox", &defaults("", "", false)).unwrap(), user);
        let root = empty.resolve("root", &defaults("", "", true)).unwrap();
        assert_eq!((root.uid, root.gid, root.home.as_str()), (0, 0, "/root"));
    }

    #[test]
    fn root_needs_leave() {
        for wanted in ["root", "0", "0:0", "root:adm"] {
            let refusal = database().resolve(wanted, &defaults("", "", false)).expect_err(wanted);
            assert_eq!(refusal.code, ErrorCode::Forbidden, "{wanted}");
        }
    }
}
