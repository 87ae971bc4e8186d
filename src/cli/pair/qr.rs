//! A QR code for terminals: two modules per character cell, dark on light whatever the theme.

use fast_qr::{ECL, QRBuilder};

/// Light modules around the code. The standard asks for four; phones read it with two, and it has to
/// fit on a screen.
const QUIET: usize = 2;
/// Black on bright white, so that themes cannot invert it.
const INK: &str = "\x1b[30;107m";
/// Back to the terminal's colours.
const RESET: &str = "\x1b[0m";

/// The lines of the drawing, coloured, top to bottom; `None` when the text is too long for a QR.
pub(crate) fn draw(payload: &str) -> Option<Vec<String>> {
    let code = QRBuilder::new(payload).ecl(ECL::L).build().ok()?;
    let side = code.size + 2 * QUIET;
    let dark = |x: usize, y: usize| {
        let inside = |at: usize| (QUIET..QUIET + code.size).contains(&at);
        inside(x) && inside(y) && code[y - QUIET][x - QUIET].value()
    };
    let lines = (0..side)
        .step_by(2)
        .map(|y| {
            let cells: String = (0..side)
                .map(|x| match (dark(x, y), dark(x, y + 1)) {
                    (true, true) => '█',
                    (true, false) => '▀',
                    (false, true) => '▄',
                    (false, false) => ' ',
                })
                .collect();
            format!("{INK}{cells}{RESET}")
        })
        .collect();
    Some(lines)
}

/// Columns of the drawing, twice its rows.
pub(crate) fn side(payload: &str) -> Option<usize> {
    let code = QRBuilder::new(payload).ecl(ECL::L).build().ok()?;
    Some(code.size + 2 * QUIET)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a drawing back into modules.
    fn modules(lines: &[String]) -> Vec<Vec<bool>> {
        let mut rows = Vec::new();
        for line in lines {
            let cells = line.strip_prefix(INK).unwrap().strip_suffix(RESET).unwrap();
            rows.push(cells.chars().map(|c| matches!(c, '█' | '▀')).collect());
            rows.push(cells.chars().map(|c| matches!(c, '█' | '▄')).collect());
        }
        rows
    }

    #[test]
    fn the_drawing_is_the_code_with_light_around_it() {
        let payload = "https://wa.me/settings/linked_devices#ref,noise,identity,adv,1";
        let rows = modules(&draw(payload).unwrap());
        let code = QRBuilder::new(payload).ecl(ECL::L).build().unwrap();
        for y in 0..code.size {
            for x in 0..code.size {
                assert_eq!(rows[y + QUIET][x + QUIET], code[y][x].value(), "{x},{y}");
            }
        }
        assert!(rows[..QUIET].iter().flatten().all(|dark| !dark));
        assert!(rows.iter().all(|row| !row[0] && !row[row.len() - 1]));
    }

    #[test]
    fn a_real_payload_fits_on_a_screen() {
        let payload = format!("https://wa.me/settings/linked_devices#{}", "x".repeat(200));
        assert!(draw(&payload).unwrap().len() <= 34);
    }

    #[test]
    fn an_absurd_payload_is_no_panic() {
        assert_eq!(draw(&"x".repeat(5000)), None);
    }
}
