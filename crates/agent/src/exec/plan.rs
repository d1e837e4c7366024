//! What to run, resolved as far as it can be before the fork: after it nothing is allocated.

use std::ffi::CString;

use proto::agent::Exec;

use crate::refusal::Refusal;
use crate::state::{Defaults, Env, env_pairs};
use crate::users::{Database, User};

/// PATH of a command whose environment has none.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs files that are executable but no program the kernel knows, as a shell would.
const SCRIPT_SHELL: &str = "/bin/sh";

/// A command ready to be started.
pub struct Plan {
    /// The request, for what the supervisor needs of it.
    pub request: Exec,
    /// Who runs it.
    pub user: User,
    /// Files to try in order.
    pub candidates: Vec<CString>,
    /// Arguments.
    pub argv: Vec<CString>,
    /// Environment, `NAME=value`.
    pub envp: Vec<CString>,
    /// Directory.
    pub workdir: CString,
    /// The shell for scripts without an interpreter line.
    pub script_shell: CString,
}

impl Plan {
    /// Resolves user, environment, directory and the places where the program may be.
    pub fn new(mut request: Exec, defaults: &Defaults) -> Result<Self, Refusal> {
        let argv = std::mem::take(&mut request.argv)
            .into_iter()
            .map(|argument| CString::new(argument).map_err(|_| Refusal::invalid("argv", "an argument holds NUL")))
            .collect::<Result<Vec<_>, _>>()?;
        let Some(program) = argv.first() else { return Err(Refusal::invalid("argv", "must not be empty")) };
        if request.cols.max(request.rows) > u32::from(u16::MAX) {
            return Err(Refusal::invalid("cols", "a terminal has at most 65535 columns and rows"));
        }

        let user = Database::load().resolve(&request.user, defaults)?;
        if request.user.is_empty() && user.uid != 0 {
            crate::home::make(&user);
        }
        let env = environment(std::mem::take(&mut request.env), defaults, &user)?;
        let candidates = candidates(program.to_bytes(), &env);

        let workdir = [request.workdir.as_str(), defaults.workdir.as_str(), "/"]
            .into_iter()
            .find(|directory| !directory.is_empty())
            .expect("the last one is not empty");
        if !workdir.starts_with('/') {
            return Err(Refusal::invalid("workdir", "must be absolute"));
        }
        let workdir = CString::new(workdir).map_err(|_| Refusal::invalid("workdir", "holds NUL"))?;

        let envp = env
            .into_iter()
            .map(|(mut name, value)| {
                name.push(b'=');
                name.extend(value);
                CString::new(name).expect("names and values were checked for NUL")
            })
            .collect();
        let script_shell = CString::new(SCRIPT_SHELL).expect("it holds no NUL");
        Ok(Self { request, user, candidates, argv, envp, workdir, script_shell })
    }
}

fn environment(request: Vec<proto::agent::EnvVar>, defaults: &Defaults, user: &User) -> Result<Env, Refusal> {
    let mut env = defaults.env.clone();
    for (name, value) in env_pairs(request)? {
        put(&mut env, name, value);
    }
    for (name, value) in [("PATH", PATH_DEFAULT), ("HOME", &user.home), ("USER", &user.name), ("LOGNAME", &user.name)] {
        if !env.iter().any(|(known, _)| known == name.as_bytes()) {
            env.push((name.into(), value.into()));
        }
    }
    Ok(env)
}

fn put(env: &mut Env, name: Vec<u8>, value: Vec<u8>) {
    match env.iter_mut().find(|(known, _)| *known == name) {
        Some((_, held)) => *held = value,
        None => env.push((name, value)),
    }
}

/// A name with a slash is a path; any other is looked for along PATH.
fn candidates(program: &[u8], env: &Env) -> Vec<CString> {
    if program.is_empty() {
        return Vec::new();
    }
    if program.contains(&b'/') {
        return vec![CString::new(program).expect("it came from a C string")];
    }
    let path = env.iter().find(|(name, _)| name == b"PATH").map_or(&b""[..], |(_, value)| value);
    path.split(|byte| *byte == b':')
        .map(|directory| {
            let directory = if directory.is_empty() { b"." } else { directory };
            CString::new([directory, b"/", program].concat()).expect("values were checked for NUL")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(env: &[(&str, &str)]) -> Env {
        env.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn programs_are_looked_for_along_path_unless_they_are_paths() {
        let env = pairs(&[("PATH", "/a:/b::")]);
        let names = |program: &str| -> Vec<String> {
            candidates(program.as_bytes(), &env).into_iter().map(|c| c.into_string().unwrap()).collect()
        };
        assert_eq!(names("x"), ["/a/x", "/b/x", "./x", "./x"]);
        assert_eq!(names("./x"), ["./x"]);
        assert_eq!(names("/x"), ["/x"]);
        assert!(names("").is_empty());
    }

    #[test]
    fn the_request_wins_over_the_defaults_and_the_gaps_are_filled() {
        let defaults = Defaults { env: pairs(&[("A", "1"), ("B", "2")]), ..Defaults::default() };
        let user = User { uid: 1, gid: 1, groups: vec![], name: "me".into(), home: "/h".into() };
        let request = vec![
            proto::agent::EnvVar { name: b"B".to_vec(), value: b"3".to_vec() },
            proto::agent::EnvVar { name: b"USER".to_vec(), value: b"you".to_vec() },
        ];
        let env = environment(request, &defaults, &user).unwrap();
        let expected =
            [("A", "1"), ("B", "3"), ("USER", "you"), ("PATH", PATH_DEFAULT), ("HOME", "/h"), ("LOGNAME", "me")];
        assert_eq!(env, pairs(&expected));
    }
}
