//! `markdown(s)`: text that people write, as HTML that is safe to show.
//!
//! Owns: which Markdown (CommonMark, tables, strikethrough) and what of HTML survives (the sanitiser's defaults: no
//! scripts, styles, handlers or frames; links get `rel="noopener noreferrer"`). Must not know: expressions.

use pulldown_cmark::{Options, Parser, html};

/// Bytes of Markdown. Results are limited to as many.
const MOST_BYTES: usize = 64 << 10;

/// The HTML; `None` for a text that is too long.
pub(super) fn html(text: &str) -> Option<String> {
    if text.len() > MOST_BYTES {
        return None;
    }
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
    let mut unsafe_html = String::with_capacity(text.len() * 3 / 2);
    html::push_html(&mut unsafe_html, Parser::new_ext(text, options));
    Some(ammonia::clean(&unsafe_html))
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
    fn hostile_texts_neither_overflow_nor_hang() {
        for pattern in [">", "[", "*", "- ", "<div>", "<b>", "![", "`", "|a", "_a ", "1. ", "<a href=x>", "&", "[a]("] {
            let text = pattern.repeat(6_000 / pattern.len());
            let started = std::time::Instant::now();
            assert!(html(&text).is_some(), "{pattern}");
            assert!(started.elapsed().as_secs() < 20, "{pattern}: {:?}", started.elapsed());
        }
        assert_eq!(html(&"a".repeat(MOST_BYTES + 1)), None);
    }
}
