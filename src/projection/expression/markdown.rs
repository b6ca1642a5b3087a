//! `markdown(s)`: text that people write, as HTML that is safe to show.
//!
//! Owns: which Markdown (CommonMark, tables, strikethrough) and what of HTML survives (the sanitiser's defaults: no
//! scripts, styles, handlers or frames; links get `rel="noopener noreferrer"`). The text is anybody's, and the sanitiser
//! takes time quadratic in the depth of what it is given: so that nobody can stall a projection with a row of `>`,
//! nesting and raw tags beyond a limit are shown without their markup instead. Must not know: expressions.

use pulldown_cmark::{Event, Options, Parser, html};

/// Bytes of HTML before it is sanitised. Results are limited to as many.
const MOST_BYTES: usize = 64 << 10;
/// Blocks and spans within each other.
const MOST_DEPTH: usize = 32;
/// Tags written as HTML.
const MOST_TAGS: usize = 1_000;

/// The HTML; `None` when it would be too long.
pub(super) fn html(text: &str) -> Option<String> {
    if text.len() > MOST_BYTES {
        return None;
    }
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
    let (mut depth, mut tags) = (0, 0);
    let events = Parser::new_ext(text, options).filter_map(|event| match event {
        Event::Start(_) => {
            depth += 1;
            (depth <= MOST_DEPTH).then_some(event)
        }
        Event::End(_) => {
            depth -= 1;
            (depth < MOST_DEPTH).then_some(event)
        }
        Event::Html(raw) | Event::InlineHtml(raw) => {
            tags += raw.matches('<').count();
            Some(if tags <= MOST_TAGS { Event::InlineHtml(raw) } else { Event::Text(raw) })
        }
        event => Some(event),
    });
    let mut unsafe_html = String::with_capacity(text.len() * 3 / 2);
    html::push_html(&mut unsafe_html, events);
    (unsafe_html.len() <= MOST_BYTES).then(|| ammonia::clean(&unsafe_html))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_and_sanitises() {
        let page = html("# Hi\n\n~~a~~ **b** [c](https://example.org)\n\n|x|\n|-|\n|1|\n").unwrap();
        for part in ["<h1>Hi</h1>", "<del>a</del>", "<strong>b</strong>", "rel=\"noopener noreferrer\"", "<td>1</td>"] {
            assert!(page.contains(part), "{part} in {page}");
        }
        let page =
            html("<script>x</script><img src=x onerror=y>\n\n[z](javascript:alert(1)) <b onclick=q>w</b>").unwrap();
        for part in ["script", "onerror", "javascript", "onclick"] {
            assert!(!page.contains(part), "{part} in {page}");
        }
        assert!(page.contains("<b>w</b>"));
    }

    #[test]
    fn nesting_beyond_the_limit_loses_its_markup_only() {
        let page = html(&format!("{}deep **bold**\n\nafter", "> ".repeat(100))).unwrap();
        assert_eq!(page.matches("<blockquote>").count(), MOST_DEPTH);
        assert_eq!(page.matches("</blockquote>").count(), MOST_DEPTH);
        assert!(page.contains("deep bold") && page.contains("<p>after</p>"), "{page}");
        let page = html(&format!("{}\n\n*x*", "a <b>b</b>\n\n".repeat(600))).unwrap();
        assert_eq!(page.matches("<b>").count(), MOST_TAGS / 2, "{page}");
        assert!(page.contains("&lt;b&gt;") && page.ends_with("<em>x</em></p>\n"), "{page}");
    }

    #[test]
    fn hostile_texts_neither_overflow_nor_hang() {
        let patterns = [
            ">",
            "[",
            "*",
            "- ",
            "<div>",
            "<b>",
            "![",
            "`",
            "|a",
            "_a ",
            "1. ",
            "<a href=x>",
            "&",
            "[a](",
            "> - ",
            "<table>",
            "<b>\n\n",
            "~~",
        ];
        for pattern in patterns {
            for size in [8_000, MOST_BYTES] {
                let text = pattern.repeat(size / pattern.len());
                let started = std::time::Instant::now();
                let _ = html(&text);
                assert!(started.elapsed().as_secs() < 5, "{pattern} {size}: {:?}", started.elapsed());
            }
        }
        assert_eq!(html(&"a".repeat(MOST_BYTES + 1)), None);
        assert_eq!(html(&"&".repeat(MOST_BYTES)), None);
    }
}
