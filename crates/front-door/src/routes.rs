//! The one table of routes: the server is built from it, and so can a description of it be.

use actix_web::http::header::ALLOW;
use actix_web::{HttpResponse, web};
use types::ErrorCode;

use crate::operations::Operations;
use crate::refusal::Refusal;
use crate::{handle_exec, handle_files, handle_nodes, handle_sandboxes, handle_system, handle_upload};

/// What every path starts with.
pub const PREFIX: &str = "/api/v1";

/// Paths that need no key, built or not.
const OPEN_PATHS: [&str; 3] = ["/api/v1/health", "/api/v1/version", "/api/v1/openapi.json"];

/// Whether a path needs a key. Only the plain spelling of an open path is open.
pub(crate) fn needs_key(path: &str) -> bool {
    !OPEN_PATHS.contains(&path)
}

/// A method that a route takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// GET
    Get,
    /// POST
    Post,
    /// PUT
    Put,
    /// DELETE
    Delete,
}

impl Verb {
    /// The method's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }

    fn route(self) -> actix_web::Route {
        match self {
            Self::Get => web::get(),
            Self::Post => web::post(),
            Self::Put => web::put(),
            Self::Delete => web::delete(),
        }
    }
}

/// What a route takes or gives as a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// Nothing.
    Empty,
    /// JSON.
    Json,
    /// Bytes as they are.
    Raw,
    /// A form of parts.
    Multipart,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// How the node is.
    Health,
    /// What runs here.
    Version,
    /// Show the cluster's members.
    ListNodes,
    /// Show one of them.
    GetNode,
    /// Make a sandbox.
    Create,
    /// Show sandboxes.
    List,
    /// Show one.
    Get,
    /// End one.
    Delete,
    /// Stop one.
    Stop,
    /// Start one.
    Start,
    /// Run a command.
    Exec,
    /// Read a file.
    ReadFile,
    /// Write a file.
    WriteFile,
    /// Remove a file or a tree.
    RemoveFile,
    /// Show a directory.
    ListFiles,
    /// Show an entry.
    StatFile,
    /// Make a directory.
    Mkdir,
    /// Write a file from a form.
    UploadFile,
    /// Read a file as an attachment.
    DownloadFile,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// Method.
    pub verb: Verb,
    /// Path after [`PREFIX`], with `{id}` for a sandbox's or a node's id.
    pub path: &'static str,
    /// What it does.
    pub endpoint: Endpoint,
    /// Body it takes.
    pub takes: BodyKind,
    /// Body it gives.
    pub gives: BodyKind,
    /// Status of success.
    pub success: u16,
    /// One line for people.
    pub summary: &'static str,
}

const fn row(
    verb: Verb,
    path: &'static str,
    endpoint: Endpoint,
    takes: BodyKind,
    gives: BodyKind,
    success: u16,
    summary: &'static str,
) -> Route {
    Route { verb, path, endpoint, takes, gives, success, summary }
}

use BodyKind::{Empty, Json, Multipart, Raw};
use Verb::{Delete, Get, Post, Put};

/// Every route that is built. Rows of one path stand together.
pub static ROUTES: &[Route] = &[
    row(Get, "/health", Endpoint::Health, Empty, Json, 200, "How this node is"),
    row(Get, "/version", Endpoint::Version, Empty, Json, 200, "What runs here"),
    row(Post, "/sandboxes", Endpoint::Create, Json, Json, 201, "Make a sandbox"),
    row(Get, "/sandboxes", Endpoint::List, Empty, Json, 200, "Show sandboxes, newest first"),
    // The one that is called most comes before the others with an id: their patterns are tried in this order, and each
    // costs two microseconds.
    row(Post, "/sandboxes/{id}/exec", Endpoint::Exec, Json, Json, 200, "Run a command to its end"),
    row(Get, "/sandboxes/{id}", Endpoint::Get, Empty, Json, 200, "Show a sandbox"),
    row(Delete, "/sandboxes/{id}", Endpoint::Delete, Empty, Empty, 204, "End a sandbox"),
    row(Post, "/sandboxes/{id}/stop", Endpoint::Stop, Empty, Json, 200, "Stop a sandbox, keeping its files"),
    row(Post, "/sandboxes/{id}/start", Endpoint::Start, Empty, Json, 200, "Start a stopped sandbox"),
    row(Get, "/sandboxes/{id}/files", Endpoint::ReadFile, Empty, Raw, 200, "Read a file"),
    row(Put, "/sandboxes/{id}/files", Endpoint::WriteFile, Raw, Json, 200, "Write a file"),
    row(Delete, "/sandboxes/{id}/files", Endpoint::RemoveFile, Empty, Json, 200, "Remove a file or a tree"),
    row(Get, "/sandboxes/{id}/files/list", Endpoint::ListFiles, Empty, Json, 200, "Show a directory"),
    row(Get, "/sandboxes/{id}/files/stat", Endpoint::StatFile, Empty, Json, 200, "Show an entry"),
    row(Post, "/sandboxes/{id}/files/mkdir", Endpoint::Mkdir, Empty, Json, 200, "Make a directory and its parents"),
    row(Post, "/sandboxes/{id}/files/upload", Endpoint::UploadFile, Multipart, Json, 200, "Write a file from a form"),
    row(Get, "/sandboxes/{id}/files/download", Endpoint::DownloadFile, Empty, Raw, 200, "Read a file as an attachment"),
    row(Get, "/nodes", Endpoint::ListNodes, Empty, Json, 200, "Show the cluster's members"),
    row(Get, "/nodes/{id}", Endpoint::GetNode, Empty, Json, 200, "Show a member of the cluster"),
];

