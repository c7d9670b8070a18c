//! Text for LaTeX: escaping of special characters, and widths in Computer Modern.

/// Escapes text for LaTeX's text mode.
pub fn escape_tex(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', c]),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '\\' => escaped.push_str("\\textbackslash{}"),
            '<' => escaped.push_str("$<$"),
            '>' => escaped.push_str("$>$"),
            '|' => escaped.push_str("$|$"),
            '"' => escaped.push_str("\\char34{}"),
            '\n' | '\r' | '\t' => escaped.push(' '),
            c => match MATHS.iter().find(|(known, _)| *known == c) {
                Some((_, maths)) => escaped.extend(["$", maths, "$"]),
                None if c == '–' => escaped.push_str("--"),
                None => escaped.push(c),
            },
        }
    }
    escaped
}

/// Characters that LaTeX has in math mode only.
const MATHS: [(char, &str); 25] = [
    ('±', "\\pm"),
    ('−', "-"),
    ('×', "\\times"),
    ('≤', "\\leq"),
    ('≥', "\\geq"),
    ('≠', "\\neq"),
    ('≈', "\\approx"),
    ('→', "\\to"),
    ('∞', "\\infty"),
    ('·', "\\cdot"),
    ('°', "^\\circ"),
    ('²', "^2"),
    ('³', "^3"),
    ('†', "^\\dagger"),
    ('α', "\\alpha"),
    ('β', "\\beta"),
    ('γ', "\\gamma"),
    ('δ', "\\delta"),
    ('Δ', "\\Delta"),
    ('ε', "\\varepsilon"),
    ('η', "\\eta"),
    ('λ', "\\lambda"),
    ('μ', "\\mu"),
    ('µ', "\\mu"),
    ('σ', "\\sigma"),
];

/// Whether pdfLaTeX has no glyph for it: Chinese, Japanese, Korean and their punctuation.
pub fn is_chinese(c: char) -> bool {
    matches!(c, '\u{2e80}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}' | '\u{ff00}'..='\u{ffef}' | '\u{20000}'..='\u{3ffff}')
}

/// Widths of the glyphs `!` to `~` of `cmr10`, in hundredths of the font size, from its metrics.
const WIDTHS: [u16; 94] = [
    28, 50, 83, 50, 83, 78, 28, 39, 39, 50, 78, 28, 33, 28, 50, 50, 50, 50, 50, 50, 50, 50, 50, 50, 50, 28,
    28, 78, 78, 78, 47, 78, 75, 71, 72, 76, 68, 65, 78, 75, 36, 51, 78, 63, 92, 75, 78, 68, 78, 74, 56, 72,
    75, 75, 103, 75, 75, 61, 28, 50, 28, 69, 88, 28, 50, 56, 44, 56, 44, 31, 50, 56, 28, 31, 53, 28, 83, 56,
    50, 56, 53, 39, 39, 39, 56, 53, 72, 53, 53, 44, 50, 28, 50, 69,
];

/// Width of a text in em, multiples of the font size: a digit is 0.5.
pub fn width(text: &str) -> f64 {
    let of = |c: char| match c {
        ' ' => 33,
        '!'..='~' => WIDTHS[c as usize - '!' as usize],
        '–' => 50,
        '°' | '²' | '³' | '†' => 45,
        '±' | '−' | '×' | '≤' | '≥' | '≠' | '≈' => 78,
        _ => 100,
    };
    text.chars().map(|c| f64::from(of(c)) / 100.0).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_are_escaped_and_mathematics_is_marked() {
        assert_eq!(
            escape_tex("50 % of $5 & a_b # {x} ~ ^ \\ <a|b>"),
            "50 \\% of \\$5 \\& a\\_b \\# \\{x\\} \\textasciitilde{} \\textasciicircum{} \\textbackslash{} $<$a$|$b$>$"
        );
        assert_eq!(
            escape_tex("−1 ± 2 ≥ β – \"x\""),
            "$-$1 $\\pm$ 2 $\\geq$ $\\beta$ -- \\char34{}x\\char34{}"
        );
    }

    #[test]
    fn widths_are_those_of_the_font() {
        // cmr10.tfm: 0.500002 a digit, 0.277779 a point, 0.833336 an m, 1.027781 a W, 0.7500 an A.
        for (text, wanted) in
            [("10.5", 1.78), ("m", 0.83), ("W", 1.03), ("A", 0.75), ("z", 0.44), ("中", 1.0)]
        {
            assert!((width(text) - wanted).abs() < 0.011, "{text}: {}", width(text));
        }
    }
}
