//! Markdown as a part of the page.

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd, html::push_html};

/// Renders Markdown as HTML that can stand in a section of the page: its headings are lower than the section's, HTML in it
/// is text, and of images and of links to files, which the page cannot reach, the text remains.
pub fn html(markdown: &str) -> String {
    let mut are_kept: Vec<bool> = vec![]; // for each link that is open
    let events = Parser::new_ext(markdown, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH);
    let events = events.filter_map(|event| match event {
        Event::Html(text) | Event::InlineHtml(text) => Some(Event::Text(text)),
        Event::Start(Tag::HtmlBlock) => Some(Event::Start(Tag::Paragraph)),
        Event::End(TagEnd::HtmlBlock) => Some(Event::End(TagEnd::Paragraph)),
        Event::Start(Tag::Heading { level, .. }) => {
            let (id, classes, attrs) = (None, vec![], vec![]);
            Some(Event::Start(Tag::Heading { level: lower(level), id, classes, attrs }))
        }
        Event::End(TagEnd::Heading(level)) => Some(Event::End(TagEnd::Heading(lower(level)))),
        Event::Start(Tag::Image { .. }) | Event::End(TagEnd::Image) => None,
        Event::Start(Tag::Link { ref dest_url, .. }) => {
            let is_kept = ["https://", "http://"].iter().any(|start| dest_url.starts_with(start));
            are_kept.push(is_kept);
            is_kept.then_some(event)
        }
        Event::End(TagEnd::Link) => are_kept.pop().unwrap_or(false).then_some(event),
        event => Some(event),
    });
    let mut html = String::new();
    push_html(&mut html, events);
    html
}

/// The level of a heading below the heading of a section, which is of the second.
fn lower(level: HeadingLevel) -> HeadingLevel {
    match level {
        HeadingLevel::H1 => HeadingLevel::H3,
        HeadingLevel::H2 => HeadingLevel::H4,
        HeadingLevel::H3 => HeadingLevel::H5,
        _ => HeadingLevel::H6,
    }
}

#[cfg(test)]
mod tests {
    use super::html;

    #[test]
    fn markdown_is_rendered_and_html_in_it_is_text() {
        assert_eq!(
            html("# Study\n\n## Units\n\n* **seeds**\n* `lr`\n\n```\na < b\n```\n"),
            "<h3>Study</h3>\n<h4>Units</h4>\n<ul>\n<li><strong>seeds</strong></li>\n<li><code>lr</code></li>\n</ul>\n\
             <pre><code>a &lt; b\n</code></pre>\n"
        );
        assert!(html("| a | b |\n|---|--:|\n| 1 | 2 |\n").starts_with("<table><thead><tr><th>a</th>"));
        assert_eq!(html("a <i>b</i>\n"), "<p>a &lt;i&gt;b&lt;/i&gt;</p>\n");
        assert_eq!(html("<script>x</script>\n"), "<p>&lt;script&gt;x&lt;/script&gt;\n</p>\n");
    }

    #[test]
    fn only_links_that_work_from_the_page_are_links() {
        assert_eq!(
            html("[a](https://x.org/y) [b](b.md) [c](javascript:alert) ![d](d.png)\n"),
            "<p><a href=\"https://x.org/y\">a</a> b c d</p>\n"
        );
    }
}
