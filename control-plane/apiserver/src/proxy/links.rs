//! Links in pages that pods serve: an absolute path of theirs is another place below the proxy, so it is put there.
//!
//! Everything but the tags that hold such a link is passed on as it came.

use html5gum::{DefaultEmitter, Spanned, StartTag, Token, Tokenizer};

/// The attributes that hold links, by the names of their tags (HTML, section "Attributes").
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// The page with its links where `place` puts them; `place` gives nothing for a link that stays.
pub fn rewritten(page: &[u8], place: impl Fn(&str) -> Option<String>) -> Vec<u8> {
    let mut out = Vec::with_capacity(page.len() + page.len() / 16);
    let mut copied = 0;
    let mut emitter = DefaultEmitter::<usize>::new_with_span();
    // What stands in a script is no tag.
    emitter.naively_switch_states(true);
    for token in Tokenizer::new_with_emitter(page, emitter) {
        let Ok(Token::StartTag(tag)) = token else { continue };
        let (start, end) = (tag.span.start, tag.span.end);
        if let Some(new) = tag_with_links(&tag, &place) {
            out.extend_from_slice(&page[copied..start]);
            out.extend_from_slice(&new);
            copied = end;
        }
    }
    out.extend_from_slice(&page[copied..]);
    out
}

/// The tag, if one of its links changes.
fn tag_with_links(tag: &StartTag<usize>, place: &impl Fn(&str) -> Option<String>) -> Option<Vec<u8>> {
    let (_, links) = LINKS.iter().find(|(name, _)| name.as_bytes() == &**tag.name)?;
    let moved = |name: &[u8], value: &Spanned<html5gum::HtmlString, usize>| {
        links.iter().find(|link| link.as_bytes() == name)?;
        place(std::str::from_utf8(value).ok()?)
    };
    tag.attributes.iter().find(|(name, value)| moved(name, value).is_some())?;
    let mut out = vec![b'<'];
    out.extend_from_slice(&tag.name);
    for (name, value) in &tag.attributes {
        out.push(b' ');
        out.extend_from_slice(name);
        out.extend_from_slice(b"=\"");
        match moved(name, value) {
            Some(link) => escape(&mut out, link.as_bytes()),
            None => escape(&mut out, value),
        }
        out.push(b'"');
    }
    out.extend_from_slice(if tag.self_closing { b"/>" } else { b">" });
    Some(out)
}

fn escape(out: &mut Vec<u8>, value: &[u8]) {
    for byte in value {
        match byte {
            b'"' => out.extend_from_slice(b"&#34;"),
            b'&' => out.extend_from_slice(b"&amp;"),
            other => out.push(*other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(html: &str) -> String {
        let place = |link: &str| link.starts_with('/').then(|| format!("/p{link}"));
        String::from_utf8(rewritten(html.as_bytes(), place)).unwrap()
    }

    #[test]
    fn absolute_links_are_put_below_and_the_rest_stays_as_it_is() {
        assert_eq!(page(r#"<a href="/x">test</a>"#), r#"<a href="/p/x">test</a>"#);
        let mixed = "<!DOCTYPE html><BODY class=a><IMG alt='\"&amp;' src=/i.png><p title=\"/x\">\n<a href=x>é</a>";
        assert_eq!(
            page(mixed),
            "<!DOCTYPE html><BODY class=a><img alt=\"&#34;&amp;\" src=\"/p/i.png\"><p title=\"/x\">\n<a href=x>é</a>"
        );
        for same in [
            "",
            "<",
            "<a",
            "<a href=\"/x",
            "no page at all",
            "<!-- <a href='/x'> -->",
            "<a href='http://h/x'>",
            "<script>'<a href=\"/x\">'</script>",
        ] {
            assert_eq!(page(same), same);
        }
    }
}
