use super::*;

const ID: &str = "abcdefghijklmnopqrst";

fn stop(generation: u64) -> CallRequest {
    words::request(&ID.parse().unwrap(), Generation(generation), Operation::Stop(wire::Stop {}))
}

fn write() -> CallRequest {
    let operation = Operation::WriteFile(wire::WriteFile { path: "/f".to_owned() });
    words::request(&ID.parse().unwrap(), Generation(3), operation)
}

fn asked(request: CallRequest, placed: Placed) -> Result<Task, String> {
    admit(request, |_| placed.clone(), || HostId::new("me")).map_err(|fault| match fault {
        Fault::Moved { owner, generation } => format!("moved to {owner} in {}", generation.0),
        Fault::Failed(error) => error.code.as_str().to_owned(),
    })
}

#[test]
fn a_request_is_done_here_only_in_the_generation_that_the_caller_saw() {
    let here = || Placed::Here(Generation(3));
    let there = || Placed::Elsewhere { owner: HostId::new("h9"), generation: Generation(4) };
    let stops = || Ok(Task::Other(ID.parse().unwrap(), Operation::Stop(wire::Stop {})));
    let says = |what: &str| Err(what.to_owned());
    let cases = [
        (stop(3), here(), stops()),
        (stop(0), here(), stops()),
        (stop(2), here(), says("moved to me in 3")),
        (stop(4), here(), says("unavailable")),
        (stop(3), there(), says("moved to h9 in 4")),
        (stop(4), there(), says("moved to h9 in 4")),
        (stop(0), there(), says("moved to h9 in 4")),
        (stop(5), there(), says("unavailable")),
        (stop(3), Placed::Nowhere, says("not_found")),
        (write(), here(), Ok(Task::Write(ID.parse().unwrap(), "/f".to_owned()))),
        (CallRequest { hop: 1, ..stop(3) }, here(), says("bad_request")),
        (CallRequest { body: true, ..stop(3) }, here(), says("bad_request")),
        (CallRequest { body: false, ..write() }, here(), says("bad_request")),
        (CallRequest { sandbox: "../x".to_owned(), ..stop(3) }, here(), says("bad_request")),
        (CallRequest { operation: None, ..stop(3) }, here(), says("not_implemented")),
    ];
    for (request, placed, expected) in cases {
        let case = format!("{request:?} {placed:?}");
        assert_eq!(asked(request, placed), expected, "{case}");
    }
}

#[test]
fn a_create_asks_for_no_placement_and_is_refused_where_it_can_not_be_read() {
    let create = |plan: Vec<u8>| CallRequest {
        operation: Some(Operation::Create(wire::Create { plan: plan.into() })),
        ..CallRequest::default()
    };
    let wanted = CreateRequest { name: Some("n".to_owned()), ..CreateRequest::default() };
    let plan = serde_json::to_vec(&wanted).unwrap();
    assert_eq!(asked(create(plan), Placed::Nowhere), Ok(Task::Create(Box::new(wanted))));
    let of_tomorrow = create(br#"{"of_tomorrow":1}"#.to_vec());
    assert_eq!(asked(of_tomorrow, Placed::Nowhere), Err("not_implemented".to_owned()));
}

#[tokio::test]
async fn half_an_upload_ends_in_an_error_and_a_whole_one_does_not() {
    for whole in [true, false] {
        let (parts, coming) = mpsc::channel(2);
        parts.send(Part::Bytes(Bytes::from_static(b"half"))).await.unwrap_or_else(|_| panic!("taken"));
        if whole {
            parts.send(Part::End).await.unwrap_or_else(|_| panic!("taken"));
        }
        drop(parts);
        let got: Vec<_> = upload(coming).collect().await;
        assert_eq!(got.first().unwrap().as_ref().unwrap(), "half");
        assert_eq!(got.iter().any(Result::is_err), !whole);
        assert_eq!(got.len(), if whole { 1 } else { 2 });
    }
}
