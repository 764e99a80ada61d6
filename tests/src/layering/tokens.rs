//! Paths in tokens that only a macro understands: its arguments, and its definition.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::Meta;

use super::path::{Gate, Usage, UsedPath};

/// Something that tokens name, and the condition in these tokens under which they do.
pub(super) type Written = (Gate, What);

/// What tokens name.
pub(super) enum What {
    Path(UsedPath),
    Use(syn::ItemUse),
}

/// Whatever looks like a path or a `use`, with `$crate` as `crate`.
///
/// A single word may be anything; it counts only if it names something the module imports.
pub(super) fn paths(tokens: TokenStream) -> Vec<Written> {
    let mut written = Vec::new();
    collect(tokens, Gate::Open, &mut written);
    written
}

fn collect(tokens: TokenStream, outer: Gate, written: &mut Vec<Written>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    // A `#[cfg]` holds until the end of what it stands before.
    let mut gate = outer;
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Group(group) => {
                collect(group.stream(), gate, written);
                if group.delimiter() == Delimiter::Brace {
                    gate = outer;
                }
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => gate = outer,
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                if let Some(TokenTree::Group(group)) = tokens.get(at + 1)
                    && let Ok(meta) = syn::parse2::<Meta>(group.stream())
                {
                    gate = gate.max(Gate::of_attribute(&meta));
                }
            }
            TokenTree::Ident(word) if word == "use" => {
                if let Some((item, len)) = use_item(&tokens[at..]) {
                    written.push((gate, What::Use(item)));
                    at += len;
                    gate = outer;
                    continue;
                }
            }
            TokenTree::Ident(_) => {
                // A word after a dot is a field or a method.
                let is_member = at > 0 && is_punct(tokens.get(at - 1), '.');
                let (path, len) = path(&tokens, at);
                if !is_member {
                    written.push((gate, What::Path(path)));
                }
                at += len;
                continue;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
        at += 1;
    }
}

/// The `use` that tokens begin with, and how many they are.
fn use_item(tokens: &[TokenTree]) -> Option<(syn::ItemUse, usize)> {
    let len = 1 + tokens.iter().position(|token| is_punct(Some(token), ';'))?;
    let item = tokens[..len].iter();
    let item = item.filter(|token| !is_punct(Some(token), '$')).cloned();
    Some((syn::parse2(item.collect()).ok()?, len))
}

/// The path that begins with the word at a place, and how many tokens it has.
fn path(tokens: &[TokenTree], start: usize) -> (UsedPath, usize) {
    let are_colons = |at| is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':');
    let mut segments = vec![tokens[start].to_string()];
    let mut at = start + 1;
    while are_colons(at)
        && let Some(TokenTree::Ident(word)) = tokens.get(at + 2)
    {
        segments.push(word.to_string());
        at += 3;
    }
    let path = UsedPath {
        segments,
        absolute: start > 1 && are_colons(start - 2),
        line: tokens[start].span().start().line,
        usage: if is_punct(tokens.get(at), '!') {
            Usage::Macro
        } else {
            Usage::Code
        },
        glob: false,
        gated: false,
    };
    (path, at - start)
}

/// Paths in the arguments of `#[serde]`, which are string literals. If one is a module's, what is
/// in the module is used.
pub(super) fn paths_for_serde(tokens: TokenStream) -> Vec<Written> {
    let path = |token| {
        let TokenTree::Literal(literal) = token else {
            return None;
        };
        let text = syn::parse_str::<syn::LitStr>(&literal.to_string()).ok()?;
        let path = text.parse::<syn::Path>().ok()?;
        let path = UsedPath {
            segments: path.segments.iter().map(|s| s.ident.to_string()).collect(),
            absolute: path.leading_colon.is_some(),
            line: literal.span().start().line,
            usage: Usage::Code,
            glob: true,
            gated: false,
        };
        Some((Gate::Open, What::Path(path)))
    };
    tokens.into_iter().filter_map(path).collect()
}

fn is_punct(token: Option<&TokenTree>, character: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == character)
}
