//! Where mutants stand in a file, and the file with all of them in place.
//!
//! Each stands behind `rcp::mutants::made(N)`. Its own branch has the code around it as it was; other
//! mutants are in the branch beside it alone, so that the text grows no more than with their number. No
//! line moves.

use std::cmp::Reverse;
use std::ops::Range;

use quote::ToTokens;
use syn::spanned::Spanned;
use syn::visit::Visit;

use crate::chosen::Mutant;

/// A place, and the mutants of it that are alive, with what each puts there.
struct Site {
    at: Range<usize>,
    rank: u8,
    kind: Kind,
}

enum Kind {
    /// The function ends at once with a value.
    Body(Vec<(u32, String)>),
    /// A whole expression is another one.
    Instead(Vec<(u32, String)>),
    /// A field that has the name of its value has both from now on.
    Named(String),
    /// An arm of a match that has no guard is not taken.
    Arm(u32),
    /// A guard says always yes, or always no.
    Guard { yes: Option<u32>, no: Option<u32> },
}

/// A file with its mutants.
pub struct Planted {
    pub text: String,
    /// What each mutant's code takes of it; a later one is inside, or behind.
    pub places: Vec<(u32, Range<usize>)>,
}

struct Finder<'a> {
    mutants: &'a [&'a Mutant],
    sites: Vec<Site>,
    /// Which have no place, or are of a bug that can be planted, not of the product.
    dropped: Vec<(u32, &'static str)>,
    constant: bool,
}

