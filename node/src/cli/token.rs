//! `rcpctl token`: bearer tokens for HTTP. No node is asked; nodes read the list by themselves.

use clap::Subcommand;

use super::columns::columns;
use super::output::{Failed, print, print_json, tell};
use super::pki::Place;
use super::text::span;
use crate::access::{Scope, Token, Tokens};
use crate::clock::unix_seconds;

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token; it is printed once and stored nowhere
    Create {
        /// Whose it is: a person or a program
        name: String,
        /// What it is good for
        #[arg(long, value_enum)]
        scope: Scope,
        /// How long it is valid; without it, until it is revoked
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: Option<u32>,
        #[command(flatten)]
        place: Place,
    },
    /// List the tokens, without their secrets
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Take a token back; nodes refuse it once their copy of the list says so
    Revoke {
        /// Whose
        name: String,
        #[command(flatten)]
        place: Place,
    },
}

pub(super) fn run(command: TokenCommand) -> Result<(), Failed> {
    match command {
        TokenCommand::Create { name, scope, days, place } => {
            if !place.dir.is_dir() {
                return Err(Failed::new(format!(
                    "{} is not a folder: `rcpctl pki init --dir {0}` makes the one that nodes look \
                     for tokens in",
                    place.dir.display()
                )));
            }
            let now = unix_seconds();
            let until = days.map(|d| now + i64::from(d) * 86_400);
            let secret = Tokens::of(&place.dir).create(&name, scope, now, until)?;
            let answer = serde_json::json!({
                "name": name, "scope": scope, "token": secret, "until": until,
            });
            // Only the secret on standard output, so that it can go straight into a file.
            if !place.json {
                eprintln!(
                    "{name}: a token with the scope `{}`; it is not shown again",
                    scope.as_str()
                );
            }
            tell(place.json, &answer, &secret)
        }
        TokenCommand::List { place } => list(&place),
        TokenCommand::Revoke { name, place } => {
            Tokens::of(&place.dir).revoke(&name)?;
            let answer = serde_json::json!({ "name": name, "revoked": true });
            tell(place.json, &answer, &format!("{name}: the token is taken back"))
        }
    }
}

fn list(place: &Place) -> Result<(), Failed> {
    let tokens = Tokens::of(&place.dir).list()?;
    if place.json {
        return print_json(&tokens);
    }
    if tokens.is_empty() {
        return print("there are no tokens: `rcpctl token create NAME --scope read`\n");
    }
    let now = unix_seconds();
    let rows: Vec<Vec<String>> = tokens
        .iter()
        .map(|t| vec![t.name.clone(), t.scope.as_str().to_owned(), state(t, now)])
        .collect();
    print(&columns(&["NAME", "SCOPE", "STATE"], &rows))
}

fn state(token: &Token, now: i64) -> String {
    // Whole seconds of a token's life fit a float.
    #[allow(clippy::cast_precision_loss)]
    let text = |s: i64| span(s as f64);
    match token.until {
        None => "valid until revoked".to_owned(),
        Some(until) if now < until => format!("valid, ends in {}", text(until - now)),
        Some(until) => format!("expired {} ago", text(now - until)),
    }
}
