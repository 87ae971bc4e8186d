//! What a pairing writes to a terminal: one picture, redrawn in place, and a line with the seconds left.

use std::time::Duration;

use super::qr;

/// A terminal's size in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// See the module documentation. Every method returns the text to write.
#[derive(Debug, Default)]
pub(super) struct Picture {
    /// Lines above the last one, which the next drawing replaces.
    drawn: usize,
    /// The QR on show and the size it was drawn for.
    shown: Option<(String, Option<Size>)>,
}

impl Picture {
    /// Shows a QR instead of what was there; if the terminal is too small for it, says how large it has
    /// to be. Of a terminal of unknown size the best is assumed.
    pub(super) fn qr(&mut self, payload: &str, size: Option<Size>) -> String {
        let resized = self.shown.as_ref().is_some_and(|(_, old)| *old != size);
        let lines = qr::draw(payload).unwrap_or_else(|| vec![payload.to_owned()]);
        let needed = Size {
            rows: lines.len() + 1,
            columns: qr::side(payload).unwrap_or_default(),
        };
        let fits =
            size.is_none_or(|size| size.rows >= needed.rows && size.columns >= needed.columns);
        let lines = if fits {
            lines
        } else {
            vec![
                "The window is too small for the code.".to_owned(),
                format!("Make it {} x {} or larger,", needed.columns, needed.rows),
                "or link with a code: trunkline pair --code PHONE".to_owned(),
            ]
        };
        // After a change of size nobody knows where the old lines are.
        let mut text = if resized {
            "\x1b[2J\x1b[H".to_owned()
        } else {
            self.back()
        };
        for line in &lines {
            text.push_str(line);
            text.push_str("\r\n");
        }
        self.drawn = lines.len();
        self.shown = Some((payload.to_owned(), size));
        text
    }

    /// Shows a code to type on the phone.
    pub(super) fn code(&mut self, code: &str) -> String {
        let text = format!(
            "{}On the phone: WhatsApp, Linked devices,\r\nLink with phone number instead. Type:\r\n\r\n    {code}\r\n\r\n",
            self.back()
        );
        self.drawn = 5;
        self.shown = None;
        text
    }

    /// Rewrites the line below the drawing, and the drawing if the terminal has changed its size.
    pub(super) fn countdown(&mut self, left: Duration, size: Option<Size>) -> String {
        let mut text = match self.shown.take() {
            Some((payload, drawn_for)) if drawn_for != size => {
                self.shown = Some((payload.clone(), drawn_for));
                self.qr(&payload, size)
            }
            shown => {
                self.shown = shown;
                String::new()
            }
        };
        let line = if left.is_zero() {
            "waiting for the next code …".to_owned()
        } else if self.shown.is_some() {
            let seconds = left.as_secs();
            format!("{seconds:>3} s left; scan it: Settings > Linked devices > Link a device")
        } else {
            format!("{:>3} s left", left.as_secs())
        };
        // A line that wraps would count twice.
        let room = size.map_or(usize::MAX, |size| size.columns.saturating_sub(1));
        text.push_str("\r\x1b[K");
        text.extend(line.chars().take(room));
        text
    }

    /// Wipes the countdown.
    pub(super) fn end(&self) -> &'static str {
        if self.drawn > 0 { "\r\x1b[K" } else { "" }
    }

    /// Moves over what is drawn and wipes it.
    fn back(&self) -> String {
        if self.drawn == 0 {
            "\r\x1b[J".to_owned()
        } else {
            format!("\r\x1b[{}A\x1b[J", self.drawn)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT: Duration = Duration::from_secs(20);

    fn payload(n: u8) -> String {
        let filler = char::from(b'a' + n).to_string().repeat(190);
        format!("https://wa.me/settings/linked_devices#{filler}")
    }

    fn terminal(rows: u16, columns: u16) -> (vt100::Parser, Option<Size>) {
        let size = Size {
            rows: rows.into(),
            columns: columns.into(),
        };
        (vt100::Parser::new(rows, columns, 200), Some(size))
    }

    /// What a terminal shows that has nothing but this code and its countdown on it.
    fn alone(rows: u16, columns: u16, payload: &str) -> String {
        let (mut screen, size) = terminal(rows, columns);
        let mut picture = Picture::default();
        screen.process(picture.qr(payload, size).as_bytes());
        screen.process(picture.countdown(LEFT, size).as_bytes());
        screen.screen().contents()
    }

    #[test]
    fn each_code_takes_the_place_of_the_one_before() {
        let (mut screen, size) = terminal(40, 100);
        let mut picture = Picture::default();
        screen.process(picture.countdown(Duration::ZERO, size).as_bytes());
        for n in 0..6 {
            screen.process(picture.qr(&payload(n), size).as_bytes());
            for left in [LEFT, Duration::from_secs(1), Duration::ZERO, LEFT] {
                screen.process(picture.countdown(left, size).as_bytes());
            }
            assert_eq!(
                screen.screen().contents(),
                alone(40, 100, &payload(n)),
                "{n}"
            );
        }
        assert_eq!(picture.end(), "\r\x1b[K");
    }

    #[test]
    fn a_window_that_is_too_small_is_told_how_large_it_has_to_be() {
        let (mut screen, size) = terminal(24, 80);
        let mut picture = Picture::default();
        for n in 0..3 {
            screen.process(picture.qr(&payload(n), size).as_bytes());
            screen.process(picture.countdown(LEFT, size).as_bytes());
        }
        let shown = screen.screen().contents();
        assert_eq!(shown.matches("too small").count(), 1, "{shown}");
        let wanted = shown.lines().nth(1).unwrap();
        let numbers: Vec<u16> = wanted
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect();
        let [columns, rows] = numbers[..] else {
            panic!("{wanted}")
        };
        // The size it asks for is enough, and the code appears without waiting for the next one.
        let (mut screen, size) = terminal(rows, columns);
        screen.process(picture.countdown(LEFT, size).as_bytes());
        assert_eq!(
            screen.screen().contents(),
            alone(rows, columns, &payload(2))
        );
        assert!(!screen.screen().contents().contains("too small"));
    }

    #[test]
    fn a_typed_code_replaces_the_one_before() {
        let (mut screen, size) = terminal(24, 80);
        let mut picture = Picture::default();
        for code in ["AAAA-BBBB", "CCCC-DDDD"] {
            screen.process(picture.code(code).as_bytes());
            screen.process(picture.countdown(LEFT, size).as_bytes());
        }
        let shown = screen.screen().contents();
        assert!(
            shown.contains("CCCC-DDDD") && !shown.contains("AAAA"),
            "{shown}"
        );
        assert_eq!(shown.matches("s left").count(), 1, "{shown}");
    }
}