/// The file `text` with these mutants, and those that cannot be in it.
pub fn planted(
    text: &str,
    mutants: &[&Mutant],
    prefix: &str,
) -> Result<(Planted, Vec<(u32, &'static str)>), String> {
    let file = syn::parse_file(text).map_err(|e| e.to_string())?;
    let mut f = Finder { mutants, sites: Vec::new(), dropped: Vec::new(), constant: false };
    f.visit_file(&file);
    f.sites.sort_by_key(|s| (s.at.start, !s.at.is_empty(), Reverse(s.at.end), s.rank));
    let mut out = Planted { text: String::new(), places: Vec::new() };
    let mut next = 0;
    render(text, &f.sites, &mut next, 0..text.len(), prefix, &mut out);
    Ok((out, f.dropped))
}

/// Writes a part of the file, with the sites from `next` on that are in it.
fn render(
    text: &str,
    sites: &[Site],
    next: &mut usize,
    part: Range<usize>,
    prefix: &str,
    out: &mut Planted,
) {
    let mut at = part.start;
    while let Some(site) = sites.get(*next).filter(|s| s.at.end <= part.end) {
        *next += 1;
        out.text.push_str(&text[at..site.at.start]);
        at = site.at.end;
        match &site.kind {
            Kind::Body(values) => {
                for (id, value) in values {
                    put(out, *id, &format!(" if {prefix}made({id}) {{ return {value}; }} "));
                }
            }
            Kind::Named(name) => out.text.push_str(&format!("{name}: ")),
            Kind::Arm(id) => put(out, *id, &format!(" if !{prefix}made({id}) ")),
            Kind::Instead(others) => {
                out.text.push('(');
                for (id, other) in others {
                    put(out, *id, &format!("if {prefix}made({id}) {{ {other} }} else "));
                }
                out.text.push_str("{ ");
                render(text, sites, next, site.at.clone(), prefix, out);
                out.text.push_str(" })");
            }
            Kind::Guard { yes, no } => {
                if let Some(no) = no {
                    put(out, *no, &format!("!{prefix}made({no}) && "));
                }
                out.text.push('(');
                if let Some(yes) = yes {
                    put(out, *yes, &format!("{prefix}made({yes}) || "));
                }
                out.text.push('(');
                render(text, sites, next, site.at.clone(), prefix, out);
                out.text.push_str("))");
            }
        }
    }
    out.text.push_str(&text[at..part.end]);
}

fn put(out: &mut Planted, id: u32, text: &str) {
    let from = out.text.len();
    out.text.push_str(text);
    out.places.push((id, from..out.text.len()));
}

/// On one line.
fn code(tokens: &impl ToTokens) -> String {
    tokens.to_token_stream().to_string().replace('\n', " ")
}

/// It is, or denies, a bug that can be planted.
fn is_planted(e: &syn::Expr) -> bool {
    let text = code(e);
    let text = text.trim_start_matches(['!', ' ']);
    text.starts_with("rcp :: planted !") && text.matches('!').count() == 1
}

/// It binds names: nothing but `&&` may stand beside it.
fn has_let(e: &syn::Expr) -> bool {
    match e {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(b) => has_let(&b.left) || has_let(&b.right),
        _ => false,
    }
}

impl Finder<'_> {
    fn of(&self, genre: &str, at: proc_macro2::LineColumn) -> Vec<(u32, String)> {
        let here =
            |m: &&&Mutant| m.genre == genre && m.line == at.line && m.column == at.column + 1;
        self.mutants.iter().filter(here).map(|m| (m.id, m.replacement.clone())).collect()
    }

    fn add(&mut self, at: Range<usize>, rank: u8, kind: Kind, ids: &[u32]) {
        if ids.is_empty() {
            return;
        }
        if self.constant {
            self.dropped.extend(ids.iter().map(|id| (*id, "in a constant function")));
            return;
        }
        self.sites.push(Site { at, rank, kind });
    }

    fn instead(&mut self, e: &impl Spanned, rank: u8, others: Vec<(u32, String)>) {
        let ids: Vec<u32> = others.iter().map(|(id, _)| *id).collect();
        self.add(e.span().byte_range(), rank, Kind::Instead(others), &ids);
    }

    fn field(&mut self, field: &syn::FieldValue, others: Vec<(u32, String)>) {
        if field.colon_token.is_none() && !others.is_empty() {
            let at = field.span().byte_range();
            self.sites.push(Site {
                at: at.start..at.start,
                rank: 0,
                kind: Kind::Named(code(field)),
            });
        }
        self.instead(&field.expr, 2, others);
    }

    fn body(&mut self, sig: &syn::Signature, block: &syn::Block) {
        let Some(first) = block.stmts.first() else { return };
        self.constant = sig.constness.is_some();
        let values = self.of("FnValue", first.span().start());
        let ids: Vec<u32> = values.iter().map(|(id, _)| *id).collect();
        if code(&sig.output).contains("impl ") {
            self.dropped.extend(ids.iter().map(|id| (*id, "another type than the function's own")));
            return;
        }
        let after = block.brace_token.span.open().byte_range().end;
        self.add(after..after, 0, Kind::Body(values), &ids);
    }

    /// What can be planted is not the product's.
    fn drop_planted(&mut self, ids: &[(u32, String)]) {
        self.dropped.extend(ids.iter().map(|(id, _)| (*id, "of a bug that can be planted")));
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_fn(&mut self, i: &'ast syn::ItemFn) {
        self.body(&i.sig, &i.block);
        syn::visit::visit_item_fn(self, i);
        self.constant = false;
    }

    fn visit_impl_item_fn(&mut self, i: &'ast syn::ImplItemFn) {
        self.body(&i.sig, &i.block);
        syn::visit::visit_impl_item_fn(self, i);
        self.constant = false;
    }

    fn visit_expr_binary(&mut self, i: &'ast syn::ExprBinary) {
        let found = self.of("BinaryOperator", i.op.span().start());
        if is_planted(&i.left) || is_planted(&i.right) {
            self.drop_planted(&found);
        } else if has_let(&i.left) || has_let(&i.right) {
            self.dropped.extend(found.iter().map(|(id, _)| (*id, "a chain with `let`")));
        } else {
            let (left, right) = (code(&i.left), code(&i.right));
            let with = |(id, op)| (id, format!("({left}) {op} ({right})"));
            let assigns = code(&i.op).ends_with('=') && code(&i.op).len() > 1;
            let assigns = assigns && !["==", "!=", "<=", ">="].contains(&&code(&i.op)[..]);
            let with_assign = |(id, op)| (id, format!("{left} {op} ({right})"));
            let others = found.into_iter();
            let others = if assigns {
                others.map(with_assign).collect()
            } else {
                others.map(with).collect()
            };
            self.instead(i, 3, others);
        }
        syn::visit::visit_expr_binary(self, i);
    }

    fn visit_expr_unary(&mut self, i: &'ast syn::ExprUnary) {
        let found = self.of("UnaryOperator", i.op.span().start());
        if is_planted(&i.expr) {
            self.drop_planted(&found);
        } else {
            let bare = code(&i.expr);
            self.instead(i, 3, found.into_iter().map(|(id, _)| (id, bare.clone())).collect());
        }
        syn::visit::visit_expr_unary(self, i);
    }

    fn visit_arm(&mut self, i: &'ast syn::Arm) {
        if let Some((id, _)) = self.of("MatchArm", i.span().start()).first() {
            let after = i.pat.span().byte_range().end;
            self.add(after..after, 1, Kind::Arm(*id), &[*id]);
        }
        if let Some((_, guard)) = &i.guard {
            let found = self.of("MatchArmGuard", guard.span().start());
            let which = |word: &str| found.iter().find(|(_, r)| r == word).map(|(id, _)| *id);
            let (yes, no) = (which("true"), which("false"));
            let ids: Vec<u32> = yes.into_iter().chain(no).collect();
            self.add(guard.span().byte_range(), 1, Kind::Guard { yes, no }, &ids);
        }
        syn::visit::visit_arm(self, i);
    }

    fn visit_expr_struct(&mut self, i: &'ast syn::ExprStruct) {
        if let Some(rest) = &i.rest {
            let (path, rest) = (code(&i.path), code(rest));
            for field in &i.fields {
                let member = code(&field.member);
                let other = format!("({path} {{ ..{rest} }}).{member}");
                let found = self.of("StructField", field.span().start());
                let found = found.into_iter().map(|(id, _)| (id, other.clone())).collect();
                self.field(field, found);
            }
        }
        syn::visit::visit_expr_struct(self, i);
    }
}

impl Planted {
    /// The mutants whose code these bytes belong to; if none has them, those of the same line.
    pub fn at(&self, bytes: &Range<usize>) -> Vec<u32> {
        let holds = |p: &Range<usize>| p.start <= bytes.start && bytes.start < p.end;
        let inside: Vec<u32> =
            self.places.iter().filter(|(_, p)| holds(p)).map(|(id, _)| *id).collect();
        if !inside.is_empty() {
            return inside;
        }
        let from = self.text[..bytes.start].rfind('\n').map_or(0, |i| i + 1);
        let to = self.text[bytes.end..].find('\n').map_or(self.text.len(), |i| bytes.end + i);
        let near = |p: &Range<usize>| p.start < to && from < p.end;
        self.places.iter().filter(|(_, p)| near(p)).map(|(id, _)| *id).collect()
    }
}
