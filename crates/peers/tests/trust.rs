//! Who is let in, who is believed, and who is not.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps in vain")]

mod common;

use std::sync::Arc;

use common::*;
use peers::wire::{Kind, RefusedReason};
use peers::{
    Accepted, Authority, CallError, ConnectError, Fingerprint, JoinClient, JoinError, JoinRequest, JoinToken, Listener,
    ListenerConfig, Member, NodeKey, NodeTls, NotDone, Peer, TokenError, Unknown, Versions,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use types::{ClusterId, ErrorCode, Timestamp};

const SECRET: &[u8] = b"of the cluster";

async fn refusal_of_call(from: &peers::Security, to: &str, address: &str) -> ConnectError {
    let caller = peers::Caller::new(Peer::new(from, host(to), address), peers::CallerConfig::default());
    let error = soon("the refusal", caller.call(stat("/a"))).await.unwrap_err();
    assert!(error.surely_not_done());
    match error {
        CallError::NotDone(NotDone::Connect(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// Believes everybody, so that only the other side can refuse.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ED25519]
    }
}

/// A stranger's connection with whatever certificate it has.
async fn stranger(
    node: &Node,
    alpn: &[u8],
    shown: Option<(&Authority, &str)>,
) -> std::io::Result<Raw<TlsStream<TcpStream>>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = match shown {
        None => config.with_no_client_auth(),
        Some((authority, name)) => {
            let (_, certificate, key) = NodeTls::fresh(authority, &host(name)).unwrap();
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()));
            config.with_client_auth_cert(vec![CertificateDer::from(certificate)], key).unwrap()
        }
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(node.address).await.unwrap();
    let name = ServerName::from(std::net::Ipv4Addr::LOCALHOST);
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map(Raw::new)
}

#[tokio::test]
async fn members_of_one_cluster_are_let_in() {
    let cluster = Cluster::new("c1");
    let (one, two) = (Node::start(cluster.member("h1")).await, Node::start(cluster.member("h2")).await);
    let mut call = one.caller(&two).call(stat("/a")).await.unwrap();
    assert!(matches!(call.next().await.unwrap(), Some(peers::wire::Reply::Entry(entry)) if entry.path == "/a"));
}

#[tokio::test]
async fn a_node_of_another_authority_is_not_believed() {
    // The namesake has the same cluster id and the same names in its certificate, and another key.
    for other in ["c1", "c2"] {
        let (ours, theirs) = (Cluster::new("c1"), Cluster::new(other));
        let node = Node::start(theirs.member("h2")).await;
        let error = refusal_of_call(&ours.member("h1"), "h2", &node.address.to_string()).await;
        assert!(matches!(error, ConnectError::NotTrusted(_)), "{other}: {error:?}");
    }
}

#[tokio::test]
async fn a_caller_of_another_authority_is_not_let_in() {
    let (ours, namesake) = (Cluster::new("c1"), Cluster::new("c1"));
    let mut node = Node::start(ours.member("h1")).await;
    // In TLS 1.3 the client hears of it with its first read.
    let connection = stranger(&node, b"warren-call/1", Some((&namesake.authority, "h2"))).await;
    if let Ok(mut connection) = connection {
        connection.send(&hello(Kind::Call, "h2", "h1")).await;
        assert!(connection.recv::<peers::wire::HelloReply>().await.is_none());
    }
    assert_nobody_was_let_in(&mut node).await;
}

#[tokio::test]
async fn whoever_shows_no_certificate_may_do_nothing_but_join() {
    let cluster = Cluster::new("c1");
    let mut node = Node::start(cluster.member("h1")).await;
    for (alpn, kind) in [(&b"warren-call/1"[..], Kind::Call), (b"warren-stream/1", Kind::Stream)] {
        let mut connection = stranger(&node, alpn, None).await.unwrap();
        connection.send(&hello(kind, "h2", "h1")).await;
        assert_eq!(refused(connection.recv().await), RefusedReason::Identity);
    }
    // Nor by negotiating a join and then saying something else.
    let mut connection = stranger(&node, b"warren-join/1", None).await.unwrap();
    connection.send(&hello(Kind::Call, "h2", "h1")).await;
    assert_eq!(refused(connection.recv().await), RefusedReason::Malformed);
    assert!(stranger(&node, b"h2", None).await.is_err(), "another protocol was negotiated");
    assert_nobody_was_let_in(&mut node).await;
}

#[tokio::test]
async fn a_member_can_not_pass_for_another() {
    let cluster = Cluster::new("c1");
    let mut node = Node::start(cluster.member("h1")).await;
    let mut connection = stranger(&node, b"warren-call/1", Some((&cluster.authority, "h3"))).await.unwrap();
    connection.send(&hello(Kind::Call, "h2", "h1")).await;
    assert_eq!(refused(connection.recv().await), RefusedReason::Identity);
    assert_nobody_was_let_in(&mut node).await;
}

#[tokio::test]
async fn another_host_at_the_address_is_told_apart() {
    let cluster = Cluster::new("c1");
    let node = Node::start(cluster.member("h3")).await;
    let error = refusal_of_call(&cluster.member("h1"), "h2", &node.address.to_string()).await;
    assert!(matches!(&error, ConnectError::OtherHost(found) if *found == host("h3")), "{error:?}");

    let node = Node::start(plaintext("h3")).await;
    let error = refusal_of_call(&plaintext("h1"), "h2", &node.address.to_string()).await;
    assert!(matches!(error, ConnectError::Refused { reason: RefusedReason::OtherHost, .. }), "{error:?}");
}

#[tokio::test]
async fn a_welcome_of_another_host_or_cluster_is_none() {
    let listener = tokio::net::TcpListener::bind(anywhere()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut other_cluster = welcome("h2");
    if let Some(peers::wire::hello_reply::Answer::Welcome(welcome)) = &mut other_cluster.answer {
        welcome.cluster = "c2".to_owned();
    }
    for (reply, is_cluster) in [(welcome("h3"), false), (other_cluster, true)] {
        let callee = async {
            let mut raw = Raw::new(listener.accept().await.unwrap().0);
            assert!(raw.recv::<peers::wire::Hello>().await.is_some());
            raw.send(&reply).await;
        };
        let ours = plaintext("h1");
        let (_, error) = tokio::join!(callee, refusal_of_call(&ours, "h2", &address));
        match error {
            ConnectError::OtherHost(found) => assert!(!is_cluster && found == host("h3")),
            ConnectError::OtherCluster(found) => assert!(is_cluster && found == ClusterId::new("c2")),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn another_cluster_is_told_apart_in_plain_text_too() {
    let node = Node::start(plaintext("h2")).await;
    let stranger = peers::Security::plaintext_on_loopback(ClusterId::new("c2"), host("h1")).unwrap();
    let error = refusal_of_call(&stranger, "h2", &node.address.to_string()).await;
    assert!(matches!(error, ConnectError::Refused { reason: RefusedReason::OtherCluster, .. }), "{error:?}");
}

#[tokio::test]
async fn plain_text_and_encryption_do_not_meet() {
    let cluster = Cluster::new("c1");
    let mut encrypted = Node::start(cluster.member("h2")).await;
    let error = refusal_of_call(&plaintext("h1"), "h2", &encrypted.address.to_string()).await;
    assert!(matches!(error, ConnectError::NotANode(_)), "{error:?}");
    assert_nobody_was_let_in(&mut encrypted).await;

    let mut plain = Node::start(plaintext("h2")).await;
    let error = refusal_of_call(&cluster.member("h1"), "h2", &plain.address.to_string()).await;
    assert!(matches!(error, ConnectError::NotANode(_)), "{error:?}");
    assert_nobody_was_let_in(&mut plain).await;
}

#[tokio::test]
async fn plain_text_stays_on_loopback() {
    let everywhere = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let error = Listener::bind(everywhere, plaintext("h1"), ListenerConfig::default()).await.unwrap_err();
    assert!(matches!(error, peers::BindError::PlaintextOffLoopback(_)), "{error:?}");
    // Nothing is sent there: the address belongs to documentation.
    let error = refusal_of_call(&plaintext("h1"), "h2", "192.0.2.1:1").await;
    assert!(matches!(error, ConnectError::PlaintextOffLoopback(_)), "{error:?}");
}

/// Somebody who is let in comes after those who were not.
async fn assert_nobody_was_let_in(node: &mut Node) {
    assert!(node.events.try_recv().is_err() && node.joins.try_recv().is_err());
    assert_eq!(node.counters().admitted, 0);
}

// --- joins ---

fn newcomer(key: &NodeKey) -> JoinRequest {
    JoinRequest {
        host: host("h9"),
        peer_address: "10.0.0.9:7001".to_owned(),
        http_address: "10.0.0.9:7000".to_owned(),
        public_key: key.public_key().try_into().unwrap(),
        versions: Versions { build: "0.1.0".to_owned(), protocol_min: 1, protocol_max: 1, commands: 6 },
    }
}

fn token(cluster: &Cluster, expires_at: u64) -> JoinToken {
    let authority = &cluster.authority;
    JoinToken::issue(SECRET, authority.cluster(), authority.fingerprint(), Timestamp(expires_at))
}

/// What a member gives to whom it lets in.
fn given(authority: &Authority, request: &JoinRequest) -> Accepted {
    let certificate = authority.sign_node(&request.host, &request.public_key).unwrap();
    Accepted {
        cluster: authority.cluster().clone(),
        member: 4,
        ca_certificate: authority.certificate().to_vec().into(),
        ca_key: authority.key().to_vec().into(),
        certificate: certificate.into(),
        secrets_key: vec![5; 32].into(),
        api_keys: vec!["key".to_owned()],
        peers: vec![Member {
            host: host("h1"),
            member: 1,
            peer_address: "10.0.0.1:7001".to_owned(),
            http_address: "10.0.0.1:7000".to_owned(),
        }],
    }
}

/// What a member does with a join at the time 1000.
async fn admit(node: &mut Node, authority: Authority) -> Result<(), TokenError> {
    let join = soon("a join", node.joins.recv()).await.unwrap();
    let verdict = join.token().and_then(|token| token.verify(SECRET, authority.cluster(), Timestamp(1_000)));
    match &verdict {
        Ok(()) => {
            let accepted = given(&authority, join.request());
            join.accept(accepted).await.unwrap();
        }
        Err(error) => join.refuse(ErrorCode::Forbidden, error.to_string()).await.unwrap(),
    }
    verdict
}

#[tokio::test]
async fn a_newcomer_with_a_token_becomes_a_member() {
    let cluster = Cluster::new("c1");
    let mut node = Node::start(cluster.member("h1")).await;
    let (key, token) = (NodeKey::generate().unwrap(), token(&cluster, 2_000));
    let address = node.address.to_string();
    let (verdict, accepted) = tokio::join!(
        admit(&mut node, Authority::from_bytes(&cluster.authority.to_bytes()).unwrap()),
        JoinClient::join(&address, &token, newcomer(&key)),
    );
    assert_eq!(verdict, Ok(()));
    let accepted = accepted.unwrap();
    assert_eq!((accepted.member, accepted.peers.len(), &accepted.api_keys[..]), (4, 1, &["key".to_owned()][..]));
    assert!(!format!("{accepted:?}").contains("key"), "secrets are shown");
    // What it was given makes it a member: it can speak, and can let others in.
    let authority = Authority::from_parts(&accepted.ca_certificate, &accepted.ca_key).unwrap();
    assert_eq!(authority.fingerprint(), cluster.authority.fingerprint());
    let identity = NodeTls::new(&accepted.ca_certificate, &accepted.certificate, key.as_bytes()).unwrap();
    let peer = Peer::new(&peers::Security::tls(identity), host("h1"), address);
    let mut call = peers::Caller::new(peer, peers::CallerConfig::default()).call(stat("/a")).await.unwrap();
    assert!(call.next().await.unwrap().is_some());
}

#[tokio::test]
async fn who_was_a_member_comes_back_by_its_certificate_and_as_itself_only() {
    let cluster = Cluster::new("c1");
    let mut node = Node::start(cluster.member("h1")).await;
    let address = node.address.to_string();
    let key = NodeKey::generate().unwrap();
    // Its own certificate, and another member's.
    for (shown, expected) in [("h9", true), ("h8", false)] {
        let security = cluster.member(shown);
        let answering = async {
            let join = soon("a join", node.joins.recv()).await.unwrap();
            assert_eq!(join.is_certified(), expected, "{shown}");
            assert!(join.token().is_err(), "it has none");
            if join.is_certified() {
                let accepted = given(&cluster.authority, join.request());
                join.accept(accepted).await.unwrap();
            } else {
                join.refuse(ErrorCode::Forbidden, "no").await.unwrap();
            }
        };
        let member = host("h1");
        let (answer, ()) = tokio::join!(JoinClient::rejoin(&security, &member, &address, newcomer(&key)), answering);
        assert_eq!(answer.is_ok(), expected, "{shown}: {answer:?}");
    }
    // A token shows no certificate.
    let token = token(&cluster, 2_000);
    let answering = async {
        let join = soon("a join", node.joins.recv()).await.unwrap();
        assert!(!join.is_certified() && join.token().is_ok());
        join.refuse(ErrorCode::Forbidden, "no").await.unwrap();
    };
    let (answer, ()) = tokio::join!(JoinClient::join(&address, &token, newcomer(&key)), answering);
    assert!(matches!(answer, Err(JoinError::Refused { .. })), "{answer:?}");
    // Neither side believes a namesake, and nobody but the member that is meant.
    let namesake = Cluster::new("c1").member("h9");
    let error = JoinClient::rejoin(&namesake, &host("h1"), &address, newcomer(&key)).await.unwrap_err();
    assert!(matches!(error, JoinError::Connect(_)), "{error:?}");
    let security = cluster.member("h9");
    let error = JoinClient::rejoin(&security, &host("h2"), &address, newcomer(&key)).await.unwrap_err();
    assert!(matches!(error, JoinError::Connect(ConnectError::OtherHost(_))), "{error:?}");
    assert!(node.joins.try_recv().is_err());
}

#[tokio::test]
async fn expired_forged_and_foreign_tokens_are_refused() {
    let cluster = Cluster::new("c1");
    let mut node = Node::start(cluster.member("h1")).await;
    let address = node.address.to_string();
    let fingerprint = cluster.authority.fingerprint();
    let forged = JoinToken::issue(b"another", cluster.authority.cluster(), fingerprint, Timestamp(2_000));
    for (token, expected) in
        [(token(&cluster, 1_000), TokenError::Expired(Timestamp(1_000))), (forged, TokenError::Forged)]
    {
        let key = NodeKey::generate().unwrap();
        let (verdict, refused) = tokio::join!(
            admit(&mut node, Authority::from_bytes(&cluster.authority.to_bytes()).unwrap()),
            JoinClient::join(&address, &token, newcomer(&key)),
        );
        assert_eq!(verdict, Err(expected.clone()));
        let refused = refused.unwrap_err();
        assert!(matches!(&refused, JoinError::Refused { code, .. } if code == "forbidden"), "{refused:?}");
    }
    // The right authority and another cluster's name: the certificate says otherwise.
    let foreign = JoinToken::issue(SECRET, &ClusterId::new("c2"), fingerprint, Timestamp(2_000));
    let error = JoinClient::join(&address, &foreign, newcomer(&NodeKey::generate().unwrap())).await.unwrap_err();
    assert!(matches!(error, JoinError::Connect(ConnectError::OtherCluster(_))), "{error:?}");
}

#[tokio::test]
async fn a_newcomer_shows_its_token_to_nobody_but_the_tokens_cluster() {
    let (cluster, namesake) = (Cluster::new("c1"), Cluster::new("c1"));
    let mut node = Node::start(namesake.member("h1")).await;
    let key = NodeKey::generate().unwrap();
    let error = JoinClient::join(&node.address.to_string(), &token(&cluster, 2_000), newcomer(&key)).await.unwrap_err();
    assert!(matches!(error, JoinError::Connect(ConnectError::NotTrusted(_))), "{error:?}");
    let wrong = JoinToken::issue(SECRET, &ClusterId::new("c1"), Fingerprint([0; 32]), Timestamp(2_000));
    let error = JoinClient::join(&node.address.to_string(), &wrong, newcomer(&key)).await.unwrap_err();
    assert!(matches!(error, JoinError::Connect(ConnectError::NotTrusted(_))), "{error:?}");
    assert_nobody_was_let_in(&mut node).await;
}

#[tokio::test]
async fn a_join_that_is_dropped_without_an_answer_is_unknown() {
    let cluster = Cluster::new("c1");
    let mut node = Node::start(cluster.member("h1")).await;
    let address = node.address.to_string();
    let (token, key) = (token(&cluster, 2_000), NodeKey::generate().unwrap());
    let (_, answer) = tokio::join!(
        async { drop(soon("a join", node.joins.recv()).await) },
        JoinClient::join(&address, &token, newcomer(&key)),
    );
    let error = answer.unwrap_err();
    assert!(matches!(error, JoinError::Unknown(Unknown::Lost(_))), "{error:?}");
}

#[tokio::test]
async fn joins_under_way_are_bounded() {
    let cluster = Cluster::new("c1");
    let config = ListenerConfig { joins_max: 1, ..ListenerConfig::default() };
    let mut node = Node::start_at(cluster.member("h1"), anywhere(), config).await;
    let address = node.address.to_string();
    let (token, key) = (token(&cluster, 2_000), NodeKey::generate().unwrap());
    let first = tokio::spawn({
        let (address, token, request) = (address.clone(), token.clone(), newcomer(&key));
        async move { JoinClient::join(&address, &token, request).await }
    });
    let held = soon("the first join", node.joins.recv()).await.unwrap();
    let error = JoinClient::join(&address, &token, newcomer(&key)).await.unwrap_err();
    assert!(matches!(&error, JoinError::Refused { code, .. } if code == "unavailable"), "{error:?}");
    held.refuse(ErrorCode::Unavailable, "no").await.unwrap();
    assert!(matches!(first.await.unwrap(), Err(JoinError::Refused { .. })));
}

#[tokio::test]
async fn an_answer_that_makes_no_member_is_not_taken() {
    let cluster = Cluster::new("c1");
    let listener = tokio::net::TcpListener::bind(anywhere()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (token, key) = (token(&cluster, 2_000), NodeKey::generate().unwrap());
    let accepted = |cluster: &str, member| peers::wire::JoinAccepted {
        cluster: cluster.to_owned(),
        member,
        ..peers::wire::JoinAccepted::default()
    };
    use peers::wire::join_reply::Answer;
    for answer in [None, Some(Answer::Accepted(accepted("c2", 4))), Some(Answer::Accepted(accepted("c1", 0)))] {
        let member = async {
            let mut raw = Raw::new(listener.accept().await.unwrap().0);
            assert!(raw.recv::<peers::wire::Hello>().await.is_some());
            raw.send(&welcome("h1")).await;
            assert!(raw.recv::<peers::wire::JoinRequest>().await.is_some());
            raw.send(&peers::wire::JoinReply { answer: answer.clone() }).await;
        };
        let (_, answer) =
            tokio::join!(member, JoinClient::join_plaintext_on_loopback(&address, &token, newcomer(&key)));
        assert!(matches!(answer, Err(JoinError::Answer(_))), "{answer:?}");
    }
}

#[tokio::test]
async fn a_join_in_plain_text_works_on_loopback() {
    let cluster = Cluster::new("c1");
    let mut node = Node::start(plaintext("h1")).await;
    let address = node.address.to_string();
    let (token, key) = (token(&cluster, 2_000), NodeKey::generate().unwrap());
    let authority = Authority::from_bytes(&cluster.authority.to_bytes()).unwrap();
    let (verdict, accepted) = tokio::join!(
        admit(&mut node, authority),
        JoinClient::join_plaintext_on_loopback(&address, &token, newcomer(&key)),
    );
    assert_eq!((verdict, accepted.unwrap().member), (Ok(()), 4));
}
