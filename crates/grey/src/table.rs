//! Aligned columns for people.

use crate::style::Paint;

/// Prints rows under a header; a column is as wide as its widest cell, the last one is not padded.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    painted(Paint::stdout(), header, rows)
}

fn painted(paint: Paint, header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count());
        cells.chain(header.get(column).map(|h| h.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let mut out = String::new();
        for (i, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if i + 1 < cells.len() {
                let pad = widths.get(i).copied().unwrap_or(0).saturating_sub(cell.chars().count()) + 2;
                out.extend(std::iter::repeat_n(' ', pad));
            }
        }
        out.trim_end().to_owned() + "\n"
    };
    let mut out = format!("{}\n", paint.heading(line(header.to_vec()).trim_end()));
    for row in rows {
        out.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["digits".into(), "ready".into()], vec!["é".into(), String::new()]];
        let t = super::painted(super::Paint::PLAIN, &["ID", "STATE"], &rows);
        assert_eq!(t, "ID      STATE\ndigits  ready\né\n");
    }
}
