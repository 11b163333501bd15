//! Certificates as others read them.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rcp::proto::ids::NodeName;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{GeneralName, parse_x509_certificate, parse_x509_crl};

use super::*;

const NOW: i64 = 1_800_000_000;
const DAY: u64 = 86_400;

fn days(n: u64) -> Validity {
    Validity { now: NOW, length: Duration::from_secs(n * DAY) }
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn authority() -> (tempfile::TempDir, Authority) {
    let dir = tempfile::tempdir().unwrap();
    let a = Authority::init(&dir.path().join("pki"), "test nodes", days(3650)).unwrap();
    (dir, a)
}

fn pem(path: &std::path::Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_certificate_names_its_node_and_is_signed_by_the_authority() {
    let (dir, mut a) = authority();
    let pki = dir.path().join("pki");
    let also = ["127.0.0.1".to_owned(), "site-a.example".to_owned()];
    let i = a.issue(&node("cel1-ser1"), &also, &BTreeSet::new(), days(30)).unwrap();
    assert_eq!((i.from, i.until), (NOW, NOW + 30 * 86_400));

    let (ca, leaf) = (pem(&pki.join(CA_CERTIFICATE)), pem(&pki.join("cel1-ser1.pem")));
    let (_, ca) = parse_x509_certificate(&ca).unwrap();
    let (_, leaf) = parse_x509_certificate(&leaf).unwrap();
    leaf.verify_signature(Some(ca.public_key())).unwrap();
    assert!(ca.is_ca() && !leaf.is_ca());
    let names = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    assert_eq!(names[0], GeneralName::DNSName("cel1-ser1"));
    assert_eq!(names.len(), 3);
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.any);
    assert_eq!(leaf.validity().not_before.timestamp(), NOW - 3600);
    assert_eq!(leaf.validity().not_after.timestamp(), NOW + 30 * 86_400);
}

#[test]
fn keys_are_for_their_owner_only() {
    let (dir, mut a) = authority();
    a.issue(&node("n1"), &[], &BTreeSet::new(), days(1)).unwrap();
    let mode = |f: &str| {
        let path = dir.path().join("pki").join(f);
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode("."), mode("ca.key"), mode("n1.key")), (0o700, 0o600, 0o600));
}

#[test]
fn a_second_authority_or_certificate_is_refused_and_nothing_changes() {
    let (dir, mut a) = authority();
    let pki = dir.path().join("pki");
    let before = std::fs::read(pki.join(CA_KEY)).unwrap();
    let e = Authority::init(&pki, "again", days(10)).unwrap_err().to_string();
    assert!(e.contains("authority already"), "{e}");
    assert_eq!(std::fs::read(pki.join(CA_KEY)).unwrap(), before);

    a.issue(&node("n1"), &[], &BTreeSet::new(), days(1)).unwrap();
    let key = std::fs::read(pki.join("n1.key")).unwrap();
    let e = a.issue(&node("n1"), &[], &BTreeSet::new(), days(1)).unwrap_err().to_string();
    assert!(e.contains("pki renew n1"), "{e}");
    assert_eq!(std::fs::read(pki.join("n1.key")).unwrap(), key);
}

#[test]
fn no_node_can_pass_for_another() {
    let (_dir, mut a) = authority();
    let all: BTreeSet<_> = ["n1", "n2"].map(node).into();
    let e = a.issue(&node("n1"), &["n2".to_owned()], &all, days(1)).unwrap_err().to_string();
    assert!(e.contains("could pass for n2"), "{e}");
    a.issue(&node("n1"), &["n3".to_owned()], &all, days(1)).unwrap();
    let e = a.issue(&node("n3"), &[], &all, days(1)).unwrap_err().to_string();
    assert!(e.contains("could then pass for n3"), "{e}");
    let e = a.issue(&node("10.0.0.1"), &[], &all, days(1)).unwrap_err().to_string();
    assert!(e.contains("IP address"), "{e}");
}

#[test]
fn renewal_keeps_the_names_and_changes_the_key() {
    let (dir, mut a) = authority();
    let pki = dir.path().join("pki");
    let e = a.renew(&node("n1"), days(1)).unwrap_err().to_string();
    assert!(e.contains("pki issue n1"), "{e}");
    let first = a.issue(&node("n1"), &["127.0.0.1".to_owned()], &BTreeSet::new(), days(1)).unwrap();
    let key = std::fs::read(pki.join("n1.key")).unwrap();
    let mut a = Authority::open(&pki).unwrap();
    let second = a.renew(&node("n1"), days(2)).unwrap();
    assert_eq!(second.also, first.also);
    assert_ne!(second.serial, first.serial);
    assert_ne!(std::fs::read(pki.join("n1.key")).unwrap(), key);
    let states: Vec<_> = a.issued().iter().map(|i| i.replaced).collect();
    assert_eq!(states, [true, false]);
}

