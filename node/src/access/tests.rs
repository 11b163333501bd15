//! Every need, way and token against what must come out.

use super::*;

const SECURED: Policy = Policy { secured: true, metrics_closed: false, health_closed: false };

fn tls(node: Option<&str>) -> Caller {
    Caller { from: "192.0.2.7:5000".to_owned(), way: Way::Tls { node: node.map(str::to_owned) } }
}

fn token(scope: Scope) -> Option<Result<Token, TokenError>> {
    let sha256 = String::new();
    Some(Ok(Token { name: "anna".to_owned(), scope, sha256, created: 0, until: None }))
}

#[test]
fn the_unix_socket_may_do_everything() {
    for policy in [Policy::default(), SECURED] {
        let need = Need::Scope(Scope::Admin);
        let who = policy.decide(need, &Caller::socket(Some(1000)), None);
        assert_eq!(who, Ok(Who("user 1000".to_owned())));
    }
}

#[test]
fn without_certificates_the_port_reads_and_changes_nothing() {
    let p = Policy::default();
    let caller = Caller::plain("127.0.0.1:1");
    assert!(p.decide(Need::Scope(Scope::Read), &caller, None).is_ok());
    for scope in [Scope::Operate, Scope::Admin] {
        let e = p.decide(Need::Scope(scope), &caller, token(Scope::Admin)).unwrap_err();
        assert!(matches!(&e, Denied::Scope(t) if t.contains("rcpd.sock")), "{e:?}");
    }
}

#[test]
fn with_certificates_plain_text_gets_health_and_metrics_only() {
    let caller = Caller::plain("127.0.0.1:1");
    assert!(SECURED.decide(Need::Health, &caller, None).is_ok());
    assert!(SECURED.decide(Need::Metrics, &caller, None).is_ok());
    let closed = Policy { metrics_closed: true, ..SECURED };
    assert!(closed.decide(Need::Metrics, &caller, None).is_err());
    assert!(closed.decide(Need::Health, &caller, None).is_ok());
    let closed = Policy { health_closed: true, ..SECURED };
    assert!(closed.decide(Need::Health, &caller, None).is_err());
    assert!(closed.decide(Need::Health, &tls(None), token(Scope::Read)).is_ok());
    // Not even a good token: it has just been sent in the clear.
    let e = SECURED.decide(Need::Scope(Scope::Read), &caller, token(Scope::Admin)).unwrap_err();
    assert!(matches!(&e, Denied::NoProof(t) if t.contains("HTTPS")), "{e:?}");
}

#[test]
fn a_token_is_good_for_its_scope_and_those_below() {
    let all = [Scope::Read, Scope::Operate, Scope::Admin];
    for has in all {
        for needs in all {
            let answer = SECURED.decide(Need::Scope(needs), &tls(None), token(has));
            match answer {
                Ok(who) => assert!(has >= needs && who.0 == "token anna"),
                Err(e) => {
                    assert!(has < needs);
                    assert!(matches!(&e, Denied::Scope(t) if t.contains(needs.as_str())), "{e:?}");
                }
            }
        }
    }
}

#[test]
fn a_nodes_certificate_reads_and_changes_nothing() {
    let caller = tls(Some("cel2-ser1"));
    let who = SECURED.decide(Need::Scope(Scope::Read), &caller, None);
    assert_eq!(who, Ok(Who("node cel2-ser1".to_owned())));
    let e = SECURED.decide(Need::Scope(Scope::Operate), &caller, None).unwrap_err();
    assert!(matches!(&e, Denied::NoProof(t) if t.contains("--scope operate")), "{e:?}");
    // A token that is no good is never passed over in silence.
    let bad = Some(Err(TokenError::Unknown));
    let e = SECURED.decide(Need::Scope(Scope::Read), &caller, bad).unwrap_err();
    assert!(matches!(e, Denied::BadToken(_)));
}

#[test]
fn tokens_are_made_checked_and_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = Tokens::of(dir.path());
    let node = Tokens::of(dir.path());
    assert_eq!(node.check("rcp_x", 0), Err(TokenError::Unknown));
    let secret = tokens.create("anna", Scope::Operate, 100, Some(200)).unwrap();
    assert!(secret.starts_with("rcp_") && secret.len() == 68);
    let stored = std::fs::read_to_string(dir.path().join("tokens.json")).unwrap();
    assert!(!stored.contains(&secret[8..]), "only its hash is stored");
    assert_eq!(node.check(&secret, 199).map(|t| t.scope), Ok(Scope::Operate));
    assert_eq!(node.check(&secret, 200), Err(TokenError::Expired("anna".to_owned())));
    assert_eq!(node.check(&secret[..67], 100), Err(TokenError::Unknown));

    let e = tokens.create("anna", Scope::Read, 0, None).unwrap_err().to_string();
    assert!(e.contains("already"), "{e}");
    let e = tokens.create("a b", Scope::Read, 0, None).unwrap_err().to_string();
    assert!(e.contains("no name"), "{e}");
    let e = tokens.revoke("bert").unwrap_err().to_string();
    assert!(e.contains("anna"), "{e}");
    tokens.revoke("anna").unwrap();
    assert_eq!(node.check(&secret, 100), Err(TokenError::Unknown));
    std::fs::write(dir.path().join("tokens.json"), "nonsense").unwrap();
    assert!(matches!(node.check(&secret, 100), Err(TokenError::Unreadable(_))));
}

#[test]
fn changes_are_on_record() {
    let dir = tempfile::tempdir().unwrap();
    let audit = Audit::new(dir.path());
    let (who, caller) = (Who("token anna".to_owned()), tls(None));
    audit.record(1_800_000_000_000_000, &who, &caller, "cut", "Cut { volume: \"db\" }", "done");
    audit.record(1_800_000_000_000_000, &who, &caller, "cut", "", "no volume `x`");
    let text = std::fs::read_to_string(dir.path().join("audit.log")).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["at"], "2027-01-15T08:00:00Z");
    assert_eq!(
        (&lines[0]["who"], &lines[0]["from"]),
        (&"token anna".into(), &"192.0.2.7:5000".into())
    );
    assert_eq!(lines[1]["result"], "no volume `x`");
}