/// Puts the whole table into an application.
pub(crate) fn register<O: Operations>(config: &mut web::ServiceConfig) {
    for rows in ROUTES.chunk_by(|left, right| left.path == right.path) {
        let allowed: Vec<_> = rows.iter().map(|row| row.verb.as_str()).collect();
        let allowed = allowed.join(", ");
        let resource = rows.iter().fold(web::resource(format!("{PREFIX}{}", rows[0].path)), |resource, row| {
            resource.route(with_handler::<O>(row.verb.route(), row.endpoint))
        });
        config.service(resource.default_service(web::to(move || wrong_method(allowed.clone()))));
    }
    config.default_service(web::to(no_route));
}

fn with_handler<O: Operations>(route: actix_web::Route, endpoint: Endpoint) -> actix_web::Route {
    match endpoint {
        Endpoint::Health => route.to(handle_system::health::<O>),
        Endpoint::Version => route.to(handle_system::version),
        Endpoint::ListNodes => route.to(handle_nodes::list::<O>),
        Endpoint::GetNode => route.to(handle_nodes::get::<O>),
        Endpoint::Create => route.to(handle_sandboxes::create::<O>),
        Endpoint::List => route.to(handle_sandboxes::list::<O>),
        Endpoint::Get => route.to(handle_sandboxes::get::<O>),
        Endpoint::Delete => route.to(handle_sandboxes::delete::<O>),
        Endpoint::Stop => route.to(handle_sandboxes::stop::<O>),
        Endpoint::Start => route.to(handle_sandboxes::start::<O>),
        Endpoint::Exec => route.to(handle_exec::exec::<O>),
        Endpoint::ReadFile => route.to(handle_files::read::<O>),
        Endpoint::WriteFile => route.to(handle_files::write::<O>),
        Endpoint::RemoveFile => route.to(handle_files::remove::<O>),
        Endpoint::ListFiles => route.to(handle_files::list::<O>),
        Endpoint::StatFile => route.to(handle_files::stat::<O>),
        Endpoint::Mkdir => route.to(handle_files::mkdir::<O>),
        Endpoint::UploadFile => route.to(handle_upload::upload::<O>),
        Endpoint::DownloadFile => route.to(handle_files::download::<O>),
    }
}

async fn no_route() -> Result<HttpResponse, Refusal> {
    Err(Refusal::new(ErrorCode::NotFound, "no such route"))
}

async fn wrong_method(allowed: String) -> Result<HttpResponse, Refusal> {
    Err(Refusal::new(ErrorCode::MethodNotAllowed, &format!("this route takes {allowed}")).with_header(ALLOW, &allowed))
}

#[cfg(test)]
mod tests {
    use super::ROUTES;

    #[test]
    fn rows_of_one_path_stand_together_and_none_comes_twice() {
        let paths: Vec<_> = ROUTES.chunk_by(|left, right| left.path == right.path).map(|rows| rows[0].path).collect();
        let mut rows: Vec<_> = ROUTES.iter().map(|row| (row.path, row.verb.as_str())).collect();
        let mut unique = paths.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), paths.len(), "a path that stands apart would hide the other's methods");
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), ROUTES.len());
    }
}