#[test]
fn revocation_covers_every_certificate_that_is_still_good() {
    let (dir, mut a) = authority();
    let pki = dir.path().join("pki");
    let also = ["127.0.0.1".to_owned()];
    let first = a.issue(&node("n1"), &also, &BTreeSet::new(), days(5)).unwrap();
    let second = a.renew(&node("n1"), days(5)).unwrap();
    a.issue(&node("n2"), &[], &BTreeSet::new(), days(5)).unwrap();
    assert_eq!(a.revoke(&node("n1"), NOW + 10).unwrap(), 2);
    let e = a.revoke(&node("n1"), NOW + 11).unwrap_err().to_string();
    assert!(e.contains("no valid certificate"), "{e}");
    let e = a.renew(&node("n1"), days(5)).unwrap_err().to_string();
    assert!(e.contains("was revoked"), "{e}");
    assert!(e.contains("`rcpctl pki issue n1 --host 127.0.0.1`"), "{e}");

    let list = std::fs::read(pki.join(REVOKED)).unwrap();
    let der = rustls_pki_types::CertificateRevocationListDer::from_pem_slice(&list).unwrap();
    let (_, crl) = parse_x509_crl(&der).unwrap();
    let ca = pem(&pki.join(CA_CERTIFICATE));
    crl.verify_signature(parse_x509_certificate(&ca).unwrap().1.public_key()).unwrap();
    let serials: BTreeSet<_> = crl
        .iter_revoked_certificates()
        .map(|r| r.raw_serial().iter().map(|b| format!("{b:02x}")).collect::<String>())
        .collect();
    assert_eq!(serials, [first.serial, second.serial].into());

    // Trusted again by decision, with a certificate that is on no list.
    a.issue(&node("n1"), &[], &BTreeSet::new(), days(5)).unwrap();
    assert!(matches!(a.issued().last().unwrap().standing(NOW), Standing::Valid(_)));
}

#[test]
fn nothing_outlives_the_authority() {
    let (_dir, mut a) = authority();
    let e = a.issue(&node("n1"), &[], &BTreeSet::new(), days(4000)).unwrap_err().to_string();
    assert!(e.contains("--days"), "{e}");
    assert!(a.issued().is_empty());
}

#[test]
fn damaged_folders_are_named() {
    let (dir, _a) = authority();
    let pki = dir.path().join("pki");
    let e = Authority::open(dir.path()).unwrap_err().to_string();
    assert!(e.contains("pki init"), "{e}");
    std::fs::write(pki.join("issued.json"), "{").unwrap();
    let e = Authority::open(&pki).unwrap_err().to_string();
    assert!(e.contains("issued.json"), "{e}");
    std::fs::remove_file(pki.join("issued.json")).unwrap();
    let other = Authority::init(&dir.path().join("other"), "other", days(10)).unwrap();
    drop(other);
    std::fs::copy(dir.path().join("other/ca.key"), pki.join(CA_KEY)).unwrap();
    let e = Authority::open(&pki).unwrap_err().to_string();
    assert!(e.contains("does not belong to"), "{e}");
}

#[test]
fn a_user_has_a_name_that_no_node_can_have_and_is_good_for_clients_only() {
    let (dir, mut a) = authority();
    let nodes = [node("n1")].into();
    a.issue(&node("n2"), &["site-a.example".to_owned()], &BTreeSet::new(), days(5)).unwrap();
    for name in ["n1", "n2", "site-a.example"] {
        let e = a.issue_user(&node(name), &nodes, days(5)).unwrap_err().to_string();
        assert!(e.contains("is a name of node"), "{e}");
    }
    let made = a.issue_user(&node("vm-host-7"), &nodes, days(5)).unwrap();
    assert!(made.user);
    let e = a.issue(&node("vm-host-7"), &[], &BTreeSet::new(), days(5)).unwrap_err().to_string();
    assert!(e.contains("already") || e.contains("name of a client"), "{e}");
    let hosts = ["vm-host-7".to_owned()];
    let e = a.issue(&node("n3"), &hosts, &BTreeSet::new(), days(5)).unwrap_err().to_string();
    assert!(e.contains("or of a client"), "{e}");

    let folder = dir.path().join("pki/vm-host-7");
    let mode = |f: &str| folder.join(f).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("."), mode("client-key.pem")), (0o700, 0o600));
    let check = || {
        let leaf = pem(&folder.join("client-cert.pem"));
        let (_, leaf) = parse_x509_certificate(&leaf).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
        assert_eq!(names, [GeneralName::URI("urn:rcp:user:vm-host-7")]);
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        assert!(leaf.key_usage().unwrap().is_none());
    };
    check();
    let renewed =
        Authority::open(&dir.path().join("pki")).unwrap().renew(&node("vm-host-7"), days(6));
    assert!(renewed.unwrap().user);
    check();
    let ca = std::fs::read(folder.join("ca-cert.pem")).unwrap();
    assert_eq!(ca, std::fs::read(dir.path().join("pki").join(CA_CERTIFICATE)).unwrap());
    let mut a = Authority::open(&dir.path().join("pki")).unwrap();
    assert_eq!(a.revoke(&node("vm-host-7"), NOW + 1).unwrap(), 2);
}
